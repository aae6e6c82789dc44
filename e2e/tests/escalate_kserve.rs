//! KServe's real controller: a policy names an InferenceService or an LLMInferenceService; Scale lowers the bounds of
//! the service itself, KServe and its HPA follow, no pod is made anew, and without the permission the bounds return.

use std::collections::BTreeSet;

use k8s_openapi::api::{apps::v1::Deployment, autoscaling::v2::HorizontalPodAutoscaler};
use kube::{
    Api, ResourceExt,
    api::{ApiResource, DeleteParams, DynamicObject, GroupVersionKind, PostParams},
};
use powercap_common::condition::Truth;
use serde_json::{Value, json};

use crate::rack::Rack;

/// A cap that four boards at their lowest clock do not keep, and one does.
const CAP: u32 = 200;
const REPLICAS: u64 = 4;
const MOST: u64 = 6;
/// KServe's label on all that it makes of the service.
const PODS: &str = "serving.kserve.io/inferenceservice=chat";
/// What stands on the service while a ceiling of ours does.
const ORIGINALS: &str = "powercapping.io/escalated";

#[tokio::test]
async fn a_service_of_kserve_is_scaled_by_its_own_bound_and_no_pod_is_made_anew() {
    let rack = Rack::ready().await;
    let mut kserve = crate::kserve::Kserve::start().await;
    // Its boards are for the service.
    rack.scale("demo", "inference", 0).await;
    services(&rack, "v1beta1", "InferenceService").create(&PostParams::default(), &service()).await.unwrap();
    services(&rack, "v1alpha2", "LLMInferenceService").create(&PostParams::default(), &llm()).await.unwrap();

    target(&rack, "v1alpha2", "LLMInferenceService").await;
    found(&rack, "app.kubernetes.io/name=chat,app.kubernetes.io/part-of=llminferenceservice").await;
    target(&rack, "v1beta1", "InferenceService").await;
    found(&rack, PODS).await;
    rack.eventually("its four pods are matched and draw power", async |rack| {
        let status = rack.policy("inference").await.status.unwrap();
        status.matched_pods == 4 && status.current_power_watts.is_some_and(|watts| watts > CAP)
    })
    .await;
    let pods = pods(&rack).await;

    let ladder = json!([{"action": "Throttle"}, {"action": "Scale"}]);
    rack.edit_policy("inference", json!({"powerCapLimitWatts": CAP, "escalation": ladder})).await;
    rack.eventually("fewer replicas are permitted by the service itself", async |rack| {
        let service = seen(rack).await;
        bounds(&service).1 < REPLICAS && service.annotations().contains_key(ORIGINALS)
    })
    .await;
    rack.eventually("KServe has its HPA follow, and the cap is kept", async |rack| {
        let (service, truth) = (bounds(&seen(rack).await), rack.policy_condition("inference", "WithinCap").await.0);
        autoscaler(rack).await == service && replicas(rack).await == service.1 && truth == Truth::True
    })
    .await;
    let left = self::pods(&rack).await;
    assert!(!left.is_empty() && left.is_subset(&pods), "pods of before are left, and no others: {left:?} of {pods:?}");
    kserve.check();

    rack.edit_policy("inference", json!({"escalation": null})).await;
    rack.eventually("what was written stands again, and KServe has its HPA follow", async |rack| {
        let service = seen(rack).await;
        bounds(&service) == (REPLICAS, MOST)
            && !service.annotations().contains_key(ORIGINALS)
            && autoscaler(rack).await == (REPLICAS, MOST)
    })
    .await;

    kserve.check();
    for (version, kind) in [("v1beta1", "InferenceService"), ("v1alpha2", "LLMInferenceService")] {
        services(&rack, version, kind).delete("chat", &DeleteParams::default()).await.unwrap();
    }
    rack.eventually("KServe lets the service go", async |rack| {
        services(rack, "v1beta1", "InferenceService").get_opt("chat").await.unwrap().is_none()
    })
    .await;
    kserve.stop().await;
    rack.remove_caps().await;
}

/// Pods as the demo's LLM server has them, a board each. Nobody serves the metric by which KServe scales: it keeps the
/// replicas between their bounds, and no more.
fn service() -> DynamicObject {
    let container = json!({
        "name": "kserve-container", "image": "powercap-simulator:dev", "args": ["workload", "serve"],
        "ports": [{"name": "http", "containerPort": 8000}],
        "readinessProbe": {"httpGet": {"path": "/health", "port": "http"}, "periodSeconds": 1},
        "resources": {"limits": {"nvidia.com/gpu": 1}},
    });
    serde_json::from_value(json!({
        "apiVersion": "serving.kserve.io/v1beta1", "kind": "InferenceService",
        "metadata": {"name": "chat", "annotations": {"serving.kserve.io/deploymentMode": "Standard"}},
        "spec": {"predictor": {
            "minReplicas": REPLICAS, "maxReplicas": MOST,
            "automountServiceAccountToken": false, "terminationGracePeriodSeconds": 1, "containers": [container],
        }},
    }))
    .unwrap()
}

/// Nobody makes anything of it here.
fn llm() -> DynamicObject {
    serde_json::from_value(json!({
        "apiVersion": "serving.kserve.io/v1alpha2", "kind": "LLMInferenceService", "metadata": {"name": "chat"},
        "spec": {"model": {"uri": "hf://example/model"}, "replicas": 2},
    }))
    .unwrap()
}

fn services(rack: &Rack, version: &str, kind: &str) -> Api<DynamicObject> {
    let resource = ApiResource::from_gvk(&GroupVersionKind::gvk("serving.kserve.io", version, kind));
    Api::namespaced_with(rack.client.clone(), "demo", &resource)
}

/// The policy `inference` names the service of this kind in the place of labels.
async fn target(rack: &Rack, version: &str, kind: &str) {
    let target = json!({"apiVersion": format!("serving.kserve.io/{version}"), "kind": kind, "name": "chat"});
    rack.edit_policy("inference", json!({"selector": null, "targetRef": target})).await;
}

async fn found(rack: &Rack, selector: &str) {
    rack.eventually(&format!("the policy is for {selector}"), async |rack| {
        let status = rack.policy("inference").await.status.unwrap_or_default();
        status.target.is_some_and(|target| target.selector == selector)
    })
    .await;
}

async fn seen(rack: &Rack) -> DynamicObject {
    services(rack, "v1beta1", "InferenceService").get("chat").await.unwrap()
}

/// The fewest and the most replicas that the service says.
fn bounds(service: &DynamicObject) -> (u64, u64) {
    let bound = |name: &str| service.data["spec"]["predictor"][name].as_u64().unwrap();
    (bound("minReplicas"), bound("maxReplicas"))
}

/// And those of the HPA that KServe makes.
async fn autoscaler(rack: &Rack) -> (u64, u64) {
    let autoscalers = Api::<HorizontalPodAutoscaler>::namespaced(rack.client.clone(), "demo");
    let spec: Value = json!(autoscalers.get("chat-predictor").await.unwrap().spec);
    (spec["minReplicas"].as_u64().unwrap(), spec["maxReplicas"].as_u64().unwrap())
}

async fn replicas(rack: &Rack) -> u64 {
    let deployments = Api::<Deployment>::namespaced(rack.client.clone(), "demo");
    let replicas = deployments.get("chat-predictor").await.unwrap().spec.unwrap().replicas;
    u64::try_from(replicas.unwrap_or(1)).unwrap()
}

/// Its pods, by their UIDs.
async fn pods(rack: &Rack) -> BTreeSet<String> {
    rack.pods("demo", PODS).await.iter().filter_map(ResourceExt::uid).collect()
}
