//! What to write to the devices now: a pure function, ten times a second.
//!
//! ```text
//!                 orders with a grant or ceilings              orders say release
//!   Waiting ───────────────────────────────▶ Enforcing ───────────────────────▶ Releasing
//!   (touches nothing)                            ▲                                  │ ramped, read back
//!                                                └──────── orders again ────── Released
//! ```
//!
//! What must hold, whatever the devices say:
//! - the power limits in force never add up to more than the boards' budget, unless their lowest limits
//!   do: a limit is raised only when the lowerings that make room for it were read back;
//! - lowerings are never delayed; after a cut the first plan carries every new share; raises come in steps;
//! - boards that shed earlier are at their lowest limits before others give up watts; the boards of a
//!   group have one ceiling;
//! - what cannot be read counts with the most that it may draw, and silence raises nothing;
//! - a device that no order concerns is not touched;
//! - the same input gives the same plan.

mod acknowledge;
mod boards;
mod budget;
mod ceiling;
mod cpus;
mod draft;
mod drift;
mod processors;
mod release;
mod shares;
mod stagger;
mod standing;
mod state;

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use powercap_common::{
    api::{Acknowledged, DeviceState},
    reason::Reason,
    units::{Megahertz, Watts},
};

pub use drift::Doubt;
pub use state::State;

use crate::{
    hardware::ClockLock,
    node::{
        observation::{GpuAccess, Observation},
        orders::Orders,
        originals::Note,
    },
};

/// What to write, what it rests on, and what to remember.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Plan {
    /// Writes to boards; none when they are as they should be.
    pub boards: Vec<BoardWrite>,
    /// Writes to cpufreq policies.
    pub cpus: Vec<CpuWrite>,
    /// What is to be journalled before these writes are carried out.
    pub notes: Vec<Note>,
    /// What the plan rests on, for status and metrics.
    pub account: Account,
    /// For the next decision.
    pub state: State,
}

/// What to write to one board: the clocks first, then the limit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BoardWrite {
    /// Which board.
    pub uuid: Arc<str>,
    /// Numbered upwards; a reading says which number it has seen carried out.
    pub number: u64,
    /// The range of clocks.
    pub lock: Option<ClockLock>,
    /// The power limit.
    pub limit: Option<Watts>,
    /// Why.
    pub reason: Reason,
}

impl BoardWrite {
    /// Takes in a newer order: what it does not speak of is still to be done.
    pub fn supersede(&mut self, newer: Self) {
        let (lock, limit) = (self.lock, self.limit);
        *self = Self { lock: newer.lock.or(lock), limit: newer.limit.or(limit), ..newer };
    }
}

/// What to write to one cpufreq policy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CpuWrite {
    /// Which policy.
    pub policy: u32,
    /// Numbered upwards.
    pub number: u64,
    /// Its ceiling.
    pub ceiling: Megahertz,
    /// Why.
    pub reason: Reason,
}

/// Where the agent is with its orders.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Phase {
    /// There are no orders: nothing is touched.
    #[default]
    Waiting,
    /// The orders are carried out.
    Enforcing,
    /// The ceilings are being taken off step by step.
    Releasing,
    /// The devices are back at their defaults.
    Released,
}

/// What a plan rests on.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Account {
    /// Where the agent is with its orders.
    pub phase: Phase,
    /// The devices' power; what is not known counts with the most that it may be.
    pub devices_power: Watts,
    /// The node's alternating current: the devices' and the overhead's.
    pub node_power: Watts,
    /// What the devices may draw together.
    pub envelope: Option<Watts>,
    /// What the boards may draw together.
    pub boards_budget: Option<Watts>,
    /// The envelope is below the devices' lowest limits.
    pub below_floor: bool,
    /// One for each board observed, in the same order.
    pub boards: Vec<BoardAccount>,
    /// One for each cpufreq policy observed, in the same order.
    pub cpus: Vec<CpuAccount>,
    /// Boards that the orders name and the node does not have.
    pub unknown_boards: Vec<Arc<str>>,
    /// What holds on the node.
    pub acknowledged: Option<Acknowledged>,
    /// What stands over the orders, if anything does.
    pub restraint: Option<Reason>,
    /// A release puts defaults back instead of originals, because nobody knows those.
    pub to_defaults: bool,
}

/// How one board stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BoardAccount {
    /// What it may draw; `None`: not ours to hold.
    pub share: Option<Watts>,
    /// The clock ceiling that is held, if any.
    pub ceiling: Option<Megahertz>,
    /// How far it is.
    pub state: DeviceState,
    /// Why.
    pub reason: Reason,
    /// How often something else's values were found on it.
    pub drifts: u64,
}

/// How one cpufreq policy stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CpuAccount {
    /// The ceiling that is held, if any.
    pub ceiling: Option<Megahertz>,
    /// How far it is.
    pub state: DeviceState,
    /// Why.
    pub reason: Reason,
}

/// What to write to the devices now.
#[must_use]
pub fn decide(seen: &Observation, orders: Option<&Orders>, state: &State) -> Plan {
    let mut plan = Plan { state: state.clone(), ..Plan::default() };
    boards::observe(seen, &mut plan.state);
    let power = budget::devices_power(seen, &plan.state);
    plan.account.devices_power = power;
    plan.account.node_power = power;
    match orders {
        None => {}
        Some(orders) if orders.release => {
            release::release(seen, &mut plan);
        }
        Some(orders) => {
            plan.state.ramp = None;
            enforce(seen, orders, &mut plan);
        }
    }
    if let Some(orders) = orders {
        plan.account.node_power = orders.overhead.alternating_current(power);
        plan.account.unknown_boards = unknown_boards(seen, orders);
    }
    standing::account(seen, orders, &mut plan);
    cpus::account(seen, orders, &mut plan);
    if let Some(orders) = orders {
        acknowledge::acknowledge(seen, orders, &mut plan);
    }
    plan.account.acknowledged = plan.state.acknowledgement.given;
    plan
}

/// Boards answer one after the other at the start: until all could have, the limits of an earlier life
/// stand, instead of those that leave room for boards that are about to be seen.
const LOOKING: Duration = Duration::from_secs(2);

fn enforce(seen: &Observation, orders: &Orders, plan: &mut Plan) {
    plan.account.phase = Phase::Enforcing;
    plan.account.restraint = orders.restraint.reason;
    let envelope = orders.limit().map(|limit| orders.overhead.envelope(limit));
    plan.state.cpu_claim = plan.state.cpu_claim.next(seen.packages.as_ref(), seen.now);
    let budget = envelope
        .map(|envelope| envelope.saturating_sub(plan.state.cpu_claim.watts).saturating_sub(budget::unopened(seen)));
    plan.account.envelope = envelope;
    plan.account.boards_budget = budget;
    if seen.gpus == GpuAccess::Starting && seen.now < LOOKING {
        return;
    }
    boards::enforce(seen, orders, budget, plan);
    cpus::enforce(seen, orders, envelope, plan);
}

impl Plan {
    /// Notes what a first touch of a device would lose.
    fn note(&mut self, notes: impl IntoIterator<Item = Note>) {
        for note in notes {
            self.state.originals.take(&note);
            self.notes.push(note);
        }
    }
}

/// Without NVML nobody can say which boards there are.
fn unknown_boards(seen: &Observation, orders: &Orders) -> Vec<Arc<str>> {
    let known: BTreeSet<_> = seen.boards.iter().map(|board| &board.traits.uuid).collect();
    orders.boards.keys().filter(|uuid| !known.contains(uuid)).cloned().collect()
}
