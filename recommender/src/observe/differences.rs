//! Whether two sources that measure the same device agree.
//!
//! Each has its own sensor, its own moment and its own span over which it averages: single readings of a
//! busy board lie hundreds of watts apart. So their means are compared, over some eight rounds.
//!
//! ```text
//!             means further apart than the bound
//!   agree ────────────────────────────────────────▶ apart since …
//!     ▲                                                  │
//!     └──────── closer than half of it, or one ends ─────┘
//! ```
//!
//! Must hold: a pair that was compared counts once, however often it is seen; one that is old, not at all.

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};
use powercap_common::units::Watts;

use crate::observation::{Apart, Sample};

/// The least weight of a new reading in a mean; the first few weigh alike.
const WEIGHT: f64 = 0.25;

/// How far means may lie apart: a share of the higher, and watts on top.
#[derive(Clone, Copy, Debug)]
pub struct Bound {
    /// Of the higher mean.
    pub share: f64,
    /// On top.
    pub watts: f64,
}

/// Boards: sensors err by up to 5 % each, and a span of the average that misses a burst does the rest.
pub const OF_BOARDS: Bound = Bound { share: 0.10, watts: 30.0 };
/// CPUs: agents count the memory, Kepler's `package` does not.
pub const OF_CPUS: Bound = Bound { share: 0.15, watts: 100.0 };

/// What is remembered of each device.
#[derive(Clone, Debug, Default)]
pub struct Differences(BTreeMap<String, Difference>);

#[derive(Clone, Debug)]
struct Difference {
    means: [f64; 2],
    pairs: f64,
    measured: [Timestamp; 2],
    since: Option<Timestamp>,
}

impl Differences {
    /// Takes note of a round: of each device the readings of both sources, as far as both are recent. Says
    /// which lie apart, and since when.
    pub fn compare<'a>(
        &mut self,
        pairs: impl Iterator<Item = (&'a String, [Sample<Watts>; 2])>,
        bound: Bound,
        stale_after: SignedDuration,
        now: Timestamp,
    ) -> BTreeMap<String, Apart> {
        let mut before = std::mem::take(&mut self.0);
        let recent = |pair: &[Sample<Watts>; 2]| pair.iter().all(|sample| now.duration_since(sample.at) <= stale_after);
        let mut apart = BTreeMap::new();
        for (device, pair) in pairs.filter(|(_, pair)| recent(pair)) {
            let difference = Difference::of(before.remove(device), pair, bound, now);
            let [one, other] = pair.map(|sample| sample.source);
            let (higher, lower) = if difference.means[0] > difference.means[1] { (one, other) } else { (other, one) };
            apart.extend(difference.since.map(|since| (device.clone(), Apart { higher, lower, since })));
            self.0.insert(device.clone(), difference);
        }
        apart
    }
}

impl Difference {
    fn of(before: Option<Self>, pair: [Sample<Watts>; 2], bound: Bound, now: Timestamp) -> Self {
        let (values, measured) = (pair.map(|sample| sample.value.as_f64()), pair.map(|sample| sample.at));
        let Some(mut now_is) = before.filter(|before| same_order(before.measured, measured)) else {
            return Self { means: values, pairs: 1.0, measured, since: None }.judged(bound, now);
        };
        if now_is.measured != measured {
            now_is.pairs += 1.0;
            let weight = WEIGHT.max(1.0 / now_is.pairs);
            for (mean, value) in now_is.means.iter_mut().zip(values) {
                *mean += weight * (value - *mean);
            }
            now_is.measured = measured;
        }
        now_is.judged(bound, now)
    }

    fn judged(mut self, bound: Bound, now: Timestamp) -> Self {
        let [one, other] = self.means;
        let most = bound.share * one.max(other) + bound.watts;
        let apart = (one - other).abs();
        self.since = match self.since {
            None if apart > most => Some(now),
            Some(since) if apart > most / 2.0 => Some(since),
            _ => None,
        };
        self
    }
}

/// A source that went back in time was restarted, or is another.
fn same_order(before: [Timestamp; 2], now: [Timestamp; 2]) -> bool {
    before.iter().zip(now).all(|(before, now)| *before <= now)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observation::Source;

    const ROUND: SignedDuration = SignedDuration::from_secs(5);
    const STALE: SignedDuration = SignedDuration::from_secs(15);

    /// In which round, if ever, a board has lain apart for three intervals, when the exporter and the agent
    /// tell these watts in the n-th round.
    fn apart_in(tell: impl Fn(u32) -> [u32; 2]) -> Option<u32> {
        let (mut differences, mut now) = (Differences::default(), Timestamp::UNIX_EPOCH);
        let board = "GPU-a".to_owned();
        (0..60).find(|round| {
            now += ROUND;
            let [exporter, agent] = tell(*round).map(Watts::new);
            let pair = [(exporter, Source::DcgmExporter), (agent, Source::Agent)];
            let pair = pair.map(|(value, source)| Sample { value, at: now, source });
            let apart = differences.compare([(&board, pair)].into_iter(), OF_BOARDS, STALE, now);
            apart.get(&board).is_some_and(|apart| now.duration_since(apart.since) > STALE)
        })
    }

    #[test]
    fn sensor_error_and_bursts_do_not_part_sources_and_a_source_that_stands_still_does() {
        for (what, tell, apart) in [
            ("5 % too high and too low", (|_| [665, 735]) as fn(u32) -> [u32; 2], None),
            (
                "a burst that each sees at its own time",
                |round| if round % 2 == 0 { [700, 500] } else { [500, 700] },
                None,
            ),
            ("the exporter stands still", |round| [450, if round < 10 { 450 } else { 690 }], Some(15)),
            ("the agent tells a third less", |_| [600, 400], Some(4)),
        ] {
            assert_eq!(apart_in(tell), apart, "{what}");
        }
    }

    #[test]
    fn a_pair_counts_once_and_an_old_one_not_at_all() {
        let (mut differences, board, start) = (Differences::default(), "GPU-a".to_owned(), Timestamp::UNIX_EPOCH);
        let pair = |at: Timestamp, agent: u32| {
            let exporter = Sample { value: Watts::new(400), at, source: Source::DcgmExporter };
            [exporter, Sample { value: Watts::new(agent), at, source: Source::Agent }]
        };
        let mut compare = |pair, now| differences.compare([(&board, pair)].into_iter(), OF_BOARDS, STALE, now);
        assert!(compare(pair(start, 400), start).is_empty());
        for _ in 0..10 {
            assert!(compare(pair(start + ROUND, 550), start + ROUND).is_empty(), "one new pair is no mean");
        }
        assert!(!compare(pair(start + ROUND * 2, 900), start + ROUND * 2).is_empty());
        assert!(compare(pair(start + ROUND * 2, 900), start + ROUND * 9).is_empty(), "both are old");
    }
}
