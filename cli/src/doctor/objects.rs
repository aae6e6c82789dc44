//! What the node agents and the recommender say of nodes, boards, domains and policies: pure.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::ResourceExt;
use powercap_common::{
    api::{Brake, DeviceState, Mode},
    condition::{self, Truth, kind},
    reason::Reason,
};

use super::{
    finding::{Finding, names},
    seen::Seen,
};
use crate::{
    caps::{Caps, Conditions, brake, brake_reason, domain_set_by, policy_set_by},
    explain::node::SILENT_AFTER,
    mend::{mend, mend_word},
};

/// A cap that nothing is under harms nobody.
const IDLE: [Reason; 2] = [Reason::NoMatchingPods, Reason::NoMatchingNodes];

/// The conditions of nodes that should hold.
const OF_NODES: &[&str] = &[kind::READY, kind::LEASE_CURRENT];
/// Those of domains and policies.
const OF_CAPS: &[&str] = &[kind::READY, kind::DATA_FRESH, kind::WITHIN_CAP, kind::FEASIBLE];

/// All of them.
#[must_use]
pub fn objects(seen: &Seen) -> Vec<Finding> {
    match &seen.caps {
        Err(why) => vec![Finding::unseen("nodes, domains, policies", why)],
        Ok(caps) => [heartbeats(caps, seen), nodes(caps), boards(caps), domains(caps), policies(caps)].concat(),
    }
}

/// Agents that have not written for longer than they should.
fn heartbeats(caps: &Caps, seen: &Seen) -> Vec<Finding> {
    const CHECK: &str = "agents' reports";
    let silent = |beat: Option<jiff::Timestamp>| beat.is_none_or(|beat| seen.now.duration_since(beat) > SILENT_AFTER);
    let beat = |node: &powercap_common::api::NodeFrequencies| Some(node.status.as_ref()?.heartbeat_time.as_ref()?.0);
    let silent: Vec<_> = caps.nodes.iter().filter(|node| silent(beat(node))).map(ResourceExt::name_any).collect();
    if caps.nodes.is_empty() {
        return vec![Finding::ok(CHECK, "no node is capped")];
    }
    if silent.is_empty() {
        return vec![Finding::ok(CHECK, format!("every agent has reported lately ({})", caps.nodes.len()))];
    }
    let found = format!("nothing from {}: {}", names(&silent), Reason::AgentSilent.explanation());
    vec![Finding::fail(CHECK, found, mend(Reason::AgentSilent).unwrap_or_default())]
}

fn nodes(caps: &Caps) -> Vec<Finding> {
    let all = caps.nodes.iter().map(|node| (node.name_any(), node.conditions(), OF_NODES));
    not_well("nodes", &all.collect::<Vec<_>>())
}

fn domains(caps: &Caps) -> Vec<Finding> {
    if caps.unread.iter().any(|kind| kind == "powerdomains") {
        return vec![Finding::unseen("domains", "you may not list powerdomains")];
    }
    let all = caps.domains.iter().map(|domain| (domain_set_by(domain), domain.conditions(), OF_CAPS));
    let mut findings = not_well("domains", &all.collect::<Vec<_>>());
    for domain in caps.domains.iter().filter(|domain| brake(domain) > Brake::None) {
        let reason = brake_reason(domain);
        let of = format!("{}, at {:?}: {}", domain_set_by(domain), brake(domain), reason.explanation());
        findings.push(Finding::warn("brakes", of, mend(reason).unwrap_or_default()));
    }
    findings
}

fn policies(caps: &Caps) -> Vec<Finding> {
    if caps.unread.iter().any(|kind| kind == "powercappingpolicies") {
        return vec![Finding::unseen("policies", "you may not list powercappingpolicies")];
    }
    let on = caps.policies.iter().filter(|policy| policy.spec.mode != Mode::Off);
    let on = on.map(|policy| (policy_set_by(policy), policy.conditions(), OF_CAPS));
    not_well("policies", &on.collect::<Vec<_>>())
}

/// The conditions of these types that do not hold: a finding each, by their reason.
fn not_well(check: &'static str, of: &[(String, &[Condition], &[&str])]) -> Vec<Finding> {
    let mut wrong = BTreeMap::<(bool, String), Vec<String>>::new();
    for (name, conditions, types) in of {
        for condition in conditions.iter().filter(|condition| types.contains(&condition.type_.as_str())) {
            let truth = condition::truth(conditions, &condition.type_);
            if truth != Truth::True {
                let of = format!("{name} ({}): {}", condition.type_, condition.message);
                let fails = truth == Truth::False && !IDLE.iter().any(|reason| condition.reason == reason.as_str());
                wrong.entry((fails, condition.reason.clone())).or_default().push(of);
            }
        }
        if conditions.is_empty() {
            let of = format!("{name}: nothing was said of it yet");
            wrong.entry((false, Reason::Pending.to_string())).or_default().push(of);
        }
    }
    if wrong.is_empty() {
        let all = if of.is_empty() { "there are none".to_owned() } else { format!("all well ({})", of.len()) };
        return vec![Finding::ok(check, all)];
    }
    let finding = |((fails, reason), of): ((bool, String), Vec<String>)| {
        let word = reason.parse().map_or("", Reason::explanation);
        let found = format!("{reason}: {word} {}", names(&of));
        let mend = mend_word(&reason).unwrap_or("wait some seconds, and look again");
        if fails { Finding::fail(check, found, mend) } else { Finding::warn(check, found, mend) }
    };
    wrong.into_iter().map(finding).collect()
}

/// Boards with which something is wrong, by what it is.
fn boards(caps: &Caps) -> Vec<Finding> {
    const CHECK: &str = "boards";
    let mut wrong = BTreeMap::<(String, String), Vec<String>>::new();
    let mut all = 0;
    for node in &caps.nodes {
        for gpu in node.status.iter().flat_map(|status| &status.gpus) {
            all += 1;
            let trouble =
                [DeviceState::Failed, DeviceState::Quarantined, DeviceState::Drifted, DeviceState::Unsupported];
            if trouble.contains(&gpu.state) {
                let state = format!("{:?}", gpu.state);
                wrong.entry((state, gpu.reason.clone())).or_default().push(format!(
                    "{} on {}",
                    gpu.uuid,
                    node.name_any()
                ));
            }
        }
    }
    if wrong.is_empty() {
        return vec![Finding::ok(CHECK, format!("every board takes its orders ({all})"))];
    }
    let finding = |((state, reason), of): ((String, String), Vec<String>)| {
        let word = reason.parse().map_or("", Reason::explanation);
        let said = if state == reason { state.clone() } else { format!("{state}, {reason}") };
        let found = format!("{said}: {word} {}", names(&of));
        let mend = mend_word(&reason).unwrap_or("see the node agent's log");
        let mild = matches!(state.as_str(), "Unsupported" | "Drifted");
        if mild { Finding::warn(CHECK, found, mend) } else { Finding::fail(CHECK, found, mend) }
    };
    wrong.into_iter().map(finding).collect()
}
