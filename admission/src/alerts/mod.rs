//! Alerts: who hears of trouble, before a breaker does.
//!
//! ```text
//!   objects, Lease, webhook, certificate ─▶ seen ─▶ decide (pure) ─▶ standing (for, keep) ─▶ board ─▶ each Alertmanager
//! ```
//!
//! Every replica of admission looks and sends for itself; Alertmanager takes alerts of the same labels for one. What
//! waits for an Alertmanager that is away is the newest state, not a log of what was. With `--alerts-by-prometheus`
//! nothing is sent: the same alerts are then rules of Prometheus ([`powercap_common::alert`]).
//!
//! Must hold: what fires at the end is what each Alertmanager believes, whatever became of the messages between;
//! silence neither fires nor resolves: while a condition is unknown its alert stays as it is.

mod board;
mod decide;
mod flags;
mod metrics;
mod replicas;
mod seen;
mod send;
mod standing;

use std::{convert::Infallible, sync::Arc, time::Duration};

use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::Lease;
use kube::Api;
use tokio::sync::watch;

pub use self::{
    board::{Board, Posting},
    decide::{Findings, Key, Look, look},
    flags::AlertFlags,
    metrics::Metrics,
    replicas::follow,
    seen::{Recommender, Seen, Validity, WithoutHeadroom},
    send::{Pace, Replica, SendError},
    standing::{Episode, Standing},
};

use crate::observe::Watched;

/// How often everything is looked at.
const LOOK_EVERY: Duration = Duration::from_secs(2);

/// Whence the alerts come.
pub struct Sources {
    /// Our own kinds.
    pub watched: Watched,
    /// Leases of the namespace in which the recommender holds its own.
    pub leases: Api<Lease>,
    /// What the webhook let in.
    pub without_headroom: WithoutHeadroom,
    /// How long the certificate is valid that the webhook serves with; `None` until there is one.
    pub certificate: watch::Receiver<Option<Validity>>,
}

/// Looks, and tells whoever is to be told, for ever; ends when a cache ends before its first list.
pub async fn run(flags: AlertFlags, sources: Sources, metrics: Metrics) {
    if sources.watched.synced().await.is_err() {
        tracing::error!("a cache ended before its first list: nobody is told of anything");
        return;
    }
    let (board, newest) = watch::channel(Arc::new(Board::default()));
    let looking = watch_over(&flags, sources, &board, &metrics);
    tokio::select! {
        never = looking => match never {},
        never = tell(&flags, newest, &metrics) => match never {},
    }
}

/// Looks every now and then, and writes on the board what fires.
async fn watch_over(
    flags: &AlertFlags,
    sources: Sources,
    board: &watch::Sender<Arc<Board>>,
    metrics: &Metrics,
) -> Infallible {
    let mut recommender = Recommender::new(Timestamp::now());
    let mut standing = Standing::default();
    loop {
        recommender.listen(&sources.leases).await;
        let now = Timestamp::now();
        let seen = sources.seen(&recommender);
        standing.step(look(&seen, now), now);
        let next = Board::of(&standing, flags);
        metrics.looked(&seen, &next);
        board.send_if_modified(|board| {
            let news = !board.tells_the_same(&next);
            *board = Arc::new(next);
            news
        });
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

async fn tell(flags: &AlertFlags, board: watch::Receiver<Arc<Board>>, metrics: &Metrics) -> Infallible {
    if flags.alerts_by_prometheus {
        return std::future::pending().await;
    }
    follow(&flags.alertmanager_urls, &flags.credentials(), Pace::default(), &board, metrics).await
}

impl Sources {
    fn seen(&self, recommender: &Recommender) -> Seen {
        Seen {
            policies: self.watched.policies.state(),
            domains: self.watched.domains.state(),
            nodes: self.watched.nodes.state(),
            recommender_heard: recommender.heard(),
            without_headroom: self.without_headroom.all(),
            certificate: *self.certificate.borrow(),
        }
    }
}
