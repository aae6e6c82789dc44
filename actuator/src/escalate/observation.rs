//! Everything that an escalating decision sees, as plain data: the seam between observing and deciding.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use k8s_openapi::jiff::Timestamp;
use powercap_common::{
    api::{PowerCappingPolicy, PowerDomain},
    reason::Reason,
    selector::{Labels, Selector},
    target::{self, Controller},
};
use serde::{Deserialize, Serialize};

use super::{
    ceilings::{
        bounds::Site,
        stored::{Kind, Stored},
    },
    migrate::facts::{NodeFacts, PlaceFacts, Wants},
};

/// What is known at one moment.
#[derive(Clone, Debug, Default)]
pub struct Observation {
    /// Policies, with what the recommender says is to be done and with how far they are, in order of their names.
    pub policies: Vec<Arc<PowerCappingPolicy>>,
    /// Domains.
    pub domains: Vec<Arc<PowerDomain>>,
    /// Pods that have not ended.
    pub pods: BTreeMap<PodName, Arc<PodFacts>>,
    /// PodDisruptionBudgets.
    pub budgets: BTreeMap<String, Vec<Budget>>,
    /// Jobs: all of Kubernetes' own; of the other kinds those that were asked for, and those that we suspended.
    pub jobs: BTreeMap<ObjectName, JobFacts>,
    /// What bounds workloads, as far as it was asked for.
    pub ceilings: Ceilings,
    /// Nodes, by their names.
    pub nodes: BTreeMap<String, Arc<NodeFacts>>,
    /// Placeholders, by their names.
    pub places: BTreeMap<String, PlaceFacts>,
    /// Why nothing at all may be done now.
    pub halted: Option<Reason>,
    /// What this leader knows beside the API server.
    pub memory: Memory,
    /// How far it may go.
    pub limits: Limits,
}

/// A pod's namespace and name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct PodName {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

/// What of a pod decides whether it may be evicted.
#[derive(Clone, Debug, Default)]
#[expect(clippy::struct_excessive_bools, reason = "each is a fact of its own")]
pub struct PodFacts {
    /// Which pod of this name it is.
    pub uid: String,
    /// Its labels.
    pub labels: Labels,
    /// What controls it.
    pub controller: Option<Controller>,
    /// Since when there is such an object.
    pub created: Option<Timestamp>,
    /// All its containers are ready.
    pub ready: bool,
    /// It is being deleted.
    pub ending: bool,
    /// Since when it is not ready, or is being deleted.
    pub amiss_since: Option<Timestamp>,
    /// It is static: a kubelet's own, which the API server only mirrors.
    pub is_static: bool,
    /// Its class is `system-cluster-critical` or `system-node-critical`.
    pub critical: bool,
    /// It has an emptyDir or a hostPath, and does not permit to lose what is there.
    pub keeps_data: bool,
    /// Its CPU limits are ours.
    pub resized: bool,
    /// Where it is bound to.
    pub node: Option<String>,
    /// What it asks of a node.
    pub wants: Arc<Wants>,
}

/// What stands around workloads that are bounded, or are to be.
#[derive(Clone, Debug, Default)]
pub struct Ceilings {
    /// By namespace and workload, `Kind/name`; none where there is no such workload.
    pub sites: BTreeMap<(String, String), Option<Arc<Site>>>,
    /// Single objects: those with a ceiling of ours, pods, and jobs of kinds that are not Kubernetes' own.
    pub objects: BTreeMap<ObjectName, Arc<Stored>>,
    /// VerticalPodAutoscalers, by namespace.
    pub vpas: BTreeMap<String, Arc<Vec<serde_json::Value>>>,
    /// There may be more with a ceiling of ours: what leaders before us left was not listed yet, or what was just
    /// changed was not looked at again.
    pub partial: bool,
}

/// Tells an object from the others.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ObjectName {
    /// Its kind.
    pub kind: Kind,
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

/// What a decision would know of the API server beside the caches.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Question {
    /// What has a ceiling of ours.
    Held,
    /// What stands around a workload.
    Site {
        /// Its namespace.
        namespace: String,
        /// The workload, `Kind/name`.
        workload: String,
    },
    /// One object.
    Object(ObjectName),
    /// The VerticalPodAutoscalers of a namespace.
    Vpas(String),
}

/// A PodDisruptionBudget.
#[derive(Clone, Debug)]
pub struct Budget {
    /// Whose pods it counts; `None`: what it says is not understood, and it counts as everybody's.
    pub selector: Option<Selector>,
    /// How many more may be evicted now.
    pub allowed: i32,
}

/// A job of any kind of [`Kind::JOBS`].
#[derive(Clone, Debug, Default)]
pub struct JobFacts {
    /// Which job of this name it is.
    pub uid: String,
    /// Its pods are not to run.
    pub suspended: bool,
    /// It is ended, or being deleted.
    pub ended: bool,
    /// Something else says when it runs, its controller or Kueue, and would undo what is done to it.
    pub controlled: bool,
    /// What stands on it when we suspended it.
    pub suspended_by_us: Option<SuspendedByUs>,
}

/// The mark of a suspension that is ours.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SuspendedByUs {
    /// The policy of the job's namespace whose ladder it was.
    pub policy: String,
    /// The domain that it was done for; absent where it was for the policy's own cap.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub domain: Option<String>,
    /// What it drew, in watts.
    pub watts: u32,
}

/// What a leader remembers; the next one begins without, and loses nothing but a little time.
#[derive(Clone, Debug, Default)]
pub struct Memory {
    /// Objects, by their UID, that are left alone for a while, and why.
    pub left_alone: BTreeMap<String, (Timestamp, Reason)>,
    /// Objects, by their UID, with which we are done: evicted, or gone.
    pub done: BTreeSet<String>,
    /// No eviction before this: the API server asked for patience.
    pub patience_until: Option<Timestamp>,
}

/// How far escalation may go at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// So long a step is given to bring power down; twice as long after a step that did not, and so on.
    pub settle: Duration,
    /// So long a workload is left alone after one of its pods began.
    pub cool_down: Duration,
    /// A workload with fewer replicas loses none.
    pub minimum_replicas: usize,
    /// The most pods and Jobs that may be taken at once for one policy, each of another workload.
    pub for_a_policy: usize,
    /// The most steps that may await their effect in a namespace.
    pub in_a_namespace: usize,
    /// Likewise for one domain's cap.
    pub for_a_domain: usize,
    /// Likewise in all.
    pub in_all: usize,
    /// Pods whose watts are stale are evicted, so that they come back with the right ones.
    pub recreate_stale: bool,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            settle: Duration::from_secs(30),
            cool_down: Duration::from_secs(60),
            minimum_replicas: 2,
            for_a_policy: 1,
            in_a_namespace: 2,
            for_a_domain: 4,
            in_all: 8,
            recreate_stale: false,
        }
    }
}

impl Observation {
    /// Pods of a namespace, in order of their names.
    pub fn pods_of<'a, 'n>(
        &'a self,
        namespace: &'n str,
    ) -> impl Iterator<Item = (&'a PodName, &'a PodFacts)> + use<'a, 'n> {
        let first = PodName { namespace: namespace.to_owned(), name: String::new() };
        let pods = self.pods.range(first..).take_while(move |(name, _)| name.namespace == namespace);
        pods.map(|(name, pod)| (name, &**pod))
    }
}

impl ObjectName {
    /// Of an object.
    #[must_use]
    pub fn of(object: &Stored) -> Self {
        Self { kind: object.kind, namespace: object.namespace().to_owned(), name: object.name().to_owned() }
    }

    /// Kind and name, as pending actions name a workload.
    #[must_use]
    pub fn workload(&self) -> String {
        format!("{}/{}", self.kind.names().2, self.name)
    }
}

impl PodFacts {
    /// Whether the pod is of this workload, `Kind/name`, as far as its controller tells.
    #[must_use]
    pub fn is_of(&self, workload: &str) -> bool {
        let (Some((kind, name)), Some(controller)) = (workload.split_once('/'), &self.controller) else { return false };
        if controller.kind == kind {
            return controller.name == name;
        }
        if ["InferenceService", "LLMInferenceService", "JobSet"].contains(&kind) {
            let owner = target::outermost(Some(controller), &self.labels);
            return owner.is_some_and(|owner| (owner.kind.as_str(), owner.name.as_str()) == (kind, name));
        }
        // A Deployment's ReplicaSets are called after it and their template.
        let template = self.labels.get("pod-template-hash");
        kind == "Deployment"
            && controller.kind == "ReplicaSet"
            && template.is_some_and(|hash| {
                controller.name.strip_suffix(hash).and_then(|rest| rest.strip_suffix('-')) == Some(name)
            })
    }
}
