//! The ladder's reversible rungs: where clocks cannot keep a cap, the workload neither grows nor keeps all its
//! replicas, and it is what it was once the cap is given back.

use std::cell::Cell;

use k8s_openapi::{
    api::{apps::v1::Deployment, autoscaling::v2::HorizontalPodAutoscaler},
    jiff::Timestamp,
};
use kube::{
    Api, ResourceExt,
    api::{DeleteParams, PostParams},
};
use powercap_common::{
    api::Action,
    condition::{Truth, kind},
};
use powercap_e2e::figures::Figure;
use serde_json::json;

use crate::rack::{Rack, figures};

/// A cap that eight boards at their lowest clock do not keep, and some of them do.
const CAP: u32 = 400;
const REPLICAS: i32 = 8;
const MOST: i32 = 12;
/// Time enough to see the workload frozen before it is scaled.
const AFTER_SECONDS: u32 = 30;
/// What stands on the HPA while a ceiling of ours does.
const ORIGINALS: &str = "powercapping.io/escalated";

#[tokio::test]
async fn replicas_fall_to_what_the_cap_allows_stay_there_and_return_with_the_cap() {
    let rack = Rack::ready().await;
    autoscalers(&rack).create(&PostParams::default(), &autoscaler()).await.unwrap();
    let ladder = json!([
        {"action": "Throttle"}, {"action": "Freeze"}, {"action": "Scale", "afterSeconds": AFTER_SECONDS},
    ]);
    rack.edit_policy("inference", json!({"powerCapLimitWatts": CAP, "escalation": ladder})).await;
    rack.eventually("the workload does not grow from the first throttle on", async |rack| {
        let autoscaler = seen(rack).await;
        most(&autoscaler) == REPLICAS && autoscaler.annotations().contains_key(ORIGINALS)
    })
    .await;

    // The deed stands there until its effect is judged, the need for as long as it is one.
    let (since, deed) = (Cell::new(None), Cell::new(None));
    rack.eventually("it may have fewer replicas", async |rack| {
        let status = rack.policy("inference").await.status.unwrap_or_default();
        let need = status.pending_actions.iter().find(|pending| pending.action == Action::Scale);
        since.set(need.map(|need| need.since.0).or(since.get()));
        deed.set(status.escalated.and_then(|escalated| escalated.last).map(|last| last.action).or(deed.get()));
        most(&seen(rack).await) < REPLICAS && deed.get() == Some(Action::Scale)
    })
    .await;
    let lowered = Timestamp::now();
    let since = since.get().expect("the need stood");
    let excess = lowered.duration_since(since).as_secs_f64() - f64::from(AFTER_SECONDS);
    assert!(excess >= 0.0, "not before its time: {excess} s");
    figures::note(&Figure::at_most("ceiling_lowered_excess_s", Some(excess), "s", 10.0));

    rack.eventually("as many replicas go as the cap does not allow", async |rack| {
        let (replicas, most) = (replicas(rack).await, most(&seen(rack).await));
        replicas == most && within(rack).await == Truth::True
    })
    .await;
    let left = replicas(&rack).await;
    assert!((1..REPLICAS).contains(&left), "{left}");
    rack.throughout("they stay", 20, async |rack| {
        replicas(rack).await <= left && seen(rack).await.annotations().contains_key(ORIGINALS)
    })
    .await;

    rack.edit_policy("inference", json!({"powerCapLimitWatts": 6000})).await;
    rack.eventually("all return, and the autoscaler is what it was", async |rack| {
        let autoscaler = seen(rack).await;
        (most(&autoscaler), minimum(&autoscaler)) == (MOST, REPLICAS)
            && !autoscaler.annotations().contains_key(ORIGINALS)
            && replicas(rack).await == REPLICAS
    })
    .await;
    rack.eventually("nothing is said to be in force", async |rack| {
        rack.policy_condition("inference", kind::ESCALATING).await.0 != Truth::True
    })
    .await;

    autoscalers(&rack).delete("inference", &DeleteParams::default()).await.unwrap();
    rack.edit_policy("inference", json!({"powerCapLimitWatts": 4400, "escalation": null})).await;
}

fn autoscalers(rack: &Rack) -> Api<HorizontalPodAutoscaler> {
    Api::namespaced(rack.client.clone(), "demo")
}

/// Nobody serves its metric: it keeps the replicas between its bounds, and no more.
fn autoscaler() -> HorizontalPodAutoscaler {
    serde_json::from_value(json!({
        "apiVersion": "autoscaling/v2", "kind": "HorizontalPodAutoscaler", "metadata": {"name": "inference"},
        "spec": {
            "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "inference"},
            "minReplicas": REPLICAS, "maxReplicas": MOST,
            "metrics": [{"type": "Resource", "resource": {
                "name": "cpu", "target": {"type": "Utilization", "averageUtilization": 80}}}],
        },
    }))
    .unwrap()
}

async fn seen(rack: &Rack) -> HorizontalPodAutoscaler {
    autoscalers(rack).get("inference").await.unwrap()
}

fn most(autoscaler: &HorizontalPodAutoscaler) -> i32 {
    autoscaler.spec.as_ref().unwrap().max_replicas
}

fn minimum(autoscaler: &HorizontalPodAutoscaler) -> i32 {
    autoscaler.spec.as_ref().unwrap().min_replicas.unwrap_or(1)
}

async fn replicas(rack: &Rack) -> i32 {
    let deployments = Api::<Deployment>::namespaced(rack.client.clone(), "demo");
    deployments.get("inference").await.unwrap().spec.unwrap().replicas.unwrap_or(1)
}

async fn within(rack: &Rack) -> Truth {
    rack.policy_condition("inference", kind::WITHIN_CAP).await.0
}
