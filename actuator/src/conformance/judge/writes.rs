//! What came of writing, and what it means.
//!
//! What must hold: an idle board proves nothing about locks, since its clock is low anyway: then the
//! verdict is «skipped», never «passed».

use std::time::Duration;

use powercap_common::units::Megahertz;

use super::milliseconds;
use crate::conformance::{
    finding::{Answer, Judgement, Verdict},
    measured::{BUSY_PERCENT, BoardWritten, CeilingTry, LimitTry, LockTry, ParallelWrites, RefusalTry},
};

/// A ceiling of a CPU is read back within this time.
const LATEST_CEILING: Duration = Duration::from_millis(500);
/// Writes to all boards fit into one turn of the loop.
const LONGEST_CUT: Duration = Duration::from_millis(100);
const IDLE: &str = "the board is idle, or its clock is low anyway: run a load on it (and give --force)";

/// Whether the board keeps to its ceilings.
#[must_use]
pub fn lock_clocks(locks: &[LockTry], busy_percent: u32) -> Judgement {
    if locks.is_empty() {
        return Judgement::not_supported("the board has no clocks to hold it to");
    }
    let mut judgement = Judgement::pass().number("load", busy_percent.into(), "%");
    let mut told = false;
    for step in locks {
        let ceiling = step.ceiling;
        if let Err(error) = &step.taken {
            return Judgement { figures: judgement.figures, ..Judgement::from(error) };
        }
        let was_above = step.before.is_some_and(|before| before > ceiling);
        told |= was_above;
        if let (true, Some(reached)) = (was_above, step.reached) {
            judgement = judgement.number(format!("to {} MHz", ceiling.get()), milliseconds(reached), "ms");
        }
        judgement = judgement.fail_if(step.reached.is_none() && step.after.is_some(), || {
            let after = step.after.unwrap_or_default();
            format!("the board took a ceiling of {ceiling} and runs at {after}")
        });
    }
    unless_untold(judgement, told, IDLE)
}

/// Whether a board that was let go runs free again.
#[must_use]
pub fn lock_reset(reset: Option<&(Answer<()>, Option<Duration>)>, busy_percent: u32) -> Judgement {
    match reset {
        None => Judgement::not_supported("the board has no clocks to hold it to"),
        Some((Err(error), _)) => error.into(),
        Some((Ok(()), Some(risen))) => Judgement::pass().number("until it rose", milliseconds(*risen), "ms"),
        Some((Ok(()), None)) => unless_untold(
            Judgement::fail("the reset was taken and the clock stays low"),
            busy_percent >= BUSY_PERCENT,
            IDLE,
        ),
    }
}

/// Whether a lower limit comes into force and holds.
#[must_use]
pub fn limit_set(tried: Option<&LimitTry>) -> Judgement {
    let Some(tried) = tried else {
        return Judgement::skipped("the board is at its lowest limit already, and the suite raises nothing");
    };
    if let Err(error) = &tried.taken {
        return error.into();
    }
    let limit = tried.limit;
    let mut judgement = Judgement::pass().number("limit", limit.as_f64(), "W");
    match tried.seen {
        Some(seen) => judgement = judgement.number("until in force", milliseconds(seen), "ms"),
        None => {
            let enforced = tried.enforced.map_or_else(|| "nothing".to_owned(), |enforced| enforced.to_string());
            return Judgement::fail(format!("the board took a limit of {limit} and {enforced} is in force"));
        }
    }
    if tried.power_before.is_some_and(|before| before > limit) {
        match tried.power_below {
            Some(below) => judgement = judgement.number("until power is below", milliseconds(below), "ms"),
            None => judgement = judgement.fail_if(true, || format!("power stays above the limit of {limit}")),
        }
    }
    judgement
}

/// Whether the driver refuses what the agent believes it refuses.
#[must_use]
pub fn refusals(tries: &[RefusalTry], off_grid: Option<&(Megahertz, Answer<()>, Option<Megahertz>)>) -> Judgement {
    let mut judgement = Judgement::pass();
    for tried in tries {
        judgement = match &tried.answer {
            Ok(()) => judgement.fail_if(true, || format!("{} was taken", tried.what)),
            Err(error) => judgement.text(tried.what.clone(), error.to_string()),
        };
    }
    match off_grid {
        Some((asked, Ok(()), after)) => judgement
            .text(format!("ceiling of {} MHz", asked.get()), "taken")
            .fail_if(after.is_some_and(|after| after > *asked), || {
                format!("a ceiling of {asked} between two clocks left the clock at {}", after.unwrap_or_default())
            }),
        Some((asked, Err(error), _)) => judgement.text(format!("ceiling of {} MHz", asked.get()), error.to_string()),
        None => judgement,
    }
}

/// Whether a cut reaches all boards in time.
#[must_use]
pub fn parallel_writes(tried: Option<&ParallelWrites>) -> Judgement {
    let Some(tried) = tried else { return Judgement::skipped("it takes two boards at least") };
    Judgement::pass()
        .count("boards", tried.boards)
        .number("one after the other", milliseconds(tried.in_turn), "ms")
        .number("at once", milliseconds(tried.at_once), "ms")
        .fail_if(tried.at_once > LONGEST_CUT && tried.at_once > tried.in_turn, || {
            format!("{:.0} ms at once: the driver takes one board after the other", milliseconds(tried.at_once))
        })
}

/// Whether a board's limit is as it was.
#[must_use]
pub fn board_restored(written: &BoardWritten) -> Judgement {
    match &written.restored {
        Ok((before, after)) => Judgement::pass()
            .number("limit before", before.as_f64(), "W")
            .number("after", after.as_f64(), "W")
            .fail_if(before != after, || format!("the limit was {before} and is {after}")),
        Err(error) => Judgement::fail(error.to_string()),
    }
}

/// Whether a CPU ceiling comes into force.
#[must_use]
pub fn cpufreq_ceiling(tried: &CeilingTry) -> Judgement {
    if let Err(error) = &tried.taken {
        return error.into();
    }
    let mut judgement = Judgement::pass().number("asked", tried.asked.get().into(), "MHz");
    if let Some(effective) = tried.effective {
        judgement = judgement.number("effective", effective.get().into(), "MHz");
    }
    if let Some(seen) = tried.seen {
        judgement = judgement.number("until read back", milliseconds(seen), "ms");
    }
    judgement.fail_if(tried.seen.is_none_or(|seen| seen > LATEST_CEILING), || {
        let effective = tried.effective.map_or_else(|| "nothing".to_owned(), |effective| effective.to_string());
        format!("{} was asked and {effective} is in force", tried.asked)
    })
}

/// Whether a CPU ceiling is as it was.
#[must_use]
pub fn ceiling_restored(tried: &CeilingTry) -> Judgement {
    match &tried.restored {
        Ok((before, after)) => {
            Judgement::pass().fail_if(before != after, || format!("the ceiling was {before} kHz and is {after} kHz"))
        }
        Err(error) => Judgement::fail(error.to_string()),
    }
}

/// A verdict that nothing was seen for becomes «skipped»; a refusal stays.
fn unless_untold(judgement: Judgement, told: bool, why: &str) -> Judgement {
    if told { judgement } else { Judgement { verdict: Verdict::Skipped(why.to_owned()), ..judgement } }
}

#[cfg(test)]
mod tests {
    use powercap_common::units::Watts;

    use super::*;
    use crate::devices::DeviceError;

    const QUICK: Option<Duration> = Some(Duration::from_millis(40));

    fn refused<T>() -> Answer<T> {
        Err(DeviceError::Failed { action: "set", why: "invalid argument".to_owned() })
    }

    fn step(ceiling: u32, before: u32, after: u32, reached: Option<Duration>) -> LockTry {
        let clock = |clock| Some(Megahertz::new(clock));
        LockTry { ceiling: Megahertz::new(ceiling), taken: Ok(()), before: clock(before), after: clock(after), reached }
    }

    #[test]
    fn a_lock_that_is_taken_and_ignored_fails_and_an_idle_board_tells_nothing() {
        let kept = || vec![step(1500, 1980, 1500, QUICK), step(1000, 1500, 990, QUICK)];
        let ignored = || vec![step(1500, 1980, 1500, QUICK), step(1000, 1500, 1500, None)];
        let idle = || vec![step(1500, 345, 345, QUICK), step(1000, 345, 345, QUICK)];
        for (locks, busy_percent, expected) in [
            (kept(), 100, "Pass"),
            (ignored(), 100, "Fail"),
            (idle(), 0, "Skipped"),
            // Held down by its power limit: the clock was low before, and stays.
            (idle(), 100, "Skipped"),
            (vec![LockTry { taken: refused(), ..step(1500, 1980, 1980, None) }], 100, "Fail"),
            (vec![], 100, "NotSupported"),
        ] {
            let judged = lock_clocks(&locks, busy_percent);
            assert_eq!(judged.verdict.word(), expected, "{locks:?}");
        }
    }

    #[test]
    fn a_clock_that_stays_low_after_a_reset_fails_under_load_alone() {
        for (reset, busy_percent, expected) in [
            (Some((Ok(()), QUICK)), 100, "Pass"),
            (Some((Ok(()), None)), 100, "Fail"),
            (Some((Ok(()), None)), 0, "Skipped"),
            (Some((refused(), None)), 0, "Fail"),
            (None, 100, "NotSupported"),
        ] {
            assert_eq!(lock_reset(reset.as_ref(), busy_percent).verdict.word(), expected, "{reset:?}");
        }
    }

    #[test]
    fn a_limit_must_come_into_force_and_hold_where_power_was_above_it() {
        let tried = |before: u32, seen, power_below| LimitTry {
            limit: Watts::new(500),
            taken: Ok(()),
            seen,
            enforced: Some(Watts::new(700)),
            power_before: Some(Watts::new(before)),
            power_below,
        };
        for (tried, expected) in [
            (Some(tried(690, QUICK, QUICK)), "Pass"),
            (Some(tried(690, QUICK, None)), "Fail"),
            (Some(tried(70, QUICK, None)), "Pass"),
            (Some(tried(690, None, None)), "Fail"),
            (Some(LimitTry { taken: refused(), ..tried(690, None, None) }), "Fail"),
            (None, "Skipped"),
        ] {
            assert_eq!(limit_set(tried.as_ref()).verdict.word(), expected, "{tried:?}");
        }
    }

    #[test]
    fn a_limit_out_of_range_that_is_taken_fails_and_so_does_a_clock_above_its_ceiling() {
        let tried = |answer| vec![RefusalTry { what: "a limit of zero".to_owned(), answer }];
        let off_grid = |answer, after| (Megahertz::new(1001), answer, Some(Megahertz::new(after)));
        for (tries, off_grid, expected) in [
            (tried(refused()), Some(off_grid(Ok(()), 990)), "Pass"),
            (tried(refused()), Some(off_grid(refused(), 1980)), "Pass"),
            (tried(refused()), None, "Pass"),
            (tried(refused()), Some(off_grid(Ok(()), 1005)), "Fail"),
            (tried(Ok(())), None, "Fail"),
        ] {
            assert_eq!(refusals(&tries, off_grid.as_ref()).verdict.word(), expected, "{tries:?} {off_grid:?}");
        }
    }

    #[test]
    fn boards_that_are_written_one_after_the_other_fail_only_when_a_cut_would_be_late() {
        let tried = |in_turn, at_once| ParallelWrites {
            boards: 8,
            in_turn: Duration::from_millis(in_turn),
            at_once: Duration::from_millis(at_once),
        };
        for (tried, expected) in [
            (Some(tried(160, 22)), "Pass"),
            (Some(tried(80, 90)), "Pass"),
            (Some(tried(160, 170)), "Fail"),
            (None, "Skipped"),
        ] {
            assert_eq!(parallel_writes(tried.as_ref()).verdict.word(), expected, "{tried:?}");
        }
    }

    #[test]
    fn a_cpu_ceiling_counts_when_it_is_read_back_at_or_below_what_was_asked() {
        let tried = |taken, seen| CeilingTry {
            policy: 0,
            asked: Megahertz::new(2301),
            taken,
            seen,
            effective: Some(Megahertz::new(2300)),
            restored: Ok(("3800000".to_owned(), "3800000".to_owned())),
        };
        assert_eq!(cpufreq_ceiling(&tried(Ok(()), QUICK)).verdict.word(), "Pass");
        assert_eq!(cpufreq_ceiling(&tried(Ok(()), None)).verdict.word(), "Fail");
        assert_eq!(cpufreq_ceiling(&tried(Ok(()), Some(Duration::from_secs(1)))).verdict.word(), "Fail");
        assert_eq!(cpufreq_ceiling(&tried(refused(), None)).verdict.word(), "Fail");
        assert_eq!(ceiling_restored(&tried(Ok(()), QUICK)).verdict.word(), "Pass");
        let left = CeilingTry { restored: Ok(("3800000".to_owned(), "2300000".to_owned())), ..tried(Ok(()), QUICK) };
        assert_eq!(ceiling_restored(&left).verdict.word(), "Fail");
    }
}
