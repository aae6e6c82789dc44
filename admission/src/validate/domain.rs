//! Judges a domain. Pure.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use powercap_common::{
    api::{NodeFrequencies, PowerDomain},
    board,
    domain::Domain,
    units::Watts,
};

use super::verdict::{Verdict, some_of};

/// What a domain is judged beside; `None` is what could not be looked up.
#[derive(Clone, Debug, Default)]
pub struct DomainWorld {
    /// The other domains.
    pub domains: Vec<Arc<PowerDomain>>,
    /// What the nodes' boards are.
    pub nodes: Vec<Arc<NodeFrequencies>>,
    /// The names of the nodes that its selector matches.
    pub members: Option<BTreeSet<String>>,
}

/// What is made of a domain.
#[must_use]
pub fn judge_domain(object: &PowerDomain, world: &DomainWorld) -> Verdict {
    let domain = match Domain::try_from(object) {
        Ok(domain) => domain,
        Err(error) => return Verdict::refuse(error.to_string()),
    };
    let family = Family::of(object, &domain, world);
    if let Some(cycle) = family.cycle() {
        return Verdict::refuse(cycle);
    }
    let warnings = [family.missing_parent(), family.above_parent(), family.children_above(), floor(&domain, world)];
    Verdict { refused: None, warnings: warnings.into_iter().flatten().collect() }
}

/// Domains by name, with caps and parents; the judged one as it is to be.
struct Family<'a> {
    domain: &'a Domain,
    caps: BTreeMap<&'a str, u32>,
    parents: BTreeMap<&'a str, &'a str>,
}

impl<'a> Family<'a> {
    fn of(object: &'a PowerDomain, domain: &'a Domain, world: &'a DomainWorld) -> Self {
        let others = world.domains.iter().map(|object| &**object);
        let others = others.filter(|other| other.metadata.name != object.metadata.name);
        let (mut caps, mut parents) = (BTreeMap::new(), BTreeMap::new());
        for object in others.chain([object]) {
            let Some(name) = object.metadata.name.as_deref() else { continue };
            caps.insert(name, object.spec.power_cap_limit_watts);
            if let Some(parent) = &object.spec.parent_ref {
                parents.insert(name, parent.name.as_str());
            }
        }
        Self { domain, caps, parents }
    }

    fn parent(&self) -> Option<&'a str> {
        self.parents.get(self.domain.name.as_str()).copied()
    }

    /// Parents that lead back to the domain itself.
    fn cycle(&self) -> Option<String> {
        let parent = self.parent()?;
        let mut way = vec![self.domain.name.as_str(), parent];
        // Others may go round without this one: nobody passes by a name twice.
        while let Some(next) = self.parents.get(way.last()?).copied() {
            if next == self.domain.name {
                return Some(format!(
                    "spec.parentRef.name is {parent}, whose parents lead back to this domain: {} → {next}; name a domain outside of them, or take parentRef away",
                    way.join(" → ")
                ));
            }
            if way.contains(&next) {
                return None;
            }
            way.push(next);
        }
        None
    }

    fn missing_parent(&self) -> Option<String> {
        let parent = self.parent().filter(|parent| !self.caps.contains_key(parent))?;
        Some(format!(
            "spec.parentRef names {parent}, which does not exist; nothing is raised in this domain until it does"
        ))
    }

    fn above_parent(&self) -> Option<String> {
        let parent = self.parent()?;
        let (cap, around) = (self.domain.cap.floor(), *self.caps.get(parent)?);
        (cap > around).then(|| {
            format!(
                "spec.powerCapLimitWatts ({cap}) is above that of {parent} ({around}), which this domain stands within: the lower one holds"
            )
        })
    }

    fn children_above(&self) -> Option<String> {
        let cap = self.domain.cap.floor();
        let within = self.parents.iter().filter(|(_, parent)| **parent == self.domain.name);
        let above: Vec<_> = within.map(|(child, _)| *child).filter(|child| self.caps[child] > cap).collect();
        (!above.is_empty()).then(|| {
            format!(
                "spec.powerCapLimitWatts ({cap}) is below that of {}, which stand within this domain: the lower one holds",
                some_of(above.iter().copied())
            )
        })
    }
}

/// A cap that the nodes cannot keep, or that is for none.
fn floor(domain: &Domain, world: &DomainWorld) -> Option<String> {
    let members = world.members.as_ref()?;
    if members.is_empty() {
        return Some("spec.nodeSelector matches no node yet; nothing is capped until it does".to_owned());
    }
    let of_node = |node: &Arc<NodeFrequencies>| {
        let status = node.status.as_ref()?;
        node.metadata.name.as_ref().filter(|name| members.contains(*name))?;
        Some(domain.overhead.node_power(status.gpus.iter().map(board::floor).sum()))
    };
    let floors: Vec<_> = world.nodes.iter().filter_map(of_node).collect();
    let (floor, unmanaged) = (floors.iter().copied().sum::<Watts>(), domain.unmanaged.unwrap_or_default());
    (floor + unmanaged > domain.cap).then(|| {
        format!(
            "spec.powerCapLimitWatts ({}) is below about {} W, which {} of its nodes draw at their lowest settings with {} W unmanaged; raise it, or take nodes out",
            domain.cap.floor(),
            (floor + unmanaged).ceil(),
            floors.len(),
            unmanaged.ceil()
        )
    })
}
