//! What one board should get: its limit, its clock ceiling, and what may have to wait.
//!
//! What must hold: a lowering is drafted whole and at once; a raise comes in steps, one in a while, and
//! only on a fresh reading; the boards of one group get the ceiling of the slowest of them.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use powercap_common::{
    reason::Reason,
    units::{Megahertz, Watts},
};

use super::{
    Plan,
    boards::most,
    budget::{exposure, stated},
    ceiling::{Governor, RAISE_PERIOD, Situation},
    state::BoardState,
};
use crate::{
    hardware::{BoardReading, ClockGrid, ClockLock},
    node::{
        observation::SeenBoard,
        orders::{BoardCeiling, Orders},
    },
};

/// A limit rises by no more than this share of the board's highest limit at a time.
const RAISE_PERCENT: u32 = 10;
/// And by no less than this, unless to the highest.
const WORTH: Watts = Watts::new(2);

/// What one board should get.
#[derive(Default)]
pub(super) struct Draft {
    pub share: Watts,
    pub lock: Option<ClockLock>,
    pub limit: Option<Watts>,
    /// A limit above the present one, which must wait until there is room.
    pub raise: Option<Watts>,
    pub governor: Option<Governor>,
    /// The board's ceiling is that of a slower one.
    pub follows: bool,
    pub reason: Option<Reason>,
}

/// For a board that answers: its limit, and the ceiling that it would have by itself.
pub(super) fn draft(board: &SeenBoard, share: Watts, orders: &Orders, now: Duration, plan: &Plan) -> Draft {
    let Some(reading) = board.fresh() else { return Draft::default() };
    let state = plan.state.board(board);
    let mut draft = Draft { share, governor: state.and_then(|state| state.governor.clone()), ..Draft::default() };
    if reading.limit_knob.usable() {
        limit(&mut draft, board, orders, now, state);
    }
    if reading.clock_knob.usable() {
        govern(&mut draft, board, reading, orders.ceiling(&board.traits.uuid), now, state);
    } else {
        draft.governor = None;
    }
    draft
}

fn limit(draft: &mut Draft, board: &SeenBoard, orders: &Orders, now: Duration, state: Option<&BoardState>) {
    let most = most(board, orders);
    let present = stated(board, state);
    let target = draft.share.clamp(board.traits.min_limit, most);
    let ordered = state.and_then(|state| state.limit);
    let again = state.is_some_and(|state| state.drift.limit_again);
    // A raise that was taken back before it was seen still counts; to come nearer to it again is a raise too.
    let shown = board.reading.and_then(|reading| reading.limit);
    let taken_back = ordered.is_some_and(|ordered| target > ordered) && shown.is_some_and(|shown| target > shown);
    if target < present && !taken_back && (ordered != Some(target) || again) {
        draft.limit = Some(target);
        draft.reason = Some(if again { Reason::Drifted } else { Reason::EnvelopeReached });
    } else if target > present && ordered != Some(target) {
        let worth_it = target >= present + WORTH || target == most;
        let raised_at = state.and_then(|state| state.raised_at);
        let due = raised_at.is_none_or(|at| now.saturating_sub(at) >= RAISE_PERIOD);
        let step = present + board.traits.max_limit.percent(RAISE_PERCENT);
        draft.raise = (worth_it && due).then_some(target.min(step));
        draft.reason = Some(Reason::RoomToRaise);
    }
}

fn govern(
    draft: &mut Draft,
    board: &SeenBoard,
    reading: &BoardReading,
    ceiling: Option<&BoardCeiling>,
    now: Duration,
    state: Option<&BoardState>,
) {
    let Some(grid) = &board.traits.clocks else { return };
    let top = top(grid, ceiling);
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
    let by_policy = ceiling.filter(|_| governor.ceiling == top).map(|ceiling| ceiling.reason);
    draft.reason = by_policy.or(reason).or(draft.reason);
    draft.governor = Some(governor);
}

/// The highest ceiling that the orders permit.
pub(super) fn top(grid: &ClockGrid, ceiling: Option<&BoardCeiling>) -> Megahertz {
    ceiling.and_then(|ceiling| ceiling.clock).map_or(grid.highest(), |clock| grid.snap_down(clock))
}

/// Writes the ceilings of the boards that answer: each board's own, and in a group that of the slowest.
pub(super) fn lock(drafts: &mut [(&SeenBoard, Draft)], orders: &Orders, now: Duration, plan: &Plan) {
    let mut slowest = BTreeMap::<Arc<str>, Megahertz>::new();
    for (board, draft) in drafts.iter().filter(|(board, _)| board.fresh().is_some()) {
        let (Some(group), Some(governor)) = (group(board, orders), &draft.governor) else { continue };
        let ceiling = slowest.entry(Arc::clone(group)).or_insert(governor.ceiling);
        *ceiling = governor.ceiling.min(*ceiling);
    }
    for (board, draft) in drafts.iter_mut().filter(|(board, _)| board.fresh().is_some()) {
        let (Some(grid), Some(governor)) = (&board.traits.clocks, &draft.governor) else { continue };
        let wish = governor.ceiling;
        let common = group(board, orders).and_then(|group| slowest.get(group)).map(|clock| grid.snap_down(*clock));
        let target = common.map_or(wish, |common| common.min(wish));
        draft.follows = target < wish;
        let state = plan.state.board(board);
        let ordered = state.and_then(|state| state.ceiling);
        let since = state.map_or(Duration::MAX, |state| now.saturating_sub(state.lock_ordered_at));
        let waits = ordered.is_some_and(|ordered| target > ordered) && since < RAISE_PERIOD;
        let again = state.is_some_and(|state| state.drift.lock_again);
        let target = if waits { ordered.unwrap_or(target) } else { target };
        if ordered != Some(target) || again {
            draft.lock = Some(ClockLock::UpTo(target));
            if draft.follows {
                draft.reason = Some(Reason::GroupFollows);
            }
        }
    }
}

/// The group that the board belongs to.
pub(super) fn group<'a>(board: &SeenBoard, orders: &'a Orders) -> Option<&'a Arc<str>> {
    orders.boards.get(&board.traits.uuid)?.group.as_ref()
}

/// A board that does not answer is asked for an equal part, should it hear us; it still counts with
/// what it may draw. One that is out of reach, or somebody else's for now, is not asked.
pub(super) fn draft_blind(
    board: &SeenBoard,
    orders: &Orders,
    budget: Option<Watts>,
    boards: usize,
    plan: &Plan,
) -> Draft {
    let most = most(board, orders);
    let state = plan.state.board(board);
    let share = exposure(board, state);
    if board.out_of_reach() || state.is_some_and(|state| state.drift.yielded()) {
        return Draft { share, ..Draft::default() };
    }
    let equal = budget.map_or(most, |budget| Watts::new(budget.divided(boards).floor()));
    let target = equal.clamp(board.traits.min_limit, most);
    let governor = state.and_then(|state| state.governor.clone());
    let takes_limits = board.reading.is_none_or(|reading| reading.limit_knob.usable());
    let last = state.map_or(Watts::from_milliwatts(u64::MAX), |state| state.limit.unwrap_or(state.share));
    // Another writer may have set less than we ever ordered.
    let shown = board.reading.and_then(|reading| reading.limit);
    let lower = takes_limits && target < last && target < share && shown.is_none_or(|shown| target < shown);
    Draft { share, limit: lower.then_some(target), governor, reason: Some(Reason::DataStale), ..Draft::default() }
}
