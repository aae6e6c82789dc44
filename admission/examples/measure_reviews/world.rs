//! What is in the cluster: 1,000 workloads, a policy for each, and for the peer an autoscaler for each.

use std::{path::Path, process::Command, time::Duration};

use futures::{StreamExt, stream};
use kube::{
    Api, Client,
    api::{ApiResource, DynamicObject, GroupVersionKind, Patch, PatchParams},
};
use serde_json::{Value, json};

const OBJECTS: usize = 1000;
const NAMESPACE: &str = "llm";
const AT_ONCE: usize = 16;
/// A pod is at least so large.
pub const POD_BYTES: usize = 2500;

/// Pods of these workloads.
pub fn pods() -> Vec<Value> {
    (0..OBJECTS).map(pod).collect()
}

fn pod(at: usize) -> Value {
    let name = format!("chat-{at}");
    let mut pod = json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {
            "name": format!("{name}-0"), "namespace": NAMESPACE, "labels": {"app": name, "tier": "gold"},
            "ownerReferences": [{"apiVersion": "apps/v1", "kind": "StatefulSet", "name": name, "uid": "u", "controller": true}],
        },
        "spec": {
            "containers": [{
                "name": "main", "image": "registry.example.com/llm/chat:1.0", "terminationMessagePath": "/dev/termination-log",
                "resources": {"requests": {"cpu": "100m", "memory": "128Mi"}, "limits": {"cpu": "200m", "memory": "256Mi"}},
            }],
            "restartPolicy": "Always", "dnsPolicy": "ClusterFirst", "serviceAccountName": "default",
            "tolerations": [{"key": "node.kubernetes.io/not-ready", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 300}],
        },
    });
    let mut variables = Vec::new();
    while pod.to_string().len() < POD_BYTES {
        variables
            .push(json!({"name": format!("VARIABLE_{}", variables.len()), "value": "of some length, as such are"}));
        pod["spec"]["containers"][0]["env"] = json!(variables);
    }
    pod
}

/// Makes all that is needed of both.
pub async fn fill(client: &Client, vpa_definitions: Option<&Path>) {
    kubectl(&["apply", "--server-side", "-k", "manifests/crds"]);
    if let Some(definitions) = vpa_definitions {
        kubectl(&["apply", "--server-side", "-f", definitions.to_str().unwrap()]);
    }
    // It ends with an error where a definition is so new that it has no conditions.
    tokio::time::sleep(Duration::from_secs(2)).await;
    kubectl(&["wait", "--for=condition=Established", "--timeout=30s", "crd", "--all"]);
    let opted_in = json!({"powercapping.io/admission": "enabled"});
    write(client, "/v1/Namespace/namespaces", None, NAMESPACE, json!({"metadata": {"labels": opted_in}}), None).await;
    let advertised = json!({"powercapping.io/watts": "5600", "nvidia.com/gpu": "8"});
    let advertised = json!({"capacity": advertised, "allocatable": advertised});
    write(client, "/v1/Node/nodes", None, "n0", json!({}), Some(advertised)).await;
    stream::iter(0..OBJECTS).for_each_concurrent(AT_ONCE, |at| one(client, at, vpa_definitions.is_some())).await;
}

/// A workload without replicas, and who sets the requests of its pods.
async fn one(client: &Client, at: usize, with_vpa: bool) {
    let name = format!("chat-{at}");
    let recommended = |watts: Option<&str>| {
        let mut target = json!({"cpu": "250m", "memory": "300Mi"});
        if let Some(watts) = watts {
            target["powercapping.io/watts"] = json!(watts);
        }
        json!({"recommendation": {"containerRecommendations": [
            {"containerName": "main", "target": target, "lowerBound": target, "upperBound": target, "uncappedTarget": target},
        ]}})
    };
    let labels = json!({"app": name});
    let policy = json!({"spec": {
        "powerCapLimitWatts": 10_000, "mode": "Enforce", "selector": {"matchLabels": labels},
        "resourcePolicy": {"containerPolicies": [
            {"containerName": "*", "controlledResources": ["cpu", "memory", "powercapping.io/watts"]},
        ]},
    }});
    let kind = "powercapping.io/v1alpha1/PowerCappingPolicy/powercappingpolicies";
    write(client, kind, Some(NAMESPACE), &name, policy, Some(recommended(Some("700")))).await;
    if !with_vpa {
        return;
    }
    let set = json!({"spec": {
        "replicas": 0, "serviceName": name, "selector": {"matchLabels": labels},
        "template": {"metadata": {"labels": labels}, "spec": {"containers": [{"name": "main", "image": "chat"}]}},
    }});
    write(client, "apps/v1/StatefulSet/statefulsets", Some(NAMESPACE), &name, set, None).await;
    let target = json!({"apiVersion": "apps/v1", "kind": "StatefulSet", "name": name});
    let scaler = json!({"spec": {"targetRef": target, "updatePolicy": {"updateMode": "Initial"}}});
    let kind = "autoscaling.k8s.io/v1/VerticalPodAutoscaler/verticalpodautoscalers";
    write(client, kind, Some(NAMESPACE), &name, scaler, Some(recommended(None))).await;
}

/// `kind` is GROUP/VERSION/KIND/PLURAL.
async fn write(
    client: &Client,
    kind: &str,
    namespace: Option<&str>,
    name: &str,
    mut object: Value,
    status: Option<Value>,
) {
    let [group, version, kind, plural] = kind.split('/').collect::<Vec<_>>().try_into().unwrap();
    let resource = ApiResource::from_gvk_with_plural(&GroupVersionKind::gvk(group, version, kind), plural);
    let api: Api<DynamicObject> = match namespace {
        Some(namespace) => Api::namespaced_with(client.clone(), namespace, &resource),
        None => Api::all_with(client.clone(), &resource),
    };
    object["apiVersion"] = json!(resource.api_version);
    object["kind"] = json!(kind);
    object["metadata"]["name"] = json!(name);
    let apply = PatchParams::apply("bench").force();
    api.patch(name, &apply, &Patch::Apply(&object)).await.unwrap();
    if let Some(status) = status {
        let status = json!({"apiVersion": resource.api_version, "kind": kind, "status": status});
        api.patch_status(name, &PatchParams::default(), &Patch::Merge(&status)).await.unwrap();
    }
}

fn kubectl(arguments: &[&str]) {
    assert!(Command::new("kubectl").args(arguments).status().unwrap().success(), "kubectl {arguments:?}");
}
