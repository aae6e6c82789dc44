//! When a decision of the recommender may be said to hold.
//!
//! What must hold: acknowledged means that every ceiling was read back and the node's power was
//! measured at or below the grant; a device that cannot be read prevents it, save one that was lost and
//! has no ceiling of its own: it counts with the most that it takes. An acknowledgement stands until the
//! next one.

use std::time::Duration;

use powercap_common::{
    api::Acknowledged,
    units::{Megahertz, Watts},
};

use super::{Phase, Plan, budget::exposure};
use crate::{
    hardware::{BoardReading, ClockLock, Knob},
    node::{
        observation::{GpuAccess, Observation, SeenBoard},
        orders::Orders,
    },
};

/// How long everything must have held.
const STEADY: Duration = Duration::from_millis(150);

pub(super) fn acknowledge(seen: &Observation, orders: &Orders, plan: &mut Plan) {
    let epoch = orders.epoch;
    let power_limit_watts = orders.grant.map(Watts::floor);
    if plan.state.acknowledgement.given == Some(Acknowledged { epoch, power_limit_watts }) {
        return;
    }
    let holds = match plan.account.phase {
        Phase::Waiting | Phase::Releasing => false,
        Phase::Released => true,
        Phase::Enforcing => everything_holds(seen, orders, plan),
    };
    let acknowledgement = &mut plan.state.acknowledgement;
    if !holds {
        acknowledgement.holding = None;
        return;
    }
    match acknowledgement.holding {
        Some((held, since)) if held == epoch => {
            if seen.now.saturating_sub(since) >= STEADY {
                acknowledgement.given = Some(Acknowledged { epoch, power_limit_watts });
            }
        }
        _ => acknowledgement.holding = Some((epoch, seen.now)),
    }
}

fn everything_holds(seen: &Observation, orders: &Orders, plan: &Plan) -> bool {
    let boards_known = match &seen.gpus {
        GpuAccess::Working => true,
        GpuAccess::NoLibrary => orders.boards.is_empty(),
        GpuAccess::Starting | GpuAccess::Broken(_) | GpuAccess::LettingGo(..) | GpuAccess::LetGo(_) => false,
    };
    let cpus_known = seen.packages.as_ref().is_none_or(|packages| packages.fresh().is_some());
    let within_grant = orders.grant.is_none_or(|grant| plan.account.node_power <= grant);
    let in_force: Watts = seen.boards.iter().map(|board| exposure(board, plan.state.board(board))).sum();
    let limits_fit = plan.account.boards_budget.is_none_or(|budget| in_force <= budget);
    boards_known
        && cpus_known
        && within_grant
        && limits_fit
        && seen.boards.iter().all(|board| board_holds(board, orders, plan))
        && cpus_hold(seen, plan)
}

/// The board is within what the orders say of it. The feedback below that may go on moving.
fn board_holds(board: &SeenBoard, orders: &Orders, plan: &Plan) -> bool {
    let Some(state) = plan.state.board(board) else { return true };
    let ceiling = orders.boards.get(&board.traits.uuid);
    if board.out_of_reach() && ceiling.is_none() {
        return true;
    }
    let Some(reading) = board.fresh() else { return false };
    let limit_holds = match ceiling.and_then(|ceiling| ceiling.limit).filter(|_| reading.limit_knob.usable()) {
        Some(limit) => exposure(board, Some(state)) <= limit.max(board.traits.min_limit),
        None => true,
    };
    limit_holds
        && reading.limit_knob != Knob::Failed
        && reading.clock_knob != Knob::Failed
        && clock_holds(board, reading, ceiling.and_then(|ceiling| ceiling.clock))
}

fn clock_holds(board: &SeenBoard, reading: &BoardReading, ceiling: Option<Megahertz>) -> bool {
    let (Some(grid), Some(ceiling)) = (&board.traits.clocks, ceiling) else { return true };
    if !reading.clock_knob.usable() {
        return true;
    }
    let top = grid.snap_down(ceiling);
    let locked = matches!(reading.lock, ClockLock::UpTo(locked) if locked <= top);
    locked && reading.clock.is_none_or(|clock| clock <= top)
}

fn cpus_hold(seen: &Observation, plan: &Plan) -> bool {
    seen.cpus.iter().all(|cpu| {
        let Some(state) = plan.state.cpus.get(&cpu.traits.policy) else { return true };
        cpu.reading.is_some_and(|reading| {
            reading.executed >= state.number && state.ceiling.is_none_or(|ceiling| reading.ceiling <= ceiling)
        })
    })
}
