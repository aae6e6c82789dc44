//! An agent may write about its own node and nothing else, by the token that its pod really gets.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test's helpers fail it")]

mod rack;

use k8s_openapi::api::core::v1::Pod;
use kube::{
    Api, Client,
    api::{Patch, PatchParams},
};
use powercap_common::api::NodeFrequencies;
use rack::Rack;
use serde_json::json;

#[tokio::test]
async fn an_agent_writes_the_status_of_its_own_node_alone() {
    let rack = Rack::ready().await;
    let agents = rack.pods("powercap-node", "app.kubernetes.io/component=actuator-node").await;
    let (agent, other) = (&agents[0], &agents[1]);
    let (own, others) = (node_of(agent), node_of(other));

    let bound = rack.as_account("powercap-node", "powercap-actuator-node", Some(agent)).await;
    write_status(&bound, own).await.expect("its own node");
    for refused in [
        write_status(&bound, others).await,
        write_spec(&bound, own).await,
        write_status(&rack.as_account("powercap-node", "powercap-actuator-node", None).await, own).await,
    ] {
        let Err(kube::Error::Api(answer)) = refused else { panic!("{refused:?}") };
        assert_eq!(answer.code, 403, "{answer:?}");
    }
}

fn node_of(pod: &Pod) -> &str {
    pod.spec.as_ref().unwrap().node_name.as_deref().unwrap()
}

async fn write_status(client: &Client, node: &str) -> Result<(), kube::Error> {
    let nodes = Api::<NodeFrequencies>::all(client.clone());
    let patch = Patch::Merge(json!({"status": {"powerWatts": 1}}));
    nodes.patch_status(node, &PatchParams::default(), &patch).await.map(drop)
}

async fn write_spec(client: &Client, node: &str) -> Result<(), kube::Error> {
    let nodes = Api::<NodeFrequencies>::all(client.clone());
    let patch = Patch::Merge(json!({"spec": {"release": true}}));
    nodes.patch(node, &PatchParams::default(), &patch).await.map(drop)
}
