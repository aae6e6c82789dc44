//! How much may await its effect at once: in a namespace, for a domain, and in all.

use std::collections::BTreeMap;

use k8s_openapi::jiff::{SignedDuration, Timestamp};
use powercap_common::{policy::Policy, reason::Reason};

use super::{Context, needs::Need};
use crate::escalate::observation::Observation;

/// Steps that were taken less than a settling time ago, and pods that are on their way.
#[derive(Debug, Default)]
pub(super) struct InHand {
    pub all: usize,
    namespaces: BTreeMap<String, usize>,
    domains: BTreeMap<String, usize>,
}

impl InHand {
    /// As the policies' status tells.
    pub fn count(seen: &Observation, now: Timestamp) -> Self {
        let settle = SignedDuration::try_from(seen.limits.settle).unwrap_or(SignedDuration::MAX);
        let mut in_hand = Self::default();
        for policy in &seen.policies {
            let Some(escalated) = policy.status.as_ref().and_then(|status| status.escalated.as_ref()) else { continue };
            let recent = escalated.last_action.as_ref().is_some_and(|at| now.duration_since(at.0) < settle);
            if recent || escalated.migration.is_some() {
                let domain = escalated.last.as_ref().and_then(|deed| deed.domain.as_deref());
                let namespace = policy.metadata.namespace.as_deref().unwrap_or_default();
                (0..escalated.deeds().count().max(1)).for_each(|_| in_hand.add(namespace, domain));
            }
        }
        in_hand
    }

    pub fn add(&mut self, namespace: &str, domain: Option<&str>) {
        self.all += 1;
        *self.namespaces.entry(namespace.to_owned()).or_default() += 1;
        if let Some(domain) = domain {
            *self.domains.entry(domain.to_owned()).or_default() += 1;
        }
    }

    /// Whether one more may be.
    pub fn room(&self, context: &Context<'_>, policy: &Policy, need: &Need<'_>) -> Result<(), Reason> {
        let limits = &context.seen.limits;
        let domain = need.domain.and_then(|domain| domain.metadata.name.as_ref());
        let of = |counts: &BTreeMap<String, usize>, name: &String| counts.get(name).copied().unwrap_or_default();
        let full = self.all >= limits.in_all
            || of(&self.namespaces, &policy.id.namespace) >= limits.in_a_namespace
            || domain.is_some_and(|domain| of(&self.domains, domain) >= limits.for_a_domain);
        if full { Err(Reason::LimitReached) } else { Ok(()) }
    }
}
