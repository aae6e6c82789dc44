//! Taking every ceiling off in a few steps, so that a rack does not jump to full power at once.
//!
//! What must hold: only an explicit release comes here; the last step resets the clock ranges, the
//! power limits and the CPUs' ceilings to the devices' defaults; Released is said when all of it was
//! carried out.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use powercap_common::{
    reason::Reason,
    units::{Megahertz, Watts},
};

use super::{BoardWrite, Phase, Plan, budget::exposure, cpus, state::State};
use crate::{
    hardware::{ClockLock, Knob},
    node::observation::{Observation, SeenBoard},
};

const STEPS: u32 = 4;
const STEP_PERIOD: Duration = Duration::from_millis(600);
const RETRY: Duration = Duration::from_secs(1);

/// How far a release is.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Ramp {
    step: u32,
    stepped_at: Duration,
    /// Where each board began.
    boards: BTreeMap<Arc<str>, (Watts, Option<Megahertz>)>,
    cpus: BTreeMap<u32, Megahertz>,
    done: bool,
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
    let since = seen.now.saturating_sub(ramp.stepped_at);
    if ramp.done {
        plan.account.phase = Phase::Released;
    } else if ramp.step < STEPS && (ramp.step == 0 || since >= STEP_PERIOD) {
        ramp.step += 1;
        ramp.stepped_at = seen.now;
        ramp.write(seen, plan);
        plan.account.phase = Phase::Releasing;
    } else if ramp.step == STEPS && carried_out(seen, plan) {
        plan.state.boards.clear();
        plan.state.cpus.clear();
        plan.state.cpu_governor = Default::default();
        plan.state.cpu_claim = Default::default();
        ramp.done = true;
        plan.account.phase = Phase::Released;
    } else {
        if ramp.step == STEPS && since >= RETRY {
            ramp.stepped_at = seen.now;
            ramp.write(seen, plan);
        }
        plan.account.phase = Phase::Releasing;
    }
    plan.state.ramp = Some(ramp);
}

impl Ramp {
    fn start(seen: &Observation, state: &State) -> Self {
        let began = |board: &SeenBoard| {
            let ceiling = state.board(board).and_then(|state| state.ceiling);
            (board.traits.uuid.clone(), (exposure(board, state.board(board)), ceiling))
        };
        let cpus = |(policy, state): (&u32, &super::state::CpuState)| state.ceiling.map(|ceiling| (*policy, ceiling));
        Self {
            boards: seen.boards.iter().map(began).collect(),
            cpus: state.cpus.iter().filter_map(cpus).collect(),
            ..Self::default()
        }
    }

    fn write(&self, seen: &Observation, plan: &mut Plan) {
        let part = f64::from(self.step) / f64::from(STEPS);
        let last = self.step == STEPS;
        for board in &seen.boards {
            let traits = &board.traits;
            let (limit, ceiling) = self.boards.get(&traits.uuid).copied().unwrap_or((traits.default_limit, None));
            let knobs =
                board.reading.map_or((Knob::Works, Knob::Works), |reading| (reading.clock_knob, reading.limit_knob));
            let limit = limit.min(traits.default_limit) + traits.default_limit.saturating_sub(limit).scaled(part);
            let limit = if last { traits.default_limit } else { limit };
            let lock = traits.clocks.as_ref().and_then(|grid| {
                let ceiling = ceiling.filter(|_| !last);
                let between = |ceiling: Megahertz| {
                    let room = Megahertz::new(grid.highest().get().saturating_sub(ceiling.get())).scaled(part);
                    ClockLock::UpTo(grid.snap_down(Megahertz::new(ceiling.get() + room.get())))
                };
                if last { Some(ClockLock::Off) } else { ceiling.map(between) }
            });
            let limit = (knobs.1.usable() && exposure(board, plan.state.board(board)) != limit).then_some(limit);
            let lock = lock.filter(|_| knobs.0.usable());
            if limit.is_none() && lock.is_none() {
                continue;
            }
            let number = plan.state.next_number();
            let state = plan.state.boards.entry(traits.uuid.clone()).or_default();
            state.number = number;
            state.ordered_at = seen.now;
            state.lock_ordered_at = seen.now;
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
        for cpu in &seen.cpus {
            let began = self.cpus.get(&cpu.traits.policy).copied();
            let present = cpu.reading.map_or(cpu.traits.min, |reading| reading.ceiling);
            let from = began.unwrap_or(present).min(cpu.traits.max);
            let room = Megahertz::new(cpu.traits.max.get() - from.get()).scaled(part);
            let ceiling = if last { cpu.traits.max } else { Megahertz::new(from.get() + room.get()) };
            let takes_writes = cpu.reading.is_none_or(|reading| reading.knob.usable());
            if takes_writes && ceiling > present {
                cpus::write(plan, cpu.traits.policy, ceiling, Reason::Released, seen.now);
            }
        }
    }
}

/// Every order was carried out, by every device that takes orders.
fn carried_out(seen: &Observation, plan: &Plan) -> bool {
    let boards = seen.boards.iter().all(|board| {
        let Some(state) = plan.state.board(board) else { return true };
        board.fresh().is_some_and(|reading| {
            reading.executed >= state.number && reading.clock_knob != Knob::Failed && reading.limit_knob != Knob::Failed
        })
    });
    let cpus = seen.cpus.iter().all(|cpu| {
        let Some(state) = plan.state.cpus.get(&cpu.traits.policy) else { return true };
        cpu.reading.is_some_and(|reading| reading.executed >= state.number && reading.knob != Knob::Failed)
    });
    boards && cpus
}
