//! A pod that is made in the place of one that is being moved prefers the node where its place is held; nobody else does.

use std::sync::Arc;

use powercap_admission::{
    cluster::{Cluster, Namespace},
    decide::decide,
    pod::Pod,
};
use serde_json::{Value, json};

fn cluster() -> Cluster {
    let policy = json!({
        "apiVersion": "powercapping.io/v1alpha1", "kind": "PowerCappingPolicy",
        "metadata": {"namespace": "llm", "name": "all"},
        "spec": {"powerCapLimitWatts": 1000, "mode": "Enforce", "selector": {"matchLabels": {"app": "llm"}}},
        "status": {"escalated": {"migration": {"pod": "chat-1", "uid": "1", "controller": "ReplicaSet/chat",
            "source": "n1", "destinations": ["n2", "n3"]}}},
    });
    let policies = [Arc::new(serde_json::from_value(policy).unwrap())].into_iter().collect();
    let here = Namespace { policies, ..Namespace::default() };
    Cluster { namespaces: [("llm".to_owned(), here)].into(), ..Cluster::default() }
}

fn destination(namespace: &str, pod: &Value) -> Option<String> {
    let pod: Pod = serde_json::from_value(pod.clone()).unwrap();
    decide(&pod, namespace, &cluster()).destination
}

fn pod(kind: &str, name: &str) -> Value {
    let owner = json!({"apiVersion": "apps/v1", "kind": kind, "name": name, "uid": "u", "controller": true});
    json!({"metadata": {"labels": {"app": "llm"}, "ownerReferences": [owner]}, "spec": {"containers": []}})
}

#[test]
fn what_the_same_controller_makes_is_steered_to_the_last_destination() {
    assert_eq!(destination("llm", &pod("ReplicaSet", "chat")).as_deref(), Some("n3"));
}

#[test]
fn nobody_else_is() {
    let mut bound = pod("ReplicaSet", "chat");
    bound["spec"]["nodeName"] = json!("n9");
    let ownerless = json!({"metadata": {"labels": {"app": "llm"}}, "spec": {"containers": []}});
    for (what, namespace, pod) in [
        ("another controller", "llm", pod("ReplicaSet", "other")),
        ("another kind", "llm", pod("StatefulSet", "chat")),
        ("another namespace", "elsewhere", pod("ReplicaSet", "chat")),
        ("bound already", "llm", bound),
        ("no controller", "llm", ownerless),
    ] {
        assert_eq!(destination(namespace, &pod), None, "{what}");
    }
}
