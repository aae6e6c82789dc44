//! Power from energy counters that move in steps: the mean over as long as the power has been steady.
//!
//! ```text
//! joules                       ●   What is read may be one step of the counter old, so that a mean over a
//!                   ●    ●         time errs by up to step ÷ time. From half a second back ever longer times
//! ●    ●    ●   ●                  are tried while their means agree within that; where they do not, the
//! ──────────────────────────────▶  power has changed: what was before counts no more.
//! ```
//!
//! What must hold: a change that lasts shows whole after half a second; steady power reads within a
//! hundredth of itself. Breakers and meters of alternating current average over longer.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use powercap_common::units::{Joules, Watts};

/// The shortest time that power is a mean of, and the longest.
const SHORTEST: Duration = Duration::from_millis(500);
const LONGEST: Duration = Duration::from_secs(2);
/// How old a counter may be when it is read. Xeons count every millisecond; who serves their counters to
/// a virtual machine may do so more rarely.
const STEP: Duration = Duration::from_millis(20);

/// The readings that power is reckoned from.
#[derive(Debug, Default)]
pub(super) struct SteadyPower {
    /// Microjoules in total, oldest first.
    readings: VecDeque<(Instant, u64)>,
}

impl SteadyPower {
    /// Takes in a reading: the power now. `None` at the first; within the first half second, the mean so far.
    pub(super) fn after(&mut self, now: Instant, microjoules: u64) -> Option<Watts> {
        while self.readings.front().is_some_and(|(then, _)| now.saturating_duration_since(*then) > LONGEST) {
            self.readings.pop_front();
        }
        let power = self.power(now, microjoules);
        self.readings.push_back((now, microjoules));
        power
    }

    fn power(&self, now: Instant, microjoules: u64) -> Option<Watts> {
        let (mut least, mut most) = (Watts::ZERO, None::<Watts>);
        let mut power = None;
        for (place, (then, before)) in self.readings.iter().enumerate().rev() {
            let time = now.saturating_duration_since(*then);
            if time < SHORTEST && place > 0 {
                continue;
            }
            let spent = Joules::from_microjoules(microjoules.saturating_sub(*before));
            let Some(mean) = spent.over_seconds(time.as_secs_f64()) else { continue };
            let error = STEP.as_secs_f64() / time.as_secs_f64();
            least = least.max(mean.scaled(1.0 - error));
            let upper = mean.scaled(1.0 + error);
            let bound = most.map_or(upper, |most| most.min(upper));
            if power.is_some() && least > bound {
                break;
            }
            (most, power) = (Some(bound), Some(mean));
        }
        power
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PERIOD_MS: u64 = 100;

    /// What is read of a counter that moves every 20 ms while power is `watts(ms)`; readings are late by
    /// up to 7 ms.
    fn read(seconds: u64, watts: impl Fn(u64) -> u64) -> Vec<f64> {
        let (start, mut steady) = (Instant::now(), SteadyPower::default());
        let mut counter = 1_000_000;
        let mut shown = counter;
        let mut powers = Vec::new();
        for ms in 0..seconds * 1000 {
            counter += watts(ms) * 1000;
            if ms % 20 == 13 {
                shown = counter;
            }
            if ms % PERIOD_MS == ms / PERIOD_MS * 37 % 7 {
                let power = steady.after(start + Duration::from_millis(ms), shown);
                powers.extend(power.map(Watts::as_f64));
            }
        }
        powers
    }

    #[test]
    fn steady_power_reads_within_a_hundredth_though_the_counter_moves_in_steps() {
        let powers = read(20, |_| 400);
        assert!(powers[20..].iter().all(|power| (396.0..=404.0).contains(power)), "{powers:?}");
    }

    #[test]
    fn a_change_of_power_shows_whole_after_half_a_second() {
        for (before, after) in [(200, 400_u32), (400, 200), (400, 440)] {
            let powers = read(8, |ms| if ms < 4000 { before } else { after.into() });
            let settled = &powers[45..];
            let error = f64::from(after) * 0.045;
            assert!(settled.iter().all(|power| (power - f64::from(after)).abs() <= error), "{before} {settled:?}");
        }
    }

    #[test]
    fn a_first_reading_is_no_power_and_a_second_is_the_mean_between() {
        let (start, mut steady) = (Instant::now(), SteadyPower::default());
        assert_eq!(steady.after(start, 7), None);
        assert_eq!(steady.after(start, 8), None);
        assert_eq!(steady.after(start + Duration::from_millis(100), 30_000_007), Some(Watts::new(300)));
    }
}
