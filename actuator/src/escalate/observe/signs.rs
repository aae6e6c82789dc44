//! Whether the recommender decides and admission answers: by the renewals of their Leases, seen by our own clock.
//!
//! Must hold: a Lease that was only read, and not seen to be renewed, proves nothing.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use k8s_openapi::api::coordination::v1::Lease;
use kube::{Api, ResourceExt};
use powercap_common::reason::Reason;

/// Each Lease, how long it may stay unrenewed, and what is so when it does.
const LEASES: [(&str, Duration, Reason); 2] = [
    ("powercap-recommender", Duration::from_secs(10), Reason::LeaseExpired),
    ("powercap-admission", Duration::from_secs(20), Reason::AdmissionSilent),
];
const LOOK_EVERY: Duration = Duration::from_secs(2);
const CALL_TIMEOUT: Duration = Duration::from_secs(2);

/// What was seen of each Lease: its version, and since when it is another one than before.
#[derive(Clone, Default)]
pub struct Signs(Arc<Mutex<[Seen; LEASES.len()]>>);

#[derive(Clone, Default)]
struct Seen {
    version: Option<String>,
    renewed: Option<Instant>,
}

impl Signs {
    /// Looks at them for ever.
    pub async fn follow(self, api: Api<Lease>) {
        loop {
            for (at, (name, ..)) in LEASES.into_iter().enumerate() {
                match tokio::time::timeout(CALL_TIMEOUT, api.get_opt(name)).await {
                    Ok(Ok(lease)) => self.note(at, lease.and_then(|lease| lease.resource_version())),
                    Ok(Err(error)) => {
                        tracing::warn!(name, error = &error as &dyn std::error::Error, "a lease cannot be read");
                    }
                    Err(_) => tracing::warn!(name, "a lease cannot be read: no answer"),
                }
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    fn note(&self, at: usize, version: Option<String>) {
        let mut seen = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(seen) = seen.get_mut(at) else { return };
        if seen.version.is_some() && version.is_some() && seen.version != version {
            seen.renewed = Some(Instant::now());
        }
        seen.version = version;
    }

    /// Who is silent; none when both live.
    pub fn missing(&self) -> Option<Reason> {
        let seen = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let silent = |seen: &Seen, longest: Duration| seen.renewed.is_none_or(|renewed| renewed.elapsed() > longest);
        let mut leases = seen.iter().zip(LEASES);
        leases.find(|(seen, (_, longest, _))| silent(seen, *longest)).map(|(_, (.., reason))| reason)
    }
}
