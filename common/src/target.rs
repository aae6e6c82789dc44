//! Workloads that a policy may name in the place of labels: where their selector stands, and whose a pod is.
//!
//! Labels alone may match pods of others. A pod's controller is asked as well, as far as it tells:
//!
//! ```text
//!   Deployment                          ─▶ ReplicaSet NAME-HASH ─▶ pod      HASH: the pod's pod-template-hash
//!   ReplicaSet, StatefulSet, DaemonSet,
//!   Job, ReplicationController          ───────────────────────▶ pod
//!   any other kind                      ─▶ what only its author knows       labels alone decide
//! ```

use std::fmt;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::{Deserialize, Serialize};

use crate::{api::TargetRef, selector::Labels};

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

/// Where a workload's selector stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SelectorAt {
    /// `spec.selector` of the object.
    Spec,
    /// `status.selector` of its scale subresource.
    Scale,
}

/// The label by which the pods of one ReplicaSet of a Deployment differ from those of the others.
const TEMPLATE: &str = "pod-template-hash";

impl TargetRef {
    /// The group, empty for Kubernetes' own first kinds, and the version.
    #[must_use]
    pub fn group_version(&self) -> (&str, &str) {
        self.api_version.split_once('/').unwrap_or(("", &self.api_version))
    }

    /// Where its selector stands. Jobs and DaemonSets cannot be scaled.
    #[must_use]
    pub fn selector_at(&self) -> SelectorAt {
        match (self.group_version().0, self.kind.as_str()) {
            ("batch", "Job") | ("apps", "DaemonSet") => SelectorAt::Spec,
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
            _ => true,
        }
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
            ("example.com/v1", "Job", None, true),
        ] {
            let owned = target(api_version, kind).owns(controller.as_ref(), &labels);
            assert_eq!(owned, owns, "{api_version} {kind} {controller:?}");
        }
        let bare = target("apps/v1", "Deployment").owns(by("ReplicaSet", "chat-5f6d").as_ref(), &Labels::new());
        assert!(!bare, "a pod without the hash is of no ReplicaSet of a Deployment");
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
