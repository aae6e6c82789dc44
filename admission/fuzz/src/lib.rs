//! What must hold of admission's input, whatever its bytes: [`review`] and [`quantity`] panic where it does not.
//!
//! ```text
//!  corpus ──▶ libFuzzer ──bytes──▶ review, quantity
//!               ▲                     │
//!               └── branches reached ─┘   (of this workspace's crates alone: see `instrument`)
//! ```
#![forbid(unsafe_code)]
#![allow(clippy::expect_used, clippy::missing_panics_doc, reason = "what is found is told by a panic")]

use std::sync::{Arc, LazyLock};

use powercap_admission::{
    cluster::{Cluster, Limits, Namespace, NodeFacts, Quota},
    review::answer,
};
use powercap_common::{quantity::Quantity, units::Watts};
use serde_json::{Value, json};

/// A namespace whose policy sets every resource that it may, and a node that offers 5 kW.
static CLUSTER: LazyLock<Cluster> = LazyLock::new(|| {
    let target = json!({"powercapping.io/watts": "700", "cpu": "250m", "memory": "1Gi"});
    let policy = json!({
        "apiVersion": "powercapping.io/v1alpha1", "kind": "PowerCappingPolicy",
        "metadata": {"namespace": "llm", "name": "chat"},
        "spec": {
            "powerCapLimitWatts": 10_000, "mode": "Enforce", "selector": {"matchLabels": {"app": "chat"}},
            "resourcePolicy": {"containerPolicies": [{
                "containerName": "*", "controlledValues": "RequestsAndLimits",
                "controlledResources": ["cpu", "memory", "powercapping.io/watts"],
            }]},
        },
        "status": {"recommendation": {"containerRecommendations": [{"containerName": "main", "target": target}]}},
    });
    let namespace = Namespace {
        policies: [Arc::new(serde_json::from_value(policy).expect("a policy"))].into_iter().collect(),
        container_limits: Limits::of("Container", &[]),
        pod_limits: Limits::of("Pod", &[]),
        quota: Quota::of(&[]),
    };
    let node = NodeFacts {
        name: "node-1".to_owned(),
        gpus: 8,
        largest_board: Some(Watts::new(700)),
        most: Watts::new(5600),
        offer: Watts::new(5000),
        ..NodeFacts::default()
    };
    Cluster { namespaces: [("llm".to_owned(), namespace)].into(), nodes: [node].into_iter().collect() }
});

/// Whether these bytes are a review. Its answer is one: it allows, under the review's own UID, and its patch has a type.
pub fn review(body: &[u8]) -> bool {
    let Ok(answered) = answer(body, &CLUSTER) else { return false };
    let written: Value = serde_json::from_slice(&answered.body).expect("an answer is JSON");
    let response = &written["response"];
    assert_eq!(response["allowed"], true, "a pod is never refused");
    assert!(response["uid"].as_str().is_some_and(|uid| !uid.is_empty()), "the review's UID comes back");
    assert_eq!(response["patch"].is_null(), response["patchType"].is_null(), "a patch has a type");
    for warning in response["warnings"].as_array().into_iter().flatten() {
        let warning = warning.as_str().expect("a warning is a text");
        assert!(warning.len() <= 256 && !warning.contains(char::is_control), "{warning:?}");
    }
    true
}

/// Whether this text is a quantity. It is then read back as it is written, and thousandths are no more than wholes.
pub fn quantity(text: &str) -> bool {
    let Ok(quantity) = text.parse::<Quantity>() else { return false };
    let written = quantity.to_string();
    assert_eq!(written.parse::<Quantity>(), Ok(quantity), "{text} as {written}");
    assert!(quantity.ceil() as u128 * 1000 >= u128::from(quantity.ceil_millis()), "{text}");
    true
}
