//! When to read a board's power next: right after its sensor has shown something new.
//!
//! ```text
//!             news at every other sample             no news, four times in 24 ms
//!   searching ──────────────────────────▶ following ─────────────────────────────▶ still
//!   two samples ◀──────────────────────── one sample, ◀─────────────────────────── two samples,
//!   a rhythm      news at every sample    after news              news             one where news would be
//! ```
//!
//! The sensors of A100 and H100 show a new value once in 100 ms, each board's at a moment of its own. Who
//! reads every 50 ms learns of it up to 50 ms late; who reads just after it learns at once, in half as many
//! calls. While following, each sample comes a little earlier than a rhythm after the last news, until one
//! comes too early: then the next ones come later again.
//!
//! What must hold: a sensor without this rhythm is read twice in it; a sample is never more than one rhythm
//! and what a retry takes after the last.

use std::time::{Duration, Instant};

use powercap_common::units::Watts;

/// So many samples with and without news in turn make a rhythm.
const TURNS: u32 = 6;
/// Each sample comes so much earlier than a rhythm after the last.
const EARLIER: Duration = Duration::from_millis(1);
/// After a sample without news another one follows this much later, so often.
const LATER: Duration = Duration::from_millis(8);
const RETRIES: u32 = 3;

/// When a board's sensor shows something new.
#[derive(Debug)]
pub(super) struct Rhythm {
    /// Half of the rhythm that is looked for.
    half: Duration,
    pace: Pace,
    last: Option<Watts>,
    /// When power is to be read next.
    due: Option<Instant>,
}

#[derive(Clone, Copy, Debug)]
enum Pace {
    /// How often news and no news came in turn, and which was last.
    Searching { turns: u32, news: bool },
    /// When news were to come; samples without any since then; news in a row at the first sample.
    Following { beat: Instant, retries: u32, in_a_row: u32 },
    /// The sensor says the same again and again.
    Still,
}

impl Rhythm {
    /// Looks for sensors that show something new once in two periods.
    pub(super) const fn new(period: Duration) -> Self {
        Self { half: period, pace: Pace::Searching { turns: 0, news: false }, last: None, due: None }
    }

    /// Takes in what was read: when to read again.
    pub(super) fn after(&mut self, at: Instant, power: Watts) -> Instant {
        let news = self.last.replace(power) != Some(power);
        let whole = self.half * 2;
        // Who comes late saw no later news than who comes in time.
        let due = self.due.map_or(at, |due| due.min(at));
        let following = |from: Instant, in_a_row| {
            let beat = next_after(at, from + whole - EARLIER, whole);
            (Pace::Following { beat, retries: 0, in_a_row }, beat)
        };
        let still = |from: Instant| (Pace::Still, next_after(at, from + self.half, self.half));
        let (pace, next) = match self.pace {
            Pace::Searching { turns, news: before } => {
                let turns = if news == before { 0 } else { turns + 1 };
                if news && turns >= TURNS {
                    following(at, 0)
                } else {
                    (Pace::Searching { turns, news }, at + self.half)
                }
            }
            // Earlier by half a rhythm, and always news: the sensor is faster.
            Pace::Following { in_a_row, .. } if news && EARLIER * in_a_row > self.half + LATER => {
                (Pace::Searching { turns: 0, news }, at + self.half)
            }
            Pace::Following { retries, in_a_row, .. } if news => {
                following(due, if retries == 0 { in_a_row + 1 } else { 0 })
            }
            Pace::Still if news => following(due, 0),
            Pace::Following { beat, retries, .. } if retries < RETRIES => {
                (Pace::Following { beat, retries: retries + 1, in_a_row: 0 }, at + LATER)
            }
            // The first sample may have come too early.
            Pace::Following { beat, .. } => still(beat + LATER),
            Pace::Still => still(due),
        };
        (self.pace, self.due) = (pace, Some(next));
        next
    }

    /// Whether the next sample comes a moment after one that was without news where news was to come.
    pub(super) const fn retries(&self) -> bool {
        matches!(self.pace, Pace::Following { retries: 1.., .. })
    }

    /// Nothing could be read `at` this time: the sensor is looked for anew.
    pub(super) fn lost(&mut self, at: Instant) -> Instant {
        *self = Self::new(self.half);
        at + self.half
    }
}

/// The first moment after `at` that is whole rhythms after `from`.
fn next_after(at: Instant, from: Instant, whole: Duration) -> Instant {
    let mut next = from;
    while next <= at {
        next += whole;
    }
    next
}

#[cfg(test)]
mod tests {
    use super::*;

    const HALF: Duration = Duration::from_millis(50);

    /// A sensor that is read: what was read how long after it was news, in milliseconds.
    struct Read {
        samples: usize,
        /// For each value of the sensor that was seen, how late.
        late_ms: Vec<u64>,
    }

    #[test]
    fn a_sample_that_came_too_early_is_retried_and_the_one_after_news_is_none() {
        let start = Instant::now();
        let mut rhythm = Rhythm::new(HALF);
        let mut at = start;
        let mut read = |rhythm: &mut Rhythm, news: u64| {
            let due = rhythm.after(at, Watts::from_milliwatts(news));
            (std::mem::replace(&mut at, due), due, rhythm.retries())
        };
        for sample in 0..20_u64 {
            let (_, _, retries) = read(&mut rhythm, sample.div_ceil(2));
            assert!(!retries, "a sensor that is looked for is read at an even pace");
            if matches!(rhythm.pace, Pace::Following { .. }) {
                break;
            }
        }
        let (early, again, retries) = read(&mut rhythm, 10_000);
        assert!(!retries && again - early > HALF, "news: {:?}", again - early);
        let (early, again, retries) = read(&mut rhythm, 10_000);
        assert!(retries && again - early == LATER, "no news: {:?}", again - early);
        assert!(!read(&mut rhythm, 10_001).2, "news");
    }

    /// Reads for some seconds a sensor with this period, whose values are `value(number)`; each sample is
    /// late by up to 3 ms.
    fn read(period_ms: u64, seconds: u64, value: impl Fn(u64) -> u64) -> Read {
        let start = Instant::now();
        let (mut rhythm, mut at, mut seen) = (Rhythm::new(HALF), start, None);
        let mut read = Read { samples: 0, late_ms: Vec::new() };
        while at < start + Duration::from_secs(seconds) {
            read.samples += 1;
            at += Duration::from_millis(read.samples as u64 * 7 % 4);
            let since_start = u64::try_from((at - start).as_millis()).unwrap() + 33;
            let number = since_start / period_ms;
            if seen.replace(number) != Some(number) {
                read.late_ms.push(since_start % period_ms);
            }
            at = rhythm.after(at, Watts::from_milliwatts(value(number)));
        }
        read
    }

    #[test]
    fn a_sensor_with_the_rhythm_is_read_at_once_and_in_little_more_than_one_sample_each() {
        let read = read(100, 60, |number| 400_000 + number);
        let followed = &read.late_ms[60..];
        assert!(followed.iter().all(|late| *late <= 12), "{followed:?}");
        assert!(read.late_ms.len() >= 595, "{} of 600 values were seen", read.late_ms.len());
        assert!(read.samples < 820, "{} samples for 600 values", read.samples);
    }

    #[test]
    fn the_rhythm_is_kept_while_the_board_is_idle() {
        // Idle for ten seconds: the sensor says the same again and again.
        let idle = |number: u64| if (200..300).contains(&number) { 70_000 } else { 400_000 + number };
        let read = read(100, 40, idle);
        let after = &read.late_ms[295..305];
        assert!(after.iter().all(|late| *late <= 20), "{after:?}");
    }

    #[test]
    fn any_other_sensor_is_read_twice_in_the_rhythm() {
        for period_ms in [20, 25, 200, 1000] {
            let read = read(period_ms, 20, |number| 400_000 + number);
            assert!((340..=401).contains(&read.samples), "{period_ms} ms: {} samples", read.samples);
        }
    }
}
