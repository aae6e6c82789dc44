//! What a person sees: one model, shown as a live screen or as lines.

mod lines;
mod screen;

pub(crate) use lines::{change_line, status_line};
pub(crate) use screen::Screen;

use std::collections::VecDeque;

use powercap_common::{
    api::{NodeFrequencies, PowerCappingPolicy, PowerDomain},
    condition::{self, Truth, kind},
};

use crate::{
    meter::Reading,
    watch::{Change, Snapshot},
};

/// Seconds of history that the chart shows.
const CHART_SECONDS: f64 = 150.0;
/// Changes that are kept for the screen.
const MOST_CHANGES: usize = 64;

/// Everything on the screen.
#[derive(Default)]
pub(crate) struct View {
    /// Seconds since the play began; negative before it.
    pub(crate) elapsed: f64,
    /// What is going on.
    pub(crate) phase: String,
    /// (second, watts) of the rack's true power, 1 s means.
    pub(crate) power: VecDeque<(f64, f64)>,
    /// (second, watts) of the rack's cap.
    pub(crate) cap: VecDeque<(f64, f64)>,
    pub(crate) domains: Vec<DomainRow>,
    pub(crate) nodes: Vec<NodeRow>,
    pub(crate) policies: Vec<PolicyRow>,
    pub(crate) requests: Option<Requests>,
    /// (second, change), the newest last.
    pub(crate) changes: VecDeque<(f64, Change)>,
}

pub(crate) struct DomainRow {
    pub(crate) name: String,
    pub(crate) cap_watts: u32,
    pub(crate) true_watts: f64,
    pub(crate) measured_watts: Option<u32>,
    pub(crate) committed_watts: Option<u32>,
}

pub(crate) struct NodeRow {
    pub(crate) name: String,
    pub(crate) true_watts: f64,
    pub(crate) grant_watts: Option<u32>,
    pub(crate) held_watts: Option<u32>,
    /// Lowest and highest true clock of its boards.
    pub(crate) clocks_mhz: (u32, u32),
    /// Work a second, in boards at full speed.
    pub(crate) work: f64,
    pub(crate) boards: usize,
    pub(crate) reason: String,
}

pub(crate) struct PolicyRow {
    pub(crate) name: String,
    pub(crate) mode: String,
    pub(crate) cap_watts: u32,
    pub(crate) power_watts: Option<u32>,
    pub(crate) devices: u32,
    pub(crate) ceiling_mhz: Option<u32>,
    pub(crate) triggered: Truth,
    pub(crate) within: Truth,
    pub(crate) reason: String,
}

/// What the clients of the inference workload see.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Requests {
    pub(crate) per_second: f64,
    pub(crate) p50_ms: f64,
    pub(crate) p99_ms: f64,
}

impl View {
    /// Takes in a reading of the true power.
    pub(crate) fn measured(&mut self, second: f64, nodes: &[Reading], cap_watts: u32) {
        let watts = nodes.iter().map(|node| node.ac_watts).sum();
        push(&mut self.power, second, watts);
        push(&mut self.cap, second, f64::from(cap_watts));
        for domain in &mut self.domains {
            domain.true_watts = watts;
        }
        for reading in nodes {
            if let Some(row) = self.nodes.iter_mut().find(|row| row.name == reading.node) {
                row.measure(reading);
            } else {
                let mut row = NodeRow::unknown(&reading.node);
                row.measure(reading);
                self.nodes.push(row);
            }
        }
    }

    /// Takes in what the cluster says of itself.
    pub(crate) fn observed(&mut self, snapshot: &Snapshot) {
        let true_watts = self.power.back().map_or(0.0, |(_, watts)| *watts);
        self.domains = snapshot.domains.iter().map(|domain| DomainRow::new(domain, true_watts)).collect();
        self.policies = snapshot.policies.iter().map(PolicyRow::new).collect();
        for node in &snapshot.nodes {
            let name = &node.spec.node_name;
            if !self.nodes.iter().any(|row| row.name == *name) {
                self.nodes.push(NodeRow::unknown(name));
            }
            if let Some(row) = self.nodes.iter_mut().find(|row| row.name == *name) {
                row.observe(node);
            }
        }
        self.nodes.sort_by(|a, b| a.name.cmp(&b.name));
    }

    /// Notes a change.
    pub(crate) fn changed(&mut self, second: f64, change: Change) {
        self.changes.push_back((second, change));
        while self.changes.len() > MOST_CHANGES {
            self.changes.pop_front();
        }
    }
}

fn push(series: &mut VecDeque<(f64, f64)>, second: f64, watts: f64) {
    series.push_back((second, watts));
    while series.front().is_some_and(|(first, _)| second - first > CHART_SECONDS) {
        series.pop_front();
    }
}

impl DomainRow {
    fn new(domain: &PowerDomain, true_watts: f64) -> Self {
        let status = domain.status.clone().unwrap_or_default();
        Self {
            name: domain.metadata.name.clone().unwrap_or_default(),
            cap_watts: domain.spec.power_cap_limit_watts,
            true_watts,
            measured_watts: status.current_power_watts,
            committed_watts: status.committed_watts,
        }
    }
}

impl NodeRow {
    fn unknown(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            true_watts: 0.0,
            grant_watts: None,
            held_watts: None,
            clocks_mhz: (0, 0),
            work: 0.0,
            boards: 0,
            reason: String::new(),
        }
    }

    fn measure(&mut self, reading: &Reading) {
        self.true_watts = reading.ac_watts;
        self.clocks_mhz = reading.clocks_mhz;
        self.work = reading.work;
        self.boards = reading.boards;
    }

    fn observe(&mut self, node: &NodeFrequencies) {
        let status = node.status.clone().unwrap_or_default();
        self.grant_watts = node.spec.power_limit_watts;
        self.held_watts = status.acknowledged.and_then(|held| held.power_limit_watts);
        // The reason of the board that is held lowest: the one that people ask about.
        let slowest = status.gpus.iter().min_by_key(|gpu| gpu.target_graphics_megahertz.unwrap_or(u32::MAX));
        self.reason = slowest.map_or_else(String::new, |gpu| gpu.reason.clone());
    }
}

impl PolicyRow {
    fn new(policy: &PowerCappingPolicy) -> Self {
        let status = policy.status.clone().unwrap_or_default();
        let reason_of = |type_: &str| {
            let condition = status.conditions.iter().find(|condition| condition.type_ == type_);
            condition.map_or_else(String::new, |condition| condition.reason.clone())
        };
        Self {
            name: policy.metadata.name.clone().unwrap_or_default(),
            mode: format!("{:?}", policy.spec.mode),
            cap_watts: policy.spec.power_cap_limit_watts,
            power_watts: status.current_power_watts,
            devices: status.matched_devices,
            ceiling_mhz: status.recommended_max_megahertz,
            triggered: condition::truth(&status.conditions, kind::CAP_TRIGGERED),
            within: condition::truth(&status.conditions, kind::WITHIN_CAP),
            reason: reason_of(kind::CAP_TRIGGERED),
        }
    }
}
