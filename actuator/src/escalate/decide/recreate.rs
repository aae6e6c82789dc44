//! Where a person asks for it: pods whose watts are stale are evicted, so that admission sets the right ones.
//!
//! Must hold: only while nothing is escalated anywhere, one at a time, and by every rule of an eviction.

use k8s_openapi::{apimachinery::pkg::apis::meta::v1::Time, jiff::SignedDuration};
use powercap_common::{
    api::{Action, Deed, Mode},
    condition::Truth,
    policy::Policy,
    reason::Reason,
};

use super::{Context, Plan, Standing, Step, What, evict, limits::InHand, undo};
use crate::escalate::observation::PodName;

/// Evicts at most one pod.
pub(super) fn slowly(context: &Context<'_>, in_hand: &InHand, plan: &mut Plan) {
    let seen = context.seen;
    let pending = seen
        .policies
        .iter()
        .any(|policy| policy.status.as_ref().is_some_and(|status| !status.pending_actions.is_empty()));
    if !seen.limits.recreate_stale || seen.halted.is_some() || in_hand.all > 0 || pending || !plan.steps.is_empty() {
        return;
    }
    let settle = SignedDuration::try_from(seen.limits.settle).unwrap_or(SignedDuration::MAX);
    let recent =
        seen.policies.iter().filter_map(|policy| policy.status.as_ref()?.escalated.as_ref()?.last_action.as_ref());
    if recent.into_iter().any(|at| context.now.duration_since(at.0) < settle.saturating_mul(undo::REMEMBERED)) {
        return;
    }
    for object in seen.policies.iter().filter(|policy| policy.spec.mode == Mode::Enforce) {
        let Ok(policy) = Policy::try_from(&**object) else { continue };
        let stale = object.status.as_ref().map(|status| status.watts_stale.as_slice()).unwrap_or_default();
        for pod in stale {
            let name = PodName { namespace: policy.id.namespace.clone(), name: pod.clone() };
            let Ok(facts) = evict::may_go(context, (object, &policy), &name) else { continue };
            let controller = facts.controller.as_ref();
            let workload = controller.map(|owner| format!("{}/{}", owner.kind, owner.name)).unwrap_or_default();
            let deed = Deed {
                action: Action::Evict,
                workload,
                pod: Some(pod.clone()),
                uid: facts.uid.clone(),
                ..Deed::default()
            };
            let mut standing = Standing::of(object, &policy, context.now);
            let refused =
                standing.reported(Truth::False, Reason::RefusedForNow, "the API server refused; it is tried again");
            standing.escalated.last_action = Some(Time(context.now));
            let before = standing.reported(
                Truth::False,
                Reason::WattsStale,
                &format!("{pod} is made anew with the right watts"),
            );
            let (before, refused) = (Some(before), Some(refused));
            let id = policy.id.clone();
            plan.steps.push(Step {
                policy: id,
                deed,
                what: What::Evict(name),
                beside: Vec::new(),
                reason: Reason::WattsStale,
                before,
                refused,
            });
            return;
        }
    }
}
