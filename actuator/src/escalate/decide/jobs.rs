//! Jobs are suspended in the place of an eviction of all their ranks, and resumed when there are watts.
//!
//! Must hold: all ranks or none; never one that a PodDisruptionBudget selects, since a suspension asks none.

use powercap_common::{api::PowerCappingPolicy, policy::Policy, reason::Reason, target::Controller};

use super::{
    Context, Hold, What,
    evict::{ever, left_alone},
    needs::Need,
};
use crate::escalate::observation::SuspendedByUs;

/// The suspension of a Job, where all its ranks may go.
pub(super) fn due(
    context: &Context<'_>,
    object: &PowerCappingPolicy,
    policy: &Policy,
    need: &Need<'_>,
    job: &str,
) -> Result<(What, String), Hold> {
    let namespace = &need.action.namespace;
    let Some(facts) = context.seen.jobs.get(&(namespace.clone(), job.to_owned())) else { return Err(Hold::Done) };
    if facts.suspended || facts.ended {
        return Err(Hold::Done);
    }
    if facts.controlled {
        return Err(Hold::Barred(Reason::NeverEvicted));
    }
    let controller = Controller { kind: "Job".to_owned(), name: job.to_owned() };
    for rank in context.workloads().pods(namespace, &controller) {
        ever((object, policy), namespace, rank).map_err(Hold::Barred)?;
        if context.budgets.of_pod(namespace, rank).next().is_some() {
            return Err(Hold::Barred(Reason::DisruptionForbidden));
        }
    }
    left_alone(context, &facts.uid)?;
    let mark = SuspendedByUs {
        policy: policy.id.name.clone(),
        domain: need.domain.and_then(|domain| domain.metadata.name.clone()),
        watts: need.action.frees_watts,
    };
    Ok((What::Suspend { namespace: namespace.clone(), name: job.to_owned(), mark }, facts.uid.clone()))
}
