//! A real API server asks admission by its Service: new pods get their requests, and whatever becomes of admission,
//! pods are created.

use std::{
    cell::Cell,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use k8s_openapi::api::{
    coordination::v1::Lease,
    core::v1::{Namespace, Pod},
};
use kube::{
    Api,
    api::{Patch, PatchParams, PostParams},
};
use powercap_common::api::{PowerCappingPolicy, WATTS};
use serde_json::{Value, json};

use crate::rack::Rack;

/// A namespace that has opted in, and one that has not.
const IN: &str = "admit-in";
const OUT: &str = "admit-out";
const ADMISSION: &str = "powercap-admission";

#[tokio::test]
async fn a_new_pod_requests_watts_where_its_namespace_has_opted_in_and_a_policy_enforces() {
    let rack = prepared().await;
    let admitted = admitted(&rack).await;
    let annotations = admitted.metadata.annotations.clone().unwrap();
    let told: Value = serde_json::from_str(&annotations["powercapping.io/admission"]).unwrap();
    assert_eq!((&told["policy"], &told["changes"][0]["resource"]), (&json!("chat"), &json!(WATTS)));
    let resources = admitted.spec.unwrap().containers[0].resources.clone().unwrap();
    assert_eq!(resources.limits.unwrap()[WATTS], resources.requests.unwrap()[WATTS], "an extended resource");

    assert_eq!(watts(&created(&rack, OUT, &pod("chat")).await), 0, "a namespace that has not opted in");
    assert_eq!(watts(&created(&rack, IN, &pod("other")).await), 0, "a pod that no policy selects");
    let mut mirror = pod("chat");
    mirror["metadata"]["annotations"] = json!({"kubernetes.io/config.mirror": "hash"});
    mirror["spec"]["nodeName"] = json!("n1");
    assert_eq!(watts(&created(&rack, IN, &mirror).await), 0, "the image of a static pod");
}

#[tokio::test]
async fn a_policy_whose_namespace_has_not_opted_in_says_so_at_its_creation() {
    let rack = prepared().await;
    let warning = async |namespace: &str| kubectl_says(&policy(namespace));
    rack.eventually("who writes the policy is warned", async |_| {
        warning(OUT).await.contains("powercapping.io/admission")
    })
    .await;
    assert!(!warning(IN).await.contains("powercapping.io/admission"));
}

#[tokio::test]
async fn without_admission_pods_are_created_as_they_are_and_soon() {
    let rack = prepared().await;
    admitted(&rack).await;
    let leases = Api::<Lease>::namespaced(rack.client.clone(), "powercap-system");
    assert!(leases.get(ADMISSION).await.unwrap().spec.unwrap().renew_time.is_some(), "others know that it lives");
    rack.scale("powercap-system", ADMISSION, 0).await;
    rack.eventually("no admission runs", async |_| crate::rack::process::processes(ADMISSION).is_empty()).await;
    rack.eventually(
        "a pod is created as it is within three seconds, unless something else holds it up",
        async |rack| {
            let begun = Instant::now();
            assert_eq!(watts(&dry_run(rack, IN, &pod("chat")).await.unwrap()), 0);
            begun.elapsed() < Duration::from_secs(3)
        },
    )
    .await;
    rack.scale("powercap-system", ADMISSION, 2).await;
    admitted(&rack).await;
}

/// The rack, the two namespaces, and in each a policy that enforces.
async fn prepared() -> Rack {
    let rack = Rack::ready().await;
    let apply = PatchParams::apply("a-person").force();
    for (name, labels) in [(IN, json!({"powercapping.io/admission": "enabled"})), (OUT, json!({}))] {
        let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}});
        let namespaces = Api::<Namespace>::all(rack.client.clone());
        namespaces.patch(name, &apply, &Patch::Apply(&namespace)).await.unwrap();
        let policies = Api::<PowerCappingPolicy>::namespaced(rack.client.clone(), name);
        policies.patch("chat", &apply, &Patch::Apply(&policy(name))).await.unwrap();
    }
    rack
}

fn policy(namespace: &str) -> Value {
    json!({
        "apiVersion": "powercapping.io/v1alpha1", "kind": "PowerCappingPolicy",
        "metadata": {"namespace": namespace, "name": "chat"},
        "spec": {"powerCapLimitWatts": 10_000, "mode": "Enforce", "selector": {"matchLabels": {"app": "chat"}}},
    })
}

/// With a board, so that its watts are known before anything was measured.
fn pod(app: &str) -> Value {
    let limits = json!({"nvidia.com/gpu": "1"});
    json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "chat-0", "labels": {"app": app}},
        "spec": {"containers": [{"name": "main", "image": "chat", "resources": {"limits": limits}}]},
    })
}

/// The pod as admission has it created; what it does not answer in time is created as it is.
async fn admitted(rack: &Rack) -> Pod {
    let seen = Cell::new(None);
    rack.eventually("admission answers", async |rack| {
        let pod = created(rack, IN, &pod("chat")).await;
        let requests = watts(&pod) > 0;
        seen.set(Some(pod));
        requests
    })
    .await;
    seen.take().unwrap()
}

/// The pod as it would be stored: a dry run asks webhooks as a creation does, and leaves nothing behind.
async fn created(rack: &Rack, namespace: &str, pod: &Value) -> Pod {
    // A new namespace gets its service account a moment later.
    rack.eventually("the namespace is ready for pods", async |rack| dry_run(rack, namespace, pod).await.is_ok()).await;
    dry_run(rack, namespace, pod).await.unwrap()
}

async fn dry_run(rack: &Rack, namespace: &str, pod: &Value) -> kube::Result<Pod> {
    let pods = Api::<Pod>::namespaced(rack.client.clone(), namespace);
    let dry = PostParams { dry_run: true, ..PostParams::default() };
    pods.create(&dry, &serde_json::from_value(pod.clone()).unwrap()).await
}

/// The watts that its first container requests.
fn watts(pod: &Pod) -> u32 {
    let resources = pod.spec.as_ref().and_then(|spec| spec.containers[0].resources.clone()).unwrap_or_default();
    resources.requests.and_then(|requests| requests.get(WATTS)?.0.parse().ok()).unwrap_or_default()
}

/// What kubectl tells a person beside the result.
fn kubectl_says(object: &Value) -> String {
    let mut command = Command::new("kubectl");
    command.args(["create", "--dry-run=server", "-f", "-"]).stdin(Stdio::piped()).stderr(Stdio::piped());
    let mut object = object.clone();
    object["metadata"]["name"] = json!("another");
    let mut child = command.stdout(Stdio::null()).spawn().unwrap();
    serde_json::to_writer(child.stdin.take().unwrap(), &object).unwrap();
    String::from_utf8_lossy(&child.wait_with_output().unwrap().stderr).into_owned()
}
