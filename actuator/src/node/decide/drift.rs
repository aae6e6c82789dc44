//! Whether a board keeps to what it was told, and what to do when it does not.
//!
//! ```text
//!              something else's values read             the third time within a minute
//!   keeping ───────────────────────────────▶ set again ───────────────────────────────▶ yielded
//!      ▲                                         │                                         │
//!      └─────────── read back ───────────────────┘          2, 4, … 32 minutes             │
//!      ▲                                                                                   │
//!      └──────────────────────────── ordered anew ◀────────────────────────────────────────┘
//! ```
//!
//! What must hold: what was changed behind our back is set again at once, but nobody is fought for
//! ever; a board that was yielded, or that draws more than the limit that it shows, counts with the most
//! that it takes. A stricter limit than ours is nobody's offence: of all who set one the strictest rules.
//!
//! NVML tells no lock: a board that ran at or below its ceiling under load has taken it, and one that
//! runs above it afterwards has lost it; one that never did ignores it.

use std::time::Duration;

use powercap_common::units::{Megahertz, Watts};

use crate::hardware::{BoardReading, BoardTraits, ClockLock, Knob};

/// A new lock and a new limit show in the readings after this.
const SHOWS_WITHIN: Duration = Duration::from_millis(300);
/// A write without effect is repeated after this, twice, then after twice as long, up to the longest.
const RETRY: Duration = Duration::from_secs(1);
const MOST_DOUBLINGS: u32 = 6;
/// Each repetition comes by so much later: whoever wrote in step with us would undo everything before it shows, and
/// look like a board that ignores it.
const OUT_OF_STEP: Duration = Duration::from_millis(100);
/// So many repetitions without effect are worth telling.
const MISSES: u32 = 3;
/// So many fights within this time, and the board is yielded.
const FIGHTS: usize = 3;
const WITHIN: Duration = Duration::from_secs(60);
/// A board is yielded for this long at first, twice as long each time, up to the longest.
const FIRST_YIELD: Duration = Duration::from_secs(120);
const LONGEST_YIELD: Duration = Duration::from_secs(32 * 60);
/// After so long without a fight the next yield is a first one again.
const CALM: Duration = Duration::from_secs(3600);
/// A drift is told for this long.
const TOLD_FOR: Duration = Duration::from_secs(10);
/// A limit is ignored when readings were above it by so much for this long: sensors err by 5 %, and
/// pauses of the load excuse nothing, but time below counts against it by a quarter.
const ABOVE_FOR: Duration = Duration::from_secs(2);
const ABOVE_PERCENT: u32 = 110;
/// How long a board whose limit is ignored is not believed.
const DISTRUSTED_FOR: Duration = Duration::from_secs(60);
/// A board that draws less than this share of its highest limit has nothing to do: its clock says nothing.
const BUSY_PERCENT: u32 = super::ceiling::IDLE_PERCENT;

/// Why a board that an earlier life of the agent knew is not believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Doubt {
    /// Somebody else kept changing it, and it was yielded.
    Yielded,
    /// It drew more than the limit that it showed.
    LimitIgnored,
    /// It ran above its ceiling as well.
    LimitAndClockIgnored,
}

/// What was ordered last, as far as it was carried out.
pub(super) struct Ordered {
    pub limit: Option<Watts>,
    pub limit_at: Duration,
    pub ceiling: Option<Megahertz>,
    pub lock_at: Duration,
    /// The device says that it was carried out.
    pub executed: bool,
}

/// What is remembered of a board's obedience.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Drift {
    /// The ordered limit that was read back.
    limit_shown: Option<Watts>,
    limit_misses: u32,
    /// The ordered ceiling under which the board was seen to run.
    lock_kept: Option<Megahertz>,
    lock_misses: u32,
    /// Readings above the ceiling in a row, and since when it has been ordered; orders that are no lower continue it,
    /// or a board whose group moves would never be found out.
    above_lock: u32,
    above_lock_since: Option<Duration>,
    /// How long power has been above the limit, and when that was last reckoned.
    above_limit: Duration,
    watched_at: Duration,
    /// The limit that it had a moment ago at the most.
    lenient: Watts,
    distrusted_until: Option<Duration>,
    /// When something else's values were found, within the last minute.
    fights: Vec<Duration>,
    fought_at: Option<Duration>,
    fought: u64,
    pause: Duration,
    yielded_until: Option<Duration>,
    /// What must be written again, now.
    pub limit_again: bool,
    pub lock_again: bool,
}

impl Drift {
    /// A board that was given up on is so for a first time of yielding, or of distrust, once more: an agent
    /// that is started again and again neither fights for ever nor counts on what proved wrong.
    pub(super) fn of_an_earlier_life(doubt: Doubt, now: Duration) -> Self {
        let distrusted = Self { distrusted_until: Some(now + DISTRUSTED_FOR), ..Self::default() };
        match doubt {
            Doubt::Yielded => Self {
                pause: FIRST_YIELD,
                yielded_until: Some(now + FIRST_YIELD),
                fought_at: Some(now),
                ..Self::default()
            },
            Doubt::LimitIgnored => distrusted,
            Doubt::LimitAndClockIgnored => Self { lock_misses: 1, ..distrusted },
        }
    }

    /// Takes in a reading. Says whether a time of yielding has just begun or ended: then nothing that
    /// was ordered is in force any more.
    pub(super) fn observe(
        &mut self,
        reading: &BoardReading,
        traits: &BoardTraits,
        ordered: &Ordered,
        now: Duration,
    ) -> bool {
        if let Some(until) = self.yielded_until {
            let ends = now >= until;
            if ends {
                self.yielded_until = None;
            }
            return ends;
        }
        self.limit_again = false;
        self.lock_again = false;
        self.distrusted_until = self.distrusted_until.filter(|until| now < *until);
        self.watch_power(reading, now);
        if ordered.executed {
            self.watch_limit(reading, ordered, now);
            self.watch_lock(reading, traits, ordered, now);
        }
        self.fights.retain(|at| now.saturating_sub(*at) < WITHIN);
        if self.fights.len() < FIGHTS {
            return false;
        }
        self.pause = (self.pause * 2).clamp(FIRST_YIELD, LONGEST_YIELD);
        self.yielded_until = Some(now + self.pause);
        self.fights.clear();
        self.limit_again = false;
        self.lock_again = false;
        true
    }

    /// Whether it draws more than the limit in force, whoever set that.
    fn watch_power(&mut self, reading: &BoardReading, now: Duration) {
        let Some(limit) = reading.limit else { return };
        let since = now.saturating_sub(self.watched_at).min(RETRY);
        self.watched_at = now;
        // A board comes down from a higher limit in a while, however often it is lowered meanwhile.
        let left = 1.0 - since.as_secs_f64() / RETRY.as_secs_f64();
        self.lenient = limit.max(self.lenient.scaled(left));
        self.above_limit = if reading.power > self.lenient.percent(ABOVE_PERCENT) {
            (self.above_limit + since).min(ABOVE_FOR)
        } else {
            self.above_limit.saturating_sub(since / 4)
        };
        if self.above_limit >= ABOVE_FOR {
            self.distrusted_until = Some(now + DISTRUSTED_FOR);
        }
    }

    fn watch_limit(&mut self, reading: &BoardReading, ordered: &Ordered, now: Duration) {
        let (Some(ours), Some(read)) = (ordered.limit, reading.limit) else { return };
        let age = now.saturating_sub(ordered.limit_at);
        if read <= ours {
            self.limit_shown = Some(ours);
            self.limit_misses = 0;
        } else if self.limit_shown == Some(ours) {
            self.limit_shown = None;
            self.limit_again = true;
            self.fight(now);
        } else if reading.limit_knob == Knob::Failed {
            self.limit_again = age >= RETRY;
        } else if age >= pause(self.limit_misses) {
            self.limit_misses += 1;
            self.limit_again = true;
        }
    }

    fn watch_lock(&mut self, reading: &BoardReading, traits: &BoardTraits, ordered: &Ordered, now: Duration) {
        let (Some(ours), Some(clock), Some(grid)) = (ordered.ceiling, reading.clock, &traits.clocks) else { return };
        let above = clock > grid.above(ours, 1);
        self.above_lock_since = above.then(|| self.above_lock_since.unwrap_or(ordered.lock_at));
        let age = now.saturating_sub(self.above_lock_since.unwrap_or(ordered.lock_at));
        if age < SHOWS_WITHIN {
            return;
        }
        if reading.lock != ClockLock::UpTo(ours) {
            // It was refused: nothing can be said of its effect.
            self.lock_again = now.saturating_sub(ordered.lock_at) >= RETRY;
            return;
        }
        if !above {
            self.above_lock = 0;
            if reading.power >= traits.max_limit.percent(BUSY_PERCENT) {
                self.lock_kept = Some(ours);
                self.lock_misses = 0;
            }
            return;
        }
        self.above_lock += 1;
        if self.above_lock < 2 {
            return;
        }
        if self.lock_kept == Some(ours) {
            self.lock_kept = None;
            self.lock_again = true;
            self.fight(now);
        } else if age >= pause(self.lock_misses) {
            self.lock_misses += 1;
            self.lock_again = true;
            self.above_lock_since = Some(now);
        }
    }

    fn fight(&mut self, now: Duration) {
        if self.fought_at.is_none_or(|at| now.saturating_sub(at) >= CALM) {
            self.pause = Duration::ZERO;
        }
        // Limit and lock that were changed together are one fight.
        if self.fights.last() != Some(&now) {
            self.fights.push(now);
            self.fought += 1;
        }
        self.fought_at = Some(now);
    }

    /// A range of clocks is being written: whether it is kept must be seen anew, and whether it is not, where it is
    /// lower than the last one.
    pub(super) fn lock_ordered(&mut self, lower: bool) {
        self.lock_kept = None;
        if lower {
            (self.above_lock, self.above_lock_since) = (0, None);
        }
    }

    /// Somebody else has the board for now.
    pub(super) const fn yielded(&self) -> bool {
        self.yielded_until.is_some()
    }

    /// The limit that it shows does not say what it draws.
    pub(super) const fn distrusted(&self) -> bool {
        self.yielded_until.is_some() || self.distrusted_until.is_some()
    }

    /// Nothing that we write holds it: somebody else has it, or it ignores limit and lock.
    pub(super) const fn beyond_control(&self) -> bool {
        self.yielded_until.is_some() || (self.distrusted_until.is_some() && self.lock_misses > 0)
    }

    /// It accepts what is written and does not keep to it.
    pub(super) const fn without_effect(&self) -> bool {
        self.distrusted_until.is_some() || self.limit_misses >= MISSES || self.lock_misses >= MISSES
    }

    /// Something else changed it lately, and it was set again.
    pub(super) fn drifted(&self, now: Duration) -> bool {
        self.fought_at.is_some_and(|at| now.saturating_sub(at) < TOLD_FOR)
    }

    /// How often something else's values were found.
    pub(super) const fn fought(&self) -> u64 {
        self.fought
    }
}

fn pause(misses: u32) -> Duration {
    RETRY * 2_u32.pow(misses.saturating_sub(1).min(MOST_DOUBLINGS)) + OUT_OF_STEP * misses
}

#[cfg(test)]
mod tests {
    use crate::hardware::ClockGrid;

    use super::*;

    fn board() -> BoardTraits {
        BoardTraits {
            uuid: "GPU-0".into(),
            model: "H100".into(),
            clocks: ClockGrid::new((23..=132).map(|step| Megahertz::new(step * 15))),
            min_limit: Watts::new(200),
            max_limit: Watts::new(700),
            default_limit: Watts::new(700),
        }
    }

    fn reading(power: u32, clock: u32, limit: u32) -> BoardReading {
        BoardReading {
            power: Watts::new(power),
            clock: Some(Megahertz::new(clock)),
            limit: Some(Watts::new(limit)),
            limit_found: None,
            lock: ClockLock::UpTo(Megahertz::new(1200)),
            clock_knob: Knob::Works,
            limit_knob: Knob::Works,
            executed: 1,
        }
    }

    /// Orders of 400 W and 1,200 MHz, written at this second.
    fn ordered(at: u64) -> Ordered {
        let at = Duration::from_secs(at);
        Ordered {
            limit: Some(Watts::new(400)),
            limit_at: at,
            ceiling: Some(Megahertz::new(1200)),
            lock_at: at,
            executed: true,
        }
    }

    const fn second(second: u64) -> Duration {
        Duration::from_secs(second)
    }

    #[test]
    fn a_limit_that_was_raised_by_another_is_set_again_at_once() {
        let mut drift = Drift::default();
        drift.observe(&reading(390, 1200, 400), &board(), &ordered(0), second(1));
        assert!(!drift.limit_again);
        drift.observe(&reading(390, 1200, 700), &board(), &ordered(0), second(2));
        assert!(drift.limit_again && drift.drifted(second(2)) && !drift.yielded());
    }

    #[test]
    fn a_stricter_limit_than_ours_is_no_drift() {
        let mut drift = Drift::default();
        for at in 1..5 {
            drift.observe(&reading(290, 1200, 300), &board(), &ordered(0), second(at));
            assert!(!drift.limit_again && drift.fought() == 0);
        }
    }

    #[test]
    fn after_the_third_fight_within_a_minute_the_board_is_yielded_and_later_longer() {
        let mut drift = Drift::default();
        let mut fights_until_yielded = |from: u64| {
            for fight in 0..10 {
                let at = from + fight * 4;
                drift.observe(&reading(390, 1200, 400), &board(), &ordered(at), second(at + 1));
                if drift.observe(&reading(390, 1200, 700), &board(), &ordered(at), second(at + 2)) {
                    let began = at + 2;
                    let until = (began..).find(|at| {
                        drift.observe(&reading(390, 1200, 700), &board(), &ordered(0), second(*at)) && !drift.yielded()
                    });
                    return (fight + 1, until.map(|until| until - began), until.unwrap());
                }
            }
            panic!("never yielded");
        };
        let (fights, pause, end) = fights_until_yielded(0);
        assert_eq!((fights, pause), (3, Some(120)));
        let (fights, pause, end) = fights_until_yielded(end);
        assert_eq!((fights, pause), (3, Some(240)));
        let (_, pause, _) = fights_until_yielded(end + 4000);
        assert_eq!(pause, Some(120), "after an hour of calm the next yield is a first one again");
    }

    #[test]
    fn a_lock_that_was_kept_and_is_not_any_more_was_taken_off_by_another() {
        let mut drift = Drift::default();
        drift.observe(&reading(390, 1200, 400), &board(), &ordered(0), second(1));
        drift.observe(&reading(395, 1500, 400), &board(), &ordered(0), second(2));
        assert!(!drift.lock_again, "one reading may be of the moment before");
        drift.observe(&reading(395, 1500, 400), &board(), &ordered(0), second(3));
        assert!(drift.lock_again && drift.fought() == 1);
    }

    #[test]
    fn who_writes_in_step_with_us_is_found_out_at_the_second_repetition() {
        for period in 1..=20 {
            let (mut drift, mut written) = (Drift::default(), 0);
            let fought = (1..=31).any(|tick| {
                // In the tick of each of theirs our limit does not show; in all others it does, once it was written.
                let shown = if tick % period == 0 || written % period == 0 { 700 } else { 400 };
                let limit_at = Duration::from_millis(written * 100);
                let ordered = Ordered { limit_at, ..ordered(0) };
                drift.observe(&reading(390, 1200, shown), &board(), &ordered, Duration::from_millis(tick * 100));
                if drift.limit_again {
                    written = tick;
                }
                drift.fought() > 0
            });
            assert_eq!(fought, period > 1, "{period}");
        }
    }

    #[test]
    fn a_lock_that_never_shows_is_without_effect_and_tried_ever_more_rarely() {
        let mut drift = Drift::default();
        let (mut written_at, mut writes) = (0, Vec::new());
        for at in 1..60 {
            drift.observe(&reading(395, 1900, 400), &board(), &ordered(written_at), second(at));
            if drift.lock_again {
                drift.lock_ordered(false);
                written_at = at;
                writes.push(at);
            }
        }
        assert_eq!(writes, [2, 4, 7, 12, 21, 38]);
        assert!(drift.without_effect() && !drift.distrusted(), "its limit is the backstop");
        assert_eq!(drift.fought(), 0);
    }

    #[test]
    fn a_board_that_draws_more_than_the_limit_it_shows_is_not_believed() {
        let mut drift = Drift::default();
        for at in 1..10 {
            drift.observe(&reading(430, 1200, 400), &board(), &ordered(0), second(at));
        }
        assert!(!drift.distrusted(), "sensors err by 5 %");
        for at in 10..14 {
            drift.observe(&reading(600, 1200, 400), &board(), &ordered(0), second(at));
        }
        assert!(drift.distrusted() && drift.without_effect());
    }

    #[test]
    fn pauses_of_the_load_do_not_excuse_a_board_that_ignores_its_limit() {
        let mut drift = Drift::default();
        for tick in 10..100 {
            let power = if tick % 20 < 18 { 600 } else { 150 };
            drift.observe(&reading(power, 1200, 400), &board(), &ordered(0), Duration::from_millis(tick * 100));
        }
        assert!(drift.distrusted());
    }
}
