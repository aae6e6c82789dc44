//! What LimitRanges and ResourceQuotas of a namespace leave open. What would break one of them is left out: the
//! API server would refuse the pod.

use std::collections::BTreeMap;

use k8s_openapi::{
    api::core::v1::{LimitRange, LimitRangeItem, ResourceQuota},
    apimachinery::pkg::api::resource::Quantity as Written,
};
use powercap_common::{
    api::{ControlledResource, WATTS},
    quantity::Quantity,
};

use crate::decide::amount::{Units, units};

/// What may be set, each with the key under which it stands in requests and limits.
pub const RESOURCES: [(ControlledResource, &str); 3] =
    [(ControlledResource::Cpu, "cpu"), (ControlledResource::Memory, "memory"), (ControlledResource::Watts, WATTS)];

/// What requests and limits of one resource must keep to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Range {
    /// No request below.
    pub min: Units,
    /// No limit above.
    pub max: Units,
    /// A limit is at most so many thousandths of its request.
    pub ratio: Option<u64>,
}

/// What LimitRanges demand, by resource; the strictest of several.
#[derive(Clone, Debug, Default)]
pub struct Limits(BTreeMap<ControlledResource, Range>);

/// What ResourceQuotas leave, the least of several.
#[derive(Clone, Debug, Default)]
pub struct Quota {
    requests: BTreeMap<ControlledResource, Units>,
    limits: BTreeMap<ControlledResource, Units>,
    /// Whether one of them is for pods with or without any request of CPU or memory: to set the first of a pod
    /// would bring it under another.
    pub by_quality_of_service: bool,
}

impl Default for Range {
    fn default() -> Self {
        Self { min: 0, max: Units::MAX, ratio: None }
    }
}

impl Range {
    /// Whether a request and a limit keep to it; no limit is none too high.
    #[must_use]
    pub fn admits(&self, request: Units, limit: Option<Units>) -> bool {
        let in_ratio = |limit: Units| {
            self.ratio.is_none_or(|ratio| u128::from(limit) * 1000 <= u128::from(request) * u128::from(ratio))
        };
        request >= self.min && request.max(limit.unwrap_or_default()) <= self.max && limit.is_none_or(in_ratio)
    }
}

impl Limits {
    /// Of one type, `Container` or `Pod`, in these objects.
    pub fn of<'a>(kind: &str, objects: impl IntoIterator<Item = &'a LimitRange>) -> Self {
        let mut found = Self::default();
        let items = objects.into_iter().filter_map(|object| object.spec.as_ref()).flat_map(|spec| &spec.limits);
        for item in items.filter(|item| item.type_ == kind) {
            found.narrow(item);
        }
        found
    }

    /// What holds for a resource.
    #[must_use]
    pub fn range(&self, resource: ControlledResource) -> Range {
        self.0.get(&resource).copied().unwrap_or_default()
    }

    fn narrow(&mut self, item: &LimitRangeItem) {
        for (resource, key) in RESOURCES {
            let amount = |amounts: &Option<BTreeMap<String, Written>>| -> Option<Quantity> {
                amounts.as_ref()?.get(key)?.0.parse().ok()
            };
            let range = self.0.entry(resource).or_default();
            let least = |amount: Quantity| units(resource, amount);
            range.min = amount(&item.min).map_or(range.min, |min| range.min.max(least(min)));
            range.max = amount(&item.max).map_or(range.max, |max| range.max.min(least(max)));
            let ratio = amount(&item.max_limit_request_ratio).map(Quantity::ceil_millis);
            range.ratio = range.ratio.into_iter().chain(ratio).min();
        }
    }
}

impl Quota {
    /// What these objects leave.
    pub fn of<'a>(objects: impl IntoIterator<Item = &'a ResourceQuota>) -> Self {
        let mut found = Self::default();
        for object in objects {
            let (Some(spec), status) = (&object.spec, &object.status) else { continue };
            let scopes = spec.scopes.iter().flatten().map(String::as_str);
            let selected = spec.scope_selector.iter().flat_map(|selector| selector.match_expressions.iter().flatten());
            let mut scopes = scopes.chain(selected.map(|expression| expression.scope_name.as_str()));
            found.by_quality_of_service |= scopes.any(|scope| matches!(scope, "BestEffort" | "NotBestEffort"));
            let used = status.as_ref().and_then(|status| status.used.as_ref());
            for (key, hard) in spec.hard.iter().flatten() {
                found.narrow(key, hard, used.and_then(|used| used.get(key)));
            }
        }
        found
    }

    /// How much more the pods of the namespace may request; `None`: as much as they like.
    #[must_use]
    pub fn left(&self, resource: ControlledResource) -> Option<Units> {
        self.requests.get(&resource).copied()
    }

    /// How much higher their limits may be.
    #[must_use]
    pub fn limits_left(&self, resource: ControlledResource) -> Option<Units> {
        self.limits.get(&resource).copied()
    }

    fn narrow(&mut self, key: &str, hard: &Written, used: Option<&Written>) {
        let (place, name) = match key.split_once('.') {
            Some(("requests", name)) => (&mut self.requests, name),
            Some(("limits", name)) => (&mut self.limits, name),
            _ => (&mut self.requests, key),
        };
        let Some((resource, _)) = RESOURCES.into_iter().find(|(_, known)| *known == name) else { return };
        let amount = |written: &Written| written.0.parse().ok().map(|amount| units(resource, amount));
        // Of a quota that nobody has counted yet nothing is known to be left.
        let left = amount(hard).zip(used.and_then(amount)).map_or(0, |(hard, used)| hard.saturating_sub(used));
        let least = place.entry(resource).or_insert(left);
        *least = left.min(*least);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ControlledResource::{Cpu, Memory, Watts};
    use serde_json::json;

    #[test]
    fn of_several_limit_ranges_the_strictest_counts() {
        let range = |min: &str, max: &str, ratio: &str| -> LimitRange {
            serde_json::from_value(json!({"spec": {"limits": [
                {"type": "Container", "min": {"cpu": min}, "max": {"cpu": max}, "maxLimitRequestRatio": {"cpu": ratio}},
                {"type": "Pod", "max": {"memory": "1Gi"}},
            ]}}))
            .unwrap()
        };
        let objects = [range("100m", "2", "4"), range("50m", "1500m", "1.5")];
        let container = Limits::of("Container", &objects);
        assert_eq!(container.range(Cpu), Range { min: 100, max: 1500, ratio: Some(1500) });
        assert_eq!(container.range(Watts), Range::default());
        assert_eq!(Limits::of("Pod", &objects).range(Memory).max, 1 << 30);
    }

    #[test]
    fn a_range_admits_what_the_api_server_does() {
        let range = Range { min: 100, max: 1000, ratio: Some(2000) };
        for (request, limit, admitted) in [
            (100, Some(200), true),
            (99, None, false),
            (100, Some(201), false),
            (600, Some(1001), false),
            (1001, None, false),
            (1000, None, true),
        ] {
            assert_eq!(range.admits(request, limit), admitted, "{request} {limit:?}");
        }
    }

    #[test]
    fn a_quota_leaves_what_is_not_used_and_an_uncounted_one_nothing() {
        let quota = |spec: serde_json::Value, used: serde_json::Value| -> ResourceQuota {
            serde_json::from_value(json!({"spec": spec, "status": {"used": used}})).unwrap()
        };
        let watts = quota(
            json!({"hard": {"requests.powercapping.io/watts": "5k", "cpu": "4", "limits.memory": "1Gi", "pods": "9"}}),
            json!({"requests.powercapping.io/watts": "4200", "cpu": "3500m", "limits.memory": "1Gi", "pods": "1"}),
        );
        let tighter = quota(json!({"hard": {"requests.cpu": "1"}, "scopes": ["NotBestEffort"]}), json!({}));
        let found = Quota::of([&watts]);
        assert_eq!((found.left(Watts), found.left(Cpu), found.limits_left(Memory)), (Some(800), Some(500), Some(0)));
        assert_eq!((found.left(Memory), found.by_quality_of_service), (None, false));
        let found = Quota::of([&watts, &tighter]);
        assert_eq!((found.left(Cpu), found.by_quality_of_service), (Some(0), true));
    }
}
