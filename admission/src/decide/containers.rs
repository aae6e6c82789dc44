//! CPU and memory of a pod's containers, where their policy controls them: set to what is recommended, as users of
//! the Vertical Pod Autoscaler know it, up or down, limits in proportion.

use powercap_common::{
    api::{ContainerPolicy, ControlledResource, ControlledValues, PowerCappingPolicy},
    reason::Reason,
};

use super::{
    Change, Edit, Wishes,
    amount::{Asked, Units, at_most_in_proportion, in_proportion, said},
    word,
};
use crate::{
    cluster::{Namespace, Range},
    pod::{Pod, Resources},
};

pub(super) fn wish(wishes: &mut Wishes, pod: &Pod, policy: &PowerCappingPolicy, here: &Namespace) {
    let recommendation = policy.status.as_ref().and_then(|status| status.recommendation.as_ref());
    for (at, container) in pod.spec.containers.iter().enumerate() {
        let Some(recommended) = recommendation.and_then(|all| all.of(&container.name)) else { continue };
        let rules = policy.spec.resource_policy.of(&container.name);
        for resource in [ControlledResource::Cpu, ControlledResource::Memory] {
            let target = said(&recommended.target, resource);
            let Some(target) = target.filter(|_| rules.controlled_resources.contains(&resource)) else { continue };
            wishes.recommended = true;
            let (container, resource_word) = (&container.name, word(resource));
            if has(pod.spec.resources.as_ref(), resource) {
                let text = format!("{resource_word} of container {container} is left as it is: the pod has its own");
                wishes.warn(Reason::PodLevelResources, text);
                continue;
            }
            let asked = match Asked::by(&pod.spec.containers[at], resource) {
                Ok(asked) => asked,
                Err(written) => {
                    let text = format!("{resource_word} {written:?} of container {container} is no amount; it is left");
                    wishes.warn(Reason::UnreadableQuantity, text);
                    continue;
                }
            };
            let range = here.container_limits.range(resource);
            wishes.changes.extend(change(at, resource, target, asked, &rules, range));
        }
    }
}

/// Whether the pod as a whole asks for a resource.
fn has(resources: Option<&Resources>, resource: ControlledResource) -> bool {
    let written = |resources: &Resources| {
        let amounts = [&resources.requests, &resources.limits];
        amounts.into_iter().flatten().any(|amounts| amounts.of(resource).is_some())
    };
    resources.is_some_and(written)
}

fn change(
    container: usize,
    resource: ControlledResource,
    target: Units,
    asked: Asked,
    rules: &ContainerPolicy,
    range: Range,
) -> Option<Change> {
    let target = target.max(said(&rules.min_allowed, resource).unwrap_or_default());
    let target = target.min(said(&rules.max_allowed, resource).unwrap_or(Units::MAX)).max(range.min).min(range.max);
    let Asked { request: now, limit } = asked;
    let (target, limit) = match (rules.controlled_values, limit) {
        (_, None) => (target, None),
        (ControlledValues::RequestsOnly, Some(limit)) => {
            // A request far below its limit may break the LimitRange's ratio.
            let least = range.ratio.and_then(|ratio| in_proportion(limit, 1000, ratio)).unwrap_or_default();
            (target.max(least).min(limit), None)
        }
        (ControlledValues::RequestsAndLimits, Some(limit)) => {
            let scaled = now.and_then(|now| in_proportion(limit, target, now)).unwrap_or(limit);
            let highest = range.ratio.map_or(Units::MAX, |ratio| at_most_in_proportion(target, ratio, 1000));
            let to = scaled.min(highest).min(range.max).max(target);
            (target, Some(Edit { from: Some(limit), to }))
        }
    };
    let request = Edit { from: now, to: target };
    let changes = request.is_one() && target > 0 && range.admits(target, limit.map(|limit| limit.to).or(asked.limit));
    changes.then_some(Change { container, resource, request, limit, reason: Reason::RequestsSet })
}

#[cfg(test)]
mod tests {
    use super::*;
    use ControlledResource::Cpu;

    fn changed(target: Units, asked: (u64, u64), rules: &ContainerPolicy, range: Range) -> Option<(Units, Units)> {
        let some = |amount: u64| (amount > 0).then_some(amount);
        let asked = Asked { request: some(asked.0), limit: some(asked.1) };
        let change = change(0, Cpu, target, asked, rules, range)?;
        Some((change.request.to, change.limit.map(|limit| limit.to).unwrap_or_default()))
    }

    #[test]
    fn a_limit_follows_its_request_and_both_keep_to_the_limit_range() {
        let (rules, free) = (ContainerPolicy::default(), Range::default());
        let range = |min, max, ratio| Range { min, max, ratio };
        for (target, asked, range, becomes) in [
            (500, (0, 0), free, Some((500, 0))),
            (500, (500, 0), free, None),
            (500, (250, 1000), free, Some((500, 2000))),
            (500, (1000, 1000), free, Some((500, 500))),
            (500, (250, 1000), range(0, 1500, None), Some((500, 1500))),
            (500, (250, 1000), range(600, 1500, None), Some((600, 1500))),
            (2000, (250, 1000), range(0, 1500, None), Some((1500, 1500))),
            (500, (250, 1000), range(0, 5000, Some(2000)), Some((500, 1000))),
        ] {
            assert_eq!(changed(target, asked, &rules, range), becomes, "{target} {asked:?} {range:?}");
        }
    }

    #[test]
    fn with_requests_only_the_limit_stands_and_bounds_the_request() {
        let rules = ContainerPolicy { controlled_values: ControlledValues::RequestsOnly, ..ContainerPolicy::default() };
        let ratio = Range { ratio: Some(4000), ..Range::default() };
        assert_eq!(changed(2000, (250, 1000), &rules, Range::default()), Some((1000, 0)));
        assert_eq!(changed(100, (500, 1000), &rules, ratio), Some((250, 0)));
    }
}
