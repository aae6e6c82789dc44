//! An agent may say what its own Node advertises of watts, and nothing else of any Node, by the token that its
//! pod really gets.

use k8s_openapi::api::core::v1::{Node, Pod};
use kube::{
    Api,
    api::{DeleteParams, Patch, PatchParams},
};
use powercap_common::api::WATTS;
use serde_json::{Value, json};

use crate::rack::Rack;

#[tokio::test]
async fn an_agent_changes_the_watts_of_its_own_node_and_nothing_else_of_any() {
    let rack = Rack::ready().await;
    let agents = rack.pods("powercap-node", "app.kubernetes.io/component=actuator-node").await;
    let (own, others) = (node_of(&agents[0]), node_of(&agents[1]));
    let bound = rack.as_account("powercap-node", "powercap-actuator-node", Some(&agents[0])).await;
    let unbound = rack.as_account("powercap-node", "powercap-actuator-node", None).await;
    // A resource of somebody else's, so that there is one to take away, on a Node that both have written.
    let foreign =
        json!({"status": {"capacity": {"example.com/dongle": "2"}, "allocatable": {"example.com/dongle": "2"}}});
    status(&Api::all(rack.client.clone()), own, foreign).await.unwrap();

    let (bound, unbound) = (Api::<Node>::all(bound), Api::<Node>::all(unbound));
    let watts = |amount: &str| json!({"status": {"capacity": {WATTS: amount}, "allocatable": {WATTS: amount}}});
    status(&bound, own, watts("100k")).await.expect("the watts of its own node");
    let resource =
        |name: &str, amount: Value| json!({"status": {"capacity": {name: amount}, "allocatable": {name: amount}}});
    let mut refused = vec![
        ("the watts of another node", status(&bound, others, watts("100k")).await),
        ("a token of no node", status(&unbound, own, watts("100k")).await),
        ("the spec", spec(&bound, own, json!({"spec": {"unschedulable": true}})).await),
        ("the Node itself", bound.delete(own, &DeleteParams::default()).await.map(drop)),
    ];
    for (what, patch) in [
        ("a resource more", resource("example.com/other", json!("1"))),
        ("another amount", resource("example.com/dongle", json!("3"))),
        ("a resource less", resource("example.com/dongle", Value::Null)),
        ("cpu", json!({"status": {"allocatable": {"cpu": "1"}}})),
        ("a label", json!({"metadata": {"labels": {"rack": "other"}}})),
        ("an annotation", json!({"metadata": {"annotations": {"a": "b"}}})),
        ("a finalizer", json!({"metadata": {"finalizers": ["example.com/never"]}})),
        ("conditions", json!({"status": {"conditions": []}})),
        ("addresses", json!({"status": {"addresses": [{"type": "InternalIP", "address": "10.0.0.1"}]}})),
        ("nodeInfo", json!({"status": {"nodeInfo": {"bootID": "another"}}})),
        ("images", json!({"status": {"images": [{"names": ["x"], "sizeBytes": 1}]}})),
        ("daemonEndpoints", json!({"status": {"daemonEndpoints": {"kubeletEndpoint": {"Port": 1}}}})),
        ("volumes", json!({"status": {"volumesInUse": ["v"]}})),
        ("attached volumes", json!({"status": {"volumesAttached": [{"name": "v", "devicePath": "/dev/v"}]}})),
        ("features", json!({"status": {"features": {"supplementalGroupsPolicy": false}}})),
        ("runtime handlers", json!({"status": {"runtimeHandlers": [{"name": "other"}]}})),
    ] {
        // With a change that is permitted beside it.
        let mut patch = patch;
        patch["status"]["capacity"][WATTS] = json!("90k");
        refused.push((what, status(&bound, own, patch).await));
    }
    for (what, answer) in refused {
        let Err(kube::Error::Api(answer)) = answer else { panic!("{what}: {answer:?}") };
        assert_eq!(answer.code, 403, "{what}: {answer:?}");
    }
    let gone = resource("example.com/dongle", Value::Null);
    status(&Api::all(rack.client.clone()), own, gone).await.unwrap();
    rack.eventually("the agent puts right what was written in its name", async |rack| {
        let node = Api::<Node>::all(rack.client.clone()).get(own).await.unwrap();
        node.status.unwrap().capacity.unwrap().get(WATTS).is_some_and(|watts| watts.0 != "100k")
    })
    .await;
}

fn node_of(pod: &Pod) -> &str {
    pod.spec.as_ref().unwrap().node_name.as_deref().unwrap()
}

async fn status(nodes: &Api<Node>, node: &str, patch: Value) -> Result<(), kube::Error> {
    nodes.patch_status(node, &PatchParams::default(), &Patch::Merge(patch)).await.map(drop)
}

async fn spec(nodes: &Api<Node>, node: &str, patch: Value) -> Result<(), kube::Error> {
    nodes.patch(node, &PatchParams::default(), &Patch::Merge(patch)).await.map(drop)
}
