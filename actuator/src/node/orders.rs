//! What `NodeFrequencies` asks of this node, validated: a decision relies on these and not on the raw
//! object.
//!
//! What must hold: an object that is not understood replaces nothing (the last good orders stand); an
//! older epoch of the same object replaces nothing; an object that was deleted and made again replaces
//! nothing before it orders something; of two ceilings for one device the stricter counts.

use std::{cmp::Ordering, collections::BTreeMap, sync::Arc};

use powercap_common::{
    api::{Epoch, NodeFrequencies},
    reason::Reason,
    units::{Megahertz, Watts},
};

use super::{lease::Terms, restraint::Restraint};

/// What this node is asked to do.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Orders {
    /// Of the object; another object may start its epochs anew.
    pub uid: String,
    /// Of the spec.
    pub generation: i64,
    /// Which decision of the recommender it is.
    pub epoch: Epoch,
    /// Alternating current that the node may draw; `None`: no domain limits it.
    pub grant: Option<Watts>,
    /// What the node draws beside its devices.
    pub overhead: Overhead,
    /// Ceilings of boards, by UUID.
    pub boards: BTreeMap<Arc<str>, BoardCeiling>,
    /// Ceilings of cpufreq policies, by number.
    pub cpus: BTreeMap<u32, CpuCeiling>,
    /// Take everything off.
    pub release: bool,
    /// The domains whose brakes this node obeys.
    pub domains: Vec<String>,
    /// How long all this stands without a sign of life; `None`: for ever.
    pub lease: Option<Terms>,
    /// What it may offer to new pods; `None`: nothing.
    pub offer: Option<Offer>,
    /// What stands over the orders: not in the object, and never looser than it.
    pub restraint: Restraint,
}

/// What a node draws beside its devices: `devices × (1 + percent/100) + fixed` is its alternating current.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Overhead {
    /// Always there.
    pub fixed: Watts,
    /// A share of the devices' power.
    pub percent: u32,
}

impl Overhead {
    /// What the devices may draw so that the node stays within `grant`.
    #[must_use]
    pub fn envelope(self, grant: Watts) -> Watts {
        grant.saturating_sub(self.fixed).scaled(1.0 / self.factor())
    }

    /// The node's alternating current when its devices draw `devices`.
    #[must_use]
    pub fn alternating_current(self, devices: Watts) -> Watts {
        devices.scaled(self.factor()) + self.fixed
    }

    fn factor(self) -> f64 {
        1.0 + f64::from(self.percent) / 100.0
    }
}

/// Watts at the devices that the node may offer to new pods.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Offer {
    /// Beside what its pods request.
    pub watts: Watts,
    /// What its pods requested when the offer was made.
    pub requested: Watts,
}

impl Offer {
    /// What the node may advertise while its pods request this much: those that came since the offer was made
    /// have used it up.
    #[must_use]
    pub fn beside(self, requested: Watts) -> Watts {
        (requested + self.watts).min(self.requested + self.watts).max(requested)
    }
}

/// The ceiling of one board.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BoardCeiling {
    /// Its highest clock.
    pub clock: Option<Megahertz>,
    /// The most it may draw.
    pub limit: Option<Watts>,
    /// Under a grant, boards with a lower number give up their watts first.
    pub shed_order: u32,
    /// Boards of one group run at one clock and share as one.
    pub group: Option<Arc<str>>,
    /// Why.
    pub reason: Reason,
}

/// The ceiling of one cpufreq policy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CpuCeiling {
    /// Its highest clock.
    pub clock: Megahertz,
    /// Why.
    pub reason: Reason,
}

/// Why an object does not replace the orders in force.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// It speaks of another node.
    #[error("spec.nodeName is {0:?}, which is not this node; delete the object and let the recommender make a new one")]
    OtherNode(String),
    /// It is older than what is in force.
    #[error("its epoch {given:?} is older than {held:?}, which is in force")]
    OldEpoch {
        /// In the object.
        given: Epoch,
        /// In force.
        held: Epoch,
    },
    /// It came in place of one that capped the node, and says neither caps nor release.
    #[error(
        "the object was made again and orders nothing, while the one before it capped this node; \
         give it powerLimitWatts or ceilings, or set release"
    )]
    OrdersNothing,
}

impl Orders {
    /// The orders in this object, if they may replace those in force.
    ///
    /// # Errors
    /// When the object is for another node, or an older version of what is in force, or an empty one in
    /// its place.
    pub fn accept(object: &NodeFrequencies, node: &str, held: Option<&Self>) -> Result<Self, Refusal> {
        let spec = &object.spec;
        if spec.node_name != node {
            return Err(Refusal::OtherNode(spec.node_name.clone()));
        }
        let uid = object.metadata.uid.clone().unwrap_or_default();
        if let Some(held) = held.filter(|held| held.uid == uid && held.epoch > spec.epoch) {
            return Err(Refusal::OldEpoch { given: spec.epoch, held: held.epoch });
        }
        let mut orders = Self {
            uid,
            generation: object.metadata.generation.unwrap_or_default(),
            epoch: spec.epoch,
            grant: spec.power_limit_watts.map(Watts::new),
            overhead: Overhead {
                fixed: Watts::new(spec.node_overhead.static_watts),
                percent: spec.node_overhead.percent,
            },
            boards: BTreeMap::new(),
            cpus: BTreeMap::new(),
            release: spec.release,
            domains: spec.domains.clone(),
            lease: spec.lease.as_ref().map(Terms::from),
            offer: spec.offer_watts.map(|watts| Offer {
                watts: Watts::new(watts),
                requested: Watts::new(spec.requested_watts.unwrap_or_default()),
            }),
            restraint: Restraint::default(),
        };
        for ceiling in &spec.gpu_frequencies {
            let given = BoardCeiling {
                clock: ceiling.max_graphics_megahertz.map(Megahertz::new),
                limit: ceiling.power_limit_watts.map(Watts::new),
                shed_order: ceiling.shed_order,
                group: ceiling.group.as_deref().map(Arc::from),
                reason: ceiling.reason.parse().unwrap_or(Reason::Enforcing),
            };
            let place = orders.boards.entry(ceiling.uuid.as_str().into()).or_insert_with(|| given.clone());
            place.clock = stricter(place.clock, given.clock);
            place.limit = stricter(place.limit, given.limit);
            place.shed_order = place.shed_order.max(given.shed_order);
            place.group = place.group.take().or(given.group);
        }
        for ceiling in &spec.cpu_frequencies {
            let given = CpuCeiling {
                clock: Megahertz::new(ceiling.max_megahertz),
                reason: ceiling.reason.parse().unwrap_or(Reason::Enforcing),
            };
            let place = orders.cpus.entry(ceiling.cpufreq_policy).or_insert(given);
            place.clock = place.clock.min(given.clock);
        }
        let empty = !orders.caps() && !orders.release;
        if empty && held.is_some_and(|held| held.uid != orders.uid && held.caps()) {
            return Err(Refusal::OrdersNothing);
        }
        Ok(orders)
    }

    /// The same for the devices, on a node that draws this much beside them.
    #[must_use]
    pub(super) fn over(&self, overhead: Overhead) -> Self {
        let grant = self.grant.map(|grant| overhead.alternating_current(self.overhead.envelope(grant)));
        Self { grant, overhead, ..self.clone() }
    }

    fn caps(&self) -> bool {
        !self.release && (self.grant.is_some() || !self.boards.is_empty() || !self.cpus.is_empty())
    }
}

/// The lesser of two limits, of which either may be missing.
pub(super) fn stricter<T: Ord>(one: Option<T>, other: Option<T>) -> Option<T> {
    match (one, other) {
        (Some(one), Some(other)) => Some(if one.cmp(&other) == Ordering::Less { one } else { other }),
        (one, other) => one.or(other),
    }
}

#[cfg(test)]
mod tests {
    use powercap_common::api::{GpuCeiling, NodeFrequenciesSpec, NodeOverhead};

    use super::*;

    fn object(term: i64, sequence: i64) -> NodeFrequencies {
        let spec = NodeFrequenciesSpec {
            node_name: "node-1".into(),
            epoch: Epoch { term, sequence },
            power_limit_watts: Some(5000),
            node_overhead: NodeOverhead { static_watts: 1200, percent: 4 },
            ..Default::default()
        };
        let mut object = NodeFrequencies::new("node-1", spec);
        object.metadata.uid = Some("a".into());
        object
    }

    #[test]
    fn an_older_epoch_of_the_same_object_replaces_nothing() {
        let held = Orders::accept(&object(2, 7), "node-1", None).unwrap();
        for (term, sequence) in [(2, 6), (1, 99)] {
            let refused = Orders::accept(&object(term, sequence), "node-1", Some(&held));
            assert!(matches!(refused, Err(Refusal::OldEpoch { .. })), "{term} {sequence}");
        }
        assert!(Orders::accept(&object(2, 7), "node-1", Some(&held)).is_ok());
        assert!(Orders::accept(&object(3, 0), "node-1", Some(&held)).is_ok());
        let mut made_again = object(1, 0);
        made_again.metadata.uid = Some("b".into());
        assert!(Orders::accept(&made_again, "node-1", Some(&held)).is_ok());
    }

    #[test]
    fn an_object_made_again_replaces_nothing_before_it_orders_something() {
        let held = Orders::accept(&object(2, 7), "node-1", None).unwrap();
        let mut again = object(3, 0);
        again.spec.power_limit_watts = None;
        assert!(Orders::accept(&again, "node-1", Some(&held)).is_ok(), "the same object may take its grant away");
        again.metadata.uid = Some("b".into());
        assert_eq!(Orders::accept(&again, "node-1", Some(&held)), Err(Refusal::OrdersNothing));
        again.spec.release = true;
        let released = Orders::accept(&again, "node-1", Some(&held)).unwrap();
        again.spec.release = false;
        again.metadata.uid = Some("c".into());
        assert!(Orders::accept(&again, "node-1", Some(&released)).is_ok(), "nothing was capped any more");
        assert!(Orders::accept(&again, "node-1", None).is_ok());
    }

    #[test]
    fn an_object_for_another_node_replaces_nothing() {
        assert!(matches!(Orders::accept(&object(1, 1), "node-2", None), Err(Refusal::OtherNode(_))));
    }

    #[test]
    fn the_envelope_and_the_alternating_current_are_the_same_rule() {
        let overhead = Overhead { fixed: Watts::new(1200), percent: 4 };
        let envelope = overhead.envelope(Watts::new(5360));
        assert_eq!(envelope, Watts::new(4000));
        assert_eq!(overhead.alternating_current(envelope), Watts::new(5360));
        assert_eq!(overhead.envelope(Watts::new(100)), Watts::ZERO);
    }

    #[test]
    fn of_two_ceilings_for_one_board_the_stricter_counts() {
        let mut object = object(1, 1);
        for (clock, limit) in [(None, Some(500)), (Some(1200), Some(600)), (Some(1500), None)] {
            object.spec.gpu_frequencies.push(GpuCeiling {
                uuid: "GPU-1".into(),
                max_graphics_megahertz: clock,
                power_limit_watts: limit,
                shed_order: 0,
                group: None,
                reason: "PolicyCap".into(),
                set_by: String::new(),
            });
        }
        let orders = Orders::accept(&object, "node-1", None).unwrap();
        let ceiling = &orders.boards["GPU-1"];
        assert_eq!((ceiling.clock, ceiling.limit), (Some(Megahertz::new(1200)), Some(Watts::new(500))));
        assert_eq!(ceiling.reason, Reason::PolicyCap);
    }
}
