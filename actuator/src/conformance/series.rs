//! Numbers over time, and what can be read from them: how often a sensor changes, what it averages
//! over, how long calls take.

use std::time::Duration;

/// The longest average that is looked for.
const LONGEST_AVERAGE: Duration = Duration::from_millis(1500);
/// Averages are told apart in these steps.
const AVERAGE_STEP: Duration = Duration::from_millis(50);

/// Readings with the time since the watch began, in order of time.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Series(Vec<(Duration, f64)>);

impl Series {
    /// Adds a reading.
    pub fn push(&mut self, at: Duration, value: f64) {
        self.0.push((at, value));
    }

    /// How many readings there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The lowest and the highest value.
    #[must_use]
    pub fn range(&self) -> Option<(f64, f64)> {
        let (_, first) = self.0.first()?;
        Some(self.0.iter().fold((*first, *first), |(low, high), (_, value)| (low.min(*value), high.max(*value))))
    }

    /// The mean over time: each reading holds until the next.
    #[must_use]
    pub fn mean(&self) -> Option<f64> {
        let (begin, end) = (self.0.first()?.0, self.0.last()?.0);
        self.mean_between(begin, end)
    }

    /// The mean from `begin` to `end`, where there are readings that far back.
    fn mean_between(&self, begin: Duration, end: Duration) -> Option<f64> {
        let span = end.checked_sub(begin)?.as_secs_f64();
        let first = self.0.partition_point(|(at, _)| *at <= begin).checked_sub(1)?;
        if span <= 0.0 {
            return Some(self.0[first].1);
        }
        let mut sum = 0.0;
        for (index, (at, value)) in self.0.iter().enumerate().skip(first) {
            let until = self.0.get(index + 1).map_or(end, |next| next.0).min(end);
            sum += value * until.saturating_sub((*at).max(begin)).as_secs_f64();
        }
        Some(sum / span)
    }

    /// The growth a second between the first and the last reading.
    #[must_use]
    pub fn rate(&self) -> Option<f64> {
        let ((begin, first), (end, last)) = (self.0.first()?, self.0.last()?);
        let seconds = end.saturating_sub(*begin).as_secs_f64();
        (seconds > 0.0).then(|| (last - first) / seconds)
    }

    /// Whether no reading is below the one before.
    #[must_use]
    pub fn never_falls(&self) -> bool {
        self.0.is_sorted_by(|before, after| before.1 <= after.1)
    }

    /// The times from one change of the value to the next.
    #[must_use]
    pub fn between_changes(&self) -> Vec<Duration> {
        let changes: Vec<_> = self
            .0
            .windows(2)
            .filter(|pair| (pair[0].1 - pair[1].1).abs() > f64::EPSILON)
            .map(|pair| pair[1].0)
            .collect();
        changes.windows(2).map(|pair| pair[1].saturating_sub(pair[0])).collect()
    }

    /// Over how long `averaged` averages what this series shows at once: the length whose means come
    /// closest. `None` when the values hardly differ, so that any length would do.
    #[must_use]
    pub fn averaged_over(&self, averaged: &Self) -> Option<Duration> {
        let (low, high) = self.range()?;
        if high - low < 0.1 * high {
            return None;
        }
        let begin = self.0.first()?.0 + LONGEST_AVERAGE;
        let judged: Vec<_> = averaged.0.iter().filter(|(at, _)| *at >= begin).collect();
        if judged.is_empty() {
            return None;
        }
        let error = |length: Duration| -> f64 {
            let wrong = |(at, value): &&(Duration, f64)| {
                self.mean_between(at.saturating_sub(length), *at).map_or(f64::MAX, |mean| (mean - value).powi(2))
            };
            judged.iter().map(wrong).sum()
        };
        let lengths = (0..=30).map(|step| AVERAGE_STEP * step).take_while(|length| *length <= LONGEST_AVERAGE);
        lengths.min_by(|one, other| error(*one).total_cmp(&error(*other)))
    }
}

/// The duration that this share (0 to 1) of the durations do not exceed; zero of none.
#[must_use]
pub fn quantile(durations: &[Duration], share: f64) -> Duration {
    let mut sorted = durations.to_vec();
    sorted.sort_unstable();
    let last = sorted.len().saturating_sub(1);
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        clippy::cast_precision_loss,
        reason = "an index"
    )]
    let index = (last as f64 * share.clamp(0.0, 1.0)).ceil() as usize;
    sorted.get(index.min(last)).copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn series(step_ms: u64, value: impl Fn(u64) -> f64) -> Series {
        Series(
            (0..4000 / step_ms).map(|index| (Duration::from_millis(index * step_ms), value(index * step_ms))).collect(),
        )
    }

    #[test]
    fn the_time_between_changes_is_the_sensors_period() {
        let sensor = series(10, |ms| f64::from(u32::try_from(ms / 100).unwrap()));
        let periods = sensor.between_changes();
        assert_eq!(quantile(&periods, 0.5), Duration::from_millis(100));
        assert!(series(10, |_| 70.0).between_changes().is_empty());
    }

    #[test]
    fn the_length_of_an_average_is_found_from_a_step() {
        let instant = series(10, |ms| if ms < 2000 { 100.0 } else { 600.0 });
        for length_ms in [0_u64, 100, 500, 1000] {
            let averaged = series(50, |ms| {
                instant
                    .mean_between(Duration::from_millis(ms.saturating_sub(length_ms)), Duration::from_millis(ms))
                    .unwrap()
            });
            assert_eq!(instant.averaged_over(&averaged), Some(Duration::from_millis(length_ms)));
        }
        let steady = series(10, |_| 100.0);
        assert_eq!(steady.averaged_over(&steady), None, "without a change any length would do");
    }

    #[test]
    fn a_rate_and_a_mean_are_over_time() {
        let energy = series(20, |ms| f64::from(u32::try_from(ms).unwrap()) * 0.7);
        assert!((energy.rate().unwrap() - 700.0).abs() < 1e-9);
        assert!(energy.never_falls());
        assert!(!series(1000, |ms| 5.0 - f64::from(u32::try_from(ms).unwrap())).never_falls());
        let uneven =
            Series(vec![(Duration::ZERO, 100.0), (Duration::from_secs(1), 400.0), (Duration::from_secs(4), 0.0)]);
        assert!((uneven.mean().unwrap() - 325.0).abs() < 1e-9);
        assert_eq!((Series::default().mean(), Series::default().rate()), (None, None));
    }

    #[test]
    fn a_quantile_of_few_is_one_of_them() {
        let durations: Vec<_> = (1..=100).map(Duration::from_millis).collect();
        assert_eq!(quantile(&durations, 0.5), Duration::from_millis(51));
        assert_eq!(quantile(&durations, 0.99), Duration::from_millis(100));
        assert_eq!(quantile(&durations[..1], 0.99), Duration::from_millis(1));
        assert_eq!(quantile(&[], 0.99), Duration::ZERO);
    }
}
