//! Nodes that advertise watts, and where a pod may run: by the rules of kube-scheduler, as far as they are sure.

use powercap_common::{selector::Labels, units::Watts};

use crate::pod::{NodeRequirement, NodeTerm, Pod, Toleration};

/// The nodes, the one that can offer most first.
#[derive(Clone, Debug, Default)]
pub struct Nodes(Vec<NodeFacts>);

/// A node that advertises watts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeFacts {
    /// Its name.
    pub name: String,
    /// Its labels.
    pub labels: Labels,
    /// What keeps pods away.
    pub taints: Vec<Taint>,
    /// Boards that its kubelet knows.
    pub gpus: u64,
    /// What its largest board can draw; not known without an agent's word.
    pub largest_board: Option<Watts>,
    /// The most that it could offer a pod: all that its boards can draw, or what it advertises where that is more.
    pub most: Watts,
    /// What it offers new pods now.
    pub offer: Watts,
}

/// What keeps pods away from a node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Taint {
    /// Its key.
    pub key: String,
    /// Its value.
    pub value: String,
    /// `NoSchedule`, `PreferNoSchedule` or `NoExecute`.
    pub effect: String,
}

/// Taints of conditions that pass (cordoned, not ready, booting): a pod waits for them to be taken off.
const PASSING: [&str; 2] = ["node.kubernetes.io/", "powercapping.io/"];

impl FromIterator<NodeFacts> for Nodes {
    fn from_iter<T: IntoIterator<Item = NodeFacts>>(nodes: T) -> Self {
        let mut nodes: Vec<_> = nodes.into_iter().collect();
        nodes.sort_by(|a, b| b.most.cmp(&a.most).then_with(|| a.name.cmp(&b.name)));
        Self(nodes)
    }
}

impl Nodes {
    /// Those that a pod with so many boards may run on, the one that can offer most first.
    pub fn eligible<'a>(&'a self, pod: &'a Pod, gpus: u64) -> impl Iterator<Item = &'a NodeFacts> {
        self.0.iter().filter(move |node| node.gpus >= gpus && node.takes(pod))
    }
}

impl NodeFacts {
    fn takes(&self, pod: &Pod) -> bool {
        let selector = pod.spec.node_selector.iter().flatten();
        let selected = selector.into_iter().all(|(label, value)| self.labels.get(label) == Some(value));
        let required = pod.node_terms().is_none_or(|terms| terms.iter().any(|term| self.meets(term)));
        selected && required && self.taints.iter().all(|taint| taint.bears(pod.tolerations()))
    }

    /// A term without any part is met by no node.
    fn meets(&self, term: &NodeTerm) -> bool {
        let labels = term.match_expressions.as_deref().unwrap_or_default();
        let fields = term.match_fields.as_deref().unwrap_or_default();
        let name = |part: &NodeRequirement| (part.key == "metadata.name").then_some(self.name.as_str());
        let by_labels = || labels.iter().all(|part| met(part, self.labels.get(&part.key).map(String::as_str)));
        let by_name = || fields.iter().all(|part| met(part, name(part)));
        !(labels.is_empty() && fields.is_empty()) && by_labels() && by_name()
    }
}

fn met(part: &NodeRequirement, value: Option<&str>) -> bool {
    let values = part.values.as_deref().unwrap_or_default();
    let listed = value.is_some_and(|value| values.iter().any(|listed| listed == value));
    let number = || value?.parse::<i64>().ok().zip(values.first()?.parse::<i64>().ok());
    match part.operator.as_str() {
        "In" => listed,
        "NotIn" => !listed,
        "Exists" => value.is_some(),
        "DoesNotExist" => value.is_none(),
        "Gt" => number().is_some_and(|(value, bound)| value > bound),
        "Lt" => number().is_some_and(|(value, bound)| value < bound),
        // What a later Kubernetes compares by is not known here; the scheduler knows.
        _ => true,
    }
}

impl Taint {
    fn bears(&self, tolerations: &[Toleration]) -> bool {
        let harmless = self.effect == "PreferNoSchedule" || PASSING.iter().any(|prefix| self.key.starts_with(prefix));
        harmless || tolerations.iter().any(|toleration| self.is_tolerated_by(toleration))
    }

    fn is_tolerated_by(&self, toleration: &Toleration) -> bool {
        let is =
            |written: &Option<String>, own: &str| written.as_deref().is_none_or(|text| text.is_empty() || text == own);
        let value = toleration.value.as_deref().unwrap_or_default();
        let equal = toleration.operator.as_deref() == Some("Exists") || value == self.value;
        is(&toleration.key, &self.key) && is(&toleration.effect, &self.effect) && equal
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn labelled(name: &str, labels: &[(&str, &str)]) -> NodeFacts {
        let labels = labels.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        NodeFacts { name: name.into(), labels, gpus: 8, most: Watts::new(5600), ..NodeFacts::default() }
    }

    fn eligible(nodes: &[NodeFacts], spec: &Value) -> Vec<String> {
        let pod: Pod = serde_json::from_value(json!({"spec": spec})).unwrap();
        let nodes: Nodes = nodes.iter().cloned().collect();
        nodes.eligible(&pod, 1).map(|node| node.name.clone()).collect()
    }

    fn affinity(terms: &Value) -> Value {
        json!({"affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": terms}}}})
    }

    #[test]
    fn a_pod_may_run_where_selector_affinity_and_boards_allow() {
        let mut small = labelled("small", &[("zone", "a"), ("generation", "3")]);
        small.gpus = 0;
        let nodes = [labelled("n1", &[("zone", "a"), ("generation", "7")]), labelled("n2", &[("zone", "b")]), small];
        for (spec, names) in [
            (json!({}), vec!["n1", "n2"]),
            (json!({"nodeSelector": {"zone": "a"}}), vec!["n1"]),
            (json!({"nodeSelector": {"zone": "c"}}), vec![]),
            (
                affinity(&json!([{"matchExpressions": [{"key": "zone", "operator": "NotIn", "values": ["a"]}]}])),
                vec!["n2"],
            ),
            (
                affinity(&json!([{"matchExpressions": [{"key": "generation", "operator": "Gt", "values": ["3"]}]}])),
                vec!["n1"],
            ),
            (
                affinity(&json!([{"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["n2"]}]}])),
                vec!["n2"],
            ),
            (affinity(&json!([{}, {"matchExpressions": [{"key": "zone", "operator": "DoesNotExist"}]}])), vec![]),
            (affinity(&json!([])), vec![]),
        ] {
            assert_eq!(eligible(&nodes, &spec), names, "{spec}");
        }
    }

    #[test]
    fn a_taint_keeps_a_pod_away_unless_it_is_borne_or_passes() {
        let tainted = |key: &str, effect: &str| NodeFacts {
            taints: vec![Taint { key: key.into(), value: "yes".into(), effect: effect.into() }],
            ..labelled("n1", &[])
        };
        for (key, effect, toleration, takes) in [
            ("gpu", "NoSchedule", json!([]), false),
            ("gpu", "NoExecute", json!([{"key": "gpu", "value": "no"}]), false),
            ("gpu", "NoSchedule", json!([{"key": "gpu", "operator": "Equal", "value": "yes"}]), true),
            ("gpu", "NoSchedule", json!([{"key": "gpu", "operator": "Exists", "effect": "NoExecute"}]), false),
            ("gpu", "NoSchedule", json!([{"operator": "Exists"}]), true),
            ("gpu", "PreferNoSchedule", json!([]), true),
            ("node.kubernetes.io/unschedulable", "NoSchedule", json!([]), true),
            ("powercapping.io/uninitialized", "NoSchedule", json!([]), true),
        ] {
            let names = eligible(&[tainted(key, effect)], &json!({"tolerations": toleration}));
            assert_eq!(names.len(), usize::from(takes), "{key} {effect} {toleration}");
        }
    }

    #[test]
    fn the_node_that_can_offer_most_comes_first() {
        let large = NodeFacts { most: Watts::new(8000), ..labelled("z", &[]) };
        assert_eq!(eligible(&[labelled("a", &[]), large], &json!({})), ["z", "a"]);
    }
}
