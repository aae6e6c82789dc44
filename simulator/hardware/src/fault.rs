//! How a board misbehaves: the record that tests write, and what it makes of calls, requests and sensors.
//!
//! ```text
//!            ┌─ meet ──▶ Answer: a return code, a delay, a hang, a write that is not carried out   (NVML)
//!   Fault ───┼─ rival ─▶ Request: what another writer asks for, again and again                  (the daemon)
//!            └─ show ──▶ State: a sensor that stands still                                       (the daemon)
//! ```
//! Everything here is pure, so that tests in one process misbehave as the daemon and the NVML stand-in
//! do. A fault ends by itself after a number of calls or at a time, or when another is written.
//!
//! ```
//! use powercap_simulated_hardware::{Fault, call::Call};
//!
//! let mut fault = Fault { ignores_locks: true, ..Fault::default() };
//! assert!(fault.meet(Call::SetGpuLockedClocks).ignored);
//! let mut fault = Fault { gone: true, ..Fault::default() }.lasting(5.0, 100.0);
//! assert_eq!(fault.meet(Call::GetPowerUsage).code, 15);
//! assert!(fault.lapse(105.0));
//! ```
//!
//! What must hold: the default fault changes nothing; a fault with an end ends, whatever else it says.

use crate::call::{Call, Purpose};
use crate::folder::{Request, State};
use crate::record::record;

/// `NVML_ERROR_GPU_IS_LOST`: what a board answers that fell off its bus.
pub const GPU_IS_LOST: u32 = 15;

record! {
    /// How a board (or the library as a whole) misbehaves, for tests. All zero: it does not.
    Fault, 0x6661_756c_7420_2033 {
        /// NVML's answer to every reading of a sensor, e.g. 15 for a lost GPU; 0 reads.
        read_code: u32,
        /// NVML's answer to every setter, e.g. 4 for no permission; 0 sets.
        write_code: u32,
        /// One call that answers `call_code`, whatever it is for.
        call: Option<Call>,
        /// NVML's answer to that call.
        call_code: u32,
        /// Setters answer success and change nothing.
        ignores_writes: bool,
        /// The same for clock locks and their reset alone.
        ignores_locks: bool,
        /// The same for power limits alone.
        ignores_limits: bool,
        /// Every call takes that long.
        delay_ms: u32,
        /// Calls do not return until the fault is lifted. With `call`, that call alone.
        hangs: bool,
        /// The board fell off its bus: it is not counted, is lost to those who hold it, and works on
        /// nothing. What was set is lost when it comes back.
        gone: bool,
        /// A board that was gone comes back with a new UUID.
        returns_renamed: bool,
        /// Another writer sets its own limit and lock that often; 0: there is none.
        rival_period_ms: u32,
        /// The other writer's power limit; 0: it sets none.
        rival_limit_mw: u32,
        /// The other writer's highest clock; 0: it locks none.
        rival_lock_mhz: u32,
        /// A power limit that was set out of band, by a BMC: of it and the driver's the lower is in force; 0: none.
        outer_limit_mw: u32,
        /// The power sensor repeats its last reading.
        stuck_sensor: bool,
        /// Supported clocks are listed as zeros.
        zero_clocks: bool,
        /// How many calls the fault meets before it is lifted; 0: no end.
        calls: u32,
        /// When it is lifted, by the board's uptime; 0: no end.
        ends_at_seconds: f64,
    }
}

/// What becomes of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Answer {
    /// NVML's return code; 0: the call does its work.
    pub code: u32,
    /// How long it takes.
    pub delay_ms: u32,
    /// It does not return: ask again later.
    pub hangs: bool,
    /// A setter answers success and changes nothing.
    pub ignored: bool,
}

impl Fault {
    /// What becomes of a call. Counts it, if the fault lasts for a number of calls that it changes.
    pub fn meet(&mut self, call: Call) -> Answer {
        let answer = self.answer(call);
        if answer != Answer::default() && !answer.hangs && self.calls > 0 {
            self.calls -= 1;
            if self.calls == 0 {
                *self = Self::default();
            }
        }
        answer
    }

    fn answer(&self, call: Call) -> Answer {
        let purpose = call.purpose();
        let named = self.call == Some(call);
        let code = match purpose {
            // Who looks for it does not find it: the library sees to that.
            _ if self.gone && purpose != Purpose::Find => GPU_IS_LOST,
            _ if named && self.call_code != 0 => self.call_code,
            Purpose::Read => self.read_code,
            Purpose::Write => self.write_code,
            Purpose::Find | Purpose::Identify => 0,
        };
        let ignored = match call {
            _ if code != 0 => false,
            Call::SetGpuLockedClocks | Call::ResetGpuLockedClocks => self.ignores_writes || self.ignores_locks,
            Call::SetPowerManagementLimit => self.ignores_writes || self.ignores_limits,
            _ => self.ignores_writes && purpose == Purpose::Write,
        };
        let hangs = self.hangs && (named || self.call.is_none());
        Answer { code, delay_ms: self.delay_ms, hangs, ignored }
    }

    /// Lifts the fault when its time is over; says whether it did.
    pub fn lapse(&mut self, uptime_seconds: f64) -> bool {
        let over = self.ends_at_seconds > 0.0 && uptime_seconds >= self.ends_at_seconds;
        if over {
            *self = Self::default();
        }
        over
    }

    /// The same fault, lifted after so many seconds of a board that is up for `uptime_seconds`.
    #[must_use]
    pub const fn lasting(mut self, seconds: f64, uptime_seconds: f64) -> Self {
        self.ends_at_seconds = uptime_seconds + seconds;
        self
    }

    /// What is asked of the board once the other writer had its turn.
    #[must_use]
    pub fn rival(&self, request: &Request) -> Request {
        let mut asked = *request;
        if self.rival_limit_mw > 0 {
            asked.limit_mw = self.rival_limit_mw;
        }
        if self.rival_lock_mhz > 0 {
            (asked.lock_min_mhz, asked.lock_max_mhz) = (0, self.rival_lock_mhz);
        }
        // It writes whether or not anything changed, as real ones do.
        asked.generation += 1;
        asked
    }

    /// What is in force of what is asked of the board.
    #[must_use]
    pub fn limit(&self, request: Request) -> Request {
        let outer = if self.outer_limit_mw > 0 { self.outer_limit_mw } else { u32::MAX };
        Request { limit_mw: request.limit_mw.min(outer), ..request }
    }

    /// What the sensors show, when they showed `last` before.
    #[must_use]
    pub const fn show(&self, last: &State, mut state: State) -> State {
        if self.stuck_sensor {
            state.average_mw = last.average_mw;
            state.instant_mw = last.instant_mw;
        }
        state
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_board_without_a_fault_answers_every_call() {
        for call in Call::ALL {
            assert_eq!(Fault::default().meet(*call), Answer::default(), "{call:?}");
        }
    }

    #[test]
    fn codes_concern_reads_writes_or_one_call() {
        let mut fault = Fault { read_code: 27, write_code: 4, ..Fault::default() };
        assert_eq!(fault.meet(Call::GetPowerUsage).code, 27);
        assert_eq!(fault.meet(Call::SetPowerManagementLimit).code, 4);
        assert_eq!(fault.meet(Call::GetUuid).code, 0);
        let mut fault = Fault { call: Some(Call::SetGpuLockedClocks), call_code: 24, ..Fault::default() };
        assert_eq!(fault.meet(Call::SetGpuLockedClocks).code, 24);
        assert_eq!(fault.meet(Call::SetPowerManagementLimit).code, 0);
    }

    #[test]
    fn a_fault_for_two_calls_is_gone_at_the_third_and_other_calls_do_not_count() {
        let mut fault = Fault { write_code: 999, calls: 2, ..Fault::default() };
        assert_eq!(fault.meet(Call::GetPowerUsage).code, 0);
        assert_eq!(fault.meet(Call::SetPowerManagementLimit).code, 999);
        assert_eq!(fault.meet(Call::ResetGpuLockedClocks).code, 999);
        assert_eq!(fault, Fault::default());
    }

    #[test]
    fn a_fault_for_a_time_is_lifted_when_it_is_over() {
        let mut fault = Fault { gone: true, ..Fault::default() }.lasting(2.0, 10.0);
        assert!(!fault.lapse(11.9));
        assert_eq!(fault.meet(Call::GetUuid).code, GPU_IS_LOST);
        assert!(fault.lapse(12.0));
        assert_eq!(fault, Fault::default());
        assert!(!fault.lapse(1e9));
    }

    #[test]
    fn locks_and_limits_can_be_ignored_apart() {
        let mut fault = Fault { ignores_locks: true, ..Fault::default() };
        assert!(fault.meet(Call::SetGpuLockedClocks).ignored);
        assert!(!fault.meet(Call::SetPowerManagementLimit).ignored);
        let mut fault = Fault { ignores_limits: true, ..Fault::default() };
        assert!(!fault.meet(Call::ResetGpuLockedClocks).ignored);
        assert!(fault.meet(Call::SetPowerManagementLimit).ignored);
    }

    #[test]
    fn a_hang_is_of_all_calls_or_of_one() {
        assert!(Fault { hangs: true, ..Fault::default() }.meet(Call::GetName).hangs);
        let mut fault = Fault { hangs: true, call: Some(Call::GetPowerUsage), ..Fault::default() };
        assert!(fault.meet(Call::GetPowerUsage).hangs);
        assert!(!fault.meet(Call::GetName).hangs);
    }

    #[test]
    fn another_writer_sets_what_it_wants_and_leaves_the_rest() {
        let ours =
            Request { generation: 4, lock_min_mhz: 345, lock_max_mhz: 1200, limit_mw: 300_000, persistence: true };
        let fault = Fault { rival_limit_mw: 700_000, ..Fault::default() };
        assert_eq!(fault.rival(&ours), Request { generation: 5, limit_mw: 700_000, ..ours });
        let fault = Fault { rival_lock_mhz: 1980, ..Fault::default() };
        assert_eq!(fault.rival(&ours), Request { generation: 5, lock_min_mhz: 0, lock_max_mhz: 1980, ..ours });
    }

    #[test]
    fn of_two_limits_the_lower_is_in_force() {
        let asked = Request { limit_mw: 500_000, ..Request::default() };
        for (outer_limit_mw, in_force_mw) in [(0, 500_000), (300_000, 300_000), (600_000, 500_000)] {
            let fault = Fault { outer_limit_mw, ..Fault::default() };
            assert_eq!(fault.limit(asked), Request { limit_mw: in_force_mw, ..asked });
        }
    }

    #[test]
    fn a_stuck_sensor_repeats_power_and_nothing_else() {
        let last = State { average_mw: 1, instant_mw: 2, clock_mhz: 3, ..State::default() };
        let now = State { average_mw: 4, instant_mw: 5, clock_mhz: 6, ..State::default() };
        let shown = Fault { stuck_sensor: true, ..Fault::default() }.show(&last, now);
        assert_eq!((shown.average_mw, shown.instant_mw, shown.clock_mhz), (1, 2, 6));
        assert_eq!(Fault::default().show(&last, now), now);
    }
}
