//! Trees of domains: who stands within whom, and how the watts of a domain come down to its nodes.
//!
//! ```text
//!   hall   12 kW ──┬─ row a   8 kW ──┬─ rack 1   3 kW ── n0, n1        a domain's nodes are its own and
//!                  │                 └─ rack 2   9 kW ── n2, n3        those of all domains within it
//!                  └─ row b   9 kW ──── n4
//! ```
//!
//! From the leaves to the root each domain shares out what it has, and no node gets more than it got further
//! down: what one rack cannot use goes to the others. Must hold: no cap loosens another, in whatever way
//! people tie domains together; a domain whose parents are not known raises nothing.

use std::{cmp::Reverse, collections::BTreeMap};

use powercap_common::{reason::Reason, units::Watts};

use super::{domain::DomainView, fleet::Fleet};
use crate::{
    algorithms::{Claim, share_out},
    observation::Hold,
};

/// What is wrong with where a domain stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Misplaced {
    /// Its parent does not exist.
    Orphan {
        /// The name that `parentRef` gives.
        parent: String,
    },
    /// Its parents lead back to itself.
    Loop {
        /// Their names, from its parent to itself.
        parents: Vec<String>,
    },
    /// A node stands in another domain too, and neither is within the other.
    Overlap {
        /// The node.
        node: String,
        /// The other domain.
        other: String,
    },
}

impl Misplaced {
    /// Whether there may be a cap above that nobody knows.
    pub fn hides_a_cap(&self) -> bool {
        matches!(self, Self::Orphan { .. } | Self::Loop { .. })
    }
}

/// Ties domains, each with its own nodes, into trees.
pub fn plant(views: &mut [DomainView], fleet: &Fleet<'_>) {
    let name = |view: &DomainView| view.object.metadata.name.clone().unwrap_or_default();
    let names: Vec<_> = views.iter().map(name).collect();
    let index: BTreeMap<_, _> = names.iter().enumerate().map(|(at, name)| (name.as_str(), at)).collect();
    for view in views.iter_mut() {
        let Some(parent) = &view.object.spec.parent_ref else { continue };
        view.parent = index.get(parent.name.as_str()).copied();
        if view.parent.is_none() {
            view.misplaced = Some(Misplaced::Orphan { parent: parent.name.clone() });
        }
    }
    for at in 0..views.len() {
        let (ancestors, returns) = ancestors(views, at);
        if returns {
            let parents = ancestors.iter().chain([&at]).map(|at| names[*at].clone()).collect();
            views[at].misplaced = Some(Misplaced::Loop { parents });
        }
        views[at].ancestors = ancestors;
    }
    for at in 0..views.len() {
        let members = views[at].own.clone();
        for ancestor in views[at].ancestors.clone() {
            views[ancestor].members.extend(&members);
        }
        views[at].members.extend(members);
    }
    for view in views.iter_mut() {
        view.members.sort_unstable();
        view.members.dedup();
    }
    name_overlaps(views, &names, fleet);
}

/// The domains around one, the nearest first, and whether they lead back to it.
fn ancestors(views: &[DomainView], at: usize) -> (Vec<usize>, bool) {
    let mut ancestors = Vec::new();
    let mut next = views[at].parent;
    while let Some(parent) = next.filter(|parent| *parent != at && !ancestors.contains(parent)) {
        ancestors.push(parent);
        next = views[parent].parent;
    }
    (ancestors, next == Some(at))
}

/// Names nodes of which two domains know nothing of each other. Both caps hold all the same.
fn name_overlaps(views: &mut [DomainView], names: &[String], fleet: &Fleet<'_>) {
    let mut domains_of = vec![Vec::<usize>::new(); fleet.nodes.len()];
    for at in leaves_first(views) {
        views[at].members.iter().for_each(|node| domains_of[*node].push(at));
    }
    for (node, domains) in domains_of.iter().enumerate() {
        for pair in domains.windows(2) {
            let (inner, outer) = (pair[0], pair[1]);
            if views[inner].ancestors.contains(&outer) {
                continue;
            }
            for (at, other) in [(inner, outer), (outer, inner)] {
                let overlap =
                    || Misplaced::Overlap { node: fleet.nodes[node].name.into(), other: names[other].clone() };
                views[at].misplaced.get_or_insert_with(overlap);
            }
        }
    }
}

/// What domains wish.
pub struct Wishes {
    /// For each node the least that any of its domains has for it; `None` where nothing limits.
    pub nodes: Vec<Option<Watts>>,
    /// Why the algorithm of a domain was not followed, by its index.
    pub refused: BTreeMap<usize, Hold>,
}

/// What is wished for each node, given what each claims. What its pods have `requested` it gets, where that of all
/// fits: they were placed by it.
pub fn wishes(views: &[DomainView], claims: &[Claim], requested: &[Watts], fleet: &Fleet<'_>) -> Wishes {
    let mut wishes = Wishes { nodes: vec![None; fleet.nodes.len()], refused: BTreeMap::new() };
    let mut shares: Vec<Vec<(usize, Option<Watts>)>> = vec![Vec::new(); views.len()];
    for at in leaves_first(views) {
        let mut most: Vec<_> = claims.iter().map(|claim| claim.most).collect();
        let within = views.iter().zip(&shares).filter(|(view, _)| view.parent == Some(at));
        for (node, share) in within.flat_map(|(_, shares)| shares) {
            most[*node] = most[*node].into_iter().chain(*share).min();
        }
        let least = |node: usize| claims[node].least.max(requested[node]);
        let all: Watts = views[at].members.iter().map(|node| least(*node)).sum();
        let fits = views[at].budget().is_some_and(|budget| all <= budget.watts);
        let claim = |node: &usize| {
            let least = if fits { least(*node) } else { claims[*node].least };
            Claim { least, most: most[*node], ..claims[*node].clone() }
        };
        let (of_nodes, refused) = self::share(&views[at], claim, fleet);
        wishes.refused.extend(refused.map(|hold| (at, hold)));
        for (node, share) in &of_nodes {
            wishes.nodes[*node] = wishes.nodes[*node].into_iter().chain(*share).min();
        }
        shares[at] = of_nodes;
    }
    wishes
}

type OfNodes = Vec<(usize, Option<Watts>)>;

fn share(view: &DomainView, claim: impl Fn(&usize) -> Claim, fleet: &Fleet<'_>) -> (OfNodes, Option<Hold>) {
    let granted = |node: &usize| fleet.nodes[*node].holding.granted;
    let Some(budget) = view.budget() else {
        // Nothing is uncapped by a manifest that nobody understands: its nodes stay where they are.
        return (view.members.iter().map(|node| (*node, granted(node))).collect(), None);
    };
    let claims: Vec<_> = view.members.iter().map(claim).collect();
    let holds = view.unmanaged.unknown || view.misplaced.as_ref().is_some_and(Misplaced::hides_a_cap);
    // The bounds of the field. A grant of nothing cannot be written; `Feasible` says that such a cap
    // cannot be kept.
    let (least, highest) = (Watts::new(1), Watts::new(1_000_000));
    let bounded = |(node, share): (&usize, Watts)| {
        let share = share.clamp(least, highest);
        (*node, granted(node).filter(|_| holds).into_iter().chain([share]).min())
    };
    let shares = share_out(&*view.algorithm, budget.watts, &claims);
    let refused = shares.refused.map(|refusal| Hold::new(Reason::SharesRefused, refusal.to_string()));
    (view.members.iter().zip(shares.watts).map(bounded).collect(), refused)
}

/// Domains by index, those within others first.
pub fn leaves_first(views: &[DomainView]) -> Vec<usize> {
    let mut order: Vec<_> = (0..views.len()).collect();
    order.sort_by_key(|at| Reverse(views[*at].ancestors.len()));
    order
}
