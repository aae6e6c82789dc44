//! Tenancy: what the domains of a node permit a policy there.
//!
//! A policy acts in the highest mode that any node of its pods permits. On nodes that permit less it leaves
//! the devices alone and counts what they draw, as it does with devices of others. Where it loses its
//! permission it is as if it were switched off: its ceilings go, since the cap of the domain, which is the
//! physical one, holds without them. Must hold: of several domains around a node the strictest counts. A
//! domain that is not understood forbids nothing that it permitted before: it holds, like all that it does.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet},
};

use powercap_common::{
    api::{Mode, SharedDevices},
    domain::Tenancy,
    policy::Policy,
    reason::Reason,
    selector::{Labels, Selector},
};

use super::{
    domain::DomainView,
    fleet::{Fleet, Pod},
};
use crate::observation::{Hold, Observation};

/// What the domains of each node permit, by the node's index.
pub struct Rules<'a>(Vec<Vec<Rule<'a>>>);

struct Rule<'a> {
    domain: &'a str,
    tenancy: &'a Tenancy,
}

/// What one node permits a policy.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Bounds {
    mode: Mode,
    priority: u32,
    /// `None`: no domain says.
    shared_devices: Option<SharedDevices>,
    /// What of this takes something from the policy, the gravest of it.
    by: Option<Bound>,
}

/// Who takes what from a policy.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Bound {
    rank: Rank,
    domain: String,
    /// In words.
    rule: String,
}

/// How much a rule takes away.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Rank {
    Priority,
    Mode,
    Everything,
}

/// What the nodes of its pods permit a policy.
pub struct Permission {
    /// The mode in which it acts.
    pub mode: Mode,
    /// What is taken from it, and by whom.
    pub bound: Option<Hold>,
    nodes: BTreeMap<usize, Bounds>,
}

impl<'a> Rules<'a> {
    /// Those of the domains that are understood.
    pub fn of(domains: &'a [DomainView], fleet: &Fleet<'_>) -> Self {
        let mut rules: Vec<_> = fleet.nodes.iter().map(|_| Vec::new()).collect();
        for view in domains {
            let Ok(domain) = &view.domain else { continue };
            let Some(tenancy) = &domain.tenancy else { continue };
            view.members.iter().for_each(|&at| rules[at].push(Rule { domain: &domain.name, tenancy }));
        }
        Self(rules)
    }

    fn on(&self, node: usize, policy: &Policy, labels: Option<&Labels>) -> Bounds {
        let mut bounds = Bounds { mode: Mode::Enforce, priority: u32::MAX, shared_devices: None, by: None };
        for Rule { domain, tenancy } in &self.0[node] {
            let selects = |namespaces: &Selector| labels.is_some_and(|labels| namespaces.matches(labels));
            let welcome = tenancy.namespaces.as_ref().is_none_or(selects);
            let (mode, priority) = (if welcome { tenancy.max_mode } else { Mode::Off }, tenancy.max_priority);
            bounds.mode = bounds.mode.min(mode);
            bounds.priority = bounds.priority.min(priority);
            let refused = Some(tenancy.shared_devices).filter(|says| *says == SharedDevices::Refuse);
            bounds.shared_devices = refused.or(bounds.shared_devices).or(Some(SharedDevices::Allow));
            let (rank, rule) = if !welcome {
                (Rank::Everything, format!("permits no policy of namespace {}", policy.id.namespace))
            } else if mode == Mode::Off {
                (Rank::Everything, "permits no policy".to_owned())
            } else if mode < policy.mode {
                (Rank::Mode, format!("permits mode {mode:?} at most"))
            } else if priority < policy.priority {
                (Rank::Priority, format!("permits priority {priority} at most"))
            } else {
                continue;
            };
            if bounds.by.as_ref().is_none_or(|by| by.rank < rank) {
                bounds.by = Some(Bound { rank, domain: (*domain).to_owned(), rule });
            }
        }
        bounds
    }
}

impl Default for Permission {
    /// Where nothing binds.
    fn default() -> Self {
        Self { mode: Mode::Enforce, bound: None, nodes: BTreeMap::new() }
    }
}

impl Permission {
    /// What the nodes of these pods permit.
    pub fn of<'a>(
        policy: &Policy,
        pods: impl Iterator<Item = &'a Pod<'a>>,
        rules: &Rules<'_>,
        fleet: &Fleet<'_>,
        observation: &Observation,
    ) -> Self {
        let labels = observation.namespaces.get(&policy.id.namespace);
        let at: BTreeSet<_> = pods.filter_map(|pod| pod.node).collect();
        let nodes: BTreeMap<_, _> = at.into_iter().map(|at| (at, rules.on(at, policy, labels))).collect();
        let mode = nodes.values().map(|bounds| bounds.mode.min(policy.mode)).max().unwrap_or(policy.mode);
        let bound = gravest(&nodes, fleet);
        Self { mode, bound, nodes }
    }

    /// Whether the policy acts on this node as it does elsewhere.
    pub fn acts_on(&self, node: Option<usize>) -> bool {
        self.bounds(node).is_none_or(|bounds| bounds.mode >= self.mode)
    }

    /// What of a priority counts on this node.
    pub fn priority_on(&self, node: usize, priority: u32) -> u32 {
        self.bounds(Some(node)).map_or(priority, |bounds| bounds.priority.min(priority))
    }

    /// What of a priority counts on every node.
    pub fn priority(&self, priority: u32) -> u32 {
        self.nodes.values().map(|bounds| bounds.priority).min().map_or(priority, |most| most.min(priority))
    }

    /// Whether the policy may act on devices of this node that others use too.
    pub fn shares_on(&self, node: Option<usize>) -> bool {
        self.bounds(node).is_some_and(|bounds| bounds.shared_devices == Some(SharedDevices::Allow))
    }

    fn bounds(&self, node: Option<usize>) -> Option<&Bounds> {
        self.nodes.get(&node?)
    }
}

/// The gravest of what is taken from a policy, for people.
fn gravest(nodes: &BTreeMap<usize, Bounds>, fleet: &Fleet<'_>) -> Option<Hold> {
    let bound = || nodes.iter().filter_map(|(at, bounds)| Some((*at, bounds.by.as_ref()?)));
    // Of equals the first node, so that the message stays the same.
    let (at, by) = bound().min_by_key(|(at, by)| (Reverse(by.rank), *at))?;
    let others = bound().filter(|(_, other)| *other == by).count() - 1;
    let more = if others > 0 { format!(" and {others} more") } else { String::new() };
    let reason = if by.rank == Rank::Everything { Reason::NotPermitted } else { Reason::BoundedByDomain };
    let Bound { domain, rule, .. } = by;
    Some(Hold::new(reason, format!("powerdomain/{domain} {rule} on its nodes: {}{more}", fleet.nodes[at].name)))
}
