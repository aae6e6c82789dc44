//! Where a pod can go: a node outside of the domain in need, with room for it, whose own domains have watts for it.
//!
//! Must hold: what is not known of a domain is never headroom. Whether the pod really fits the scheduler says, of the
//! placeholder: here is judged what it would refuse for sure. Watts that the node does not offer yet are no hindrance:
//! offers follow pods that wait for them.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet},
};

use k8s_openapi::api::core::v1::{Taint, Toleration};
use powercap_common::{
    api::{Brake, PowerDomain, WATTS},
    condition::{self, Truth, kind},
    domain::RELEASES_PERCENT,
    selector::{Labels, Selector},
};

use crate::escalate::{
    migrate::facts::{Amounts, NodeFacts},
    observation::{Observation, PodFacts},
};

/// Who leaves what, and what for.
pub(super) struct Trip<'a> {
    pub pod: &'a PodFacts,
    pub source: &'a str,
    /// The domain that is above its cap.
    pub domain: &'a PowerDomain,
    /// What the pod draws.
    pub watts: u32,
}

/// What nodes and domains have left.
pub(in crate::escalate::decide) struct Rooms<'a> {
    nodes: BTreeMap<&'a str, Room<'a>>,
    domains: BTreeMap<&'a str, Budget<'a>>,
}

struct Room<'a> {
    facts: &'a NodeFacts,
    free: Amounts,
    /// The domains around it.
    within: BTreeSet<&'a str>,
}

struct Budget<'a> {
    object: &'a PowerDomain,
    nodes: Option<Selector>,
    /// What pods on their way there will draw.
    coming: u32,
}

impl<'a> Rooms<'a> {
    pub fn of(seen: &'a Observation) -> Self {
        let domains = seen.domains.iter().filter_map(|object| {
            let budget = Budget { object, nodes: Selector::try_from(&object.spec.node_selector).ok(), coming: 0 };
            Some((object.metadata.name.as_deref()?, budget))
        });
        let mut domains: BTreeMap<_, _> = domains.collect();
        let room = |(name, facts): (&'a String, &'a std::sync::Arc<NodeFacts>)| {
            let within = around(&domains, &facts.labels);
            (name.as_str(), Room { facts, free: facts.allocatable.clone(), within })
        };
        let mut nodes: BTreeMap<_, _> = seen.nodes.iter().map(room).collect();
        for pod in seen.pods.values() {
            if let Some(room) = pod.node.as_deref().and_then(|node| nodes.get_mut(node)) {
                room.free.take(&pod.wants.requests);
            }
        }
        for policy in &seen.policies {
            let Some(escalated) = policy.status.as_ref().and_then(|status| status.escalated.as_ref()) else { continue };
            let (Some(migration), Some(last)) = (&escalated.migration, &escalated.last) else { continue };
            for domain in nodes.get(migration.destination()).into_iter().flat_map(|room| &room.within) {
                if let Some(budget) = domains.get_mut(domain) {
                    budget.coming = budget.coming.saturating_add(last.frees_watts);
                }
            }
        }
        Self { nodes, domains }
    }

    /// The node with the most watts left, of those that the pod can go to and that are not among these.
    pub(super) fn choose(&self, trip: &Trip<'_>, without: &[String]) -> Option<String> {
        let shared = self.nodes.get(trip.source).map(|room| &room.within);
        let need = trip.domain.metadata.name.as_deref().unwrap_or_default();
        let takes = |name: &str, room: &Room<'_>| {
            name != trip.source
                && !without.iter().any(|tried| tried == name)
                && !room.within.contains(need)
                && room.takes(trip.pod)
                && room.within.iter().all(|domain| {
                    let stays_within = shared.is_some_and(|shared| shared.contains(domain));
                    stays_within || self.domains.get(domain).is_some_and(|budget| budget.has(trip.watts))
                })
        };
        let mut fitting: Vec<_> = self.nodes.iter().filter(|(name, room)| takes(name, room)).collect();
        fitting.sort_by_key(|(name, room)| (Reverse(room.free.whole(WATTS)), **name));
        fitting.first().map(|(name, _)| (**name).to_owned())
    }

    /// What a node advertises beyond what its pods request; none where it advertises nothing.
    pub fn free_watts(&self, node: &str) -> Option<u64> {
        let room = self.nodes.get(node)?;
        room.facts.allocatable.iter().any(|(resource, _)| resource == WATTS).then(|| room.free.whole(WATTS))
    }
}

/// The domains that a node of these labels stands in, and those around them.
fn around<'a>(domains: &BTreeMap<&'a str, Budget<'a>>, labels: &Labels) -> BTreeSet<&'a str> {
    let mut within = BTreeSet::new();
    let selecting = |budget: &&Budget<'_>| budget.nodes.as_ref().is_none_or(|selector| selector.matches(labels));
    for budget in domains.values().filter(selecting) {
        let mut next = budget.object.metadata.name.as_deref();
        // Each once: parents may lead back.
        while let Some(name) = next.filter(|name| within.insert(*name)) {
            let parent = domains.get(name).and_then(|budget| budget.object.spec.parent_ref.as_ref());
            next = parent.map(|parent| parent.name.as_str());
        }
    }
    within
}

impl Room<'_> {
    fn takes(&self, pod: &PodFacts) -> bool {
        let (facts, wants) = (self.facts, &pod.wants);
        let borne = |taint: &Taint| {
            taint.effect == "PreferNoSchedule" || wants.tolerations.iter().any(|toleration| bears(toleration, taint))
        };
        !facts.cordoned
            && facts.mark.is_none()
            && facts.taints.iter().all(borne)
            && wants.node_selector.iter().all(|(label, value)| facts.labels.get(label) == Some(value))
            && self.free.holds(&wants.requests, WATTS)
    }
}

fn bears(toleration: &Toleration, taint: &Taint) -> bool {
    let is = |written: &Option<String>, own: &str| written.as_deref().is_none_or(|text| text.is_empty() || text == own);
    let value = toleration.value.as_deref().unwrap_or_default();
    let equal = toleration.operator.as_deref() == Some("Exists") || value == taint.value.as_deref().unwrap_or_default();
    is(&toleration.key, &taint.key) && is(&toleration.effect, &taint.effect) && equal
}

impl Budget<'_> {
    fn has(&self, watts: u32) -> bool {
        let Some(status) = &self.object.status else { return false };
        let (spec, sum) = (&self.object.spec, u64::from(self.coming) + u64::from(watts));
        let fits = |power: u32| {
            (u64::from(power) + sum) * 100 <= u64::from(spec.power_cap_limit_watts) * u64::from(RELEASES_PERCENT)
        };
        status.pending_actions.is_empty()
            && spec.brake == Brake::None
            && status.brake.as_ref().is_none_or(|brake| brake.level == Brake::None)
            && condition::truth(&status.conditions, kind::DATA_FRESH) == Truth::True
            && status.current_power_watts.is_some_and(fits)
    }
}
