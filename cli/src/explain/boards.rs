//! Why boards run as they do: their rows, the causes that hold them back, each said once, and what would
//! free them. Pure.

use std::collections::BTreeMap;

use jiff::Timestamp;
use kube::ResourceExt;
use powercap_common::{
    api::{Brake, GpuStatus, NodeFrequencies, PowerScope},
    condition::kind,
    reason::Reason,
    units::Watts,
};

use super::{
    answer::{Answer, Cause},
    holder::{Holder, holder},
};
use crate::{
    caps::{Caps, brake},
    rows::BoardRow,
};

/// A board on its node.
pub type Board<'a> = (&'a NodeFrequencies, &'a GpuStatus);

/// How many of some boards are held back by caps, how far, and by whom.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Held {
    /// All of them.
    pub boards: usize,
    /// Those that a cap holds back.
    pub held: usize,
    /// Those with which something is wrong.
    pub troubled: usize,
    /// How far: the lowest ceiling and the lowest limit of those that are held back, with the most that
    /// these boards could do.
    pub bounds: Vec<String>,
    /// By whom.
    pub by: Vec<String>,
}

impl Held {
    /// All of them, counted.
    #[must_use]
    pub fn all(&self) -> String {
        format!("{} {}", self.boards, if self.boards == 1 { "board" } else { "boards" })
    }

    /// Those that a cap holds back.
    #[must_use]
    pub fn part(&self) -> String {
        match self.boards {
            1 => "its one board".to_owned(),
            all if all == self.held => format!("all its boards ({all})"),
            all => format!("{} of its {all} boards", self.held),
        }
    }

    /// How far they are held back.
    #[must_use]
    pub fn down_to(&self) -> String {
        if self.bounds.is_empty() { String::new() } else { format!(", down to {}", self.bounds.join(" and ")) }
    }

    /// What is to be said of those with which something is wrong.
    #[must_use]
    pub fn trouble(&self) -> String {
        match self.troubled {
            0 => String::new(),
            troubled => format!(" Something is wrong with {troubled} of {}.", self.all()),
        }
    }
}

/// Adds rows, causes and advice to an answer.
pub fn explain(boards: &[Board<'_>], caps: &Caps, answer: &mut Answer) -> Held {
    answer.boards = boards.iter().map(|(node, gpu)| BoardRow::of(node, gpu)).collect();
    BoardRow::shorten(&mut answer.boards);
    let mut causes = BTreeMap::<(String, String, Holder), Vec<&Board<'_>>>::new();
    for board in boards {
        let (node, gpu) = board;
        let by = holder(node, gpu, caps);
        if by != Holder::Nobody {
            causes.entry((gpu.reason.clone(), node.name_any(), by)).or_default().push(board);
        }
    }
    let short: BTreeMap<_, _> = answer.boards.iter().map(|row| (row.uuid.clone(), row.short.clone())).collect();
    let mut held = Held { boards: boards.len(), ..Held::default() };
    let mut capped = Vec::new();
    for ((reason, _, by), of) in &causes {
        let Some((node, _)) = of.first() else { continue };
        answer.why.push(cause(reason, by, node, of.len(), caps, &short));
        if by.caps() {
            held.held += of.len();
            capped.extend(of.iter().map(|(_, gpu)| gpu));
            held.by.push(by.to_string());
            advise(by, node, caps, answer);
        } else {
            held.troubled += of.len();
        }
    }
    held.by.sort();
    held.by.dedup();
    held.bounds = bounds(&capped);
    held
}

/// The lowest clock ceiling and power limit in force, next to the most of the same board.
fn bounds(gpus: &[&&GpuStatus]) -> Vec<String> {
    let ceilings = gpus.iter().filter_map(|gpu| Some((gpu.target_graphics_megahertz?, gpu.max_graphics_megahertz)));
    let limits = gpus.iter().filter_map(|gpu| Some((gpu.power_limit_watts?, gpu.max_power_limit_watts)));
    let lowest = |(bound, most): (u32, u32), unit: &str| format!("{bound} of {most} {unit}");
    let clock = ceilings.filter(|(ceiling, most)| ceiling < most).min().map(|bound| lowest(bound, "MHz"));
    let limit = limits.filter(|(limit, most)| limit < most).min().map(|bound| lowest(bound, "W"));
    clock.into_iter().chain(limit).collect()
}

fn cause(
    reason: &str,
    by: &Holder,
    node: &NodeFrequencies,
    boards: usize,
    caps: &Caps,
    short: &BTreeMap<String, String>,
) -> Cause {
    let of = format!("{boards} {} on node {}", if boards == 1 { "board" } else { "boards" }, node.name_any());
    let (particulars, since) = particulars(by, node, caps, short);
    match reason.parse() {
        Ok(reason) => Cause::new(reason, of, &particulars, since),
        Err(_) => Cause { reason: reason.to_owned(), of, says: particulars, since },
    }
}

/// The numbers behind a bound, and since when it stands where that can be known.
fn particulars(
    by: &Holder,
    node: &NodeFrequencies,
    caps: &Caps,
    short: &BTreeMap<String, String>,
) -> (String, Option<Timestamp>) {
    let name = node.name_any();
    match by {
        Holder::Ceiling(set_by) => match caps.policy(set_by) {
            Some(policy) => {
                let cap = policy.spec.power_cap_limit_watts;
                let power = policy.status.as_ref().and_then(|status| status.current_power_watts);
                let draws = power.map(|power| format!("; they draw {power} W")).unwrap_or_default();
                let conditions = policy.status.as_ref().map(|status| status.conditions.as_slice()).unwrap_or_default();
                let since = transition(conditions, kind::CAP_TRIGGERED, "True");
                (format!("{set_by} keeps its pods within {cap} W{draws}."), since)
            }
            None => (format!("It is {set_by}."), None),
        },
        Holder::Grant(domain) => {
            let by = domain.as_ref().map(|domain| format!(" by powerdomain/{domain}")).unwrap_or_default();
            (format!("{}{by}{}.", may_draw(node), draws(node)), ordered_at(node))
        }
        Holder::Brake(domain) => {
            let Some(domain) = caps.domain(domain) else { return (String::new(), None) };
            let status = domain.status.as_ref();
            let by_recommender = status.and_then(|status| status.brake.as_ref());
            let level = brake(domain);
            let (puller, since) = match by_recommender.filter(|_| level != domain.spec.brake) {
                Some(brake) => {
                    let conditions = status.map(|status| status.conditions.as_slice()).unwrap_or_default();
                    (format!("the recommender ({})", brake.reason), transition(conditions, kind::BRAKED, "True"))
                }
                None => ("somebody, in spec.brake".to_owned(), None),
            };
            let to = if level == Brake::Minimum { "their lowest" } else { "the fallback watts of its nodes" };
            (
                format!(
                    "The brake of powerdomain/{} was pulled by {puller}: devices go down to {to}.",
                    domain.name_any()
                ),
                since,
            )
        }
        Holder::Fallback => {
            let watts = node.spec.lease.and_then(|lease| lease.fallback_watts).unwrap_or_default();
            let conditions = node.status.as_ref().map(|status| status.conditions.as_slice()).unwrap_or_default();
            let since = transition(conditions, kind::LEASE_CURRENT, "False");
            (format!("Node {name} may draw {watts} W until the Lease is renewed{}.", draws(node)), since)
        }
        Holder::Group(uuid, slowest) => {
            let board = short.get(uuid).unwrap_or(uuid);
            let (behind, since) = particulars(slowest, node, caps, short);
            let reason = node.status.iter().flat_map(|status| &status.gpus).find(|gpu| gpu.uuid == *uuid);
            let reason = reason.map(|gpu| gpu.reason.as_str()).unwrap_or_default();
            let explanation = reason.parse().map_or("", Reason::explanation);
            (format!("That is {board} ({reason}): {explanation} {behind}").trim_end().to_owned(), since)
        }
        Holder::Nobody | Holder::Device => {
            let conditions = node.status.as_ref().map(|status| status.conditions.as_slice()).unwrap_or_default();
            (String::new(), transition(conditions, kind::READY, "False"))
        }
    }
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
    let ours =
        fields.filter(|field| field.manager.as_deref() == Some("powercap-recommender") && field.subresource.is_none());
    ours.filter_map(|field| Some(field.time.as_ref()?.0)).max()
}

fn transition(
    conditions: &[k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition],
    type_: &str,
    status: &str,
) -> Option<Timestamp> {
    let condition = conditions.iter().find(|condition| condition.type_ == type_ && condition.status == status)?;
    Some(condition.last_transition_time.0)
}

/// What would free the boards, with the watts where they are known.
fn advise(by: &Holder, node: &NodeFrequencies, caps: &Caps, answer: &mut Answer) {
    let advice = match by.last() {
        Holder::Ceiling(set_by) => raise_policy(set_by, caps),
        Holder::Grant(domain) => raise_domain(domain.as_deref(), node, caps),
        // Their reasons have a mend of their own.
        Holder::Brake(_) | Holder::Fallback | Holder::Nobody | Holder::Device | Holder::Group(..) => return,
    };
    if !answer.can_do.contains(&advice) {
        answer.can_do.push(advice);
    }
}

fn raise_policy(set_by: &str, caps: &Caps) -> String {
    let Some(policy) = caps.policy(set_by) else { return format!("Ask whoever may raise the cap of {set_by}.") };
    let cap = policy.spec.power_cap_limit_watts;
    let mut most = Watts::ZERO;
    let mut boards = 0;
    for node in &caps.nodes {
        let ours = |gpu: &&GpuStatus| {
            node.spec.gpu_frequencies.iter().any(|ceiling| ceiling.uuid == gpu.uuid && ceiling.set_by == set_by)
        };
        for gpu in node.status.iter().flat_map(|status| &status.gpus).filter(ours) {
            most = most + Watts::new(gpu.max_power_limit_watts);
            boards += 1;
        }
    }
    // Below the threshold no clock is lowered.
    let threshold = f64::from(policy.spec.capping_threshold_percent.max(1)) / 100.0;
    let needed = most.scaled(1.0 / threshold).ceil();
    let host =
        if policy.spec.power_scope == PowerScope::DevicesAndHost { ", and the power of their CPU use" } else { "" };
    let more = needed.saturating_sub(cap);
    if boards == 0 || more == 0 {
        return format!("Raise spec.powerCapLimitWatts of {set_by} (now {cap} W).");
    }
    format!(
        "Raise spec.powerCapLimitWatts of {set_by} (now {cap} W): from {needed} W on, which is {more} W more{host}, it holds none of its {boards} boards back."
    )
}

fn raise_domain(domain: Option<&str>, node: &NodeFrequencies, caps: &Caps) -> String {
    let name = node.name_any();
    let boards = node.status.iter().flat_map(|status| &status.gpus);
    let most: Watts = boards.map(|gpu| Watts::new(gpu.max_power_limit_watts)).sum();
    let needed = node.spec.node_overhead.node_power(most).ceil();
    let more = node.spec.power_limit_watts.map(|grant| needed.saturating_sub(grant)).filter(|more| *more > 0);
    let needs = more.map(|more| {
        format!(
            ": for all its boards at their most node {name} needs {more} W more than its grant, and those of its CPUs"
        )
    });
    let what = domain.map_or_else(
        || "the caps of the node's domains".to_owned(),
        |name| {
            let cap = caps.domain(name).map(|domain| format!(" (now {} W)", domain.spec.power_cap_limit_watts));
            format!("spec.powerCapLimitWatts of powerdomain/{name}{}", cap.unwrap_or_default())
        },
    );
    format!("Raise {what}, or free watts of its other nodes{}.", needs.unwrap_or_default())
}
