//! What a board's power sensor says, as against what flows.
//!
//! Measured on A100 and H100: the sensor sees a 25 ms window in each 100 ms, and errs by a constant
//! factor a board, within ±5 %; `power.draw.average` is the mean of a second.
//!
//! What must hold: the factor never changes; the instantaneous reading is at most 100 ms old.

const PERIOD_SECONDS: f64 = 0.100;
const WINDOW_SECONDS: f64 = 0.025;
const PERIODS_PER_AVERAGE: usize = 10;

/// A board's power sensor.
#[derive(Debug, Clone)]
pub struct Sensor {
    gain: f64,
    phase_seconds: f64,
    window_joules: f64,
    window_seconds: f64,
    period_joules: f64,
    means: [f64; PERIODS_PER_AVERAGE],
    filled: usize,
    next: usize,
    instant_watts: f64,
    average_watts: f64,
    energy_joules: f64,
}

impl Sensor {
    /// A sensor with a constant factor, that begins `phase` (0 to 1) into its period.
    #[must_use]
    pub fn new(gain: f64, phase: f64, idle_watts: f64) -> Self {
        Self {
            gain,
            phase_seconds: phase.clamp(0.0, 0.7) * PERIOD_SECONDS,
            window_joules: 0.0,
            window_seconds: 0.0,
            period_joules: 0.0,
            means: [idle_watts; PERIODS_PER_AVERAGE],
            filled: 1,
            next: 1,
            instant_watts: idle_watts,
            average_watts: idle_watts,
            energy_joules: 0.0,
        }
    }

    /// Sees `watts` flow for `seconds` (much shorter than its period).
    pub fn watch(&mut self, seconds: f64, watts: f64) {
        let joules = watts * seconds;
        self.energy_joules += joules;
        self.period_joules += joules;
        if self.phase_seconds >= PERIOD_SECONDS - WINDOW_SECONDS {
            self.window_joules += joules;
            self.window_seconds += seconds;
        }
        self.phase_seconds += seconds;
        if self.phase_seconds < PERIOD_SECONDS {
            return;
        }
        if self.window_seconds > 0.0 {
            self.instant_watts = self.window_joules / self.window_seconds;
        }
        self.means[self.next] = self.period_joules / self.phase_seconds;
        self.next = (self.next + 1) % PERIODS_PER_AVERAGE;
        self.filled = (self.filled + 1).min(PERIODS_PER_AVERAGE);
        let newest =
            (0..self.filled).map(|back| self.means[(self.next + PERIODS_PER_AVERAGE - 1 - back) % PERIODS_PER_AVERAGE]);
        #[expect(clippy::cast_precision_loss, reason = "at most ten")]
        let count = self.filled as f64;
        self.average_watts = newest.sum::<f64>() / count;
        self.phase_seconds -= PERIOD_SECONDS;
        self.window_joules = 0.0;
        self.window_seconds = 0.0;
        self.period_joules = 0.0;
    }

    /// The newest window.
    #[must_use]
    pub fn instant_watts(&self) -> f64 {
        self.instant_watts * self.gain
    }

    /// The last second.
    #[must_use]
    pub fn average_watts(&self) -> f64 {
        self.average_watts * self.gain
    }

    /// Since boot.
    #[must_use]
    pub fn energy_joules(&self) -> f64 {
        self.energy_joules * self.gain
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_average_lags_a_second_and_the_instant_a_tenth() {
        let mut sensor = Sensor::new(1.0, 0.0, 100.0);
        for _ in 0..220 {
            sensor.watch(0.005, 100.0);
        }
        for _ in 0..40 {
            sensor.watch(0.005, 600.0);
        }
        assert!((sensor.instant_watts() - 600.0).abs() < 1.0, "{}", sensor.instant_watts());
        assert!((sensor.average_watts() - 200.0).abs() < 55.0, "{}", sensor.average_watts());
        for _ in 0..180 {
            sensor.watch(0.005, 600.0);
        }
        assert!((sensor.average_watts() - 600.0).abs() < 1.0, "{}", sensor.average_watts());
    }

    #[test]
    fn the_gain_is_in_all_three_readings() {
        let mut sensor = Sensor::new(1.04, 0.3, 100.0);
        for _ in 0..600 {
            sensor.watch(0.005, 500.0);
        }
        assert!((sensor.instant_watts() - 520.0).abs() < 0.1);
        assert!((sensor.average_watts() - 520.0).abs() < 0.1);
        assert!((sensor.energy_joules() - 1560.0).abs() < 0.1);
    }
}
