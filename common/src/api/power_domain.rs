//! `PowerDomain`: a physical power budget at a meter: a rack, a row, a cluster.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, LabelSelector};
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{AlgorithmSpec, Mode, NodeOverhead, PendingAction, later};

/// A physical power budget at a meter: a rack, a row, a cluster.
#[derive(CustomResource, KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[kube(
    group = "powercapping.io",
    version = "v1alpha1",
    kind = "PowerDomain",
    plural = "powerdomains",
    shortname = "pd",
    category = "powercap",
    status = "PowerDomainStatus",
    doc = "A physical power budget at a meter: a rack, a row, a cluster.",
    derive = "PartialEq",
    validation = Rule::new("!has(self.spec.parentRef) || self.spec.parentRef.name != self.metadata.name")
        .message("parentRef.name must name another domain: none stands within itself; name the one around it, or take parentRef away")
        .field_path(".spec.parentRef.name"),
    printcolumn(name = "Cap W", type_ = "integer", json_path = ".spec.powerCapLimitWatts"),
    printcolumn(name = "Power W", type_ = "integer", json_path = ".status.currentPowerWatts"),
    printcolumn(name = "Unattributed W", type_ = "integer", json_path = ".status.unattributedWatts", priority = 1),
    printcolumn(name = "Committed W", type_ = "integer", json_path = ".status.committedWatts"),
    printcolumn(name = "Headroom W", type_ = "integer", json_path = ".status.headroomWatts"),
    printcolumn(name = "Nodes", type_ = "integer", json_path = ".status.nodes"),
    printcolumn(name = "Parent", type_ = "string", json_path = ".spec.parentRef.name", priority = 1),
    printcolumn(name = "Brake", type_ = "string", json_path = ".spec.brake", priority = 1),
    printcolumn(name = "Within", type_ = "string", json_path = r#".status.conditions[?(@.type=="WithinCap")].status"#),
    printcolumn(name = "Reason", type_ = "string", json_path = r#".status.conditions[?(@.type=="Ready")].reason"#),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("self.unmanagedWatts < self.powerCapLimitWatts")
    .message("unmanagedWatts must be below powerCapLimitWatts, or nothing is left for the nodes; raise the cap or lower unmanagedWatts")
    .field_path(".unmanagedWatts"))]
#[x_kube(validation = Rule::new("!has(self.meter) || self.unmanagedWatts == 0")
    .message("meter and unmanagedWatts exclude each other, since the meter tells what is unmanaged; take one of them away")
    .field_path(".unmanagedWatts"))]
pub struct PowerDomainSpec {
    /// The most power that the domain may draw, alternating current at its meter, in watts (1 to
    /// 1,000,000,000).
    #[schemars(range(min = 1, max = 1_000_000_000))]
    pub power_cap_limit_watts: u32,

    /// The domain that this one stands within: a rack's row, a row's hall. The caps of both hold, and what is
    /// unmanaged here counts there too. Absent: it stands within none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub parent_ref: Option<ParentRef>,

    /// The nodes that stand in the domain, beside those of the domains within it. Never empty.
    #[x_kube(validation = Rule::new("(has(self.matchLabels) && size(self.matchLabels) > 0) || (has(self.matchExpressions) && size(self.matchExpressions) > 0)")
        .message("nodeSelector must name at least one label, for example matchLabels: {topology.kubernetes.io/rack: r1}; for every node write matchExpressions: [{key: kubernetes.io/os, operator: Exists}]"))]
    pub node_selector: LabelSelector,

    /// Power in the domain that nothing here controls (switches, storage, other machines), in watts. Where a
    /// meter can be read, write `meter` instead.
    #[serde(default)]
    #[schemars(range(max = 1_000_000_000))]
    pub unmanaged_watts: u32,

    /// What measures the domain: what it tells beyond its nodes is unmanaged. Absent: `unmanagedWatts`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub meter: Option<Meter>,

    /// What a node draws beside the devices that its agent measures.
    #[serde(default)]
    pub node_overhead: NodeOverhead,

    /// The emergency ceiling: a person or a building system pulls it here, the recommender in
    /// `status.brake`; agents obey the stricter within one watch event, without a new decision.
    #[serde(default)]
    pub brake: Brake,

    /// What holds for each node of the domain.
    #[serde(default)]
    pub node_defaults: NodeDefaults,

    /// How the watts for nodes are shared out to them.
    #[serde(default)]
    pub algorithm: AlgorithmSpec,

    /// Whose policies may cap pods on the domain's nodes, and how far. Absent: everybody's. Where a node
    /// stands in several domains, what the strictest permits.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tenancy: Option<Tenancy>,
}

/// What a domain permits PowerCappingPolicies on its nodes. The domain's own cap holds without them.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Tenancy {
    /// Namespaces whose policies may act. Absent: all.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = Rule::new("(has(self.matchLabels) && size(self.matchLabels) > 0) || (has(self.matchExpressions) && size(self.matchExpressions) > 0)")
        .message("namespaceSelector must name at least one label, for example matchLabels: {team: llm}; to permit every namespace leave it out"))]
    pub namespace_selector: Option<LabelSelector>,

    /// The most that a policy may do: one that asks for more does this much. `Off` permits no policy at all.
    #[serde(default = "default_max_mode")]
    pub max_mode: Mode,

    /// The highest priority that counts: of a higher one so much (0 to 1,000).
    #[serde(default = "default_max_priority")]
    #[schemars(range(max = 1000))]
    pub max_priority: u32,

    /// Whether a policy may act on a device that pods use which it does not select.
    #[serde(default)]
    pub shared_devices: SharedDevices,
}

fn default_max_mode() -> Mode {
    Mode::Enforce
}

fn default_max_priority() -> u32 {
    1000
}

/// Whether a policy may act on a device that others use too.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum SharedDevices {
    /// It leaves such devices alone, and counts its part of their power.
    #[default]
    Refuse,
    /// It holds them like its own and counts all of their power; of several policies the lowest cap holds.
    Allow,
}

/// A PDU or BMC that Prometheus scrapes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Meter {
    /// PromQL that answers with one series: the alternating current of the whole domain, in watts, such as
    /// `sum(pdu_power_watts{rack="r1"})`. It is asked as the recommender, which reads all of Prometheus: let
    /// those write domains alone who may see that.
    #[schemars(length(min = 1, max = 2000))]
    pub query: String,
}

/// Names another domain.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ParentRef {
    /// Its name.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
}

/// How hard a domain brakes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
pub enum Brake {
    /// Not at all.
    #[default]
    None,
    /// Every node goes down to its fallback watts; a node without any to the lowest that its devices do.
    Fallback,
    /// Every node goes down to the lowest that its devices do.
    Minimum,
}

/// What holds for each node of a domain.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct NodeDefaults {
    /// Alternating current that each node falls back to when its agent hears nothing of the recommender
    /// for longer than its lease, and under the brake, in watts. Absent: it holds what it has.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1_000_000))]
    pub fallback_watts: Option<u32>,
}

/// A brake that the recommender has pulled.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct BrakeStatus {
    /// How hard.
    pub level: Brake,
    /// Why: one of the documented reasons.
    #[schemars(length(max = 64))]
    pub reason: String,
}

/// What the recommender knows of the domain.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PowerDomainStatus {
    /// Ready, Placed, DataFresh, WithinCap, Feasible; Braked once the recommender has pulled the brake;
    /// SourcesAgree and HistoryRead while they do not hold.
    #[serde(default)]
    #[schemars(length(max = 16))]
    pub conditions: Vec<Condition>,
    /// Power of the domain's nodes and its unmanaged watts at the last reading; absent when it is not
    /// known for every node.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub current_power_watts: Option<u32>,
    /// What of that power no pod accounts for: unmanaged watts, the nodes' overhead, boards that no pod
    /// holds, and CPU power beyond that of the pods; absent when the power is not known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unattributed_watts: Option<u32>,
    /// The most that it drew in the recommender's window of the past (a day, by default), in watts.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub peak_power_watts: Option<u32>,
    /// The most that it is expected to draw, in watts: the peaks of the window, each of which counts half as much
    /// after a half-life (a day, by default).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub forecast_power_watts: Option<u32>,
    /// What the domain draws beside its nodes by its meter, as it counts: at once when it rises, in minutes when
    /// it falls, and a step of 1 % of the cap on top. What the domains within it draw so is not in it. Absent
    /// without a meter, and until it was read for the first time.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unmanaged_watts: Option<u32>,
    /// Watts promised to nodes; absent while a node has not acknowledged anything yet.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub committed_watts: Option<u32>,
    /// The cap less unmanaged and committed watts.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub headroom_watts: Option<u32>,
    /// The brake that the recommender has pulled; absent when it has not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub brake: Option<BrakeStatus>,
    /// What is to be done to workloads beyond lower clocks, each as its own policy permits, in the order in which it
    /// is done: as much as brings the domain under its cap, at most 100.
    #[serde(default, skip_serializing_if = "Vec::is_empty", deserialize_with = "later::words")]
    #[schemars(length(max = 100))]
    pub pending_actions: Vec<PendingAction>,
    /// How many that would be.
    #[serde(default)]
    pub pending_action_count: u32,
    /// Its nodes, those of the domains within it included.
    #[serde(default)]
    pub nodes: u32,
    /// The generation of the spec that this status speaks of.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
}
