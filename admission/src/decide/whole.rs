//! What a pod takes as a whole, and what its namespace lets it take. What would be refused is left out, all of a
//! resource at once: half of what a pod needs would be neither what its owner wrote nor what is recommended.

use powercap_common::{api::ControlledResource, reason::Reason};

use super::{
    Change, Wishes,
    amount::{Asked, Units},
    word,
};
use crate::{
    cluster::Namespace,
    pod::{Container, Pod},
};

/// Boards that its node must have.
pub(super) fn gpus(pod: &Pod) -> u64 {
    total(pod, |_, container| container.gpus())
}

/// What it requests of a resource after these changes.
pub(super) fn requested(pod: &Pod, resource: ControlledResource, changes: &[Change]) -> Units {
    Taken::by(pod, resource, changes).requests
}

pub(super) fn keep_to(wishes: &mut Wishes, pod: &Pod, here: &Namespace) {
    for resource in [ControlledResource::Watts, ControlledResource::Cpu, ControlledResource::Memory] {
        if !wishes.changes.iter().any(|change| change.resource == resource) {
            continue;
        }
        let (before, after) = (Taken::by(pod, resource, &[]), Taken::by(pod, resource, &wishes.changes));
        let limit = (after.limits > 0).then_some(after.limits);
        if !here.pod_limits.range(resource).admits(after.requests, limit) {
            let text = format!("a LimitRange would refuse the pod with the recommended {}", word(resource));
            wishes.leave_out(resource, Reason::LimitRangeWouldRefuse, text);
            continue;
        }
        let exceeds = |after: Units, before: Units, left: Option<Units>| {
            left.is_some_and(|left| after.saturating_sub(before) > left)
        };
        let first = resource != ControlledResource::Watts && is_best_effort(pod) && here.quota.by_quality_of_service;
        let refused = exceeds(after.requests, before.requests, here.quota.left(resource))
            || exceeds(after.limits, before.limits, here.quota.limits_left(resource))
            || first;
        if refused {
            let text = format!("a ResourceQuota would refuse the pod with the recommended {}", word(resource));
            wishes.leave_out(resource, Reason::QuotaWouldRefuse, text);
        }
    }
}

/// Whether it asks for no CPU and no memory at all.
fn is_best_effort(pod: &Pod) -> bool {
    let asks = |container: &Container| {
        [ControlledResource::Cpu, ControlledResource::Memory]
            .into_iter()
            .any(|resource| Asked::by(container, resource).is_ok_and(|asked| asked.request.is_some()))
    };
    !pod.spec.containers.iter().any(asks) && !pod.init_containers().any(|(container, _)| asks(container))
}

/// What a pod takes of a resource.
struct Taken {
    requests: Units,
    limits: Units,
}

impl Taken {
    fn by(pod: &Pod, resource: ControlledResource, changes: &[Change]) -> Self {
        let change = |at: Option<usize>| {
            changes.iter().find(|change| Some(change.container) == at && change.resource == resource)
        };
        let asked = |container: &Container| Asked::by(container, resource).unwrap_or_default();
        let request = |at: Option<usize>, container: &Container| {
            change(at).map(|change| change.request.to).or(asked(container).request).unwrap_or_default()
        };
        let limit = |at: Option<usize>, container: &Container| {
            change(at)
                .and_then(|change| change.limit.map(|limit| limit.to))
                .or(asked(container).limit)
                .unwrap_or_default()
        };
        Self { requests: total(pod, request), limits: total(pod, limit) }
    }
}

/// As Kubernetes counts: all containers at once beside the sidecars, or one init container beside the sidecars that
/// were started before it, whichever is more.
fn total(pod: &Pod, of: impl Fn(Option<usize>, &Container) -> u64) -> u64 {
    let (mut sidecars, mut most) = (0_u64, 0_u64);
    for (container, is_sidecar) in pod.init_containers() {
        let with = sidecars.saturating_add(of(None, container));
        most = most.max(with);
        sidecars = if is_sidecar { with } else { sidecars };
    }
    let containers = pod.spec.containers.iter().enumerate();
    let running = containers.fold(sidecars, |sum, (at, container)| sum.saturating_add(of(Some(at), container)));
    most.max(running)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_pod_takes_what_runs_at_once() {
        let gpus_of = |init: serde_json::Value| {
            let container = |gpus: u64| json!({"resources": {"limits": {"nvidia.com/gpu": gpus}}});
            let pod = json!({"spec": {"initContainers": init, "containers": [container(2), container(1)]}});
            gpus(&serde_json::from_value(pod).unwrap())
        };
        let of = |gpus: u64, policy: Option<&str>| json!({"restartPolicy": policy, "resources": {"limits": {"nvidia.com/gpu": gpus}}});
        assert_eq!(gpus_of(json!([])), 3);
        assert_eq!(gpus_of(json!([of(8, None)])), 8, "an init container before all others");
        assert_eq!(gpus_of(json!([of(2, Some("Always"))])), 5, "a sidecar beside them");
        assert_eq!(gpus_of(json!([of(2, Some("Always")), of(4, None)])), 6, "an init container beside a sidecar");
        assert_eq!(gpus_of(json!([of(4, None), of(2, Some("Always"))])), 5);
    }
}
