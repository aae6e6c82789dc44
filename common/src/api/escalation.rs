//! The ladder: what a policy permits when clocks can go no lower, and what stands to be done.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::later;

/// One rung of the ladder that a policy permits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Rung {
    /// What may be done.
    pub action: Action,
    /// How long the rung before must have stood at its floor, with power still above the cap, before this one
    /// begins, in seconds (0 to 86,400). A freeze waits for nothing: it begins with the first throttle.
    #[serde(default)]
    #[schemars(range(max = 86_400))]
    pub after_seconds: u32,
}

/// What can be done to a pod or its workload.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
pub enum Action {
    /// Its devices get a lower clock or power limit.
    #[default]
    Throttle,
    /// Its workload gets no more replicas than it has.
    Freeze,
    /// Its containers get a lower CPU limit, in place.
    Resize,
    /// Its workload gets fewer replicas.
    Scale,
    /// It is evicted, and made anew where there are watts for it.
    Migrate,
    /// It is evicted.
    Evict,
}

/// What is to be done to a workload, or to one pod of it, as long as it stands here.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct PendingAction {
    /// Which rung it is.
    pub action: Action,
    /// The namespace of the workload.
    #[schemars(length(min = 1, max = 63))]
    pub namespace: String,
    /// The workload, as `Kind/name`: the outermost that is known to own the pod.
    #[schemars(length(min = 1, max = 320))]
    pub workload: String,
    /// The pod, where one is meant; a freeze and a change of replicas are for the workload, and the ranks of a job
    /// go together. A pod of a LeaderWorkerSet stands for all of its group.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub pod: Option<String>,
    /// What it is expected to free, in watts at the devices; a change of replicas so much by each.
    pub frees_watts: u32,
    /// Why: one of the documented reasons.
    #[schemars(length(max = 64))]
    pub reason: String,
    /// Since when clocks have been at their floor with power above the cap; of a freeze, since when the cap
    /// throttles.
    pub since: Time,
}

/// How far up its ladder a policy is, as the escalating actuator says.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Escalated {
    /// The highest rung of which something is in force.
    #[serde(default, deserialize_with = "later::word")]
    pub rung: Action,
    /// The highest rung at which nothing is left to do.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "later::some_word")]
    pub exhausted: Option<Action>,
    /// Since when that is so.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exhausted_since: Option<Time>,
    /// How many actions in a row did not bring the watts down.
    #[serde(default)]
    pub without_effect: u32,
    /// When something was last done, or undone.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_action: Option<Time>,
    /// What that was. Stands here before it is done, so that whoever leads next neither forgets nor repeats it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last: Option<Deed>,
    /// What was done together with it, where more than one thing at a time is permitted.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 31))]
    pub beside: Vec<Deed>,
    /// The pod of it that is being moved to another node, as long as it is. Admission has what is made in its place
    /// prefer that node.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub migration: Option<Migration>,
}

impl Escalated {
    /// What was last done, and what was done together with it.
    pub fn deeds(&self) -> impl Iterator<Item = &Deed> {
        self.last.iter().chain(&self.beside)
    }

    /// The same without some of what was last done.
    #[must_use]
    pub fn without(&self, not_done: impl Fn(&Deed) -> bool) -> Self {
        let mut stands = self.deeds().filter(|deed| !not_done(deed)).cloned();
        Self { last: stands.next(), beside: stands.collect(), ..self.clone() }
    }

    /// What was last done has had its time.
    pub fn forget(&mut self) {
        self.last = None;
        self.beside.clear();
    }
}

/// A pod on its way from one node to another. Stands here before anything of it is done.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Migration {
    /// The pod.
    #[schemars(length(min = 1, max = 253))]
    pub pod: String,
    /// Its UID.
    #[schemars(length(max = 64))]
    pub uid: String,
    /// What makes it anew, as `Kind/name`: its controller.
    #[schemars(length(min = 1, max = 320))]
    pub controller: String,
    /// The node that it leaves.
    #[schemars(length(min = 1, max = 253))]
    pub source: String,
    /// The nodes where a place was held for it, in this order: it is to go to the last.
    #[schemars(length(min = 1, max = 3), inner(length(min = 1, max = 253)))]
    pub destinations: Vec<String>,
    /// When it was evicted; absent while it was not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub evicted: Option<Time>,
    /// When what is awaited now is given up.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub until: Option<Time>,
}

impl Migration {
    /// Where it is to go.
    #[must_use]
    pub fn destination(&self) -> &str {
        self.destinations.last().map_or("", String::as_str)
    }
}

/// Something that was done to a workload.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Deed {
    /// Which rung it is.
    pub action: Action,
    /// Whether it was undone, rather than done.
    #[serde(default)]
    pub undone: bool,
    /// The workload, as `Kind/name`.
    #[schemars(length(min = 1, max = 320))]
    pub workload: String,
    /// The pod, where one alone was meant.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 253))]
    pub pod: Option<String>,
    /// The UID of the pod, or else of the workload.
    #[schemars(length(max = 64))]
    pub uid: String,
    /// The domain that it was done for; absent where it was for the policy's own cap.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 253))]
    pub domain: Option<String>,
    /// What it was expected to free, in watts at the devices.
    pub frees_watts: u32,
    /// The power that the cap is about, before, in watts; absent when it was not known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub power_watts: Option<u32>,
}
