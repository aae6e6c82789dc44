//! What a board draws at which clock, by the law that decisions and advice go by until its own work is known.
//!
//! ```text
//!   P(f) = P_idle + (P_max − P_idle) · (f ÷ f_max)^2.3        P_idle: a tenth of the highest power limit
//! ```

use crate::{
    api::{DeviceState, GpuStatus},
    reason::Reason,
    units::{Megahertz, Watts},
};

/// The exponent of power over clock, facts/power-control.md.
pub const EXPONENT: f64 = 2.3;
/// A board draws about a tenth of its highest limit without work (H100: 70 of 700 W).
const IDLE_PERCENT: u32 = 10;

/// What a board draws without work.
#[must_use]
pub fn idle(board: &GpuStatus) -> Watts {
    Watts::new(board.max_power_limit_watts).percent(IDLE_PERCENT)
}

/// What a board draws under load at its lowest clock; one that nothing holds the most that it can.
#[must_use]
pub fn floor(board: &GpuStatus) -> Watts {
    if is_lost(board) {
        return Watts::new(board.max_power_limit_watts);
    }
    draws_at(board, Megahertz::new(board.min_graphics_megahertz))
}

/// Whether its agent says that nothing holds it.
#[must_use]
pub fn is_lost(board: &GpuStatus) -> bool {
    let reasons = [Reason::Quarantined, Reason::Contended, Reason::WithoutEffect, Reason::DevicesLetGo];
    board.state == DeviceState::Quarantined || reasons.iter().any(|reason| board.reason == reason.as_str())
}

/// What a board draws under full load at this clock.
#[must_use]
pub fn draws_at(board: &GpuStatus, clock: Megahertz) -> Watts {
    let ratio = f64::from(clock.get()) / f64::from(board.max_graphics_megahertz.max(1));
    let most = Watts::new(board.max_power_limit_watts);
    idle(board) + most.saturating_sub(idle(board)).scaled(ratio.min(1.0).powf(EXPONENT))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_board_draws_its_most_at_its_highest_clock_and_a_lost_one_always() {
        let board = GpuStatus {
            min_graphics_megahertz: 210,
            max_graphics_megahertz: 1980,
            max_power_limit_watts: 700,
            ..GpuStatus::default()
        };
        assert_eq!(idle(&board), Watts::new(70));
        assert_eq!(draws_at(&board, Megahertz::new(1980)), Watts::new(700));
        assert_eq!(draws_at(&board, Megahertz::new(9999)), Watts::new(700), "no clock is above the highest");
        assert_eq!(floor(&board).ceil(), 74);
        let lost = GpuStatus { state: DeviceState::Quarantined, ..board.clone() };
        let contended = GpuStatus { reason: "Contended".into(), ..board };
        assert_eq!([floor(&lost), floor(&contended)], [Watts::new(700); 2]);
    }
}
