//! Escalation may close a node by its own taint and make placeholders, and change nothing else of nodes or pods.

use k8s_openapi::api::core::v1::{Node, Pod};
use kube::{
    Api, ResourceExt,
    api::{DeleteParams, ListParams, Patch, PatchParams, PostParams},
};
use serde_json::{Value, json};

use crate::rack::Rack;

const OVER_BUDGET: &str = "powercapping.io/over-budget";

#[tokio::test]
async fn escalation_changes_its_own_taint_of_a_node_and_nothing_else() {
    let rack = Rack::ready().await;
    let nodes = Api::<Node>::all(rack.as_account("powercap-system", "powercap-escalate", None).await);
    let node = nodes.list(&ListParams::default()).await.unwrap().items.remove(0);
    let name = node.name_any();
    let others = node.spec.unwrap().taints.unwrap_or_default();
    let taints = |effect: &str| {
        let mut taints = json!(others);
        taints.as_array_mut().unwrap().push(json!({"key": OVER_BUDGET, "effect": effect}));
        taints
    };
    // No mark: that of another pod's migration would be taken for one to be ended.
    let patch = async |patch: Value| nodes.patch(&name, &PatchParams::default(), &Patch::Merge(patch)).await.map(drop);
    for (what, change) in [
        ("another effect", json!({"spec": {"taints": taints("NoExecute")}})),
        ("another taint", json!({"spec": {"taints": [{"key": "example.com/closed", "effect": "NoSchedule"}]}})),
        ("an annotation", json!({"metadata": {"annotations": {"a": "b"}}})),
        ("a label", json!({"metadata": {"labels": {"rack": "other"}}})),
        ("a finalizer", json!({"metadata": {"finalizers": ["example.com/never"]}})),
        ("a cordon", json!({"spec": {"unschedulable": true}})),
    ] {
        is_forbidden(what, patch(change).await);
    }
    is_forbidden("the Node itself", nodes.delete(&name, &DeleteParams::default()).await.map(drop));
    patch(json!({"spec": {"taints": taints("NoSchedule")}})).await.expect("its own taint");
    patch(json!({"spec": {"taints": others}})).await.expect("and off again");
}

#[tokio::test]
async fn escalation_makes_placeholders_and_no_other_pod() {
    let rack = Rack::ready().await;
    let client = rack.as_account("powercap-system", "powercap-escalate", None).await;
    let create = async |namespace: &str, pod: Value| {
        let pod: Pod = serde_json::from_value(pod).unwrap();
        let dry_run = PostParams { dry_run: true, ..PostParams::default() };
        Api::<Pod>::namespaced(client.clone(), namespace).create(&dry_run, &pod).await.map(drop)
    };
    let place = json!({
        "metadata": {"name": "place", "annotations": {"powercapping.io/place": "{}"}},
        "spec": {
            "automountServiceAccountToken": false,
            "securityContext": {"runAsNonRoot": true, "runAsUser": 65532, "seccompProfile": {"type": "RuntimeDefault"}},
            "containers": [{"name": "place", "image": "powercap-actuator", "args": ["hold-place"],
                "securityContext": {"allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]}}}],
        },
    });
    create("powercap-places", place.clone()).await.expect("a placeholder");
    is_forbidden("elsewhere", create("demo", place.clone()).await);
    for (what, at, value) in [
        ("another role", "/spec/containers/0/args", json!(["node"])),
        ("another command", "/spec/containers/0/command", json!(["sh"])),
        ("a token", "/spec/automountServiceAccountToken", json!(true)),
        ("a volume", "/spec/volumes", json!([{"name": "v", "emptyDir": {}}])),
        ("no mark", "/metadata/annotations", json!({})),
    ] {
        let mut pod = place.clone();
        let (parent, key) = at.rsplit_once('/').unwrap();
        pod.pointer_mut(parent).unwrap()[key] = value;
        is_forbidden(what, create("powercap-places", pod).await);
    }
}

fn is_forbidden(what: &str, answer: kube::Result<()>) {
    let Err(kube::Error::Api(answer)) = answer else { panic!("{what}: {answer:?}") };
    assert_eq!(answer.code, 403, "{what}: {answer:?}");
}
