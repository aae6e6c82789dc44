//! What alerts are decided from, as it is at one moment.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::Lease;
use kube::Api;
use powercap_common::api::{NodeFrequencies, PowerCappingPolicy, PowerDomain};

/// The Lease that the recommender renews while it decides.
const LEASE: &str = "powercap-recommender";
/// The API server is near.
const PATIENCE: Duration = Duration::from_secs(2);
/// Namespaces of which it is remembered that a pod came without headroom; the one longest ago is forgotten.
const MOST_NAMESPACES: usize = 1000;

/// What alerts are decided from.
#[derive(Clone, Debug)]
pub struct Seen {
    /// Every policy.
    pub policies: Vec<Arc<PowerCappingPolicy>>,
    /// Every domain.
    pub domains: Vec<Arc<PowerDomain>>,
    /// What holds on each node.
    pub nodes: Vec<Arc<NodeFrequencies>>,
    /// When the recommender was last heard to renew its Lease.
    pub recommender_heard: Timestamp,
    /// When the webhook of this replica last admitted a pod without headroom, by the pod's namespace.
    pub without_headroom: BTreeMap<String, Timestamp>,
    /// The webhook's certificate; `None` while there is none.
    pub certificate: Option<Validity>,
}

/// From when to when a certificate is valid.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Validity {
    /// Not before.
    pub since: Timestamp,
    /// Not after.
    pub until: Timestamp,
}

/// Pods that were admitted although no node has their watts; clones share it.
#[derive(Clone, Debug, Default)]
pub struct WithoutHeadroom(Arc<Mutex<BTreeMap<String, Timestamp>>>);

impl WithoutHeadroom {
    /// Such a pod was admitted to this namespace.
    pub fn note(&self, namespace: &str, now: Timestamp) {
        let mut noted = self.noted();
        noted.insert(namespace.to_owned(), now);
        if noted.len() > MOST_NAMESPACES {
            let oldest = noted.iter().min_by_key(|(_, at)| **at).map(|(namespace, _)| namespace.clone());
            oldest.and_then(|namespace| noted.remove(&namespace));
        }
    }

    /// When that last was so, by namespace.
    #[must_use]
    pub fn all(&self) -> BTreeMap<String, Timestamp> {
        self.noted().clone()
    }

    fn noted(&self) -> MutexGuard<'_, BTreeMap<String, Timestamp>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Listens for the recommender, by our own clock: its Lease changes while it is well.
pub struct Recommender {
    version: Option<String>,
    heard: Timestamp,
    listened: Timestamp,
}

impl Recommender {
    /// Heard now, until the contrary is known.
    #[must_use]
    pub fn new(now: Timestamp) -> Self {
        Self { version: None, heard: now, listened: now }
    }

    /// When it was last heard. Time in which the Lease could not be read does not count.
    #[must_use]
    pub fn heard(&self) -> Timestamp {
        self.heard
    }

    /// Reads the Lease.
    pub async fn listen(&mut self, leases: &Api<Lease>) {
        let answer = tokio::time::timeout(PATIENCE, leases.get_opt(LEASE)).await;
        let now = Timestamp::now();
        match answer {
            Ok(Ok(lease)) => {
                let version = lease.and_then(|lease| lease.metadata.resource_version);
                if version.is_some() && version != self.version {
                    self.heard = now;
                }
                self.version = version;
            }
            Ok(Err(_)) | Err(_) => self.heard += now.duration_since(self.listened),
        }
        self.listened = now;
    }
}
