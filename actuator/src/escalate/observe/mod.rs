//! Fills an [`Observation`]: reflectors on the API server, and the signs of life of those without whom nothing is done.
//!
//! Must hold: a cache that is not synced, or a watch that broke, never looks like an empty cluster; what was written
//! is seen by the next decision, however far a cache lags behind.

pub mod objects;
mod signs;
pub mod surroundings;

use std::{
    collections::{BTreeMap, HashMap},
    hash::{DefaultHasher, Hash, Hasher},
    sync::Arc,
};

use k8s_openapi::api::{coordination::v1::Lease, policy::v1::PodDisruptionBudget};
use kube::{
    Api, Client, Resource, ResourceExt,
    runtime::reflector::{self, Store},
};
use powercap_common::api::{PowerCappingPolicy, PowerDomain};
use powercap_process::kubernetes::{everything, reflect};
use tokio::{sync::Notify, task::JoinSet};

use self::{
    objects::{SeenJob, SeenPod, budget, job_facts, pod_facts, slim_job, slim_pod},
    signs::Signs,
};
use super::{
    migrate::{
        facts::NAMESPACE,
        observe::{SeenNode, SeenPlace, node_facts, place_facts, slim_node},
    },
    observation::{Ceilings, Limits, Memory, Observation},
};

const PAGE: u32 = 500;
/// Pods that have ended draw nothing.
const NOT_ENDED: &str = "status.phase!=Succeeded,status.phase!=Failed";

/// The caches.
pub struct Observer {
    policies: Store<PowerCappingPolicy>,
    domains: Store<PowerDomain>,
    pods: Store<SeenPod>,
    budgets: Store<PodDisruptionBudget>,
    jobs: Store<SeenJob>,
    nodes: Store<SeenNode>,
    places: Store<SeenPlace>,
    signs: Signs,
    written: HashMap<(Option<String>, String), Arc<PowerCappingPolicy>>,
}

impl Observer {
    /// Starts the reflectors in `tasks`; `changed` is notified of news.
    #[must_use]
    pub fn start(client: &Client, leases: Api<Lease>, changed: &Arc<Notify>, tasks: &mut JoinSet<()>) -> Self {
        let signs = Signs::default();
        tasks.spawn(signs.clone().follow(leases));
        let config = || everything().page_size(PAGE);
        let alive = config().fields(NOT_ENDED);
        let places = Api::namespaced(client.clone(), NAMESPACE);
        Self {
            policies: reflect(Api::all(client.clone()), config(), slim, version_hash, changed, tasks),
            domains: reflect(Api::all(client.clone()), config(), slim, version_hash, changed, tasks),
            pods: reflect(Api::all(client.clone()), alive, slim_pod, version_hash, changed, tasks),
            budgets: reflect(Api::all(client.clone()), config(), slim, version_hash, changed, tasks),
            jobs: reflect(Api::all(client.clone()), config(), slim_job, version_hash, changed, tasks),
            nodes: reflect(Api::all(client.clone()), config(), slim_node, version_hash, changed, tasks),
            places: reflect(places, config(), slim, version_hash, changed, tasks),
            signs,
            written: HashMap::new(),
        }
    }

    /// Completes when every cache has its first list.
    ///
    /// # Errors
    /// When one ended before.
    pub async fn synced(&self) -> Result<(), reflector::store::WriterDropped> {
        self.policies.wait_until_ready().await?;
        self.domains.wait_until_ready().await?;
        self.pods.wait_until_ready().await?;
        self.budgets.wait_until_ready().await?;
        self.jobs.wait_until_ready().await?;
        self.nodes.wait_until_ready().await?;
        self.places.wait_until_ready().await
    }

    /// The API server answered a write with this policy.
    pub fn note(&mut self, mut policy: PowerCappingPolicy) {
        slim(&mut policy);
        self.written.insert((policy.namespace(), policy.name_any()), Arc::new(policy));
    }

    /// What is known now.
    pub fn observe(&mut self, memory: &Memory, limits: Limits) -> Observation {
        let mut budgets = BTreeMap::<_, Vec<_>>::new();
        for (namespace, budget) in self.budgets.state().iter().filter_map(|object| budget(object)) {
            budgets.entry(namespace).or_default().push(budget);
        }
        let mut domains = self.domains.state();
        domains.sort_by_cached_key(|domain| domain.name_any());
        let facts = |pod: &Arc<SeenPod>| {
            let (name, facts) = pod_facts(pod);
            (name, Arc::new(facts))
        };
        let node = |node: &Arc<SeenNode>| {
            let (name, facts) = node_facts(node);
            (name, Arc::new(facts))
        };
        Observation {
            policies: self.newest_policies(),
            domains,
            pods: self.pods.state().iter().map(facts).collect(),
            budgets,
            jobs: self.jobs.state().iter().map(|job| job_facts(job)).collect(),
            ceilings: Ceilings::default(),
            nodes: self.nodes.state().iter().map(node).collect(),
            places: self.places.state().iter().map(|pod| place_facts(pod)).collect(),
            halted: self.signs.missing(),
            memory: memory.clone(),
            limits,
        }
    }

    /// The cached policies, or what was written to them where the cache lags. A deleted one is not among them.
    fn newest_policies(&mut self) -> Vec<Arc<PowerCappingPolicy>> {
        let mut policies = self.policies.state();
        for policy in &mut policies {
            let name = (policy.namespace(), policy.name_any());
            match self.written.get(&name) {
                Some(written) if written.uid() == policy.uid() && version(written) > version(policy) => {
                    *policy = Arc::clone(written);
                }
                Some(_) => _ = self.written.remove(&name),
                None => {}
            }
        }
        policies.sort_by_cached_key(|policy| (policy.namespace(), policy.name_any()));
        policies
    }
}

/// Resource versions are numbers that grow; what is no number compares as older.
fn version(policy: &PowerCappingPolicy) -> Option<u64> {
    policy.metadata.resource_version.as_ref()?.parse().ok()
}

fn slim<K: Resource>(object: &mut K) {
    object.meta_mut().managed_fields = None;
    object.meta_mut().annotations = None;
}

/// Whatever changes may change what is to be done.
fn version_hash<K: Resource>(object: &K) -> u64 {
    let mut hasher = DefaultHasher::new();
    object.meta().resource_version.hash(&mut hasher);
    hasher.finish()
}
