//! Pods, budgets and Jobs, only as far as a decision needs them: what else there is, is skipped while it is read. Of
//! twenty thousand pods it would be much, and the code to read it weighs on node agents too, which are this binary.

use std::sync::Arc;

use k8s_openapi::{
    api::{
        batch::v1::Job,
        core::v1::{Pod, Toleration},
        policy::v1::PodDisruptionBudget,
    },
    apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time},
};
use kube::{Resource, ResourceExt};
use powercap_common::{
    selector::{Labels, Selector},
    target::Controller,
};
use serde::{Deserialize, de::IgnoredAny};

use crate::escalate::{
    ceilings::{memory::ANNOTATION, stored::Kind},
    migrate::{
        facts::{Amounts, Wants},
        observe::{SeenContainer, SeenRequests},
    },
    observation::{Budget, JobFacts, ObjectName, PodFacts, PodName},
    suspend,
};

/// With it a person permits that a pod's data on its node are lost.
pub const MAY_LOSE_DATA: &str = "powercapping.io/evict-local-storage";
/// What the kubelet writes on what it runs by itself.
const MIRROR: &str = "kubernetes.io/config.mirror";
/// What Kubernetes adds to every pod: it concerns pods that are there already.
const FOR_THOSE_THERE: &str = "NoExecute";
const USUAL_GRACE: u32 = 30;
const CRITICAL: [&str; 2] = ["system-cluster-critical", "system-node-critical"];

/// A Pod.
#[derive(Resource, Clone, Debug, Deserialize)]
#[resource(inherit = Pod)]
pub struct SeenPod {
    metadata: ObjectMeta,
    #[serde(default)]
    spec: SeenSpec,
    #[serde(default)]
    status: SeenStatus,
}

/// What of a pod's spec matters.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(from = "WrittenSpec")]
struct SeenSpec {
    critical: bool,
    on_disk: bool,
    node: Option<String>,
    wants: Arc<Wants>,
}

/// The same as it is written.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct WrittenSpec {
    node_name: Option<String>,
    priority_class_name: Option<String>,
    volumes: Vec<SeenVolume>,
    node_selector: Labels,
    tolerations: Vec<Toleration>,
    termination_grace_period_seconds: Option<i64>,
    containers: Vec<SeenContainer>,
    init_containers: Vec<SeenContainer>,
    overhead: Amounts,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct SeenVolume {
    host_path: Option<IgnoredAny>,
    empty_dir: Option<SeenEmptyDir>,
}

#[derive(Debug, Deserialize)]
struct SeenEmptyDir {
    medium: Option<String>,
}

impl SeenVolume {
    /// In memory it is gone with its pod anyway.
    fn is_on_disk(&self) -> bool {
        let empty = self.empty_dir.as_ref();
        self.host_path.is_some() || empty.is_some_and(|empty| empty.medium.as_deref() != Some("Memory"))
    }
}

impl From<WrittenSpec> for SeenSpec {
    fn from(spec: WrittenSpec) -> Self {
        let mut tolerations = spec.tolerations;
        tolerations.retain(|toleration| toleration.effect.as_deref() != Some(FOR_THOSE_THERE));
        let grace = spec.termination_grace_period_seconds.map(u32::try_from);
        let WrittenSpec { containers, init_containers, overhead, .. } = spec;
        let wants = Wants {
            requests: SeenRequests { containers, init_containers, overhead }.of_pod(),
            node_selector: spec.node_selector,
            tolerations,
            grace_seconds: grace.and_then(Result::ok).unwrap_or(USUAL_GRACE),
        };
        Self {
            critical: spec.priority_class_name.as_deref().is_some_and(|class| CRITICAL.contains(&class)),
            on_disk: spec.volumes.iter().any(SeenVolume::is_on_disk),
            node: spec.node_name,
            wants: Arc::new(wants),
        }
    }
}

#[derive(Clone, Debug, Default, Deserialize)]
struct SeenStatus {
    #[serde(default)]
    conditions: Vec<SeenCondition>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct SeenCondition {
    #[serde(rename = "type")]
    type_: String,
    status: String,
    last_transition_time: Option<Time>,
}

/// Drops from a pod what no decision needs.
pub fn slim_pod(pod: &mut SeenPod) {
    if let Some(annotations) = &mut pod.metadata.annotations {
        annotations.retain(|key, _| [MAY_LOSE_DATA, MIRROR, ANNOTATION].contains(&key.as_str()));
    }
    pod.status.conditions.retain(|condition| condition.type_ == "Ready");
}

/// A pod's name and facts.
pub fn pod_facts(pod: &SeenPod) -> (PodName, PodFacts) {
    let annotation = |key: &str| pod.annotations().get(key).map(String::as_str);
    let readiness = pod.status.conditions.iter().find(|condition| condition.type_ == "Ready");
    let ready = readiness.is_some_and(|readiness| readiness.status == "True");
    let deleted = pod.metadata.deletion_timestamp.as_ref();
    let unready = readiness.filter(|_| !ready).and_then(|readiness| readiness.last_transition_time.as_ref());
    let facts = PodFacts {
        uid: pod.uid().unwrap_or_default(),
        labels: pod.labels().clone(),
        controller: Controller::of(&pod.metadata),
        created: pod.creation_timestamp().map(|time| time.0),
        ready,
        ending: deleted.is_some(),
        amiss_since: deleted.or(unready).map(|time| time.0),
        is_static: annotation(MIRROR).is_some(),
        critical: pod.spec.critical,
        keeps_data: pod.spec.on_disk && annotation(MAY_LOSE_DATA) != Some("true"),
        resized: annotation(ANNOTATION).is_some(),
        node: pod.spec.node.clone(),
        wants: Arc::clone(&pod.spec.wants),
    };
    (PodName { namespace: pod.namespace().unwrap_or_default(), name: pod.name_any() }, facts)
}

/// A budget, with its namespace. One without a selector counts nobody's pods, one with an empty one everybody's.
pub fn budget(object: &PodDisruptionBudget) -> Option<(String, Budget)> {
    let selector = object.spec.as_ref()?.selector.as_ref()?;
    let allowed = object.status.as_ref().map_or(0, |status| status.disruptions_allowed);
    Some((object.namespace()?, Budget { selector: Selector::try_from(selector).ok(), allowed }))
}

/// A Job.
#[derive(Resource, Clone, Debug, Deserialize)]
#[resource(inherit = Job)]
pub struct SeenJob {
    metadata: ObjectMeta,
    #[serde(default)]
    spec: SeenJobSpec,
    #[serde(default)]
    status: SeenStatus,
}

#[derive(Clone, Debug, Default, Deserialize)]
struct SeenJobSpec {
    #[serde(default)]
    suspend: bool,
}

/// Drops from a Job what no decision needs.
pub fn slim_job(job: &mut SeenJob) {
    if let Some(annotations) = &mut job.metadata.annotations {
        annotations.retain(|key, _| key == suspend::MARK);
    }
}

/// A Job's name and facts.
pub fn job_facts(job: &SeenJob) -> (ObjectName, JobFacts) {
    let name = ObjectName { kind: Kind::Job, namespace: job.namespace().unwrap_or_default(), name: job.name_any() };
    let ended = job.status.conditions.iter().any(|said| suspend::is_end(&said.type_, &said.status));
    (name, suspend::facts(&job.metadata, job.spec.suspend, ended))
}
