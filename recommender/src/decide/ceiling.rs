//! The clock ceiling of a policy's devices, from its last readings.
//!
//! The model: a board's power above idle grows as its clock to the power 2.3, measured on an A100 with a
//! compute-bound load (a memory-bound load grows as 1.4, so that its ceiling comes out lower than
//! needed at first and is relaxed by the next readings). No board draws more than its highest limit: without that
//! bound one that has just begun, some watts above idle at its lowest clock, would be taken for thousands. The
//! ceiling is one for all devices.
//!
//! ```text
//!              power ≥ capping threshold: down at once, to what fits the threshold
//!    ┌──────┐ ───────────────────────────────────────────────▶ ┌─────────┐
//!    │ none │                                                   │ ceiling │ ◀─┐ between: as it is
//!    └──────┘ ◀─────────────────────────────────────────────── └─────────┘ ──┘
//!              power < release threshold: up by a step a reading; off at the boards' highest clock
//! ```
//!
//! Must hold: a reading from before the last change, or none, raises nothing.

use powercap_common::{
    board::EXPONENT,
    units::{Megahertz, Watts},
};

/// One device's power at one clock, of the same moment, and what the board can do.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Loaded {
    /// Its power.
    pub power: Watts,
    /// Its clock at that power.
    pub clock: Megahertz,
    /// What it draws without work.
    pub idle: Watts,
    /// Its highest power limit; `None`: not known.
    pub most: Option<Watts>,
}

/// What the readings ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pressure {
    /// Too much power: down at once.
    Lower,
    /// Well below: up a step.
    Relax,
    /// The cap was raised: up at once to what fits.
    RelaxAtOnce,
    /// As it is.
    Hold,
}

impl Pressure {
    /// The same, unless it relaxes and `doubtful` readings ask for it.
    #[must_use]
    pub fn unless(self, doubtful: bool) -> Self {
        match self {
            Self::Relax | Self::RelaxAtOnce if doubtful => Self::Hold,
            pressure => pressure,
        }
    }
}

/// The clocks that the devices can be held to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Range {
    /// The lowest clock that all can be held to.
    pub lowest: Megahertz,
    /// The highest that any reaches.
    pub highest: Megahertz,
}

/// Clocks of NVIDIA's boards come in steps of 15 MHz.
pub const GRID_MHZ: u32 = 15;
/// A step of relaxing, as a share of the highest clock.
const STEP: f64 = 0.05;

/// The next ceiling (`None`: none), given the present one and the watts that the devices may draw.
#[must_use]
pub fn next(
    present: Option<Megahertz>,
    pressure: Pressure,
    devices: &[Loaded],
    target: Watts,
    range: Range,
) -> Option<Megahertz> {
    // One from before the boards were known may be lower than they can go.
    let present = present.map(|present| present.max(range.lowest));
    let fitting = || highest_within(devices, target, range);
    let next = match (pressure, present) {
        (Pressure::Hold, _) => return present,
        (Pressure::Lower, _) => fitting().min(present.unwrap_or(range.highest)),
        (Pressure::Relax | Pressure::RelaxAtOnce, None) => return None,
        (Pressure::Relax, Some(present)) => {
            // Highest clocks come from statuses: any number may be there.
            let step = range.highest.scaled(STEP).get().max(GRID_MHZ);
            fitting().min(on_grid(Megahertz::new(present.get().saturating_add(step)))).max(present)
        }
        (Pressure::RelaxAtOnce, Some(present)) => fitting().max(present),
    };
    (next < range.highest).then_some(next)
}

/// The highest clock at which the devices together are predicted to draw at most `target`; the lowest
/// when none is.
pub fn highest_within(devices: &[Loaded], target: Watts, range: Range) -> Megahertz {
    // Power grows with the clock, so that bisection finds the border on the grid.
    let (mut fits, mut exceeds) = (range.lowest.get() / GRID_MHZ, range.highest.get() / GRID_MHZ + 1);
    while exceeds.saturating_sub(fits) > 1 {
        let middle = fits.midpoint(exceeds);
        if predicted(devices, Megahertz::new(middle * GRID_MHZ)) <= target {
            fits = middle;
        } else {
            exceeds = middle;
        }
    }
    Megahertz::new(fits * GRID_MHZ).max(range.lowest)
}

/// What the devices would draw at this clock.
fn predicted(devices: &[Loaded], clock: Megahertz) -> Watts {
    let at = |device: &Loaded| {
        let ratio = f64::from(clock.get()) / f64::from(device.clock.get().max(1));
        let above_idle = device.power.saturating_sub(device.idle);
        let unlimited = device.power.min(device.idle) + above_idle.scaled(ratio.powf(EXPONENT));
        // Its sensor may tell more than its limit.
        device.most.map_or(unlimited, |most| unlimited.min(most.max(device.power)))
    };
    devices.iter().map(at).sum()
}

fn on_grid(clock: Megahertz) -> Megahertz {
    Megahertz::new(clock.get() / GRID_MHZ * GRID_MHZ)
}

#[cfg(test)]
mod tests {
    use super::*;

    const RANGE: Range = Range { lowest: Megahertz::new(345), highest: Megahertz::new(1980) };

    fn boards(power: u32, clock: u32) -> Vec<Loaded> {
        vec![board(power, clock); 8]
    }

    fn board(power: u32, clock: u32) -> Loaded {
        let most = Some(Watts::new(700));
        Loaded { power: Watts::new(power), clock: Megahertz::new(clock), idle: Watts::new(70), most }
    }

    #[test]
    fn too_much_power_lowers_at_once_to_what_fits() {
        let ceiling = next(None, Pressure::Lower, &boards(700, 1980), Watts::new(8 * 400), RANGE).unwrap();
        // ((400 − 70) ÷ (700 − 70)) ^ (1 ÷ 2.3) × 1980 = 1494
        assert_eq!(ceiling, Megahertz::new(1485));
        // The same reading asks for the same ceiling, however often it is asked.
        assert_eq!(next(Some(ceiling), Pressure::Lower, &boards(700, 1980), Watts::new(8 * 400), RANGE), Some(ceiling));
    }

    #[test]
    fn lowering_never_raises_and_ends_at_the_floor() {
        let low = Megahertz::new(900);
        assert_eq!(next(Some(low), Pressure::Lower, &boards(100, 900), Watts::new(8 * 600), RANGE), Some(low));
        assert_eq!(next(None, Pressure::Lower, &boards(700, 1980), Watts::new(8), RANGE), Some(RANGE.lowest));
    }

    #[test]
    fn relaxing_goes_step_by_step_and_takes_the_ceiling_off_at_the_top() {
        let mut ceiling = Some(Megahertz::new(1500));
        let mut steps = 0;
        while let Some(clock) = ceiling {
            let next = next(ceiling, Pressure::Relax, &boards(200, clock.get()), Watts::new(8 * 690), RANGE);
            assert!(next.is_none_or(|next| next > clock && next.get() - clock.get() <= 99), "{next:?}");
            ceiling = next;
            steps += 1;
        }
        assert_eq!(steps, 6);
        // Where the prediction leaves no room it stays.
        let tight = next(Some(Megahertz::new(1500)), Pressure::Relax, &boards(400, 1500), Watts::new(8 * 400), RANGE);
        assert_eq!(tight, Some(Megahertz::new(1500)));
    }

    #[test]
    fn a_raised_cap_is_used_at_once() {
        let now = next(Some(Megahertz::new(900)), Pressure::RelaxAtOnce, &boards(160, 900), Watts::new(8 * 400), RANGE);
        // ((400 − 70) ÷ (160 − 70)) ^ (1 ÷ 2.3) × 900 = 1583
        assert_eq!(now, Some(Megahertz::new(1575)));
    }

    #[test]
    fn no_clock_that_a_status_may_tell_is_too_high() {
        for (lowest, highest, present) in
            [(0, u32::MAX, u32::MAX), (u32::MAX, u32::MAX, 1), (345, u32::MAX / 5 + 1, 1500), (0, 0, 0)]
        {
            let range = Range { lowest: Megahertz::new(lowest), highest: Megahertz::new(highest) };
            for pressure in [Pressure::Lower, Pressure::Relax, Pressure::RelaxAtOnce, Pressure::Hold] {
                let next = next(Some(Megahertz::new(present)), pressure, &boards(700, 1), Watts::new(400), range);
                assert!(next.is_none_or(|next| next >= range.lowest), "{range:?} {pressure:?}: {next:?}");
            }
        }
    }

    #[test]
    fn boards_that_have_just_begun_count_with_no_more_than_they_can_draw() {
        let devices = [vec![board(600, 1800); 4], vec![board(200, 345); 4]].concat();
        let ceiling = next(Some(Megahertz::new(1980)), Pressure::Lower, &devices, Watts::new(4 * 950), RANGE);
        // By the model alone each of the new would draw 70 + (200 − 70) × (1980 ÷ 345) ^ 2.3 = 7,300 W at the highest
        // clock, and all would be held to 735 MHz. With 700 W for each of them 250 W are left for each of the others:
        // ((250 − 70) ÷ (600 − 70)) ^ (1 ÷ 2.3) × 1800 = 1125
        assert_eq!(ceiling, Some(Megahertz::new(1125)));
    }

    #[test]
    fn idle_boards_do_not_make_a_ceiling() {
        assert_eq!(next(None, Pressure::Lower, &boards(69, 1980), Watts::new(8 * 70), RANGE), None);
    }
}
