//! What something used over days, as a histogram that forgets: the one by which the Vertical Pod Autoscaler
//! recommends requests, after its documented rules (autoscaler, `pkg/recommender/util` and `logic/estimator.go`).
//!
//! ```text
//!   bucket n ends at  first × (1.05^(n+1) − 1) ÷ 0.05    each is 5 % wider than the one before
//!   weight of a sample  its own × 2^(its time ÷ 24 h)    so that one of a day ago counts half
//! ```
//!
//! Must hold: what is no amount, or more than anything uses, changes nothing; time alone changes no quantile;
//! it is as large as its buckets, however much is noted.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// Each bucket is wider than the one before by this.
const GROWTH: f64 = 0.05;
/// A sample counts half as much after this.
pub const HALF_LIFE_SECONDS: i64 = 86_400;
/// Weights are put back to the present after so many half-lives: they must neither overflow nor vanish.
const LONGEST_BY_ONE_REFERENCE: f64 = 30.0;
/// A weight below this is no sample's any more.
const LEAST_WEIGHT: f64 = 1e-9;
const DAY_SECONDS: f64 = 86_400.0;
/// Samples of a day, one a minute.
const SAMPLES_A_DAY: f64 = 1440.0;

/// How the amounts of one resource fall into buckets.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Scale {
    /// The width of the first bucket: nothing is told apart below.
    pub first: f64,
    /// Nothing uses more; what claims to is no sample.
    pub most: f64,
}

impl Scale {
    fn bucket(self, amount: f64) -> Option<u8> {
        if !(0.0..=self.most).contains(&amount) {
            return None;
        }
        let bucket = (amount * GROWTH / self.first + 1.0).ln() / (1.0 + GROWTH).ln();
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "the range was checked")]
        Some(bucket.min(f64::from(u8::MAX)) as u8)
    }

    fn end(self, bucket: u8) -> f64 {
        let end = self.first * ((1.0 + GROWTH).powi(i32::from(bucket) + 1) - 1.0) / GROWTH;
        end.min(self.most)
    }
}

/// The histogram.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Histogram {
    /// Weights that are not zero, by bucket.
    weights: BTreeMap<u8, f64>,
    /// When samples were noted that count with their own weight, in seconds since 1970.
    reference: i64,
    seen: Seen,
}

/// How much was seen of something, and over what time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Seen {
    /// When the first and the last sample was of, in seconds since 1970.
    first: i64,
    last: i64,
    samples: u64,
}

impl Histogram {
    /// Notes an amount that was used at this time, for as many minutes of this weight. How much was seen goes by the
    /// minutes alone.
    pub fn note(&mut self, scale: Scale, amount: f64, minutes: u32, weight: f64, at: Timestamp) {
        let Some(bucket) = scale.bucket(amount).filter(|_| minutes > 0) else { return };
        if self.weights.is_empty() {
            self.reference = at.as_second();
        }
        if self.half_lives(at) > LONGEST_BY_ONE_REFERENCE {
            let kept = 0.5_f64.powf(self.half_lives(at));
            self.weights.values_mut().for_each(|weight| *weight *= kept);
            self.weights.retain(|_, weight| *weight > LEAST_WEIGHT);
            self.reference = at.as_second();
        }
        let weight = weight * f64::from(minutes) * 2.0_f64.powf(self.half_lives(at));
        if weight > LEAST_WEIGHT {
            *self.weights.entry(bucket).or_default() += weight;
            self.seen.note(minutes, at);
        }
    }

    /// The amount that was not exceeded in this part of the time (0 to 1): the end of a bucket.
    #[must_use]
    pub fn quantile(&self, scale: Scale, part: f64) -> Option<f64> {
        let asked = self.weights.values().sum::<f64>() * part;
        let mut below = 0.0;
        let reached = |(bucket, weight): (&u8, &f64)| {
            below += weight;
            (below >= asked).then_some(*bucket)
        };
        let bucket = self.weights.iter().find_map(reached);
        bucket.or_else(|| self.weights.keys().next_back().copied()).map(|bucket| scale.end(bucket))
    }

    /// How much was seen.
    #[must_use]
    pub fn seen(&self) -> Seen {
        self.seen
    }

    #[expect(clippy::cast_precision_loss, reason = "seconds of some days")]
    fn half_lives(&self, at: Timestamp) -> f64 {
        (at.as_second() - self.reference) as f64 / HALF_LIFE_SECONDS as f64
    }
}

impl Seen {
    /// Notes a sample of as many minutes.
    pub fn note(&mut self, minutes: u32, at: Timestamp) {
        let at = at.as_second();
        (self.first, self.last) = if self.samples == 0 { (at, at) } else { (self.first.min(at), self.last.max(at)) };
        self.samples = self.samples.saturating_add(u64::from(minutes));
    }

    /// When the first sample was of, in seconds since 1970; none before there is one.
    #[must_use]
    pub fn since(&self) -> Option<i64> {
        (self.samples > 0).then_some(self.first)
    }

    /// Likewise the last.
    #[must_use]
    pub fn last(&self) -> Option<i64> {
        (self.samples > 0).then_some(self.last)
    }

    /// How far the samples can be relied on: 1 for a day with one a minute, more for more days.
    #[must_use]
    #[expect(clippy::cast_precision_loss, reason = "seconds and samples of some days")]
    pub fn confidence(&self) -> f64 {
        let days = (self.last - self.first + 60) as f64 / DAY_SECONDS;
        days.min(self.samples as f64 / SAMPLES_A_DAY)
    }

    /// What a lower bound is multiplied by: little at first, 1 in the end.
    #[must_use]
    pub fn lower_factor(&self) -> f64 {
        (1.0 + 0.001 / self.confidence()).powi(-2)
    }

    /// Likewise an upper bound: much at first; 2 after a day.
    #[must_use]
    pub fn upper_factor(&self) -> f64 {
        1.0 + 1.0 / self.confidence()
    }
}

#[cfg(test)]
mod tests {
    use jiff::SignedDuration;
    use proptest::prelude::{any, prop, prop_assert, prop_assert_eq, proptest};

    use super::*;

    const WATTS: Scale = Scale { first: 2.0, most: 20_000.0 };

    fn at(minute: i64) -> Timestamp {
        Timestamp::UNIX_EPOCH + SignedDuration::from_mins(29_000_000 + minute)
    }

    fn of(samples: impl IntoIterator<Item = (i64, f64)>) -> Histogram {
        let mut histogram = Histogram::default();
        samples.into_iter().for_each(|(minute, watts)| histogram.note(WATTS, watts, 1, 1.0, at(minute)));
        histogram
    }

    #[test]
    fn a_quantile_is_what_was_not_exceeded_so_often_within_a_bucket() {
        let busy_a_tenth = of((0..100).map(|minute| (minute, if minute % 20 < 3 { 600.0 } else { 100.0 })));
        for (part, least) in [(0.5, 100.0), (0.8, 100.0), (0.9, 600.0), (0.95, 600.0)] {
            let watts = busy_a_tenth.quantile(WATTS, part).unwrap();
            assert!((least..least * 1.06 + 2.0).contains(&watts), "{part}: {watts}");
        }
        assert_eq!(Histogram::default().quantile(WATTS, 0.9), None);
    }

    #[test]
    fn a_day_ago_counts_half() {
        let day = 1440;
        let then_and_now = |now: i64| of((0..100).map(|n| (n, 600.0)).chain((0..now).map(|n| (day + n, 100.0))));
        assert!(then_and_now(49).quantile(WATTS, 0.5).unwrap() > 500.0, "fifty of then still weigh more than 49");
        assert!(then_and_now(60).quantile(WATTS, 0.5).unwrap() < 200.0);
    }

    #[test]
    fn a_sample_counts_by_its_weight_and_is_seen_as_one() {
        let two = |weight: f64| {
            let mut histogram = of([(0, 600.0)]);
            histogram.note(WATTS, 100.0, 1, weight, at(0));
            histogram
        };
        let median = |weight: f64| two(weight).quantile(WATTS, 0.5).unwrap();
        assert!(median(0.9) > 500.0 && median(1.1) < 200.0, "{} {}", median(0.9), median(1.1));
        assert_eq!(two(0.1).seen(), two(64.0).seen());
    }

    #[test]
    fn weights_neither_overflow_nor_vanish_over_years() {
        let years = of((0..2000).map(|day| (day * 1440, if day < 1900 { 600.0 } else { 100.0 })));
        assert!(years.quantile(WATTS, 0.99).unwrap() < 120.0);
        assert!(years.weights.values().all(|weight| weight.is_finite()));
        assert!(years.weights.len() <= 2);
    }

    #[test]
    fn bounds_are_wide_at_first_and_narrow_with_the_days() {
        let factors = |minutes: i64| {
            let seen = of((0..minutes).map(|minute| (minute, 100.0))).seen();
            (seen.lower_factor(), seen.upper_factor())
        };
        let close = |one: f64, other: f64| (one / other - 1.0).abs() < 0.01;
        let (lower, upper) = factors(1);
        assert!(close(lower, 0.168) && close(upper, 1441.0), "{lower} {upper}");
        let (lower, upper) = factors(1440);
        assert!(close(lower, 0.998) && close(upper, 2.0), "{lower} {upper}");
        let (lower, upper) = factors(7 * 1440);
        assert!(close(lower, 1.0) && close(upper, 8.0 / 7.0), "{lower} {upper}");
    }

    proptest! {
        #[test]
        fn what_is_no_amount_changes_nothing(bits in any::<u64>(), watts in 0.0..1000.0) {
            let known = of([(0, watts)]);
            let amount = f64::from_bits(bits);
            let mut noted = known.clone();
            noted.note(WATTS, amount, 1, 1.0, at(1));
            if (0.0..=WATTS.most).contains(&amount) {
                prop_assert!(noted != known);
            } else {
                prop_assert_eq!(noted, known);
            }
        }

        #[test]
        fn more_use_never_lowers_a_quantile(
            samples in prop::collection::vec((0_i64..5000, 0.0..9000.0, 0.0..9000.0), 1..60),
            part in 0.0..1.0,
        ) {
            let less = of(samples.iter().map(|(minute, watts, _)| (*minute, *watts)));
            let more = of(samples.iter().map(|(minute, watts, more)| (*minute, watts + more)));
            // Sums in another order differ in their last bit, and so by a bucket where a part is met exactly.
            let nearly: f64 = part + 1e-9;
            prop_assert!(more.quantile(WATTS, nearly.min(1.0)) >= less.quantile(WATTS, part));
        }

        #[test]
        fn it_is_no_larger_than_its_buckets(samples in prop::collection::vec((0_i64..9_000_000, 0.0..20_000.0), 0..300)) {
            prop_assert!(of(samples).weights.len() <= 142);
        }

        #[test]
        fn it_is_read_as_it_was_written(samples in prop::collection::vec((0_i64..90_000, 0.0..20_000.0), 0..30)) {
            let histogram = of(samples);
            let text = serde_json::to_string(&histogram).unwrap();
            prop_assert_eq!(serde_json::from_str::<Histogram>(&text).unwrap(), histogram);
        }
    }
}
