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
const IDLE: &str = "the board is idle, so that its clock is low anyway: run a load on it (and give --force)";

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
    unless_untold(judgement, told || busy_percent >= BUSY_PERCENT, IDLE)
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
