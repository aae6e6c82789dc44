//! The step that stands in status, as whoever leads next finds it.

use k8s_openapi::{apimachinery::pkg::apis::meta::v1::Time, jiff::SignedDuration};
use powercap_common::{
    api::{Action, Deed, Escalated},
    condition::Truth,
    reason::Reason,
};

use super::{Context, Hold, Plan, Standing, Step, What, ceilings, due, effect, limits::InHand, needs::Need, rung};
use crate::escalate::observation::PodName;

impl Standing<'_> {
    /// What of that step is still to be done to the same victims; or why nothing is.
    pub(super) fn resumed(&self, context: &Context<'_>, needs: &[Need<'_>]) -> Option<Result<Step, Hold>> {
        let (mut acts, mut held) = (Vec::new(), None);
        for deed in self.escalated.deeds().filter(|deed| !deed.undone) {
            match self.again(context, needs, deed) {
                Some(Ok(what)) => acts.push((deed.clone(), what)),
                Some(Err(hold)) => held = held.or(Some(hold)),
                None => {}
            }
        }
        let mut escalated = self.escalated.without(|deed| acts.iter().any(|(again, _)| again.uid == deed.uid));
        let mut acts = acts.into_iter();
        let Some((deed, what)) = acts.next() else { return held.map(Err) };
        // Where nothing of it was done, nothing is given time.
        if escalated.last.is_none() && deed.action != Action::Freeze {
            escalated.last_action = None;
        }
        let mut refused =
            self.reported(Truth::True, Reason::RefusedForNow, "the API server refused; it is tried again");
        refused.escalated = Some(escalated);
        let (policy, reason, beside) = (self.policy.id.clone(), what.reason(), acts.collect());
        Some(Ok(Step { policy, deed, what, beside, reason, before: None, refused: Some(refused) }))
    }

    /// Takes the step that stands in status, which may have stood there for long: it is given its time from now on.
    pub(super) fn once_more(mut self, context: &Context<'_>, mut step: Step, in_hand: &mut InHand, plan: &mut Plan) {
        let settle = SignedDuration::try_from(context.seen.limits.settle).unwrap_or(SignedDuration::MAX);
        let age = self.escalated.last_action.as_ref().map(|at| context.now.duration_since(at.0));
        // What was lowered since then is told by that time: it is set again, and not lowered once more.
        let renewed = !matches!(step.deed.action, Action::Freeze | Action::Scale);
        if renewed && age.is_none_or(|age| age >= SignedDuration::from_secs(1)) {
            self.escalated.last_action = Some(Time(context.now));
            let message = effect::said(&step.deed, step.beside.len());
            step.before = Some(self.reported(Truth::True, Reason::Climbing, &message));
        }
        // As status tells it, it was not counted any more.
        if age.is_none_or(|age| age >= settle) {
            step.acts().for_each(|(deed, _)| in_hand.add(&self.policy.id.namespace, deed.domain.as_deref()));
        }
        plan.steps.push(step);
    }

    /// Forgets evictions that were not done and cannot be any more: no watts fall by them.
    pub(super) fn forget_barred(&mut self, context: &Context<'_>, needs: &[Need<'_>]) {
        let stands = self.escalated.without(|deed| self.is_barred(context, needs, deed));
        let last_action = stands.last_action.clone().filter(|_| stands.last.is_some() || self.escalated.last.is_none());
        self.escalated = Escalated { last_action, ..stands };
    }

    fn is_barred(&self, context: &Context<'_>, needs: &[Need<'_>], deed: &Deed) -> bool {
        let Some(pod) = deed.pod.as_ref().filter(|_| deed.action == Action::Evict && !deed.undone) else {
            return false;
        };
        let name = PodName { namespace: self.policy.id.namespace.clone(), name: pod.clone() };
        let is_there = context.seen.pods.get(&name).is_some_and(|pod| pod.uid == deed.uid);
        // One without an answer may be done, and not seen yet.
        let memory = &context.seen.memory;
        let is_known = memory.left_alone.get(&deed.uid).is_none_or(|(until, _)| *until <= context.now);
        is_there && is_known && matches!(self.again(context, needs, deed), Some(Err(Hold::Barred(_))))
    }

    /// How a deed is done, where somebody still asks for it; or why it is not.
    fn again(&self, context: &Context<'_>, needs: &[Need<'_>], deed: &Deed) -> Option<Result<What, Hold>> {
        let same = |need: &&Need<'_>| {
            let domain = need.domain.and_then(|domain| domain.metadata.name.as_ref());
            need.action.action == deed.action
                && (&need.action.workload, &need.action.pod, domain)
                    == (&deed.workload, &deed.pod, deed.domain.as_ref())
        };
        let need = needs.iter().find(same)?;
        // Between the cap and the release threshold it is asked for still, and not done.
        if deed.action == Action::Evict && !due::is_above(self.object, need) {
            return Some(Err(Hold::Wait(Reason::PowerBelowCap)));
        }
        let since = self.escalated.last_action.as_ref().filter(|_| deed.action == Action::Scale);
        let again = since.and_then(|since| ceilings::again(context, self.policy, need, since.0));
        match again.unwrap_or_else(|| rung(context, self.object, self.policy, need)) {
            Ok((what, uid)) => (uid == deed.uid).then_some(Ok(what)),
            Err(hold) => Some(Err(hold)),
        }
    }
}
