//! Why a node runs as it does: pure.

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::ResourceExt;
use powercap_common::{
    api::{CpuStatus, NodeFrequencies},
    condition::{Truth, kind},
    reason::Reason,
};

use super::{
    answer::{Answer, Cause},
    boards::{self, Held},
    holder::{lease_reason, pulled},
    particulars::may_draw,
};
use crate::{
    caps::{Caps, Conditions, brake_reason},
    rows::NodeRow,
    table::age,
};

/// An agent writes a status every five minutes at least; the recommender too calls it silent after this.
pub const SILENT_AFTER: SignedDuration = SignedDuration::from_mins(6);

/// Why the node runs as it does.
#[must_use]
pub fn explain(node: &NodeFrequencies, caps: &Caps, now: Timestamp) -> Answer {
    let mut answer = Answer::new(format!("node/{}", node.name_any()), String::new());
    answer.nodes.push(NodeRow::of(node, now));
    let gpus = node.status.iter().flat_map(|status| &status.gpus);
    let held = boards::explain(&gpus.map(|gpu| (node, gpu)).collect::<Vec<_>>(), caps, &mut answer);
    answer.why.extend(causes(node, caps, now));
    answer.mend();
    answer.summary = summary(node, &held) + &offers(node, caps);
    answer
}

/// What it offers to new pods, as the end of a summary; nothing of a node that no domain limits.
fn offers(node: &NodeFrequencies, caps: &Caps) -> String {
    if node.spec.release || node.spec.power_limit_watts.is_none() {
        return String::new();
    }
    if pulled(node, caps).is_some() {
        return " It offers new pods no watts while a brake is pulled.".to_owned();
    }
    if lease_reason(node) == Some(Reason::FallbackInForce) {
        return " It offers new pods no watts while its lease has run out.".to_owned();
    }
    let requested = node.spec.requested_watts.unwrap_or_default();
    match node.spec.offer_watts.unwrap_or_default() {
        0 => " It offers new pods no watts: those that request some wait, or go elsewhere.".to_owned(),
        watts => format!(" It offers new pods {watts} W beside the {requested} W that its pods request."),
    }
}

fn summary(node: &NodeFrequencies, held: &Held) -> String {
    if node.spec.release {
        return format!("Node {} is released: no cap holds there.", node.name_any());
    }
    let (grant, trouble) = (may_draw(node), held.trouble());
    match (held.boards, held.held) {
        (0, _) => format!("{grant}; its agent reports no boards."),
        (_, 0) => format!("{grant}; no cap holds any of its {} back.{trouble}", held.all()),
        _ => {
            format!("{grant}; caps hold {} back, by {}{}.{trouble}", held.part(), held.by.join(" and "), held.down_to())
        }
    }
}

/// What holds on the whole node, beside its boards: silence, lease, brake, CPUs, what its agent complains of.
#[must_use]
pub fn causes(node: &NodeFrequencies, caps: &Caps, now: Timestamp) -> Vec<Cause> {
    let name = node.name_any();
    let of = format!("node {name}");
    let Some(status) = &node.status else {
        let says = "No agent has reported from there yet: what really holds is not known.";
        return vec![Cause::new(
            Reason::AgentSilent,
            of,
            says,
            node.metadata.creation_timestamp.as_ref().map(|time| time.0),
        )];
    };
    let mut causes = Vec::new();
    let heard = status.heartbeat_time.as_ref().map(|time| time.0);
    if let Some(heard) = heard.filter(|heard| now.duration_since(*heard) > SILENT_AFTER) {
        let says = format!("What is said here of it is {} old.", age(heard, now));
        causes.push(Cause::new(Reason::AgentSilent, &of, &says, Some(heard)));
    }
    let not = |condition: &&Condition| condition.status != Truth::True.as_str();
    causes.extend(node.condition(kind::READY).filter(not).map(|condition| Cause::of_condition(&of, condition)));
    if lease_reason(node).is_some_and(|reason| reason != Reason::LeaseRenewed) {
        causes.extend(node.condition(kind::LEASE_CURRENT).map(|condition| Cause::of_condition(&of, condition)));
    }
    if let Some((domain, level)) = pulled(node, caps) {
        let says = format!("The brake of powerdomain/{} is at {level:?}.", domain.name_any());
        causes.push(Cause::new(brake_reason(domain), &of, &says, domain.since(kind::BRAKED, Truth::True)));
    }
    let held = status.acknowledged.map(|acknowledged| acknowledged.epoch);
    if held != Some(node.spec.epoch) && !node.spec.release && heard.is_some() {
        causes.push(Cause::new(Reason::Pending, &of, "Its agent has not acknowledged its newest orders yet.", None));
    }
    causes.extend(cpus(node, &status.cpus));
    causes
}

/// The CPUs that are held below their highest clock, if any.
fn cpus(node: &NodeFrequencies, cpus: &[CpuStatus]) -> Option<Cause> {
    let held = |cpu: &&CpuStatus| cpu.target_megahertz.is_some_and(|target| target < cpu.max_megahertz);
    let slowest = cpus.iter().filter(held).min_by_key(|cpu| cpu.target_megahertz)?;
    let asked = node.spec.cpu_frequencies.iter().find(|ceiling| ceiling.cpufreq_policy == slowest.cpufreq_policy)?;
    let reason: Reason = slowest.reason.parse().or_else(|_| asked.reason.parse()).ok()?;
    let says = format!(
        "They are held at {} of {} MHz by {}.",
        slowest.target_megahertz.unwrap_or_default(),
        slowest.max_megahertz,
        asked.set_by
    );
    Some(Cause::new(reason, format!("CPUs of node {}", node.name_any()), &says, None))
}
