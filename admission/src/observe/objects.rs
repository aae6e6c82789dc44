//! Objects of the API server, only as far as admission needs them: of a thousand nodes that is little.

use std::hash::{DefaultHasher, Hash, Hasher};

use k8s_openapi::{api::core::v1::Node, apimachinery::pkg::apis::meta::v1::ObjectMeta};
use kube::{Resource, ResourceExt};
use powercap_common::{api::NodeFrequencies, quantity::Quantity, units::Watts};
use serde::Deserialize;

use crate::cluster::{NodeFacts, Taint};

/// A Node.
#[derive(Resource, Clone, Debug, Deserialize)]
#[resource(inherit = Node)]
pub struct WattsNode {
    metadata: ObjectMeta,
    #[serde(default)]
    spec: NodeSpec,
    #[serde(default)]
    status: NodeStatus,
}

#[derive(Clone, Debug, Default, Hash, Deserialize)]
struct NodeSpec {
    #[serde(default)]
    taints: Vec<NodeTaint>,
}

#[derive(Clone, Debug, Default, Hash, Deserialize)]
struct NodeTaint {
    key: String,
    #[serde(default)]
    value: String,
    effect: String,
}

#[derive(Clone, Debug, Default, Hash, Deserialize)]
struct NodeStatus {
    #[serde(default)]
    allocatable: Advertised,
    #[serde(default)]
    capacity: Advertised,
}

/// What a node has of the resources that matter here.
#[derive(Clone, Debug, Default, Hash, Deserialize)]
struct Advertised {
    #[serde(rename = "powercapping.io/watts")]
    watts: Option<String>,
    #[serde(rename = "nvidia.com/gpu")]
    gpus: Option<String>,
}

impl WattsNode {
    /// Changes when something does that a decision asks for.
    pub fn digest(&self) -> u64 {
        digest((&self.metadata.uid, &self.metadata.labels, &self.spec, &self.status))
    }
}

/// A number that changes with this.
pub fn digest(of: impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    of.hash(&mut hasher);
    hasher.finish()
}

/// Changes with any change of the object.
pub fn version<K: Resource>(object: &K) -> u64 {
    digest(&object.meta().resource_version)
}

/// Changes when another object takes its place.
pub fn uid<K: Resource>(object: &K) -> u64 {
    digest(&object.meta().uid)
}

/// A node's facts; none of one that advertises no watts.
pub fn node_facts(node: &WattsNode, agent: Option<&NodeFrequencies>) -> Option<NodeFacts> {
    let amount = |text: &Option<String>| Some(text.as_ref()?.parse::<Quantity>().ok()?.ceil());
    let advertised = amount(&node.status.allocatable.watts)?;
    let advertised = Watts::new(u32::try_from(advertised).unwrap_or(u32::MAX));
    let offer = agent.and_then(|agent| agent.spec.offer_watts).unwrap_or_default();
    let boards = agent.and_then(|agent| agent.status.as_ref()).map(|status| status.gpus.as_slice()).unwrap_or_default();
    let boards = || boards.iter().map(|board| Watts::new(board.max_power_limit_watts));
    let taint =
        |taint: &NodeTaint| Taint { key: taint.key.clone(), value: taint.value.clone(), effect: taint.effect.clone() };
    Some(NodeFacts {
        name: node.name_any(),
        labels: node.metadata.labels.clone().unwrap_or_default(),
        taints: node.spec.taints.iter().map(taint).collect(),
        gpus: amount(&node.status.capacity.gpus).unwrap_or_default(),
        largest_board: boards().max(),
        offer: Watts::new(offer),
        most: boards().sum::<Watts>().max(advertised),
    })
}

/// Drops annotations, which may be huge.
pub fn slim_metadata<K: Resource>(object: &mut K) {
    object.meta_mut().annotations = None;
}

#[cfg(test)]
mod tests {
    use super::*;
    use powercap_common::api::{GpuStatus, NodeFrequenciesSpec, NodeFrequenciesStatus, WATTS};
    use serde_json::json;

    fn facts(allocatable: &serde_json::Value, boards: &[u32]) -> Option<NodeFacts> {
        let node = json!({
            "apiVersion": "v1", "kind": "Node", "metadata": {"name": "n1", "labels": {"zone": "a"}},
            "spec": {"taints": [{"key": "gpu", "effect": "NoSchedule"}]},
            "status": {"allocatable": allocatable, "capacity": {"nvidia.com/gpu": "8"}, "images": [{"names": ["x"]}]},
        });
        let board = |watts: &u32| GpuStatus { max_power_limit_watts: *watts, ..GpuStatus::default() };
        let mut agent =
            NodeFrequencies::new("n1", NodeFrequenciesSpec { offer_watts: Some(100), ..Default::default() });
        agent.status = Some(NodeFrequenciesStatus { gpus: boards.iter().map(board).collect(), ..Default::default() });
        node_facts(&serde_json::from_value(node).unwrap(), Some(&agent))
    }

    #[test]
    fn a_node_counts_when_it_advertises_watts_and_with_all_that_its_boards_can_draw() {
        assert_eq!(facts(&json!({"cpu": "4"}), &[700]), None);
        let node = facts(&json!({WATTS: "300"}), &[700, 500]).unwrap();
        assert_eq!((node.most, node.largest_board, node.gpus), (Watts::new(1200), Some(Watts::new(700)), 8));
        assert_eq!(node.offer, Watts::new(100));
        assert_eq!(node.taints, [Taint { key: "gpu".into(), value: String::new(), effect: "NoSchedule".into() }]);
        let node = facts(&json!({WATTS: "2k"}), &[]).unwrap();
        assert_eq!((node.most, node.largest_board), (Watts::new(2000), None));
    }
}
