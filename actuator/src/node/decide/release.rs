//! Taking every ceiling off in a few steps, so that a rack does not jump to full power at once.
//!
//! What must hold: only an explicit release comes here, and it touches only what was touched before; the
//! last step takes our clock ranges off and puts power limits and the CPUs' ceilings back to what they
//! were before the first touch, or to the devices' defaults where nobody knows that; Released is said
//! when all of it was carried out.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use powercap_common::{
    reason::Reason,
    units::{Megahertz, Watts},
};

use super::{BoardWrite, Phase, Plan, budget::exposure, cpus, state::State};
use crate::{
    hardware::{ClockLock, CpuTraits, Knob},
    node::{
        observation::{GpuAccess, Observation, SeenBoard, SeenCpu},
        originals::{Note, OriginalBoard},
    },
};

const STEPS: u32 = 4;
const STEP_PERIOD: Duration = Duration::from_millis(600);
const RETRY: Duration = Duration::from_secs(1);
/// After the start of the agent boards are waited for at most this long.
const OPENING: Duration = Duration::from_secs(60);

/// How far a release is.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Ramp {
    step: u32,
    stepped_at: Duration,
    boards: BTreeMap<Arc<str>, BoardsWay>,
    cpus: BTreeMap<u32, CpusWay>,
    /// Nobody knows the originals.
    to_defaults: bool,
    done: bool,
}

/// From where a board comes back, and to where.
#[derive(Clone, Copy, Debug, PartialEq)]
struct BoardsWay {
    from: Watts,
    to: Watts,
    ceiling: Option<Megahertz>,
    /// Its clocks were locked by us.
    locked: bool,
}

/// From where a cpufreq policy comes back, and to where.
#[derive(Clone, Copy, Debug, PartialEq)]
struct CpusWay {
    from: Megahertz,
    to: Megahertz,
}

impl State {
    /// A state in which the present orders' release was carried out before the agent was restarted.
    #[must_use]
    pub fn released(mut self) -> Self {
        self.ramp = Some(Ramp { step: STEPS, done: true, ..Ramp::default() });
        self
    }
}

/// Takes the next step of the release when it is due.
pub(super) fn release(seen: &Observation, plan: &mut Plan) {
    let mut ramp = plan.state.ramp.take().unwrap_or_else(|| Ramp::start(seen, &plan.state));
    if !ramp.done {
        ramp.admit(seen, &plan.state);
    }
    let since = seen.now.saturating_sub(ramp.stepped_at);
    if ramp.done {
        plan.account.phase = Phase::Released;
    } else if ramp.step < STEPS && (ramp.step == 0 || since >= STEP_PERIOD) {
        ramp.step += 1;
        ramp.stepped_at = seen.now;
        ramp.write(seen, plan);
        plan.account.phase = Phase::Releasing;
    } else if ramp.step == STEPS && !opening(seen) && carried_out(seen, plan) {
        plan.state.boards.clear();
        plan.state.cpus.clear();
        plan.state.cpu_governor = Default::default();
        plan.state.cpu_claim = Default::default();
        ramp.done = true;
        plan.note([Note::Released]);
        plan.account.phase = Phase::Released;
    } else {
        if ramp.step == STEPS && since >= RETRY {
            ramp.stepped_at = seen.now;
            ramp.write(seen, plan);
        }
        plan.account.phase = Phase::Releasing;
    }
    plan.account.to_defaults = ramp.to_defaults;
    plan.state.ramp = Some(ramp);
}

impl Ramp {
    fn start(seen: &Observation, state: &State) -> Self {
        let originals = &state.originals;
        let cpu = |cpu: &SeenCpu| {
            let CpuTraits { policy, min, max } = cpu.traits;
            let original = originals.cpus.get(&policy).copied().or_else(|| (!originals.complete).then_some(None))?;
            let ordered = state.cpus.get(&policy).and_then(|state| state.ceiling);
            let read = cpu.reading.map(|reading| reading.ceiling);
            Some((
                policy,
                CpusWay { from: ordered.or(read).unwrap_or(min), to: original.unwrap_or(max).clamp(min, max) },
            ))
        };
        Self { cpus: seen.cpus.iter().filter_map(cpu).collect(), to_defaults: !originals.complete, ..Self::default() }
    }

    /// Takes in boards that are seen only now: after a start they answer one after the other.
    fn admit(&mut self, seen: &Observation, state: &State) {
        for board in seen.boards.iter().filter(|board| board.reading.is_some()) {
            let uuid = &board.traits.uuid;
            if let (false, Some(way)) = (self.boards.contains_key(uuid), BoardsWay::of(board, state)) {
                self.boards.insert(uuid.clone(), way);
                self.step = self.step.min(STEPS - 1);
            }
        }
    }

    fn write(&self, seen: &Observation, plan: &mut Plan) {
        let part = f64::from(self.step) / f64::from(STEPS);
        let last = self.step == STEPS;
        for board in &seen.boards {
            if let Some(way) = self.boards.get(&board.traits.uuid) {
                way.write(board, part, last, seen.now, plan);
            }
        }
        for cpu in &seen.cpus {
            let Some(way) = self.cpus.get(&cpu.traits.policy) else { continue };
            let present = cpu.reading.map(|reading| reading.ceiling);
            let room = Megahertz::new(way.to.get().saturating_sub(way.from.get())).scaled(part);
            let ceiling = if last { way.to } else { Megahertz::new(way.from.get() + room.get()).min(way.to) };
            let takes_writes = cpu.reading.is_none_or(|reading| reading.knob.usable());
            if takes_writes && present != Some(ceiling) {
                cpus::write(plan, cpu.traits.policy, ceiling, Reason::Released, seen.now);
            }
        }
    }
}

impl BoardsWay {
    /// The way of a board that was touched, or of which nobody knows.
    fn of(board: &SeenBoard, state: &State) -> Option<Self> {
        let originals = &state.originals;
        let original = originals.boards.get(&board.traits.uuid).copied();
        // Where nobody knows what was touched, everything was.
        let anything = || OriginalBoard { limit: None, locked: true };
        let original = original.or_else(|| (!originals.complete).then(anything))?;
        let remembered = state.board(board);
        let limit = original.limit.unwrap_or(board.traits.default_limit);
        Some(Self {
            from: exposure(board, remembered),
            to: limit.clamp(board.traits.min_limit, board.traits.max_limit),
            ceiling: remembered.and_then(|state| state.ceiling),
            locked: original.locked || !originals.complete,
        })
    }

    fn write(&self, board: &SeenBoard, part: f64, last: bool, now: Duration, plan: &mut Plan) {
        let traits = &board.traits;
        let (clocks, limits) =
            board.reading.map_or((Knob::Works, Knob::Works), |reading| (reading.clock_knob, reading.limit_knob));
        let between = self.from.min(self.to) + self.to.saturating_sub(self.from).scaled(part);
        let limit = if last { self.to } else { between };
        let lock = traits.clocks.as_ref().filter(|_| self.locked).and_then(|grid| {
            let step = |ceiling: Megahertz| {
                let room = Megahertz::new(grid.highest().get().saturating_sub(ceiling.get())).scaled(part);
                ClockLock::UpTo(grid.snap_down(Megahertz::new(ceiling.get() + room.get())))
            };
            if last { Some(ClockLock::Off) } else { self.ceiling.map(step) }
        });
        // The last step is written whatever is believed to be in force: an earlier raise may be under way.
        let differs = last || exposure(board, plan.state.board(board)) != limit;
        let limit = (limits.usable() && differs).then_some(limit);
        let lock = lock.filter(|_| clocks.usable());
        if limit.is_none() && lock.is_none() {
            return;
        }
        let number = plan.state.next_number();
        let state = plan.state.boards.entry(traits.uuid.clone()).or_default();
        state.number = number;
        state.ordered_at = now;
        state.lock_ordered_at = now;
        state.unconfirmed = state.unconfirmed.max(limit);
        state.limit = limit.or(state.limit);
        state.governor = None;
        state.ceiling = match lock {
            Some(ClockLock::UpTo(ceiling)) => Some(ceiling),
            _ => None,
        };
        let reason = Reason::Released;
        plan.boards.push(BoardWrite { uuid: traits.uuid.clone(), number, lock, limit, reason });
    }
}

/// Boards may still come. One whose opening hangs is waited for in vain, and not for ever.
fn opening(seen: &Observation) -> bool {
    seen.gpus == GpuAccess::Starting && seen.now < OPENING
}

/// Every order was carried out, by every device that takes orders, and shows: a limit that does not within
/// a second is held lower by somebody else.
fn carried_out(seen: &Observation, plan: &Plan) -> bool {
    let boards = seen.boards.iter().all(|board| {
        let Some(state) = plan.state.board(board) else { return true };
        let waited = seen.now.saturating_sub(state.ordered_at) >= RETRY;
        board.fresh().is_some_and(|reading| {
            let shows = state.limit.is_none() || reading.limit == state.limit || waited;
            let accepted = reading.clock_knob != Knob::Failed && reading.limit_knob != Knob::Failed;
            reading.executed >= state.number && accepted && shows
        })
    });
    let cpus = seen.cpus.iter().all(|cpu| {
        let Some(state) = plan.state.cpus.get(&cpu.traits.policy) else { return true };
        cpu.reading.is_some_and(|reading| reading.executed >= state.number && reading.knob != Knob::Failed)
    });
    boards && cpus
}
