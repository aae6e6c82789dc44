//! What a person sees: one model, shown as a live screen or as lines.

mod lines;
mod screen;

pub(crate) use lines::{change_line, status_line};
pub(crate) use screen::Screen;

use std::collections::{BTreeSet, VecDeque};

use kube::ResourceExt;
use powercap_common::{
    api::{NodeFrequencies, PowerCappingPolicy, PowerDomain},
    condition::{self, Truth, kind},
};

use crate::{
    meter::{Board, Reading},
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
    /// All boards, as last measured.
    pub(crate) boards: Vec<Board>,
    /// (second, change), the newest last.
    pub(crate) changes: VecDeque<(f64, Change)>,
}

pub(crate) struct DomainRow {
    pub(crate) name: String,
    pub(crate) cap_watts: u32,
    pub(crate) true_watts: Option<f64>,
    pub(crate) measured_watts: Option<u32>,
    pub(crate) committed_watts: Option<u32>,
    /// The nodes of a domain that is a part of another; without them it has all nodes.
    parts: Option<BTreeSet<String>>,
}

pub(crate) struct NodeRow {
    pub(crate) name: String,
    pub(crate) true_watts: Option<f64>,
    pub(crate) grant_watts: Option<u32>,
    pub(crate) held_watts: Option<u32>,
    pub(crate) boards: Option<Boards>,
    pub(crate) reason: String,
}

/// What some boards truly do together.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Boards {
    pub(crate) count: usize,
    pub(crate) watts: f64,
    /// Lowest and highest clock.
    pub(crate) clocks_mhz: (u32, u32),
    /// Work a second, in boards at full speed.
    pub(crate) work: f64,
}

impl Boards {
    /// `None` without boards: nothing is known then.
    fn of<'a>(boards: impl Iterator<Item = &'a Board> + Clone) -> Option<Self> {
        let clocks = boards.clone().map(|board| board.clock_mhz);
        Some(Self {
            clocks_mhz: (clocks.clone().min()?, clocks.max()?),
            count: boards.clone().count(),
            watts: boards.clone().map(|board| board.watts).sum(),
            work: boards.map(|board| board.work).sum(),
        })
    }
}

pub(crate) struct PolicyRow {
    pub(crate) name: String,
    pub(crate) mode: String,
    pub(crate) cap_watts: u32,
    pub(crate) power_watts: Option<u32>,
    /// By UUID, the boards of its pods.
    uuids: BTreeSet<String>,
    pub(crate) boards: Option<Boards>,
    pub(crate) ceiling_mhz: Option<u32>,
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
        if nodes.is_empty() {
            return;
        }
        let watts = nodes.iter().map(|node| node.ac_watts).sum();
        push(&mut self.power, second, watts);
        push(&mut self.cap, second, f64::from(cap_watts));
        for domain in &mut self.domains {
            domain.measure(nodes, watts);
        }
        self.boards = nodes.iter().flat_map(|node| node.boards.clone()).collect();
        for policy in &mut self.policies {
            policy.measure(&self.boards);
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
        let true_watts = self.power.back().map(|(_, watts)| *watts);
        let before = std::mem::take(&mut self.domains);
        let row = |domain: &PowerDomain| {
            let of_parts = before.iter().find(|row| row.name == domain.name_any()).and_then(|row| row.true_watts);
            let parts = domain.spec.parent_ref.is_some().then(|| snapshot.nodes_of(domain));
            DomainRow::new(domain, if parts.is_some() { of_parts } else { true_watts }, parts)
        };
        self.domains = snapshot.domains.iter().map(row).collect();
        self.policies = snapshot.policies.iter().map(|policy| PolicyRow::new(policy, snapshot, &self.boards)).collect();
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
    fn new(domain: &PowerDomain, true_watts: Option<f64>, parts: Option<BTreeSet<String>>) -> Self {
        let status = domain.status.clone().unwrap_or_default();
        Self {
            name: domain.metadata.name.clone().unwrap_or_default(),
            cap_watts: domain.spec.power_cap_limit_watts,
            true_watts,
            measured_watts: status.current_power_watts,
            committed_watts: status.committed_watts,
            parts,
        }
    }

    /// Takes in a reading: of all nodes, or of its own.
    fn measure(&mut self, nodes: &[Reading], all_watts: f64) {
        self.true_watts = Some(self.parts.as_ref().map_or(all_watts, |parts| {
            nodes.iter().filter(|reading| parts.contains(&reading.node)).map(|reading| reading.ac_watts).sum()
        }));
    }
}

impl NodeRow {
    fn unknown(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            true_watts: None,
            grant_watts: None,
            held_watts: None,
            boards: None,
            reason: String::new(),
        }
    }

    fn measure(&mut self, reading: &Reading) {
        self.true_watts = Some(reading.ac_watts);
        self.boards = Boards::of(reading.boards.iter());
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
    fn new(policy: &PowerCappingPolicy, snapshot: &Snapshot, boards: &[Board]) -> Self {
        let status = policy.status.clone().unwrap_or_default();
        let reason_of = |type_: &str| {
            let condition = status.conditions.iter().find(|condition| condition.type_ == type_);
            condition.map_or_else(String::new, |condition| condition.reason.clone())
        };
        let mut row = Self {
            name: policy.metadata.name.clone().unwrap_or_default(),
            mode: format!("{:?}", policy.spec.mode),
            cap_watts: policy.spec.power_cap_limit_watts,
            power_watts: status.current_power_watts,
            uuids: snapshot.boards_of(policy),
            boards: None,
            ceiling_mhz: status.recommended_max_megahertz,
            within: condition::truth(&status.conditions, kind::WITHIN_CAP),
            reason: reason_of(kind::CAP_TRIGGERED),
        };
        row.measure(boards);
        row
    }

    fn measure(&mut self, boards: &[Board]) {
        self.boards = Boards::of(boards.iter().filter(|board| self.uuids.contains(&board.uuid)));
    }
}
