//! The recommender's sign of life: the leader's Lease, as this node sees it renewed.
//!
//! ```text
//!   current ──── no renewal seen for `durationSeconds` ───▶ expired: Hold, or Fallback
//!      ▲                                                        │
//!      └────────── a renewal, and one more a second later ──────┘
//! ```
//!
//! What must hold: only the node's monotonic clock decides, so that no clock that jumps, here or at the
//! leader, makes a lease longer or shorter. Only a renewal ends an expiry, and no restart of the agent does;
//! nothing here ever raises.

use std::time::{Duration, Instant};

use futures::StreamExt;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use kube::{
    Api, Client,
    runtime::{
        WatchStreamExt,
        watcher::{self, Event},
    },
};
use powercap_common::{
    api::{LeaseTerms, OnExpiry},
    units::Watts,
};
use tokio::sync::watch;

use super::heard::Silence;

/// A watch ends and begins anew at least this often, so that a black-holed one is noticed.
const WATCH_SECONDS: u32 = 30;
/// After a silence of this long one renewal proves nothing: a watch that comes back first tells what
/// happened while it was away, and the last of that may be a leader's last.
const DOUBTFUL_AFTER: Duration = Duration::from_secs(10);
/// After a silence longer than the lease the first life of the agent is given so long to hear of a leader.
const LISTENING: Duration = Duration::from_secs(10);
/// A live leader's next renewal is seen this much later; the past is told in one moment.
const APART: Duration = Duration::from_secs(1);

/// How long the orders stand without a sign of life, and what then.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Terms {
    /// How long.
    pub duration: Duration,
    /// Whether the node then goes down to its fallback; without one it holds what it has.
    pub falls_back: bool,
    /// The fallback: alternating current.
    pub fallback: Option<Watts>,
}

impl From<&LeaseTerms> for Terms {
    fn from(terms: &LeaseTerms) -> Self {
        Self {
            duration: Duration::from_secs(terms.duration_seconds.into()),
            falls_back: terms.on_expiry == OnExpiry::Fallback,
            fallback: terms.fallback_watts.map(Watts::new),
        }
    }
}

/// How the lease stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Verdict {
    /// It was renewed in time, or there are no terms.
    #[default]
    Current,
    /// It has expired: what stands, stands, and nothing is raised.
    Hold,
    /// It has expired: the node draws no more than this.
    Fallback(Watts),
}

/// The renewals that were seen, by a monotonic clock.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Renewals {
    /// The last one that proves a live leader; zero: none in this life.
    last: Duration,
    /// What was before this life; without a word of that the agent's start counts as a renewal.
    before: Silence,
    /// One that proves nothing yet.
    doubtful: Option<Duration>,
    /// What tells one renewal from the next.
    mark: Option<String>,
    /// An earlier life of this agent saw the lease expire, and nothing was renewed since.
    expired_before: bool,
}

impl Renewals {
    /// Takes over from an earlier life that the lease had expired.
    pub fn expired_before(&mut self) {
        self.expired_before = true;
    }

    /// Takes over how long nothing was heard when this life began.
    pub fn follow(&mut self, before: Silence) {
        self.before = before;
    }

    /// When the last renewal that proves a live leader was seen; zero: none in this life.
    #[must_use]
    pub fn proven(&self) -> Duration {
        self.last
    }

    /// Whether any renewal that proves a live leader was seen.
    #[must_use]
    pub fn seen(&self) -> bool {
        self.last > Duration::ZERO
    }

    /// A list shows where the Lease stands, not when it was renewed.
    pub fn stands_at(&mut self, lease: &Lease) {
        self.mark = mark(lease);
    }

    /// An event of the watch: a renewal, if it says so.
    pub fn sees(&mut self, lease: &Lease, now: Duration) {
        let mark = mark(lease);
        if mark.is_none() || mark == self.mark {
            return;
        }
        self.mark = mark;
        let silent = now.saturating_sub(self.last) > DOUBTFUL_AFTER || self.expired_before;
        let proven = self.doubtful.is_some_and(|doubtful| {
            let apart = now.saturating_sub(doubtful);
            apart >= APART && apart <= DOUBTFUL_AFTER
        });
        if !silent || proven {
            self.last = now;
            self.doubtful = None;
            self.expired_before = false;
        } else if self.doubtful.is_none_or(|doubtful| now.saturating_sub(doubtful) > DOUBTFUL_AFTER) {
            self.doubtful = Some(now);
        }
    }

    /// How long ago the last one was seen.
    #[must_use]
    pub fn age(&self, now: Duration) -> Duration {
        if self.seen() { now.saturating_sub(self.last) } else { now.saturating_add(self.before.lasted) }
    }

    /// Nobody can tell yet whether there is a leader.
    fn listens(&self, now: Duration) -> bool {
        !self.seen() && now.saturating_add(self.before.listened) <= LISTENING
    }

    /// How a lease with these terms stands now.
    #[must_use]
    pub fn verdict(&self, terms: Option<&Terms>, now: Duration) -> Verdict {
        let Some(terms) = terms else { return Verdict::Current };
        if !self.expired_before && (self.age(now) <= terms.duration || self.listens(now)) {
            return Verdict::Current;
        }
        match terms.fallback.filter(|_| terms.falls_back) {
            Some(fallback) => Verdict::Fallback(fallback),
            None => Verdict::Hold,
        }
    }
}

/// The time of the renewal as its holder wrote it, which is compared and never believed; `None`: nobody
/// holds it.
fn mark(lease: &Lease) -> Option<String> {
    let LeaseSpec { holder_identity, renew_time, .. } = lease.spec.as_ref()?;
    let holder = holder_identity.as_deref().filter(|holder| !holder.is_empty())?;
    Some(format!("{holder} {}", renew_time.as_ref()?.0))
}

/// Watches the Lease for ever, noting renewals by the clock that began at `start`.
pub async fn watch(client: Client, namespace: String, name: String, start: Instant, renewals: watch::Sender<Renewals>) {
    let api: Api<Lease> = Api::namespaced(client, &namespace);
    let config = watcher::Config::default().fields(&format!("metadata.name={name}")).timeout(WATCH_SECONDS);
    let mut events = std::pin::pin!(kube::runtime::watcher(api, config).default_backoff());
    while let Some(event) = events.next().await {
        match event {
            Ok(Event::InitApply(lease)) => renewals.send_modify(|renewals| renewals.stands_at(&lease)),
            Ok(Event::Apply(lease)) => renewals.send_modify(|renewals| renewals.sees(&lease, start.elapsed())),
            Ok(Event::Init | Event::InitDone | Event::Delete(_)) => {}
            Err(error) => tracing::warn!(%error, "the leader's Lease cannot be watched; it runs out"),
        }
    }
    tracing::error!("the watch of the leader's Lease ended");
    std::future::pending::<()>().await;
}
