//! The placeholder: a pod that does nothing, with all that the scheduler asks of the one whose place it holds.
//!
//! Must hold: it fits where that pod would, on one node only, and counts there like it: priority, boards, watts, CPU
//! and memory. It reads nothing and is gone at once.

use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::{
    facts::{Amounts, NAMESPACE, Place},
    observe::SeenRequests,
};

/// What a placeholder is known by.
pub const PLACE: &str = "powercapping.io/place";
/// Of these a limit may differ from its request.
const ELASTIC: [&str; 3] = ["cpu", "memory", "ephemeral-storage"];

/// Where a pod's own node affinity demands something.
const REQUIRED: &str = "/affinity/nodeAffinity/requiredDuringSchedulingIgnoredDuringExecution/nodeSelectorTerms";

/// The placeholder for a place, like the pod of this spec, of the image of `own`, the spec of the pod that makes it. Where
/// kubelets ask whose pod may use an image that they have, it answers as that pod does.
///
/// # Errors
/// When that is no pod's spec.
pub fn placeholder(place: &Place, like: &Value, own: &Value) -> serde_json::Result<Value> {
    let requests = SeenRequests::deserialize(like)?.of_pod();
    let told = json!({
        "policy": place.policy.to_string(), "pod": format!("{}/{}", place.like.namespace, place.like.name),
        "node": place.node,
    });
    Ok(json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {
            "name": place.name, "namespace": NAMESPACE,
            "labels": {"app.kubernetes.io/name": "powercap-place"}, "annotations": {PLACE: told.to_string()},
        },
        "spec": {
            "priorityClassName": like["priorityClassName"], "schedulerName": like["schedulerName"],
            "tolerations": like["tolerations"], "nodeSelector": like["nodeSelector"],
            "affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {
                "nodeSelectorTerms": only_on(&place.node, like.pointer(REQUIRED)),
            }}},
            "imagePullSecrets": own["imagePullSecrets"],
            "terminationGracePeriodSeconds": 0, "automountServiceAccountToken": false, "enableServiceLinks": false,
            "securityContext": {
                "runAsNonRoot": true, "runAsUser": 65532, "runAsGroup": 65532,
                "seccompProfile": {"type": "RuntimeDefault"},
            },
            "containers": [{
                "name": "place", "image": own["containers"][0]["image"], "imagePullPolicy": "IfNotPresent",
                "args": ["hold-place"],
                "resources": {"requests": written(&requests, |_| true),
                    "limits": written(&requests, |resource| !ELASTIC.contains(&resource))},
                "securityContext": {"allowPrivilegeEscalation": false, "readOnlyRootFilesystem": true,
                    "capabilities": {"drop": ["ALL"]}},
            }],
        },
    }))
}

/// Each of the pod's own terms, on this node only.
fn only_on(node: &str, required: Option<&Value>) -> Vec<Value> {
    let mut terms = required.and_then(Value::as_array).cloned().unwrap_or_else(|| vec![json!({})]);
    for term in &mut terms {
        let mut fields = term["matchFields"].as_array().cloned().unwrap_or_default();
        fields.push(json!({"key": "metadata.name", "operator": "In", "values": [node]}));
        term["matchFields"] = fields.into();
    }
    terms
}

fn written(amounts: &Amounts, which: impl Fn(&str) -> bool) -> Map<String, Value> {
    let which = amounts.iter().filter(|(resource, _)| which(resource));
    let text = |thousandths: u64| {
        if thousandths.is_multiple_of(1000) { (thousandths / 1000).to_string() } else { format!("{thousandths}m") }
    };
    which.map(|(resource, amount)| (resource.to_owned(), text(amount).into())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::escalate::observation::PodName;
    use powercap_common::policy::PolicyId;

    fn made(like: &Value) -> Value {
        let place = Place {
            name: "place-u-1".into(),
            like: PodName { namespace: "llm".into(), name: "chat-1".into() },
            node: "n2".into(),
            policy: PolicyId { namespace: "llm".into(), name: "all".into() },
        };
        let own = json!({
            "imagePullSecrets": [{"name": "of-escalate"}],
            "containers": [{"name": "escalate", "image": "powercap-actuator:latest", "imagePullPolicy": "Never"}],
        });
        placeholder(&place, like, &own).unwrap()
    }

    #[test]
    fn it_asks_for_what_the_pod_asks_for_and_runs_on_one_node_only() {
        let resources = |cpu: &str, boards: &str| json!({"requests": {"cpu": cpu, "nvidia.com/gpu": boards}});
        let term = json!({"matchExpressions": [{"key": "zone", "operator": "Exists"}]});
        let pod = made(&json!({
            "priorityClassName": "high", "schedulerName": "other", "nodeSelector": {"disk": "fast"},
            "tolerations": [{"key": "gpu", "operator": "Exists"}],
            "affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [term, {}]}}},
            "initContainers": [{"name": "load", "resources": resources("3", "1")}],
            "containers": [{"name": "a", "resources": resources("250m", "1")}, {"name": "b", "resources": resources("1", "2")}],
        }));
        let spec = &pod["spec"];
        for (key, value) in [
            ("priorityClassName", json!("high")),
            ("schedulerName", json!("other")),
            ("nodeSelector", json!({"disk": "fast"})),
            ("tolerations", json!([{"key": "gpu", "operator": "Exists"}])),
            ("terminationGracePeriodSeconds", json!(0)),
        ] {
            assert_eq!(spec[key], value, "{key}");
        }
        assert_eq!(
            spec["containers"][0]["resources"],
            json!({"requests": {"cpu": "3", "nvidia.com/gpu": "3"}, "limits": {"nvidia.com/gpu": "3"}})
        );
        let node = json!([{"key": "metadata.name", "operator": "In", "values": ["n2"]}]);
        let required = &spec["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"];
        let terms = required["nodeSelectorTerms"].as_array().unwrap();
        assert_eq!((terms.len(), &terms[0]["matchExpressions"]), (2, &term["matchExpressions"]));
        assert!(terms.iter().all(|term| term["matchFields"] == node), "{terms:?}");
    }

    #[test]
    fn its_image_is_that_of_whoever_makes_it_and_so_are_its_credentials_and_no_node_pulls_what_it_has() {
        let secrets = json!([{"name": "of-the-pod"}]);
        let pod = made(&json!({"containers": [{"name": "a", "image": "llm"}], "imagePullSecrets": secrets}));
        let container = &pod["spec"]["containers"][0];
        let image = (&container["image"], &container["imagePullPolicy"]);
        assert_eq!(image, (&json!("powercap-actuator:latest"), &json!("IfNotPresent")));
        assert_eq!(pod["spec"]["imagePullSecrets"], json!([{"name": "of-escalate"}]));
    }

    #[test]
    fn it_can_do_nothing_and_is_known_by_whose_place_it_holds() {
        let pod = made(&json!({"containers": [{"name": "a"}]}));
        let told: Value = serde_json::from_str(pod["metadata"]["annotations"][PLACE].as_str().unwrap()).unwrap();
        assert_eq!(told, json!({"policy": "powercappingpolicy/llm/all", "pod": "llm/chat-1", "node": "n2"}));
        assert_eq!(pod["metadata"]["namespace"], NAMESPACE);
        assert_eq!(
            (&pod["spec"]["automountServiceAccountToken"], &pod["spec"]["volumes"]),
            (&json!(false), &Value::Null)
        );
        assert_eq!(pod["spec"]["containers"][0]["args"], json!(["hold-place"]));
    }
}
