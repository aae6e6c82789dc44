//! Whether a pod may be evicted.
//!
//! Must hold: never one without a controller, of a DaemonSet, static, critical, or that the policy does not select;
//! none whose data would be lost without its leave; none whose workload is not whole; none against a budget (which
//! the API server judges again).

use k8s_openapi::jiff::{SignedDuration, Timestamp};
use powercap_common::{api::PowerCappingPolicy, policy::Policy, reason::Reason, target::Controller};

use super::{Context, Hold, What, groups, jobs, needs::Need};
use crate::escalate::{
    ceilings::stored::Kind,
    observation::{ObjectName, PodFacts, PodName},
};

/// Where the cluster's own pods are.
const CLUSTERS_OWN: &str = "kube-system";
/// As long as a Deployment by default waits for its own progress; a pod that is not ready by then, or has not ended,
/// may never be.
const REPLACED_WITHIN: SignedDuration = SignedDuration::from_mins(10);

/// What is to be done for a pending eviction, and to which object.
pub(super) fn due(
    context: &Context<'_>,
    object: &PowerCappingPolicy,
    policy: &Policy,
    need: &Need<'_>,
) -> Result<(What, String), Hold> {
    match need.action.workload.split_once('/') {
        Some((groups::KIND, set)) => return groups::due(context, (object, policy), need, set),
        Some((kind, job)) => {
            if let Some(kind) = Kind::of_job(kind) {
                let name = ObjectName { kind, namespace: need.action.namespace.clone(), name: job.to_owned() };
                return jobs::due(context, (object, policy), need, name);
            }
        }
        None => {}
    }
    let Some(pod) = &need.action.pod else { return Err(Hold::Barred(Reason::NeverEvicted)) };
    let name = PodName { namespace: need.action.namespace.clone(), name: pod.clone() };
    let pod = may_go(context, (object, policy), &name)?;
    Ok((What::Evict(name), pod.uid.clone()))
}

/// The pod, where it may be evicted now.
pub(super) fn may_go<'a>(
    context: &Context<'a>,
    whose: (&PowerCappingPolicy, &Policy),
    name: &PodName,
) -> Result<&'a PodFacts, Hold> {
    let Some(pod) = context.seen.pods.get(name) else { return Err(Hold::Done) };
    if pod.ending || context.is_done(&pod.uid) {
        return Err(Hold::Done);
    }
    let controller = ever(whose, &name.namespace, pod).map_err(Hold::Barred)?;
    budgets(context, &name.namespace, pod).map_err(Hold::Barred)?;
    left_alone(context, &pod.uid)?;
    whole(context, name, controller)?;
    Ok(pod)
}

/// Whether it may be evicted at all: its controller.
pub(super) fn ever<'a>(
    (object, policy): (&PowerCappingPolicy, &Policy),
    namespace: &str,
    pod: &'a PodFacts,
) -> Result<&'a Controller, Reason> {
    let Some(controller) = &pod.controller else { return Err(Reason::NeverEvicted) };
    let never = pod.is_static || pod.critical || namespace == CLUSTERS_OWN;
    if never || ["DaemonSet", "Node"].contains(&controller.kind.as_str()) {
        Err(Reason::NeverEvicted)
    } else if !policy.selects(object, &pod.labels, Some(controller)) {
        Err(Reason::RungNotPermitted)
    } else if pod.keeps_data {
        Err(Reason::LocalStorage)
    } else {
        Ok(controller)
    }
}

fn budgets(context: &Context<'_>, namespace: &str, pod: &PodFacts) -> Result<(), Reason> {
    let mut selecting = context.budgets.of_pod(namespace, pod);
    match (selecting.next(), selecting.next()) {
        (Some(_), Some(_)) => Err(Reason::SeveralBudgets),
        (Some(budget), None) if budget.allowed < 1 => Err(Reason::DisruptionForbidden),
        _ => Ok(()),
    }
}

/// What the API server answered a moment ago still counts.
pub(super) fn left_alone(context: &Context<'_>, uid: &str) -> Result<(), Hold> {
    let memory = &context.seen.memory;
    match memory.left_alone.get(uid) {
        Some((until, reason @ (Reason::DisruptionForbidden | Reason::SeveralBudgets | Reason::MigrationFailed)))
            if *until > context.now =>
        {
            Err(Hold::Barred(*reason))
        }
        Some((until, reason)) if *until > context.now => Err(Hold::Wait(*reason)),
        _ if memory.patience_until.is_some_and(|until| until > context.now) => Err(Hold::Wait(Reason::RefusedForNow)),
        _ => Ok(()),
    }
}

/// Whether the pod's workload has all its replicas, ready and not of this moment, and enough of them.
fn whole(context: &Context<'_>, name: &PodName, controller: &Controller) -> Result<(), Hold> {
    let limits = &context.seen.limits;
    let pods = context.workloads().pods(&name.namespace, controller);
    let staying = || pods.iter().filter(|pod| !pod.ending && !context.is_done(&pod.uid));
    if staying().count() < limits.minimum_replicas {
        return Err(Hold::Barred(Reason::TooFewReplicas));
    }
    if pods.iter().any(|pod| is_stuck(pod, context.now)) {
        return Err(Hold::Barred(Reason::ReplacementStuck));
    }
    if staying().count() < pods.len() || staying().any(|pod| !pod.ready) {
        return Err(Hold::Wait(Reason::ReplacementPending));
    }
    let cool_down = SignedDuration::try_from(limits.cool_down).unwrap_or(SignedDuration::MAX);
    let young = |created: Timestamp| context.now.duration_since(created) < cool_down;
    if staying().any(|pod| pod.created.is_some_and(young)) {
        return Err(Hold::Wait(Reason::CoolingDown));
    }
    Ok(())
}

/// Whether it has been neither well nor gone for too long. A pod that no node ever took has no other time than its own.
pub(super) fn is_stuck(pod: &PodFacts, now: Timestamp) -> bool {
    let since = pod.amiss_since.or(pod.created).filter(|_| pod.ending || !pod.ready);
    since.is_some_and(|since| now.duration_since(since) >= REPLACED_WITHIN)
}
