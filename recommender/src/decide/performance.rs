//! How far a policy slows its devices: no clock below the one that `spec.performance` allows, and no power
//! limit that would force such a clock.
//!
//! Must hold: a policy's own throttling never goes below its floor, and gives its own cap up first. The caps
//! of others, of domains above all, and brakes know no such floor.

use powercap_common::{
    api::GpuStatus,
    policy::ClockFloor,
    units::{Megahertz, Watts},
};

use super::{ceiling::GRID_MHZ, fleet};

/// The lowest clock that a policy may ask of this board, on the grid of clocks.
pub fn lowest_clock(board: &GpuStatus, floor: ClockFloor) -> Megahertz {
    let clock = u64::from(board.max_graphics_megahertz) * u64::from(floor.percent);
    let clock = u32::try_from(clock.div_ceil(100)).unwrap_or(u32::MAX);
    let on_grid = clock.div_ceil(GRID_MHZ).saturating_mul(GRID_MHZ);
    Megahertz::new(on_grid.min(board.max_graphics_megahertz).max(board.min_graphics_megahertz))
}

/// The lowest power limit that leaves the board that clock under full load.
pub fn lowest_limit(board: &GpuStatus, floor: ClockFloor) -> Watts {
    Watts::new(fleet::draws_at(board, lowest_clock(board, floor)).ceil().min(board.max_power_limit_watts))
}

#[cfg(test)]
mod tests {
    use powercap_common::policy::BindingField;

    use super::*;

    #[test]
    fn a_floor_is_on_the_grid_never_below_what_was_written_and_within_the_board() {
        let board = GpuStatus {
            min_graphics_megahertz: 345,
            max_graphics_megahertz: 1980,
            max_power_limit_watts: 700,
            ..GpuStatus::default()
        };
        for (percent, clock, watts) in [(80, 1590, 451), (1, 345, 82), (100, 1980, 700)] {
            let floor = ClockFloor { percent, field: BindingField::MinFrequency(percent) };
            let found = (lowest_clock(&board, floor), lowest_limit(&board, floor));
            assert_eq!(found, (Megahertz::new(clock), Watts::new(watts)), "{percent} %");
        }
    }
}
