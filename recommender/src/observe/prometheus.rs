//! Queries of Prometheus's HTTP API, typed: of now, and over a range of the past.
//!
//! Must hold: an answer that is not complete is an error, never an empty one: a warning (Thanos and
//! Mimir send one with a partial answer), a cut body, another status. What the caller makes of an empty
//! vector is its own affair, but it is never zero watts. An answer is never held whole in memory.

use std::{
    io::{self, Read},
    sync::Arc,
    time::Duration,
};

use powercap_process::{CredentialFiles, CredentialsError, SigningClient};
use reqwest::{Response, header::HeaderMap};
use tokio::sync::mpsc;

use super::answer::{self, Element, Kept, OfSeries, Trace};

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum PrometheusError {
    /// We cannot say as whom we ask.
    #[error(transparent)]
    Credentials(#[from] CredentialsError),
    /// No connection, or it broke.
    #[error("cannot send the query")]
    Send(#[source] reqwest::Error),
    /// It hangs.
    #[error("no answer within {} ms", .0.as_millis())]
    Timeout(Duration),
    /// Another status than 200.
    #[error("HTTP status {status}: {said}")]
    Status {
        /// The status.
        status: u16,
        /// Prometheus's own words, when it had any.
        said: String,
    },
    /// The body ended early, or is no JSON of this form.
    #[error("cannot read the answer")]
    ReadAnswer(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// More than we are willing to hold.
    #[error("the answer is longer than {} MiB", MOST_BYTES >> 20)]
    TooLong,
    /// Not everything was asked that should have been.
    #[error("the answer is partial: {0}")]
    Partial(String),
}

impl PrometheusError {
    /// A word for the metric's `result` label.
    #[must_use]
    pub fn result(&self) -> &'static str {
        match self {
            Self::Credentials(CredentialsError::MakeClient(_)) => "client",
            Self::Credentials(CredentialsError::ReadFile { .. }) => "file",
            Self::Send(_) => "unreachable",
            Self::Timeout(_) => "timeout",
            Self::Status { .. } => "status",
            Self::ReadAnswer(_) | Self::TooLong => "unreadable",
            Self::Partial(_) => "partial",
        }
    }
}

/// 8,000 boards with generous labels make about 10 MiB an answer.
const MOST_BYTES: usize = 64 << 20;
/// Pieces of an answer that wait to be parsed: each may have half a mebibyte, and a dozen answers arrive at once.
const PIECES: usize = 1;

/// Where Prometheus is, and as whom to ask.
#[derive(Clone, Debug)]
pub struct Access {
    /// Up to and without `/api/v1`.
    pub url: String,
    /// How long an answer may take.
    pub timeout: Duration,
    /// As whom.
    pub credentials: CredentialFiles,
    /// What every request carries: the tenant of a Mimir.
    pub headers: HeaderMap,
}

impl Access {
    /// Without any credentials.
    #[must_use]
    pub fn open(url: impl Into<String>, timeout: Duration) -> Self {
        Self { url: url.into(), timeout, credentials: CredentialFiles::default(), headers: HeaderMap::new() }
    }
}

/// Moments of the past, in seconds since 1970: from one to another, each this much after the one before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Times {
    /// The first.
    pub start: i64,
    /// The last.
    pub end: i64,
    /// From one to the next.
    pub step: i64,
}

/// Asks one server.
pub struct Prometheus {
    access: Access,
    kept: Arc<Kept>,
    client: SigningClient,
}

impl Prometheus {
    /// Asks there, and keeps these labels of the answers. Files are read anew for each query, since tokens
    /// and certificates rotate.
    #[must_use]
    pub fn new(access: Access, kept: Kept) -> Self {
        let client = SigningClient::new(access.credentials.clone(), access.timeout);
        Self { access, kept: Arc::new(kept), client }
    }

    /// The value of `query` now, within the timeout.
    ///
    /// # Errors
    /// When there is no complete answer.
    pub async fn instant(&self, query: &str) -> Result<Vec<Element>, PrometheusError> {
        self.ask("query", query, &[], self.access.timeout).await
    }

    /// The values of `query` at these times, within `timeout`.
    ///
    /// # Errors
    /// When there is no complete answer.
    pub async fn range(&self, query: &str, times: Times, timeout: Duration) -> Result<Vec<Trace>, PrometheusError> {
        let Times { start, end, step } = times;
        let times = [("start", start), ("end", end), ("step", step)];
        let times = times.map(|(name, seconds)| (name, seconds.to_string()));
        self.ask("query_range", query, &times, timeout).await
    }

    async fn ask<S: OfSeries + Send + 'static>(
        &self,
        endpoint: &str,
        query: &str,
        times: &[(&str, String)],
        timeout: Duration,
    ) -> Result<Vec<S>, PrometheusError> {
        let asked = self.answer(endpoint, query, times, timeout);
        tokio::time::timeout(timeout, asked).await.map_err(|_| PrometheusError::Timeout(timeout))?
    }

    async fn answer<S: OfSeries + Send + 'static>(
        &self,
        endpoint: &str,
        query: &str,
        times: &[(&str, String)],
        timeout: Duration,
    ) -> Result<Vec<S>, PrometheusError> {
        let seconds = format!("{}s", timeout.as_secs().max(1));
        let url = format!("{}/api/v1/{endpoint}", self.access.url.trim_end_matches('/'));
        // The last two are for Thanos: one answer of several replicas, and all of it. Others ignore them.
        let form = [("query", query), ("timeout", seconds.as_str()), ("dedup", "true"), ("partial_response", "false")];
        let form: Vec<_> = form.into_iter().chain(times.iter().map(|(name, value)| (*name, value.as_str()))).collect();
        let request = self.client.post(&url).await?.headers(self.access.headers.clone()).form(&form);
        let mut response = request.send().await.map_err(PrometheusError::Send)?;
        let status = response.status();
        if !status.is_success() {
            let said = response.chunk().await.ok().flatten().unwrap_or_default();
            let said = String::from_utf8_lossy(&said[..said.len().min(200)]).into_owned();
            return Err(PrometheusError::Status { status: status.as_u16(), said });
        }
        let (pieces, arriving) = mpsc::channel(PIECES);
        let kept = Arc::clone(&self.kept);
        let body = Arriving { pieces: arriving, piece: Vec::new(), read: 0 };
        let reading = tokio::task::spawn_blocking(move || answer::read(body, &kept));
        receive(&mut response, pieces).await?;
        reading.await.map_err(|error| PrometheusError::ReadAnswer(Box::new(error)))?
    }
}

/// Hands over the body piece by piece, as long as somebody reads it.
async fn receive(response: &mut Response, pieces: mpsc::Sender<Vec<u8>>) -> Result<(), PrometheusError> {
    let mut length = 0;
    while let Some(piece) = response.chunk().await.map_err(|error| PrometheusError::ReadAnswer(Box::new(error)))? {
        length += piece.len();
        if length > MOST_BYTES {
            return Err(PrometheusError::TooLong);
        }
        if pieces.send(piece.into()).await.is_err() {
            // The reader knows why it wants no more.
            return Ok(());
        }
    }
    Ok(())
}

/// The pieces of a body as they arrive; for a thread that may wait.
struct Arriving {
    pieces: mpsc::Receiver<Vec<u8>>,
    piece: Vec<u8>,
    read: usize,
}

impl Read for Arriving {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        while self.read == self.piece.len() {
            let Some(piece) = self.pieces.blocking_recv() else { return Ok(0) };
            (self.piece, self.read) = (piece, 0);
        }
        let count = (&self.piece[self.read..]).read(into)?;
        self.read += count;
        Ok(count)
    }
}
