//! Jobs are suspended in the place of an eviction of all their ranks, and resumed when there are watts.
//!
//! Must hold: all ranks or none; never one that a PodDisruptionBudget selects, since a suspension asks none; none that
//! another resumes.

use powercap_common::{api::PowerCappingPolicy, policy::Policy, reason::Reason, target::Controller};

use super::{
    Context, Hold, What,
    evict::{ever, left_alone},
    needs::Need,
};
use crate::escalate::{
    ceilings::stored::Kind,
    observation::{ObjectName, SuspendedByUs},
};

/// The suspension of a job, where all its ranks may go.
pub(super) fn due(
    context: &Context<'_>,
    whose: (&PowerCappingPolicy, &Policy),
    need: &Need<'_>,
    job: ObjectName,
) -> Result<(What, String), Hold> {
    let namespace = &job.namespace;
    let controller = Controller { kind: job.kind.names().2.to_owned(), name: job.name.clone() };
    let ranks = context.workloads().pods(namespace, &controller);
    let Some(facts) = context.seen.jobs.get(&job) else {
        // Of Kubernetes' own all are known; one of another kind is asked for, unless it is gone with its ranks.
        let gone = job.kind == Kind::Job || ranks.is_empty();
        return Err(if gone { Hold::Done } else { Hold::Wait(Reason::NotSeenYet) });
    };
    if facts.suspended || facts.ended || context.is_done(&facts.uid) {
        return Err(Hold::Done);
    }
    if facts.controlled {
        return Err(Hold::Barred(Reason::NeverEvicted));
    }
    for rank in ranks {
        ever(whose, namespace, rank).map_err(Hold::Barred)?;
        if context.budgets.of_pod(namespace, rank).next().is_some() {
            return Err(Hold::Barred(Reason::DisruptionForbidden));
        }
    }
    left_alone(context, &facts.uid)?;
    let mark = SuspendedByUs {
        policy: whose.1.id.name.clone(),
        domain: need.domain.and_then(|domain| domain.metadata.name.clone()),
        watts: need.action.frees_watts,
    };
    Ok((What::Suspend { job, mark }, facts.uid.clone()))
}
