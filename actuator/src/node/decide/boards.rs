//! Shares, power limits and clock ceilings of the boards.

use std::time::Duration;

use powercap_common::{
    api::DeviceState,
    reason::Reason,
    units::{Megahertz, Watts},
};

use super::{
    BoardAccount, BoardWrite, Phase, Plan,
    budget::exposure,
    ceiling::{Governor, Situation},
    shares::{Claim, divide},
    state::{BoardState, State},
};
use crate::{
    hardware::{BoardReading, ClockLock, Knob},
    node::{
        observation::{Observation, SeenBoard},
        orders::{BoardCeiling, Orders},
    },
};

/// A write that was carried out without effect is repeated after this.
const RETRY: Duration = Duration::from_secs(1);
/// A write not yet carried out after this is worth telling.
const LATE: Duration = Duration::from_millis(500);
/// At this share of its share a board would use more.
const HUNGRY_PERCENT: u32 = 90;

/// A limit takes this long to show in the reading; after the longer time the reading is believed
/// whatever it says.
const SHOWS_AFTER: Duration = Duration::from_millis(100);
const BELIEVED_AFTER: Duration = Duration::from_secs(1);

/// The most that a board has drawn lately: follows up at once, and falls only when it has drawn less
/// for some seconds, so that the pauses of a training step do not move watts about.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Demand {
    peak: Watts,
    at: Duration,
}

impl Demand {
    const HOLD: Duration = Duration::from_secs(5);

    fn next(self, power: Watts, now: Duration) -> Self {
        if power >= self.peak {
            Self { peak: power, at: now }
        } else if now.saturating_sub(self.at) >= Self::HOLD {
            Self { peak: power.max(self.peak.percent(95)), at: self.at }
        } else {
            self
        }
    }
}

/// Forgets orders that were seen to be carried out, and takes in what the boards draw.
pub(super) fn observe(seen: &Observation, state: &mut State) {
    for board in &seen.boards {
        let (Some(reading), Some(state)) = (board.fresh(), state.boards.get_mut(&board.traits.uuid)) else { continue };
        state.demand = state.demand.next(reading.power, seen.now);
        let age = seen.now.saturating_sub(state.ordered_at);
        let shows = reading.limit == state.limit && age >= SHOWS_AFTER;
        if reading.executed >= state.number && (shows || age >= BELIEVED_AFTER) {
            state.unconfirmed = None;
        }
    }
}

/// Writes the boards' limits and ceilings.
pub(super) fn enforce(seen: &Observation, orders: &Orders, budget: Option<Watts>, plan: &mut Plan) {
    let ours: Vec<&SeenBoard> = seen
        .boards
        .iter()
        .filter(|board| {
            let uuid = &board.traits.uuid;
            budget.is_some()
                || orders.restraint.minimum
                || orders.boards.contains_key(uuid)
                || plan.state.boards.contains_key(uuid)
        })
        .collect();
    let (steered, fixed): (Vec<_>, Vec<_>) = ours.into_iter().partition(|board| steerable(board));
    let fixed_watts: Watts = fixed.iter().map(|board| exposure(board, plan.state.board(board))).sum();
    let rest = budget.map(|budget| budget.saturating_sub(fixed_watts));
    plan.account.below_floor |= budget.is_some_and(|budget| fixed_watts > budget);

    let shares = shares(&steered, orders, rest, plan);
    let mut drafts: Vec<_> = steered
        .iter()
        .zip(&shares)
        .map(|(board, share)| (*board, draft(board, *share, orders, seen.now, plan)))
        .chain(fixed.iter().map(|board| (*board, draft_blind(board, orders, budget, seen.boards.len(), plan))))
        .collect();
    // A lowering that waits to be read back still counts with the limit that it replaces.
    let mut in_force: Watts = seen.boards.iter().map(|board| exposure(board, plan.state.board(board))).sum();
    for (board, draft) in &mut drafts {
        let Some(raise) = draft.raise.take() else { continue };
        let present = exposure(board, plan.state.board(board));
        let with_raise = in_force.saturating_sub(present) + raise;
        if budget.is_none_or(|budget| with_raise <= budget) {
            in_force = with_raise;
            draft.limit = Some(raise);
        }
    }
    for (board, draft) in drafts {
        order(board, &draft, seen.now, plan);
    }
}

/// A board that answers and takes at least one kind of write.
fn steerable(board: &SeenBoard) -> bool {
    board.fresh().is_some_and(|reading| {
        reading.limit_knob.usable() || (reading.clock_knob.usable() && board.traits.clocks.is_some())
    })
}

fn most(board: &SeenBoard, orders: &Orders) -> Watts {
    let traits = &board.traits;
    let policy = orders.ceiling(&traits.uuid).and_then(|ceiling| ceiling.limit);
    policy.unwrap_or(traits.default_limit).min(traits.default_limit).max(traits.min_limit)
}

/// Each board's share: the last ones as long as they fit and nobody would gain much by new ones, so
/// that limits are not rewritten at every flutter of the load.
fn shares(boards: &[&SeenBoard], orders: &Orders, budget: Option<Watts>, plan: &mut Plan) -> Vec<Watts> {
    let Some(budget) = budget else { return boards.iter().map(|board| most(board, orders)).collect() };
    let claims: Vec<_> = boards.iter().map(|board| claim(board, orders, &plan.state)).collect();
    let division = divide(budget, &claims);
    plan.account.below_floor |= division.below_floor;
    let last: Vec<_> =
        boards.iter().map(|board| plan.state.board(board).map_or(Watts::ZERO, |state| state.share)).collect();
    let fit = last.iter().copied().sum::<Watts>() <= budget
        && last.iter().zip(&claims).all(|(share, claim)| claim.least <= *share && *share <= claim.most);
    let gain = |old: Watts, new: Watts| new.as_f64() > old.as_f64() * 1.03 + 2.0;
    let somebody_gains =
        last.iter().zip(&division.shares).zip(&claims).any(|((old, new), claim)| claim.want > *old && gain(*old, *new));
    let all_gain = gain(last.iter().copied().sum(), division.shares.iter().copied().sum());
    if fit && !somebody_gains && !all_gain { last } else { division.shares }
}

fn claim(board: &SeenBoard, orders: &Orders, state: &State) -> Claim {
    let most = most(board, orders);
    let power = board.fresh().map_or(most, |reading| reading.power);
    let (share, demand) = match state.board(board) {
        Some(state) => (state.share, state.demand.peak.max(power)),
        None => (exposure(board, None), power),
    };
    let hungry = demand >= share.percent(HUNGRY_PERCENT);
    let want = if hungry { most } else { demand.percent(115) + Watts::new(15) };
    Claim { least: board.traits.min_limit, want, most }
}

/// What one board should get.
#[derive(Default)]
struct Draft {
    share: Watts,
    lock: Option<ClockLock>,
    limit: Option<Watts>,
    /// A limit above the present one, which must wait until there is room.
    raise: Option<Watts>,
    governor: Option<Governor>,
    reason: Option<Reason>,
}

fn draft(board: &SeenBoard, share: Watts, orders: &Orders, now: Duration, plan: &Plan) -> Draft {
    let Some(reading) = board.fresh() else { return Draft::default() };
    let state = plan.state.board(board);
    let mut draft = Draft { share, governor: state.and_then(|state| state.governor.clone()), ..Draft::default() };
    if reading.limit_knob.usable() {
        let present = exposure(board, state);
        limit(&mut draft, board, reading, present, most(board, orders), now, plan);
    }
    if reading.clock_knob.usable() {
        clocks(&mut draft, board, reading, orders.ceiling(&board.traits.uuid), now, state);
    }
    draft
}

fn limit(
    draft: &mut Draft,
    board: &SeenBoard,
    reading: &BoardReading,
    present: Watts,
    most: Watts,
    now: Duration,
    plan: &Plan,
) {
    let state = plan.state.board(board);
    let target = draft.share.clamp(board.traits.min_limit, most);
    let ordered = state.and_then(|state| state.limit);
    let without_effect = state.is_some_and(|state| {
        reading.executed >= state.number
            && now.saturating_sub(state.ordered_at) >= RETRY
            && reading.limit.is_some_and(|limit| limit > target)
    });
    if target < present && (ordered != Some(target) || without_effect) {
        draft.limit = Some(target);
        draft.reason = Some(Reason::EnvelopeReached);
    } else if target > present && ordered != Some(target) {
        let worth_it = target >= present.percent(102) || target == most;
        draft.raise = worth_it.then_some(target);
        draft.reason = Some(Reason::RoomToRaise);
    }
}

fn clocks(
    draft: &mut Draft,
    board: &SeenBoard,
    reading: &BoardReading,
    ceiling: Option<&BoardCeiling>,
    now: Duration,
    state: Option<&BoardState>,
) {
    let Some(grid) = &board.traits.clocks else { return };
    let top = ceiling.and_then(|ceiling| ceiling.clock).map_or(grid.highest(), |clock| grid.snap_down(clock));
    // Watts that the limit does not yet permit are not ours yet.
    let share = draft.share.min(exposure(board, state));
    let at = Situation { traits: &board.traits, grid, reading, share, top, now };
    let (governor, reason) = match draft.governor.take() {
        Some(governor) => governor.next(&at),
        None => {
            let (governor, reason) = Governor::start(&at);
            (governor, Some(reason))
        }
    };
    let ordered = state.and_then(|state| state.ceiling);
    let without_effect = state.is_some_and(|state| {
        reading.executed >= state.number
            && now.saturating_sub(state.lock_ordered_at) >= RETRY
            && (reading.lock != ClockLock::UpTo(governor.ceiling)
                || reading.clock.is_some_and(|clock| clock > grid.above(governor.ceiling, 1)))
    });
    if ordered != Some(governor.ceiling) || without_effect {
        draft.lock = Some(ClockLock::UpTo(governor.ceiling));
        let by_policy = ceiling.filter(|_| governor.ceiling == top).map(|ceiling| ceiling.reason);
        draft.reason = by_policy.or(reason).or(draft.reason);
    }
    draft.governor = Some(governor);
}

/// A board that does not answer is asked for an equal part, should it hear us; it still counts with
/// what it may draw.
fn draft_blind(board: &SeenBoard, orders: &Orders, budget: Option<Watts>, boards: usize, plan: &Plan) -> Draft {
    let most = most(board, orders);
    let state = plan.state.board(board);
    let equal = budget.map_or(most, |budget| Watts::new(budget.divided(boards).floor()));
    let target = equal.clamp(board.traits.min_limit, most);
    let governor = state.and_then(|state| state.governor.clone());
    let takes_limits = board.reading.is_none_or(|reading| reading.limit_knob.usable());
    let last = state.map_or(Watts::from_milliwatts(u64::MAX), |state| state.limit.unwrap_or(state.share));
    let lower = takes_limits && target < last && target < exposure(board, state);
    Draft {
        share: exposure(board, state),
        limit: lower.then_some(target),
        governor,
        reason: Some(Reason::DataStale),
        ..Draft::default()
    }
}

fn order(board: &SeenBoard, draft: &Draft, now: Duration, plan: &mut Plan) {
    let uuid = &board.traits.uuid;
    let writes = draft.lock.is_some() || draft.limit.is_some();
    let number = if writes { plan.state.next_number() } else { 0 };
    let state = plan.state.boards.entry(uuid.clone()).or_default();
    state.share = draft.share;
    if state.demand == Demand::default() {
        let power = board.fresh().map_or(Watts::ZERO, |reading| reading.power);
        state.demand = Demand { peak: power, at: now };
    }
    state.governor.clone_from(&draft.governor);
    if !writes {
        return;
    }
    let locks = matches!(draft.lock, Some(ClockLock::UpTo(_)));
    let read = board.reading.and_then(|reading| reading.limit);
    plan.note(plan.state.originals.before_board(uuid, read, locks));
    let state = plan.state.boards.entry(uuid.clone()).or_default();
    state.number = number;
    if draft.lock.is_some() {
        state.lock_ordered_at = now;
    }
    if let Some(limit) = draft.limit {
        state.ordered_at = now;
        state.limit = Some(limit);
        state.unconfirmed = Some(state.unconfirmed.map_or(limit, |highest| highest.max(limit)));
    }
    if let Some(ClockLock::UpTo(ceiling)) = draft.lock {
        state.ceiling = Some(ceiling);
    }
    let reason = draft.reason.unwrap_or(Reason::Enforcing);
    plan.boards.push(BoardWrite { uuid: uuid.clone(), number, lock: draft.lock, limit: draft.limit, reason });
}

/// Says how each board stands.
pub(super) fn account(seen: &Observation, orders: Option<&Orders>, plan: &mut Plan) {
    plan.account.boards = seen
        .boards
        .iter()
        .map(|board| {
            let state = plan.state.board(board);
            let ceiling = orders.and_then(|orders| orders.ceiling(&board.traits.uuid));
            let (device, reason) = standing(board, state, ceiling, plan, seen.now);
            BoardAccount { share: state.map(|state| state.share), ceiling: held(board, state), state: device, reason }
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
        return (DeviceState::Failed, board.fault.as_ref().map_or(Reason::ReadFailed, |fault| fault.reason));
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
