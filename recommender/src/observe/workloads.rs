//! Pods and nodes: only what a decision needs of them is kept.

use k8s_openapi::api::core::v1::{Container, Node, NodeSpec, NodeStatus, NodeSystemInfo, Pod, PodSpec, PodStatus};
use kube::{Resource, ResourceExt};
use powercap_common::selector::Labels;

use crate::observation::{BOOT_TAINT, BootTaint, NodeFacts, PodFacts, PodName};

/// Only running pods draw power; the API server sends no others.
pub const RUNNING: &str = "status.phase=Running";

/// Drops from a pod what no decision needs: of 10,000 pods that is nearly all.
pub fn slim_pod(pod: &mut Pod) {
    slim_metadata(pod);
    let spec = pod.spec.take().unwrap_or_default();
    let containers = spec.containers.into_iter().filter(|container| container_gpus(container) > 0);
    let containers = containers.map(|Container { resources, .. }| Container { resources, ..Container::default() });
    pod.spec = Some(PodSpec { node_name: spec.node_name, containers: containers.collect(), ..PodSpec::default() });
    let phase = pod.status.take().and_then(|status| status.phase);
    pod.status = Some(PodStatus { phase, ..PodStatus::default() });
}

/// Drops from a node what no decision needs.
pub fn slim_node(node: &mut Node) {
    slim_metadata(node);
    let taints = node.spec.take().and_then(|spec| spec.taints);
    node.spec = Some(NodeSpec { taints, ..NodeSpec::default() });
    let node_info = node.status.take().and_then(|status| status.node_info);
    let boot_id = node_info.map(|info| NodeSystemInfo { boot_id: info.boot_id, ..NodeSystemInfo::default() });
    node.status = Some(NodeStatus { node_info: boot_id, ..NodeStatus::default() });
}

/// Drops managed fields and annotations, which may be huge.
pub fn slim_metadata<K: Resource>(object: &mut K) {
    object.meta_mut().managed_fields = None;
    object.meta_mut().annotations = None;
}

/// A pod's facts; none for one that is on no node.
#[must_use]
pub fn pod_facts(pod: &Pod) -> Option<PodFacts> {
    Some(PodFacts {
        name: PodName { namespace: pod.namespace()?, name: pod.name_any() },
        node: pod.spec.as_ref()?.node_name.clone()?,
        labels: labels(pod),
        gpus: pod.spec.iter().flat_map(|spec| &spec.containers).map(container_gpus).sum(),
    })
}

/// The resource that NVIDIA's device plugin advertises.
const GPU: &str = "nvidia.com/gpu";

fn container_gpus(container: &Container) -> u64 {
    let limits = container.resources.as_ref().and_then(|resources| resources.limits.as_ref());
    limits.and_then(|limits| limits.get(GPU)).and_then(|quantity| quantity.0.parse().ok()).unwrap_or(0)
}

/// A node's name and facts.
#[must_use]
pub fn node_facts(node: &Node) -> (String, NodeFacts) {
    let status = node.status.as_ref();
    let facts = NodeFacts {
        uid: node.uid().unwrap_or_default(),
        labels: labels(node),
        boot_id: status.and_then(|status| Some(status.node_info.as_ref()?.boot_id.clone())).unwrap_or_default(),
        boot_taint: boot_taint(node),
    };
    (node.name_any(), facts)
}

fn boot_taint(node: &Node) -> Option<BootTaint> {
    let taints = node.spec.as_ref()?.taints.as_ref()?;
    let (ours, others): (Vec<_>, Vec<_>) = taints.iter().cloned().partition(|taint| taint.key == BOOT_TAINT);
    let resource_version = node.resource_version()?;
    (!ours.is_empty()).then_some(BootTaint { resource_version, others })
}

fn labels<K: Resource>(object: &K) -> Labels {
    object.meta().labels.clone().unwrap_or_default()
}
