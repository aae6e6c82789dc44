//! `NodeFrequencies`: what one node may draw and how fast its devices may run, and what really holds.
//!
//! The spec is written by the recommender alone, the status by that node's agent alone.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::later;

/// The power granted to one node, the ceilings of its devices, and what really holds there.
#[derive(CustomResource, KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[kube(
    group = "powercapping.io",
    version = "v1alpha1",
    kind = "NodeFrequencies",
    plural = "nodefrequencies",
    shortname = "nf",
    category = "powercap",
    status = "NodeFrequenciesStatus",
    doc = "The power granted to one node, the ceilings of its devices, and what really holds there. Written by the recommender and the node's agent.",
    derive = "PartialEq",
    derive = "Default",
    validation = Rule::new("self.metadata.name == self.spec.nodeName")
        .message("metadata.name must be the node's name: a node has one NodeFrequencies and finds it by that name"),
    printcolumn(name = "Grant W", type_ = "integer", json_path = ".spec.powerLimitWatts"),
    printcolumn(name = "Acknowledged W", type_ = "integer", json_path = ".status.acknowledged.powerLimitWatts"),
    printcolumn(name = "Power W", type_ = "integer", json_path = ".status.powerWatts"),
    printcolumn(name = "GPUs", type_ = "integer", json_path = ".status.gpuCount"),
    printcolumn(name = "Ceiling MHz", type_ = "integer", json_path = ".status.lowestTargetMegahertz"),
    printcolumn(name = "Ready", type_ = "string", json_path = r#".status.conditions[?(@.type=="Ready")].status"#),
    printcolumn(name = "Reason", type_ = "string", json_path = r#".status.conditions[?(@.type=="Ready")].reason"#),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("self.epoch.term > oldSelf.epoch.term || (self.epoch.term == oldSelf.epoch.term && self.epoch.sequence >= oldSelf.epoch.sequence)")
    .message("epoch must never go back: a recommender that is no longer the leader may not write; let the present leader write, or delete the object"))]
pub struct NodeFrequenciesSpec {
    /// The node. Immutable, and the object's own name.
    #[schemars(length(min = 1, max = 253))]
    #[x_kube(validation = Rule::new("self == oldSelf").message("nodeName is immutable; delete the object and let the recommender make one for the other node"))]
    pub node_name: String,

    /// Who decided, and which of its decisions this is.
    pub epoch: Epoch,

    /// Names of the domains whose caps the grant serves.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32))]
    #[x_kube(merge_strategy = ListMerge::Set)]
    pub domains: Vec<String>,

    /// The grant: alternating current that this node may draw, in watts. Absent: no domain limits it.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1_000_000))]
    pub power_limit_watts: Option<u32>,

    /// The most that this node may still be drawing under what it was promised: the highest grant since
    /// the one that it last acknowledged, in watts. Stored here so that it survives a change of leader.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub committed_watts: Option<u32>,

    /// Watts at the devices that the node may offer to new pods, beside what its pods request already: its agent
    /// advertises both together as the resource `powercapping.io/watts`. Absent: it advertises no more than they
    /// request.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(max = 1_000_000))]
    pub offer_watts: Option<u32>,

    /// What the node's pods requested when the offer was made, in watts: pods that came since have used up as much
    /// of it, so that no watt is offered twice.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub requested_watts: Option<u32>,

    /// The most that the node may still advertise under what it was told: the highest sum of `requestedWatts` and
    /// `offerWatts` since the one that it last acknowledged, in watts. Stored here so that it survives a change of
    /// leader.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub committed_offer_watts: Option<u32>,

    /// What the node draws beside the devices that its agent measures, by its domain's rule.
    #[serde(default)]
    pub node_overhead: NodeOverhead,

    /// Ceilings of GPUs, one for each.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["uuid".into()]))]
    pub gpu_frequencies: Vec<GpuCeiling>,

    /// Ceilings of CPUs, one for each cpufreq policy.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 512))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["cpufreqPolicy".into()]))]
    pub cpu_frequencies: Vec<CpuCeiling>,

    /// How long the node keeps to this without a sign of life from the recommender, and what then.
    /// Absent: for ever.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lease: Option<LeaseTerms>,

    /// Take every ceiling off and put the devices back as they were. Only this releases: silence, a
    /// deleted object or a restart never does.
    #[serde(default)]
    pub release: bool,
}

/// What a node does when the recommender's leader Lease is no longer renewed. Nothing here ever raises
/// a ceiling.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("self.onExpiry != 'Fallback' || has(self.fallbackWatts)")
    .message("onExpiry Fallback needs fallbackWatts; write the watts to fall back to, or onExpiry: Hold"))]
pub struct LeaseTerms {
    /// How long after the last renewal that the agent saw the lease has expired, by the node's monotonic
    /// clock (10 to 86,400 seconds).
    #[schemars(range(min = 10, max = 86_400))]
    pub duration_seconds: u32,
    /// What then.
    #[serde(default)]
    pub on_expiry: OnExpiry,
    /// Alternating current that the node may draw after an expiry with `Fallback`, and under a brake
    /// with `Fallback`, in watts; never more than the grant.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1_000_000))]
    pub fallback_watts: Option<u32>,
}

/// What a node does when its lease has expired.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum OnExpiry {
    /// The last grant and ceilings stand.
    #[default]
    Hold,
    /// The node goes down to `fallbackWatts`.
    Fallback,
}

/// Who decided, and which of its decisions it is. Compared as a pair: a later term wins over any
/// sequence of an earlier one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Epoch {
    /// How often leadership has changed hands.
    #[schemars(range(min = 0))]
    pub term: i64,
    /// The count of decisions in this term.
    #[schemars(range(min = 0))]
    pub sequence: i64,
}

/// What a node draws beside the devices that its agent measures: fans, network cards, memory, and the
/// loss of its power supplies.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct NodeOverhead {
    /// Watts that are always there (on an 8-GPU node about 2,000).
    #[serde(default)]
    #[schemars(range(max = 1_000_000))]
    pub static_watts: u32,
    /// A share of everything, for the loss of the power supplies and the error of the devices' meters
    /// (0 to 50 percent).
    #[serde(default)]
    #[schemars(range(max = 50))]
    pub percent: u32,
}

/// The ceiling of one GPU.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct GpuCeiling {
    /// The GPU, as NVML names it: `GPU-…`.
    #[schemars(length(min = 1, max = 96))]
    pub uuid: String,
    /// The highest graphics clock, in megahertz; the agent rounds it down to the board's own grid.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 100_000))]
    pub max_graphics_megahertz: Option<u32>,
    /// The most this GPU may draw, in watts.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 100_000))]
    pub power_limit_watts: Option<u32>,
    /// Under a grant, GPUs with a lower number give up their watts first (0 to 1,000).
    #[serde(default)]
    #[schemars(range(max = 1000))]
    pub shed_order: u32,
    /// GPUs of one group run at one clock: ranks of a job, of which the slowest decides.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 384))]
    pub group: Option<String>,
    /// Why: one of the documented reasons.
    #[schemars(length(max = 64))]
    pub reason: String,
    /// Whose cap it serves: `powerdomain/NAME` or `powercappingpolicy/NAMESPACE/NAME`.
    #[schemars(length(max = 384))]
    pub set_by: String,
}

/// The ceiling of the CPUs of one cpufreq policy.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct CpuCeiling {
    /// The number N of `/sys/devices/system/cpu/cpufreq/policyN`.
    #[schemars(range(max = 65_535))]
    pub cpufreq_policy: u32,
    /// The highest clock, in megahertz; the agent and the driver round it down.
    #[schemars(range(min = 1, max = 100_000))]
    pub max_megahertz: u32,
    /// Why: one of the documented reasons.
    #[schemars(length(max = 64))]
    pub reason: String,
    /// Whose cap it serves.
    #[schemars(length(max = 384))]
    pub set_by: String,
}

/// What really holds on the node.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct NodeFrequenciesStatus {
    /// Ready, and LeaseCurrent where there is a lease.
    #[serde(default)]
    #[schemars(length(max = 16))]
    pub conditions: Vec<Condition>,
    /// The last decision of which every ceiling was read back and below whose grant power was measured.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub acknowledged: Option<Acknowledged>,
    /// Alternating current of the node as its agent reckons it (devices and overhead), in watts.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub power_watts: Option<u32>,
    /// The grant less the overhead: what the agent enforces on its devices, in watts.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub envelope_watts: Option<u32>,
    /// GPUs that the agent sees.
    #[serde(default)]
    pub gpu_count: u32,
    /// The lowest clock ceiling that the agent holds on a GPU now, in megahertz.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lowest_target_megahertz: Option<u32>,
    /// Each GPU.
    #[serde(default)]
    #[schemars(length(max = 64))]
    pub gpus: Vec<GpuStatus>,
    /// Each cpufreq policy.
    #[serde(default)]
    #[schemars(length(max = 512))]
    pub cpus: Vec<CpuStatus>,
    /// Changes with every boot of the node, at which limits are lost.
    #[serde(rename = "bootID", skip_serializing_if = "Option::is_none")]
    pub boot_id: Option<String>,
    /// When the agent last wrote this status.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub heartbeat_time: Option<Time>,
    /// The generation of the spec that this status speaks of.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
}

/// A decision that holds on the node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Acknowledged {
    /// Which decision.
    pub epoch: Epoch,
    /// Its grant, in watts; absent where it granted without a limit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub power_limit_watts: Option<u32>,
}

/// How far a device is with what was asked of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum DeviceState {
    /// Written, not read back yet.
    #[default]
    Pending,
    /// Read back.
    Applied,
    /// The write or the read failed; the last ceiling stands.
    Failed,
    /// Something else changed what was set; it was set again, or the device was yielded to it.
    Drifted,
    /// The device lacks the control.
    Unsupported,
    /// The device was lost or needs a reset; it counts with the most that it can draw.
    Quarantined,
}

/// One GPU: what it is and can do, and what holds.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct GpuStatus {
    /// As NVML names it.
    pub uuid: String,
    /// The product's name.
    pub model: String,
    /// The lowest clock that it can be held to, in megahertz.
    pub min_graphics_megahertz: u32,
    /// Its highest clock, in megahertz.
    pub max_graphics_megahertz: u32,
    /// The lowest power limit that it takes, in watts.
    pub min_power_limit_watts: u32,
    /// The highest power limit that it takes, in watts.
    pub max_power_limit_watts: u32,
    /// Its clock now, in megahertz.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub current_graphics_megahertz: Option<u32>,
    /// The clock ceiling that the agent holds now, in megahertz; absent when it holds none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub target_graphics_megahertz: Option<u32>,
    /// The power limit in force, read back, in watts.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub power_limit_watts: Option<u32>,
    /// Its power now, in watts.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub power_watts: Option<u32>,
    /// What can be read and set on it.
    #[serde(default, skip_serializing_if = "Vec::is_empty", deserialize_with = "later::words")]
    #[schemars(length(max = 8))]
    pub capabilities: Vec<Capability>,
    /// The pods that hold it, by the kubelet's PodResources: several where it is shared or split, an empty
    /// list where none does; absent while that is not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub tenants: Option<Vec<Tenant>>,
    /// How far it is.
    #[serde(deserialize_with = "later::word")]
    pub state: DeviceState,
    /// Why it runs at this ceiling, or why it failed.
    pub reason: String,
}

/// What can be read or set on a GPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
pub enum Capability {
    /// A range of graphics clocks can be locked.
    ClockRange,
    /// A power limit can be set.
    PowerLimit,
    /// Its power is read as it is now, not as a mean over a second.
    InstantaneousPower,
    /// It is split into MIG instances, which cannot be capped one by one.
    Partitioned,
}

/// A pod that holds a device.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Tenant {
    /// Its namespace.
    #[schemars(length(max = 63))]
    pub namespace: String,
    /// Its name.
    #[schemars(length(max = 253))]
    pub name: String,
}

/// The CPUs of one cpufreq policy: what they can do, and what holds.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct CpuStatus {
    /// The number N of `policyN`.
    pub cpufreq_policy: u32,
    /// The lowest clock, in megahertz.
    pub min_megahertz: u32,
    /// The highest clock, in megahertz.
    pub max_megahertz: u32,
    /// The clock now, in megahertz.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub current_megahertz: Option<u32>,
    /// The ceiling in force, read back, in megahertz.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub target_megahertz: Option<u32>,
    /// How far it is.
    #[serde(deserialize_with = "later::word")]
    pub state: DeviceState,
    /// Why it runs at this ceiling, or why it failed.
    pub reason: String,
}
