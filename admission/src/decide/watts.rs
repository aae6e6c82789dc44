//! The watts of a pod's containers: what is recommended, or while nothing is known yet the most that the boards
//! can draw that they ask for. Too few would let a breaker trip, too many only leave watts idle until the
//! recommender knows better.
//!
//! Must hold: requested only where a node that the pod may run on advertises them, and never more than such a node
//! could ever offer, or the pod would wait for ever; what a person asked for beyond is kept.

use powercap_common::{
    api::{ControlledResource, PowerCappingPolicy, PowerScope},
    reason::Reason,
    units::Watts,
};

use super::{
    Change, Edit, Wishes,
    amount::{Asked, Units, at_most_in_proportion, said},
    name, whole,
};
use crate::{
    cluster::{Namespace, Nodes},
    pod::{Container, Pod},
};

const WATTS: ControlledResource = ControlledResource::Watts;

/// What one container should request.
struct Wanted {
    container: usize,
    asked: Asked,
    target: Units,
    upper: Option<Units>,
    reason: Reason,
}

pub(super) fn wish(wishes: &mut Wishes, pod: &Pod, policy: &PowerCappingPolicy, here: &Namespace, nodes: &Nodes) {
    let mut controlled = pod.spec.containers.iter().enumerate().collect::<Vec<_>>();
    controlled.retain(|(_, container)| {
        let sets = policy.spec.resource_policy.of(&container.name).controlled_resources.contains(&WATTS);
        sets && (container.gpus() > 0 || recommended(policy, container).is_some())
    });
    if controlled.is_empty() {
        return;
    }
    wishes.recommended = true;
    let gpus = whole::gpus(pod);
    let Some(best) = nodes.eligible(pod, gpus).next() else {
        let text = "no node that the pod may run on advertises powercapping.io/watts; it requests none".to_owned();
        return wishes.warn(Reason::NoNodeAdvertises, text);
    };
    if let Some(written) = controlled.iter().find_map(|(_, container)| Asked::by(container, WATTS).err()) {
        let text = format!("powercapping.io/watts {written:?} is no amount; the watts of the pod are left as they are");
        return wishes.warn(Reason::UnreadableQuantity, text);
    }
    let largest_board = || nodes.eligible(pod, gpus).filter_map(|node| node.largest_board).max();
    let want = |(at, container)| want(at, container, policy, here, largest_board);
    let mut wanted: Vec<_> = controlled.into_iter().filter_map(want).collect();
    // What CPUs of a node could draw is not known here: the recommender has kept to it.
    if policy.spec.power_scope == PowerScope::Devices {
        fit(wishes, &mut wanted, best.most);
    }
    for wanted in wanted {
        let above = wanted.asked.request.zip(wanted.upper).filter(|(now, upper)| now > upper);
        if !wanted.is_kept() {
            wishes.changes.push(wanted.change());
        } else if let Some((now, upper)) = above {
            let container = name(pod, wanted.container);
            let text = format!("container {container} requests {now} W, its policy recommends {upper} W at most; kept");
            wishes.warn(Reason::RequestTooHigh, text);
        }
    }
}

/// Whether no node that the pod may run on offers the watts that it then requests.
pub(super) fn waits(pod: &Pod, changes: &[Change], nodes: &Nodes) -> bool {
    let watts = whole::requested(pod, WATTS, changes);
    watts > 0 && !nodes.eligible(pod, whole::gpus(pod)).any(|node| Units::from(node.offer.floor()) >= watts)
}

fn recommended(policy: &PowerCappingPolicy, container: &Container) -> Option<Units> {
    said(&policy.status.as_ref()?.recommendation.as_ref()?.of(&container.name)?.target, WATTS)
}

fn want(
    at: usize,
    container: &Container,
    policy: &PowerCappingPolicy,
    here: &Namespace,
    largest_board: impl FnOnce() -> Option<Watts>,
) -> Option<Wanted> {
    let (target, reason) = match recommended(policy, container) {
        Some(target) => (target, Reason::RequestsSet),
        None if container.gpus() > 0 => {
            (container.gpus().saturating_mul(largest_board()?.ceil().into()), Reason::BoardsMaximum)
        }
        None => return None,
    };
    let (allowed, range) = (policy.spec.resource_policy.of(&container.name), here.container_limits.range(WATTS));
    let target = target.max(said(&allowed.min_allowed, WATTS).unwrap_or_default());
    let target = target.min(said(&allowed.max_allowed, WATTS).unwrap_or(Units::MAX)).max(range.min).min(range.max);
    let upper = policy.status.as_ref().and_then(|status| status.recommendation.as_ref()?.of(&container.name));
    let upper = upper.and_then(|recommended| said(&recommended.upper_bound, WATTS));
    let asked = Asked::by(container, WATTS).ok()?;
    (target > 0).then_some(Wanted { container: at, asked, target, upper, reason })
}

/// What is raised shares, in proportion, what the largest node could offer beside what is kept.
fn fit(wishes: &mut Wishes, wanted: &mut Vec<Wanted>, most: Watts) {
    let most = Units::from(most.floor());
    let (kept, raised) = wanted.iter().fold((0, 0), |(kept, raised): (Units, Units), wanted| {
        let now = wanted.asked.request.filter(|_| wanted.is_kept());
        now.map_or((kept, raised.saturating_add(wanted.target)), |now| (kept.saturating_add(now), raised))
    });
    let all = kept.saturating_add(raised);
    if all <= most {
        return;
    }
    let text = format!("the pod wants {all} W; no node that it may run on could ever offer more than {most} W");
    wishes.warn(Reason::BeyondAnyNode, text);
    let left = most.saturating_sub(kept);
    for wanted in wanted.iter_mut().filter(|wanted| !wanted.is_kept()) {
        wanted.target = at_most_in_proportion(left, wanted.target, raised);
        wanted.reason = Reason::BeyondAnyNode;
    }
    wanted.retain(|wanted| wanted.target > 0);
}

impl Wanted {
    /// Whether what it asks for suffices.
    fn is_kept(&self) -> bool {
        self.asked.request.is_some_and(|now| now >= self.target)
    }

    /// Of an extended resource the limit is the request.
    fn change(&self) -> Change {
        let reason = if self.asked.request.is_some() { Reason::RequestTooLow } else { self.reason };
        let edit = |from| Edit { from, to: self.target };
        let (request, limit) = (edit(self.asked.request), Some(edit(self.asked.limit)));
        Change { container: self.container, resource: WATTS, request, limit, reason }
    }
}
