//! A job whose ranks stop together is suspended as a whole, and resumed when there are watts: Kubeflow's PyTorchJob, by
//! its makers' definition. What its operator would do, make its pods and delete them, is done here.

use k8s_openapi::api::core::v1::Pod;
use kube::{
    Api,
    api::{ApiResource, DeleteParams, DynamicObject, GroupVersionKind, PostParams},
};
use powercap_common::{api::Action, condition::Truth};
use serde_json::{Value, json};

use crate::rack::Rack;

/// A cap that two boards do not keep, whatever their clocks.
const CAP: u32 = 100;
const RANKS: u32 = 2;
/// The mark of a suspension.
const MARK: &str = "powercapping.io/suspended";

#[tokio::test]
async fn a_pytorchjob_is_suspended_with_all_its_ranks_and_resumed_when_there_are_watts() {
    let rack = Rack::ready().await;
    crate::definitions::KUBEFLOW.define().await;
    // Its boards are for the job.
    rack.scale("demo", "inference", 0).await;
    let job = jobs(&rack).create(&PostParams::default(), &job()).await.unwrap();
    ranks(&rack, &job).await;
    rack.eventually("its ranks are matched and draw power", async |rack| {
        let status = rack.policy("inference").await.status.unwrap();
        status.matched_pods == RANKS && status.current_power_watts.is_some_and(|watts| watts > CAP)
    })
    .await;

    let ladder = json!([{"action": "Throttle"}, {"action": "Evict"}]);
    rack.edit_policy("inference", json!({"powerCapLimitWatts": CAP, "escalation": ladder})).await;
    rack.eventually("the job is suspended as a whole", async |rack| suspended(rack).await).await;
    let escalated = rack.policy("inference").await.status.unwrap().escalated.unwrap();
    let last = escalated.last.unwrap();
    assert_eq!((last.action, last.workload.as_str(), last.pod), (Action::Evict, "PyTorchJob/sweep", None));
    assert_eq!(rack.pods("demo", "job=sweep").await.len(), 2, "no rank is evicted by itself");

    for rank in rack.pods("demo", "job=sweep").await {
        rack.kill_pod(&rank).await;
    }
    rack.eventually("the cap is kept", async |rack| {
        rack.policy_condition("inference", "WithinCap").await.0 == Truth::True
    })
    .await;
    rack.throughout("it stays suspended while it would draw more than the cap", 15, async |rack| suspended(rack).await)
        .await;

    rack.edit_policy("inference", json!({"powerCapLimitWatts": 4400})).await;
    rack.eventually("it is resumed when there are watts", async |rack| {
        let job = jobs(rack).get("sweep").await.unwrap();
        job.data["spec"]["runPolicy"]["suspend"] == false && mark(&job).is_none()
    })
    .await;
    jobs(&rack).delete("sweep", &DeleteParams::default()).await.unwrap();
}

async fn suspended(rack: &Rack) -> bool {
    let job = jobs(rack).get("sweep").await.unwrap();
    job.data["spec"]["runPolicy"]["suspend"] == true && mark(&job).is_some()
}

fn mark(job: &DynamicObject) -> Option<&String> {
    job.metadata.annotations.as_ref()?.get(MARK)
}

fn jobs(rack: &Rack) -> Api<DynamicObject> {
    let resource = ApiResource::from_gvk(&GroupVersionKind::gvk("kubeflow.org", "v1", "PyTorchJob"));
    Api::namespaced_with(rack.client.clone(), "demo", &resource)
}

fn job() -> DynamicObject {
    let object = json!({
        "apiVersion": "kubeflow.org/v1", "kind": "PyTorchJob", "metadata": {"name": "sweep"},
        "spec": {"pytorchReplicaSpecs": {"Worker": {"replicas": RANKS, "template": {"spec": pod_spec()}}}},
    });
    serde_json::from_value(object).unwrap()
}

/// As the operator makes them.
async fn ranks(rack: &Rack, job: &DynamicObject) {
    let pods: Api<Pod> = Api::namespaced(rack.client.clone(), "demo");
    for rank in 0..RANKS {
        let owner = json!({"apiVersion": "kubeflow.org/v1", "kind": "PyTorchJob", "name": "sweep",
            "uid": job.metadata.uid, "controller": true});
        let pod = json!({
            "metadata": {"name": format!("sweep-worker-{rank}"), "labels": {"app": "inference", "job": "sweep"},
                "ownerReferences": [owner]},
            "spec": pod_spec(),
        });
        pods.create(&PostParams::default(), &serde_json::from_value(pod).unwrap()).await.unwrap();
    }
}

fn pod_spec() -> Value {
    json!({
        "automountServiceAccountToken": false,
        "restartPolicy": "Never",
        "containers": [{
            "name": "pytorch", "image": "powercap-simulator:dev", "args": ["workload", "serve"],
            "resources": {"limits": {"nvidia.com/gpu": 1}},
        }],
    })
}
