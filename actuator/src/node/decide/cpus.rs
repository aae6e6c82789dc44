//! Clock ceilings of the CPUs: what the orders say, and lower when the boards at their lowest are not
//! enough.

use std::time::Duration;

use powercap_common::{api::DeviceState, reason::Reason, units::Watts};

use super::{
    CpuAccount, CpuWrite, Phase, Plan,
    budget::{exposure, unopened},
    processors::CpuGovernor,
};
use crate::{
    hardware::Knob,
    node::{
        observation::{Observation, SeenBoard},
        orders::Orders,
    },
};

const RETRY: Duration = Duration::from_secs(1);
const LATE: Duration = Duration::from_millis(500);

/// Writes the CPUs' ceilings.
pub(super) fn enforce(seen: &Observation, orders: &Orders, envelope: Option<Watts>, plan: &mut Plan) {
    let power = seen.packages.as_ref().and_then(|packages| packages.fresh());
    let beside_boards = seen.boards.iter().map(|board| lowest(board, plan)).sum::<Watts>() + unopened(seen);
    let budget = envelope.filter(|_| seen.packages.is_some()).map(|envelope| envelope.saturating_sub(beside_boards));
    plan.state.cpu_governor = governor(seen, orders, plan).next(power, budget, seen.now);
    if let (Some(power), Some(budget)) = (power, budget) {
        plan.account.below_floor |= plan.state.cpu_governor.at_floor() && power > budget;
    }
    for cpu in &seen.cpus {
        let policy = cpu.traits.policy;
        let ordered = orders.cpu_ceiling(policy);
        let governed = plan.state.cpu_governor.ceiling(&cpu.traits);
        let state = plan.state.cpus.get(&policy).copied();
        if ordered.is_none() && governed.is_none() && state.is_none() {
            continue;
        }
        let top = ordered.map_or(cpu.traits.max, |ordered| ordered.clock.clamp(cpu.traits.min, cpu.traits.max));
        let ceiling = governed.map_or(top, |governed| governed.min(top));
        let without_effect = cpu.reading.zip(state).is_some_and(|(reading, state)| {
            reading.executed >= state.number
                && seen.now.saturating_sub(state.ordered_at) >= RETRY
                && reading.ceiling > ceiling
        });
        let takes_writes = cpu.reading.is_none_or(|reading| reading.knob.usable());
        let last = state.and_then(|state| state.ceiling);
        let first_and_in_force =
            last.is_none() && cpu.reading.is_some_and(|reading| reading.ceiling == ceiling && ordered.is_none());
        if !takes_writes || first_and_in_force || (last == Some(ceiling) && !without_effect) {
            continue;
        }
        let reason = match ordered {
            Some(ordered) if ceiling == top => ordered.reason,
            _ if last.is_some_and(|last| last < ceiling) => Reason::RoomToRaise,
            _ => Reason::EnvelopeReached,
        };
        let read = cpu.reading.map(|reading| reading.ceiling);
        plan.note(plan.state.originals.before_cpu(policy, read));
        write(plan, policy, ceiling, reason, seen.now);
    }
}

/// The feedback as it was left, and at first as an earlier life of the agent left it: CPUs that it held
/// down come up in steps, too.
fn governor(seen: &Observation, orders: &Orders, plan: &Plan) -> CpuGovernor {
    let governor = plan.state.cpu_governor;
    if governor != CpuGovernor::default() || !plan.state.cpus.is_empty() {
        return governor;
    }
    let touched = seen.cpus.iter().filter(|cpu| plan.state.originals.cpus.contains_key(&cpu.traits.policy));
    touched.fold(governor, |governor, cpu| {
        let ordered = orders.cpu_ceiling(cpu.traits.policy).map_or(cpu.traits.max, |ordered| ordered.clock);
        let held = cpu.reading.map(|reading| reading.ceiling).filter(|ceiling| *ceiling < ordered);
        held.map_or(governor, |ceiling| governor.at_most(&cpu.traits, ceiling))
    })
}

pub(super) fn write(
    plan: &mut Plan,
    policy: u32,
    ceiling: powercap_common::units::Megahertz,
    reason: Reason,
    now: Duration,
) {
    let number = plan.state.next_number();
    let state = plan.state.cpus.entry(policy).or_default();
    *state = super::state::CpuState { ceiling: Some(ceiling), number, ordered_at: now };
    plan.cpus.push(CpuWrite { policy, number, ceiling, reason });
}

/// The least that a board can be brought to.
fn lowest(board: &SeenBoard, plan: &Plan) -> Watts {
    let beyond_control = plan.state.board(board).is_some_and(|state| state.drift.beyond_control());
    let steerable = !beyond_control && board.fresh().is_some_and(|reading| reading.limit_knob.usable());
    if steerable { board.traits.min_limit } else { exposure(board, plan.state.board(board)) }
}

/// Says how each policy stands.
pub(super) fn account(seen: &Observation, orders: Option<&Orders>, plan: &mut Plan) {
    plan.account.cpus = seen
        .cpus
        .iter()
        .map(|cpu| {
            let state = plan.state.cpus.get(&cpu.traits.policy);
            let ceiling = state.and_then(|state| state.ceiling).filter(|ceiling| *ceiling < cpu.traits.max);
            let ordered = orders.and_then(|orders| orders.cpu_ceiling(cpu.traits.policy));
            let late = |number, at| {
                cpu.reading.is_none_or(|reading| reading.executed < number) && seen.now.saturating_sub(at) > LATE
            };
            let (device, reason) = match (cpu.reading.map(|reading| reading.knob), state) {
                (None, _) => (DeviceState::Failed, cpu.fault.as_ref().map_or(Reason::ReadFailed, |fault| fault.reason)),
                (Some(Knob::Lacking), _) => (DeviceState::Unsupported, Reason::Unsupported),
                (Some(knob @ (Knob::Denied | Knob::Failed)), _) => {
                    (DeviceState::Failed, knob.reason().unwrap_or(Reason::WriteFailed))
                }
                (Some(Knob::Works), _) if plan.account.phase == Phase::Released => {
                    (DeviceState::Applied, Reason::Released)
                }
                (Some(Knob::Works), Some(state)) if late(state.number, state.ordered_at) => {
                    (DeviceState::Pending, Reason::Pending)
                }
                (Some(Knob::Works), _) => match (ceiling, ordered) {
                    (Some(ceiling), Some(ordered)) if ceiling >= ordered.clock => {
                        (DeviceState::Applied, ordered.reason)
                    }
                    (Some(_), _) => (DeviceState::Applied, Reason::EnvelopeReached),
                    (None, _) => (DeviceState::Applied, Reason::Applied),
                },
            };
            CpuAccount { ceiling, state: device, reason }
        })
        .collect();
}
