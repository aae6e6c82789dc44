//! Power and speed over the clock, for compute-bound and memory-bound work.
//!
//! | family | measured | how |
//! |---|---|---|
//! | A100 | A100-PCIe, locked clocks of 1005–1410 MHz under its 300 W limit | compute and memory |
//! | H200 | 8×H200 (MLPerf): 500 and 350 W of 700 W gave .79 and .61 of the tokens a second | compute; their clocks are SCALED from the B300's clocks of the same work |
//! | B300 | B300 GEMM: capped at 450–900 W, and 1038 W uncapped | compute |
//!
//! Memory-bound work was measured on the A100 alone: the other families SCALE it from there. Points are
//! held as ratios (clock over highest clock, watts over those at full clock) so that other boards can
//! be SCALED from them: an assumption, named in each spec's `provenance`. Below the measured range the part above idle falls as f^2.3 (compute) and f^1.4 (memory), the
//! exponents of the same measurement; speed falls in proportion to the clock, which is pessimistic
//! for memory-bound work (no measurement there).
//!
//! What must hold: both curves rise with the clock, and never fall below the idle power.

use serde::{Deserialize, Serialize};

/// The shape of one kind of work.
#[derive(Debug)]
pub struct Curve {
    /// Clock over highest clock, watts over those at full clock, speed over highest speed; by rising clock.
    points: &'static [(f64, f64, f64)],
    /// Power above idle goes as this power of the clock below the first point.
    exponent: f64,
}

const A100_HIGHEST_MHZ: f64 = 1410.0;
const A100_LIMIT_WATTS: f64 = 300.0;

const fn measured(megahertz: f64, watts: f64, speed: f64) -> (f64, f64, f64) {
    (megahertz / A100_HIGHEST_MHZ, watts / A100_LIMIT_WATTS, speed)
}

/// Dense arithmetic: training, prefill.
pub static COMPUTE: Curve = Curve {
    points: &[
        measured(1005.0, 135.0, 0.724),
        measured(1110.0, 152.0, 0.789),
        measured(1200.0, 179.0, 0.854),
        measured(1305.0, 225.0, 0.929),
        measured(1410.0, 296.0, 1.0),
    ],
    exponent: 2.3,
};

/// Serving and training mixes on 8×H200, by power limit. Top: full clock at the limit (assumed).
static H200_COMPUTE: Curve =
    Curve { points: &[(0.567, 350.0 / 700.0, 0.61), (0.743, 500.0 / 700.0, 0.79), (1.0, 1.0, 1.0)], exponent: 2.3 };

const fn b300(megahertz: f64, watts: f64, speed: f64) -> (f64, f64, f64) {
    (megahertz / 2032.0, watts / 1038.0, speed)
}

/// Dense arithmetic on a B300, by power cap.
static B300_COMPUTE: Curve = Curve {
    points: &[
        b300(926.0, 450.0, 0.50),
        b300(1152.0, 550.0, 0.61),
        b300(1457.0, 700.0, 0.77),
        b300(1935.0, 900.0, 0.95),
        b300(2032.0, 1038.0, 1.0),
    ],
    exponent: 2.3,
};

/// Bound by memory: decoding with small batches.
pub static MEMORY: Curve = Curve {
    points: &[
        measured(1005.0, 145.0, 1.0),
        measured(1110.0, 155.0, 1.0),
        measured(1200.0, 170.0, 1.0),
        measured(1305.0, 190.0, 1.0),
        measured(1410.0, 228.0, 1.0),
    ],
    exponent: 1.4,
};

impl Curve {
    /// Watts over the power limit at `ratio` of the highest clock (0 to 1), when busy all the time.
    /// `idle` is the board's idle power over its limit.
    #[must_use]
    pub fn power(&self, ratio: f64, idle: f64) -> f64 {
        let (first_ratio, first_power, _) = self.points[0];
        if ratio < first_ratio {
            let scale = (ratio.max(0.0) / first_ratio).powf(self.exponent);
            return idle + (first_power - idle) * scale;
        }
        self.between(ratio, |point| point.1)
    }

    /// Speed over the speed at the highest clock, at `ratio` of that clock (0 to 1).
    #[must_use]
    pub fn speed(&self, ratio: f64) -> f64 {
        let (first_ratio, _, first_speed) = self.points[0];
        if ratio < first_ratio {
            return first_speed * ratio.max(0.0) / first_ratio;
        }
        self.between(ratio, |point| point.2)
    }

    fn between(&self, ratio: f64, value: impl Fn(&(f64, f64, f64)) -> f64) -> f64 {
        for pair in self.points.windows(2) {
            let (low, high) = (&pair[0], &pair[1]);
            if ratio <= high.0 {
                let share = (ratio - low.0) / (high.0 - low.0);
                return value(low) + share * (value(high) - value(low));
            }
        }
        value(&self.points[self.points.len() - 1])
    }
}

/// Which measurements a board's curves come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum Family {
    /// A100-PCIe.
    #[default]
    A100,
    /// 8×H200 nodes.
    H200,
    /// B300.
    B300,
}

impl Family {
    fn compute(self) -> &'static Curve {
        match self {
            Self::A100 => &COMPUTE,
            Self::H200 => &H200_COMPUTE,
            Self::B300 => &B300_COMPUTE,
        }
    }

    /// Power of a mix over that at full clock: `memory_share` (0 to 1) of the time is bound by memory.
    #[must_use]
    pub fn power(self, memory_share: f64, ratio: f64, idle: f64) -> f64 {
        let memory_share = memory_share.clamp(0.0, 1.0);
        memory_share * MEMORY.power(ratio, idle) + (1.0 - memory_share) * self.compute().power(ratio, idle)
    }

    /// Speed of a mix: times add up, so speeds are combined harmonically.
    #[must_use]
    pub fn speed(self, memory_share: f64, ratio: f64) -> f64 {
        let memory_share = memory_share.clamp(0.0, 1.0);
        let time = memory_share / MEMORY.speed(ratio) + (1.0 - memory_share) / self.compute().speed(ratio);
        if time.is_finite() && time > 0.0 { 1.0 / time } else { 0.0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const IDLE: f64 = 0.1;

    #[test]
    fn the_measured_points_are_reproduced() {
        for (megahertz, compute_watts, speed, memory_watts) in [
            (1005.0, 135.0, 0.724, 145.0),
            (1110.0, 152.0, 0.789, 155.0),
            (1200.0, 179.0, 0.854, 170.0),
            (1305.0, 225.0, 0.929, 190.0),
            (1410.0, 296.0, 1.0, 228.0),
        ] {
            let ratio = megahertz / 1410.0;
            assert!((COMPUTE.power(ratio, IDLE) * 300.0 - compute_watts).abs() < 1e-6);
            assert!((MEMORY.power(ratio, IDLE) * 300.0 - memory_watts).abs() < 1e-6);
            assert!((COMPUTE.speed(ratio) - speed).abs() < 1e-9);
            assert!((MEMORY.speed(ratio) - 1.0).abs() < 1e-9);
        }
    }

    #[test]
    fn both_curves_rise_from_idle() {
        for curve in [&COMPUTE, &MEMORY, &H200_COMPUTE, &B300_COMPUTE] {
            let mut previous = (0.0, 0.0);
            for step in 0..=100 {
                let ratio = f64::from(step) / 100.0;
                let now = (curve.power(ratio, IDLE), curve.speed(ratio));
                assert!(now.0 >= previous.0 && now.0 >= IDLE, "power at {ratio}");
                assert!(now.1 >= previous.1, "speed at {ratio}");
                previous = now;
            }
        }
    }

    /// B300 GEMM: clocks 926, 1152, 1457, 1935 of 2032 MHz gave .50, .61, .77, .95 of the work.
    #[test]
    fn compute_speed_agrees_with_another_board_within_a_tenth() {
        for (megahertz, work) in [(926.0, 0.50), (1152.0, 0.61), (1457.0, 0.77), (1935.0, 0.95)] {
            let speed = COMPUTE.speed(megahertz / 2032.0);
            assert!((speed / work - 1.0).abs() < 0.10, "{megahertz} MHz: {speed} against {work}");
        }
    }

    #[test]
    fn the_measured_limits_of_an_h200_cost_what_was_measured() {
        for (limit_watts, tokens) in [(500.0, 0.79), (350.0, 0.61)] {
            let clock = (0..=1000)
                .map(|step| f64::from(step) / 1000.0)
                .filter(|ratio| H200_COMPUTE.power(*ratio, IDLE) * 700.0 <= limit_watts);
            let speed = H200_COMPUTE.speed(clock.fold(0.0, f64::max));
            assert!((speed - tokens).abs() < 0.01, "{limit_watts} W: {speed} against {tokens}");
        }
    }

    #[test]
    fn a_mix_lies_between_its_parts() {
        for ratio in [0.2, 0.5, 0.8, 1.0] {
            for family in [Family::A100, Family::H200, Family::B300] {
                let mixed = family.speed(0.5, ratio);
                assert!(mixed >= family.compute().speed(ratio) && mixed <= MEMORY.speed(ratio));
            }
        }
    }
}
