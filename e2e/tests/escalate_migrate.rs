//! The rung Migrate: where a node's own domain cannot keep its cap by clocks, a pod is made anew on the other node,
//! where its place was held.

use std::time::Instant;

use k8s_openapi::api::{
    apps::v1::Deployment,
    core::v1::{Node, Pod},
};
use kube::{
    Api, ResourceExt,
    api::{DeleteParams, ListParams, Patch, PatchParams, PostParams},
};
use powercap_common::api::{Action, Migration, PowerDomain};
use powercap_e2e::figures::Figure;
use serde_json::json;

use crate::rack::{Rack, figures};

/// What a node of eight boards does not keep whatever their clocks are, and what both never draw.
const LOW: u32 = 1500;
const HIGH: u32 = 20_000;
const OVER_BUDGET: &str = "powercapping.io/over-budget";

#[tokio::test]
async fn a_pod_is_made_anew_on_the_node_that_has_watts_and_nothing_else_of_it_stays() {
    let rack = Rack::ready().await;
    let nodes = Api::<Node>::all(rack.client.clone()).list(&ListParams::default()).await.unwrap().items;
    let (source, other) = (nodes[0].name_any(), nodes[1].name_any());
    make_room(&rack).await;
    rack.edit_domain(json!({"powerCapLimitWatts": HIGH})).await;
    for (node, cap) in [(&source, HIGH), (&other, HIGH)] {
        domains(&rack).create(&PostParams::default(), &domain(node, cap)).await.unwrap();
    }
    let escalation = json!([{"action": "Throttle"}, {"action": "Migrate"}]);
    rack.edit_policy("inference", json!({"escalation": escalation, "powerCapLimitWatts": 8000})).await;
    rack.eventually("each node's domain knows its power", async |rack| {
        let power = async |node| domains(rack).get(node).await.unwrap().status.and_then(|it| it.current_power_watts);
        power(&source).await.is_some() && power(&other).await.is_some()
    })
    .await;
    let before = inference(&rack, &other).await.len();

    let lower = Patch::Merge(json!({"spec": {"powerCapLimitWatts": LOW}}));
    domains(&rack).patch(&source, &PatchParams::default(), &lower).await.unwrap();
    // The pods began when their Deployment was edited, and are left alone for a while.
    rack.eventually("a pod of the source is evicted, and its node tainted", async |rack| {
        let evicted = migration(rack).await.is_some_and(|migration| migration.evicted.is_some());
        evicted && is_tainted(rack, &source).await
    })
    .await;
    let begun = Instant::now();
    let moving = migration(&rack).await;
    if let Some(moving) = &moving {
        assert_eq!((moving.source.as_str(), moving.destination()), (source.as_str(), other.as_str()));
    }
    rack.eventually("what was made in its place is ready on the other node", async |rack| {
        inference(rack, &other).await.iter().filter(|pod| is_ready(pod)).count() > before
    })
    .await;
    let took = begun.elapsed().as_secs_f64();
    let last = rack.policy("inference").await.status.unwrap_or_default().escalated.and_then(|it| it.last);
    assert!(last.is_none_or(|last| last.action == Action::Migrate), "no other rung is permitted");

    let higher = Patch::Merge(json!({"spec": {"powerCapLimitWatts": HIGH}}));
    domains(&rack).patch(&source, &PatchParams::default(), &higher).await.unwrap();
    rack.eventually("no taint, no placeholder and no migration is left", async |rack| {
        !is_tainted(rack, &source).await && places(rack).await == 0 && migration(rack).await.is_none()
    })
    .await;
    for node in [&source, &other] {
        domains(&rack).delete(node, &DeleteParams::default()).await.unwrap();
    }
    rack.edit_policy("inference", json!({"escalation": null})).await;
    // Spread as they came they would leave no node with boards for a rank of the training.
    rack.scale("demo", "inference", 0).await;
    rack.eventually("inference is gone", async |rack| rack.pods("demo", "app=inference").await.is_empty()).await;
    figures::note(&Figure::at_most("migration_running_s", Some(took), "s", 5.0));
}

/// Boards that are free on each node, and an inference that need not be spread evenly.
async fn make_room(rack: &Rack) {
    rack.scale("demo", "training", 0).await;
    let deployments = Api::<Deployment>::namespaced(rack.client.clone(), "demo");
    let even = Patch::Merge(json!({"spec": {"template": {"spec": {"topologySpreadConstraints": null}}}}));
    deployments.patch("inference", &PatchParams::default(), &even).await.unwrap();
    rack.eventually("the new replicas of inference run, and no others", async |rack| {
        let deployment = deployments.get("inference").await.unwrap();
        let status = deployment.status.unwrap_or_default();
        let pods = rack.pods("demo", "app=inference").await;
        status.observed_generation == deployment.metadata.generation
            && status.updated_replicas == Some(8)
            && pods.len() == 8
            && pods.iter().all(is_ready)
    })
    .await;
}

fn domain(node: &str, cap: u32) -> PowerDomain {
    let domain = json!({
        "apiVersion": "powercapping.io/v1alpha1", "kind": "PowerDomain", "metadata": {"name": node},
        "spec": {"powerCapLimitWatts": cap, "parentRef": {"name": "rack"},
            "nodeSelector": {"matchLabels": {"kubernetes.io/hostname": node}},
            "nodeOverhead": {"staticWatts": 1300, "percent": 8}},
    });
    serde_json::from_value(domain).unwrap()
}

fn domains(rack: &Rack) -> Api<PowerDomain> {
    Api::all(rack.client.clone())
}

async fn migration(rack: &Rack) -> Option<Migration> {
    rack.policy("inference").await.status?.escalated?.migration
}

async fn inference(rack: &Rack, node: &str) -> Vec<Pod> {
    let mut pods = rack.pods("demo", "app=inference").await;
    pods.retain(|pod| pod.spec.as_ref().unwrap().node_name.as_deref() == Some(node));
    pods
}

fn is_ready(pod: &Pod) -> bool {
    let conditions = pod.status.iter().flat_map(|status| status.conditions.iter().flatten());
    let ready = conditions.into_iter().any(|condition| condition.type_ == "Ready" && condition.status == "True");
    ready && pod.metadata.deletion_timestamp.is_none()
}

async fn is_tainted(rack: &Rack, node: &str) -> bool {
    let node = Api::<Node>::all(rack.client.clone()).get(node).await.unwrap();
    let taints = node.spec.and_then(|spec| spec.taints).unwrap_or_default();
    taints.iter().any(|taint| taint.key == OVER_BUDGET)
}

async fn places(rack: &Rack) -> usize {
    rack.pods("powercap-places", "app.kubernetes.io/name=powercap-place").await.len()
}
