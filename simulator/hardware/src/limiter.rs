//! A board's own power limiter: the backstop in firmware.
//!
//! It watches a short moving average and moves the clock along the grid, down in proportion to the
//! excess and up one step at a time. So a power limit is an average: after load arrives or the limit
//! drops, power stands above the limit for tens of milliseconds (peaks of +17–43 % over it were
//! measured on a B300). The time constants are assumptions of the 100 ms class.
//!
//! What must hold: with steady load the mean of a second is at most the limit and close below it,
//! if the lowest clock allows.

/// Weight of the moving average.
const AVERAGE_SECONDS: f64 = 0.040;
/// How often the clock may move.
const PERIOD_SECONDS: f64 = 0.020;
/// Steps down for each part by which the average exceeds the limit.
const STEPS_PER_EXCESS: f64 = 40.0;
/// Steps up only with this much room.
const ROOM: f64 = 0.985;

/// State of the limiter.
#[derive(Debug, Clone)]
pub struct Limiter {
    average_watts: f64,
    since_move_seconds: f64,
    /// Highest grid index that it allows.
    ceiling: u32,
    top: u32,
}

impl Limiter {
    /// A limiter that allows all of a grid whose last index is `top`.
    #[must_use]
    pub fn new(top: u32, idle_watts: f64) -> Self {
        Self { average_watts: idle_watts, since_move_seconds: 0.0, ceiling: top, top }
    }

    /// Highest grid index that it allows now.
    #[must_use]
    pub fn ceiling(&self) -> u32 {
        self.ceiling
    }

    /// Whether it holds the clock below the top.
    #[must_use]
    pub fn holds(&self) -> bool {
        self.ceiling < self.top
    }

    /// Sees `watts` flow for `seconds` while the clock stood at grid index `clock`.
    pub fn watch(&mut self, seconds: f64, watts: f64, limit_watts: f64, clock: u32) {
        let weight = 1.0 - (-seconds / AVERAGE_SECONDS).exp();
        self.average_watts += weight * (watts - self.average_watts);
        self.since_move_seconds += seconds;
        if self.since_move_seconds < PERIOD_SECONDS {
            return;
        }
        self.since_move_seconds = 0.0;
        let ratio = self.average_watts / limit_watts;
        // The average lags: while power itself is below the limit, it will follow without help.
        if ratio > 1.0 && watts > limit_watts {
            let from = clock.min(self.ceiling);
            self.ceiling = from.saturating_sub(1 + steps(STEPS_PER_EXCESS * (ratio - 1.0)));
        } else if ratio < ROOM && watts < limit_watts * ROOM {
            self.ceiling = (self.ceiling + 1).min(self.top);
        }
    }
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "clamped to a small range")]
fn steps(value: f64) -> u32 {
    value.clamp(0.0, 64.0) as u32
}
