//! The numbers behind a bound, and since when it stands where that can be known: pure.

use std::collections::BTreeMap;

use jiff::Timestamp;
use kube::ResourceExt;
use powercap_common::{
    api::{Brake, NodeFrequencies, PowerCappingPolicy, PowerDomain},
    condition::{Truth, kind},
    reason::Reason,
};

use super::holder::Holder;
use crate::caps::{Caps, Conditions, brake, brake_reason, policy_set_by};

/// The recommender's name as a field manager.
const RECOMMENDER: &str = "powercap-recommender";

/// The particulars of a bound on boards of this node. `short` are the boards' names for people.
#[must_use]
pub fn particulars(
    by: &Holder,
    node: &NodeFrequencies,
    caps: &Caps,
    short: &BTreeMap<String, String>,
) -> (String, Option<Timestamp>) {
    match by {
        Holder::Ceiling(set_by) => caps.policy(set_by).map_or_else(|| (format!("It is {set_by}."), None), of_policy),
        Holder::Grant(domain) => {
            let by = domain.as_ref().map(|domain| format!(" by powerdomain/{domain}")).unwrap_or_default();
            (format!("{}{by}{}.", may_draw(node), draws(node)), ordered_at(node))
        }
        Holder::Brake(domain) => caps.domain(domain).map(of_brake).unwrap_or_default(),
        Holder::Fallback => {
            let watts = node.spec.lease.and_then(|lease| lease.fallback_watts).unwrap_or_default();
            let says =
                format!("Node {} may draw {watts} W until the Lease is renewed{}.", node.name_any(), draws(node));
            (says, node.since(kind::LEASE_CURRENT, Truth::False))
        }
        Holder::Group(uuid, slowest) => {
            let board = short.get(uuid).unwrap_or(uuid);
            let (behind, since) = particulars(slowest, node, caps, short);
            let gpu = node.status.iter().flat_map(|status| &status.gpus).find(|gpu| gpu.uuid == *uuid);
            let reason = gpu.map(|gpu| gpu.reason.as_str()).unwrap_or_default();
            let explanation = reason.parse().map_or("", Reason::explanation);
            (format!("That is {board} ({reason}): {explanation} {behind}").trim_end().to_owned(), since)
        }
        Holder::Nobody | Holder::Device => (String::new(), node.since(kind::READY, Truth::False)),
    }
}

fn of_policy(policy: &PowerCappingPolicy) -> (String, Option<Timestamp>) {
    let power = policy.status.as_ref().and_then(|status| status.current_power_watts);
    let draws = power.map(|power| format!("; they draw {power} W")).unwrap_or_default();
    let cap = policy.spec.power_cap_limit_watts;
    let says = format!("{} keeps its pods within {cap} W{draws}.", policy_set_by(policy));
    (says, policy.since(kind::CAP_TRIGGERED, Truth::True))
}

fn of_brake(domain: &PowerDomain) -> (String, Option<Timestamp>) {
    let level = brake(domain);
    let (puller, since) = match brake_reason(domain) {
        Reason::BrakePulled => ("somebody, in spec.brake".to_owned(), None),
        reason => (format!("the recommender ({reason})"), domain.since(kind::BRAKED, Truth::True)),
    };
    let to = if level == Brake::Minimum { "their lowest" } else { "the fallback watts of its nodes" };
    let name = domain.name_any();
    (format!("The brake of powerdomain/{name} was pulled by {puller}: devices go down to {to}."), since)
}

/// What a node may draw, and its devices of that.
#[must_use]
pub fn may_draw(node: &NodeFrequencies) -> String {
    let name = node.name_any();
    let Some(grant) = node.spec.power_limit_watts else { return format!("No domain limits what node {name} may draw") };
    let envelope = node.status.as_ref().and_then(|status| status.envelope_watts);
    let devices = envelope.map(|envelope| format!(" ({envelope} W of it for its devices)")).unwrap_or_default();
    format!("Node {name} may draw {grant} W{devices}")
}

fn draws(node: &NodeFrequencies) -> String {
    let power = node.status.as_ref().and_then(|status| status.power_watts);
    power.map(|power| format!(" and draws {power} W")).unwrap_or_default()
}

/// When the recommender last changed the node's orders.
fn ordered_at(node: &NodeFrequencies) -> Option<Timestamp> {
    let fields = node.metadata.managed_fields.iter().flatten();
    let ours = fields.filter(|field| field.manager.as_deref() == Some(RECOMMENDER) && field.subresource.is_none());
    ours.filter_map(|field| Some(field.time.as_ref()?.0)).max()
}
