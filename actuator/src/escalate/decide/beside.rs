//! Who gives way together with the first victim of a rung, where more than one at a time is permitted.
//!
//! Must hold: each of another workload, which loses one replica at a time, and for the same cap; each has its place
//! among what may await its effect; nobody is taken beside those who free enough, or while power is not known.

use powercap_common::api::{Action, PowerDomain};

use super::{Context, Standing, Victim, What, effect, limits::InHand, needs::Need};
use crate::escalate::observation::Observation;

impl Standing<'_> {
    /// Of the others, those who go now too. Of rungs but the last none: what they do is bounded by fields, not by pods.
    pub(super) fn beside<'n>(
        &self,
        context: &Context<'_>,
        first: &Victim<'n>,
        others: impl Iterator<Item = &'n Need<'n>>,
        in_hand: &mut InHand,
    ) -> Vec<Victim<'n>> {
        let (mut taken, mut freed) = (Vec::<Victim<'n>>::new(), first.need.action.frees_watts);
        let excess = self.excess(first.need.domain);
        for need in others.filter(|need| need.action.action == Action::Evict) {
            if taken.len() + 1 >= context.seen.limits.for_a_policy || freed >= excess {
                break;
            }
            let Ok(victim) = self.victim(context, need, in_hand) else { continue };
            let mut before = std::iter::once(first).chain(&taken);
            if victim.domain() == first.domain() && before.all(|other| are_apart(context.seen, other, &victim)) {
                in_hand.add(&self.policy.id.namespace, victim.domain());
                freed = freed.saturating_add(need.action.frees_watts);
                taken.push(victim);
            }
        }
        taken
    }

    /// How far power is above the cap, as far as that is known.
    fn excess(&self, domain: Option<&PowerDomain>) -> u32 {
        let cap = domain.map_or_else(|| self.policy.cap.floor(), |domain| domain.spec.power_cap_limit_watts);
        effect::power(self.object, domain).map_or(0, |power| power.saturating_sub(cap))
    }
}

fn are_apart(seen: &Observation, one: &Victim<'_>, other: &Victim<'_>) -> bool {
    let (one_of, other_of) = (&one.need.action.workload, &other.need.action.workload);
    let whose = controller(seen, one);
    // A Deployment that is rolled out has pods of two ReplicaSets.
    one.uid != other.uid && one_of != other_of && (whose.is_none() || whose != controller(seen, other))
}

/// Whose replica it is: kind and name.
fn controller<'v>(seen: &'v Observation, victim: &'v Victim<'_>) -> Option<(&'v str, &'v str)> {
    match &victim.what {
        What::Evict(pod) => {
            let controller = seen.pods.get(pod)?.controller.as_ref()?;
            Some((&controller.kind, &controller.name))
        }
        What::Suspend { job, .. } => Some((job.kind.names().2, &job.name)),
        _ => None,
    }
}
