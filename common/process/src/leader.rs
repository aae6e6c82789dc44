//! Who may write: the holder of a Lease.
//!
//! The algorithm is client-go's: others take over when they have seen the Lease unchanged for its whole
//! duration by their own clock, so that skew between machines does not matter; the holder stops by its
//! own clock before that. One thing is ours: `leaseTransitions` is the epoch's *term*, so it must be
//! known to the holder and must rise in the very write that takes the Lease. (`kube-lease-manager` raises
//! it in a second write and does not tell it: a crash between the two would give two leaders one term.)
//!
//! ```text
//!            free, or unchanged for 8 s: replace, term + 1
//!   waiting ───────────────────────────────────────────────▶ leading ──▶ renewed every 2 s
//!      ▲                                                        │
//!      └──── not renewed for 5 s, or taken by another ──────────┘
//! ```
//!
//! Must hold: a term has one holder. A write that is still on its way when the term ends is refused by
//! the API server once the next leader has written (the epoch never goes back).

use std::time::{Duration, Instant};

use k8s_openapi::{
    api::coordination::v1::{Lease, LeaseSpec},
    apimachinery::pkg::apis::meta::v1::MicroTime,
    jiff::Timestamp,
};
use kube::{Api, api::ObjectMeta, api::PostParams};
use tokio::sync::watch;

const DURATION: Duration = Duration::from_secs(8);
const RENEW_EVERY: Duration = Duration::from_secs(2);
const LEADS_FOR: Duration = Duration::from_secs(5);
const LOOK_EVERY: Duration = Duration::from_secs(1);
const CALL_TIMEOUT: Duration = Duration::from_secs(2);

/// Leadership, for as long as it lasts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Leadership {
    /// How often the Lease has changed hands.
    pub term: i64,
    /// Nothing may be written after this, unless renewed.
    pub until: Instant,
}

impl Leadership {
    /// Whether it lasts at this moment.
    #[must_use]
    pub fn lasts(&self) -> bool {
        Instant::now() < self.until
    }
}

/// Why the Lease could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum LeaseError {
    /// The API server refused, or did not understand.
    #[error("cannot {0} the lease")]
    Call(&'static str, #[source] Box<kube::Error>),
    /// No answer.
    #[error("cannot {what} the lease: no answer within {} s", CALL_TIMEOUT.as_secs())]
    Timeout {
        /// What was asked.
        what: &'static str,
    },
}

/// A candidate.
pub struct Candidate {
    api: Api<Lease>,
    lease: &'static str,
    identity: String,
    /// The version of the Lease that was seen last, and when it was first seen.
    seen: Option<(Option<String>, Instant)>,
    state: watch::Sender<Option<Leadership>>,
}

impl Candidate {
    /// A candidate for the Lease of this name, under an identity that must be its own alone.
    #[must_use]
    pub fn new(api: Api<Lease>, lease: &'static str, identity: String) -> (Self, watch::Receiver<Option<Leadership>>) {
        let (state, leadership) = watch::channel(None);
        (Self { api, lease, identity, seen: None, state }, leadership)
    }

    /// Tries to lead, and goes on leading, until `stop`; then gives the Lease back, so that the next
    /// leader need not wait. `terms_seen` is the highest term that any node was told: a Lease that
    /// somebody deleted begins above it.
    pub async fn run(mut self, terms_seen: impl Fn() -> i64, stop: impl Future<Output = ()>) {
        let mut stop = std::pin::pin!(stop);
        loop {
            match self.step(terms_seen()).await {
                Ok(()) => {}
                Err(error) => {
                    tracing::warn!(error = &error as &dyn std::error::Error, "the lease is not to be had");
                }
            }
            self.expire();
            let pause = if self.state.borrow().is_some() { RENEW_EVERY } else { LOOK_EVERY };
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = &mut stop => break,
            }
        }
        let led = self.state.send_replace(None).is_some();
        if led && let Err(error) = self.give_back().await {
            tracing::warn!(error = &error as &dyn std::error::Error, "the lease was not given back; it expires");
        }
    }

    async fn step(&mut self, terms_seen: i64) -> Result<(), LeaseError> {
        let asked = Instant::now();
        let Some(lease) = call("read", self.api.get_opt(self.lease)).await? else {
            let lease = self.renewed(Lease::default(), terms_seen + 1);
            let lease = call("create", self.api.create(&PostParams::default(), &lease)).await?;
            self.lead(&lease, asked);
            return Ok(());
        };
        let spec = lease.spec.clone().unwrap_or_default();
        let holder = spec.holder_identity.as_deref().unwrap_or_default();
        let term = i64::from(spec.lease_transitions.unwrap_or_default());
        let leading = self.state.borrow().is_some_and(|leadership| leadership.term == term);
        let version = &lease.metadata.resource_version;
        let since = match &self.seen {
            Some((seen, since)) if seen == version => *since,
            _ => asked,
        };
        self.seen = Some((version.clone(), since));
        let term = if holder == self.identity && leading {
            term
        } else {
            self.lose();
            // Under our own name it is ours from a term that lapsed: the next one may begin at once.
            let free = holder.is_empty() || holder == self.identity || since.elapsed() >= DURATION;
            if !free {
                return Ok(());
            }
            term.max(terms_seen) + 1
        };
        let lease = self.renewed(lease, term);
        // The version in it makes the API server refuse when anybody was faster.
        let lease = call("replace", self.api.replace(self.lease, &PostParams::default(), &lease)).await?;
        self.lead(&lease, asked);
        Ok(())
    }

    fn renewed(&self, lease: Lease, term: i64) -> Lease {
        let before = lease.spec.unwrap_or_default();
        let now = MicroTime(Timestamp::now());
        let same = before.holder_identity.as_deref() == Some(&self.identity);
        let spec = LeaseSpec {
            acquire_time: before.acquire_time.filter(|_| same).or_else(|| Some(now.clone())),
            holder_identity: Some(self.identity.clone()),
            lease_duration_seconds: i32::try_from(DURATION.as_secs()).ok(),
            lease_transitions: Some(i32::try_from(term).unwrap_or(i32::MAX)),
            renew_time: Some(now),
            ..before
        };
        let metadata = ObjectMeta { name: Some(self.lease.to_owned()), managed_fields: None, ..lease.metadata };
        Lease { metadata, spec: Some(spec) }
    }

    fn lead(&mut self, lease: &Lease, asked: Instant) {
        let term = lease.spec.as_ref().and_then(|spec| spec.lease_transitions).unwrap_or_default();
        self.seen = Some((lease.metadata.resource_version.clone(), asked));
        let leadership = Leadership { term: i64::from(term), until: asked + LEADS_FOR };
        // Who has seen this term lapse has forgotten what it wrote in it: it is never taken up again.
        if self.state.borrow().is_some_and(|before| before.term == leadership.term && !before.lasts()) {
            self.lose();
            return;
        }
        let before = self.state.send_replace(Some(leadership));
        if before.is_none_or(|before| before.term != leadership.term) {
            tracing::info!(identity = self.identity, term, "leading");
        }
    }

    fn expire(&self) {
        if self.state.borrow().is_some_and(|leadership| !leadership.lasts()) {
            self.lose();
        }
    }

    fn lose(&self) {
        if self.state.send_replace(None).is_some() {
            tracing::warn!(identity = self.identity, "no longer leading");
        }
    }

    async fn give_back(&self) -> Result<(), LeaseError> {
        let Some(mut lease) = call("read", self.api.get_opt(self.lease)).await? else { return Ok(()) };
        let Some(spec) = lease.spec.as_mut().filter(|spec| spec.holder_identity.as_ref() == Some(&self.identity))
        else {
            return Ok(());
        };
        spec.holder_identity = Some(String::new());
        lease.metadata.managed_fields = None;
        call("replace", self.api.replace(self.lease, &PostParams::default(), &lease)).await?;
        Ok(())
    }
}

async fn call<T>(what: &'static str, call: impl Future<Output = kube::Result<T>>) -> Result<T, LeaseError> {
    tokio::time::timeout(CALL_TIMEOUT, call)
        .await
        .map_err(|_| LeaseError::Timeout { what })?
        .map_err(|error| LeaseError::Call(what, Box::new(error)))
}
