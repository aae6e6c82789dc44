//! How each board stands: what the status says of it, and why.

use std::time::Duration;

use powercap_common::{api::DeviceState, reason::Reason, units::Megahertz};

use super::{BoardAccount, Phase, Plan, state::BoardState};
use crate::{
    hardware::Knob,
    node::{
        observation::{Observation, SeenBoard},
        orders::{BoardCeiling, Orders},
    },
};

/// A write not yet carried out after this is worth telling.
const LATE: Duration = Duration::from_millis(500);

/// Says how each board stands.
pub(super) fn account(seen: &Observation, orders: Option<&Orders>, plan: &mut Plan) {
    plan.account.boards = seen
        .boards
        .iter()
        .map(|board| {
            let state = plan.state.board(board);
            let ceiling = orders.and_then(|orders| orders.ceiling(&board.traits.uuid));
            let (device, reason) = standing(board, state, ceiling, plan, seen.now);
            BoardAccount {
                share: state.map(|state| state.share),
                ceiling: held(board, state),
                state: device,
                reason,
                drifts: state.map_or(0, |state| state.drift.fought()),
            }
        })
        .collect();
}

/// The ceiling that was ordered last, where it is one at all.
fn held(board: &SeenBoard, state: Option<&BoardState>) -> Option<Megahertz> {
    let highest = board.traits.clocks.as_ref()?.highest();
    state?.ceiling.filter(|ceiling| *ceiling < highest)
}

fn standing(
    board: &SeenBoard,
    state: Option<&BoardState>,
    ceiling: Option<&BoardCeiling>,
    plan: &Plan,
    now: Duration,
) -> (DeviceState, Reason) {
    let Some(reading) = board.fresh() else {
        let reason = board.fault.as_ref().map_or(Reason::ReadFailed, |fault| fault.reason);
        let quarantined = reason == Reason::Quarantined;
        return (if quarantined { DeviceState::Quarantined } else { DeviceState::Failed }, reason);
    };
    match plan.account.phase {
        Phase::Waiting => return (DeviceState::Applied, Reason::Applied),
        Phase::Releasing => return (DeviceState::Pending, Reason::Released),
        Phase::Released => return (DeviceState::Applied, Reason::Released),
        Phase::Enforcing => {}
    }
    let Some(state) = state else { return (DeviceState::Applied, Reason::Applied) };
    match (reading.clock_knob, reading.limit_knob) {
        (Knob::Failed | Knob::Denied, _) => {
            return (DeviceState::Failed, reading.clock_knob.reason().unwrap_or(Reason::WriteFailed));
        }
        (_, Knob::Failed | Knob::Denied) => {
            return (DeviceState::Failed, reading.limit_knob.reason().unwrap_or(Reason::WriteFailed));
        }
        (Knob::Lacking, Knob::Lacking) => return (DeviceState::Unsupported, Reason::Unsupported),
        _ => {}
    }
    if state.drift.yielded() {
        return (DeviceState::Drifted, Reason::Contended);
    }
    if state.drift.without_effect() {
        return (DeviceState::Failed, Reason::WithoutEffect);
    }
    if state.drift.drifted(now) {
        return (DeviceState::Drifted, Reason::Drifted);
    }
    if reading.executed < state.number && now.saturating_sub(state.ordered_at.max(state.lock_ordered_at)) > LATE {
        return (DeviceState::Pending, Reason::Pending);
    }
    (DeviceState::Applied, why(board, state, ceiling, plan))
}

/// What holds the board back, the tightest first.
fn why(board: &SeenBoard, state: &BoardState, ceiling: Option<&BoardCeiling>, plan: &Plan) -> Reason {
    if plan.account.below_floor {
        return Reason::CapBelowFloor;
    }
    if state.follows {
        return Reason::GroupFollows;
    }
    let own_limit = ceiling.and_then(|ceiling| ceiling.limit).filter(|limit| *limit < board.traits.default_limit);
    let top = ceiling
        .and_then(|ceiling| ceiling.clock)
        .zip(board.traits.clocks.as_ref())
        .map(|(clock, grid)| grid.snap_down(clock));
    let held = held(board, Some(state));
    match (held, ceiling) {
        (Some(held), Some(ceiling)) if top.is_some_and(|top| held >= top) => ceiling.reason,
        (Some(_), Some(ceiling)) if own_limit.is_some_and(|limit| state.share >= limit) => ceiling.reason,
        (Some(_), _) => Reason::EnvelopeReached,
        (None, Some(ceiling)) if own_limit.is_some() => ceiling.reason,
        (None, _) if state.share < board.traits.default_limit => Reason::EnvelopeReached,
        (None, _) => Reason::Applied,
    }
}
