//! What is known of how many replicas of a policy's workload there are watts for.
//!
//! ```text
//!  the policy's cap ───────────────────────────────┐
//!  what it draws + what its domain has left ───────┴ the least: available
//!  what its pods would draw if nothing held them back,
//!  or drew of late where that is more; the mean ──────────────────┐
//!  what is recommended for a new one ─────────────────────────────┴ the most: each
//! ```
//! A replica counts with what it would draw unhindered: under a cap each draws what the cap leaves it, by which any
//! number would fit.
//!
//! Must hold: nothing that is missing makes more available or a replica smaller; then there is no answer.

use std::collections::{BTreeMap, BTreeSet};

use jiff::SignedDuration;
use powercap_common::{
    policy::{Policy, PolicyId},
    reason::Reason,
    units::Watts,
};

use super::{
    Figures, Judged, demand, domain::DomainView, policy::PolicyView, readings::Readings, reserved, verdict::Verdict,
};
use crate::observation::{Hold, PodFacts};

/// A new pod draws something, and its readings come, within this.
const STARTS_WITHIN: SignedDuration = SignedDuration::from_mins(2);

/// How many replicas there are watts for: what [`crate::scaler::budget`] divides.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Replicas {
    /// Watts that the workload may draw.
    pub available: Watts,
    /// Watts of one replica; above zero.
    pub each: Watts,
}

/// Of every policy that was judged.
pub fn of_policies(
    judged: &Judged<'_>,
    domains: &[DomainView],
    readings: &Readings<'_>,
    figures: &Figures,
) -> BTreeMap<PolicyId, Result<Replicas, Hold>> {
    let known = judged.iter().filter_map(|(view, verdict)| {
        let (policy, verdict) = view.policy.as_ref().ok().zip(verdict.as_ref())?;
        let replicas = each(view, policy, readings).and_then(|each| {
            let available = available(view, policy, verdict, domains, figures)?;
            Ok(Replicas { available, each })
        });
        Some((policy.id.clone(), replicas))
    });
    known.collect()
}

/// What a replica draws.
fn each(view: &PolicyView<'_>, policy: &Policy, readings: &Readings<'_>) -> Result<Watts, Hold> {
    let (mut measured, mut starting) = (Vec::new(), Vec::new());
    for pod in &view.pods {
        // Requests that go elsewhere for a moment make no replica smaller.
        let lately = reserved::remembered(pod, policy.scope, readings);
        let watts = demand::pod_watts(pod, policy.scope, readings).map(|watts| watts.max(lately));
        match watts {
            watts if is_starting(pod.facts, readings) => starting.extend(watts),
            Some(watts) => measured.push(watts),
            None => {
                return Err(Hold::new(
                    Reason::DataStale,
                    format!("nothing tells what pod {} draws", pod.facts.name.name),
                ));
            }
        }
    }
    // One that only loads its model yet would make the others look small.
    let measured = if measured.is_empty() { starting } else { measured };
    let mean = measured.iter().copied().sum::<Watts>().divided(measured.len());
    let each = mean.max(recommended(view).unwrap_or_default());
    if each == Watts::ZERO {
        return Err(Hold::new(
            Reason::DataStale,
            "none of its pods draws anything that the cap counts, and nothing is recommended for new ones yet",
        ));
    }
    Ok(each)
}

/// What is expected of a new pod, whatever is allowed to it.
fn recommended(view: &PolicyView<'_>) -> Option<Watts> {
    let recommended = view.object.status.as_ref()?.recommendation.as_ref()?;
    let watts = recommended.container_recommendations.iter().filter_map(|container| {
        let amount = container.uncapped_target.watts.as_ref().or(container.target.watts.as_ref())?;
        let whole = u32::try_from(amount.quantity().ok()?.ceil()).unwrap_or(u32::MAX);
        Some(Watts::new(whole))
    });
    Some(watts.sum())
}

fn is_starting(pod: &PodFacts, readings: &Readings<'_>) -> bool {
    pod.started.is_some_and(|started| readings.now.duration_since(started) < STARTS_WITHIN)
}

/// What its cap allows, and what the domains around its pods have left.
fn available(
    view: &PolicyView<'_>,
    policy: &Policy,
    verdict: &Verdict<'_>,
    domains: &[DomainView],
    figures: &Figures,
) -> Result<Watts, Hold> {
    let power = verdict.power.clone()?;
    let nodes: BTreeSet<_> = view.pods.iter().filter_map(|pod| pod.node).collect();
    let mut available = policy.cap.saturating_sub(verdict.beside.lost);
    for around in domains.iter().filter(|domain| domain.members.iter().any(|node| nodes.contains(node))) {
        let name = around.object.metadata.name.as_deref().unwrap_or_default();
        let known = figures.domains.get(name).and_then(|domain| Some((domain.cap, domain.power?)));
        let (cap, drawn) = known.ok_or_else(|| {
            Hold::new(Reason::DataStale, format!("nothing tells what PowerDomain {name} draws, in which its pods run"))
        })?;
        available = available.min((power + cap).saturating_sub(drawn));
    }
    Ok(available)
}
