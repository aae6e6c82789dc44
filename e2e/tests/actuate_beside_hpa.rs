//! An HPA that wants more replicas of a workload that a cap throttles: frozen it gets none, and all that it wants after.

use k8s_openapi::api::{apps::v1::Deployment, autoscaling::v2::HorizontalPodAutoscaler};
use kube::{
    Api,
    api::{DeleteParams, Patch, PatchParams, PostParams},
};
use powercap_common::condition::{Truth, kind};
use serde_json::{Value, json};

use crate::rack::Rack;

/// Two boards at their lowest clocks draw more than this cap.
const CAP: u32 = 100;
const REPLICAS: i32 = 2;
const MOST: i32 = 4;
/// More memory than any pod uses, and less. It stands for CPU, of which servers without requests use none to speak of.
const PLENTY: &str = "1Ti";
const NOTHING: &str = "1Ki";

#[tokio::test]
async fn an_hpa_of_pods_that_look_busy_is_held_while_a_cap_throttles_them_and_grows_to_its_most_after() {
    let rack = Rack::ready().await;
    rack.scale("demo", "inference", 2).await;
    rack.eventually("two replicas are left", async |rack| rack.pods("demo", "app=inference").await.len() == 2).await;
    let autoscalers = Api::<HorizontalPodAutoscaler>::namespaced(rack.client.clone(), "demo");
    autoscalers.create(&PostParams::default(), &autoscaler()).await.unwrap();

    let ladder = json!([{"action": "Throttle"}, {"action": "Freeze"}]);
    rack.edit_policy("inference", json!({"powerCapLimitWatts": CAP, "escalation": ladder})).await;
    rack.eventually("the cap throttles them, and it is frozen", async |rack| {
        let triggered = rack.policy_condition("inference", kind::CAP_TRIGGERED).await.0;
        triggered == Truth::True && most(&autoscalers).await == REPLICAS
    })
    .await;
    let busy = Patch::Merge(json!({"spec": {"metrics": memory(NOTHING)}}));
    autoscalers.patch("inference", &PatchParams::default(), &busy).await.unwrap();
    rack.eventually("it says that it wants more than it may have, and has no more", async |rack| {
        is_limited(&autoscalers).await && replicas(rack).await == REPLICAS
    })
    .await;

    rack.edit_policy("inference", json!({"powerCapLimitWatts": 4400})).await;
    rack.eventually("with the cap it has its bounds again, and grows to its most", async |rack| {
        most(&autoscalers).await == MOST && replicas(rack).await == MOST
    })
    .await;
    autoscalers.delete("inference", &DeleteParams::default()).await.unwrap();
    rack.edit_policy("inference", json!({"escalation": null})).await;
}

/// Its replicas look idle.
fn autoscaler() -> HorizontalPodAutoscaler {
    serde_json::from_value(json!({
        "metadata": {"name": "inference"},
        "spec": {
            "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "inference"},
            "minReplicas": REPLICAS, "maxReplicas": MOST,
            "metrics": memory(PLENTY),
        },
    }))
    .unwrap()
}

/// So much memory for each.
fn memory(each: &str) -> Value {
    json!([{"type": "Resource", "resource": {
        "name": "memory", "target": {"type": "AverageValue", "averageValue": each}}}])
}

async fn most(autoscalers: &Api<HorizontalPodAutoscaler>) -> i32 {
    autoscalers.get("inference").await.unwrap().spec.unwrap().max_replicas
}

/// Whether what it reckons by its metric is above its most.
async fn is_limited(autoscalers: &Api<HorizontalPodAutoscaler>) -> bool {
    let conditions = autoscalers.get("inference").await.unwrap().status.and_then(|status| status.conditions);
    conditions
        .unwrap_or_default()
        .iter()
        .any(|condition| condition.type_ == "ScalingLimited" && condition.reason.as_deref() == Some("TooManyReplicas"))
}

async fn replicas(rack: &Rack) -> i32 {
    let deployments = Api::<Deployment>::namespaced(rack.client.clone(), "demo");
    deployments.get("inference").await.unwrap().spec.unwrap().replicas.unwrap_or(1)
}
