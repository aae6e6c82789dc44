//! Whether a rung may begin.
//!
//! Must hold: nothing is done while power is not above the cap, whatever stands to be done; and each rung waits for its
//! own `afterSeconds` once the rung before it is at its floor. Of rungs that were passed over, since they have no
//! victim, the waits are added.

use k8s_openapi::jiff::{SignedDuration, Timestamp};
use powercap_common::{
    api::{Action, Escalated, PowerCappingPolicy},
    condition::{self, Truth, kind},
    policy::Policy,
    reason::Reason,
};

use super::needs::Need;

/// Why the next step for this need is not taken yet.
pub(super) fn due(
    object: &PowerCappingPolicy,
    policy: &Policy,
    escalated: &Escalated,
    need: &Need<'_>,
    now: Timestamp,
) -> Result<(), Reason> {
    if !is_above(object, need) {
        return Err(Reason::PowerBelowCap);
    }
    let (since, wait) = begins(policy, escalated, need);
    if now.duration_since(since) < wait { Err(Reason::RungNotDue) } else { Ok(()) }
}

/// Between the cap and the release threshold a need stands so that it does not flutter: it asks for nothing more.
pub(super) fn is_above(object: &PowerCappingPolicy, need: &Need<'_>) -> bool {
    let conditions = match need.domain {
        Some(domain) => domain.status.as_ref().map(|status| &status.conditions),
        None => object.status.as_ref().map(|status| &status.conditions),
    };
    conditions.is_some_and(|conditions| condition::truth(conditions, kind::WITHIN_CAP) == Truth::False)
}

/// Since when the rung before is at its floor, and how long it must have been.
fn begins(policy: &Policy, escalated: &Escalated, need: &Need<'_>) -> (Timestamp, SignedDuration) {
    let place = |action: Action| policy.ladder.iter().position(|rung| rung.action == action);
    let to = place(need.action.action).map_or(0, |at| at + 1);
    let before = escalated.exhausted.and_then(place).filter(|at| *at + 1 < to);
    let exhausted = before.zip(escalated.exhausted_since.as_ref());
    let (from, since) = exhausted.map_or((0, need.action.since.0), |(at, since)| (at + 1, since.0));
    let rungs = policy.ladder.get(from..to).unwrap_or_default().iter();
    let seconds = rungs.filter(|rung| rung.action != Action::Freeze).map(|rung| i64::from(rung.after_seconds)).sum();
    (since, SignedDuration::from_secs(seconds))
}
