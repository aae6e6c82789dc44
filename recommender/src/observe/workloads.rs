//! Pods and nodes: only what a decision needs of them is kept.

use std::{
    hash::{DefaultHasher, Hash, Hasher},
    sync::Arc,
};

use k8s_openapi::{
    api::core::v1::{Affinity, Namespace, Node, NodeSpec, NodeStatus, NodeSystemInfo, Pod, Taint, Toleration},
    apimachinery::pkg::{
        api::resource,
        apis::meta::v1::{ObjectMeta, Time},
    },
};
use kube::{Resource, ResourceExt, core::PartialObjectMeta};
use powercap_common::{
    api::WATTS,
    quantity::Quantity,
    requests::{self, InitRequest},
    selector::Labels,
    target::Controller,
    units::{Millicores, Watts},
};
use serde::{Deserialize, Deserializer, de::IgnoredAny};

use super::resources::spec_or_labels;
use crate::observation::{BOOT_TAINT, BootTaint, ContainerFacts, NodeFacts, PendingPod, PodFacts, PodName, Requests};

/// Pods that have ended draw and request nothing; the API server sends none of them.
pub const NOT_ENDED: &str = "status.phase!=Succeeded,status.phase!=Failed";
/// The resource that NVIDIA's device plugin advertises.
const GPUS: &str = "nvidia.com/gpu";
/// Effects of taints that keep new pods away.
const KEEPS_AWAY: [&str; 2] = ["NoSchedule", "NoExecute"];

/// A Pod as far as a decision needs it. What else the API server sends is skipped while it is read: of 10,000
/// pods that is nearly all. What is kept of the rest is made once, and shared by all decisions.
#[derive(Resource, Clone, Debug, Deserialize)]
#[resource(inherit = Pod)]
pub struct SeenPod {
    metadata: ObjectMeta,
    #[serde(default)]
    spec: SeenSpec,
    #[serde(default)]
    status: SeenStatus,
    #[serde(skip)]
    kept: Kept,
}

/// All that is left of a pod in the cache, but for its name.
#[derive(Clone, Debug, Default)]
struct Kept {
    running: Option<Arc<PodFacts>>,
    pending: Option<Arc<PendingPod>>,
    digest: u64,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct SeenSpec {
    node_name: Option<String>,
    priority: Option<i32>,
    #[serde(default)]
    containers: Vec<SeenContainer>,
    #[serde(default)]
    init_containers: Vec<SeenContainer>,
    overhead: Option<SeenAmounts>,
    #[serde(default)]
    node_selector: Labels,
    affinity: Option<Affinity>,
    #[serde(default)]
    tolerations: Vec<Toleration>,
    #[serde(default)]
    scheduling_gates: Vec<IgnoredAny>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct SeenContainer {
    name: String,
    #[serde(default)]
    resources: SeenResources,
    /// Of an init container, `Always` makes it a sidecar.
    restart_policy: Option<String>,
}

/// Requests, and for extended resources limits, which are the same.
#[derive(Clone, Debug, Default, Deserialize)]
struct SeenResources {
    #[serde(default)]
    requests: SeenAmounts,
    #[serde(default)]
    limits: SeenExtended,
}

#[derive(Clone, Debug, Default, Deserialize)]
struct SeenAmounts {
    #[serde(default, rename = "cpu", deserialize_with = "millis")]
    cpu_millis: u64,
    #[serde(default, rename = "memory", deserialize_with = "whole")]
    memory_bytes: u64,
}

#[derive(Clone, Debug, Default, Deserialize)]
struct SeenExtended {
    #[serde(default, rename = "nvidia.com/gpu", deserialize_with = "whole")]
    gpus: u64,
    /// The resource that our agents advertise ([`powercap_common::api::WATTS`]).
    #[serde(default, rename = "powercapping.io/watts", deserialize_with = "some_whole")]
    watts: Option<u64>,
}

fn millis<'de, D: Deserializer<'de>>(amount: D) -> Result<u64, D::Error> {
    read(amount).map(Quantity::ceil_millis)
}

fn whole<'de, D: Deserializer<'de>>(amount: D) -> Result<u64, D::Error> {
    read(amount).map(Quantity::ceil)
}

fn some_whole<'de, D: Deserializer<'de>>(amount: D) -> Result<Option<u64>, D::Error> {
    whole(amount).map(Some)
}

/// The API server lets no pod in whose amounts are none: one that is would break the watch of all.
fn read<'de, D: Deserializer<'de>>(amount: D) -> Result<Quantity, D::Error> {
    Ok(resource::Quantity::deserialize(amount)?.0.parse().unwrap_or_default())
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct SeenStatus {
    phase: Option<String>,
    start_time: Option<Time>,
}

/// Reduces a pod to the facts that decisions need.
pub fn slim_pod(pod: &mut SeenPod) {
    let kept = Kept {
        running: facts_of_running(pod).map(Arc::new),
        pending: facts_of_pending(pod).map(Arc::new),
        digest: place_or_phase(pod),
    };
    let ObjectMeta { namespace, name, .. } = std::mem::take(&mut pod.metadata);
    let metadata = ObjectMeta { namespace, name, ..ObjectMeta::default() };
    *pod = SeenPod { metadata, spec: SeenSpec::default(), status: SeenStatus::default(), kept };
}

/// A pod asks for a new decision by its labels, its place and its phase too, neither of which is part of its
/// generation.
fn place_or_phase(pod: &SeenPod) -> u64 {
    let mut hasher = DefaultHasher::new();
    (spec_or_labels(pod), &pod.spec.node_name, &pod.status.phase, pod.spec.scheduling_gates.len()).hash(&mut hasher);
    hasher.finish()
}

impl SeenPod {
    /// The facts of a pod that runs; none of another.
    #[must_use]
    pub fn running(&self) -> Option<Arc<PodFacts>> {
        self.kept.running.clone()
    }

    /// Those of one that does not run yet; none of one that does, and of one that somebody holds back from the
    /// scheduler.
    #[must_use]
    pub fn pending(&self) -> Option<Arc<PendingPod>> {
        self.kept.pending.clone()
    }

    /// Changes whenever the pod asks for a new decision.
    #[must_use]
    pub fn digest(&self) -> u64 {
        self.kept.digest
    }
}

/// Drops from a node what no decision needs.
pub fn slim_node(node: &mut Node) {
    slim_metadata(node);
    let spec = node.spec.take().unwrap_or_default();
    node.spec = Some(NodeSpec { taints: spec.taints, unschedulable: spec.unschedulable, ..NodeSpec::default() });
    let status = node.status.take().unwrap_or_default();
    let node_info = status.node_info.map(|info| NodeSystemInfo { boot_id: info.boot_id, ..NodeSystemInfo::default() });
    let allocatable = status.allocatable.map(|mut amounts| {
        amounts.retain(|resource, _| [WATTS, GPUS, "cpu", "memory"].contains(&resource.as_str()));
        amounts
    });
    node.status = Some(NodeStatus { node_info, allocatable, ..NodeStatus::default() });
}

/// Drops managed fields and annotations, which may be huge.
pub fn slim_metadata<K: Resource>(object: &mut K) {
    object.meta_mut().managed_fields = None;
    object.meta_mut().annotations = None;
}

fn facts_of_running(pod: &SeenPod) -> Option<PodFacts> {
    if is_pending(pod) {
        return None;
    }
    let sidecars = pod.spec.init_containers.iter().filter(|init| init.is_sidecar());
    let containers: Vec<_> = pod.spec.containers.iter().chain(sidecars).map(container_facts).collect();
    Some(PodFacts {
        name: name(pod)?,
        node: pod.spec.node_name.clone()?,
        labels: labels(pod),
        gpus: containers.iter().map(|container| container.gpus).sum(),
        containers,
        requests: requested(pod),
        job: job(pod),
        priority: pod.spec.priority.unwrap_or_default(),
        controller: Controller::of(&pod.metadata),
        uid: pod.uid().unwrap_or_default(),
        started: pod.status.start_time.as_ref().map(|time| time.0),
    })
}

fn facts_of_pending(pod: &SeenPod) -> Option<PendingPod> {
    if !is_pending(pod) || !pod.spec.scheduling_gates.is_empty() {
        return None;
    }
    let node_affinity = pod.spec.affinity.as_ref().and_then(|affinity| affinity.node_affinity.as_ref());
    Some(PendingPod {
        name: name(pod)?,
        node: pod.spec.node_name.clone(),
        requests: requested(pod),
        priority: pod.spec.priority.unwrap_or_default(),
        created: pod.creation_timestamp().map(|time| time.0),
        node_selector: pod.spec.node_selector.clone(),
        affinity: node_affinity
            .and_then(|affinity| affinity.required_during_scheduling_ignored_during_execution.clone()),
        tolerations: pod.spec.tolerations.clone(),
    })
}

fn is_pending(pod: &SeenPod) -> bool {
    pod.status.phase.as_deref() == Some("Pending")
}

fn name(pod: &SeenPod) -> Option<PodName> {
    Some(PodName { namespace: pod.namespace()?, name: pod.name_any() })
}

/// What kube-scheduler counts of a pod.
fn requested(pod: &SeenPod) -> Requests {
    let of_pod = |amount: fn(&SeenResources) -> u64| {
        let inits = pod.spec.init_containers.iter();
        let inits = inits.map(|init| InitRequest { amount: amount(&init.resources), sidecar: init.is_sidecar() });
        requests::of_pod(pod.spec.containers.iter().map(|container| amount(&container.resources)), inits)
    };
    let overhead = pod.spec.overhead.clone().unwrap_or_default();
    Requests {
        watts: watts(of_pod(|resources| resources.limits.watts.unwrap_or_default())),
        gpus: of_pod(|resources| resources.limits.gpus),
        cpu_millis: of_pod(|resources| resources.requests.cpu_millis).saturating_add(overhead.cpu_millis),
        memory_bytes: of_pod(|resources| resources.requests.memory_bytes).saturating_add(overhead.memory_bytes),
    }
}

fn watts(whole: u64) -> Watts {
    Watts::from_milliwatts(whole.saturating_mul(1000))
}

impl SeenContainer {
    fn is_sidecar(&self) -> bool {
        self.restart_policy.as_deref() == Some("Always")
    }
}

/// Labels by which sets of jobs and of leaders name themselves on pods that belong to a part of them.
const SETS: [(&str, &str); 2] =
    [("jobset.sigs.k8s.io/jobset-name", "JobSet"), ("leaderworkerset.sigs.k8s.io/name", "LeaderWorkerSet")];
/// Each replica of a LeaderWorkerSet is a job of its own.
const REPLICA: &str = "leaderworkerset.sigs.k8s.io/group-index";
/// Controllers whose pods are the ranks of one job.
const JOBS: [&str; 4] = ["Job", "JobSet", "LeaderWorkerSet", "PyTorchJob"];

/// The job of which the pod is a rank: the set that its labels name, else its controller.
fn job(pod: &SeenPod) -> Option<String> {
    for (label, kind) in SETS {
        let Some(name) = pod.labels().get(label) else { continue };
        let replica = pod.labels().get(REPLICA).map(|replica| format!("/{replica}")).unwrap_or_default();
        return Some(format!("{kind}/{name}{replica}"));
    }
    let controller = Controller::of(&pod.metadata)?;
    JOBS.contains(&controller.kind.as_str()).then(|| format!("{}/{}", controller.kind, controller.name))
}

fn container_facts(container: &SeenContainer) -> ContainerFacts {
    let SeenResources { requests, limits } = &container.resources;
    ContainerFacts {
        name: container.name.clone(),
        gpus: limits.gpus,
        watts: limits.watts.map(watts),
        cpu: Millicores::new(requests.cpu_millis),
    }
}

/// A node's name and facts.
#[must_use]
pub fn node_facts(node: &Node) -> (String, NodeFacts) {
    let facts = NodeFacts {
        uid: node.uid().unwrap_or_default(),
        labels: labels(node),
        boot_id: boot_id(node).unwrap_or_default().to_owned(),
        boot_taint: boot_taint(node),
        advertised: amount(node, WATTS).map(|amount| watts(amount.ceil())),
        allocatable: allocatable(node),
        unschedulable: node.spec.as_ref().and_then(|spec| spec.unschedulable).unwrap_or_default(),
        taints: taints_that_keep_away(node).cloned().collect(),
    };
    (node.name_any(), facts)
}

/// What of a node decides whether pods may come.
#[must_use]
pub fn hash_of_room(node: &Node) -> u64 {
    let mut hasher = DefaultHasher::new();
    let unschedulable = node.spec.as_ref().and_then(|spec| spec.unschedulable);
    let amounts = node.status.as_ref().and_then(|status| status.allocatable.as_ref());
    let amounts = [WATTS, GPUS].map(|resource| amounts.and_then(|amounts| Some(&amounts.get(resource)?.0)));
    let taints: Vec<_> = taints_that_keep_away(node).map(|taint| (&taint.key, &taint.value, &taint.effect)).collect();
    (unschedulable, amounts, taints).hash(&mut hasher);
    hasher.finish()
}

fn amount(node: &Node, resource: &str) -> Option<Quantity> {
    node.status.as_ref()?.allocatable.as_ref()?.get(resource)?.0.parse().ok()
}

fn allocatable(node: &Node) -> Requests {
    let amount = |resource| amount(node, resource).unwrap_or_default();
    Requests {
        watts: Watts::ZERO,
        gpus: amount(GPUS).ceil(),
        cpu_millis: amount("cpu").ceil_millis(),
        memory_bytes: amount("memory").ceil(),
    }
}

fn taints_that_keep_away(node: &Node) -> impl Iterator<Item = &Taint> {
    let taints = node.spec.as_ref().and_then(|spec| spec.taints.as_ref()).into_iter().flatten();
    taints.filter(|taint| KEEPS_AWAY.contains(&taint.effect.as_str()))
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
        let mut pod: SeenPod = serde_json::from_value(json!({
            "apiVersion": "v1", "kind": "Pod", "metadata": metadata,
            "spec": {"nodeName": "n1", "containers": []}, "status": {"phase": "Running"},
        }))
        .unwrap();
        pod.metadata.namespace = Some("llm".to_owned());
        facts_of_running(&pod).unwrap().job
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
        let pod: SeenPod = serde_json::from_value(json!({
            "apiVersion": "v1", "kind": "Pod", "metadata": {"namespace": "llm", "name": "p"},
            "spec": {"nodeName": "n1", "containers": [], "priority": 1000}, "status": {"phase": "Running"},
        }))
        .unwrap();
        assert_eq!(facts_of_running(&pod).unwrap().priority, 1000);
    }

    #[test]
    fn amounts_are_read_as_kubernetes_writes_them() {
        let pod: SeenPod = serde_json::from_value(json!({
            "apiVersion": "v1", "kind": "Pod", "metadata": {"namespace": "llm", "name": "p"},
            "spec": {
                "nodeName": "n1", "overhead": {"cpu": "250m", "memory": "64Mi"},
                "containers": [{"name": "train", "resources": {
                    "requests": {"cpu": "1500m", "memory": "1Gi"},
                    "limits": {"nvidia.com/gpu": "8", "powercapping.io/watts": "5k"},
                }}],
                "initContainers": [{"name": "proxy", "restartPolicy": "Always", "resources": {
                    "requests": {"cpu": "1"}, "limits": {"powercapping.io/watts": "100"},
                }}],
            },
            "status": {"phase": "Running"},
        }))
        .unwrap();
        let facts = facts_of_running(&pod).unwrap();
        let requests =
            Requests { watts: Watts::new(5100), gpus: 8, cpu_millis: 2750, memory_bytes: (1024 + 64) * 1024 * 1024 };
        assert_eq!(facts.requests, requests);
        let watts: Vec<_> = facts.containers.iter().map(|container| container.watts).collect();
        assert_eq!(watts, [Some(Watts::new(5000)), Some(Watts::new(100))]);
    }

    #[test]
    fn a_pod_that_is_held_back_from_the_scheduler_waits_for_nothing() {
        let pod = |spec: serde_json::Value| -> SeenPod {
            serde_json::from_value(json!({"metadata": {"namespace": "llm", "name": "p"}, "spec": spec,
                "status": {"phase": "Pending"}}))
            .unwrap()
        };
        let waiting = facts_of_pending(&pod(json!({"containers": []}))).unwrap();
        assert_eq!(waiting.node, None);
        assert!(facts_of_pending(&pod(json!({"containers": [], "schedulingGates": [{"name": "queue"}]}))).is_none());
        assert!(
            facts_of_running(&pod(json!({"containers": [], "nodeName": "n1"}))).is_none(),
            "its containers do not run yet"
        );
    }

    #[test]
    fn a_node_tells_what_it_has_room_for_and_what_keeps_pods_away() {
        let mut node: Node = serde_json::from_value(json!({
            "metadata": {"name": "n1", "uid": "u"},
            "spec": {"unschedulable": true, "taints": [
                {"key": "gpu", "value": "only", "effect": "NoSchedule"},
                {"key": "soft", "effect": "PreferNoSchedule"},
            ]},
            "status": {"allocatable": {
                "powercapping.io/watts": "6k", "nvidia.com/gpu": "8", "cpu": "63500m", "memory": "1Gi", "pods": "110",
            }},
        }))
        .unwrap();
        slim_node(&mut node);
        let (_, facts) = node_facts(&node);
        assert_eq!(facts.advertised, Some(Watts::new(6000)));
        assert_eq!((facts.allocatable.gpus, facts.allocatable.cpu_millis), (8, 63_500));
        assert!(facts.unschedulable);
        assert_eq!(facts.taints.len(), 1);
    }
}
