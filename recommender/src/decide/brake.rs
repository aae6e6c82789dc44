//! The brake that the recommender pulls by itself: when power stays above the cap although every grant
//! fits and was acknowledged, something draws watts that nobody reckoned with.
//!
//! ```text
//!            above the cap for 10 s, nothing left to lower       still above, 10 s later
//!   none ────────────────────────────────────────▶ Fallback ────────────────────────────▶ Minimum
//!     ▲                                               │                                      │
//!     └───────────────── below the cap for 60 s ──────┴──────────────────────────────────────┘
//! ```
//!
//! Must hold: time counts by readings, of which the oldest must lie that far behind the moment from which
//! it counts: late readings neither pull the brake nor let it go. Missing ones leave it as it is. Its
//! memory are the domain's conditions, so that it survives a change of leader.

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use powercap_common::{
    api::{Brake, BrakeStatus},
    condition::kind,
    reason::Reason,
};

/// Power may stay above the cap for this long with nothing left to lower.
const PATIENCE: SignedDuration = SignedDuration::from_secs(10);
/// The brake is let go when power was below the cap for this long.
const CALM: SignedDuration = SignedDuration::from_secs(60);

/// The brake from now on. `conditions` are the domain's of this moment; `settled`: nothing is left to be
/// lowered or acknowledged; `measured_at` is the oldest reading of its power.
#[must_use]
pub fn next(
    present: Option<&BrakeStatus>,
    conditions: &[Condition],
    settled: bool,
    measured_at: Option<Timestamp>,
) -> Option<BrakeStatus> {
    let since = |kind: &str, truth: &str| {
        let condition = conditions.iter().find(|condition| condition.type_ == kind && condition.status == truth);
        condition.map(|condition| condition.last_transition_time.0)
    };
    let lasted =
        |since: Timestamp, long: SignedDuration| measured_at.is_some_and(|at| at.duration_since(since) >= long);
    if since(kind::WITHIN_CAP, "True").is_some_and(|since| lasted(since, CALM)) {
        return None;
    }
    let level = present.map_or(Brake::None, |brake| brake.level);
    // A grant that was acknowledged only now shows in later readings.
    let settled_since = since(kind::READY, "True").or_else(|| since(kind::READY, "False")).filter(|_| settled);
    let begun = match level {
        Brake::None => settled_since,
        Brake::Fallback => since(kind::BRAKED, "True"),
        Brake::Minimum => None,
    };
    let stays_above =
        since(kind::WITHIN_CAP, "False").zip(begun).is_some_and(|(above, begun)| lasted(above.max(begun), PATIENCE));
    if !stays_above {
        return present.cloned();
    }
    let level = if level == Brake::None { Brake::Fallback } else { Brake::Minimum };
    Some(BrakeStatus { level, reason: Reason::PowerStaysAboveCap.to_string() })
}
