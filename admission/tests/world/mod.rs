//! A small cluster, and pods for it, as JSON that people would write.

use std::sync::Arc;

use k8s_openapi::api::core::v1::{LimitRange, ResourceQuota};
use powercap_admission::{
    cluster::{Cluster, Limits, Namespace, NodeFacts, Quota},
    decide::{Mutation, decide},
    patch::patch,
    pod::Pod,
};
use powercap_common::units::Watts;
use serde_json::{Value, json};

/// Where everything happens.
pub const NAMESPACE: &str = "llm";

/// What is in the cluster.
pub struct World {
    pub policy: Value,
    pub nodes: Vec<NodeFacts>,
    pub limits: Vec<LimitRange>,
    pub quotas: Vec<ResourceQuota>,
}

impl World {
    /// One node of eight boards, and a policy `chat` that enforces and recommends 700 W for the container `main`.
    pub fn new() -> Self {
        let policy = json!({
            "apiVersion": "powercapping.io/v1alpha1", "kind": "PowerCappingPolicy",
            "metadata": {"namespace": NAMESPACE, "name": "chat"},
            "spec": {"powerCapLimitWatts": 10_000, "mode": "Enforce", "selector": {"matchLabels": {"app": "chat"}}},
            "status": {},
        });
        let mut world = Self { policy, nodes: vec![node("n1")], limits: Vec::new(), quotas: Vec::new() };
        world.recommend("main", &json!({"powercapping.io/watts": "700"}));
        world
    }

    /// The policy recommends this for a container, and for no other.
    pub fn recommend(&mut self, container: &str, target: &Value) {
        let upper = json!({"powercapping.io/watts": "1000"});
        self.policy["status"]["recommendation"] =
            json!({"containerRecommendations": [{"containerName": container, "target": target, "upperBound": upper}]});
    }

    /// The policy may set these of every container.
    pub fn control(&mut self, resources: &[&str], values: &str) {
        self.policy["spec"]["resourcePolicy"] = json!({"containerPolicies": [{"containerName": "*", "controlledResources": resources, "controlledValues": values}]});
    }

    /// As admission sees it.
    pub fn cluster(&self) -> Cluster {
        let policy = serde_json::from_value(self.policy.clone()).unwrap();
        let namespace = Namespace {
            policies: [Arc::new(policy)].into_iter().collect(),
            container_limits: Limits::of("Container", &self.limits),
            pod_limits: Limits::of("Pod", &self.limits),
            quota: Quota::of(&self.quotas),
        };
        Cluster { namespaces: [(NAMESPACE.to_owned(), namespace)].into(), nodes: self.nodes.iter().cloned().collect() }
    }

    /// What is decided of a pod.
    pub fn decide(&self, pod: &Value) -> Mutation {
        decide(&serde_json::from_value(pod.clone()).unwrap(), NAMESPACE, &self.cluster())
    }

    /// What becomes of a pod.
    pub fn admitted(&self, pod: &Value) -> Value {
        admitted(&self.cluster(), pod)
    }

    /// The resources that its first container is created with.
    pub fn resources(&self, pod: &Value) -> Value {
        self.admitted(pod)["spec"]["containers"][0]["resources"].clone()
    }
}

/// What becomes of a pod.
pub fn admitted(cluster: &Cluster, pod: &Value) -> Value {
    let read: Pod = serde_json::from_value(pod.clone()).unwrap();
    let patch = patch(&read, &decide(&read, NAMESPACE, cluster));
    let mut admitted = pod.clone();
    json_patch::patch(&mut admitted, &patch).unwrap();
    admitted
}

/// A node of eight boards of 700 W, of which it offers 5 kW.
pub fn node(name: &str) -> NodeFacts {
    NodeFacts {
        name: name.to_owned(),
        gpus: 8,
        largest_board: Some(Watts::new(700)),
        most: Watts::new(5600),
        offer: Watts::new(5000),
        ..NodeFacts::default()
    }
}

/// A pod of the policy with one container `main` of these resources.
pub fn pod(resources: &Value) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"generateName": "chat-", "labels": {"app": "chat"}},
        "spec": {"containers": [{"name": "main", "image": "chat", "resources": resources}]},
    })
}

/// The same amount of watts as request and limit, as an extended resource must be.
pub fn watts(amount: &str) -> Value {
    json!({"requests": {"powercapping.io/watts": amount}, "limits": {"powercapping.io/watts": amount}})
}

/// A LimitRange of one item.
pub fn limit_range(item: &Value) -> LimitRange {
    serde_json::from_value(json!({"spec": {"limits": [item]}})).unwrap()
}

/// A ResourceQuota.
pub fn quota(hard: &Value, used: &Value) -> ResourceQuota {
    serde_json::from_value(json!({"spec": {"hard": hard}, "status": {"used": used}})).unwrap()
}
