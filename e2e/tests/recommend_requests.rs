//! What the real metrics-server tells of a pod becomes what its policy recommends, where the policy asks for it;
//! watts are recommended without being asked for.

use k8s_openapi::api::core::v1::Pod;
use kube::{
    Api,
    api::{ApiResource, DeleteParams, DynamicObject, GroupVersionKind, PostParams},
};
use powercap_common::{
    api::{Amounts, ContainerRecommendation, PowerCappingPolicy},
    quantity::Quantity,
};
use serde_json::json;

use crate::rack::Rack;

const NAMESPACE: &str = "demo";
const NAME: &str = "burner";

#[tokio::test]
async fn a_pod_that_burns_cpu_is_recommended_about_what_it_uses_where_that_is_asked_for() {
    let rack = Rack::ready().await;
    let (pods, policies) = (pods(&rack), policies(&rack));
    pods.create(&PostParams::default(), &burner()).await.unwrap();
    policies.create(&PostParams::default(), &policy()).await.unwrap();
    rack.eventually("its cpu is recommended with 15 % to spare, within what a reading errs", async |rack| {
        let Some((used, told)) = used(rack).await.zip(recommended(rack, NAME, "burn").await) else { return false };
        let told = told.target.cpu.map(|amount| amount.quantity().unwrap().ceil_millis()).unwrap_or_default();
        let used = used.ceil_millis();
        used > 50 && told > used && told < 2 * used
    })
    .await;
    let told = recommended(&rack, NAME, "burn").await.unwrap();
    assert!(told.target.memory.is_some(), "{told:?}");
    assert_eq!(told.target.watts, None, "it has no device");
    let amount = |amounts: &Amounts| amounts.cpu.clone().map(|amount| amount.quantity().unwrap());
    assert!(amount(&told.lower_bound) <= amount(&told.target) && amount(&told.target) <= amount(&told.upper_bound));

    let inference = recommended(&rack, "inference", "serve").await.expect("watts of a board");
    let watts = inference.target.watts.map(|watts| watts.quantity().unwrap().ceil()).unwrap();
    assert!((50..=1700).contains(&watts), "a board, and the CPUs under it: {watts} W");
    assert_eq!((inference.target.cpu, inference.target.memory), (None, None), "not asked for");

    pods.delete(NAME, &DeleteParams { grace_period_seconds: Some(0), ..DeleteParams::default() }).await.unwrap();
    rack.remove_caps().await;
}

fn pods(rack: &Rack) -> Api<Pod> {
    Api::namespaced(rack.client.clone(), NAMESPACE)
}

fn policies(rack: &Rack) -> Api<PowerCappingPolicy> {
    Api::namespaced(rack.client.clone(), NAMESPACE)
}

/// Sends requests that nobody answers, as fast as it is told to.
fn burner() -> Pod {
    let args = ["traffic", "--target=http://127.0.0.1:9", "--requests-per-second=3000"];
    serde_json::from_value(json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": NAME, "labels": {"app": NAME}},
        "spec": {
            "automountServiceAccountToken": false,
            "containers": [{"name": "burn", "image": "powercap-simulator:dev", "args": args}],
        },
    }))
    .unwrap()
}

fn policy() -> PowerCappingPolicy {
    serde_json::from_value(json!({
        "apiVersion": "powercapping.io/v1alpha1", "kind": "PowerCappingPolicy", "metadata": {"name": NAME},
        "spec": {
            "powerCapLimitWatts": 1000,
            "selector": {"matchLabels": {"app": NAME}},
            "resourcePolicy": {"containerPolicies": [
                {"containerName": "burn", "controlledResources": ["cpu", "memory", "powercapping.io/watts"]},
            ]},
        },
    }))
    .unwrap()
}

/// What metrics-server tells of the pod's CPU.
async fn used(rack: &Rack) -> Option<Quantity> {
    let kind = GroupVersionKind::gvk("metrics.k8s.io", "v1beta1", "PodMetrics");
    let resource = ApiResource::from_gvk_with_plural(&kind, "pods");
    let metrics = Api::<DynamicObject>::namespaced_with(rack.client.clone(), NAMESPACE, &resource);
    let told = metrics.get_opt(NAME).await.unwrap()?;
    told.data["containers"][0]["usage"]["cpu"].as_str()?.parse().ok()
}

async fn recommended(rack: &Rack, policy: &str, container: &str) -> Option<ContainerRecommendation> {
    rack.policy(policy).await.status?.recommendation?.of(container).cloned()
}
