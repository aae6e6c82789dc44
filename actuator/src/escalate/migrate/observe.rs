//! Nodes, placeholders and what pods request of nodes, only as far as a migration needs them: what else there is, is
//! skipped while it is read.

use std::collections::BTreeSet;

use k8s_openapi::{
    api::core::v1::{Node, Pod, Taint},
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use kube::{Resource, ResourceExt};
use powercap_common::requests::{InitRequest, of_pod};
use serde::Deserialize;

use super::facts::{Amounts, NodeFacts, OVER_BUDGET, PlaceFacts};

/// A Node.
#[derive(Resource, Clone, Debug, Deserialize)]
#[resource(inherit = Node)]
pub struct SeenNode {
    metadata: ObjectMeta,
    #[serde(default)]
    spec: SeenSpec,
    #[serde(default)]
    status: SeenStatus,
}

#[derive(Clone, Debug, Default, Deserialize)]
struct SeenSpec {
    #[serde(default)]
    taints: Vec<Taint>,
    #[serde(default)]
    unschedulable: bool,
}

#[derive(Clone, Debug, Default, Deserialize)]
struct SeenStatus {
    #[serde(default)]
    allocatable: Amounts,
}

/// A placeholder.
#[derive(Resource, Clone, Debug, Deserialize)]
#[resource(inherit = Pod)]
pub struct SeenPlace {
    metadata: ObjectMeta,
    #[serde(default)]
    status: SeenPhase,
}

#[derive(Clone, Debug, Default, Deserialize)]
struct SeenPhase {
    phase: Option<String>,
}

/// What a pod's containers request.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct SeenRequests {
    /// Of those that run together.
    pub containers: Vec<SeenContainer>,
    /// Of those that run before them, and of sidecars.
    pub init_containers: Vec<SeenContainer>,
    /// What the pod's sandbox takes.
    pub overhead: Amounts,
}

/// What one of them requests.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct SeenContainer {
    resources: SeenResources,
    /// Of an init container, `Always` makes it a sidecar.
    restart_policy: Option<String>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct SeenResources {
    requests: Amounts,
}

/// Drops from a node what no decision needs.
pub fn slim_node(node: &mut SeenNode) {
    if let Some(annotations) = &mut node.metadata.annotations {
        annotations.retain(|key, _| key == OVER_BUDGET);
    }
}

/// A node's name and facts.
pub fn node_facts(node: &SeenNode) -> (String, NodeFacts) {
    let ours = node.annotations().get(OVER_BUDGET).and_then(|mark| serde_json::from_str(mark).ok());
    let facts = NodeFacts {
        uid: node.uid().unwrap_or_default(),
        labels: node.labels().clone(),
        taints: node.spec.taints.clone(),
        cordoned: node.spec.unschedulable,
        allocatable: node.status.allocatable.clone(),
        mark: ours.filter(|_| node.spec.taints.iter().any(|taint| taint.key == OVER_BUDGET)),
    };
    (node.name_any(), facts)
}

/// A placeholder's name and facts.
pub fn place_facts(pod: &SeenPlace) -> (String, PlaceFacts) {
    let phase = pod.status.phase.as_deref();
    let facts = PlaceFacts {
        uid: pod.uid().unwrap_or_default(),
        held: phase == Some("Running"),
        ended: pod.metadata.deletion_timestamp.is_some() || matches!(phase, Some("Failed" | "Succeeded")),
    };
    (pod.name_any(), facts)
}

impl SeenRequests {
    /// All of it, as kube-scheduler counts.
    pub fn of_pod(&self) -> Amounts {
        let all = self.containers.iter().chain(&self.init_containers).map(|container| &container.resources.requests);
        let resources: BTreeSet<_> = all.flat_map(Amounts::iter).map(|(resource, _)| resource).collect();
        let of_one = |resource: &str| {
            let of = |container: &SeenContainer| container.resources.requests.of(resource);
            let init = |container| InitRequest { amount: of(container), sidecar: container.is_sidecar() };
            of_pod(self.containers.iter().map(of), self.init_containers.iter().map(init))
        };
        let mut amounts: Amounts = resources.into_iter().map(|resource| (resource, of_one(resource))).collect();
        amounts.add(&self.overhead);
        amounts
    }
}

impl SeenContainer {
    fn is_sidecar(&self) -> bool {
        self.restart_policy.as_deref() == Some("Always")
    }
}
