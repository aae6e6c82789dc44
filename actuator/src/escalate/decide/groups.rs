//! A group of a LeaderWorkerSet goes by the eviction of its leader, which owns the others: all are made anew together.
//!
//! Must hold: the leader or none, since a worker that goes alone stops all the same; none while any pod of the set is
//! not well; never a group of which a PodDisruptionBudget selects a worker, since nobody asks one for those that go
//! with their leader.

use powercap_common::{api::PowerCappingPolicy, policy::Policy, reason::Reason};

use super::{
    Context, Hold, What,
    evict::{ever, is_stuck, may_go},
    needs::Need,
};
use crate::escalate::observation::{PodFacts, PodName};

/// The kind of such workloads.
pub(super) const KIND: &str = "LeaderWorkerSet";
/// Labels on each of its pods: the set, the group, and the place in the group.
const SET: &str = "leaderworkerset.sigs.k8s.io/name";
const GROUP: &str = "leaderworkerset.sigs.k8s.io/group-index";
const PLACE: &str = "leaderworkerset.sigs.k8s.io/worker-index";
const LEADER: &str = "0";

/// The eviction of a leader, where its whole group may go.
pub(super) fn due(
    context: &Context<'_>,
    whose: (&PowerCappingPolicy, &Policy),
    need: &Need<'_>,
    set: &str,
) -> Result<(What, String), Hold> {
    let namespace = &need.action.namespace;
    let Some(pod) = &need.action.pod else { return Err(Hold::Barred(Reason::NeverEvicted)) };
    let name = PodName { namespace: namespace.clone(), name: pod.clone() };
    let leader = may_go(context, whose, &name)?;
    if label(leader, PLACE) != Some(LEADER) || label(leader, SET) != Some(set) || label(leader, GROUP).is_none() {
        return Err(Hold::Barred(Reason::NeverEvicted));
    }
    let all = context.seen.pods_of(namespace).map(|(_, pod)| pod).filter(|pod| label(pod, SET) == Some(set));
    let mut waits = false;
    for pod in all {
        if pod.uid != leader.uid && label(pod, GROUP) == label(leader, GROUP) {
            ever(whose, namespace, pod).map_err(Hold::Barred)?;
            if context.budgets.of_pod(namespace, pod).next().is_some() {
                return Err(Hold::Barred(Reason::DisruptionForbidden));
            }
        }
        if is_stuck(pod, context.now) {
            return Err(Hold::Barred(Reason::ReplacementStuck));
        }
        waits |= pod.ending || !pod.ready;
    }
    if waits { Err(Hold::Wait(Reason::ReplacementPending)) } else { Ok((What::Evict(name), leader.uid.clone())) }
}

fn label<'p>(pod: &'p PodFacts, key: &str) -> Option<&'p str> {
    pod.labels.get(key).map(String::as_str)
}
