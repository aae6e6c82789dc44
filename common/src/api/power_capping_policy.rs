//! `PowerCappingPolicy`: a cap for the pods that it selects.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, LabelSelector};
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Action, AlgorithmSpec, Escalated, PendingAction, RecommendedRequests, ResourcePolicy, Rung, later};

/// A power cap for the pods that it selects, in their own namespace.
#[derive(CustomResource, KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[kube(
    group = "powercapping.io",
    version = "v1alpha1",
    kind = "PowerCappingPolicy",
    plural = "powercappingpolicies",
    shortname = "pcp",
    category = "powercap",
    namespaced,
    status = "PowerCappingPolicyStatus",
    doc = "A power cap for the pods that it selects, in their own namespace.",
    derive = "PartialEq",
    printcolumn(name = "Mode", type_ = "string", json_path = ".spec.mode"),
    printcolumn(name = "Cap W", type_ = "integer", json_path = ".spec.powerCapLimitWatts"),
    printcolumn(name = "Power W", type_ = "integer", json_path = ".status.currentPowerWatts"),
    printcolumn(name = "Pods", type_ = "integer", json_path = ".status.matchedPods"),
    printcolumn(
        name = "Triggered",
        type_ = "string",
        json_path = r#".status.conditions[?(@.type=="CapTriggered")].status"#
    ),
    printcolumn(name = "Within", type_ = "string", json_path = r#".status.conditions[?(@.type=="WithinCap")].status"#),
    printcolumn(name = "Reason", type_ = "string", json_path = r#".status.conditions[?(@.type=="Ready")].reason"#),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("self.releaseThresholdPercent < self.cappingThresholdPercent")
    .message("releaseThresholdPercent must be below cappingThresholdPercent, or capping would switch on and off at every reading; write for example 85 and 95")
    .field_path(".releaseThresholdPercent"))]
#[x_kube(validation = Rule::new("has(self.selector) != has(self.targetRef)")
    .message("write exactly one of selector and targetRef: the cap is for the pods with these labels, or for those of this workload"))]
pub struct PowerCappingPolicySpec {
    /// The most power that the selected pods may draw together, in watts (1 to 100,000,000).
    #[schemars(range(min = 1, max = 100_000_000))]
    pub power_cap_limit_watts: u32,

    /// What counts against the cap: the pods' devices (GPUs), or also the power of their CPU use as
    /// Kepler attributes it.
    #[serde(default)]
    pub power_scope: PowerScope,

    /// The pods of this namespace that the cap is for, by their labels; either this or `targetRef`. Never
    /// empty: a cap on everything is a PowerDomain.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = Rule::new("(has(self.matchLabels) && size(self.matchLabels) > 0) || (has(self.matchExpressions) && size(self.matchExpressions) > 0)")
        .message("selector must name at least one label, for example matchLabels: {app: llm}; to cap everything on some nodes write a PowerDomain"))]
    pub selector: Option<LabelSelector>,

    /// The workload of this namespace that the cap is for: a Deployment, StatefulSet, DaemonSet, Job,
    /// ReplicaSet, KServe's InferenceService or LLMInferenceService, or anything else with a scale subresource
    /// that tells its selector.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub target_ref: Option<TargetRef>,

    /// Capping begins when power reaches this share of the cap (2 to 100 percent).
    #[serde(default = "default_capping_threshold_percent")]
    #[schemars(range(min = 2, max = 100))]
    pub capping_threshold_percent: u32,

    /// Ceilings are raised again when power has fallen below this share of the cap (1 to 99 percent).
    #[serde(default = "default_release_threshold_percent")]
    #[schemars(range(min = 1, max = 99))]
    pub release_threshold_percent: u32,

    /// Whether the policy acts. `Advise` measures, recommends and reports, and changes nothing.
    #[serde(default)]
    pub mode: Mode,

    /// Under a node's grant, devices of a policy with a lower priority give up their watts first (0 to
    /// 1,000).
    #[serde(default)]
    #[schemars(range(max = 1000))]
    pub priority: u32,

    /// How the cap is shared out to the pods' devices.
    #[serde(default)]
    pub algorithm: AlgorithmSpec,

    /// How far the policy may slow its devices. Its own cap is given up before this is (condition
    /// `Feasible`); a domain's cap and a brake are not.
    #[serde(default)]
    pub performance: Performance,

    /// What may be done beyond lower clocks while these are at their floor and power is still above the cap, in this
    /// order. The list is the whole permission; by default nothing else.
    #[serde(default = "default_escalation", deserialize_with = "later::words")]
    #[schemars(length(min = 1, max = 6), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["action"]))]
    #[x_kube(validation = Rule::new("self[0].action == 'Throttle'")
        .message("escalation must begin with Throttle, which is reversible and the fastest; write - action: Throttle before the others"))]
    pub escalation: Vec<Rung>,

    /// What admission may set on new pods of the policy, in namespaces that have opted in by the label
    /// `powercapping.io/admission: enabled`.
    #[serde(default)]
    pub resource_policy: ResourcePolicy,
}

/// How far a policy may slow its devices. Of two bounds the stricter counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Performance {
    /// The lowest clock that the policy asks of a device, as a share of the highest that the device reaches
    /// (1 to 100 percent).
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 100))]
    pub min_frequency_percent: Option<u32>,
    /// How much slower work may become (0 to 99 percent). Until the work of a device at each clock is known
    /// it counts as proportional to the clock: 20 percent slower is 80 percent of the highest clock.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(max = 99))]
    pub max_slowdown_percent: Option<u32>,
}

fn default_escalation() -> Vec<Rung> {
    vec![Rung::default()]
}

fn default_capping_threshold_percent() -> u32 {
    95
}

fn default_release_threshold_percent() -> u32 {
    85
}

/// A workload, in the policy's own namespace.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct TargetRef {
    /// Its group and version, `apps/v1`.
    #[schemars(length(min = 1, max = 317))]
    #[x_kube(validation = Rule::new("self.matches('^([a-z0-9.-]+/)?v[0-9]+((alpha|beta)[0-9]+)?$')")
        .message("apiVersion must be a group and a version, for example apps/v1"))]
    pub api_version: String,
    /// Its kind, `Deployment`.
    #[schemars(length(min = 1, max = 63))]
    pub kind: String,
    /// Its name.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
}

/// What counts against a policy's cap.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum PowerScope {
    /// The pods' GPUs.
    #[default]
    Devices,
    /// The pods' GPUs and the power of their CPU use (Kepler's `kepler_pod_cpu_watts`).
    DevicesAndHost,
}

/// Whether a policy acts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
pub enum Mode {
    /// Nothing is measured and nothing is changed.
    Off,
    /// Measures, recommends and reports; changes nothing.
    #[default]
    Advise,
    /// Keeps the cap.
    Enforce,
}

/// What the recommender knows of the policy's pods.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct PowerCappingPolicyStatus {
    /// Ready, DataFresh, CapTriggered, WithinCap, Feasible; SourcesAgree, HistoryRead, UseKnown and WattsCurrent
    /// while they do not hold,
    /// Permitted while a domain permits less than is asked for, and Overlapped while a policy that comes first
    /// selects some of its devices too. Escalating while there is something to be done beyond lower clocks, by the
    /// escalating actuator.
    #[serde(default)]
    #[schemars(length(max = 16), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
    /// The power of the selected pods at the last reading, in watts; absent when it is not known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub current_power_watts: Option<u32>,
    /// The most that they drew in the recommender's window of the past (a day, by default), in watts.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub peak_power_watts: Option<u32>,
    /// The most that they are expected to draw, in watts: the peaks of the window, each of which counts half as
    /// much after a half-life (a day, by default).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub forecast_power_watts: Option<u32>,
    /// Running pods that the selector matches.
    #[serde(default)]
    pub matched_pods: u32,
    /// GPUs of these pods.
    #[serde(default)]
    pub matched_devices: u32,
    /// The lowest clock ceiling that the policy asks for on its devices now (in mode `Advise`: would ask
    /// for), in megahertz; absent when it asks for none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub recommended_max_megahertz: Option<u32>,
    /// The lowest power limit that the policy asks for on its devices, in watts.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub recommended_device_watts: Option<u32>,
    /// Watts of the cap that are kept for the CPU use of the pods; absent when none are.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub host_reserve_watts: Option<u32>,
    /// What `targetRef` led to when it was last found. Its pods stay capped while it cannot be read.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub target: Option<FoundTarget>,
    /// Of its pods, those whose devices a cap holds back now, be it this policy's or another.
    #[serde(default)]
    pub capped_pods: u32,
    /// Of these pods those that are held back most: at most 16.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["pod".into()]))]
    pub capped: Vec<CappedPod>,
    /// Pods that draw more than their share of the cap: those that do so most, by name.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 10), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["pod"]))]
    pub violators: Vec<Violator>,
    /// How many pods do so; above ten within a tenth.
    #[serde(default)]
    pub violator_count: u32,
    /// What new pods should request; absent until enough is known of such pods.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub recommendation: Option<RecommendedRequests>,
    /// Running pods of the policy whose watts request is absent or outside what is recommended. They count with
    /// the greater of what they request and what they are expected to draw, and are right once they are made anew.
    #[serde(default)]
    pub watts_stale_pods: u32,
    /// The first of them, by name.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 10), inner(length(min = 1, max = 253)), extend("x-kubernetes-list-type" = "set"))]
    pub watts_stale: Vec<String>,
    /// What is to be done beyond lower clocks, in the order in which it is done: as much as brings power under the
    /// cap, at most 100. In mode `Advise` nobody does it.
    #[serde(default, skip_serializing_if = "Vec::is_empty", deserialize_with = "later::words")]
    #[schemars(length(max = 100))]
    pub pending_actions: Vec<PendingAction>,
    /// How many that would be.
    #[serde(default)]
    pub pending_action_count: u32,
    /// How far up its ladder the policy is. Written by the escalating actuator alone.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub escalated: Option<Escalated>,
    /// The generation of the spec that this status speaks of.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
}

/// The workload that `targetRef` led to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct FoundTarget {
    /// The reference, as it was then.
    pub target_ref: TargetRef,
    /// Which pods it selects, as text: `app=chat,tier in (gold,iron)`.
    #[schemars(length(max = 8192))]
    pub selector: String,
    /// ReplicaSets of a Deployment that are not called after it: it adopted them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16), inner(length(max = 253)))]
    pub adopted: Vec<String>,
}

/// A pod of the policy whose devices a cap holds back.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct CappedPod {
    /// Its name.
    #[schemars(length(max = 253))]
    pub pod: String,
    /// Its GPUs that are held back.
    pub devices: u32,
    /// The lowest clock ceiling among them, in megahertz, as their node's agent holds it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ceiling_megahertz: Option<u32>,
    /// The lowest power limit in force among them, in watts.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub power_limit_watts: Option<u32>,
    /// Why the slowest of them is held back, as its node's agent says: one of the documented reasons.
    #[schemars(length(max = 64))]
    pub reason: String,
    /// Whose cap it is: `powerdomain/NAME` or `powercappingpolicy/NAMESPACE/NAME`; absent where that is not
    /// known.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 384))]
    pub set_by: Option<String>,
}

/// A pod that draws more than its share of its policy's cap.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Violator {
    /// Its name.
    #[schemars(length(min = 1, max = 253))]
    pub pod: String,
    /// What it draws, as the mean of about a minute, in watts.
    pub power_watts: u32,
    /// Its share of the cap, in watts: the power limits of its devices, and an equal part of what is kept for CPUs.
    pub share_watts: u32,
    /// In how much of the past that is known of it, at most the recommender's window, its mean power was above
    /// this share (0 to 100 percent of the half hours, by default); absent while nothing is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(max = 100))]
    pub window_percent: Option<u32>,
    /// What brings it down to its share.
    pub recommendation: Recommendation,
}

/// What brings a pod down to its share.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Recommendation {
    /// What to do; in mode `Enforce` it is being done.
    pub action: Action,
    /// The clock ceiling of its devices, in megahertz; absent when none is needed yet.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_megahertz: Option<u32>,
    /// The power limit of each of its devices, in watts; absent for a pod without devices.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub device_watts: Option<u32>,
}
