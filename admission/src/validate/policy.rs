//! Judges a policy. Pure.

use std::{collections::BTreeSet, sync::Arc};

use powercap_common::{
    api::{ControlledResource, Mode, NodeFrequencies, OPT_IN, PowerCappingPolicy, PowerDomain},
    board,
    domain::Tenancy,
    policy::{Policy, selects},
    selector::Labels,
    target::Controller,
    units::Watts,
};

use super::verdict::{Verdict, some_of};

/// What a policy is judged beside; `None` is what could not be looked up.
#[derive(Clone, Debug, Default)]
pub struct PolicyWorld {
    /// The other policies.
    pub policies: Vec<Arc<PowerCappingPolicy>>,
    /// Every domain.
    pub domains: Vec<Arc<PowerDomain>>,
    /// What the nodes' boards are, and whose.
    pub nodes: Vec<Arc<NodeFrequencies>>,
    /// The labels of its namespace.
    pub namespace: Option<Labels>,
    /// Whether the workload exists that it names.
    pub target_exists: Option<bool>,
    /// The pods that its selector matches.
    pub pods: Option<Vec<PodSeen>>,
}

/// A pod that a policy selects.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PodSeen {
    /// Its name.
    pub name: String,
    /// Its labels.
    pub labels: Labels,
    /// What controls it.
    pub controller: Option<Controller>,
}

/// What is made of a policy; `new` is one that was not there before.
#[must_use]
pub fn judge_policy(object: &PowerCappingPolicy, new: bool, world: &PolicyWorld) -> Verdict {
    let policy = match Policy::try_from(object) {
        Ok(policy) => policy,
        Err(error) => return Verdict::refuse(error.to_string()),
    };
    if let Some(crossed) = crossed_amounts(object) {
        return Verdict::refuse(crossed);
    }
    let pods = world.pods.as_deref().unwrap_or_default();
    let opt_in = opt_in(&policy, world).filter(|_| new);
    let all = [missing_target(object, world), opt_in, overlap(object, &policy, pods, world)];
    let warnings = all.into_iter().flatten().chain(tenancy(&policy, world)).chain(floor(&policy, pods, world));
    Verdict { refused: None, warnings: warnings.collect() }
}

/// A least that is above its most: nothing could be recommended.
fn crossed_amounts(object: &PowerCappingPolicy) -> Option<String> {
    let resources = [ControlledResource::Cpu, ControlledResource::Memory, ControlledResource::Watts];
    let policies = &object.spec.resource_policy.container_policies;
    let pairs = policies.iter().flat_map(|policy| resources.map(|resource| (policy, resource)));
    pairs.into_iter().find_map(|(policy, resource)| {
        let (least, most) = (policy.min_allowed.of(resource)?, policy.max_allowed.of(resource)?);
        let crossed = least.quantity().ok()? > most.quantity().ok()?;
        crossed.then(|| {
            format!(
                "spec.resourcePolicy.containerPolicies[{}].minAllowed ({}) is above its maxAllowed ({}) of the same resource; lower the one or raise the other",
                policy.container_name, least.0, most.0
            )
        })
    })
}

fn missing_target(object: &PowerCappingPolicy, world: &PolicyWorld) -> Option<String> {
    let target = object.spec.target_ref.as_ref().filter(|_| world.target_exists == Some(false))?;
    Some(format!("spec.targetRef names {target}, which does not exist yet; nothing is capped until it does"))
}

fn opt_in(policy: &Policy, world: &PolicyWorld) -> Option<String> {
    let (label, value) = OPT_IN;
    let labels = world.namespace.as_ref().filter(|_| policy.mode != Mode::Off)?;
    let namespace = &policy.id.namespace;
    (labels.get(label).is_none_or(|written| written != value)).then(|| {
        format!(
            "namespace {namespace} has not opted in to admission, so requests of its new pods stay as they are (caps hold all the same); label it {label}={value} to have them set"
        )
    })
}

/// Other policies for the same pods.
fn overlap(object: &PowerCappingPolicy, policy: &Policy, pods: &[PodSeen], world: &PolicyWorld) -> Option<String> {
    let is_other = |other: &&Arc<PowerCappingPolicy>| {
        other.metadata.namespace == object.metadata.namespace
            && other.metadata.name != object.metadata.name
            && other.spec.mode != Mode::Off
    };
    let shared = |other: &&Arc<PowerCappingPolicy>| {
        pods.iter().any(|pod| selects(other, &pod.labels, pod.controller.as_ref()))
            || (object.spec.target_ref.is_some() && other.spec.target_ref == object.spec.target_ref)
    };
    let others = world.policies.iter().filter(is_other).filter(shared);
    let others: BTreeSet<_> = others.filter_map(|other| other.metadata.name.as_deref()).collect();
    if others.is_empty() || policy.mode == Mode::Off {
        return None;
    }
    Some(format!(
        "policies {} select some of the same pods: all caps hold, and for the rest the highest spec.priority comes first, then the oldest",
        some_of(others.iter().copied())
    ))
}

/// Domains that permit less than is asked for, wherever the pods may run.
fn tenancy(policy: &Policy, world: &PolicyWorld) -> Vec<String> {
    let bound = |object: &Arc<PowerDomain>| {
        let name = object.metadata.name.as_deref()?;
        let tenancy = Tenancy::try_from(object.spec.tenancy.as_ref()?).ok()?;
        let welcome = match (&tenancy.namespaces, &world.namespace) {
            (Some(namespaces), Some(labels)) => namespaces.matches(labels),
            (Some(_), None) => return None,
            (None, _) => true,
        };
        let permits = if !welcome {
            format!("no policy of namespace {}", policy.id.namespace)
        } else if tenancy.max_mode < policy.mode {
            format!("spec.mode {:?} at most, not {:?}", tenancy.max_mode, policy.mode)
        } else if tenancy.max_priority < policy.priority {
            format!("spec.priority {} at most, not {}", tenancy.max_priority, policy.priority)
        } else {
            return None;
        };
        Some(format!("powerdomain/{name} permits {permits}: on its nodes the policy does no more than that"))
    };
    if policy.mode == Mode::Off { Vec::new() } else { world.domains.iter().filter_map(bound).collect() }
}

/// A cap that the boards of the selected pods cannot keep.
fn floor(policy: &Policy, pods: &[PodSeen], world: &PolicyWorld) -> Option<String> {
    let names: BTreeSet<_> = pods.iter().map(|pod| pod.name.as_str()).collect();
    let boards = world.nodes.iter().filter_map(|node| node.status.as_ref()).flat_map(|status| &status.gpus);
    let held: Vec<_> = boards
        .filter(|board| {
            let mut tenants = board.tenants.iter().flatten();
            tenants.any(|pod| pod.namespace == policy.id.namespace && names.contains(pod.name.as_str()))
        })
        .collect();
    let floor: Watts = held.iter().map(|board| board::floor(board)).sum();
    (floor > policy.cap && policy.mode != Mode::Off).then(|| {
        format!(
            "spec.powerCapLimitWatts ({}) is below about {} W, which the {} boards of its pods draw at their lowest clock; raise it, or run fewer of them",
            policy.cap.floor(),
            floor.ceil(),
            held.len()
        )
    })
}
