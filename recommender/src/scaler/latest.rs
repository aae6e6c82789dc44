//! What the loop found last, for whoever asks between two of its turns.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use powercap_common::policy::PolicyId;
use tokio::{sync::watch, time::Instant};

use crate::{decide::Replicas, observation::Hold};

/// Of each policy that is understood and not off.
pub type OfPolicies = BTreeMap<PolicyId, Result<Replicas, Hold>>;

/// What was found, and when.
#[derive(Clone, Debug)]
struct Found {
    policies: Arc<OfPolicies>,
    at: Instant,
}

/// The loop's end.
#[derive(Debug)]
pub struct Publisher(watch::Sender<Option<Found>>);

/// The server's end.
#[derive(Clone, Debug)]
pub struct Latest {
    found: watch::Receiver<Option<Found>>,
    counts_for: Duration,
}

/// Both ends. What was found counts for this long.
#[must_use]
pub fn channel(counts_for: Duration) -> (Publisher, Latest) {
    let (sender, found) = watch::channel(None);
    (Publisher(sender), Latest { found, counts_for })
}

impl Publisher {
    /// This was found now.
    pub fn publish(&self, policies: OfPolicies) {
        self.0.send_replace(Some(Found { policies: Arc::new(policies), at: Instant::now() }));
    }
}

impl Latest {
    /// What was found last; none where nothing was, or too long ago.
    #[must_use]
    pub fn get(&self) -> Option<Arc<OfPolicies>> {
        let found = self.found.borrow();
        let found = found.as_ref().filter(|found| found.at.elapsed() < self.counts_for)?;
        Some(Arc::clone(&found.policies))
    }

    /// Completes when something else was found; never again once the loop has ended.
    pub async fn changed(&mut self) {
        if self.found.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}
