//! Tells one Alertmanager what is on the board, again and again.
//!
//! Must hold: an alert that Alertmanager does not take keeps no other from it; a replica that is away or slow is asked
//! ever more seldom and holds nothing in memory but the board that all share.

use std::{collections::BTreeSet, convert::Infallible, error::Error, sync::Arc, time::Duration};

use jiff::{SignedDuration, Timestamp};
use powercap_common::selector::Labels;
use powercap_process::{CredentialsError, SigningClient};
use tokio::{
    sync::watch,
    time::{Instant, sleep_until},
};

use super::{
    board::{Board, Posting},
    metrics::Metrics,
};

/// Alerts in one message.
const MOST_AT_ONCE: usize = 64;
/// Of what an Alertmanager answers, so many bytes are told.
const MOST_SAID: usize = 200;

/// How often, and how patiently.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    /// What fires is told again after this; it is believed for four times as long.
    pub resend: Duration,
    /// After a message that was lost the next comes after this, then after twice as long, and so on.
    pub retry: Duration,
    /// Up to this.
    pub retry_at_most: Duration,
    /// An answer takes at most this.
    pub patience: Duration,
    /// How often the names of Alertmanagers are looked up.
    pub look_up: Duration,
}

impl Default for Pace {
    fn default() -> Self {
        Self {
            resend: Duration::from_secs(60),
            retry: Duration::from_secs(1),
            retry_at_most: Duration::from_secs(30),
            patience: Duration::from_secs(5),
            look_up: Duration::from_secs(30),
        }
    }
}

/// Why a message did not arrive.
#[derive(Debug, thiserror::Error)]
pub enum SendError {
    /// We cannot say who we are.
    #[error(transparent)]
    Credentials(#[from] CredentialsError),
    /// No connection, or it broke.
    #[error("cannot send alerts")]
    Send(#[source] reqwest::Error),
    /// It hangs.
    #[error("no answer within {} ms", .0.as_millis())]
    Timeout(Duration),
    /// It does not take what was sent.
    #[error("refused: {0}")]
    Refused(String),
    /// It cannot take anything just now.
    #[error("HTTP status {status}: {said}")]
    Status {
        /// The status.
        status: u16,
        /// In its own words.
        said: String,
    },
}

impl SendError {
    /// A word for the metric's `result` label.
    #[must_use]
    pub fn result(&self) -> &'static str {
        match self {
            Self::Credentials(CredentialsError::MakeClient(_)) => "client",
            Self::Credentials(CredentialsError::ReadFile { .. }) => "file",
            Self::Send(_) => "unreachable",
            Self::Timeout(_) => "timeout",
            Self::Refused(_) => "refused",
            Self::Status { .. } => "status",
        }
    }
}

/// One Alertmanager.
pub struct Replica {
    name: String,
    url: String,
    client: SigningClient,
    pace: Pace,
    metrics: Metrics,
    /// Alerts that it does not take, by their labels: one word of each in the log is enough.
    refused: BTreeSet<Labels>,
}

impl Replica {
    /// The Alertmanager at this address, which the log knows by its name.
    #[must_use]
    pub fn new(name: String, url: &str, client: SigningClient, pace: Pace, metrics: Metrics) -> Self {
        let url = format!("{}/api/v2/alerts", url.trim_end_matches('/'));
        Self { name, url, client, pace, metrics, refused: BTreeSet::new() }
    }

    /// Tells it the newest board when something begins or ends and every `resend`, for ever.
    pub async fn follow(mut self, mut newest: watch::Receiver<Arc<Board>>) -> Infallible {
        let mut failures = 0_u32;
        loop {
            let board = Arc::clone(&newest.borrow_and_update());
            let began = Instant::now();
            match self.tell(&board).await {
                Ok(()) => {
                    if failures > 0 {
                        tracing::info!(alertmanager = %self.name, failures, "alerts arrive again");
                    }
                    failures = 0;
                    tokio::select! {
                        () = sleep_until(began + self.pace.resend) => {}
                        () = changed(&mut newest) => {}
                    }
                }
                Err(error) => {
                    if failures == 0 {
                        let error = &error as &dyn Error;
                        tracing::warn!(alertmanager = %self.name, error, "alerts do not arrive; trying again");
                    }
                    let pause = self.pace.retry.saturating_mul(1 << failures.min(16)).min(self.pace.retry_at_most);
                    failures = failures.saturating_add(1);
                    sleep_until(began + pause).await;
                }
            }
        }
    }

    /// Tells it everything once. Where it refuses a part, each alert of that part goes by itself.
    async fn tell(&mut self, board: &Board) -> Result<(), SendError> {
        let on_board: BTreeSet<_> = board.postings.iter().map(|posting| &posting.labels).collect();
        self.refused.retain(|labels| on_board.contains(labels));
        let taken: Vec<_> = board.postings.iter().filter(|posting| !self.refused.contains(&posting.labels)).collect();
        for part in taken.chunks(MOST_AT_ONCE) {
            match self.send(part).await {
                Err(SendError::Refused(_)) => self.tell_each(part).await?,
                told => told?,
            }
        }
        Ok(())
    }

    async fn tell_each(&mut self, postings: &[&Posting]) -> Result<(), SendError> {
        for posting in postings {
            match self.send(&[posting]).await {
                Err(SendError::Refused(said)) => {
                    let labels = &posting.labels;
                    tracing::warn!(alertmanager = %self.name, ?labels, said, "an alert is not taken");
                    self.refused.insert(posting.labels.clone());
                }
                told => told?,
            }
        }
        Ok(())
    }

    async fn send(&self, postings: &[&Posting]) -> Result<(), SendError> {
        let sent = tokio::time::timeout(self.pace.patience, self.post(postings)).await;
        let sent = sent.unwrap_or(Err(SendError::Timeout(self.pace.patience)));
        self.metrics.sent(sent.as_ref().map_or_else(SendError::result, |()| "ok"));
        sent
    }

    async fn post(&self, postings: &[&Posting]) -> Result<(), SendError> {
        let now = Timestamp::now();
        let believed = SignedDuration::try_from(self.pace.resend.saturating_mul(4)).unwrap_or(SignedDuration::MAX);
        let messages: Vec<_> = postings.iter().map(|posting| posting.message(now, believed)).collect();
        let request = self.client.post(&self.url).await?.json(&messages);
        let mut response = request.send().await.map_err(SendError::Send)?;
        let status = response.status();
        if status.is_success() {
            return Ok(());
        }
        let said = response.chunk().await.ok().flatten().unwrap_or_default();
        let said = String::from_utf8_lossy(&said[..said.len().min(MOST_SAID)]).into_owned();
        match status.as_u16() {
            // The whole is too much, or a part is wrong: each by itself may do.
            400 | 413 | 422 => Err(SendError::Refused(said)),
            status => Err(SendError::Status { status, said }),
        }
    }
}

/// Completes when something on the board begins or ends. One that nobody writes on any more never changes.
async fn changed(newest: &mut watch::Receiver<Arc<Board>>) {
    if newest.changed().await.is_err() {
        std::future::pending::<()>().await;
    }
}
