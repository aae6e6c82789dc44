//! What a policy or a domain does, and why: pure.

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::ResourceExt;
use powercap_common::{
    api::{Brake, Mode, PowerCappingPolicy, PowerDomain},
    reason::Reason,
};

use super::{
    advice::ordered_by,
    answer::{Answer, Cause},
    boards,
};
use crate::{
    caps::{Caps, Conditions, domain_set_by, policy_set_by, unmanaged},
    pending::{self, PendingRow},
    rows::{DomainRow, NodeRow, PolicyRow},
    violators::ViolatorRow,
};

/// What a policy does to its pods' boards.
#[must_use]
pub fn policy(policy: &PowerCappingPolicy, caps: &Caps) -> Answer {
    let set_by = policy_set_by(policy);
    let mut answer = Answer::new(set_by.clone(), String::new());
    answer.policies.push(PolicyRow::from(policy));
    let status = policy.status.as_ref();
    answer.violators =
        status.into_iter().flat_map(|status| status.violators.iter().cloned()).map(ViolatorRow).collect();
    answer.pending = status.map(|status| PendingRow::all(&status.pending_actions)).unwrap_or_default();
    let boards = caps.nodes.iter().flat_map(|node| ordered_by(node, &set_by).map(move |gpu| (node, gpu)));
    let held = boards::explain(&boards.collect::<Vec<_>>(), caps, &mut answer);
    say(&set_by, policy.conditions(), &mut answer);
    let cap = policy.spec.power_cap_limit_watts;
    let draws = draws(status.and_then(|status| status.current_power_watts), Who::Pods);
    answer.summary = match policy.spec.mode {
        Mode::Off => format!("{set_by} is switched off: it measures and changes nothing."),
        Mode::Advise => {
            format!("{set_by} only recommends: {draws} under a cap of {cap} W; spec.mode Enforce keeps it.")
        }
        Mode::Enforce if held.held == 0 => {
            format!("{set_by} keeps its pods within {cap} W and holds no board back: {draws}.")
        }
        Mode::Enforce => format!(
            "{set_by} keeps its pods within {cap} W: {draws}; caps hold {} back, by {}{}.",
            held.part(),
            held.by.join(" and "),
            held.down_to()
        ),
    };
    match status.map_or(0, |status| status.violator_count) {
        0 => {}
        1 => answer.summary.push_str(" One pod draws more than its share."),
        count => answer.summary.push_str(&format!(" {count} pods draw more than their share.")),
    }
    answer.summary.push_str(&pending::summary(status.map_or(0, |status| status.pending_action_count)));
    answer.summary.push_str(&pending::done(policy));
    answer
}

/// How a domain shares out its cap.
#[must_use]
pub fn domain(domain: &PowerDomain, caps: &Caps, now: Timestamp) -> Answer {
    let of = domain_set_by(domain);
    let mut answer = Answer::new(of.clone(), String::new());
    answer.domains.push(DomainRow::from(domain));
    let name = domain.name_any();
    let members = caps.nodes.iter().filter(|node| node.spec.domains.contains(&name));
    answer.nodes = members.map(|node| NodeRow::of(node, now)).collect();
    let status = domain.status.as_ref();
    // What the recommender pulled is a condition.
    if domain.spec.brake > Brake::None {
        let says = format!("Somebody, in spec.brake, pulled it to {:?}.", domain.spec.brake);
        answer.why.push(Cause::new(Reason::BrakePulled, &of, &says, None));
    }
    say(&of, domain.conditions(), &mut answer);
    let cap = domain.spec.power_cap_limit_watts;
    let draws = draws(status.and_then(|status| status.current_power_watts), Who::Domain);
    let committed = status.and_then(|status| status.committed_watts);
    let promised = committed.map_or_else(
        || "what its nodes may be drawing is not known".to_owned(),
        |watts| format!("{watts} W are promised to its nodes"),
    );
    let unmanaged = match unmanaged(domain) {
        0 => String::new(),
        watts => format!(", {watts} W are counted as unmanaged"),
    };
    answer.summary =
        format!("{of} keeps its nodes ({}) within {cap} W: {draws}, {promised}{unmanaged}.", answer.nodes.len());
    answer.pending = status.map(|status| PendingRow::all(&status.pending_actions)).unwrap_or_default();
    answer.summary.push_str(&pending::summary(status.map_or(0, |status| status.pending_action_count)));
    answer
}

/// What its conditions say, and what mends it.
fn say(of: &str, conditions: &[Condition], answer: &mut Answer) {
    if conditions.is_empty() {
        let says = "The recommender has said nothing of it yet: is it running?";
        answer.why.push(Cause {
            reason: Reason::Pending.to_string(),
            of: of.to_owned(),
            says: says.to_owned(),
            since: None,
        });
        answer.can_do.push("See `kubectl powercap doctor`.".to_owned());
    }
    answer.why.extend(conditions.iter().map(|condition| Cause::of_condition(of, condition)));
    answer.mend();
}

fn draws(power: Option<u32>, who: Who) -> String {
    match (power, who) {
        (Some(power), Who::Pods) => format!("its pods draw {power} W"),
        (Some(power), Who::Domain) => format!("it draws {power} W"),
        (None, Who::Pods) => "the power of its pods is not known".to_owned(),
        (None, Who::Domain) => "its power is not known".to_owned(),
    }
}

/// Who draws the power.
#[derive(Clone, Copy)]
enum Who {
    Pods,
    Domain,
}
