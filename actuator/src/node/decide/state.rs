//! What a decision remembers for the next one.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use powercap_common::{
    api::{Acknowledged, Epoch},
    units::{Megahertz, Watts},
};

use super::{
    boards::Demand,
    budget::CpuClaim,
    ceiling::Governor,
    drift::{Doubt, Drift},
    processors::CpuGovernor,
    release::Ramp,
};
use crate::node::{observation::SeenBoard, originals::Originals};

/// What a decision remembers for the next one; begins empty.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct State {
    /// The last number given to an order; orders of one device are numbered upwards.
    pub(super) number: u64,
    pub(super) boards: BTreeMap<Arc<str>, BoardState>,
    pub(super) cpus: BTreeMap<u32, CpuState>,
    /// When the boards' budget was last divided anew.
    pub(super) divided_at: Duration,
    pub(super) cpu_claim: CpuClaim,
    pub(super) cpu_governor: CpuGovernor,
    pub(super) ramp: Option<Ramp>,
    pub(super) acknowledgement: Acknowledgement,
    /// What the devices were before they were touched.
    pub(super) originals: Originals,
}

impl State {
    /// A state that knows what this node acknowledged before the agent was restarted.
    #[must_use]
    pub fn remembering(acknowledged: Option<Acknowledged>) -> Self {
        Self { acknowledgement: Acknowledgement { given: acknowledged, ..Default::default() }, ..Self::default() }
    }

    /// The same state, knowing what earlier lives of this agent have touched.
    #[must_use]
    pub fn owning(self, originals: Originals) -> Self {
        Self { originals, ..self }
    }

    /// The same state, not believing the boards that an earlier life had given up on.
    #[must_use]
    pub fn doubting(mut self, doubts: &BTreeMap<Arc<str>, Doubt>, now: Duration) -> Self {
        for (uuid, doubt) in doubts {
            let drift = Drift::of_an_earlier_life(*doubt, now);
            self.boards.insert(Arc::clone(uuid), BoardState { drift, ..BoardState::default() });
        }
        self
    }

    pub(super) fn board(&self, board: &SeenBoard) -> Option<&BoardState> {
        self.boards.get(&board.traits.uuid)
    }

    pub(super) fn next_number(&mut self) -> u64 {
        self.number += 1;
        self.number
    }
}

/// What is remembered of a board. It exists from the first order for that board on.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct BoardState {
    /// Its part of the budget.
    pub(super) share: Watts,
    /// What it has drawn lately.
    pub(super) demand: Demand,
    /// The power limit last ordered.
    pub(super) limit: Option<Watts>,
    /// The highest limit ordered that was not yet seen to be carried out.
    pub(super) unconfirmed: Option<Watts>,
    /// The clock ceiling last ordered.
    pub(super) ceiling: Option<Megahertz>,
    /// The number of the last order.
    pub(super) number: u64,
    /// When a limit was ordered last.
    pub(super) ordered_at: Duration,
    /// When a range of clocks was ordered last.
    pub(super) lock_ordered_at: Duration,
    /// When a limit was raised last.
    pub(super) raised_at: Option<Duration>,
    pub(super) governor: Option<Governor>,
    /// Its ceiling is that of a slower board of its group.
    pub(super) follows: bool,
    /// Whether it keeps to what it was told.
    pub(super) drift: Drift,
    /// The opening of the board that the orders were given to.
    pub(super) opened: u32,
}

/// What is remembered of a cpufreq policy.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct CpuState {
    pub ceiling: Option<Megahertz>,
    pub number: u64,
    pub ordered_at: Duration,
}

/// What was acknowledged, and how near the next one is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Acknowledgement {
    pub given: Option<Acknowledged>,
    /// The epoch that holds, and since when.
    pub holding: Option<(Epoch, Duration)>,
}
