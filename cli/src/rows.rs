//! One line for each domain, node, policy and board: the numbers that people compare.
//!
//! What must hold: what is not known stays `None`, so that it is written as `-` and sorted last, and never
//! counted as zero.

use jiff::Timestamp;
use kube::ResourceExt;
use powercap_common::{
    api::{Brake, DeviceState, GpuStatus, Mode, NodeFrequencies, PowerCappingPolicy, PowerDomain},
    condition::{self, kind},
};
use serde::Serialize;

use crate::{
    caps::{Conditions, brake},
    table::{Row, age, known, shortened},
};

/// A domain.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct DomainRow {
    /// Its name.
    pub name: String,
    /// Its cap.
    pub cap_watts: u32,
    /// Its power.
    pub power_watts: Option<u32>,
    /// What is promised to its nodes.
    pub committed_watts: Option<u32>,
    /// What is left to promise.
    pub headroom_watts: Option<u32>,
    /// Its nodes.
    pub nodes: Option<u32>,
    /// The stricter of its two brakes.
    pub brake: Brake,
    /// Whether its power is within its cap.
    pub within_cap: String,
    /// How much is to be done to workloads beyond lower clocks.
    pub pending_actions: Option<u32>,
    /// Why it is ready, or is not.
    pub reason: Option<String>,
}

impl From<&PowerDomain> for DomainRow {
    fn from(domain: &PowerDomain) -> Self {
        let status = domain.status.as_ref();
        Self {
            name: domain.name_any(),
            cap_watts: domain.spec.power_cap_limit_watts,
            power_watts: status.and_then(|status| status.current_power_watts),
            committed_watts: status.and_then(|status| status.committed_watts),
            headroom_watts: status.and_then(|status| status.headroom_watts),
            nodes: status.map(|status| status.nodes),
            brake: brake(domain),
            within_cap: condition::truth(domain.conditions(), kind::WITHIN_CAP).as_str().to_owned(),
            pending_actions: status.map(|status| status.pending_action_count),
            reason: ready_reason(domain),
        }
    }
}

impl Row for DomainRow {
    const HEADINGS: &'static [&'static str] =
        &["DOMAIN", "CAP W", "POWER W", "COMMITTED W", "HEADROOM W", "NODES", "BRAKE", "WITHIN", "PENDING", "REASON"];

    fn cells(&self) -> Vec<String> {
        vec![
            self.name.clone(),
            self.cap_watts.to_string(),
            known(self.power_watts),
            known(self.committed_watts),
            known(self.headroom_watts),
            known(self.nodes),
            format!("{:?}", self.brake),
            self.within_cap.clone(),
            known(self.pending_actions),
            known(self.reason.as_ref()),
        ]
    }
}

/// A node.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct NodeRow {
    /// Its name.
    pub name: String,
    /// What it may draw.
    pub grant_watts: Option<u32>,
    /// What it may still be drawing under what it was promised.
    pub committed_watts: Option<u32>,
    /// What it draws, as its agent reckons it.
    pub power_watts: Option<u32>,
    /// The grant less the power.
    pub headroom_watts: Option<u32>,
    /// What it offers to new pods, beside what its pods request.
    pub offer_watts: Option<u32>,
    /// The lowest clock ceiling of its boards.
    pub ceiling_megahertz: Option<u32>,
    /// Its boards.
    pub boards: Option<u32>,
    /// Why it is ready, or is not.
    pub reason: Option<String>,
    /// When its agent last wrote its status.
    pub heartbeat: Option<Timestamp>,
    /// How long ago that was.
    #[serde(skip)]
    pub silent_for: Option<String>,
}

impl NodeRow {
    /// The row of a node as of `now`.
    #[must_use]
    pub fn of(node: &NodeFrequencies, now: Timestamp) -> Self {
        let status = node.status.as_ref();
        let grant = node.spec.power_limit_watts;
        let power = status.and_then(|status| status.power_watts);
        let heartbeat = status.and_then(|status| status.heartbeat_time.as_ref()).map(|time| time.0);
        Self {
            name: node.name_any(),
            grant_watts: grant,
            committed_watts: node.spec.committed_watts,
            power_watts: power,
            headroom_watts: grant.zip(power).map(|(grant, power)| grant.saturating_sub(power)),
            offer_watts: node.spec.offer_watts,
            ceiling_megahertz: status.and_then(|status| status.lowest_target_megahertz),
            boards: status.map(|status| status.gpu_count),
            reason: ready_reason(node),
            heartbeat,
            silent_for: heartbeat.map(|at| age(at, now)),
        }
    }
}

impl Row for NodeRow {
    const HEADINGS: &'static [&'static str] =
        &["NODE", "GRANT W", "POWER W", "HEADROOM W", "OFFERS W", "CEILING MHZ", "BOARDS", "REASON", "HEARD"];

    fn cells(&self) -> Vec<String> {
        vec![
            self.name.clone(),
            known(self.grant_watts),
            known(self.power_watts),
            known(self.headroom_watts),
            known(self.offer_watts),
            known(self.ceiling_megahertz),
            known(self.boards),
            known(self.reason.as_ref()),
            known(self.silent_for.as_ref()),
        ]
    }
}

/// A policy.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PolicyRow {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Whether it acts.
    pub mode: Mode,
    /// Its cap.
    pub cap_watts: u32,
    /// Power of its pods.
    pub power_watts: Option<u32>,
    /// Its pods.
    pub pods: Option<u32>,
    /// Their boards.
    pub boards: Option<u32>,
    /// The clock ceiling that it asks for.
    pub ceiling_megahertz: Option<u32>,
    /// The power limit that it asks for on each board.
    pub limit_watts: Option<u32>,
    /// How much is to be done to workloads beyond lower clocks.
    pub pending_actions: Option<u32>,
    /// Why it is ready, or is not.
    pub reason: Option<String>,
}

impl From<&PowerCappingPolicy> for PolicyRow {
    fn from(policy: &PowerCappingPolicy) -> Self {
        let status = policy.status.as_ref();
        Self {
            namespace: policy.namespace().unwrap_or_default(),
            name: policy.name_any(),
            mode: policy.spec.mode,
            cap_watts: policy.spec.power_cap_limit_watts,
            power_watts: status.and_then(|status| status.current_power_watts),
            pods: status.map(|status| status.matched_pods),
            boards: status.map(|status| status.matched_devices),
            ceiling_megahertz: status.and_then(|status| status.recommended_max_megahertz),
            limit_watts: status.and_then(|status| status.recommended_device_watts),
            pending_actions: status.map(|status| status.pending_action_count),
            reason: ready_reason(policy),
        }
    }
}

impl Row for PolicyRow {
    const HEADINGS: &'static [&'static str] = &[
        "NAMESPACE",
        "POLICY",
        "MODE",
        "CAP W",
        "POWER W",
        "PODS",
        "BOARDS",
        "CEILING MHZ",
        "LIMIT W",
        "PENDING",
        "REASON",
    ];

    fn cells(&self) -> Vec<String> {
        vec![
            self.namespace.clone(),
            self.name.clone(),
            format!("{:?}", self.mode),
            self.cap_watts.to_string(),
            known(self.power_watts),
            known(self.pods),
            known(self.boards),
            known(self.ceiling_megahertz),
            known(self.limit_watts),
            known(self.pending_actions),
            known(self.reason.as_ref()),
        ]
    }
}

/// A board: what was asked of it, and what holds.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct BoardRow {
    /// Its node.
    pub node: String,
    /// As NVML names it.
    pub uuid: String,
    /// As short as it can be told from the others of the table.
    #[serde(skip)]
    pub short: String,
    /// The pods that hold it; absent when that is not known.
    pub pods: Option<Vec<String>>,
    /// Its clock now.
    pub clock_megahertz: Option<u32>,
    /// The clock ceiling that its agent holds.
    pub ceiling_megahertz: Option<u32>,
    /// The clock ceiling that was asked for.
    pub requested_megahertz: Option<u32>,
    /// Its highest clock.
    pub highest_megahertz: Option<u32>,
    /// Its power now.
    pub power_watts: Option<u32>,
    /// The power limit in force.
    pub limit_watts: Option<u32>,
    /// The power limit that was asked for.
    pub requested_watts: Option<u32>,
    /// The highest power limit that it takes.
    pub highest_watts: Option<u32>,
    /// How far it is.
    pub state: DeviceState,
    /// Why.
    pub reason: String,
    /// Whose cap its ceiling serves.
    pub set_by: Option<String>,
}

impl BoardRow {
    /// The row of a board.
    #[must_use]
    pub fn of(node: &NodeFrequencies, gpu: &GpuStatus) -> Self {
        let requested = node.spec.gpu_frequencies.iter().find(|ceiling| ceiling.uuid == gpu.uuid);
        let names = |tenants: &Vec<powercap_common::api::Tenant>| {
            tenants.iter().map(|pod| format!("{}/{}", pod.namespace, pod.name)).collect()
        };
        // Zero is what a board says that does not say it.
        let some = |number: u32| (number > 0).then_some(number);
        Self {
            node: node.name_any(),
            uuid: gpu.uuid.clone(),
            short: gpu.uuid.clone(),
            pods: gpu.tenants.as_ref().map(names),
            clock_megahertz: gpu.current_graphics_megahertz,
            ceiling_megahertz: gpu.target_graphics_megahertz,
            requested_megahertz: requested.and_then(|ceiling| ceiling.max_graphics_megahertz),
            highest_megahertz: some(gpu.max_graphics_megahertz),
            power_watts: gpu.power_watts,
            limit_watts: gpu.power_limit_watts,
            requested_watts: requested.and_then(|ceiling| ceiling.power_limit_watts),
            highest_watts: some(gpu.max_power_limit_watts),
            state: gpu.state,
            reason: gpu.reason.clone(),
            set_by: requested.map(|ceiling| ceiling.set_by.clone()),
        }
    }

    /// Names the boards of one table as short as they can be told from each other.
    pub fn shorten(rows: &mut [Self]) {
        let uuids: Vec<_> = rows.iter().map(|row| row.uuid.as_str()).collect();
        let short = shortened(&uuids);
        for (row, short) in rows.iter_mut().zip(short) {
            row.short = short;
        }
    }
}

impl Row for BoardRow {
    const HEADINGS: &'static [&'static str] =
        &["NODE", "BOARD", "MHZ", "CEILING", "ASKED", "MOST", "W", "LIMIT", "ASKED", "MOST", "STATE", "REASON", "PODS"];

    fn cells(&self) -> Vec<String> {
        let pods = self.pods.as_ref().map(|pods| if pods.is_empty() { "none".to_owned() } else { pods.join(",") });
        vec![
            self.node.clone(),
            self.short.clone(),
            known(self.clock_megahertz),
            known(self.ceiling_megahertz),
            known(self.requested_megahertz),
            known(self.highest_megahertz),
            known(self.power_watts),
            known(self.limit_watts),
            known(self.requested_watts),
            known(self.highest_watts),
            format!("{:?}", self.state),
            self.reason.clone(),
            known(pods),
        ]
    }
}

fn ready_reason(object: &impl Conditions) -> Option<String> {
    object.condition(kind::READY).map(|condition| condition.reason.clone())
}
