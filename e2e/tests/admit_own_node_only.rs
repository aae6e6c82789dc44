//! An agent may write about its own node and nothing else, by the token that its pod really gets.

use k8s_openapi::api::{
    authentication::v1::{BoundObjectReference, TokenRequest, TokenRequestSpec},
    core::v1::{ObjectReference, Pod, ServiceAccount},
    events::v1::Event,
};
use k8s_openapi::{apimachinery::pkg::apis::meta::v1::MicroTime, jiff::Timestamp};
use kube::{
    Api, Client,
    api::{Patch, PatchParams, PostParams},
    config::AuthInfo,
};
use powercap_common::api::NodeFrequencies;
use serde_json::json;

use crate::rack::Rack;

#[tokio::test]
async fn an_agent_writes_the_status_of_its_own_node_alone() {
    let rack = Rack::ready().await;
    let agents = rack.pods("powercap-node", "app.kubernetes.io/component=actuator-node").await;
    let (agent, other) = (&agents[0], &agents[1]);
    let (own, others) = (node_of(agent), node_of(other));

    let bound = as_agent(&rack, Some(agent)).await;
    write_status(&bound, own).await.expect("its own node");
    for refused in [
        write_status(&bound, others).await,
        write_spec(&bound, own).await,
        write_status(&as_agent(&rack, None).await, own).await,
    ] {
        let Err(kube::Error::Api(answer)) = refused else { panic!("{refused:?}") };
        assert_eq!(answer.code, 403, "{answer:?}");
    }
}

fn node_of(pod: &Pod) -> &str {
    pod.spec.as_ref().unwrap().node_name.as_deref().unwrap()
}

/// A client with the agent's account: its token bound to this pod, as in the pod itself, or to nothing.
async fn as_agent(rack: &Rack, pod: Option<&Pod>) -> Client {
    let accounts = Api::<ServiceAccount>::namespaced(rack.client.clone(), "powercap-node");
    let bound = pod.map(|pod| BoundObjectReference {
        kind: Some("Pod".into()),
        api_version: Some("v1".into()),
        name: pod.metadata.name.clone(),
        uid: pod.metadata.uid.clone(),
    });
    let request =
        TokenRequest { spec: TokenRequestSpec { bound_object_ref: bound, ..Default::default() }, ..Default::default() };
    let answer =
        accounts.create_token_request("powercap-actuator-node", &PostParams::default(), &request).await.unwrap();
    let mut config = powercap_e2e::cluster::existing::config().await.unwrap();
    config.auth_info = AuthInfo { token: Some(answer.status.unwrap().token.into()), ..Default::default() };
    Client::try_from(config).unwrap()
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

#[tokio::test]
async fn an_agent_writes_events_on_its_own_node_alone() {
    let rack = Rack::ready().await;
    let agents = rack.pods("powercap-node", "app.kubernetes.io/component=actuator-node").await;
    let (agent, other) = (&agents[0], &agents[1]);
    let (own, others) = (node_of(agent), node_of(other));

    let bound = as_agent(&rack, Some(agent)).await;
    write_event(&bound, "default", "Node", own).await.expect("its own node");
    for refused in [
        write_event(&bound, "default", "Node", others).await,
        write_event(&bound, "default", "Namespace", own).await,
        write_event(&bound, "demo", "Node", own).await,
        write_event(&as_agent(&rack, None).await, "default", "Node", own).await,
    ] {
        let Err(kube::Error::Api(answer)) = refused else { panic!("{refused:?}") };
        assert_eq!(answer.code, 403, "{answer:?}");
    }
}

async fn write_event(client: &Client, namespace: &str, kind: &str, name: &str) -> Result<(), kube::Error> {
    let regarding = ObjectReference {
        api_version: Some("v1".into()),
        kind: Some(kind.into()),
        name: Some(name.into()),
        ..Default::default()
    };
    let mut event = Event {
        action: Some("Test".into()),
        event_time: Some(MicroTime(Timestamp::now())),
        reason: Some("Applied".into()),
        regarding: Some(regarding),
        reporting_controller: Some("powercapping.io/test".into()),
        reporting_instance: Some("test".into()),
        type_: Some("Normal".into()),
        ..Default::default()
    };
    event.metadata.generate_name = Some("test-".into());
    event.metadata.namespace = Some(namespace.into());
    Api::<Event>::namespaced(client.clone(), namespace).create(&PostParams::default(), &event).await.map(drop)
}
