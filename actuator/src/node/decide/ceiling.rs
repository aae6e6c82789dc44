//! The clock ceiling of one board, by feedback from its power.
//!
//! What must hold: power above the share lowers the ceiling at once, in proportion to the excess; it is
//! raised slowly, only while it is the ceiling that holds the board back, and a step that proved too
//! high is left alone for a while, so that the clock settles instead of hunting.
//!
//! ```text
//!            power > share                        room for a step, held by the ceiling
//!   ┌─────────────────────────────┐            ┌──────────────────────────────────────┐
//!   ▼                             │            │                                      │
//! lowered ──── settles 0.2 s ────▶ watching ◀──┴── raised (a step proved too high: barred)
//!                                   │
//!                                   └─ idle for 2 s ─▶ at the clock that full load may have
//! ```
//!
//! The starting model: above idle, power goes as f^2.3 (measured on an A100 under compute-bound load: f^2.1
//! to f^2.7 below nine tenths of the highest clock, f^3.5 above); raising reckons with more than that.

use std::time::Duration;

use powercap_common::{
    reason::Reason,
    units::{Megahertz, Watts},
};

use super::stagger::Rung;
use crate::hardware::{BoardReading, BoardTraits, ClockGrid};

/// Time that a new ceiling needs to show in the power reading.
const SETTLE: Duration = Duration::from_millis(200);
/// Raises come no faster than this.
pub(super) const RAISE_PERIOD: Duration = Duration::from_millis(300);
/// Below this share of the highest limit a board has nothing to do.
pub(super) const IDLE_PERCENT: u32 = 20;
/// How long it must have had nothing to do.
const IDLE_FOR: Duration = Duration::from_secs(2);
/// First pause after a step that proved too high; doubles up to the longest.
const FIRST_BAR: Duration = Duration::from_secs(10);
const LONGEST_BAR: Duration = Duration::from_secs(320);
/// Exponents of power over clock, for lowering and for raising, and for raising above this share of the
/// highest clock.
const EXPONENT: f64 = 2.3;
const RAISING_EXPONENT: f64 = 2.7;
const STEEP_EXPONENT: f64 = 3.5;
const STEEP_ABOVE: f64 = 0.85;
/// A step is taken when it is reckoned to stay below this share of the share; who gives a share for a step gives
/// a little more, since readings flutter.
const RAISED_BELOW: f64 = 0.998;
const STEPS_WITH: f64 = 1.003;
/// A step that proved too high is tried again with a share that is larger by so much.
const EASED: f64 = 1.01;
/// Weight of the newest reading in the mean.
const NEWEST: f64 = 0.3;
/// The same for a reading below what the board draws outside its pauses.
const NEWEST_BELOW: f64 = 0.01;
/// The same for the clock.
const NEWEST_CLOCK: f64 = 0.15;
/// Readings flutter by so much above what a board needs.
const LEFT: f64 = 1.01;
/// A board whose ceiling stood for so long is at rest.
const AT_REST: Duration = Duration::from_secs(2);
/// Outside its pauses a board at rest draws at least this share of the most that it draws.
const STEADY: f64 = 0.97;
/// Above this share of its share a board that does not reach its ceiling is held by its own limiter.
const LIMITER_HOLDS: f64 = 0.85;

/// What the feedback remembers of one board.
#[derive(Clone, Debug, PartialEq)]
pub struct Governor {
    pub(super) ceiling: Megahertz,
    share: Watts,
    /// The mean of the last readings.
    mean: f64,
    /// The same, but falling slowly: what the board draws outside its pauses.
    high: f64,
    lowest: f64,
    /// The mean of the last clocks.
    clock: f64,
    changed_at: Duration,
    /// The last change was a raise: a reading above the share is no trace of what was before it.
    rose: bool,
    raised_at: Option<Duration>,
    bar: Option<Bar>,
    idle_since: Option<Duration>,
}

/// A ceiling that proved too high.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Bar {
    clock: Megahertz,
    share: Watts,
    until: Duration,
    pause: Duration,
}

/// What the feedback looks at.
pub(super) struct Situation<'a> {
    pub traits: &'a BoardTraits,
    pub grid: &'a ClockGrid,
    pub reading: &'a BoardReading,
    /// The most that the board may draw now.
    pub share: Watts,
    /// The highest ceiling that it may have.
    pub top: Megahertz,
    pub now: Duration,
}

impl Governor {
    /// The first ceiling of a board: where it would draw its share by the model.
    pub(super) fn start(at: &Situation<'_>) -> (Self, Reason) {
        let governor = Self {
            ceiling: at.top,
            share: at.share,
            mean: at.reading.power.as_f64(),
            high: at.reading.power.as_f64(),
            lowest: at.traits.max_limit.percent(12).as_f64().min(at.reading.power.as_f64()),
            clock: f64::from(at.ran_at(at.top).get()),
            changed_at: at.now,
            rose: false,
            raised_at: None,
            bar: None,
            idle_since: at.idle().then_some(at.now),
        };
        let modelled = governor.modelled(at);
        // An earlier life of the agent may have left a lock that nobody can read: what runs is not let loose.
        let ceiling = if at.idle() { modelled } else { modelled.min(at.grid.above(at.ran_at(at.top), 1)) };
        (Self { ceiling, ..governor }, Reason::EnvelopeReached)
    }

    /// The next ceiling, and why it differs from the last one, if it does.
    pub(super) fn next(mut self, at: &Situation<'_>) -> (Self, Option<Reason>) {
        let power = at.reading.power.as_f64();
        self.lowest = self.lowest.min(power);
        let settling = at.now.saturating_sub(self.changed_at) < SETTLE;
        self.mean = if settling { power } else { self.mean + NEWEST * (power - self.mean) };
        let weight = if power > self.high { NEWEST } else { NEWEST_BELOW };
        if !settling {
            self.high += weight * (power - self.high);
        }
        self.idle_since = at.idle().then(|| self.idle_since.unwrap_or(at.now));

        let clock = f64::from(at.ran_at(self.ceiling).get());
        self.clock = if settling { clock } else { self.clock + NEWEST_CLOCK * (clock - self.clock) };

        let changed = at.share != self.share;
        // A share that falls by no more than what was left of it takes nothing away.
        let cut = at.share < self.share && power.max(self.high) > at.share.as_f64() * LEFT;
        self.share = at.share;
        if self.ceiling > at.top {
            return self.to(at.top, at.now, None);
        }
        let share = at.share.as_f64();
        let above = power > share * 1.03 || (self.mean > share * 1.003 && !settling);
        if above && (cut || self.rose || !settling) {
            return self.lowered(at);
        }
        if let Some(since) = self.idle_since {
            return self.idle(at, since, changed);
        }
        if cut && self.ceiling > self.modelled(at) && power > share * 0.9 {
            let ceiling = self.modelled(at);
            return self.to(ceiling, at.now, Some(Reason::EnvelopeReached));
        }
        if let Some(held) = self.limiter_holds(at).filter(|_| !settling) {
            self.bar(self.ceiling, at);
            return self.to(held, at.now, Some(Reason::DeviceLimitReached));
        }
        self.raised(at)
    }

    /// The ceiling just above the clock at which the board's own limiter holds it, when it does. Without
    /// it the limiter would let go in every pause of the load, and power would overshoot after it.
    fn limiter_holds(&self, at: &Situation<'_>) -> Option<Megahertz> {
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a mean of clocks")]
        let clock = Megahertz::new(self.clock as u32);
        let ceiling = at.grid.above(clock, 1);
        let busy = at.reading.power.as_f64() >= at.share.as_f64() * LIMITER_HOLDS && at.share < at.traits.max_limit;
        (busy && at.grid.above(clock, 2) < self.ceiling).then_some(ceiling)
    }

    /// Leaves this ceiling alone for a while, twice as long each time.
    fn bar(&mut self, clock: Megahertz, at: &Situation<'_>) {
        let pause = self.bar.map_or(FIRST_BAR, |bar| (bar.pause * 2).min(LONGEST_BAR));
        let clock = self.bar.map_or(clock, |bar| bar.clock.min(clock));
        self.bar = Some(Bar { clock, share: at.share, until: at.now + pause, pause });
    }

    /// Nothing to do: wait where full load would draw the share, so that a step of load is no overshoot.
    fn idle(self, at: &Situation<'_>, since: Duration, share_changed: bool) -> (Self, Option<Reason>) {
        let ceiling = self.modelled(at);
        let patient = at.now.saturating_sub(since) >= IDLE_FOR || share_changed;
        if ceiling < self.ceiling && patient {
            return self.to(ceiling, at.now, Some(Reason::EnvelopeReached));
        }
        // A share may be so small that a board with nothing to do is close to it.
        let room = at.reading.power < at.share.percent(90);
        if room && ceiling > self.ceiling && at.now.saturating_sub(self.changed_at) >= RAISE_PERIOD {
            return self.to(ceiling, at.now, Some(Reason::RoomToRaise));
        }
        (self, None)
    }

    fn lowered(mut self, at: &Situation<'_>) -> (Self, Option<Reason>) {
        let proved_too_high =
            self.raised_at.is_some_and(|raised| at.now.saturating_sub(raised) < Duration::from_secs(5));
        if proved_too_high {
            self.bar(self.ceiling, at);
        }
        let ran_at = at.ran_at(self.ceiling);
        let target = at.grid.snap_down(ran_at.scaled(self.ratio(at)));
        let below = at.grid.snap_down(Megahertz::new(ran_at.get().saturating_sub(1)));
        let ceiling = target.min(below).min(self.ceiling);
        self.raised_at = None;
        self.to(ceiling, at.now, Some(Reason::EnvelopeReached))
    }

    fn raised(mut self, at: &Situation<'_>) -> (Self, Option<Reason>) {
        let one_above = at.grid.above(self.ceiling, 1).min(at.top);
        let held = self.held_by(self.ceiling, one_above, at);
        if one_above <= self.ceiling || !held || at.now.saturating_sub(self.changed_at) < RAISE_PERIOD {
            return (self, None);
        }
        let share = at.share.as_f64();
        let idle = self.idle_watts();
        let exponent = raising_exponent(one_above, at.grid);
        let unlimited = at.share >= at.traits.max_limit;
        if self.predicted(self.ceiling, one_above, at.grid) > share * RAISED_BELOW && !unlimited {
            return (self, None);
        }
        if let Some(bar) = self.bar {
            let eased = at.share.as_f64() > bar.share.as_f64() * EASED || self.high < share * 0.9;
            if eased {
                self.bar = None;
            } else if one_above >= bar.clock && at.now < bar.until {
                return (self, None);
            }
        }
        let room = ((share * 0.995 - idle) / (self.high - idle).max(1.0)).max(0.0).powf(1.0 / exponent);
        let reachable = at.grid.snap_down(self.ceiling.scaled(room));
        let halfway = at.grid.snap_down(Megahertz::new(u32::midpoint(self.ceiling.get(), reachable.get())));
        let ceiling = if unlimited { at.grid.above(self.ceiling, 8) } else { halfway.max(one_above) };
        self.raised_at = Some(at.now);
        self.to(ceiling.min(at.top), at.now, Some(Reason::RoomToRaise))
    }

    /// What the board needs to stay at `ceiling`, which is its own or that of a slower board of its group, and to
    /// go a step higher; `None` while it is not held there, or not at rest.
    pub(super) fn rung(&self, ceiling: Megahertz, at: &Situation<'_>) -> Option<Rung> {
        let one_above = at.grid.above(ceiling, 1).min(at.top);
        let rests = at.now.saturating_sub(self.changed_at) >= AT_REST && self.idle_since.is_none();
        let steady = self.mean >= self.high * STEADY && one_above > ceiling;
        if !rests || !steady || !self.held_by(ceiling, one_above, at) || at.share >= at.traits.max_limit {
            return None;
        }
        let mut steps = self.predicted(ceiling, one_above, at.grid) / RAISED_BELOW * STEPS_WITH;
        if let Some(bar) = self.bar.filter(|bar| one_above >= bar.clock && at.now < bar.until) {
            steps = steps.max(bar.share.as_f64() * EASED * STEPS_WITH);
        }
        let whole = |watts: f64| Watts::from_measurement(watts).map(|watts| Watts::new(watts.ceil()));
        Some(Rung { stays: whole(self.high)?, steps: whole(steps)? })
    }

    /// The board ran at this ceiling lately, not below it.
    fn held_by(&self, ceiling: Megahertz, one_above: Megahertz, at: &Situation<'_>) -> bool {
        let below = f64::from(ceiling.get()) - 0.6 * f64::from(one_above.get().saturating_sub(ceiling.get()));
        at.ran_at(ceiling) >= ceiling && self.clock >= below
    }

    /// What it would draw at another ceiling, reckoned high.
    fn predicted(&self, from: Megahertz, to: Megahertz, grid: &ClockGrid) -> f64 {
        let idle = self.idle_watts();
        let step = f64::from(to.get()) / f64::from(from.get().max(1));
        idle + (self.high - idle).max(0.0) * step.powf(raising_exponent(to, grid))
    }

    fn to(mut self, ceiling: Megahertz, now: Duration, reason: Option<Reason>) -> (Self, Option<Reason>) {
        if ceiling == self.ceiling {
            return (self, None);
        }
        if ceiling < self.ceiling {
            self.high = self.high.min(self.share.as_f64());
        }
        self.rose = ceiling > self.ceiling;
        self.ceiling = ceiling;
        self.changed_at = now;
        (self, reason)
    }

    /// The highest ceiling at which the model has the board within its share.
    fn modelled(&self, at: &Situation<'_>) -> Megahertz {
        if at.share >= at.traits.max_limit {
            return at.top;
        }
        let clock = if at.idle() {
            let idle = self.idle_watts();
            let full = at.traits.max_limit.as_f64();
            let ratio = ((at.share.as_f64() - idle) / (full - idle).max(1.0)).max(0.0).powf(1.0 / EXPONENT);
            at.grid.highest().scaled(ratio)
        } else {
            at.ran_at(self.ceiling).scaled(self.ratio(at))
        };
        at.grid.snap_down(clock).min(at.top)
    }

    /// The factor on the clock that brings the board's power to its share.
    fn ratio(&self, at: &Situation<'_>) -> f64 {
        let idle = self.idle_watts();
        let power = at.reading.power.as_f64().max(self.mean) - idle;
        let share = (at.share.as_f64() * 0.995 - idle).max(0.0);
        if power <= 1.0 { 1.0 } else { (share / power).powf(1.0 / EXPONENT) }
    }

    fn idle_watts(&self) -> f64 {
        self.lowest * 0.9
    }
}

fn raising_exponent(to: Megahertz, grid: &ClockGrid) -> f64 {
    if to > grid.highest().scaled(STEEP_ABOVE) { STEEP_EXPONENT } else { RAISING_EXPONENT }
}

impl Situation<'_> {
    fn idle(&self) -> bool {
        self.reading.power < self.traits.max_limit.percent(IDLE_PERCENT)
    }

    /// The clock that the power reading belongs to.
    fn ran_at(&self, ceiling: Megahertz) -> Megahertz {
        self.reading.clock.map_or(ceiling, |clock| clock.min(self.grid.highest()))
    }
}
