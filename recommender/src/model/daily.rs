//! The most memory that something used on each of the last days.
//!
//! Memory is recommended by its peaks, as the Vertical Pod Autoscaler does: a container that lacks processor time
//! is slow, one that lacks memory is killed. Of many containers the largest counts.
//!
//! Must hold: no more than [`DAYS`] days are kept; what is more than any machine has is no amount.

use std::collections::BTreeMap;

use jiff::Timestamp;
use powercap_common::units::Bytes;
use serde::{Deserialize, Serialize};

use super::histogram::Seen;

/// As many days count.
pub const DAYS: i64 = 8;
const DAY_SECONDS: i64 = 86_400;
/// No container uses more.
const MOST: Bytes = Bytes::new(1 << 46);

/// The peak of each day.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct DailyPeaks {
    peaks: BTreeMap<i64, Bytes>,
    seen: Seen,
}

impl DailyPeaks {
    /// Notes an amount that was used at this time, for as many minutes.
    pub fn note(&mut self, amount: Bytes, minutes: u32, at: Timestamp) {
        let day = at.as_second().div_euclid(DAY_SECONDS);
        let newest = self.peaks.keys().next_back().map_or(day, |newest| day.max(*newest));
        if amount > MOST || minutes == 0 || day <= newest - DAYS {
            return;
        }
        let peak = self.peaks.entry(day).or_default();
        *peak = (*peak).max(amount);
        self.peaks.retain(|day, _| *day > newest - DAYS);
        self.seen.note(minutes, at);
    }

    /// The amount that was not exceeded on this part of the days (0 to 1), a day counting half as much as the next.
    #[must_use]
    pub fn quantile(&self, part: f64) -> Option<Bytes> {
        let newest = *self.peaks.keys().next_back()?;
        let weight = |day: &i64| 0.5_f64.powi(i32::try_from(newest - day).unwrap_or(i32::MAX));
        let mut peaks: Vec<_> = self.peaks.iter().map(|(day, peak)| (*peak, weight(day))).collect();
        peaks.sort_by_key(|(peak, _)| *peak);
        let asked = peaks.iter().map(|(_, weight)| weight).sum::<f64>() * part;
        let mut below = 0.0;
        let reached = |(peak, weight): &(Bytes, f64)| {
            below += weight;
            (below >= asked).then_some(*peak)
        };
        peaks.iter().find_map(reached).or_else(|| peaks.last().map(|(peak, _)| *peak))
    }

    /// How much was seen.
    #[must_use]
    pub fn seen(&self) -> Seen {
        self.seen
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(peaks: &[(i64, u64)]) -> DailyPeaks {
        let mut daily = DailyPeaks::default();
        for (day, mebibytes) in peaks {
            let at = Timestamp::from_second((20_000 + day) * DAY_SECONDS).unwrap();
            daily.note(Bytes::new(mebibytes << 20), 1, at);
        }
        daily
    }

    fn told(daily: &DailyPeaks, part: f64) -> Option<u64> {
        daily.quantile(part).map(|bytes| bytes.get() >> 20)
    }

    #[test]
    fn the_highest_of_a_day_counts_and_old_days_count_less() {
        assert_eq!(told(&of(&[]), 0.9), None);
        assert_eq!(told(&of(&[(0, 100), (0, 300), (0, 200)]), 0.5), Some(300));
        let fell = of(&[(0, 900), (1, 100), (2, 100), (3, 100), (4, 100)]);
        assert_eq!((told(&fell, 0.9), told(&fell, 0.99)), (Some(100), Some(900)));
        assert_eq!(told(&of(&[(0, 100), (1, 900)]), 0.5), Some(900));
    }

    #[test]
    fn what_is_older_than_eight_days_or_no_amount_is_forgotten() {
        assert_eq!(told(&of(&[(0, 900), (8, 100)]), 1.0), Some(100));
        assert_eq!(told(&of(&[(8, 100), (0, 900)]), 1.0), Some(100), "whatever the order");
        assert_eq!(told(&of(&[(0, 100), (0, 1 << 27)]), 1.0), Some(100), "128 TiB");
    }
}
