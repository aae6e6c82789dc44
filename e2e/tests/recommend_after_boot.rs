//! A node that registers with the boot taint gets pods when its limits are set, and not before; the
//! recommender can do nothing else to a node.

use k8s_openapi::api::core::v1::Node;
use kube::{
    Api, Client,
    api::{Patch, PatchParams},
};
use powercap_common::api::NodeFrequencies;
use serde_json::{Value, json};

use crate::rack::Rack;

const OURS: &str = "powercapping.io/uninitialized";
const OTHER: &str = "example.com/other";

#[tokio::test]
async fn the_taint_goes_when_the_agent_has_acknowledged_under_this_boot() {
    let rack = Rack::ready().await;
    let node = rack.nodes().await[0].spec.node_name.clone();
    // What a reboot leaves: an agent that is not up yet, and its words of the boot before.
    rack.stop_agents().await;
    let frequencies = Api::<NodeFrequencies>::all(rack.client.clone());
    let before = Patch::Merge(json!({"status": {"bootID": "the boot before"}}));
    frequencies.patch_status(&node, &PatchParams::default(), &before).await.unwrap();

    set_taints(&rack.client, &node, json!([taint(OURS), taint(OTHER)])).await.unwrap();
    rack.throughout("the taint stays while there is no agent", 12, async |rack| {
        taints(rack, &node).await.contains(&OURS.to_owned())
    })
    .await;
    rack.start_agents().await;
    rack.eventually("the taint goes, and the other one stays", async |rack| taints(rack, &node).await == [OTHER]).await;
    set_taints(&rack.client, &node, json!([])).await.unwrap();
}

#[tokio::test]
async fn the_recommender_can_change_nothing_else_on_a_node() {
    let rack = Rack::ready().await;
    let node = rack.nodes().await[0].spec.node_name.clone();
    set_taints(&rack.client, &node, json!([taint(OTHER)])).await.unwrap();
    let recommender = rack.as_account("powercap-system", "powercap-recommender", None).await;
    let nodes = Api::<Node>::all(recommender.clone());
    let as_recommender = async |patch: Value| nodes.patch(&node, &PatchParams::default(), &Patch::Merge(patch)).await;
    for refused in [
        set_taints(&recommender, &node, json!([taint(OTHER), taint(OURS)])).await,
        set_taints(&recommender, &node, json!([])).await,
        as_recommender(json!({"metadata": {"labels": {"rack": "other"}}})).await.map(drop),
        as_recommender(json!({"metadata": {"annotations": {"a": "b"}}})).await.map(drop),
        as_recommender(json!({"spec": {"unschedulable": true}})).await.map(drop),
        nodes
            .patch_status(
                &node,
                &PatchParams::default(),
                &Patch::Merge(json!({"status": {"capacity": {"x.y/z": "1"}}})),
            )
            .await
            .map(drop),
        nodes.delete(&node, &kube::api::DeleteParams::default()).await.map(drop),
    ] {
        let Err(kube::Error::Api(answer)) = refused else { panic!("{refused:?}") };
        assert_eq!(answer.code, 403, "{answer:?}");
    }
    assert_eq!(taints(&rack, &node).await, [OTHER]);
    set_taints(&rack.client, &node, json!([])).await.unwrap();
}

fn taint(key: &str) -> Value {
    // Soft: nothing that runs here is to be kept off the node.
    json!({"key": key, "effect": "PreferNoSchedule"})
}

async fn set_taints(client: &Client, node: &str, taints: Value) -> Result<(), kube::Error> {
    let patch = Patch::Merge(json!({"spec": {"taints": taints}}));
    Api::<Node>::all(client.clone()).patch(node, &PatchParams::default(), &patch).await.map(drop)
}

async fn taints(rack: &Rack, node: &str) -> Vec<String> {
    let node = Api::<Node>::all(rack.client.clone()).get(node).await.unwrap();
    node.spec.unwrap_or_default().taints.unwrap_or_default().into_iter().map(|taint| taint.key).collect()
}
