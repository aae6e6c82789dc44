//! Who renews its Lease, and what does not happen while nobody does: pure.

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::coordination::v1::Lease;
use powercap_common::{
    api::{Action, Mode, PowerCappingPolicy},
    reason::Reason,
};

use super::{
    finding::{Finding, names},
    seen::Seen,
};
use crate::{caps::policy_set_by, mend::mend, table::age};

/// This machine's clock and the cluster's may differ by so much.
const SKEW: SignedDuration = SignedDuration::from_secs(10);

/// Who decides.
#[must_use]
pub fn recommender(seen: &Seen) -> Finding {
    const CHECK: &str = "leader's Lease";
    match seen.lease.as_ref().map(|lease| held(lease.as_ref(), seen.now)) {
        Err(why) => Finding::unseen(CHECK, why),
        Ok(Ok(held)) => Finding::ok(CHECK, held),
        Ok(Err(amiss)) => {
            let found = format!("{amiss}: {}", Reason::LeaseExpired.explanation());
            Finding::fail(CHECK, found, mend(Reason::LeaseExpired).unwrap_or_default())
        }
    }
}

/// Who answers reviews. Without it escalation does nothing either.
#[must_use]
pub fn admission(seen: &Seen) -> Finding {
    const CHECK: &str = "admission's Lease";
    match seen.admission_lease.as_ref().map(|lease| held(lease.as_ref(), seen.now)) {
        Err(why) => Finding::unseen(CHECK, why),
        Ok(Ok(held)) => Finding::ok(CHECK, held),
        Ok(Err(amiss)) => Finding::fail(
            CHECK,
            format!("{amiss}: new pods request what they are written with, and nothing escalates"),
            "see that powercap-admission runs: kubectl -n powercap-system get deployments,leases",
        ),
    }
}

/// Who does what policies permit beyond lower clocks. Where none permits anything, nobody is needed.
#[must_use]
pub fn escalation(seen: &Seen) -> Finding {
    const CHECK: &str = "escalation's Lease";
    let amiss = match seen.escalation_lease.as_ref().map(|lease| held(lease.as_ref(), seen.now)) {
        Err(why) => return Finding::unseen(CHECK, why),
        Ok(Ok(held)) => return Finding::ok(CHECK, held),
        Ok(Err(amiss)) => amiss,
    };
    let caps = match &seen.caps {
        Err(why) => return Finding::unseen(CHECK, why),
        Ok(caps) => caps,
    };
    let permitting: Vec<_> = caps.policies.iter().filter(|policy| escalates(policy)).map(policy_set_by).collect();
    if permitting.is_empty() {
        return Finding::ok(CHECK, format!("{amiss}, and no policy permits more than lower clocks"));
    }
    Finding::fail(
        CHECK,
        format!("{amiss}: nobody does what is permitted beyond lower clocks by {}", names(&permitting)),
        "see that powercap-escalate runs: kubectl -n powercap-system get deployments,leases",
    )
}

fn escalates(policy: &PowerCappingPolicy) -> bool {
    policy.spec.mode == Mode::Enforce && policy.spec.escalation.iter().any(|rung| rung.action > Action::Throttle)
}

/// By whom it is held and since when; an error where nobody renews it.
fn held(lease: Option<&Lease>, now: Timestamp) -> Result<String, String> {
    let lease = lease.and_then(|lease| lease.spec.as_ref());
    let holder = lease.and_then(|lease| lease.holder_identity.as_deref()).filter(|holder| !holder.is_empty());
    let (lease, holder) = lease.zip(holder).ok_or("nobody holds it")?;
    let renewed = lease.renew_time.as_ref().ok_or_else(|| format!("{holder} never renewed it"))?.0;
    let lasts = SignedDuration::from_secs(i64::from(lease.lease_duration_seconds.unwrap_or_default()));
    let term = lease.lease_transitions.map(|term| format!(" (term {term})")).unwrap_or_default();
    let found = format!("held by {holder}{term}, renewed {} ago", age(renewed, now));
    if now.duration_since(renewed) > lasts + SKEW { Err(found) } else { Ok(found) }
}
