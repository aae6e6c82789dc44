//! The ceiling of all CPUs together, for when the boards at their lowest are not enough, and on nodes
//! without boards.
//!
//! What must hold: the CPUs are left alone while they fit beside the boards' lowest limits; when they
//! do not, their ceiling falls at once in proportion, and rises slowly.

use std::time::Duration;

use powercap_common::units::{Megahertz, Watts};

use crate::hardware::CpuTraits;

const SETTLE: Duration = Duration::from_millis(250);
const RAISE_PERIOD: Duration = Duration::from_millis(500);
/// Power of CPUs over their clock falls at least linearly.
const EXPONENT: f64 = 1.5;
/// The largest rise of the level in one period.
const RISE: f64 = 0.02;

/// How far the CPUs are held down: 1 is their highest clock, 0 their lowest.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct CpuGovernor {
    level: f64,
    changed_at: Duration,
}

impl Default for CpuGovernor {
    fn default() -> Self {
        Self { level: 1.0, changed_at: Duration::ZERO }
    }
}

impl CpuGovernor {
    pub(super) fn next(self, power: Option<Watts>, budget: Option<Watts>, now: Duration) -> Self {
        let quiet = now.saturating_sub(self.changed_at);
        let Some(budget) = budget else {
            return if quiet >= RAISE_PERIOD { self.to(self.level + RISE * 5.0, now) } else { self };
        };
        let Some(power) = power else { return self };
        if power > budget {
            let untouched = self.level >= 1.0;
            let ratio = (budget.as_f64() / power.as_f64().max(1.0)).powf(1.0 / EXPONENT);
            return if untouched || quiet >= SETTLE { self.to(self.level * ratio - 0.005, now) } else { self };
        }
        let room = 1.0 - power.as_f64() / budget.as_f64().max(1.0);
        if self.level < 1.0 && room > 0.03 && quiet >= RAISE_PERIOD {
            return self.to(self.level + (room / 2.0).min(RISE), now);
        }
        self
    }

    fn to(self, level: f64, now: Duration) -> Self {
        let level = level.clamp(0.0, 1.0);
        #[expect(clippy::float_cmp, reason = "unchanged means unchanged")]
        if level == self.level { self } else { Self { level, changed_at: now } }
    }

    /// The ceiling of a policy, in steps of 10 MHz; `None` while the CPUs are left alone.
    pub(super) fn ceiling(self, cpu: &CpuTraits) -> Option<Megahertz> {
        if self.level >= 1.0 {
            return None;
        }
        let range = cpu.max.get().saturating_sub(cpu.min.get());
        let above = Megahertz::new(range).scaled(self.level).get();
        Some(Megahertz::new(cpu.min.get() + above / 10 * 10))
    }

    /// Held down so far that this policy has no more than this ceiling.
    pub(super) fn at_most(self, cpu: &CpuTraits, ceiling: Megahertz) -> Self {
        let range = f64::from(cpu.max.get().saturating_sub(cpu.min.get()).max(1));
        let level = f64::from(ceiling.get().saturating_sub(cpu.min.get())) / range;
        Self { level: level.clamp(0.0, self.level), ..self }
    }

    /// Nothing is left to lower.
    pub(super) fn at_floor(self) -> bool {
        self.level <= 0.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CPU: CpuTraits = CpuTraits { policy: 0, min: Megahertz::new(800), max: Megahertz::new(3800) };

    #[test]
    fn cpus_within_their_budget_are_left_alone() {
        let governor = CpuGovernor::default().next(Some(Watts::new(200)), Some(Watts::new(300)), Duration::ZERO);
        assert_eq!(governor.ceiling(&CPU), None);
    }

    #[test]
    fn cpus_above_their_budget_come_down_at_once_and_rise_slowly() {
        let low = CpuGovernor::default().next(Some(Watts::new(600)), Some(Watts::new(300)), Duration::from_secs(1));
        let ceiling = low.ceiling(&CPU).unwrap();
        assert!(ceiling < Megahertz::new(2800), "{ceiling}");
        let later = low.next(Some(Watts::new(200)), Some(Watts::new(300)), Duration::from_secs(2));
        let raised = later.ceiling(&CPU).unwrap();
        assert!(raised > ceiling && raised.get() < ceiling.get() + 100, "{raised}");
        let blind = later.next(None, Some(Watts::new(300)), Duration::from_secs(9));
        assert_eq!(blind, later, "silence raises nothing");
    }

    #[test]
    fn a_budget_of_nothing_ends_at_the_lowest_clock() {
        let mut governor = CpuGovernor::default();
        for second in 1..20 {
            governor = governor.next(Some(Watts::new(100)), Some(Watts::ZERO), Duration::from_secs(second));
        }
        assert!(governor.at_floor());
        assert_eq!(governor.ceiling(&CPU), Some(Megahertz::new(800)));
    }
}
