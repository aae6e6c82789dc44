//! Conditions of a status: set when they change, so that a status that says the same is the same.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};

use crate::reason::Reason;

/// What a condition says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Truth {
    /// It holds.
    True,
    /// It does not hold.
    False,
    /// We cannot tell: data is missing.
    Unknown,
}

impl Truth {
    /// As `metav1.Condition` spells it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::True => "True",
            Self::False => "False",
            Self::Unknown => "Unknown",
        }
    }
}

impl From<bool> for Truth {
    fn from(holds: bool) -> Self {
        if holds { Self::True } else { Self::False }
    }
}

/// Types of conditions, the same words in every kind.
pub mod kind {
    /// The object is understood and acted on.
    pub const READY: &str = "Ready";
    /// All readings that the decision needs are recent.
    pub const DATA_FRESH: &str = "DataFresh";
    /// Sources that measure the same device agree; said only while they do not.
    pub const SOURCES_AGREE: &str = "SourcesAgree";
    /// The power of the past was read; said only while it could not be.
    pub const HISTORY_READ: &str = "HistoryRead";
    /// Power crossed the capping threshold and has not fallen below the release threshold since.
    pub const CAP_TRIGGERED: &str = "CapTriggered";
    /// Measured power is at or below the cap.
    pub const WITHIN_CAP: &str = "WithinCap";
    /// The cap can be kept by what we control.
    pub const FEASIBLE: &str = "Feasible";
    /// The CPU and memory that the pods use are known, and requests of them recommended; said only while they are
    /// not, though asked for.
    pub const USE_KNOWN: &str = "UseKnown";
    /// Running pods request the watts that are recommended; said only while some do not.
    pub const WATTS_CURRENT: &str = "WattsCurrent";
    /// A policy that comes first selects some of the same devices; said only while one does.
    pub const OVERLAPPED: &str = "Overlapped";
    /// The recommender has pulled the domain's brake.
    pub const BRAKED: &str = "Braked";
    /// The domain's place among the others is clear.
    pub const PLACED: &str = "Placed";
    /// The domains of its pods' nodes permit what the policy asks for; said only while one does not.
    pub const PERMITTED: &str = "Permitted";
    /// The policy's ladder is climbed beyond lower clocks; written by the escalating actuator alone.
    pub const ESCALATING: &str = "Escalating";
    /// The node's agent has seen the recommender renew its Lease in time.
    pub const LEASE_CURRENT: &str = "LeaseCurrent";
    /// Something else changes the node's devices.
    pub const CONTENDED: &str = "Contended";
}

/// Sets the condition of this type, keeping `lastTransitionTime` unless its truth changes.
pub fn set(
    conditions: &mut Vec<Condition>,
    type_: &str,
    truth: Truth,
    reason: Reason,
    message: impl Into<String>,
    generation: Option<i64>,
    now: Time,
) {
    let status = truth.as_str().to_owned();
    let place = conditions.iter().position(|condition| condition.type_ == type_);
    let since = place
        .map(|at| &conditions[at])
        .filter(|condition| condition.status == status)
        .map_or(now, |condition| condition.last_transition_time.clone());
    let condition = Condition {
        type_: type_.to_owned(),
        status,
        reason: reason.as_str().to_owned(),
        message: message.into(),
        observed_generation: generation,
        last_transition_time: since,
    };
    match place {
        Some(at) => conditions[at] = condition,
        None => conditions.push(condition),
    }
}

/// What the condition of this type says, `Unknown` when there is none.
#[must_use]
pub fn truth(conditions: &[Condition], type_: &str) -> Truth {
    match conditions.iter().find(|condition| condition.type_ == type_).map(|condition| condition.status.as_str()) {
        Some("True") => Truth::True,
        Some("False") => Truth::False,
        _ => Truth::Unknown,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Time {
        Time(k8s_openapi::jiff::Timestamp::from_second(second).unwrap())
    }

    #[test]
    fn the_transition_time_changes_with_the_truth_alone() {
        let mut conditions = Vec::new();
        set(&mut conditions, kind::READY, Truth::True, Reason::Enforcing, "a", Some(1), at(1));
        set(&mut conditions, kind::READY, Truth::True, Reason::Advising, "b", Some(2), at(2));
        assert_eq!(conditions.len(), 1);
        assert_eq!(conditions[0].last_transition_time, at(1));
        assert_eq!((conditions[0].reason.as_str(), conditions[0].observed_generation), ("Advising", Some(2)));
        set(&mut conditions, kind::READY, Truth::False, Reason::InvalidSpec, "c", Some(3), at(3));
        assert_eq!(conditions[0].last_transition_time, at(3));
        assert_eq!(truth(&conditions, kind::READY), Truth::False);
        assert_eq!(truth(&conditions, kind::FEASIBLE), Truth::Unknown);
    }
}
