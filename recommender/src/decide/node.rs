//! Nodes: grants and ceilings put together into what is written to each.
//!
//! Must hold: what nothing selects gets no object and no ceiling; a node that nothing caps any more is
//! released in so many words; a ceiling whose policy or device is not understood just now stays.

use std::collections::{BTreeMap, BTreeSet};

use powercap_common::{
    api::{CpuCeiling, GpuCeiling, LeaseTerms, NodeFrequencies, NodeFrequenciesSpec, OnExpiry},
    policy::PolicyId,
    reason::Reason,
    units::{Megahertz, Watts},
};
use serde::Serialize;

use super::{
    domain::DomainView,
    fleet::{Board, Fleet, Pod, is_owned},
    grants::Holding,
    groups::Groups,
    offers::{self, Offer},
    policy::PolicyView,
    promise,
    readings::Readings,
    verdict::Verdict,
};
use crate::observation::Observation;

/// CPUs are slowed no further than this share of their highest clock: devices starve without them.
const CPU_FLOOR: f64 = 0.6;

/// A changed `NodeFrequencies.spec`.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct NodeWrite {
    /// The node, and the object.
    pub name: String,
    /// The node's identity, for the owner reference.
    pub node_uid: String,
    /// The version that the decision was made on; the write is refused when there is a newer one.
    pub resource_version: Option<String>,
    /// What to write.
    pub spec: NodeFrequenciesSpec,
    /// `release` was set by a person: it is left to them.
    pub release_is_a_persons: bool,
    /// The policies that have devices on the node: their ceilings are changed once this is written.
    #[serde(skip)]
    pub policies: Vec<PolicyId>,
}

/// Everything that was decided and that nodes' specs are made of.
pub struct Decided<'a> {
    /// The domains.
    pub domains: &'a [DomainView],
    /// Each node's grant, by index.
    pub grants: &'a [Option<Watts>],
    /// What each node offers to new pods, by index.
    pub offers: &'a [Option<Offer>],
    /// Devices that work in step.
    pub groups: &'a Groups,
    /// The policies, each with what it asks for (none when it is off or not understood).
    pub policies: &'a [(PolicyView<'a>, Option<Verdict<'a>>)],
}

/// The changed specs.
pub fn writes(decided: &Decided<'_>, readings: &Readings<'_>) -> Vec<NodeWrite> {
    let &Readings { fleet, observation, .. } = readings;
    let mut gpus = gpu_ceilings(decided, readings);
    let mut hosts = vec![false; fleet.nodes.len()];
    for (view, _) in decided.policies.iter().filter(|(view, _)| view.enforces()) {
        for at in view.pods.iter().filter_map(|pod| pod.node) {
            hosts[at] = true;
        }
    }
    let mut domains_of = vec![Vec::new(); fleet.nodes.len()];
    for domain in decided.domains {
        for &at in &domain.members {
            domains_of[at].push(domain);
        }
    }
    let writes = (0..fleet.nodes.len())
        .filter_map(|at| {
            let gpus = std::mem::take(&mut gpus[at]);
            let capped = hosts[at] || !domains_of[at].is_empty() || !gpus.is_empty();
            let grant = decided.grants[at];
            let spec = if capped {
                let gpus = gpus.into_values().collect();
                let spec = capped_spec(at, grant, &domains_of[at], gpus, fleet, observation.agent_lease_seconds);
                let offer = decided.offers[at];
                NodeFrequenciesSpec {
                    offer_watts: offer.map(|offer| offer.watts),
                    requested_watts: offer.map(|offer| offer.requested),
                    ..spec
                }
            } else {
                fleet.nodes[at].frequencies?;
                NodeFrequenciesSpec { release: true, ..NodeFrequenciesSpec::default() }
            };
            change(at, spec, capped, fleet, observation)
        })
        .collect();
    concerning(writes, decided.policies, fleet)
}

/// The same writes, with the policies that they concern.
fn concerning(
    mut writes: Vec<NodeWrite>,
    policies: &[(PolicyView<'_>, Option<Verdict<'_>>)],
    fleet: &Fleet<'_>,
) -> Vec<NodeWrite> {
    if writes.is_empty() {
        return writes;
    }
    for (view, _) in policies {
        let Ok(policy) = &view.policy else { continue };
        let nodes = |board: &&Board<'_>| [board.node, board.ceiling.map(|(at, _)| at)];
        let nodes: BTreeSet<_> = view.devices.iter().flat_map(nodes).flatten().collect();
        for at in nodes {
            // The writes are in the order of the nodes.
            if let Ok(place) = writes.binary_search_by_key(&fleet.nodes[at].name, |write| write.name.as_str()) {
                writes[place].policies.push(policy.id.clone());
            }
        }
    }
    writes
}

/// The write that makes the spec so, if it is not so already.
fn change(
    at: usize,
    mut spec: NodeFrequenciesSpec,
    capped: bool,
    fleet: &Fleet<'_>,
    observation: &Observation,
) -> Option<NodeWrite> {
    let node = &fleet.nodes[at];
    let existing = node.frequencies.map(|object| &object.spec);
    // We write either caps or a release; both together are a person's doing.
    let released_by_a_person = existing.is_some_and(|spec| {
        spec.release
            && (spec.power_limit_watts.is_some()
                || !spec.gpu_frequencies.is_empty()
                || !spec.cpu_frequencies.is_empty())
    });
    spec.release |= released_by_a_person;
    spec.node_name = node.name.to_owned();
    if let Some(existing) = existing {
        (spec.epoch, spec.committed_watts) = (existing.epoch, existing.committed_watts);
        spec.committed_offer_watts = existing.committed_offer_watts;
    }
    // An object of an earlier Node of this name would be deleted with it, and the node's commitment forgotten.
    let adopted = node.frequencies.is_some_and(|object| !is_owned(object, node.facts));
    let changed = adopted || existing.is_none_or(|existing| spec != *existing);
    // A node that nothing caps has no part in the protocol: its release is written once.
    let holding = Holding { in_term: node.holding.in_term || !capped, ..node.holding };
    let (standing, grant) = (existing.map(|spec| spec.epoch), spec.power_limit_watts.map(Watts::new));
    let promise = promise::next(holding, standing, observation.epoch, grant, changed)?;
    (spec.epoch, spec.committed_watts) = (promise.epoch, promise.committed.map(Watts::ceil));
    let offer = spec.offer_watts.map(|watts| Offer { watts, requested: spec.requested_watts.unwrap_or_default() });
    spec.committed_offer_watts = offers::committed(node.frequencies, offer);
    let object: Option<&NodeFrequencies> = observation.frequencies.get(node.name).map(AsRef::as_ref);
    Some(NodeWrite {
        name: node.name.to_owned(),
        node_uid: node.facts.uid.clone(),
        resource_version: object.and_then(|object| object.metadata.resource_version.clone()),
        spec,
        release_is_a_persons: released_by_a_person,
        policies: Vec::new(),
    })
}

fn capped_spec(
    at: usize,
    grant: Option<Watts>,
    domains: &[&DomainView],
    gpu_frequencies: Vec<GpuCeiling>,
    fleet: &Fleet<'_>,
    lease_seconds: Option<u32>,
) -> NodeFrequenciesSpec {
    let existing = fleet.nodes[at].frequencies.map(|object| &object.spec);
    let not_understood = domains.iter().any(|domain| domain.domain.is_err());
    let mut names: Vec<_> = domains.iter().filter_map(|view| view.object.metadata.name.clone()).collect();
    names.sort();
    NodeFrequenciesSpec {
        domains: names,
        power_limit_watts: grant.map(Watts::floor),
        node_overhead: fleet.nodes[at].overhead,
        gpu_frequencies,
        cpu_frequencies: cpu_ceilings(at, grant, domains, fleet),
        lease: lease_seconds.map(|seconds| lease(seconds, domains, existing.filter(|_| not_understood))),
        ..NodeFrequenciesSpec::default()
    }
}

/// The terms of silence, with the least of the domains' fallbacks. `before` is what stands where a domain
/// is not understood just now.
fn lease(duration_seconds: u32, domains: &[&DomainView], before: Option<&NodeFrequenciesSpec>) -> LeaseTerms {
    let fallbacks = domains.iter().filter_map(|view| view.domain.as_ref().ok()?.fallback).map(Watts::floor);
    let fallback_watts = fallbacks.chain(before.and_then(|spec| spec.lease?.fallback_watts)).min();
    let on_expiry = if fallback_watts.is_some() { OnExpiry::Fallback } else { OnExpiry::Hold };
    LeaseTerms { duration_seconds, on_expiry, fallback_watts }
}

/// CPUs under a grant below what the node can draw are slowed in the same proportion.
fn cpu_ceilings(at: usize, grant: Option<Watts>, domains: &[&DomainView], fleet: &Fleet<'_>) -> Vec<CpuCeiling> {
    let object = fleet.nodes[at].frequencies;
    let status = object.and_then(|object| object.status.as_ref());
    let before = || object.map(|object| object.spec.cpu_frequencies.clone()).unwrap_or_default();
    let Some(grant) = grant else { return Vec::new() };
    // Of several domains the one with the least for each of its nodes.
    let understood = domains.iter().filter_map(|view| Some((*view, view.domain.as_ref().ok()?)));
    let least = understood.min_by_key(|(view, domain)| view.watts(domain).divided(view.members.len()));
    let Some((_, domain)) = least else { return before() };
    let (Some(maximum), Some(status)) = (fleet.nodes[at].nameplate, status) else { return before() };
    if grant >= maximum {
        return Vec::new();
    }
    let ratio = (grant.as_f64() / maximum.as_f64()).max(CPU_FLOOR);
    let ceiling = |cpu: &powercap_common::api::CpuStatus| CpuCeiling {
        cpufreq_policy: cpu.cpufreq_policy,
        max_megahertz: Megahertz::new(cpu.max_megahertz).scaled(ratio).get().max(cpu.min_megahertz).max(1),
        reason: Reason::DomainCap.to_string(),
        set_by: domain.set_by(),
    };
    status.cpus.iter().map(ceiling).collect()
}

/// The ceilings of each node's GPUs, by UUID: the lowest of what policies ask for.
fn gpu_ceilings(decided: &Decided<'_>, readings: &Readings<'_>) -> Vec<BTreeMap<String, GpuCeiling>> {
    let &Readings { fleet, .. } = readings;
    let mut nodes = vec![BTreeMap::new(); fleet.nodes.len()];
    let mut ask = |at: usize, ceiling: GpuCeiling| {
        let ceilings: &mut BTreeMap<String, GpuCeiling> = &mut nodes[at];
        let both = ceilings.remove(&ceiling.uuid).map_or(ceiling.clone(), |other| lower(other, ceiling));
        ceilings.insert(both.uuid.clone(), both);
    };
    for (view, _) in decided.policies {
        let set_by = view.set_by();
        let standing = fleet.ceilings_by(&set_by);
        for (_, at, ceiling) in standing.filter(|(board, at, _)| stands(view, board, *at, readings)) {
            ask(at, ceiling.clone());
        }
    }
    for (view, verdict) in decided.policies.iter().filter(|(view, _)| view.enforces()) {
        let Some(verdict) = verdict else { continue };
        for (board, limit) in view.devices.iter().zip(&verdict.limits) {
            let Some(at) = board.node else { continue };
            let ceiling = GpuCeiling {
                uuid: board.uuid.to_owned(),
                max_graphics_megahertz: verdict.ceilings.of(board).map(|ceiling| ceiling.get()),
                // The bounds of the field: one value outside them and the API server refuses the whole object.
                power_limit_watts: Some(limit.floor().clamp(1, 100_000)),
                shed_order: view.policy.as_ref().map_or(0, |policy| view.permission.priority_on(at, policy.priority)),
                group: decided.groups.name(board).map(str::to_owned),
                reason: Reason::PolicyCap.to_string(),
                set_by: view.set_by(),
            };
            ask(at, ceiling);
        }
    }
    nodes
}

/// Whether a ceiling that a policy set earlier stands although the policy does not ask for it now.
pub fn stands(view: &PolicyView<'_>, board: &Board<'_>, at: usize, readings: &Readings<'_>) -> bool {
    if view.policy.is_err() {
        return true;
    }
    if view.is_unresolved() {
        return !is_foreign(view, board, readings);
    }
    let asked_for = board.tenants.iter().any(|pod| view.place(*pod).is_some());
    let on_node = || view.pods.iter().any(|pod| pod.node == Some(at));
    if asked_for || !view.enforces() || !on_node() || !view.permission.acts_on(Some(at)) {
        return false;
    }
    // The policy still has pods on this node, and nobody says whose the device is: labels get lost.
    board.tenants.is_empty() || readings.of_board(board).is_err()
}

/// Whether pods are known to use a device, of which none can be the policy's: they are of other namespaces.
fn is_foreign(view: &PolicyView<'_>, board: &Board<'_>, readings: &Readings<'_>) -> bool {
    let namespace = view.object.metadata.namespace.as_ref();
    let may_be_ours = |pod: &Pod<'_>| Some(&pod.facts.name.namespace) == namespace;
    !board.tenants.is_empty() && !readings.fleet.tenants_of(board).any(may_be_ours)
}

/// Of two ceilings of one device the lower in each respect; the lower clock names who is to be asked.
fn lower(one: GpuCeiling, other: GpuCeiling) -> GpuCeiling {
    let least = |one: Option<u32>, other: Option<u32>| one.into_iter().chain(other).min();
    let strictness = |ceiling: &GpuCeiling| {
        (ceiling.max_graphics_megahertz.unwrap_or(u32::MAX), ceiling.power_limit_watts.unwrap_or(u32::MAX))
    };
    let max_graphics_megahertz = least(one.max_graphics_megahertz, other.max_graphics_megahertz);
    let power_limit_watts = least(one.power_limit_watts, other.power_limit_watts);
    let shed_order = one.shed_order.max(other.shed_order);
    let binding = if strictness(&other) < strictness(&one) { other } else { one };
    GpuCeiling { max_graphics_megahertz, power_limit_watts, shed_order, ..binding }
}
