//! The policies of a namespace, and which of them a pod's requests come from.
//!
//! A namespace may have a thousand policies, and a pod is decided in microseconds: policies are found by a label
//! that they demand, and only those are asked.

use std::{cmp::Reverse, collections::HashMap, sync::Arc};

use kube::ResourceExt;
use powercap_common::{
    api::{Mode, PowerCappingPolicy},
    policy::selects,
    selector::{Labels, Selector},
    target::Controller,
};

/// Policies of one namespace, in the order in which they come first.
#[derive(Clone, Debug, Default)]
pub struct Policies {
    /// Those that are switched off come last, then the lower priority, then the younger.
    ranked: Vec<Arc<PowerCappingPolicy>>,
    /// Ranks by a label that the policy demands, and its value.
    by_label: HashMap<String, HashMap<String, Vec<usize>>>,
    /// Ranks of those that demand no label in so many words.
    others: Vec<usize>,
    /// Controllers of pods that are being moved, and the nodes where places are held for them.
    moving: Vec<(String, String)>,
}

impl Policies {
    /// The policy whose recommendation holds for a pod of these labels.
    #[must_use]
    pub fn first(&self, labels: &Labels, controller: Option<&Controller>) -> Option<&PowerCappingPolicy> {
        let by_label = labels.iter().filter_map(|(label, value)| self.by_label.get(label)?.get(value)).flatten();
        let mut ranks: Vec<_> = by_label.chain(&self.others).copied().collect();
        ranks.sort_unstable();
        let mut policies = ranks.into_iter().filter_map(|rank| self.ranked.get(rank));
        policies.find(|policy| selects(policy, labels, controller)).map(AsRef::as_ref)
    }

    /// The node where a place is held for what this makes.
    #[must_use]
    pub fn destination(&self, controller: Option<&Controller>) -> Option<&str> {
        let controller = controller.filter(|_| !self.moving.is_empty())?.to_string();
        self.moving.iter().find(|(moving, _)| *moving == controller).map(|(_, node)| node.as_str())
    }
}

impl FromIterator<Arc<PowerCappingPolicy>> for Policies {
    fn from_iter<T: IntoIterator<Item = Arc<PowerCappingPolicy>>>(policies: T) -> Self {
        let mut ranked: Vec<_> = policies.into_iter().collect();
        ranked.sort_by_cached_key(|policy| {
            let age = policy.metadata.creation_timestamp.as_ref().map(|time| time.0);
            (policy.spec.mode == Mode::Off, Reverse(policy.spec.priority), age, policy.name_any())
        });
        let migration =
            |policy: &Arc<PowerCappingPolicy>| policy.status.as_ref()?.escalated.as_ref()?.migration.clone();
        let moving = ranked.iter().filter_map(migration);
        let moving = moving.map(|moving| (moving.controller.clone(), moving.destination().to_owned())).collect();
        let mut found = Self { moving, ..Self::default() };
        for (rank, policy) in ranked.iter().enumerate() {
            let Some(selector) = selector(policy) else { continue };
            match selector.demanded() {
                Some((label, values)) => {
                    let by_value = found.by_label.entry(label.to_owned()).or_default();
                    for value in values {
                        by_value.entry(value.clone()).or_default().push(rank);
                    }
                }
                None => found.others.push(rank),
            }
        }
        found.ranked = ranked;
        found
    }
}

/// Its own, or that of the workload that it names, as far as that was found.
fn selector(policy: &PowerCappingPolicy) -> Option<Selector> {
    match &policy.spec.selector {
        Some(selector) => Selector::try_from(selector).ok(),
        None => policy.status.as_ref()?.target.as_ref()?.selector.parse().ok(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn policies(specs: &[(&str, &str, Value)]) -> Policies {
        let policy = |(name, made, spec): &(&str, &str, Value)| {
            let mut spec = spec.clone();
            spec["powerCapLimitWatts"] = json!(1000);
            let object = json!({
                "apiVersion": "powercapping.io/v1alpha1", "kind": "PowerCappingPolicy", "spec": spec,
                "metadata": {"namespace": "llm", "name": name, "creationTimestamp": made},
                "status": {"target": {"targetRef": spec["targetRef"], "selector": "app=chat"}},
            });
            let mut object = object;
            if spec["targetRef"].is_null() {
                object["status"] = json!({});
            }
            Arc::new(serde_json::from_value(object).unwrap())
        };
        specs.iter().map(policy).collect()
    }

    fn first(policies: &Policies, labels: &[(&str, &str)], controller: Option<&Controller>) -> Option<String> {
        let labels = labels.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        policies.first(&labels, controller).map(ResourceExt::name_any)
    }

    #[test]
    fn the_highest_priority_comes_first_then_the_oldest_then_the_name_and_what_is_off_last() {
        let chat = json!({"matchLabels": {"app": "chat"}});
        let all = policies(&[
            ("off", "2026-01-01T00:00:00Z", json!({"selector": chat, "mode": "Off", "priority": 900})),
            ("young", "2026-03-01T00:00:00Z", json!({"selector": chat, "priority": 5})),
            ("old", "2026-02-01T00:00:00Z", json!({"selector": chat, "priority": 5})),
            ("low", "2026-01-01T00:00:00Z", json!({"selector": chat})),
        ]);
        assert_eq!(first(&all, &[("app", "chat")], None).as_deref(), Some("old"));
        assert_eq!(first(&all, &[("app", "other")], None), None);
        let off = policies(&[("off", "2026-01-01T00:00:00Z", json!({"selector": chat, "mode": "Off"}))]);
        assert_eq!(first(&off, &[("app", "chat")], None).as_deref(), Some("off"), "so that it can be said");
    }

    #[test]
    fn a_policy_without_a_demanded_label_or_for_a_workload_is_found_too() {
        let exists = json!({"matchExpressions": [{"key": "app", "operator": "Exists"}]});
        let target = json!({"apiVersion": "apps/v1", "kind": "StatefulSet", "name": "chat"});
        let all = policies(&[
            ("any", "2026-01-01T00:00:00Z", json!({"selector": exists})),
            ("workload", "2026-01-01T00:00:00Z", json!({"targetRef": target, "priority": 1})),
        ]);
        let own = |name: &str| Controller { kind: "StatefulSet".into(), name: name.into() };
        assert_eq!(first(&all, &[("app", "chat")], Some(&own("chat"))).as_deref(), Some("workload"));
        assert_eq!(first(&all, &[("app", "chat")], Some(&own("chat-2"))).as_deref(), Some("any"));
        assert_eq!(first(&all, &[("tier", "gold")], None), None);
    }
}
