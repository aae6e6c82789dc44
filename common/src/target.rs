//! Workloads that a policy may name in the place of labels: where their selector stands, and whose a pod is.
//!
//! Labels alone may match pods of others. A pod's controller is asked as well, as far as it tells:
//!
//! ```text
//!   Deployment                          ─▶ ReplicaSet NAME-HASH ─▶ pod      HASH: the pod's pod-template-hash
//!                                       ─▶ ReplicaSet adopted   ─▶ pod      by name, as it was found
//!   ReplicaSet, StatefulSet, DaemonSet,
//!   Job, ReplicationController          ───────────────────────▶ pod
//!   KServe's kinds                      ─▶ Deployment and so on ▶ pod       its labels, and something controls it
//!   any other kind                      ─▶ what only its author knows       labels alone decide
//! ```
//!
//! The other way, a pod tells of the outermost workload that is known to own it: by the labels that sets and KServe
//! put on their pods, else by its controller.

use std::fmt;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::{Deserialize, Serialize};

use crate::{
    api::{FoundTarget, TargetRef},
    selector::Labels,
};

/// What controls a pod.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Controller {
    /// Its kind.
    pub kind: String,
    /// Its name.
    pub name: String,
}

impl Controller {
    /// The one of several owners that controls.
    #[must_use]
    pub fn of(metadata: &ObjectMeta) -> Option<Self> {
        let owner = metadata.owner_references.iter().flatten().find(|owner| owner.controller == Some(true))?;
        Some(Self { kind: owner.kind.clone(), name: owner.name.clone() })
    }
}

impl fmt::Display for Controller {
    /// As it stands in a status.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.kind, self.name)
    }
}

/// KServe's labels on what it makes of an InferenceService, and of an LLMInferenceService.
const SERVICE: &str = "serving.kserve.io/inferenceservice";
const NAME: &str = "app.kubernetes.io/name";
const PART_OF: (&str, &str) = ("app.kubernetes.io/part-of", "llminferenceservice");

/// The labels that KServe puts on all that it makes of an object of its own; none where the kind is another's.
#[must_use]
pub fn made_by_kserve(kind: &str, name: &str) -> Option<Labels> {
    let labels: &[(&str, &str)] = match kind {
        "InferenceService" => &[(SERVICE, name)],
        "LLMInferenceService" => &[(NAME, name), PART_OF],
        _ => return None,
    };
    Some(labels.iter().map(|&(key, value)| (key.to_owned(), value.to_owned())).collect())
}

/// The object that KServe made something of, by the labels on that.
#[must_use]
pub fn served_by_kserve(labels: &Labels) -> Option<Controller> {
    let label = |name: &str| labels.get(name).map(String::as_str);
    let (kind, name) = match label(PART_OF.0) {
        Some(part) if part == PART_OF.1 => ("LLMInferenceService", label(NAME)),
        _ => ("InferenceService", label(SERVICE)),
    };
    Some(Controller { kind: kind.to_owned(), name: name?.to_owned() })
}

/// The label by which a JobSet names itself on pods of its Jobs.
pub const JOB_SET: &str = "jobset.sigs.k8s.io/jobset-name";
/// Labels by which owners beyond a pod's controller name themselves on it.
const OUTERMOST: [(&str, &str); 2] = [(JOB_SET, "JobSet"), ("leaderworkerset.sigs.k8s.io/name", "LeaderWorkerSet")];

/// The outermost workload that is known to own a pod; none of a pod that nothing controls.
#[must_use]
pub fn outermost(controller: Option<&Controller>, labels: &Labels) -> Option<Controller> {
    let controller = controller?;
    let label = |name: &str| labels.get(name).map(String::as_str);
    let owner = |kind: &str, name: &str| Controller { kind: kind.to_owned(), name: name.to_owned() };
    if let Some(service) = served_by_kserve(labels) {
        return Some(service);
    }
    if let Some((kind, name)) = OUTERMOST.iter().find_map(|(name, kind)| Some((kind, label(name)?))) {
        return Some(owner(kind, name));
    }
    let of_template = || controller.name.strip_suffix(label(TEMPLATE)?)?.strip_suffix('-');
    match of_template().filter(|name| controller.kind == "ReplicaSet" && !name.is_empty()) {
        Some(deployment) => Some(owner("Deployment", deployment)),
        None => Some(controller.clone()),
    }
}

/// Where a workload's selector stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SelectorAt {
    /// `spec.selector` of the object.
    Spec,
    /// `status.selector` of its scale subresource.
    Scale,
    /// Nowhere: what is made of it has these labels.
    Labels(Labels),
}

/// The label by which the pods of one ReplicaSet of a Deployment differ from those of the others.
const TEMPLATE: &str = "pod-template-hash";

impl TargetRef {
    /// The group, empty for Kubernetes' own first kinds, and the version.
    #[must_use]
    pub fn group_version(&self) -> (&str, &str) {
        self.api_version.split_once('/').unwrap_or(("", &self.api_version))
    }

    /// Where its selector stands. Jobs and DaemonSets cannot be scaled, and KServe's kinds not by a subresource.
    #[must_use]
    pub fn selector_at(&self) -> SelectorAt {
        match (self.group_version().0, self.kind.as_str()) {
            ("batch", "Job") | ("apps", "DaemonSet") => SelectorAt::Spec,
            ("serving.kserve.io", kind) => {
                made_by_kserve(kind, &self.name).map_or(SelectorAt::Scale, SelectorAt::Labels)
            }
            _ => SelectorAt::Scale,
        }
    }

    /// Whether a pod that its selector matches is its own.
    #[must_use]
    pub fn owns(&self, controller: Option<&Controller>, labels: &Labels) -> bool {
        let is = |kind: &str, name: &str| controller.is_some_and(|by| by.kind == kind && by.name == name);
        match (self.group_version().0, self.kind.as_str()) {
            ("apps", "Deployment") => {
                let of = |hash: &String| is("ReplicaSet", &format!("{}-{hash}", self.name));
                labels.get(TEMPLATE).is_some_and(of)
            }
            ("apps", "ReplicaSet" | "StatefulSet" | "DaemonSet") | ("batch", "Job") | ("", "ReplicationController") => {
                is(&self.kind, &self.name)
            }
            ("serving.kserve.io", "InferenceService" | "LLMInferenceService") => controller.is_some(),
            _ => true,
        }
    }
}

impl FoundTarget {
    /// Whether a pod that its selector matches is its own.
    #[must_use]
    pub fn owns(&self, controller: Option<&Controller>, labels: &Labels) -> bool {
        let adopted = |by: &Controller| by.kind == "ReplicaSet" && self.adopted.contains(&by.name);
        self.target_ref.owns(controller, labels) || controller.is_some_and(adopted)
    }
}

impl fmt::Display for TargetRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} ({})", self.kind, self.name, self.api_version)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target(api_version: &str, kind: &str) -> TargetRef {
        TargetRef { api_version: api_version.into(), kind: kind.into(), name: "chat".into() }
    }

    #[test]
    fn a_pod_with_the_labels_of_a_workload_is_its_own_only_under_its_controller() {
        let labels: Labels = [("pod-template-hash".to_owned(), "5f6d".to_owned())].into();
        let by = |kind: &str, name: &str| Some(Controller { kind: kind.into(), name: name.into() });
        for (api_version, kind, controller, owns) in [
            ("apps/v1", "Deployment", by("ReplicaSet", "chat-5f6d"), true),
            ("apps/v1", "Deployment", by("ReplicaSet", "chat-canary-5f6d"), false),
            ("apps/v1", "Deployment", by("StatefulSet", "chat-5f6d"), false),
            ("apps/v1", "Deployment", None, false),
            ("apps/v1", "StatefulSet", by("StatefulSet", "chat"), true),
            ("apps/v1", "StatefulSet", by("StatefulSet", "chat-2"), false),
            ("batch/v1", "Job", by("Job", "chat"), true),
            ("v1", "ReplicationController", by("ReplicationController", "chat"), true),
            ("leaderworkerset.x-k8s.io/v1", "LeaderWorkerSet", by("StatefulSet", "chat-1"), true),
            ("serving.kserve.io/v1beta1", "InferenceService", by("ReplicaSet", "chat-predictor-5f6d"), true),
            ("serving.kserve.io/v1beta1", "InferenceService", None, false),
            ("serving.kserve.io/v1alpha2", "LLMInferenceService", by("StatefulSet", "chat-kserve-mn-0"), true),
            ("serving.kserve.io/v1alpha2", "LLMInferenceService", None, false),
            ("example.com/v1", "Job", None, true),
        ] {
            let owned = target(api_version, kind).owns(controller.as_ref(), &labels);
            assert_eq!(owned, owns, "{api_version} {kind} {controller:?}");
        }
        let bare = target("apps/v1", "Deployment").owns(by("ReplicaSet", "chat-5f6d").as_ref(), &Labels::new());
        assert!(!bare, "a pod without the hash is of no ReplicaSet of a Deployment");
    }

    #[test]
    fn a_pod_of_a_replica_set_that_a_deployment_adopted_is_its_own() {
        let target_ref = target("apps/v1", "Deployment");
        let found = FoundTarget { target_ref, selector: "app=chat".into(), adopted: vec!["old-5f6d".into()] };
        for (kind, name, owns) in [
            ("ReplicaSet", "old-5f6d", true),
            ("ReplicaSet", "older-5f6d", false),
            ("StatefulSet", "old-5f6d", false),
            ("ReplicaSet", "chat-5f6d", true),
        ] {
            let by = Controller { kind: kind.into(), name: name.into() };
            let labels = [("pod-template-hash".to_owned(), "5f6d".to_owned())].into();
            assert_eq!(found.owns(Some(&by), &labels), owns, "{kind} {name}");
        }
    }

    #[test]
    fn a_pod_tells_of_the_outermost_workload_that_owns_it() {
        let replica_set = ("ReplicaSet", "chat-5f6d");
        for ((kind, name), labels, owner) in [
            (replica_set, vec![("pod-template-hash", "5f6d")], "Deployment/chat"),
            (replica_set, vec![("pod-template-hash", "77aa")], "ReplicaSet/chat-5f6d"),
            (replica_set, vec![], "ReplicaSet/chat-5f6d"),
            (("ReplicaSet", "-5f6d"), vec![("pod-template-hash", "5f6d")], "ReplicaSet/-5f6d"),
            (("StatefulSet", "db"), vec![], "StatefulSet/db"),
            (("Job", "sweep-0"), vec![("jobset.sigs.k8s.io/jobset-name", "sweep")], "JobSet/sweep"),
            (("StatefulSet", "serve-1"), vec![("leaderworkerset.sigs.k8s.io/name", "serve")], "LeaderWorkerSet/serve"),
            (
                replica_set,
                vec![("pod-template-hash", "5f6d"), ("serving.kserve.io/inferenceservice", "llama")],
                "InferenceService/llama",
            ),
            (
                replica_set,
                vec![("app.kubernetes.io/name", "llama"), ("app.kubernetes.io/part-of", "llminferenceservice")],
                "LLMInferenceService/llama",
            ),
            (replica_set, vec![("app.kubernetes.io/part-of", "llminferenceservice")], "ReplicaSet/chat-5f6d"),
        ] {
            let labels: Labels = labels.into_iter().map(|(key, value)| (key.to_owned(), value.to_owned())).collect();
            let by = Controller { kind: kind.into(), name: name.into() };
            assert_eq!(outermost(Some(&by), &labels).unwrap().to_string(), owner);
            assert_eq!(outermost(None, &labels), None, "labels alone make no owner");
        }
    }

    #[test]
    fn kserves_kinds_are_told_by_labels_that_lead_back_to_them_whatever_their_version() {
        for (api_version, kind, selector) in [
            ("serving.kserve.io/v1beta1", "InferenceService", "serving.kserve.io/inferenceservice=chat"),
            (
                "serving.kserve.io/v1alpha2",
                "LLMInferenceService",
                "app.kubernetes.io/name=chat,app.kubernetes.io/part-of=llminferenceservice",
            ),
            (
                "serving.kserve.io/v1",
                "LLMInferenceService",
                "app.kubernetes.io/name=chat,app.kubernetes.io/part-of=llminferenceservice",
            ),
        ] {
            let SelectorAt::Labels(labels) = target(api_version, kind).selector_at() else {
                panic!("{api_version} {kind}")
            };
            let text: Vec<_> = labels.iter().map(|(key, value)| format!("{key}={value}")).collect();
            assert_eq!(text.join(","), selector);
            let by = Controller { kind: "ReplicaSet".into(), name: "chat-5f6d".into() };
            let owner = outermost(Some(&by), &labels).unwrap();
            assert_eq!((owner.kind.as_str(), owner.name.as_str()), (kind, "chat"), "and the other way");
        }
        for (api_version, kind) in
            [("example.com/v1", "InferenceService"), ("serving.kserve.io/v1beta1", "TrainedModel")]
        {
            assert_eq!(target(api_version, kind).selector_at(), SelectorAt::Scale, "{api_version} {kind}");
        }
    }

    #[test]
    fn jobs_and_daemon_sets_have_no_scale() {
        for (api_version, kind, at) in [
            ("batch/v1", "Job", SelectorAt::Spec),
            ("apps/v1", "DaemonSet", SelectorAt::Spec),
            ("apps/v1", "Deployment", SelectorAt::Scale),
            ("example.com/v1", "Job", SelectorAt::Scale),
        ] {
            assert_eq!(target(api_version, kind).selector_at(), at);
        }
        assert_eq!(target("v1", "ReplicationController").group_version(), ("", "v1"));
    }
}
