//! One board: `step(elapsed, request, load) -> state`, pure and deterministic.
//!
//! ```text
//! request ──latency──▶ lock, limit ─┐
//! load ─────────────────────────────┼─▶ clock ─▶ true watts ─▶ limiter ─▶ clock …
//!                                   │                └────────▶ sensor ─▶ state
//! ```
//! A clock lock takes a latency; the limiter moves the clock later still. An idle board falls to its
//! lowest clock and rises at once when load arrives, as boost clocks do.
//!
//! What must hold: the clock is always one of the grid; power is finite, never negative and never
//! above the board's peak.

use std::collections::VecDeque;

use crate::folder::{Load, Request, State};
use crate::limiter::Limiter;
use crate::sensors::Sensor;
use crate::spec::{BoardSpec, fingerprint};

/// NVML's reasons for a clock below the highest.
pub mod reasons {
    /// Nothing to do.
    pub const IDLE: u64 = 1;
    /// A person or program locked the clock.
    pub const USER_CLOCKS: u64 = 2;
    /// The power limit.
    pub const POWER_CAP: u64 = 4;
}

/// The nominal step; longer ones are taken in parts.
const SUBSTEP_SECONDS: f64 = 0.005;
/// A longer silence than this is not caught up with.
const LONGEST_SECONDS: f64 = 2.0;
/// A load whose beat stands still that long is gone.
const HEARTBEAT_SECONDS: f64 = 1.0;
/// Without work for that long a board falls to its lowest clock.
const IDLE_SECONDS: f64 = 0.5;
/// Kernels differ from one to the next: noise on the power above idle. Assumed.
const RIPPLE: f64 = 0.02;
const RIPPLE_SECONDS: f64 = 0.010;
/// Chips settle within about a minute; degrees a watt give 70 °C at 700 W. Assumed.
const AMBIENT_CELSIUS: f64 = 28.0;
const CELSIUS_PER_WATT: f64 = 0.06;
const SETTLING_SECONDS: f64 = 20.0;
/// Requests that may wait for their latency at the same time.
const WAITING: usize = 32;

/// How one board differs from its model.
#[derive(Debug, Clone, Copy)]
pub struct Traits {
    /// Constant factor of its power sensor.
    pub sensor_gain: f64,
    /// From a request to its effect.
    pub lock_latency_seconds: f64,
    /// Noise on the power above idle, as a share.
    pub ripple: f64,
    /// Draws the noise.
    pub seed: u64,
}

impl Traits {
    /// A board without noise or error, for tests and models.
    pub const EXACT: Self = Self { sensor_gain: 1.0, lock_latency_seconds: 0.030, ripple: 0.0, seed: 0 };

    /// A board as it is.
    #[must_use]
    pub fn of(uuid: &str, sensor_gain: f64, lock_latency_seconds: f64) -> Self {
        Self { sensor_gain, lock_latency_seconds, ripple: RIPPLE, seed: fingerprint(uuid.as_bytes()) | 1 }
    }
}

#[derive(Debug, Clone, Copy)]
struct InForce {
    generation: u64,
    low: u32,
    high: u32,
    limit_watts: f64,
    persistence: bool,
}

/// One board.
#[derive(Debug, Clone)]
pub struct Board {
    spec: BoardSpec,
    traits: Traits,
    top: u32,
    in_force: InForce,
    waiting: VecDeque<(f64, Request)>,
    newest: Option<Request>,
    limiter: Limiter,
    sensor: Sensor,
    clock: u32,
    beat: u64,
    beat_age_seconds: f64,
    idle_seconds: f64,
    noise: u64,
    noise_age_seconds: f64,
    ripple: f64,
    true_watts: f64,
    true_joules: f64,
    speed: f64,
    work_seconds: f64,
    violation_seconds: f64,
    temperature: f64,
    uptime_seconds: f64,
    utilisation: f64,
    memory_share: f64,
}

impl Board {
    /// A board at boot: idle, without locks, at its default limit.
    #[must_use]
    pub fn new(spec: BoardSpec, traits: Traits) -> Self {
        let top = spec.clock_count() - 1;
        #[expect(clippy::cast_precision_loss, reason = "a percentage")]
        let phase = (traits.seed % 100) as f64 / 100.0;
        Self {
            top,
            in_force: InForce { generation: 0, low: 0, high: top, limit_watts: spec.default_watts, persistence: false },
            waiting: VecDeque::new(),
            newest: None,
            limiter: Limiter::new(top, spec.idle_watts),
            sensor: Sensor::new(traits.sensor_gain, phase, spec.idle_watts),
            clock: 0,
            beat: 0,
            beat_age_seconds: HEARTBEAT_SECONDS,
            idle_seconds: IDLE_SECONDS,
            noise: traits.seed | 1,
            noise_age_seconds: 0.0,
            ripple: 0.0,
            true_watts: spec.idle_watts,
            true_joules: 0.0,
            speed: 0.0,
            work_seconds: 0.0,
            violation_seconds: 0.0,
            temperature: AMBIENT_CELSIUS + CELSIUS_PER_WATT * spec.idle_watts,
            uptime_seconds: 0.0,
            utilisation: 0.0,
            memory_share: 0.0,
            spec,
            traits,
        }
    }

    /// What the driver asks of a board at boot.
    #[must_use]
    pub fn boot_request(spec: &BoardSpec) -> Request {
        Request {
            generation: 0,
            lock_min_mhz: 0,
            lock_max_mhz: 0,
            limit_mw: milli(spec.default_watts),
            persistence: false,
        }
    }

    /// Lets time pass.
    pub fn step(&mut self, seconds: f64, request: &Request, load: &Load) -> State {
        let seconds = if seconds.is_finite() { seconds.clamp(0.0, LONGEST_SECONDS) } else { 0.0 };
        self.accept(request);
        self.notice(load, seconds);
        // Equal parts of about the nominal step: a wake-up that is a little late does not cost twice.
        let parts = (seconds / SUBSTEP_SECONDS).round().max(1.0);
        let mut done = 0.0;
        while done < parts && seconds > 0.0 {
            self.advance(seconds / parts, load);
            done += 1.0;
        }
        self.state(load)
    }

    /// Takes away what was set, as a reset or a driver reload does. Time and energy go on.
    pub fn reset(&mut self) {
        let request = Self::boot_request(&self.spec);
        self.in_force = InForce {
            generation: request.generation,
            low: 0,
            high: self.top,
            limit_watts: self.spec.default_watts,
            persistence: false,
        };
        self.waiting.clear();
        self.newest = None;
        self.limiter = Limiter::new(self.top, self.spec.idle_watts);
    }

    /// Seconds since boot.
    #[must_use]
    pub fn uptime_seconds(&self) -> f64 {
        self.uptime_seconds
    }

    /// What flows now, without the sensor's error.
    #[must_use]
    pub fn true_watts(&self) -> f64 {
        self.true_watts
    }

    /// What flowed since boot.
    #[must_use]
    pub fn true_joules(&self) -> f64 {
        self.true_joules
    }

    /// Share of time with work now.
    #[must_use]
    pub fn utilisation(&self) -> f64 {
        self.utilisation
    }

    fn accept(&mut self, request: &Request) {
        if self.newest.is_none_or(|newest| newest != *request) {
            self.newest = Some(*request);
            if self.waiting.len() == WAITING {
                self.waiting.pop_back();
            }
            self.waiting.push_back((self.traits.lock_latency_seconds, *request));
        }
    }

    fn enforce(&mut self, seconds: f64) {
        for waiting in &mut self.waiting {
            waiting.0 -= seconds;
        }
        while let Some((_, request)) = self.waiting.pop_front_if(|waiting| waiting.0 <= 0.0) {
            let high = if request.lock_max_mhz == 0 { self.top } else { self.spec.index_at_most(request.lock_max_mhz) };
            let low =
                if request.lock_max_mhz == 0 { 0 } else { self.spec.index_at_least(request.lock_min_mhz).min(high) };
            let limit = f64::from(request.limit_mw) / 1000.0;
            self.in_force = InForce {
                generation: request.generation,
                low,
                high,
                limit_watts: limit.clamp(self.spec.min_watts, self.spec.max_watts),
                persistence: request.persistence,
            };
        }
    }

    fn notice(&mut self, load: &Load, seconds: f64) {
        if load.beat == self.beat {
            self.beat_age_seconds += seconds;
        } else {
            self.beat = load.beat;
            self.beat_age_seconds = 0.0;
        }
        let alive = load.beat != 0 && self.beat_age_seconds < HEARTBEAT_SECONDS;
        self.utilisation = if alive { unit(load.utilisation) } else { 0.0 };
        self.memory_share = unit(load.memory_share);
    }

    fn advance(&mut self, seconds: f64, load: &Load) {
        self.enforce(seconds);
        self.idle_seconds = if self.utilisation > 0.0 { 0.0 } else { self.idle_seconds + seconds };
        let asleep = self.idle_seconds >= IDLE_SECONDS;
        let allowed = self.in_force.high.min(self.limiter.ceiling().max(self.in_force.low));
        self.clock = if asleep { self.in_force.low } else { allowed };
        self.draw_noise(seconds);

        let ratio = f64::from(self.spec.clock(self.clock)) / f64::from(self.spec.max_mhz);
        let idle = self.spec.idle_watts;
        let busy = (self.spec.busy_watts(self.memory_share, ratio) - idle).max(0.0);
        let intensity = if load.intensity.is_finite() { load.intensity.clamp(0.0, 2.0) } else { 0.0 };
        let above_idle = self.utilisation * intensity * busy * (1.0 + self.ripple);
        self.true_watts = (idle + above_idle).clamp(0.0, self.spec.peak_watts);
        self.speed = self.spec.curves.speed(self.memory_share, ratio);

        self.limiter.watch(seconds, self.true_watts, self.in_force.limit_watts, self.clock);
        self.sensor.watch(seconds, self.true_watts);
        self.true_joules += self.true_watts * seconds;
        self.work_seconds += self.utilisation * self.speed * seconds;
        if self.power_bound(asleep) {
            self.violation_seconds += seconds;
        }
        let settled = AMBIENT_CELSIUS + CELSIUS_PER_WATT * self.true_watts;
        self.temperature += (settled - self.temperature) * (seconds / SETTLING_SECONDS).min(1.0);
        self.uptime_seconds += seconds;
    }

    fn draw_noise(&mut self, seconds: f64) {
        self.noise_age_seconds += seconds;
        if self.traits.ripple > 0.0 && self.noise_age_seconds >= RIPPLE_SECONDS {
            self.noise_age_seconds = 0.0;
            // xorshift64
            self.noise ^= self.noise << 13;
            self.noise ^= self.noise >> 7;
            self.noise ^= self.noise << 17;
            #[expect(clippy::cast_precision_loss, reason = "53 bits fit")]
            let draw = (self.noise >> 11) as f64 / (1u64 << 53) as f64;
            self.ripple = (2.0 * draw - 1.0) * self.traits.ripple;
        }
    }

    fn power_bound(&self, asleep: bool) -> bool {
        !asleep && self.limiter.ceiling() < self.in_force.high && self.in_force.low < self.in_force.high
    }

    fn reasons(&self) -> u64 {
        if self.idle_seconds >= IDLE_SECONDS {
            return reasons::IDLE;
        }
        let mut reasons = 0;
        if self.in_force.high < self.top && self.clock == self.in_force.high {
            reasons |= reasons::USER_CLOCKS;
        }
        if self.power_bound(false) {
            reasons |= reasons::POWER_CAP;
        }
        reasons
    }

    fn state(&self, load: &Load) -> State {
        let alive = self.beat_age_seconds < HEARTBEAT_SECONDS && self.beat != 0;
        State {
            generation: self.in_force.generation,
            clock_mhz: self.spec.clock(self.clock),
            memory_mhz: self.spec.memory_mhz,
            lock_min_mhz: self.spec.clock(self.in_force.low),
            lock_max_mhz: self.spec.clock(self.in_force.high),
            limit_mw: milli(self.in_force.limit_watts),
            average_mw: milli(self.sensor.average_watts()),
            instant_mw: milli(self.sensor.instant_watts()),
            energy_mj: whole(self.sensor.energy_joules() * 1e3),
            reasons: self.reasons(),
            power_violation_ns: whole(self.violation_seconds * 1e9),
            temperature_celsius: milli(self.temperature / 1e3),
            memory_temperature_celsius: milli((self.temperature + 8.0) / 1e3),
            utilisation_percent: milli(self.utilisation / 10.0),
            memory_utilisation_percent: milli(self.utilisation * (0.3 + 0.6 * self.memory_share) / 10.0),
            memory_used_mib: if alive { load.memory_used_mib.min(self.spec.memory_mib) } else { 0 },
            uptime_seconds: self.uptime_seconds,
            work_seconds: self.work_seconds,
            speed: self.speed,
            tensor_active: self.utilisation * (0.75 - 0.6 * self.memory_share),
            persistence: self.in_force.persistence,
        }
    }
}

fn unit(value: f64) -> f64 {
    if value.is_finite() { value.clamp(0.0, 1.0) } else { 0.0 }
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "clamped to the range of u32")]
fn milli(value: f64) -> u32 {
    (value * 1000.0).round().clamp(0.0, f64::from(u32::MAX)) as u32
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "positive, and far below 2^64")]
fn whole(value: f64) -> u64 {
    value.max(0.0) as u64
}

#[cfg(test)]
mod tests;
