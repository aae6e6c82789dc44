//! Shares, power limits and clock ceilings of the boards.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use powercap_common::{reason::Reason, units::Watts};

use super::{
    BoardWrite, Plan,
    budget::exposure,
    ceiling::{IDLE_PERCENT, Situation},
    draft::{self, Draft, draft, draft_blind},
    drift::Ordered,
    shares::{Claim, divide},
    stagger::{Party, Rung, stagger},
    state::{BoardState, State},
};
use crate::{
    hardware::ClockLock,
    node::{
        observation::{Observation, SeenBoard},
        orders::Orders,
    },
};

/// At this share of its share a board would use more.
const HUNGRY_PERCENT: u32 = 90;

/// A board gains enough for limits to be rewritten when it gets this much more; all of them, when they get so
/// much together, or after a time of rest so little.
const WORTH: f64 = 1.03;
const WORTH_AT_REST: f64 = 1.002;
const REST: Duration = Duration::from_secs(5);

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
    /// When it last rose steeply.
    rose_at: Option<Duration>,
}

impl Demand {
    const HOLD: Duration = Duration::from_secs(5);
    /// A sensor that looks once in so long has seen the whole of a rise.
    const RISES_WITHIN: Duration = Duration::from_millis(200);

    fn next(self, power: Watts, now: Duration) -> Self {
        if power >= self.peak {
            let rose_at = if power > self.peak.percent(120) { Some(now) } else { self.rose_at };
            Self { peak: power, at: now, rose_at }
        } else if power >= self.peak.percent(85) {
            Self { peak: power.max(self.peak.percent(99)), at: now, ..self }
        } else if now.saturating_sub(self.at) >= Self::HOLD {
            Self { peak: power.max(self.peak.percent(95)), ..self }
        } else {
            self
        }
    }

    /// It has just risen: what was read may be a mean of before and after.
    fn rises(self, now: Duration) -> bool {
        self.rose_at.is_some_and(|at| now.saturating_sub(at) < Self::RISES_WITHIN)
    }
}

/// Forgets orders that were seen to be carried out or are lost, takes in what the boards draw, and
/// whether they keep to what they were told.
pub(super) fn observe(seen: &Observation, state: &mut State) {
    for board in &seen.boards {
        let Some(state) = state.boards.get_mut(&board.traits.uuid) else { continue };
        if state.opened != board.opened {
            // A board opened anew has lost what it was told.
            if state.opened != 0 {
                *state = BoardState::default();
            }
            state.opened = board.opened;
        }
        let Some(reading) = board.fresh() else { continue };
        state.demand = state.demand.next(reading.power, seen.now);
        let executed = reading.executed >= state.number;
        let age = seen.now.saturating_sub(state.ordered_at);
        let shows = reading.limit == state.limit && age >= SHOWS_AFTER;
        if executed && (shows || age >= BELIEVED_AFTER) {
            state.unconfirmed = None;
        }
        let ordered = Ordered {
            limit: state.limit,
            limit_at: state.ordered_at,
            ceiling: state.ceiling,
            lock_at: state.lock_ordered_at,
            executed,
        };
        if state.drift.observe(reading, &board.traits, &ordered, seen.now) {
            (state.limit, state.unconfirmed, state.ceiling, state.governor) = (None, None, None, None);
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
    let (steered, fixed): (Vec<_>, Vec<_>) = ours.into_iter().partition(|board| steerable(board, &plan.state));
    let fixed_watts: Watts = fixed.iter().map(|board| exposure(board, plan.state.board(board))).sum();
    let rest = budget.map(|budget| budget.saturating_sub(fixed_watts));
    plan.account.below_floor |= budget.is_some_and(|budget| fixed_watts > budget);

    let shares = shares(&steered, orders, rest, seen.now, plan);
    let mut drafts: Vec<_> = steered
        .iter()
        .zip(&shares)
        .map(|(board, share)| (*board, draft(board, *share, orders, seen.now, plan)))
        .chain(fixed.iter().map(|board| (*board, draft_blind(board, orders, budget, seen.boards.len(), plan))))
        .collect();
    draft::lock(&mut drafts, orders, seen.now, plan);
    // A lowering that waits to be read back still counts with the limit that it replaces.
    let mut in_force: Watts = seen.boards.iter().map(|board| exposure(board, plan.state.board(board))).sum();
    for (board, draft) in &mut drafts {
        let Some(raise) = draft.raise.take() else { continue };
        let present = exposure(board, plan.state.board(board));
        let with_raise = in_force.saturating_sub(present) + raise.max(present);
        if budget.is_none_or(|budget| with_raise <= budget) {
            in_force = with_raise;
            draft.raise = Some(raise);
        }
    }
    for (board, draft) in drafts {
        order(board, &draft, seen.now, plan);
    }
}

/// A board that answers, takes at least one kind of write and keeps to it.
fn steerable(board: &SeenBoard, state: &State) -> bool {
    let beyond_control = state.board(board).is_some_and(|state| state.drift.beyond_control());
    board.fresh().filter(|_| !beyond_control).is_some_and(|reading| {
        reading.limit_knob.usable() || (reading.clock_knob.usable() && board.traits.clocks.is_some())
    })
}

/// The highest limit that the board may have.
pub(super) fn most(board: &SeenBoard, orders: &Orders) -> Watts {
    let traits = &board.traits;
    let policy = orders.ceiling(&traits.uuid).and_then(|ceiling| ceiling.limit);
    policy.unwrap_or(traits.default_limit).min(traits.default_limit).max(traits.min_limit)
}

/// Each board's share: the last ones as long as they fit and nobody would gain much by new ones, so
/// that limits are not rewritten at every flutter of the load.
fn shares(boards: &[&SeenBoard], orders: &Orders, budget: Option<Watts>, now: Duration, plan: &mut Plan) -> Vec<Watts> {
    let Some(budget) = budget else { return boards.iter().map(|board| most(board, orders)).collect() };
    let (parties, party_of) = parties(boards, orders, now, &plan.state);
    let division = divide(budget, &parties);
    plan.account.below_floor |= division.below_floor;
    let rungs = rungs(boards, orders, now, &plan.state, &party_of, parties.len());
    let shares = if division.below_floor {
        division.shares.clone()
    } else {
        stagger(&standing(&parties, &division.shares, &rungs))
    };
    let of = |board: usize| (&parties[party_of[board]], shares[party_of[board]]);
    // Who begins anew finds in the limits how the watts were shared before.
    let share =
        |board: &&SeenBoard| plan.state.board(board).map(|state| state.share).filter(|share| *share > Watts::ZERO);
    let last: Vec<_> = boards.iter().map(|board| share(board).unwrap_or_else(|| exposure(board, None))).collect();
    let mut first_of: Vec<Option<Watts>> = vec![None; parties.len()];
    let fit = last.iter().copied().sum::<Watts>() <= budget
        && last.iter().enumerate().all(|(at, share)| {
            let (claim, _) = of(at);
            let first = *first_of[party_of[at]].get_or_insert(*share);
            claim.least <= *share && *share <= claim.most && *share == first
        });
    let new: Vec<_> = (0..boards.len()).map(|at| of(at).1).collect();
    let gains = |old: Watts, new: Watts, worth: f64| new.as_f64() > old.as_f64() * worth + 2.0;
    let somebody_gains =
        last.iter().zip(&new).enumerate().any(|(at, (old, new))| of(at).0.want > *old && gains(*old, *new, WORTH));
    let rests = now.saturating_sub(plan.state.divided_at) >= REST;
    let worth = if rests { WORTH_AT_REST } else { WORTH };
    let all_gain = gains(last.iter().copied().sum(), new.iter().copied().sum(), worth);
    let permits = |share: Watts, board: usize| rungs[party_of[board]].is_some_and(|rung| share >= rung.steps);
    // Who has given or taken watts and is not at rest keeps what it has.
    let rests_or_has_its_own = |at: usize| rungs[party_of[at]].is_some() || last[at] == division.shares[party_of[at]];
    let somebody_steps = (0..boards.len()).any(|at| permits(new[at], at) && !permits(last[at], at))
        && (0..boards.len()).all(rests_or_has_its_own);
    let worth_it = somebody_gains || all_gain || (rests && somebody_steps);
    if fit && !worth_it {
        return last;
    }
    plan.state.divided_at = now;
    new
}

/// What each party needs to stay where it is and to go a step higher, where all its boards are at rest.
fn rungs(
    boards: &[&SeenBoard],
    orders: &Orders,
    now: Duration,
    state: &State,
    party_of: &[usize],
    parties: usize,
) -> Vec<Option<Rung>> {
    let mut rungs: Vec<Option<Option<Rung>>> = vec![None; parties];
    for (board, party) in boards.iter().zip(party_of) {
        let rung = rung(board, orders, now, state);
        let together = |others: Option<Rung>| others.zip(rung).map(|(others, rung)| others.together(rung));
        rungs[*party] = Some(rungs[*party].map_or(rung, together));
    }
    rungs.into_iter().map(Option::flatten).collect()
}

fn rung(board: &SeenBoard, orders: &Orders, now: Duration, state: &State) -> Option<Rung> {
    let (grid, reading, state) = (board.traits.clocks.as_ref()?, board.fresh()?, state.board(board)?);
    let top = draft::top(grid, orders.ceiling(&board.traits.uuid));
    let at = Situation { traits: &board.traits, grid, reading, share: state.share, top, now };
    state.governor.as_ref()?.rung(state.ceiling?, &at)
}

/// The parties as they stand after a division.
fn standing(claims: &[Claim], shares: &[Watts], rungs: &[Option<Rung>]) -> Vec<Party> {
    let party = |((claim, share), rung): ((&Claim, &Watts), &Option<Rung>)| Party {
        share: *share,
        most: claim.most,
        boards: claim.boards,
        order: claim.order,
        rung: *rung,
    };
    claims.iter().zip(shares).zip(rungs).map(party).collect()
}

/// Who takes part in the division, and which party each board is of: the boards of one group are one.
fn parties(boards: &[&SeenBoard], orders: &Orders, now: Duration, state: &State) -> (Vec<Claim>, Vec<usize>) {
    let mut parties: Vec<Claim> = Vec::with_capacity(boards.len());
    let mut groups = BTreeMap::<&Arc<str>, usize>::new();
    let mut party_of = Vec::with_capacity(boards.len());
    for board in boards {
        let claim = claim(board, orders, now, state);
        let group = draft::group(board, orders);
        let place = group.map_or(parties.len(), |group| *groups.entry(group).or_insert(parties.len()));
        party_of.push(place);
        match parties.get_mut(place) {
            None => parties.push(claim),
            Some(party) => {
                party.boards += 1;
                party.least = party.least.max(claim.least);
                party.want = party.want.max(claim.want);
                party.most = party.most.min(claim.most).max(party.least);
                party.order = party.order.max(claim.order);
            }
        }
    }
    (parties, party_of)
}

/// A board with work that runs at a ceiling below what its orders permit would draw more: nobody knows
/// how much.
fn held_back(board: &SeenBoard, orders: &Orders, state: &State) -> bool {
    let (Some(grid), Some(reading)) = (&board.traits.clocks, board.fresh()) else { return false };
    let Some(ceiling) = state.board(board).and_then(|state| state.ceiling) else { return false };
    let top = draft::top(grid, orders.boards.get(&board.traits.uuid));
    let busy = reading.power >= board.traits.max_limit.percent(IDLE_PERCENT);
    busy && ceiling < top && reading.clock.is_some_and(|clock| clock >= ceiling)
}

fn claim(board: &SeenBoard, orders: &Orders, now: Duration, state: &State) -> Claim {
    let most = most(board, orders);
    let power = board.fresh().map_or(most, |reading| reading.power);
    let (share, demand, rises) = match state.board(board) {
        Some(state) => (state.share, state.demand.peak.max(power), state.demand.rises(now)),
        None => (exposure(board, None), power, false),
    };
    let hungry = rises || demand >= share.percent(HUNGRY_PERCENT) || held_back(board, orders, state);
    let want = if hungry { most } else { demand.percent(115) + Watts::new(15) };
    let order = orders.ceiling(&board.traits.uuid).map_or(0, |ceiling| ceiling.shed_order);
    Claim { least: board.traits.min_limit, want, most, boards: 1, order }
}

fn order(board: &SeenBoard, draft: &Draft, now: Duration, plan: &mut Plan) {
    let uuid = &board.traits.uuid;
    let limit = draft.limit.or(draft.raise);
    let writes = draft.lock.is_some() || limit.is_some();
    let number = if writes { plan.state.next_number() } else { 0 };
    let state = plan.state.boards.entry(uuid.clone()).or_default();
    state.opened = board.opened;
    state.share = draft.share;
    state.follows = draft.follows;
    if state.demand == Demand::default() {
        let power = board.fresh().map_or(Watts::ZERO, |reading| reading.power);
        state.demand = Demand { peak: power, at: now, rose_at: None };
    }
    state.governor.clone_from(&draft.governor);
    if !writes {
        return;
    }
    let locks = matches!(draft.lock, Some(ClockLock::UpTo(_)));
    let read = board.reading.and_then(|reading| reading.limit_found.or(reading.limit));
    plan.note(plan.state.originals.before_board(uuid, read, locks));
    let state = plan.state.boards.entry(uuid.clone()).or_default();
    state.number = number;
    if let Some(lock) = draft.lock {
        let last = state.ceiling;
        let lower = !matches!(lock, ClockLock::UpTo(ceiling) if last.is_some_and(|last| ceiling >= last));
        state.lock_ordered_at = now;
        state.drift.lock_ordered(lower);
    }
    if draft.raise.is_some() {
        state.raised_at = Some(now);
    }
    if let Some(limit) = limit {
        state.ordered_at = now;
        state.limit = Some(limit);
        state.unconfirmed = Some(state.unconfirmed.map_or(limit, |highest| highest.max(limit)));
    }
    if let Some(ClockLock::UpTo(ceiling)) = draft.lock {
        state.ceiling = Some(ceiling);
    }
    let reason = draft.reason.unwrap_or(Reason::Enforcing);
    plan.boards.push(BoardWrite { uuid: uuid.clone(), number, lock: draft.lock, limit, reason });
}

#[cfg(test)]
mod tests {
    use super::*;

    fn demands(powers: impl IntoIterator<Item = u32>) -> Demand {
        let ticks = powers.into_iter().zip((0..).map(|tick| Duration::from_millis(100 * tick)));
        ticks.fold(Demand::default(), |demand, (power, now)| demand.next(Watts::new(power), now))
    }

    #[test]
    fn a_demand_outlasts_the_pauses_of_a_load_though_no_peak_is_as_high_as_the_first() {
        let steps = (0..20).flat_map(|step| std::iter::repeat_n(650 - step, 6).chain(std::iter::repeat_n(70, 8)));
        let peak = demands(steps).peak;
        assert!(peak >= Watts::new(600), "{peak}");
    }

    #[test]
    fn a_demand_is_given_up_by_a_board_that_stays_idle() {
        assert_eq!(demands(std::iter::repeat_n(650, 10).chain(std::iter::repeat_n(70, 120))).peak, Watts::new(70));
    }

    #[test]
    fn a_board_rises_until_its_sensor_has_seen_the_whole_of_it() {
        let demand = demands([70, 70, 70, 250]);
        assert!(demand.rises(Duration::from_millis(300)) && demand.rises(Duration::from_millis(450)));
        assert!(!demand.rises(Duration::from_millis(500)));
        assert!(
            !demands((0..50).map(|tick| 400 + tick % 7)).rises(Duration::from_millis(4900)),
            "a flutter is no rise"
        );
    }
}
