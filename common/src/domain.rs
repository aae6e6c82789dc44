//! A [`PowerDomain`] after validation, and the rule between a grant and an envelope.

use crate::{
    algorithm::{self, AlgorithmError},
    api::{self, Mode, NodeOverhead, PowerDomain, SharedDevices},
    selector::{Selector, SelectorError},
    units::Watts,
};

/// A domain has no thresholds: what its cap asks for beyond lower clocks ends below this part of the cap, and is
/// undone only as far as power stays below it.
pub const RELEASES_PERCENT: u32 = 95;

/// A physical power budget.
#[derive(Clone, Debug, PartialEq)]
pub struct Domain {
    /// Its name.
    pub name: String,
    /// The most it may draw at its meter.
    pub cap: Watts,
    /// The nodes in it.
    pub nodes: Selector,
    /// What nothing here controls, as it is written; always below the cap. None: a meter tells it.
    pub unmanaged: Option<Watts>,
    /// What a node draws beside its devices.
    pub overhead: NodeOverhead,
    /// What each node falls back to in silence and under the brake.
    pub fallback: Option<Watts>,
    /// What it permits policies on its nodes; `None`: everything.
    pub tenancy: Option<Tenancy>,
    /// How it shares its watts out.
    pub algorithm: algorithm::Choice,
}

/// What a domain permits policies on its nodes.
#[derive(Clone, Debug, PartialEq)]
pub struct Tenancy {
    /// Namespaces whose policies may act; `None`: all.
    pub namespaces: Option<Selector>,
    /// The most that they may do.
    pub max_mode: Mode,
    /// The highest priority that counts.
    pub max_priority: u32,
    /// Whether they may act on a device that others use too.
    pub shared_devices: SharedDevices,
}

impl TryFrom<&api::Tenancy> for Tenancy {
    type Error = DomainError;

    fn try_from(tenancy: &api::Tenancy) -> Result<Self, DomainError> {
        let namespaces = tenancy.namespace_selector.as_ref().map(Selector::try_from).transpose();
        Ok(Self {
            namespaces: namespaces.map_err(DomainError::NamespaceSelector)?,
            max_mode: tenancy.max_mode,
            max_priority: tenancy.max_priority,
            shared_devices: tenancy.shared_devices,
        })
    }
}

impl Domain {
    /// As it stands in `setBy`.
    #[must_use]
    pub fn set_by(&self) -> String {
        format!("powerdomain/{}", self.name)
    }
}

impl NodeOverhead {
    /// What the devices of a node may draw so that the node stays within its grant:
    /// (grant − static) ÷ (1 + percent ÷ 100), rounded down.
    #[must_use]
    pub fn envelope(&self, grant: Watts) -> Watts {
        let rest = grant.saturating_sub(Watts::new(self.static_watts));
        Watts::from_milliwatts(rest.as_milliwatts().saturating_mul(100) / (100 + u64::from(self.percent)))
    }

    /// What the node draws when its devices draw this much: the inverse of [`Self::envelope`], rounded up.
    #[must_use]
    pub fn node_power(&self, devices: Watts) -> Watts {
        let with_losses = devices.as_milliwatts().saturating_mul(100 + u64::from(self.percent)).div_ceil(100);
        Watts::from_milliwatts(with_losses) + Watts::new(self.static_watts)
    }
}

/// Why a domain cannot be acted on.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DomainError {
    /// The object has no name.
    #[error("metadata.name is missing")]
    Unnamed,
    /// Nothing is left for the nodes.
    #[error(
        "spec.unmanagedWatts ({unmanaged}) must be below spec.powerCapLimitWatts ({cap}); raise the cap or lower unmanagedWatts"
    )]
    NothingLeft {
        /// As written.
        cap: u32,
        /// As written.
        unmanaged: u32,
    },
    /// Two words for one thing.
    #[error("spec.meter and spec.unmanagedWatts exclude each other; take one of them away")]
    TwiceUnmanaged,
    /// An overhead beyond what a node can have.
    #[error("spec.nodeOverhead.percent is {0}; write at most 50")]
    Overhead(u32),
    /// An algorithm, or a parameter of it, that there is none of.
    #[error(transparent)]
    Algorithm(#[from] AlgorithmError),
    /// A selector that cannot be used.
    #[error("spec.nodeSelector: {0}")]
    Selector(#[from] SelectorError),
    /// Likewise.
    #[error("spec.tenancy.namespaceSelector: {0}")]
    NamespaceSelector(#[source] SelectorError),
}

impl TryFrom<&PowerDomain> for Domain {
    type Error = DomainError;

    fn try_from(object: &PowerDomain) -> Result<Self, DomainError> {
        let spec = &object.spec;
        let algorithm = algorithm::Choice::try_from(&spec.algorithm)?;
        let (cap, unmanaged) = (spec.power_cap_limit_watts, spec.unmanaged_watts);
        if unmanaged >= cap {
            return Err(DomainError::NothingLeft { cap, unmanaged });
        }
        if spec.meter.is_some() && unmanaged > 0 {
            return Err(DomainError::TwiceUnmanaged);
        }
        if spec.node_overhead.percent > 50 {
            return Err(DomainError::Overhead(spec.node_overhead.percent));
        }
        Ok(Self {
            name: object.metadata.name.clone().ok_or(DomainError::Unnamed)?,
            cap: Watts::new(cap),
            nodes: Selector::try_from(&spec.node_selector)?,
            unmanaged: spec.meter.is_none().then_some(Watts::new(unmanaged)),
            overhead: spec.node_overhead,
            fallback: spec.node_defaults.fallback_watts.map(Watts::new),
            tenancy: spec.tenancy.as_ref().map(Tenancy::try_from).transpose()?,
            algorithm,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn an_envelope_within_its_grant_comes_back_within_it() {
        for static_watts in [0, 1200, 2000] {
            for percent in [0, 4, 8, 50] {
                let overhead = NodeOverhead { static_watts, percent };
                for grant in [1, 999, 2500, 7777, 10_200].map(Watts::new) {
                    let envelope = overhead.envelope(grant);
                    assert!(envelope == Watts::ZERO || overhead.node_power(envelope) <= grant, "{overhead:?} {grant}");
                    assert!(overhead.envelope(overhead.node_power(Watts::new(4000))) >= Watts::new(4000));
                }
            }
        }
    }

    #[test]
    fn contradictions_are_refused_with_the_field_and_the_mend() {
        let selector = json!({"matchLabels": {"rack": "r1"}});
        for (spec, says) in [
            (json!({"powerCapLimitWatts": 5, "unmanagedWatts": 5, "nodeSelector": selector}), "raise the cap"),
            (
                json!({"powerCapLimitWatts": 5, "unmanagedWatts": 1, "meter": {"query": "x"}, "nodeSelector": selector}),
                "take one of them away",
            ),
            (json!({"powerCapLimitWatts": 5, "nodeSelector": {}}), "spec.nodeSelector: names no label"),
            (
                json!({"powerCapLimitWatts": 5, "nodeSelector": selector, "nodeOverhead": {"percent": 51}}),
                "write at most 50",
            ),
            (
                json!({"powerCapLimitWatts": 5, "nodeSelector": selector, "tenancy": {"namespaceSelector": {}}}),
                "spec.tenancy.namespaceSelector: names no label",
            ),
        ] {
            let object: PowerDomain = serde_json::from_value(json!({
                "apiVersion": "powercapping.io/v1alpha1", "kind": "PowerDomain",
                "metadata": {"name": "rack"}, "spec": spec,
            }))
            .unwrap();
            let error = Domain::try_from(&object).unwrap_err().to_string();
            assert!(error.contains(says), "{error}");
        }
    }
}
