//! What a board's readings mean.

use std::time::Duration;

use powercap_common::units::{Megahertz, Watts};

use super::milliseconds;
use crate::conformance::{
    finding::{Answer, Judgement},
    measured::{BUSY_PERCENT, Calls, Watched},
    series::quantile,
};

/// A sensor that stands still for longer than this under load is of no use to the loop.
const SLOWEST_UPDATE: Duration = Duration::from_secs(1);
/// One sample of the loop must fit into its period.
const SLOWEST_SAMPLE: Duration = Duration::from_millis(100);
/// Energy and power agree within this share.
const AGREEMENT: f64 = 0.10;
/// Power that swings by more than this share of its mean cannot be compared by samples.
const SWING: f64 = 0.30;
/// A board draws at most this many times its highest limit, for an instant.
const HIGHEST_PEAK: f64 = 1.6;
/// What a sample of the loop is called among the calls: limit, clock and power, one after the other.
pub const SAMPLE: &str = "sample";

/// The names of NVML's bits, lowest first.
const THROTTLE_REASONS: [&str; 9] = [
    "idle",
    "clock setting",
    "power limit",
    "hardware slowdown",
    "sync boost",
    "heat, by software",
    "heat, by hardware",
    "power brake",
    "display clock",
];

/// The range of limits, and the default in it.
#[must_use]
pub fn limit_range(range: &Answer<(Watts, Watts)>, default: &Answer<Watts>) -> Judgement {
    let (low, high) = match range {
        Ok(range) => *range,
        Err(error) => return error.into(),
    };
    let default = match default {
        Ok(default) => *default,
        Err(error) => return error.into(),
    };
    Judgement::pass()
        .number("lowest", low.as_f64(), "W")
        .number("default", default.as_f64(), "W")
        .number("highest", high.as_f64(), "W")
        .fail_if(low == Watts::ZERO, || "the lowest limit is zero".to_owned())
        .fail_if(low > default || default > high, || format!("{low} ≤ {default} ≤ {high} does not hold"))
}

/// The limit in force against the range and the one that was set.
#[must_use]
pub fn limit_in_force(range: &Answer<(Watts, Watts)>, set: &Answer<Watts>, enforced: &Answer<Watts>) -> Judgement {
    let enforced = match enforced {
        Ok(enforced) => *enforced,
        Err(error) => return error.into(),
    };
    let mut judgement = Judgement::pass().number("in force", enforced.as_f64(), "W");
    if let Ok((low, high)) = range {
        judgement =
            judgement.fail_if(enforced < *low || enforced > *high, || format!("{enforced} lies outside the range"));
    }
    match set {
        Ok(set) => judgement
            .number("set", set.as_f64(), "W")
            .fail_if(enforced > *set, || format!("{enforced} is in force though {set} was set")),
        Err(_) => judgement,
    }
}

/// Whether the list of clocks is one that ceilings can be taken from.
#[must_use]
pub fn clock_grid(
    clocks: &Answer<Vec<Megahertz>>,
    highest: &Answer<Megahertz>,
    wrapper: Option<(usize, usize)>,
) -> Judgement {
    let listed: Vec<u32> = match clocks {
        Ok(clocks) => clocks.iter().map(|clock| clock.get()).collect(),
        Err(error) => return error.into(),
    };
    let zeros = listed.iter().filter(|clock| **clock == 0).count();
    let mut sorted: Vec<u32> = listed.iter().copied().filter(|clock| *clock > 0).collect();
    sorted.sort_unstable();
    sorted.dedup();
    let mut judgement = Judgement::pass().count("clocks", listed.len());
    if let Some((length, zeros)) = wrapper {
        // Of use to nvml-wrapper: it gives 128 zeros for a board with more clocks.
        judgement = judgement.text("by the wrapper", format!("{length}, {zeros} of them zero"));
    }
    let (Some(&low), Some(&high), true) = (sorted.first(), sorted.last(), sorted.len() >= 2) else {
        return judgement
            .fail_if(true, || format!("{} clocks of which {zeros} are zero: the board cannot be held", listed.len()));
    };
    let mut steps: Vec<u32> = sorted.windows(2).map(|pair| pair[1] - pair[0]).collect();
    steps.sort_unstable();
    let (usual, widest) = (steps[steps.len() / 2], steps[steps.len() - 1]);
    let in_order = listed.is_sorted() || listed.iter().rev().is_sorted();
    judgement = judgement
        .number("lowest", low.into(), "MHz")
        .number("highest", high.into(), "MHz")
        .number("step", usual.into(), "MHz")
        .number("widest step", widest.into(), "MHz")
        .fail_if(zeros > 0, || format!("{zeros} of {} clocks are zero", listed.len()))
        .fail_if(sorted.len() + zeros != listed.len(), || "a clock is listed twice".to_owned())
        .fail_if(!in_order, || "the clocks are in no order".to_owned())
        .fail_if(widest > 4 * usual.max(1), || {
            format!("a hole of {widest} MHz between clocks that are {usual} MHz apart")
        });
    match highest {
        Ok(highest) => judgement.fail_if(highest.get() != high, || {
            format!("the list ends at {high} MHz and the board's highest is {highest}")
        }),
        Err(_) => judgement,
    }
}

/// Whether the clock can be read and is one that the board can have.
#[must_use]
pub fn clock_reading(clock: &Answer<Option<Megahertz>>, highest: &Answer<Megahertz>) -> Judgement {
    match clock {
        Ok(Some(clock)) => {
            let above = highest.as_ref().is_ok_and(|highest| clock > highest);
            Judgement::pass()
                .number("now", clock.get().into(), "MHz")
                .fail_if(above, || format!("{clock} is above the board's highest clock"))
        }
        Ok(None) => Judgement::not_supported("the board tells no clock"),
        Err(error) => error.into(),
    }
}

/// Whether the loop can decide by the board's power.
#[must_use]
pub fn power_instant(watched: &Watched, highest_limit: Option<Watts>) -> Judgement {
    let series = match &watched.instant {
        Ok(Some(series)) => series,
        Ok(None) => {
            return Judgement::not_supported("no instantaneous power: the loop decides by the average, which is late");
        }
        Err(error) => return error.into(),
    };
    let (Some((low, high)), Some(mean)) = (series.range(), series.mean()) else {
        return Judgement::fail("no reading in the whole watch");
    };
    let busy = watched.busy_percent >= BUSY_PERCENT;
    let periods = series.between_changes();
    let mut judgement = Judgement::pass()
        .number("mean", mean, "W")
        .number("lowest", low, "W")
        .number("highest", high, "W")
        .number("load", watched.busy_percent.into(), "%")
        .count("readings", series.len())
        .count("changes", periods.len() + usize::from(high > low));
    if !periods.is_empty() {
        judgement = judgement.number("update period", milliseconds(quantile(&periods, 0.5)), "ms").number(
            "longest",
            milliseconds(quantile(&periods, 1.0)),
            "ms",
        );
    }
    let most = highest_limit.map_or(f64::MAX, |limit| limit.as_f64() * HIGHEST_PEAK);
    judgement = judgement
        .fail_if(low <= 0.0, || "a reading of zero watts: a board that is on draws more".to_owned())
        .fail_if(high > most, || format!("{high:.0} W is more than a board of this limit can draw"));
    if periods.is_empty() && !busy {
        let why =
            "the board is idle and its power hardly changed: run a load on it to see how often the sensor changes";
        return if judgement.verdict == Judgement::pass().verdict {
            Judgement { verdict: Judgement::skipped(why).verdict, ..judgement }
        } else {
            judgement
        };
    }
    judgement
        .fail_if(periods.is_empty(), || {
            format!("stuck at {high:.1} W while the board works {} % of the time", watched.busy_percent)
        })
        .fail_if(busy && quantile(&periods, 0.5) > SLOWEST_UPDATE, || {
            format!("it changes every {:.0} ms only", milliseconds(quantile(&periods, 0.5)))
        })
}

/// Whether there is an average to fall back to, and over how long it is taken.
#[must_use]
pub fn power_average(watched: &Watched) -> Judgement {
    let series = match &watched.average {
        Ok(series) => series,
        Err(error) => return error.into(),
    };
    let Some(mean) = series.mean() else { return Judgement::fail("no reading in the whole watch") };
    let judgement = Judgement::pass()
        .number("mean", mean, "W")
        .fail_if(mean <= 0.0, || "a reading of zero watts: a board that is on draws more".to_owned());
    let Ok(Some(instant)) = &watched.instant else { return judgement };
    match instant.averaged_over(series) {
        Some(length) => judgement.number("averaged over", milliseconds(length), "ms"),
        None => judgement.text("averaged over", "unknown: power hardly changed"),
    }
}

/// Whether energy and power agree.
#[must_use]
pub fn energy(watched: &Watched) -> Judgement {
    let energy = match &watched.energy {
        Ok(series) => series,
        Err(error) => return error.into(),
    };
    let power = match (&watched.instant, &watched.average) {
        (Ok(Some(series)), _) | (_, Ok(series)) => series,
        (_, Err(error)) => return error.into(),
    };
    let (Some(by_energy), Some(by_power), Some((low, high))) = (energy.rate(), power.mean(), power.range()) else {
        return Judgement::fail("no reading in the whole watch");
    };
    let judgement = Judgement::pass()
        .number("by energy", by_energy, "W")
        .number("by power", by_power, "W")
        .fail_if(!energy.never_falls(), || "the counter fell".to_owned());
    let apart = (by_energy - by_power).abs() / by_power.max(1.0);
    let judgement = judgement.number("apart", apart * 100.0, "%");
    if apart > AGREEMENT && by_energy > 0.0 && high - low > SWING * by_power {
        let why = "power swung too much to compare it by samples: run a steady load, or none";
        return Judgement { verdict: Judgement::skipped(why).verdict, ..judgement };
    }
    judgement.fail_if(apart > AGREEMENT, || {
        format!("{by_energy:.1} W by the energy counter and {by_power:.1} W by the power sensor")
    })
}

/// Whether the loop can sample the board in time.
#[must_use]
pub fn call_durations(calls: &[Calls]) -> Judgement {
    let mut judgement = Judgement::pass();
    let mut sample = None;
    for call in calls {
        let (median, slow) = (quantile(&call.durations, 0.5), quantile(&call.durations, 0.99));
        judgement = judgement.number(format!("{} p50", call.name), milliseconds(median), "ms").number(
            format!("{} p99", call.name),
            milliseconds(slow),
            "ms",
        );
        if call.name == SAMPLE && !call.durations.is_empty() {
            sample = Some(slow);
        }
    }
    let Some(sample) = sample else { return Judgement::fail("no sample was answered") };
    judgement.fail_if(sample > SLOWEST_SAMPLE, || format!("a sample takes {:.0} ms", milliseconds(sample)))
}

/// What holds the clock down, in words.
#[must_use]
pub fn throttle_reasons(bits: &Answer<u64>) -> Judgement {
    match bits {
        Ok(bits) => {
            let known = THROTTLE_REASONS.iter().enumerate().filter(|(bit, _)| bits >> bit & 1 == 1);
            let words: Vec<_> = known.map(|(_, word)| *word).collect();
            let words = if words.is_empty() { "none".to_owned() } else { words.join(", ") };
            Judgement::pass().text("now", words).text("bits", format!("{bits:#x}"))
        }
        Err(error) => error.into(),
    }
}

/// Whether the board is partitioned: either is well.
#[must_use]
pub fn mig_mode(partitioned: &Answer<bool>) -> Judgement {
    match partitioned {
        Ok(partitioned) => Judgement::pass().text("partitioned", if *partitioned { "yes" } else { "no" }),
        Err(error) => error.into(),
    }
}

/// Whether limits outlive the last client.
#[must_use]
pub fn persistence(on: &Answer<bool>) -> Judgement {
    match on {
        Ok(true) => Judgement::pass(),
        Ok(false) => Judgement::fail("off: run nvidia-persistenced, or `nvidia-smi -pm 1`"),
        Err(error) => error.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        conformance::{finding::Verdict, series::Series},
        devices::DeviceError,
    };

    fn lost<T>() -> Answer<T> {
        Err(DeviceError::Lost { action: "read" })
    }

    fn lacking<T>() -> Answer<T> {
        Err(DeviceError::Unsupported { action: "read" })
    }

    fn word(judgement: &Judgement) -> &'static str {
        judgement.verdict.word()
    }

    fn watts(watts: u32) -> Answer<Watts> {
        Ok(Watts::new(watts))
    }

    #[test]
    fn limits_out_of_order_or_at_zero_fail() {
        let range = |low, high| Ok((Watts::new(low), Watts::new(high)));
        for (range, default, expected) in [
            (range(200, 700), watts(700), "Pass"),
            (range(200, 700), watts(200), "Pass"),
            (range(200, 700), watts(701), "Fail"),
            (range(200, 700), watts(199), "Fail"),
            (range(0, 700), watts(700), "Fail"),
            (range(700, 200), watts(300), "Fail"),
            (lacking(), watts(300), "NotSupported"),
            (range(200, 700), lost(), "Fail"),
        ] {
            assert_eq!(word(&limit_range(&range, &default)), expected, "{range:?} {default:?}");
        }
    }

    #[test]
    fn a_limit_in_force_may_be_below_the_one_that_was_set_and_never_above() {
        let range = Ok((Watts::new(200), Watts::new(700)));
        for (set, enforced, expected) in [
            (watts(500), watts(500), "Pass"),
            (watts(500), watts(450), "Pass"),
            (watts(500), watts(501), "Fail"),
            (watts(700), watts(100), "Fail"),
            (lacking(), watts(500), "Pass"),
            (watts(500), lacking(), "NotSupported"),
        ] {
            assert_eq!(word(&limit_in_force(&range, &set, &enforced)), expected, "{set:?} {enforced:?}");
        }
    }

    #[test]
    fn a_grid_with_zeros_holes_or_without_its_ends_fails() {
        let whole: Vec<u32> = (0..110).rev().map(|step| 345 + 15 * step).collect();
        let edited = |edit: fn(&mut Vec<u32>)| {
            let mut clocks = whole.clone();
            edit(&mut clocks);
            clocks
        };
        // Steps of 7.5 MHz, told in whole ones.
        let halves: Vec<u32> = (0..247).map(|step| 120 + step * 15 / 2).collect();
        for (clocks, highest, expected, why) in [
            (whole.clone(), 1980, "Pass", ""),
            (halves, 1965, "Pass", ""),
            (vec![0; 128], 1965, "Fail", "128 clocks of which 128 are zero"),
            (vec![], 1980, "Fail", "0 clocks"),
            (vec![1980], 1980, "Fail", "1 clocks"),
            (edited(|clocks| clocks[3] = 0), 1980, "Fail", "1 of 110 clocks are zero"),
            (edited(|clocks| clocks.swap(3, 90)), 1980, "Fail", "in no order"),
            (edited(|clocks| clocks.push(345)), 1980, "Fail", "listed twice"),
            (edited(|clocks| drop(clocks.drain(20..40))), 1980, "Fail", "a hole of 315 MHz"),
            (edited(|clocks| drop(clocks.drain(..40))), 1980, "Fail", "the board's highest is 1980"),
        ] {
            let clocks: Answer<Vec<Megahertz>> = Ok(clocks.into_iter().map(Megahertz::new).collect());
            let judged = clock_grid(&clocks, &Ok(Megahertz::new(highest)), Some((128, 128)));
            assert_eq!(word(&judged), expected, "{:?}", judged.verdict);
            assert!(judged.verdict.message().unwrap_or("").contains(why), "{:?}", judged.verdict);
        }
        assert_eq!(word(&clock_grid(&lacking(), &lacking(), None)), "NotSupported");
    }

    /// 3.5 s at 10 ms, of a sensor that changes every `period_ms` by `step` watts up and down.
    fn sensor(period_ms: u64, level: f64, step: f64) -> Series {
        let mut series = Series::default();
        for ms in (0..3500).step_by(10) {
            let odd = ms / period_ms % 2 == 1;
            series.push(Duration::from_millis(ms), level + if odd { step } else { 0.0 });
        }
        series
    }

    fn joules(power: f64) -> Series {
        let mut series = Series::default();
        for ms in (0_u32..3500).step_by(50) {
            series.push(Duration::from_millis(ms.into()), 1e6 + power * f64::from(ms) / 1000.0);
        }
        series
    }

    fn watched(instant: Series, energy: Series, busy_percent: u32) -> Watched {
        Watched { average: Ok(instant.clone()), instant: Ok(Some(instant)), energy: Ok(energy), busy_percent }
    }

    #[test]
    fn a_sensor_that_stands_still_under_load_fails_and_on_an_idle_board_tells_nothing() {
        for (period_ms, level, step, busy_percent, expected) in [
            (100, 500.0, 5.0, 100, "Pass"),
            (100, 70.0, 0.1, 0, "Pass"),
            (10_000, 500.0, 5.0, 100, "Fail"),
            (10_000, 70.0, 5.0, 0, "Skipped"),
            (1_200, 500.0, 5.0, 100, "Fail"),
            (100, 0.0, 5.0, 100, "Fail"),
            (100, 1500.0, 5.0, 100, "Fail"),
        ] {
            let series = sensor(period_ms, level, step);
            let judged = power_instant(&watched(series, joules(level), busy_percent), Some(Watts::new(700)));
            assert_eq!(word(&judged), expected, "{period_ms} ms {level} W: {:?}", judged.verdict);
        }
        let without = Watched { instant: Ok(None), ..watched(sensor(100, 1.0, 1.0), joules(1.0), 0) };
        assert_eq!(word(&power_instant(&without, None)), "NotSupported");
        let lost = Watched { instant: lost(), ..without };
        assert_eq!(word(&power_instant(&lost, None)), "Fail");
    }

    #[test]
    fn energy_must_agree_with_power_unless_power_swings() {
        for (level, step, by_energy, expected) in [
            (500.0, 5.0, 500.0, "Pass"),
            (500.0, 5.0, 545.0, "Pass"),
            (500.0, 5.0, 560.0, "Fail"),
            (500.0, 5.0, 0.0, "Fail"),
            (300.0, 400.0, 500.0, "Pass"),
            (300.0, 400.0, 640.0, "Skipped"),
            (300.0, 400.0, 0.0, "Fail"),
        ] {
            let judged = energy(&watched(sensor(100, level, step), joules(by_energy), 100));
            assert_eq!(word(&judged), expected, "{level} {step} {by_energy}: {:?}", judged.verdict);
        }
        let falling = energy(&watched(sensor(100, 500.0, 5.0), joules(-500.0), 100));
        assert_eq!(falling.verdict, Verdict::Fail("the counter fell".to_owned()));
    }

    #[test]
    fn a_sample_that_takes_longer_than_a_tenth_of_a_second_fails() {
        let calls = |each_ms: u64| -> Vec<Calls> {
            vec![Calls { name: SAMPLE, durations: vec![Duration::from_millis(each_ms); 50] }]
        };
        assert_eq!(word(&call_durations(&calls(99))), "Pass");
        assert_eq!(word(&call_durations(&calls(101))), "Fail");
        let slow_energy = Calls { name: "energy", durations: vec![Duration::from_secs(1)] };
        assert_eq!(word(&call_durations(&[calls(60).remove(0), slow_energy])), "Pass", "the loop reads no energy");
        assert_eq!(word(&call_durations(&[])), "Fail");
        let unanswered = [Calls { name: SAMPLE, durations: Vec::new() }];
        assert_eq!(word(&call_durations(&unanswered)), "Fail");
    }

    #[test]
    fn modes_and_reasons_are_told_in_words() {
        let figure = |judgement: &Judgement| format!("{:?}", judgement.figures);
        assert!(figure(&throttle_reasons(&Ok(0b101))).contains("idle, power limit"));
        assert!(figure(&throttle_reasons(&Ok(0))).contains("none"));
        assert_eq!(word(&throttle_reasons(&lacking())), "NotSupported");
        assert_eq!((word(&mig_mode(&Ok(true))), word(&mig_mode(&lacking()))), ("Pass", "NotSupported"));
        assert_eq!((word(&persistence(&Ok(true))), word(&persistence(&Ok(false)))), ("Pass", "Fail"));
        let highest = Ok(Megahertz::new(1980));
        assert_eq!(word(&clock_reading(&Ok(Some(Megahertz::new(345))), &highest)), "Pass");
        assert_eq!(word(&clock_reading(&Ok(Some(Megahertz::new(1995))), &highest)), "Fail");
        assert_eq!(word(&clock_reading(&Ok(None), &highest)), "NotSupported");
    }
}
