//! From what was seen to figures: pure functions over a trace.
//!
//! ```text
//!            load step            Σ sensors above the envelope        last ceiling set
//!  ─────────────┼──── up to 100 ms ────────┼───────── reaction ─────────────┼──────────▶
//! ```

use std::time::Duration;

use crate::trace::{BOARDS, Look};

/// Settling is judged by means of this long.
const MEAN: Duration = Duration::from_secs(1);

/// What the node must not exceed in a step of load.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bounds {
    /// Of all devices, by their sensors.
    pub(crate) envelope_watts: f64,
    /// Of the node, alternating current.
    pub(crate) grant_watts: f64,
}

/// How the node answered a step of load.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Reaction {
    /// From the first moment at which the sensors together were above the envelope until the last board
    /// that was above its part of it had its ceiling lowered.
    pub(crate) to_last: Duration,
    /// The longest time that one board's sensor stood above its part before that.
    pub(crate) of_board: Duration,
}

/// The answer to a step at `step`; `None` when the sensors never stood above the envelope together, `Err`
/// when a board that was above its part got no lower ceiling. Boards are looked at while the sum is above:
/// what one of them does later is the feedback's. A part is an equal one: the boards are alike.
pub(crate) fn reaction(trace: &[Look], step: Duration, bounds: Bounds) -> Option<Result<Reaction, Unanswered>> {
    let after: Vec<&Look> = trace.iter().filter(|look| look.at >= step).collect();
    let above = |look: &Look| look.boards_watts() + look.cpu_watts > bounds.envelope_watts;
    let first = after.iter().position(|look| above(look))?;
    let last = after.iter().rposition(|look| above(look)).unwrap_or(first);
    let mut reaction = Reaction::default();
    for board in 0..BOARDS {
        let over = |look: &Look| {
            let part = (bounds.envelope_watts - look.cpu_watts) / BOARDS_F64;
            f64::from(look.sensors_mw[board]) / 1000.0 > part * NOTICED
        };
        let Some(noticed) = after[..=last].iter().find(|look| over(look)) else { continue };
        let mut highest = 0;
        let lowered = after.iter().find(|look| {
            highest = highest.max(look.ceilings_mhz[board]);
            look.ceilings_mhz[board] < highest
        });
        let Some(lowered) = lowered else { return Some(Err(Unanswered { board })) };
        reaction.to_last = reaction.to_last.max(lowered.at.saturating_sub(after[first].at));
        reaction.of_board = reaction.of_board.max(lowered.at.saturating_sub(noticed.at));
    }
    Some(Ok(reaction))
}

/// A board is above its part when it exceeds it by more than its power flutters of itself (2 %).
const NOTICED: f64 = 1.03;
#[expect(clippy::cast_precision_loss, reason = "eight")]
const BOARDS_F64: f64 = BOARDS as f64;

/// A board that was above its part and got no lower ceiling.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Unanswered {
    pub(crate) board: usize,
}

/// From a step of load at `step` until the mean of the last second is within the grant for good; zero: it
/// was never above. `None`: it is still above at the end.
pub(crate) fn settle(trace: &[Look], step: Duration, grant_watts: f64) -> Option<Duration> {
    let mut oldest = 0;
    let mut last_above = None;
    for look in trace {
        while trace[oldest + 1].at + MEAN <= look.at {
            oldest += 1;
        }
        let seconds = (look.at - trace[oldest].at).as_secs_f64();
        let whole = look.at.saturating_sub(trace[oldest].at) + Duration::from_millis(10) >= MEAN;
        let mean = (look.ac_joules - trace[oldest].ac_joules) / seconds.max(f64::MIN_POSITIVE);
        if whole && look.at >= step && mean > grant_watts {
            last_above = Some(look.at);
        }
    }
    let end = trace.last()?.at;
    match last_above {
        None => Some(Duration::ZERO),
        Some(at) if end.saturating_sub(at) < Duration::from_millis(100) => None,
        Some(at) => Some(at - step),
    }
}

/// Energy above the grant after a step, in watt-seconds, from true power over 10 ms.
pub(crate) fn overshoot_watt_seconds(trace: &[Look], step: Duration, grant_watts: f64) -> f64 {
    let mut total = 0.0;
    let mut since = None::<&Look>;
    for look in trace.iter().filter(|look| look.at >= step) {
        let Some(before) = since else {
            since = Some(look);
            continue;
        };
        let passed = look.at - before.at;
        if passed >= Duration::from_millis(10) {
            let granted = grant_watts * passed.as_secs_f64();
            total += (look.ac_joules - before.ac_joules - granted).max(0.0);
            since = Some(look);
        }
    }
    total
}

/// How far the devices stay below the envelope, by their sensors, percent of it; negative: above.
pub(crate) fn below_envelope_percent(trace: &[Look], envelope_watts: f64) -> Option<f64> {
    #[expect(clippy::cast_precision_loss, reason = "far below 2^53")]
    let count = trace.len() as f64;
    let total: f64 = trace.iter().map(|look| look.boards_watts() + look.cpu_watts).sum();
    (count > 0.0).then(|| (envelope_watts - total / count) / envelope_watts * 100.0)
}

/// How far the boards stay below the power limits in force, by their sensors, percent of them: the rest of
/// the distance to the envelope is what was set aside for the CPUs.
pub(crate) fn unused_limits_percent(trace: &[Look]) -> Option<f64> {
    let limits: f64 = trace.iter().flat_map(|look| look.limits_mw).map(f64::from).sum::<f64>() / 1000.0;
    let drawn: f64 = trace.iter().map(Look::boards_watts).sum();
    (limits > 0.0).then(|| (limits - drawn) / limits * 100.0)
}

/// The first moment at which every device stands at its lowest.
pub(crate) fn all_lowest(trace: &[Look], lowest: Lowest) -> Option<Duration> {
    let holds = |look: &&Look| {
        look.ceilings_mhz.iter().all(|ceiling| (1..=lowest.ceiling_mhz).contains(ceiling))
            && look.limits_mw.iter().all(|limit| *limit <= lowest.limit_mw)
            && look.cpu_ceiling_khz <= lowest.cpu_khz
    };
    trace.iter().find(holds).map(|look| look.at)
}

/// The lowest that the devices can be told.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Lowest {
    pub(crate) ceiling_mhz: u32,
    pub(crate) limit_mw: u32,
    pub(crate) cpu_khz: u32,
}

/// The value below or at which this percentage of all values lies, by nearest rank.
pub(crate) fn percentile(values: &[f64], percent: u32) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let rank = (sorted.len() * percent as usize).div_ceil(100);
    sorted.get(rank.max(1) - 1).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOUNDS: Bounds = Bounds { envelope_watts: 3200.0, grant_watts: 4000.0 };

    fn at(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    fn look(ms: u64, watts: u32, ceiling_mhz: u32) -> Look {
        Look {
            at: at(ms),
            sensors_mw: [watts * 1000; BOARDS],
            ceilings_mhz: [ceiling_mhz; BOARDS],
            limits_mw: [400_000; BOARDS],
            ..Look::default()
        }
    }

    #[test]
    fn a_reaction_lasts_from_the_sum_above_the_envelope_to_the_last_ceiling() {
        let mut trace = vec![look(0, 100, 1600), look(100, 500, 1600), look(150, 500, 1200), look(190, 390, 1100)];
        trace[2].ceilings_mhz[7] = 1600;
        trace[2].sensors_mw[7] = 510_000;
        let answered = reaction(&trace, at(50), BOUNDS).unwrap().unwrap();
        assert_eq!((answered.to_last, answered.of_board), (at(90), at(90)));
        trace[3].ceilings_mhz[7] = 1600;
        assert_eq!(reaction(&trace, at(50), BOUNDS), Some(Err(Unanswered { board: 7 })));
        assert_eq!(reaction(&trace[..1], at(0), BOUNDS), None);
    }

    #[test]
    fn a_board_that_is_seen_late_counts_from_the_first_sum_and_from_itself() {
        let mut trace = vec![look(0, 450, 1600), look(40, 450, 1200), look(60, 450, 1200), look(80, 450, 1200)];
        for early in &mut trace[..2] {
            early.sensors_mw[3] = 300_000;
        }
        for late in &mut trace[..3] {
            late.ceilings_mhz[3] = 1600;
        }
        let answered = reaction(&trace, at(0), BOUNDS).unwrap().unwrap();
        assert_eq!((answered.to_last, answered.of_board), (at(80), at(40)));
    }

    /// A node at `before` watts until the first second, then at `peak` for `long`, then at `after`.
    fn powered(before: f64, peak: f64, long: u64, after: f64) -> Vec<Look> {
        let mut joules = 0.0;
        (0..4000)
            .map(|ms| {
                joules += match ms {
                    0..1000 => before,
                    ms if ms < 1000 + long => peak,
                    _ => after,
                } / 1000.0;
                Look { ac_joules: joules, ..look(ms, 0, 0) }
            })
            .collect()
    }

    #[test]
    fn settling_ends_when_the_mean_of_a_second_is_within_the_grant_for_good() {
        assert_eq!(settle(&powered(2000.0, 4500.0, 100, 3900.0), at(1000), 4000.0), Some(at(0)));
        // 3,900 W before and after, 4,500 W for 300 ms: the mean is above while it holds more than 167 ms of them.
        let settled = settle(&powered(3900.0, 4500.0, 300, 3900.0), at(1000), 4000.0).unwrap();
        assert!((at(1130)..at(1140)).contains(&settled), "{settled:?}");
        assert_eq!(settle(&powered(3900.0, 4100.0, 9000, 4100.0), at(1000), 4000.0), None);
    }

    #[test]
    fn overshoot_is_energy_above_the_grant() {
        let energy = overshoot_watt_seconds(&powered(3900.0, 4500.0, 300, 3900.0), at(1000), 4000.0);
        assert!((energy - 150.0).abs() < 10.0, "{energy}");
    }

    #[test]
    fn unused_watts_are_percent_of_the_envelope() {
        assert_eq!(below_envelope_percent(&[look(0, 392, 0), look(1, 392, 0)], 3200.0).map(f64::round), Some(2.0));
        assert_eq!(below_envelope_percent(&[], 3200.0), None);
        assert_eq!(unused_limits_percent(&[look(0, 392, 0)]).map(f64::round), Some(2.0));
    }

    #[test]
    fn a_brake_ends_when_every_device_is_at_its_lowest() {
        let lowest = Lowest { ceiling_mhz: 360, limit_mw: 200_000, cpu_khz: 800_000 };
        let low = Look { limits_mw: [200_000; BOARDS], cpu_ceiling_khz: 800_000, ..look(30, 0, 360) };
        let mut but_one = low.clone();
        (but_one.at, but_one.ceilings_mhz[5]) = (at(20), 0);
        assert_eq!(all_lowest(&[look(10, 0, 360), but_one, low], lowest), Some(at(30)));
        assert_eq!(all_lowest(&[look(10, 0, 360)], lowest), None);
    }

    #[test]
    fn a_percentile_is_a_value_that_occurred() {
        let values: Vec<f64> = (1..=50).rev().map(f64::from).collect();
        assert_eq!(percentile(&values, 99), Some(50.0));
        assert_eq!(percentile(&values, 50), Some(25.0));
        assert_eq!(percentile(&[7.0], 99), Some(7.0));
        assert_eq!(percentile(&[], 99), None);
    }
}
