//! What a leader remembers from one decision to the next, beside what it wrote.
//!
//! Must hold: a new term begins with nothing that only the last leader knew, and relaxes nothing on readings
//! that may be of before that leader's last change; ceilings that were not written are not remembered as changed,
//! and a write that fails holds up no policy that has nothing to do with it.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use jiff::Timestamp;
use powercap_common::{
    api::{Epoch, PowerCappingPolicy},
    policy::PolicyId,
    units::Watts,
};

use crate::{
    apply::Outcome,
    decide::{
        Plan,
        promise::{self, Fate},
    },
    observation::{Metered, Observation, Throttled, Told},
};

/// Above any threshold: of what a policy asked before, only that it may have been more is known.
const UNKNOWN: Watts = Watts::from_milliwatts(u64::MAX);

/// What a leader remembers.
#[derive(Clone, Debug, Default)]
pub struct Memory {
    /// The term in which it leads; 0 where nobody does.
    pub term: i64,
    /// So many decisions that changed nodes were made in it.
    sequence: i64,
    uncertain: BTreeMap<String, Watts>,
    throttled: BTreeMap<PolicyId, Throttled>,
    told: Told,
    metered: BTreeMap<String, Metered>,
    /// So many decisions in a row could not be carried out in full.
    pub failures: u32,
}

impl Memory {
    /// At the beginning of a term.
    #[must_use]
    pub fn of_term(term: i64, policies: &[Arc<PowerCappingPolicy>], now: Timestamp) -> Self {
        let throttled = policies.iter().filter_map(|policy| {
            let (namespace, name) = policy.metadata.namespace.clone().zip(policy.metadata.name.clone())?;
            let observed = policy.status.as_ref().and_then(|status| status.observed_generation);
            // Nobody knows when the last leader changed its ceilings, nor by which spec where it was edited since.
            let threshold = observed.filter(|_| observed != policy.metadata.generation).map(|_| UNKNOWN);
            Some((PolicyId { namespace, name }, Throttled { changed_at: Some(now), threshold }))
        });
        Self { term, throttled: throttled.collect(), ..Self::default() }
    }

    /// Puts what is remembered beside what was seen.
    pub fn put_into(&self, observation: &mut Observation) {
        observation.epoch = Epoch { term: self.term, sequence: self.sequence + 1 };
        observation.uncertain.clone_from(&self.uncertain);
        observation.throttled.clone_from(&self.throttled);
        observation.told.clone_from(&self.told);
        observation.metered.clone_from(&self.metered);
    }

    /// What holds of a decision whatever becomes of its writes.
    pub fn decided(&mut self, plan: &Plan) {
        self.told.clone_from(&plan.notices.told);
        self.metered.clone_from(&plan.metered);
        self.sequence += i64::from(!plan.nodes.is_empty());
    }

    /// What became of its writes.
    pub fn carried_out(&mut self, plan: &Plan, outcome: &Outcome) {
        self.failures = if outcome.failed { self.failures + 1 } else { 0 };
        for (node, grant, fate) in &outcome.fates {
            promise::note(&mut self.uncertain, node, *grant, *fate);
        }
        let arrived = outcome.fates.iter().filter(|(_, _, fate)| *fate == Fate::Arrived);
        let arrived: BTreeSet<_> = arrived.map(|(node, _, _)| node).collect();
        let mut throttled = plan.throttled.clone();
        for id in plan.nodes.iter().filter(|write| !arrived.contains(&write.name)).flat_map(|write| &write.policies) {
            throttled.remove(id);
            throttled.extend(self.throttled.get(id).map(|before| (id.clone(), *before)));
        }
        self.throttled = throttled;
    }
}
