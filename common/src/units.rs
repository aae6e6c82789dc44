//! Units as types. A raw number appears only in serde and at the hardware, with its unit in its name.
//!
//! [`Watts`] are held in milliwatts, as NVML reports them, so that sums are exact and every value
//! compares and hashes; [`Megahertz`] are whole, as NVML reports clocks. Neither can be negative:
//! a subtraction saturates at zero, and what could not be measured is an `Option`, never zero.

use std::{fmt, iter::Sum, ops::Add};

use serde::{Deserialize, Serialize};

/// Electric power, in whole milliwatts, and so it is serialized. The largest value is far above any site's power.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Watts(u64);

impl Watts {
    /// No power: a measured zero or an empty sum, never a missing value.
    pub const ZERO: Self = Self(0);

    /// Whole watts, as people write them in a cap.
    #[must_use]
    pub const fn new(watts: u32) -> Self {
        Self(watts as u64 * 1000)
    }

    /// Milliwatts, as NVML counts them.
    #[must_use]
    pub const fn from_milliwatts(milliwatts: u64) -> Self {
        Self(milliwatts)
    }

    /// A measured value in watts. `None` for what is no measurement: NaN, infinite, negative, or
    /// beyond a gigawatt.
    #[must_use]
    pub fn from_measurement(watts: f64) -> Option<Self> {
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "the range was checked")]
        (watts.is_finite() && (0.0..=1e9).contains(&watts)).then(|| Self((watts * 1000.0).round() as u64))
    }

    /// Milliwatts, as NVML wants them.
    #[must_use]
    pub const fn as_milliwatts(self) -> u64 {
        self.0
    }

    /// Watts with their fraction, for ratios and for people.
    #[must_use]
    #[expect(clippy::cast_precision_loss, reason = "exact below 9 terawatts")]
    pub fn as_f64(self) -> f64 {
        self.0 as f64 / 1000.0
    }

    /// Whole watts, rounded down: for a limit, the safe direction.
    #[must_use]
    pub fn floor(self) -> u32 {
        u32::try_from(self.0 / 1000).unwrap_or(u32::MAX)
    }

    /// Whole watts, rounded up: for a consumption, the safe direction.
    #[must_use]
    pub fn ceil(self) -> u32 {
        u32::try_from(self.0.div_ceil(1000)).unwrap_or(u32::MAX)
    }

    /// The difference, or zero when `other` is larger.
    #[must_use]
    pub const fn saturating_sub(self, other: Self) -> Self {
        Self(self.0.saturating_sub(other.0))
    }

    /// This share of the power, rounded down.
    #[must_use]
    pub const fn percent(self, percent: u32) -> Self {
        Self(self.0.saturating_mul(percent as u64) / 100)
    }

    /// This power times a ratio that is finite and not negative; anything else gives zero.
    #[must_use]
    pub fn scaled(self, ratio: f64) -> Self {
        Self::from_measurement(self.as_f64() * ratio).unwrap_or_default()
    }

    /// An equal part of `parts`, rounded down so that the parts never exceed the whole; of no parts,
    /// the whole.
    #[must_use]
    pub const fn divided(self, parts: usize) -> Self {
        if parts == 0 { self } else { Self(self.0 / parts as u64) }
    }
}

impl Add for Watts {
    type Output = Self;
    fn add(self, other: Self) -> Self {
        Self(self.0.saturating_add(other.0))
    }
}

impl Sum for Watts {
    fn sum<I: Iterator<Item = Self>>(iter: I) -> Self {
        iter.fold(Self::ZERO, Add::add)
    }
}

impl fmt::Display for Watts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.1} W", self.as_f64())
    }
}

/// A clock frequency in whole megahertz.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Megahertz(u32);

impl Megahertz {
    /// Whole megahertz.
    #[must_use]
    pub const fn new(megahertz: u32) -> Self {
        Self(megahertz)
    }

    /// From cpufreq's kilohertz, rounded down.
    #[must_use]
    pub const fn from_kilohertz(kilohertz: u32) -> Self {
        Self(kilohertz / 1000)
    }

    /// Whole megahertz.
    #[must_use]
    pub const fn get(self) -> u32 {
        self.0
    }

    /// Kilohertz, as cpufreq counts.
    #[must_use]
    pub const fn as_kilohertz(self) -> u32 {
        self.0.saturating_mul(1000)
    }

    /// This clock times a ratio that is finite and not negative, rounded down; anything else gives zero.
    #[must_use]
    pub fn scaled(self, ratio: f64) -> Self {
        let scaled = f64::from(self.0) * ratio;
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "the range was checked")]
        Self(if (0.0..=f64::from(u32::MAX)).contains(&scaled) { scaled as u32 } else { 0 })
    }
}

impl fmt::Display for Megahertz {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} MHz", self.0)
    }
}

/// Processor time, in thousandths of a core.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Millicores(u64);

impl Millicores {
    /// Thousandths of a core.
    #[must_use]
    pub const fn new(millicores: u64) -> Self {
        Self(millicores)
    }

    /// A measured value in cores, rounded up. `None` for what is no measurement: NaN, infinite, negative, or
    /// beyond a million cores.
    #[must_use]
    pub fn from_measurement(cores: f64) -> Option<Self> {
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "the range was checked")]
        (0.0..=1e6).contains(&cores).then(|| Self((cores * 1000.0).ceil() as u64))
    }

    /// Cores with their fraction.
    #[must_use]
    #[expect(clippy::cast_precision_loss, reason = "exact below a billion cores")]
    pub fn as_cores(self) -> f64 {
        self.0 as f64 / 1000.0
    }

    /// Thousandths of a core.
    #[must_use]
    pub const fn get(self) -> u64 {
        self.0
    }
}

/// Memory, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Bytes(u64);

/// More than any machine has; up to here numbers with a fraction are exact.
const MOST_BYTES: f64 = 9_007_199_254_740_992.0;

impl Bytes {
    /// Bytes.
    #[must_use]
    pub const fn new(bytes: u64) -> Self {
        Self(bytes)
    }

    /// A measured value in bytes. `None` for what is no measurement: NaN, infinite, negative, or beyond 2⁵³.
    #[must_use]
    pub fn from_measurement(bytes: f64) -> Option<Self> {
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "the range was checked")]
        (0.0..=MOST_BYTES).contains(&bytes).then_some(Self(bytes as u64))
    }

    /// This amount times a ratio that is not negative, rounded up and at most 2⁵³; anything else gives nothing.
    #[must_use]
    pub fn scaled(self, ratio: f64) -> Self {
        #[expect(clippy::cast_precision_loss, reason = "exact below 2⁵³ bytes")]
        Self::from_measurement((self.0 as f64 * ratio).ceil().min(MOST_BYTES)).unwrap_or_default()
    }

    /// Bytes.
    #[must_use]
    pub const fn get(self) -> u64 {
        self.0
    }
}

/// Energy in whole millijoules, as NVML's counter gives it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Joules(u64);

impl Joules {
    /// Millijoules, as NVML counts them.
    #[must_use]
    pub const fn from_millijoules(millijoules: u64) -> Self {
        Self(millijoules)
    }

    /// From RAPL's microjoules, rounded down.
    #[must_use]
    pub const fn from_microjoules(microjoules: u64) -> Self {
        Self(microjoules / 1000)
    }

    /// The mean power over `seconds`, or `None` when no time has passed.
    #[must_use]
    pub fn over_seconds(self, seconds: f64) -> Option<Watts> {
        if seconds <= 0.0 {
            return None;
        }
        #[expect(clippy::cast_precision_loss, reason = "exact below 9 terajoules")]
        Watts::from_measurement(self.0 as f64 / 1000.0 / seconds)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_measurement_is_no_amount() {
        for bad in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY, -0.1, 1e17] {
            assert_eq!((Millicores::from_measurement(bad), Bytes::from_measurement(bad)), (None, None), "{bad}");
        }
        assert_eq!(Millicores::from_measurement(0.1231).map(Millicores::get), Some(124));
        assert_eq!(Bytes::new(1001).scaled(0.5), Bytes::new(501));
    }

    #[test]
    fn what_is_no_measurement_is_not_zero_watts() {
        for bad in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY, -0.1, 1e12] {
            assert_eq!(Watts::from_measurement(bad), None, "{bad}");
        }
        assert_eq!(Watts::from_measurement(0.0), Some(Watts::ZERO));
        assert_eq!(Watts::from_measurement(699.9996), Some(Watts::new(700)));
    }

    #[test]
    fn parts_never_exceed_the_whole() {
        let whole = Watts::from_milliwatts(10_000);
        for parts in 1..64 {
            assert!((0..parts).map(|_| whole.divided(parts)).sum::<Watts>() <= whole);
        }
        assert_eq!(whole.divided(0), whole);
    }

    #[test]
    fn limits_round_down_and_consumptions_up() {
        let watts = Watts::from_milliwatts(699_001);
        assert_eq!((watts.floor(), watts.ceil()), (699, 700));
        assert_eq!(Watts::new(1).saturating_sub(Watts::new(2)), Watts::ZERO);
        assert_eq!(Watts::new(12_345).percent(90), Watts::from_milliwatts(11_110_500));
    }

    #[test]
    fn energy_over_no_time_is_no_power() {
        assert_eq!(Joules::from_millijoules(5).over_seconds(0.0), None);
        assert_eq!(Joules::from_microjoules(2_000_000).over_seconds(2.0), Some(Watts::new(1)));
    }

    #[test]
    fn clocks_scale_down_to_whole_megahertz() {
        assert_eq!(Megahertz::new(1980).scaled(0.5), Megahertz::new(990));
        assert_eq!(Megahertz::new(1980).scaled(f64::NAN), Megahertz::new(0));
        assert_eq!(Megahertz::from_kilohertz(3_900_999), Megahertz::new(3900));
    }
}
