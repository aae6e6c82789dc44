//! `PowerCappingPolicy`: a cap for the pods that it selects.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, LabelSelector};
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

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
pub struct PowerCappingPolicySpec {
    /// The most power that the selected pods may draw together, in watts (1 to 100,000,000).
    #[schemars(range(min = 1, max = 100_000_000))]
    pub power_cap_limit_watts: u32,

    /// What counts against the cap: the pods' devices (GPUs), or also the power of their CPU use as
    /// Kepler attributes it.
    #[serde(default)]
    pub power_scope: PowerScope,

    /// The pods of this namespace that the cap is for. Never empty: a cap on everything is a PowerDomain.
    #[x_kube(validation = Rule::new("(has(self.matchLabels) && size(self.matchLabels) > 0) || (has(self.matchExpressions) && size(self.matchExpressions) > 0)")
        .message("selector must name at least one label, for example matchLabels: {app: llm}; to cap everything on some nodes write a PowerDomain"))]
    pub selector: LabelSelector,

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
}

fn default_capping_threshold_percent() -> u32 {
    95
}

fn default_release_threshold_percent() -> u32 {
    85
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
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
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
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PowerCappingPolicyStatus {
    /// Ready, DataFresh, CapTriggered, WithinCap, Feasible; SourcesAgree and HistoryRead while they do not hold.
    #[serde(default)]
    #[schemars(length(max = 16))]
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
    /// The clock ceiling that the policy asks for on its devices now (in mode `Advise`: would ask
    /// for), in megahertz; absent when it asks for none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub recommended_max_megahertz: Option<u32>,
    /// The power limit that the policy asks for on each of its devices, in watts.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub recommended_device_watts: Option<u32>,
    /// Pods that draw more than their share of the cap: those that do so most, by name.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 10), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["pod"]))]
    pub violators: Vec<Violator>,
    /// How many pods do so; above ten within a tenth.
    #[serde(default)]
    pub violator_count: u32,
    /// The generation of the spec that this status speaks of.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
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

/// What can be done to a pod.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Action {
    /// Its devices get a lower clock or power limit.
    #[default]
    Throttle,
}
