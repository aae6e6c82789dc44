//! What asks for a new decision; our three kinds, and what was just written to them.
//!
//! A reflector lags its own writer by some tens of milliseconds. A decision on what was before the last
//! write would repeat it, or take a raised grant for the old one. [`Written`] closes the gap: what the
//! API server answered to a write stands in for the cached object until the cache has caught up, however
//! long that takes: behind a watch that hangs, a node that was raised would count with its old grant.

use std::{
    collections::{HashMap, HashSet},
    hash::{DefaultHasher, Hash, Hasher},
    sync::Arc,
    time::{Duration, Instant},
};

use k8s_openapi::api::core::v1::Node;
use kube::{Resource, ResourceExt, runtime::reflector::Store};
use powercap_common::api::NodeFrequencies;

use super::workloads::{boot_id, hash_of_room, slim_metadata};

/// An object that the cache lacks for longer was deleted since.
const CACHE_LAGS_AT_MOST: Duration = Duration::from_secs(5);

/// The answers to our last writes of one kind.
pub struct Written<K>(HashMap<(Option<String>, String), (Arc<K>, Instant)>);

impl<K> Default for Written<K> {
    fn default() -> Self {
        Self(HashMap::new())
    }
}

impl<K: Resource<DynamicType = ()> + Clone> Written<K> {
    /// The API server answered a write with this object.
    pub fn note(&mut self, mut object: K) {
        slim_metadata(&mut object);
        self.0.insert((object.namespace(), object.name_any()), (Arc::new(object), Instant::now()));
    }

    /// The cached objects, each in its newest known version, ordered by namespace and name.
    pub fn newest(&mut self, cache: &Store<K>) -> Vec<Arc<K>> {
        let mut objects = cache.state();
        for object in &mut objects {
            let name = (object.namespace(), object.name_any());
            if let Some((written, _)) = self.0.get(&name) {
                if version(&**written) > version(&**object) {
                    *object = Arc::clone(written);
                } else {
                    self.0.remove(&name);
                }
            }
        }
        let known: HashSet<_> = objects.iter().map(|object| (object.namespace(), object.name_any())).collect();
        self.0.retain(|name, (_, noted)| known.contains(name) || noted.elapsed() < CACHE_LAGS_AT_MOST);
        objects.extend(self.0.iter().filter(|(name, _)| !known.contains(name)).map(|(_, (object, _))| object.clone()));
        objects.sort_by_cached_key(|object| (object.namespace(), object.name_any()));
        objects
    }
}

/// Resource versions are numbers that grow (promised since Kubernetes 1.35, true of every earlier one);
/// what is no number compares as older.
fn version<K: Resource>(object: &K) -> Option<u64> {
    object.meta().resource_version.as_ref()?.parse().ok()
}

/// What of a `NodeFrequencies` asks for a new decision: the spec, the acknowledgement, what the devices can
/// do and whose they are. An agent's running report of power and clocks does not.
#[must_use]
pub fn asks_for_decision(object: &NodeFrequencies) -> u64 {
    let mut hasher = DefaultHasher::new();
    object.meta().generation.hash(&mut hasher);
    object.meta().uid.hash(&mut hasher);
    if let Some(status) = &object.status {
        status.boot_id.hash(&mut hasher);
        if let Some(acknowledged) = status.acknowledged {
            let epoch = acknowledged.epoch;
            (epoch.term, epoch.sequence, acknowledged.power_limit_watts).hash(&mut hasher);
        }
        for gpu in &status.gpus {
            (&gpu.uuid, gpu.max_power_limit_watts, gpu.max_graphics_megahertz).hash(&mut hasher);
            let tenants = gpu.tenants.as_ref().map(|tenants| tenants.iter().map(|pod| (&pod.namespace, &pod.name)));
            tenants.map(Iterator::collect::<Vec<_>>).hash(&mut hasher);
        }
        for cpu in &status.cpus {
            (cpu.cpufreq_policy, cpu.max_megahertz).hash(&mut hasher);
        }
    }
    hasher.finish()
}

/// A node asks for a new decision by its labels, when it has booted, when a taint of it changes, and by what pods
/// find there.
#[must_use]
pub fn labels_or_boot(node: &Node) -> u64 {
    let mut hasher = DefaultHasher::new();
    let taints = node.spec.as_ref().and_then(|spec| spec.taints.as_ref());
    let keys: Vec<_> = taints.into_iter().flatten().map(|taint| (&taint.key, &taint.effect)).collect();
    (spec_or_labels(node), boot_id(node), keys, hash_of_room(node)).hash(&mut hasher);
    hasher.finish()
}

/// For the other kinds: a change of spec or labels asks for a new decision, our own status writes do not.
#[must_use]
pub fn spec_or_labels<K: Resource>(object: &K) -> u64 {
    let mut hasher = DefaultHasher::new();
    let metadata = object.meta();
    (&metadata.generation, &metadata.uid, &metadata.labels).hash(&mut hasher);
    hasher.finish()
}
