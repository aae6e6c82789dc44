//! What a check found: a verdict, and the figures behind it.

use serde::Serialize;

use super::catalogue::Check;
use crate::devices::DeviceError;

/// What was asked of a device, or why there is no answer.
pub type Answer<T> = Result<T, DeviceError>;

/// How a check came out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// What the agent relies on holds.
    Pass,
    /// It does not.
    Fail(String),
    /// It could not be told, and why.
    Skipped(String),
    /// The device has no such thing, which the agent lives with.
    NotSupported(String),
}

impl Verdict {
    /// The verdict as one word.
    #[must_use]
    pub const fn word(&self) -> &'static str {
        match self {
            Self::Pass => "Pass",
            Self::Fail(_) => "Fail",
            Self::Skipped(_) => "Skipped",
            Self::NotSupported(_) => "NotSupported",
        }
    }

    /// What is to be said about it, if anything is.
    #[must_use]
    pub fn message(&self) -> Option<&str> {
        match self {
            Self::Pass => None,
            Self::Fail(message) | Self::Skipped(message) | Self::NotSupported(message) => Some(message),
        }
    }
}

/// One measured value.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Figure {
    /// What it is.
    pub name: String,
    /// How much.
    pub value: Value,
    /// Of what; empty for counts and texts.
    #[serde(skip_serializing_if = "str::is_empty")]
    pub unit: &'static str,
}

/// A figure's value.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(untagged)]
pub enum Value {
    /// A number, rounded to thousandths.
    Number(f64),
    /// A word.
    Text(String),
}

/// A verdict with its figures.
#[derive(Clone, Debug, PartialEq)]
pub struct Judgement {
    /// How it came out.
    pub verdict: Verdict,
    /// What was measured.
    pub figures: Vec<Figure>,
}

impl Judgement {
    /// It holds.
    #[must_use]
    pub const fn pass() -> Self {
        Self { verdict: Verdict::Pass, figures: Vec::new() }
    }

    /// It does not hold.
    #[must_use]
    pub fn fail(why: impl Into<String>) -> Self {
        Verdict::Fail(why.into()).into()
    }

    /// It cannot be told.
    #[must_use]
    pub fn skipped(why: impl Into<String>) -> Self {
        Verdict::Skipped(why.into()).into()
    }

    /// There is no such thing.
    #[must_use]
    pub fn not_supported(what: impl Into<String>) -> Self {
        Verdict::NotSupported(what.into()).into()
    }

    /// Adds a number.
    #[must_use]
    pub fn number(mut self, name: impl Into<String>, value: f64, unit: &'static str) -> Self {
        let value = Value::Number((value * 1000.0).round() / 1000.0);
        self.figures.push(Figure { name: name.into(), value, unit });
        self
    }

    /// Adds a count.
    #[must_use]
    pub fn count(self, name: impl Into<String>, value: usize) -> Self {
        self.number(name, u32::try_from(value).map_or(f64::MAX, f64::from), "")
    }

    /// Adds a word.
    #[must_use]
    pub fn text(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.figures.push(Figure { name: name.into(), value: Value::Text(value.into()), unit: "" });
        self
    }

    /// Fails it, unless it failed before.
    #[must_use]
    pub fn fail_if(mut self, wrong: bool, why: impl FnOnce() -> String) -> Self {
        if wrong && !matches!(self.verdict, Verdict::Fail(_)) {
            self.verdict = Verdict::Fail(why());
        }
        self
    }
}

impl From<Verdict> for Judgement {
    fn from(verdict: Verdict) -> Self {
        Self { verdict, figures: Vec::new() }
    }
}

/// What an error of a reading means for a check.
impl From<&DeviceError> for Judgement {
    fn from(error: &DeviceError) -> Self {
        match error {
            DeviceError::Unsupported { .. } => Self::not_supported(error.to_string()),
            _ => Self::fail(error.to_string()),
        }
    }
}

/// A check, what it was done on, and how it came out.
#[derive(Clone, Debug)]
pub struct Finding {
    /// Which check.
    pub check: &'static Check,
    /// `node`, `board 0`, `cpus`, …
    pub subject: String,
    /// How it came out.
    pub judgement: Judgement,
}

impl Finding {
    /// A finding.
    #[must_use]
    pub fn new(check: &'static Check, subject: impl Into<String>, judgement: Judgement) -> Self {
        Self { check, subject: subject.into(), judgement }
    }

    /// Whether what the agent relies on does not hold.
    #[must_use]
    pub const fn failed(&self) -> bool {
        matches!(self.judgement.verdict, Verdict::Fail(_))
    }
}
