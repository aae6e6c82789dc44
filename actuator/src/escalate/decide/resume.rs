//! The step that stands in status, as whoever leads next finds it.

use powercap_common::{
    api::{Action, Deed},
    condition::Truth,
    reason::Reason,
};

use super::{Context, Hold, Standing, Step, What, ceilings, needs::Need, rung};

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

    /// How a deed is done, where somebody still asks for it; or why it is not.
    fn again(&self, context: &Context<'_>, needs: &[Need<'_>], deed: &Deed) -> Option<Result<What, Hold>> {
        let same = |need: &&Need<'_>| {
            let domain = need.domain.and_then(|domain| domain.metadata.name.as_ref());
            need.action.action == deed.action
                && (&need.action.workload, &need.action.pod, domain)
                    == (&deed.workload, &deed.pod, deed.domain.as_ref())
        };
        let need = needs.iter().find(same)?;
        let since = self.escalated.last_action.as_ref().filter(|_| deed.action == Action::Scale);
        let again = since.and_then(|since| ceilings::again(context, self.policy, need, since.0));
        match again.unwrap_or_else(|| rung(context, self.object, self.policy, need)) {
            Ok((what, uid)) => (uid == deed.uid).then_some(Ok(what)),
            Err(hold) => Some(Err(hold)),
        }
    }
}
