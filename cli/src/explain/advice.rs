//! What would free boards that are held back, with the watts where they are known: pure.

use std::collections::BTreeSet;

use kube::ResourceExt;
use powercap_common::{
    api::{GpuStatus, NodeFrequencies, PowerScope},
    units::Watts,
};

use super::{answer::Answer, boards::Board, holder::Holder};
use crate::caps::Caps;

/// Adds what would free these boards of one node, each advice once.
pub fn advise(by: &Holder, boards: &[Board<'_>], caps: &Caps, answer: &mut Answer) {
    let Some((node, _)) = boards.first() else { return };
    let advice = match by.last() {
        Holder::Ceiling(set_by) => vec![raise_policy(set_by, caps)],
        Holder::Grant(domain) => {
            let priorities = boards.iter().filter_map(|(node, gpu)| raise_priority(node, gpu));
            std::iter::once(raise_domain(domain.as_deref(), node, caps)).chain(priorities).collect()
        }
        // Their reasons have a mend of their own.
        Holder::Brake(_) | Holder::Fallback | Holder::Nobody | Holder::Device | Holder::Group(..) => Vec::new(),
    };
    for advice in advice {
        if !answer.can_do.contains(&advice) {
            answer.can_do.push(advice);
        }
    }
}

fn raise_policy(set_by: &str, caps: &Caps) -> String {
    let Some(policy) = caps.policy(set_by) else { return format!("Ask whoever may raise the cap of {set_by}.") };
    let cap = policy.spec.power_cap_limit_watts;
    let maxima: Vec<_> = caps.nodes.iter().flat_map(|node| ordered_by(node, set_by)).map(maximum).collect();
    // Below the threshold no clock is lowered.
    let threshold = f64::from(policy.spec.capping_threshold_percent.max(1)) / 100.0;
    let needed = maxima.iter().copied().sum::<Watts>().scaled(1.0 / threshold).ceil();
    let more = needed.saturating_sub(cap);
    if more == 0 {
        return format!("Raise spec.powerCapLimitWatts of {set_by} (now {cap} W).");
    }
    let host = match policy.spec.power_scope {
        PowerScope::Devices => "",
        PowerScope::DevicesAndHost => ", and the power of their CPU use",
    };
    format!(
        "Raise spec.powerCapLimitWatts of {set_by} (now {cap} W): from {needed} W on, which is {more} W more{host}, it \
         holds none of its {} boards back.",
        maxima.len()
    )
}

fn raise_domain(domain: Option<&str>, node: &NodeFrequencies, caps: &Caps) -> String {
    let name = node.name_any();
    let most = node.status.iter().flat_map(|status| &status.gpus).map(maximum).sum();
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

/// Under a grant, boards of policies with a lower priority give up their watts first: worth raising while
/// boards of another policy on the node give up theirs no sooner.
fn raise_priority(node: &NodeFrequencies, gpu: &GpuStatus) -> Option<String> {
    let ceilings = &node.spec.gpu_frequencies;
    let own = ceilings.iter().find(|ceiling| ceiling.uuid == gpu.uuid)?;
    let beside = ceilings.iter().filter(|other| other.set_by != own.set_by && other.shed_order >= own.shed_order);
    let (mut others, mut highest) = (BTreeSet::new(), own.shed_order);
    for other in beside {
        others.insert(other.set_by.as_str());
        highest = highest.max(other.shed_order);
    }
    let others = others.into_iter().collect::<Vec<_>>().join(" and ");
    (!others.is_empty()).then(|| {
        format!(
            "Raise spec.priority of {} (now {}) above the {highest} of {others}: boards of a lower one give up their \
             watts first.",
            own.set_by, own.shed_order
        )
    })
}

/// The boards of a node whose ceilings serve this cap.
pub fn ordered_by<'a>(node: &'a NodeFrequencies, set_by: &str) -> impl Iterator<Item = &'a GpuStatus> {
    let ceilings = node.spec.gpu_frequencies.iter().filter(move |ceiling| ceiling.set_by == set_by);
    let uuids: BTreeSet<_> = ceilings.map(|ceiling| ceiling.uuid.as_str()).collect();
    node.status.iter().flat_map(|status| &status.gpus).filter(move |gpu| uuids.contains(gpu.uuid.as_str()))
}

fn maximum(gpu: &GpuStatus) -> Watts {
    Watts::new(gpu.max_power_limit_watts)
}
