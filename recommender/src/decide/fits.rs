//! Whether a pending pod could run on a node if the node had the watts.
//!
//! Looked at is what a Node and its pods tell for sure: GPUs, CPU, memory, labels, taints. Affinity between
//! pods, spread and volumes are kube-scheduler's to judge.
//!
//! Must hold: what is not understood fits nowhere, so that no watts go to where they wait for nobody.

use k8s_openapi::api::core::v1::{NodeSelectorRequirement, NodeSelectorTerm, Taint, Toleration};
use powercap_common::selector::Labels;

use super::fleet::NodeView;
use crate::observation::{PendingPod, Requests};

/// Whether the pod may be placed on the node, which has this much left.
pub fn fits(pod: &PendingPod, node: &NodeView<'_>, left: &Requests) -> bool {
    let wants = &pod.requests;
    let facts = node.facts;
    !facts.unschedulable
        && wants.gpus <= left.gpus
        && wants.cpu_millis <= left.cpu_millis
        && wants.memory_bytes <= left.memory_bytes
        && facts.taints.iter().all(|taint| pod.tolerations.iter().any(|toleration| tolerates(toleration, taint)))
        && pod.node_selector.iter().all(|(key, value)| facts.labels.get(key) == Some(value))
        && pod.affinity.as_ref().is_none_or(|affinity| {
            affinity.node_selector_terms.iter().any(|term| matches(term, node.name, &facts.labels))
        })
}

/// What is left of some resources when a pod has taken its part. Watts are no part of it.
pub fn less(left: Requests, taken: &Requests) -> Requests {
    Requests {
        watts: left.watts,
        gpus: left.gpus.saturating_sub(taken.gpus),
        cpu_millis: left.cpu_millis.saturating_sub(taken.cpu_millis),
        memory_bytes: left.memory_bytes.saturating_sub(taken.memory_bytes),
    }
}

fn tolerates(toleration: &Toleration, taint: &Taint) -> bool {
    let key = toleration.key.as_deref().unwrap_or_default();
    let exists = toleration.operator.as_deref() == Some("Exists");
    let of_effect = |effect: &str| effect.is_empty() || effect == taint.effect;
    let same_value = || {
        toleration.operator.as_deref().is_none_or(|operator| operator == "Equal")
            && toleration.value.as_deref().unwrap_or_default() == taint.value.as_deref().unwrap_or_default()
    };
    of_effect(toleration.effect.as_deref().unwrap_or_default())
        && ((key.is_empty() && exists) || (key == taint.key && (exists || same_value())))
}

/// A term without any requirement matches no node, as Kubernetes has it.
fn matches(term: &NodeSelectorTerm, name: &str, labels: &Labels) -> bool {
    let expressions = || term.match_expressions.iter().flatten();
    let fields = || term.match_fields.iter().flatten();
    (expressions().count() > 0 || fields().count() > 0)
        && expressions().all(|wanted| holds(wanted, labels.get(&wanted.key).map(String::as_str)))
        && fields().all(|wanted| wanted.key == "metadata.name" && holds(wanted, Some(name)))
}

fn holds(wanted: &NodeSelectorRequirement, value: Option<&str>) -> bool {
    let values = || wanted.values.iter().flatten();
    let is_one = || value.is_some_and(|value| values().any(|one| one == value));
    let compared = |holds: fn(&i64, &i64) -> bool| {
        let bound = values().next().and_then(|bound| bound.parse().ok());
        value.and_then(|value| value.parse().ok()).zip(bound).is_some_and(|(value, bound)| holds(&value, &bound))
    };
    match wanted.operator.as_str() {
        "In" => is_one(),
        "NotIn" => !is_one(),
        "Exists" => value.is_some(),
        "DoesNotExist" => value.is_none(),
        "Gt" => compared(i64::gt),
        "Lt" => compared(i64::lt),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn labels() -> Labels {
        [("zone", "a"), ("cores", "64")].map(|(key, value)| (key.to_owned(), value.to_owned())).into()
    }

    #[test]
    fn requirements_of_nodes_hold_as_kubernetes_has_it() {
        for (term, held) in [
            (json!({"matchExpressions": [{"key": "zone", "operator": "In", "values": ["a", "b"]}]}), true),
            (json!({"matchExpressions": [{"key": "zone", "operator": "In", "values": ["b"]}]}), false),
            (json!({"matchExpressions": [{"key": "zone", "operator": "NotIn", "values": ["b"]}]}), true),
            (json!({"matchExpressions": [{"key": "rack", "operator": "NotIn", "values": ["b"]}]}), true),
            (json!({"matchExpressions": [{"key": "rack", "operator": "Exists"}]}), false),
            (json!({"matchExpressions": [{"key": "rack", "operator": "DoesNotExist"}]}), true),
            (json!({"matchExpressions": [{"key": "cores", "operator": "Gt", "values": ["63"]}]}), true),
            (json!({"matchExpressions": [{"key": "cores", "operator": "Lt", "values": ["64"]}]}), false),
            (json!({"matchExpressions": [{"key": "zone", "operator": "Gt", "values": ["1"]}]}), false),
            (json!({"matchExpressions": [{"key": "zone", "operator": "Resembles", "values": ["a"]}]}), false),
            (json!({"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["n1"]}]}), true),
            (json!({"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["n2"]}]}), false),
            (json!({}), false),
        ] {
            let read: NodeSelectorTerm = serde_json::from_value(term.clone()).unwrap();
            assert_eq!(matches(&read, "n1", &labels()), held, "{term}");
        }
    }

    #[test]
    fn a_taint_is_tolerated_by_key_value_and_effect() {
        let taint =
            Taint { key: "gpu".into(), value: Some("only".into()), effect: "NoSchedule".into(), ..Taint::default() };
        for (toleration, tolerated) in [
            (json!({"operator": "Exists"}), true),
            (json!({"key": "gpu", "operator": "Exists"}), true),
            (json!({"key": "gpu", "value": "only"}), true),
            (json!({"key": "gpu", "operator": "Equal", "value": "only", "effect": "NoSchedule"}), true),
            (json!({"key": "gpu", "value": "other"}), false),
            (json!({"key": "gpu", "operator": "Exists", "effect": "NoExecute"}), false),
            (json!({"key": "cpu", "operator": "Exists"}), false),
            (json!({"key": "gpu", "operator": "Resembles", "value": "only"}), false),
        ] {
            let read: Toleration = serde_json::from_value::<Toleration>(toleration.clone() as Value).unwrap();
            assert_eq!(tolerates(&read, &taint), tolerated, "{toleration}");
        }
    }
}
