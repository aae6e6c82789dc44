//! A policy that names a workload holds that workload's pods, and says which; a domain's tenancy binds it.
//! Against a real API server: discovery, scale subresources, namespaces and events are its own.

use k8s_openapi::api::events::v1::Event;
use kube::{Api, api::ListParams};
use powercap_common::{api::PowerCappingPolicyStatus, condition::Truth};
use serde_json::{Value, json};

use crate::rack::Rack;

#[tokio::test]
async fn a_policy_for_a_deployment_holds_its_pods_and_goes_on_when_it_names_nothing_there() {
    let rack = Rack::ready().await;
    target(&rack, json!({"apiVersion": "apps/v1", "kind": "Deployment", "name": "inference"})).await;
    rack.eventually("the Deployment's eight pods are matched, and their boards held", async |rack| {
        let status = status(rack).await;
        status.matched_pods == 8
            && status.target.is_some_and(|target| target.selector == "app=inference")
            && ceilings(rack).await == 8
    })
    .await;

    target(&rack, json!({"apiVersion": "apps/v1", "kind": "Deployment", "name": "not-there"})).await;
    says(&rack, "Ready", Truth::False, "TargetNotFound").await;
    target(&rack, json!({"apiVersion": "v1", "kind": "ConfigMap", "name": "kube-root-ca.crt"})).await;
    says(&rack, "Ready", Truth::False, "TargetWithoutSelector").await;
    target(&rack, json!({"apiVersion": "example.com/v1", "kind": "Fleet", "name": "inference"})).await;
    says(&rack, "Ready", Truth::False, "TargetNotFound").await;
    let held = ceilings(&rack).await;
    assert_eq!(held, 8, "what was held stays held while nobody knows whose it is");
    rack.remove_caps().await;
}

#[tokio::test]
async fn a_tenancy_that_does_not_welcome_the_namespace_takes_the_policys_ceilings_off_and_says_so() {
    let rack = Rack::ready().await;
    rack.eventually("the policy holds its boards", async |rack| ceilings(rack).await == 8).await;
    let welcome =
        |namespace: &str| json!({"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": namespace}}});
    rack.edit_domain(json!({"tenancy": welcome("elsewhere")})).await;
    says(&rack, "Permitted", Truth::False, "NotPermitted").await;
    rack.eventually("its ceilings are gone", async |rack| ceilings(rack).await == 0).await;
    rack.edit_domain(json!({"tenancy": welcome("demo")})).await;
    rack.eventually("and back", async |rack| ceilings(rack).await == 8).await;
    let refused = Api::<Event>::namespaced(rack.client.clone(), "demo");
    rack.eventually("an event on the policy says why", async |_| {
        let events = refused.list(&ListParams::default()).await.unwrap().items;
        events.iter().any(|event| {
            let about = event.regarding.as_ref().and_then(|object| object.kind.as_deref());
            (about, event.reason.as_deref()) == (Some("PowerCappingPolicy"), Some("NotPermitted"))
        })
    })
    .await;
    rack.remove_caps().await;
}

/// The policy `inference` names this workload in the place of labels.
async fn target(rack: &Rack, target: Value) {
    rack.edit_policy("inference", json!({"selector": null, "targetRef": target})).await;
}

async fn status(rack: &Rack) -> PowerCappingPolicyStatus {
    rack.policy("inference").await.status.unwrap_or_default()
}

async fn says(rack: &Rack, kind: &str, truth: Truth, reason: &str) {
    let claim = format!("{kind} is {truth:?} because of {reason}");
    rack.eventually(&claim, async |rack| rack.policy_condition("inference", kind).await == (truth, reason.to_owned()))
        .await;
}

/// Boards that the policy `inference` holds.
async fn ceilings(rack: &Rack) -> usize {
    let nodes = rack.nodes().await;
    let ceilings = nodes.iter().flat_map(|node| &node.spec.gpu_frequencies);
    ceilings.filter(|ceiling| ceiling.set_by == "powercappingpolicy/demo/inference").count()
}
