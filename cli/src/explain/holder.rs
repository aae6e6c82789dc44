//! Whose cap holds a board back, of those that could: pure.
//!
//! The agent's reason says what kind of bound it is; whose it is stands in the orders, the domains and
//! the lease:
//!
//! ```text
//!   PolicyCap, DomainCap            the ceiling's setBy
//!   EnvelopeReached, CapBelowFloor  the strictest of brake, lease fallback and grant
//!   GroupFollows                    whoever holds the slowest board of its group
//!   BrakePulled                     the domain that brakes hardest
//! ```

use std::fmt;

use kube::ResourceExt;
use powercap_common::{
    api::{Brake, GpuStatus, NodeFrequencies, PowerDomain},
    condition::kind,
    reason::Reason,
};

use crate::caps::{Caps, Conditions, brake, share};

/// Who holds a board back.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Holder {
    /// Nobody: it may run as fast as it can.
    Nobody,
    /// The ceiling of this cap, as it stands in `setBy`.
    Ceiling(String),
    /// The node's grant, by this domain where that is known.
    Grant(Option<String>),
    /// The brake of this domain.
    Brake(String),
    /// The fallback watts of a lease that ran out.
    Fallback,
    /// The slowest board of its group, by its UUID, and who holds that.
    Group(String, Box<Self>),
    /// No cap: something is wrong with the device or on its way.
    Device,
}

impl Holder {
    /// Whose cap it is in the end.
    #[must_use]
    pub fn last(&self) -> &Self {
        match self {
            Self::Group(_, slowest) => slowest.last(),
            holder => holder,
        }
    }

    /// Whether it is a cap.
    #[must_use]
    pub fn caps(&self) -> bool {
        !matches!(self.last(), Self::Nobody | Self::Device)
    }
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.last() {
            Self::Ceiling(set_by) => f.write_str(set_by),
            Self::Grant(Some(domain)) => write!(f, "powerdomain/{domain}"),
            Self::Grant(None) => f.write_str("the node's grant"),
            Self::Brake(domain) => write!(f, "the brake of powerdomain/{domain}"),
            Self::Fallback => f.write_str("the fallback watts of its lease"),
            Self::Nobody | Self::Group(..) | Self::Device => f.write_str("-"),
        }
    }
}

/// Who holds this board of this node back.
#[must_use]
pub fn holder(node: &NodeFrequencies, gpu: &GpuStatus, caps: &Caps) -> Holder {
    let Ok(reason) = gpu.reason.parse() else { return Holder::Device };
    match reason {
        Reason::Applied | Reason::Released => Holder::Nobody,
        Reason::PolicyCap | Reason::DomainCap => {
            ceiling_of(node, &gpu.uuid).map_or_else(|| budget(node, caps), |(set_by, _)| Holder::Ceiling(set_by.into()))
        }
        Reason::EnvelopeReached | Reason::CapBelowFloor => budget(node, caps),
        Reason::BrakePulled => pulled(node, caps).map_or(Holder::Grant(None), |(domain, _)| named(domain)),
        Reason::GroupFollows => slowest(node, gpu, caps),
        _ => Holder::Device,
    }
}

/// The brake that a node obeys, if any: the hardest of its domains.
#[must_use]
pub fn pulled<'a>(node: &'a NodeFrequencies, caps: &'a Caps) -> Option<(&'a PowerDomain, Brake)> {
    let brakes = caps.domains_of(node).map(|domain| (domain, brake(domain)));
    brakes.filter(|(_, level)| *level > Brake::None).max_by_key(|(_, level)| *level)
}

/// The domain that leaves a node the least.
#[must_use]
pub fn tightest<'a>(node: &'a NodeFrequencies, caps: &'a Caps) -> Option<&'a PowerDomain> {
    caps.domains_of(node)
        .filter_map(|domain| Some((share(domain)?, domain)))
        .min_by_key(|(share, _)| *share)
        .map(|(_, domain)| domain)
}

/// The ceiling that a board was ordered: whose cap it serves, and its group.
fn ceiling_of<'a>(node: &'a NodeFrequencies, uuid: &str) -> Option<(&'a str, Option<&'a str>)> {
    let ceiling = node.spec.gpu_frequencies.iter().find(|ceiling| ceiling.uuid == uuid)?;
    Some((&ceiling.set_by, ceiling.group.as_deref()))
}

/// Who sets what the node may draw now.
fn budget(node: &NodeFrequencies, caps: &Caps) -> Holder {
    let grant = node.spec.power_limit_watts;
    let below_grant = |limit: Option<u32>| limit.is_some_and(|limit| grant.is_none_or(|grant| limit < grant));
    let of_lease = node.spec.lease.and_then(|lease| lease.fallback_watts);
    if let Some((domain, level)) = pulled(node, caps) {
        let of_domains = caps.domains_of(node).filter_map(|domain| domain.spec.node_defaults.fallback_watts);
        let fallback = of_domains.chain(of_lease).min();
        if level == Brake::Minimum || fallback.is_none() || below_grant(fallback) {
            return named(domain);
        }
    }
    if lease_reason(node) == Some(Reason::FallbackInForce) && below_grant(of_lease) {
        return Holder::Fallback;
    }
    let only = (node.spec.domains.len() == 1).then(|| node.spec.domains[0].clone());
    Holder::Grant(tightest(node, caps).map(ResourceExt::name_any).or(only))
}

/// What the agent says of the recommender's Lease.
#[must_use]
pub fn lease_reason(node: &NodeFrequencies) -> Option<Reason> {
    node.condition(kind::LEASE_CURRENT)?.reason.parse().ok()
}

fn slowest(node: &NodeFrequencies, gpu: &GpuStatus, caps: &Caps) -> Holder {
    let group = ceiling_of(node, &gpu.uuid).and_then(|(_, group)| group);
    let others = node.status.iter().flat_map(|status| &status.gpus).filter(|other| {
        other.uuid != gpu.uuid
            && other.reason != Reason::GroupFollows.as_str()
            && group.is_some()
            && ceiling_of(node, &other.uuid).and_then(|(_, group)| group) == group
    });
    match others.min_by_key(|other| other.target_graphics_megahertz.unwrap_or(u32::MAX)) {
        Some(slowest) => Holder::Group(slowest.uuid.clone(), Box::new(holder(node, slowest, caps))),
        None => budget(node, caps),
    }
}

fn named(domain: &PowerDomain) -> Holder {
    Holder::Brake(domain.name_any())
}
