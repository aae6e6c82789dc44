//! What a test that failed has left is gone before the next one begins, as far as applying the manifests does not put
//! it back: an apply leaves objects, and fields, that it does not name.

use std::path::Path;

use k8s_openapi::{
    api::{
        apps::v1::{DaemonSet, Deployment},
        autoscaling::v2::HorizontalPodAutoscaler,
        core::v1::{Node, Pod},
        policy::v1::PodDisruptionBudget,
    },
    apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition,
};
use kube::{
    Api, CustomResourceExt,
    api::{DeleteParams, ListParams, Patch, PatchParams},
};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Value, json};

use powercap_common::api::{PowerCappingPolicy, PowerDomain};

use super::Rack;

impl Rack {
    /// Where nothing is installed yet, there is nothing of ours to clear away.
    pub(super) async fn clear_away(&self) {
        let (at_once, all) = (DeleteParams::default().grace_period(0), ListParams::default());
        let but_the_demos = ListParams::default().fields("metadata.name!=training,metadata.name!=inference");
        let (default, demo) = ("default", "demo");
        let client = || self.client.clone();
        Api::<Pod>::namespaced(client(), default).delete_collection(&at_once, &all).await.unwrap();
        // Pods that no controller of the cluster made, and none deletes.
        for made_by_hand in ["app=burner", "job"] {
            let some = all.clone().labels(made_by_hand);
            Api::<Pod>::namespaced(client(), demo).delete_collection(&at_once, &some).await.unwrap();
        }
        Api::<Deployment>::namespaced(client(), demo).delete_collection(&at_once, &but_the_demos).await.unwrap();
        Api::<HorizontalPodAutoscaler>::namespaced(client(), demo).delete_collection(&at_once, &all).await.unwrap();
        Api::<PodDisruptionBudget>::namespaced(client(), demo).delete_collection(&at_once, &all).await.unwrap();
        let nodes = Api::<Node>::all(client());
        for node in nodes.list(&all).await.unwrap().items {
            if node.spec.is_some_and(|spec| spec.taints.is_some()) {
                let none = Patch::Merge(json!({"spec": {"taints": null, "unschedulable": null}}));
                nodes.patch(&node.metadata.name.unwrap(), &PatchParams::default(), &none).await.unwrap();
            }
        }
        let agents = Api::<DaemonSet>::namespaced(client(), "powercap-node");
        if agents.get_opt("powercap-actuator-node").await.unwrap().is_some() {
            self.run_agents(true).await;
        }

        let kinds = Api::<CustomResourceDefinition>::all(client());
        for kind in [PowerCappingPolicy::crd_name(), PowerDomain::crd_name()] {
            if kinds.get_opt(kind).await.unwrap().is_none() {
                return;
            }
        }
        self.policies().delete_collection(&at_once, &but_the_demos).await.unwrap();
        let but_the_rack = ListParams::default().fields("metadata.name!=rack");
        self.domains().delete_collection(&at_once, &but_the_rack).await.unwrap();
        for policy in manifests("policies.yaml") {
            put_back(&self.policies(), &policy).await;
        }
        for domain in manifests("powerdomain.yaml") {
            put_back(&self.domains(), &domain).await;
        }
    }
}

fn manifests(file: &str) -> Vec<Value> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../manifests/overlays/demo/caps");
    let text = std::fs::read_to_string(folder.join(file)).unwrap();
    text.split("\n---\n").map(|document| serde_saphyr::from_str(document).unwrap()).collect()
}

/// Where there is such an object, its spec is the manifest's again, without any other field.
async fn put_back<K>(objects: &Api<K>, manifest: &Value)
where
    K: Clone + DeserializeOwned + Serialize + std::fmt::Debug,
{
    let name = manifest["metadata"]["name"].as_str().unwrap();
    let Some(present) = objects.get_opt(name).await.unwrap() else { return };
    let mut spec = manifest["spec"].clone();
    for field in json!(present)["spec"].as_object().unwrap().keys() {
        if spec.get(field).is_none() {
            spec[field] = Value::Null;
        }
    }
    objects.patch(name, &PatchParams::default(), &Patch::Merge(json!({"spec": spec}))).await.unwrap();
}
