//! Amounts as Kubernetes writes them: `500m`, `2Gi`, `1e3`.
//!
//! Exact: held in billionths, since nothing smaller exists in Kubernetes (what is smaller is rounded up, as
//! the API server does). Kept here and not taken from a crate because those that there are bring a decimal
//! library and a dozen crates for one line of grammar.

use std::{fmt, str::FromStr};

/// An amount, exactly.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Quantity {
    nanos: i128,
}

/// A text that is no amount.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadQuantity {
    /// Not of the form that Kubernetes reads.
    #[error("{0:?} is no quantity; write for example 500m, 2 or 1Gi")]
    Form(String),
    /// Kubernetes holds at most 2⁶³ − 1.
    #[error("{0:?} is more than any quantity can hold")]
    TooLarge(String),
}

const NANOS: i128 = 1_000_000_000;
const MILLIS: i128 = 1_000_000;
const MOST: i128 = i64::MAX as i128 * NANOS;
/// Suffixes that stand for a power of ten, and for one of 1,024.
const DECIMAL: [(&str, i32); 10] =
    [("n", -9), ("u", -6), ("m", -3), ("", 0), ("k", 3), ("M", 6), ("G", 9), ("T", 12), ("P", 15), ("E", 18)];
const BINARY: [(&str, u32); 6] = [("Ki", 10), ("Mi", 20), ("Gi", 30), ("Ti", 40), ("Pi", 50), ("Ei", 60)];
/// Longer texts are none that a person or a controller wrote.
const LONGEST: usize = 64;

impl Quantity {
    /// Whole ones: bytes, watts.
    #[must_use]
    pub const fn whole(amount: u64) -> Self {
        Self { nanos: amount as i128 * NANOS }
    }

    /// Thousandths: of a core.
    #[must_use]
    pub const fn millis(amount: u64) -> Self {
        Self { nanos: amount as i128 * MILLIS }
    }

    /// Whole ones, rounded up; 0 of what is negative.
    #[must_use]
    pub fn ceil(self) -> u64 {
        u64::try_from(rounded_up(self.nanos.max(0), NANOS)).unwrap_or(u64::MAX)
    }

    /// Thousandths, rounded up; 0 of what is negative.
    #[must_use]
    pub fn ceil_millis(self) -> u64 {
        u64::try_from(rounded_up(self.nanos.max(0), MILLIS)).unwrap_or(u64::MAX)
    }

    /// Whether it is below zero, which no request may be.
    #[must_use]
    pub const fn is_negative(self) -> bool {
        self.nanos < 0
    }

    /// As much of this as `part` is of `whole`; none when `whole` is nothing, or the result more than a quantity
    /// holds.
    #[must_use]
    pub fn in_proportion(self, part: Self, whole: Self) -> Option<Self> {
        let nanos = self.nanos.checked_mul(part.nanos)?.checked_div(whole.nanos)?;
        (nanos.abs() <= MOST).then_some(Self { nanos })
    }
}

impl FromStr for Quantity {
    type Err = BadQuantity;

    fn from_str(text: &str) -> Result<Self, BadQuantity> {
        let bad = || BadQuantity::Form(text.chars().take(LONGEST).collect());
        let large = || BadQuantity::TooLarge(text.chars().take(LONGEST).collect());
        if text.len() > LONGEST {
            return Err(bad());
        }
        let (sign, unsigned) = match text.as_bytes().first() {
            Some(b'-') => (-1, &text[1..]),
            Some(b'+') => (1, &text[1..]),
            _ => (1, text),
        };
        let end = unsigned.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(unsigned.len());
        let (number, suffix) = unsigned.split_at(end);
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        if whole.len() + fraction.len() == 0 || fraction.contains('.') {
            return Err(bad());
        }
        // Both below 64 digits: as one integer of which `fraction.len()` digits stand behind the point.
        let digits: String = [whole, fraction].concat();
        let digits = digits.trim_start_matches('0');
        let digits: i128 = if digits.is_empty() { 0 } else { digits.parse().map_err(|_| large())? };
        let places = i32::try_from(fraction.len()).map_err(|_| bad())?;
        let nanos = if let Some((_, shift)) = BINARY.iter().find(|(name, _)| *name == suffix) {
            scaled(digits.checked_mul(1 << shift).ok_or_else(large)?, 9 - places)
        } else {
            let power = match DECIMAL.iter().find(|(name, _)| *name == suffix) {
                Some((_, power)) => *power,
                None => exponent(suffix).ok_or_else(bad)?,
            };
            scaled(digits, power + 9 - places)
        };
        nanos.filter(|nanos| *nanos <= MOST).map(|nanos| Self { nanos: sign * nanos }).ok_or_else(large)
    }
}

fn rounded_up(amount: i128, unit: i128) -> i128 {
    amount / unit + i128::from(amount % unit != 0)
}

/// The power of ten that `e3` or `E-2` stands for.
fn exponent(suffix: &str) -> Option<i32> {
    suffix.strip_prefix(['e', 'E'])?.parse::<i16>().ok().map(i32::from)
}

/// Times a power of ten, rounded up; none when it is more than can be held.
fn scaled(digits: i128, power: i32) -> Option<i128> {
    if digits == 0 {
        return Some(0);
    }
    let factor = 10_i128.checked_pow(power.unsigned_abs());
    if power >= 0 {
        digits.checked_mul(factor?)
    } else {
        // Beyond what can be held a divisor leaves the smallest that there is.
        Some(factor.map_or(1, |factor| rounded_up(digits, factor)))
    }
}

impl fmt::Display for Quantity {
    /// In whole ones, thousandths or billionths, whichever says it exactly.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.nanos % NANOS == 0 {
            write!(f, "{}", self.nanos / NANOS)
        } else if self.nanos % MILLIS == 0 {
            write!(f, "{}m", self.nanos / MILLIS)
        } else {
            write!(f, "{}n", self.nanos)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_are_read_as_kubernetes_reads_them() {
        for (text, read) in [
            ("0", "0"),
            ("500m", "500m"),
            ("0.5", "500m"),
            (".5", "500m"),
            ("1.", "1"),
            ("2Gi", "2147483648"),
            ("1.5Ki", "1536"),
            ("1e3", "1000"),
            ("1E-3", "1m"),
            ("1E", "1000000000000000000"),
            ("0.1m", "100000n"),
            ("0.1n", "1n"),
            ("+3", "3"),
            ("-1", "-1"),
            ("0e400", "0"),
            ("1e-400", "1n"),
            ("00700", "700"),
        ] {
            assert_eq!(text.parse::<Quantity>().unwrap().to_string(), read, "{text}");
        }
        for text in ["", "-", "m", "1e", "1.2.3", "1kk", "1 ", "0x1", "NaN", "∞", "1i", "--1", "e3"] {
            assert!(matches!(text.parse::<Quantity>(), Err(BadQuantity::Form(_))), "{text}");
        }
        for text in ["1e309", "9223372036854775808", "8Ei", "99999999999999999999999999999999999999999"] {
            assert!(matches!(text.parse::<Quantity>(), Err(BadQuantity::TooLarge(_))), "{text}");
        }
    }

    #[test]
    fn what_is_not_whole_is_rounded_up() {
        let amount: Quantity = "1.0001".parse().unwrap();
        assert_eq!((amount.ceil(), amount.ceil_millis()), (2, 1001));
        let negative: Quantity = "-1.5".parse().unwrap();
        assert_eq!((negative.ceil(), negative.ceil_millis(), negative.is_negative()), (0, 0, true));
    }

    #[test]
    fn a_limit_follows_its_request_in_proportion() {
        let of = |text: &str| text.parse::<Quantity>().unwrap();
        assert_eq!(of("1Gi").in_proportion(of("300Mi"), of("200Mi")).unwrap(), of("1536Mi"));
        assert_eq!(of("1").in_proportion(of("1"), of("0")), None);
        assert_eq!(of("9E").in_proportion(of("9E"), of("1n")), None);
    }
}
