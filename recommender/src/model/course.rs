//! What is remembered of one board, or of the CPU use of one pod.
//!
//! Must hold: a sample counts once, however often it is seen.

use jiff::{SignedDuration, Timestamp};
use powercap_common::units::Watts;
use serde::{Deserialize, Serialize};

use super::window::{Span, Window};

/// An old reading weighs half as much after this: bursts of seconds make no pod a violator.
const SMOOTHED_OVER: SignedDuration = SignedDuration::from_secs(30);

/// Power over the window, and of just now.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Course {
    /// The highest reading of each step.
    pub peaks: Window,
    /// The mean of each step.
    pub means: Window,
    /// Power of just now, smoothed; none before the first reading.
    pub recent: Option<Watts>,
    /// When the last reading was measured.
    pub at: Timestamp,
    /// The mean of the step that it lies in, to go on with, and of how many readings it is.
    mean: (f64, u32),
}

impl Course {
    /// Takes note of a reading; one that is no later than the last is known already.
    pub fn note(&mut self, watts: Watts, at: Timestamp, span: Span) {
        if at <= self.at {
            return;
        }
        let step = span.step(at);
        let (mean, count) = if self.recent.is_some() && span.step(self.at) == step { self.mean } else { (0.0, 0) };
        let count = count.saturating_add(1);
        let mean = mean + (watts.as_f64() - mean) / f64::from(count);
        let half_lives = at.duration_since(self.at).as_secs_f64() / SMOOTHED_OVER.as_secs_f64();
        let kept = 0.5_f64.powf(half_lives);
        self.recent = Some(self.recent.map_or(watts, |recent| recent.scaled(kept) + watts.scaled(1.0 - kept)));
        (self.mean, self.at) = ((mean, count), at);
        self.peaks.raise(step, watts);
        self.means.set(step, Watts::from_measurement(mean).unwrap_or(watts));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SPAN: Span = Span { step_seconds: 1800, half_life_seconds: 86_400 };

    fn noted(readings: impl IntoIterator<Item = (i64, u32)>) -> Course {
        let mut course = Course::default();
        for (second, watts) in readings {
            course.note(Watts::new(watts), Timestamp::from_second(1_800_000 + second).unwrap(), SPAN);
        }
        course
    }

    #[test]
    fn a_step_has_its_mean_and_its_peak_and_a_reading_counts_once() {
        let course = noted([(5, 100), (10, 600), (10, 600), (10, 600), (5, 9000), (15, 200), (1805, 400)]);
        assert_eq!(course.means.known(1001).collect::<Vec<_>>(), [(1000, Watts::new(300)), (1001, Watts::new(400))]);
        assert_eq!(course.peaks.known(1001).collect::<Vec<_>>(), [(1000, Watts::new(600)), (1001, Watts::new(400))]);
    }

    #[test]
    fn a_burst_moves_what_is_recent_little_and_a_minute_most() {
        let steady = (0..60).map(|round| (5 * round, 300));
        let recent = |more: &[(i64, u32)]| noted(steady.clone().chain(more.iter().copied())).recent.unwrap().ceil();
        assert_eq!(recent(&[]), 300);
        assert!((330..350).contains(&recent(&[(300, 600)])));
        assert!(recent(&(0..12).map(|round| (300 + 5 * round, 600)).collect::<Vec<_>>()) > 500);
    }
}
