//! Watts of the last [`STEPS`] steps of time, one number a step.
//!
//! ```text
//!   step   …  n-3   n-2   n-1    n         forecast at n: the highest of 300 × 2^(-3s/h), 500 × 2^(-2s/h),
//!   watts  …  300   500    ?    400        400, where s is the length of a step and h the half-life
//! ```
//!
//! The forecast is a peak that decays: with what the Vertical Pod Autoscaler weighs its histograms by,
//! 2^(-age ÷ half-life), but on the watts themselves, since a cap is a matter of peaks and not of quantiles.
//!
//! Must hold: a step of which nothing is known is no step of zero watts; a step that is older than the window
//! counts for nothing, whether or not anything was noted since.

use jiff::{SignedDuration, Timestamp};
use powercap_common::units::Watts;
use serde::{Deserialize, Serialize};

/// Steps of a window.
pub const STEPS: i64 = 48;
/// Stands for what is not known.
const UNKNOWN: u32 = u32::MAX;

/// How far windows reach back, and how fast a peak loses weight.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Span {
    /// The length of a step, in seconds.
    pub step_seconds: i64,
    /// A peak counts half as much after this, in seconds.
    pub half_life_seconds: i64,
}

impl Span {
    /// Windows of this length, and this half-life; neither is below a minute.
    #[must_use]
    pub fn of(window: SignedDuration, half_life: SignedDuration) -> Self {
        Self { step_seconds: (window.as_secs() / STEPS).max(60), half_life_seconds: half_life.as_secs().max(60) }
    }

    /// The step that a moment lies in.
    #[must_use]
    pub fn step(&self, at: Timestamp) -> i64 {
        at.as_second().div_euclid(self.step_seconds)
    }
}

impl Default for Span {
    /// A day, and a day.
    fn default() -> Self {
        Self::of(SignedDuration::from_hours(24), SignedDuration::from_hours(24))
    }
}

/// Watts by step. The newest step and those before it are kept, and no others.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Window {
    newest: i64,
    /// Whole watts, rounded up; that of step n stands at n modulo [`STEPS`].
    watts: Box<[u32]>,
}

impl Default for Window {
    fn default() -> Self {
        Self { newest: 0, watts: (0..STEPS).map(|_| UNKNOWN).collect() }
    }
}

impl Window {
    /// What is known of a step.
    #[must_use]
    pub fn at(&self, step: i64) -> Option<Watts> {
        let watts = *self.watts.get(self.place(step)?)?;
        (watts != UNKNOWN).then(|| Watts::new(watts))
    }

    /// Notes the watts of a step, in the place of what was known of it.
    pub fn set(&mut self, step: i64, watts: Watts) {
        for passed in (self.newest + 1..=step).rev().take(self.watts.len()) {
            self.newest = self.newest.max(passed);
            self.put(passed, UNKNOWN);
        }
        self.put(step, watts.ceil().min(UNKNOWN - 1));
    }

    /// Likewise, where that is more than what was known of it.
    pub fn raise(&mut self, step: i64, watts: Watts) {
        if self.at(step).is_none_or(|known| known < watts) {
            self.set(step, watts);
        }
    }

    /// The newest step that was noted.
    #[must_use]
    pub fn newest(&self) -> i64 {
        self.newest
    }

    /// Whether anything of it is in the window that ends now.
    #[must_use]
    pub fn reaches(&self, now: i64) -> bool {
        self.newest > now - STEPS
    }

    /// The steps of the window that ends now, of which something is known.
    pub fn known(&self, now: i64) -> impl Iterator<Item = (i64, Watts)> {
        (now - STEPS + 1..=now).filter_map(|step| Some((step, self.at(step)?)))
    }

    /// The most of the window that ends now.
    #[must_use]
    pub fn peak(&self, now: i64) -> Option<Watts> {
        self.known(now).map(|(_, watts)| watts).max()
    }

    /// The most that is to be expected now: each step's watts, halved with every half-life that has passed.
    #[must_use]
    pub fn forecast(&self, now: i64, span: Span) -> Option<Watts> {
        self.forecast_since(i64::MIN, now, span)
    }

    /// Likewise, by the steps from this one on.
    #[must_use]
    pub fn forecast_since(&self, since: i64, now: i64, span: Span) -> Option<Watts> {
        #[expect(clippy::cast_precision_loss, reason = "seconds of some days")]
        let half_lives = |step: i64| ((now - step) * span.step_seconds) as f64 / span.half_life_seconds as f64;
        let known = self.known(now).filter(|(step, _)| *step >= since);
        known.map(|(step, watts)| watts.scaled(0.5_f64.powf(half_lives(step)))).max()
    }

    fn put(&mut self, step: i64, watts: u32) {
        if let Some(place) = self.place(step).and_then(|place| self.watts.get_mut(place)) {
            *place = watts;
        }
    }

    fn place(&self, step: i64) -> Option<usize> {
        let kept = step <= self.newest && step > self.newest - STEPS;
        usize::try_from(step.rem_euclid(STEPS)).ok().filter(|_| kept)
    }
}

/// In how much of the steps `from` to `now`, of which all `windows` know something, they were above `watts`
/// together, in percent; `None` when there is no such step.
#[must_use]
pub fn percent_above(windows: &[&Window], watts: Watts, from: i64, now: i64) -> Option<u32> {
    let sum = |step| windows.iter().map(|window| window.at(step)).sum::<Option<Watts>>();
    let sums: Vec<_> = (from.max(now - STEPS + 1)..=now).filter_map(sum).filter(|_| !windows.is_empty()).collect();
    let above = sums.iter().filter(|sum| **sum > watts).count();
    u32::try_from((100 * above).checked_div(sums.len())?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn window(steps: &[(i64, u32)]) -> Window {
        let mut window = Window::default();
        steps.iter().for_each(|(step, watts)| window.set(*step, Watts::new(*watts)));
        window
    }

    #[test]
    fn a_peak_is_forgotten_when_the_window_has_passed_it() {
        let window = window(&[(1000, 500), (1001, 300)]);
        let peaks = [1001, 1047, 1048, 1049].map(|now| window.peak(now).map(Watts::ceil));
        assert_eq!(peaks, [Some(500), Some(500), Some(300), None]);
    }

    #[test]
    fn what_is_noted_late_has_its_place_and_what_is_older_than_the_window_none() {
        let mut window = window(&[(1010, 300)]);
        window.set(1005, Watts::new(700));
        window.set(900, Watts::new(9000));
        assert_eq!(window.known(1010).collect::<Vec<_>>(), [(1005, Watts::new(700)), (1010, Watts::new(300))]);
        window.set(1058, Watts::new(100));
        assert_eq!(window.known(1058).collect::<Vec<_>>(), [(1058, Watts::new(100))]);
        window.set(5000, Watts::new(200));
        assert_eq!(window.known(5000).collect::<Vec<_>>(), [(5000, Watts::new(200))]);
    }

    #[test]
    fn a_forecast_halves_with_each_half_life_and_is_never_below_what_is_now() {
        let span = Span { step_seconds: 1800, half_life_seconds: 4 * 1800 };
        let mut window = window(&[(1000, 800)]);
        let forecasts = [1000, 1004, 1008].map(|now| window.forecast(now, span).map(Watts::ceil));
        assert_eq!(forecasts, [Some(800), Some(400), Some(200)]);
        window.raise(1008, Watts::new(300));
        window.raise(1008, Watts::new(250));
        assert_eq!(window.forecast(1008, span), Some(Watts::new(300)));
        assert_eq!(Window::default().forecast(1008, span), None, "nothing known, not zero");
    }

    #[test]
    fn time_above_counts_the_steps_that_are_known_of_all() {
        let (one, other) =
            (window(&[(10, 300), (11, 300), (12, 300), (13, 100)]), window(&[(11, 300), (12, 100), (13, 100)]));
        let percent = |watts| percent_above(&[&one, &other], Watts::new(watts), 0, 13);
        assert_eq!((percent(500), percent(300), percent(600)), (Some(33), Some(66), Some(0)));
        assert_eq!(percent_above(&[&one, &other], Watts::new(1), 14, 13), None);
        assert_eq!(percent_above(&[], Watts::new(1), 0, 13), None);
    }
}
