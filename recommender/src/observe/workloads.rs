//! Pods and nodes: only what a decision needs of them is kept.

use k8s_openapi::{
    api::core::v1::{Namespace, Node, NodeSpec, NodeStatus, NodeSystemInfo, Pod},
    apimachinery::pkg::{
        api::resource::Quantity,
        apis::meta::v1::{ObjectMeta, Time},
    },
};
use kube::{Resource, ResourceExt, core::PartialObjectMeta};
use powercap_common::{selector::Labels, target::Controller};
use serde::Deserialize;

use crate::observation::{BOOT_TAINT, BootTaint, NodeFacts, PodFacts, PodName};

/// Only running pods draw power; the API server sends no others.
pub const RUNNING: &str = "status.phase=Running";

/// A Pod as far as a decision needs it. What else the API server sends is skipped while it is read: of 10,000
/// pods that is nearly all.
#[derive(Resource, Clone, Debug, Deserialize)]
#[resource(inherit = Pod)]
pub struct RunningPod {
    metadata: ObjectMeta,
    #[serde(default)]
    spec: RunningSpec,
    #[serde(default)]
    status: RunningStatus,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct RunningSpec {
    node_name: Option<String>,
    priority: Option<i32>,
    #[serde(default)]
    containers: Vec<RunningContainer>,
}

#[derive(Clone, Debug, Default, Deserialize)]
struct RunningContainer {
    resources: Option<RunningResources>,
}

#[derive(Clone, Debug, Default, Deserialize)]
struct RunningResources {
    limits: Option<RunningLimits>,
}

#[derive(Clone, Debug, Default, Deserialize)]
struct RunningLimits {
    /// The resource that NVIDIA's device plugin advertises.
    #[serde(rename = "nvidia.com/gpu")]
    gpus: Option<Quantity>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct RunningStatus {
    start_time: Option<Time>,
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
pub fn pod_facts(pod: &RunningPod) -> Option<PodFacts> {
    Some(PodFacts {
        name: PodName { namespace: pod.namespace()?, name: pod.name_any() },
        node: pod.spec.node_name.clone()?,
        labels: labels(pod),
        gpus: pod.spec.containers.iter().map(container_gpus).sum(),
        job: job(pod),
        priority: pod.spec.priority.unwrap_or_default(),
        controller: Controller::of(&pod.metadata),
        uid: pod.uid().unwrap_or_default(),
        started: pod.status.start_time.as_ref().map(|time| time.0),
    })
}

/// Labels by which sets of jobs and of leaders name themselves on pods that belong to a part of them.
const SETS: [(&str, &str); 2] =
    [("jobset.sigs.k8s.io/jobset-name", "JobSet"), ("leaderworkerset.sigs.k8s.io/name", "LeaderWorkerSet")];
/// Each replica of a LeaderWorkerSet is a job of its own.
const REPLICA: &str = "leaderworkerset.sigs.k8s.io/group-index";
/// Controllers whose pods are the ranks of one job.
const JOBS: [&str; 4] = ["Job", "JobSet", "LeaderWorkerSet", "PyTorchJob"];

/// The job of which the pod is a rank: the set that its labels name, else its controller.
fn job(pod: &RunningPod) -> Option<String> {
    for (label, kind) in SETS {
        let Some(name) = pod.labels().get(label) else { continue };
        let replica = pod.labels().get(REPLICA).map(|replica| format!("/{replica}")).unwrap_or_default();
        return Some(format!("{kind}/{name}{replica}"));
    }
    let controller = Controller::of(&pod.metadata)?;
    JOBS.contains(&controller.kind.as_str()).then(|| format!("{}/{}", controller.kind, controller.name))
}

fn container_gpus(container: &RunningContainer) -> u64 {
    let limits = container.resources.as_ref().and_then(|resources| resources.limits.as_ref());
    limits.and_then(|limits| limits.gpus.as_ref()?.0.parse().ok()).unwrap_or(0)
}

/// A node's name and facts.
#[must_use]
pub fn node_facts(node: &Node) -> (String, NodeFacts) {
    let facts = NodeFacts {
        uid: node.uid().unwrap_or_default(),
        labels: labels(node),
        boot_id: boot_id(node).unwrap_or_default().to_owned(),
        boot_taint: boot_taint(node),
    };
    (node.name_any(), facts)
}

/// A namespace's name and labels.
#[must_use]
pub fn namespace_labels(namespace: &PartialObjectMeta<Namespace>) -> (String, Labels) {
    (namespace.name_any(), labels(namespace))
}

/// What the node's kubelet says of its last boot.
#[must_use]
pub fn boot_id(node: &Node) -> Option<&str> {
    Some(&node.status.as_ref()?.node_info.as_ref()?.boot_id)
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

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn job_of(metadata: &serde_json::Value) -> Option<String> {
        let mut pod: RunningPod = serde_json::from_value(json!({
            "apiVersion": "v1", "kind": "Pod", "metadata": metadata,
            "spec": {"nodeName": "n1", "containers": []}, "status": {"phase": "Running"},
        }))
        .unwrap();
        pod.metadata.namespace = Some("llm".to_owned());
        pod_facts(&pod).unwrap().job
    }

    #[test]
    fn ranks_of_one_job_are_known_by_their_controller_or_their_set() {
        let owned = |kind: &str, controller: bool| json!({"name": "p", "ownerReferences": [{"apiVersion": "v1", "kind": kind, "name": "train", "uid": "u", "controller": controller}]});
        assert_eq!(job_of(&owned("PyTorchJob", true)).as_deref(), Some("PyTorchJob/train"));
        assert_eq!(job_of(&owned("Job", true)).as_deref(), Some("Job/train"));
        assert_eq!(job_of(&owned("Job", false)), None, "an owner that does not control");
        assert_eq!(job_of(&owned("ReplicaSet", true)), None, "replicas of a service do not wait for each other");
        let mut in_set = owned("Job", true);
        in_set["labels"] = json!({"jobset.sigs.k8s.io/jobset-name": "sweep"});
        assert_eq!(job_of(&in_set).as_deref(), Some("JobSet/sweep"));
        let replica = json!({"name": "p", "labels": {"leaderworkerset.sigs.k8s.io/name": "serve", "leaderworkerset.sigs.k8s.io/group-index": "1"}});
        assert_eq!(job_of(&replica).as_deref(), Some("LeaderWorkerSet/serve/1"));
    }
    #[test]
    fn a_pods_priority_is_that_of_its_class() {
        let pod: RunningPod = serde_json::from_value(json!({
            "apiVersion": "v1", "kind": "Pod", "metadata": {"namespace": "llm", "name": "p"},
            "spec": {"nodeName": "n1", "containers": [], "priority": 1000}, "status": {"phase": "Running"},
        }))
        .unwrap();
        assert_eq!(pod_facts(&pod).unwrap().priority, 1000);
    }
}
