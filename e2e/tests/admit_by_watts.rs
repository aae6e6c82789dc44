//! kube-scheduler places by watts: the real scheduler, real kubelets, our recommender and our agents.

use std::process::Command;

use k8s_openapi::api::core::v1::{Node, Pod};
use kube::{
    Api,
    api::{DeleteParams, ListParams, Patch, PatchParams, PostParams},
};
use powercap_common::{api::WATTS, quantity::Quantity};
use powercap_e2e::cluster::images::PAUSE_IMAGE;
use serde_json::{Value, json};

use crate::rack::{
    Rack,
    process::{field, processes},
};

/// What a pod of eight boards requests.
const WHOLE: u64 = 5600;
/// Where no policy of the demo selects a pod, and no webhook changes one.
const NAMESPACE: &str = "default";

#[tokio::test]
async fn a_pod_of_eight_boards_finds_its_watts_in_an_idle_rack_and_the_next_one_waits() {
    let rack = idle().await;
    // For devices 8,240 W remain of 11,500: 4,120 for each node, as long as no pod needs more.
    let shared = async |rack: &Rack| {
        let advertised = advertised(rack).await;
        advertised.len() == 2 && advertised.iter().all(|(_, watts)| (3500..=4120).contains(watts))
    };
    rack.eventually("the idle nodes share the offers alike", shared).await;

    rack.eventually("the watts of both go where it can run", async |rack| comes(rack, "first", WHOLE, 8).await).await;

    create(&rack, "second", WHOLE, 8).await;
    rack.eventually("the next one waits for watts, and says so", async |rack| {
        message(rack, "second").await.contains("Insufficient powercapping.io/watts")
    })
    .await;
    rack.throughout("it goes on waiting", 6, async |rack| !runs(rack, "second").await).await;

    rack.edit_domain(json!({"powerCapLimitWatts": 16_000})).await;
    rack.eventually("a higher cap places it", async |rack| comes(rack, "second", WHOLE, 8).await).await;
    end(rack).await;
}

#[tokio::test]
async fn a_cut_and_a_brake_evict_nothing_and_close_the_nodes() {
    let rack = idle().await;
    rack.eventually("it runs", async |rack| comes(rack, "runs", 2000, 2).await).await;

    for spec in [json!({"powerCapLimitWatts": 4500}), json!({"powerCapLimitWatts": 11_500, "brake": "Minimum"})] {
        rack.edit_domain(spec.clone()).await;
        // kube-scheduler may hear later than we do that the nodes are closed, and let one pod in.
        let mut waits = false;
        for _ in 0..3 {
            rack.eventually("both nodes advertise what is requested there and nothing more", async |rack| {
                let mut watts: Vec<_> = advertised(rack).await.into_iter().map(|(_, watts)| watts).collect();
                watts.sort_unstable();
                watts == [0, 2000]
            })
            .await;
            create(&rack, "late", 100, 0).await;
            rack.eventually("kube-scheduler has looked at the pod", async |rack| {
                is_placed(rack, "late").await || !message(rack, "late").await.is_empty()
            })
            .await;
            waits = message(&rack, "late").await.contains("Insufficient powercapping.io/watts");
            if waits {
                break;
            }
            delete(&rack, "late").await;
        }
        assert!(waits, "no pod comes any more: {spec}");
        assert!(runs(&rack, "runs").await, "{spec}");
        rack.edit_domain(json!({"powerCapLimitWatts": 11_500, "brake": "None"})).await;
        rack.eventually("it comes when the rack is open again", async |rack| comes(rack, "late", 100, 0).await).await;
        delete(&rack, "late").await;
    }
    end(rack).await;
}

#[tokio::test]
async fn a_kubelet_that_restarts_a_node_made_anew_and_a_missing_agent_fail_nobody() {
    let rack = idle().await;
    rack.eventually("it runs", async |rack| comes(rack, "runs", 2000, 2).await).await;
    let node = node_of(&rack, "runs").await;
    let uid = pod(&rack, "runs").await.unwrap().metadata.uid;

    rack.edit_domain(json!({"powerCapLimitWatts": 4500})).await;
    rack.eventually("the node is closed", async |rack| advertised(rack).await.contains(&(node.clone(), 2000))).await;
    let kubelets = || processes("kubelet").iter().map(|status| field(status, "Pid").to_owned()).collect::<Vec<_>>();
    let before = kubelets();
    let killed = Command::new("kill").arg("-KILL").args(&before).status().unwrap();
    assert!(killed.success());
    rack.eventually("kubelets are back", async |_| {
        let now = kubelets();
        now.len() == 2 && now.iter().all(|pid| !before.contains(pid))
    })
    .await;
    rack.throughout("kubelets that restart on a closed node fail nobody", 20, async |rack| runs(rack, "runs").await)
        .await;

    let nothing = json!({"status": {"capacity": {WATTS: null}, "allocatable": {WATTS: null}}});
    let nodes = Api::<Node>::all(rack.client.clone());
    nodes.patch_status(&node, &PatchParams::default(), &Patch::Merge(nothing)).await.unwrap();
    rack.eventually("a Node that lost the resource gets it again", async |rack| {
        advertised(rack).await.contains(&(node.clone(), 2000))
    })
    .await;

    rack.stop_agents().await;
    rack.throughout("without agents the pod runs on, and its watts stand", 15, async |rack| {
        runs(rack, "runs").await && advertised(rack).await.contains(&(node.clone(), 2000))
    })
    .await;
    rack.start_agents().await;
    rack.edit_domain(json!({"powerCapLimitWatts": 11_500})).await;
    rack.eventually("agents that are back open the nodes", async |rack| comes(rack, "late", 1000, 0).await).await;
    assert_eq!(pod(&rack, "runs").await.unwrap().metadata.uid, uid, "the pod is the one that it was");
    end(rack).await;
}

#[tokio::test]
async fn what_no_domain_limits_any_more_keeps_the_resource_where_pods_request_it() {
    let rack = idle().await;
    rack.eventually("it runs", async |rack| comes(rack, "runs", 2000, 2).await).await;
    let node = node_of(&rack, "runs").await;
    rack.remove_caps().await;
    rack.eventually("one node keeps what its pod requests, the other forgets the resource", async |rack| {
        advertised(rack).await == [(node.clone(), 2000)]
    })
    .await;
    delete(&rack, "runs").await;
    rack.eventually("and so does that one, when the pod is gone", async |rack| advertised(rack).await.is_empty()).await;
    end(rack).await;
}

/// The rack without workloads.
pub async fn idle() -> Rack {
    let rack = Rack::ready().await;
    for workload in ["training", "inference"] {
        rack.scale("demo", workload, 0).await;
    }
    rack.eventually("the workloads are gone", async |rack| rack.pods("demo", "app").await.is_empty()).await;
    rack
}

/// Leaves nothing behind for who comes next: its boards would be held.
async fn end(rack: Rack) {
    for name in ["first", "second", "runs", "late"] {
        delete(&rack, name).await;
    }
}

fn pods(rack: &Rack) -> Api<Pod> {
    Api::namespaced(rack.client.clone(), NAMESPACE)
}

async fn create(rack: &Rack, name: &str, watts: u64, gpus: u64) {
    make(&pods(rack), &json!({"metadata": {"name": name}, "spec": holds(watts, gpus)})).await;
}

async fn comes(rack: &Rack, name: &str, watts: u64, gpus: u64) -> bool {
    is_made_to_run(&pods(rack), &json!({"metadata": {"name": name}, "spec": holds(watts, gpus)})).await
}

/// Whether this pod runs; it is made where it is missing, and anew where a kubelet has refused it, as a controller would:
/// kubelets may not yet have taken from others what kube-scheduler gives.
pub async fn is_made_to_run(pods: &Api<Pod>, pod: &Value) -> bool {
    let name = pod["metadata"]["name"].as_str().unwrap();
    let present = pods.get_opt(name).await.unwrap();
    match present.as_ref().map(phase) {
        None => make(pods, pod).await,
        Some("Failed") => drop(pods.delete(name, &DeleteParams::default().grace_period(0)).await.unwrap()),
        Some(phase) => return phase == "Running",
    }
    false
}

async fn make(pods: &Api<Pod>, pod: &Value) {
    let pod = serde_json::from_value(pod.clone()).unwrap();
    pods.create(&PostParams::default(), &pod).await.unwrap();
}

pub fn phase(pod: &Pod) -> &str {
    pod.status.as_ref().and_then(|status| status.phase.as_deref()).unwrap_or_default()
}

/// The spec of a pod that holds so many watts and boards.
pub fn holds(watts: u64, gpus: u64) -> Value {
    json!({
        "automountServiceAccountToken": false,
        "terminationGracePeriodSeconds": 0,
        "containers": [{
            "name": "holds",
            "image": PAUSE_IMAGE,
            "imagePullPolicy": "Never",
            "resources": {"limits": {WATTS: watts.to_string(), "nvidia.com/gpu": gpus.to_string()}},
        }],
    })
}

async fn delete(rack: &Rack, name: &str) {
    let at_once = DeleteParams { grace_period_seconds: Some(0), ..Default::default() };
    match pods(rack).delete(name, &at_once).await {
        Ok(_) => {}
        Err(kube::Error::Api(answer)) if answer.code == 404 => {}
        Err(error) => panic!("{error}"),
    }
    rack.eventually("the pod is gone", async |rack| pod(rack, name).await.is_none()).await;
}

async fn pod(rack: &Rack, name: &str) -> Option<Pod> {
    pods(rack).get_opt(name).await.unwrap()
}

async fn runs(rack: &Rack, name: &str) -> bool {
    pod(rack, name).await.is_some_and(|pod| phase(&pod) == "Running")
}

async fn is_placed(rack: &Rack, name: &str) -> bool {
    pod(rack, name).await.and_then(|pod| pod.spec?.node_name).is_some()
}

async fn node_of(rack: &Rack, name: &str) -> String {
    pod(rack, name).await.and_then(|pod| pod.spec?.node_name).unwrap()
}

/// What kube-scheduler says of the pod.
async fn message(rack: &Rack, name: &str) -> String {
    let conditions = pod(rack, name).await.and_then(|pod| pod.status?.conditions).unwrap_or_default();
    let scheduled = conditions.into_iter().find(|condition| condition.type_ == "PodScheduled");
    scheduled.and_then(|condition| condition.message).unwrap_or_default()
}

/// What each node advertises, by name; capacity and allocatable together. One that does not know the resource is
/// left out.
pub async fn advertised(rack: &Rack) -> Vec<(String, u64)> {
    let nodes = Api::<Node>::all(rack.client.clone()).list(&ListParams::default()).await.unwrap().items;
    let watts = |node: Node| {
        let status = node.status?;
        let (capacity, allocatable) = (status.capacity?.remove(WATTS), status.allocatable?.remove(WATTS));
        let both = capacity.filter(|capacity| allocatable.as_ref() == Some(capacity))?;
        Some((node.metadata.name?, both.0.parse::<Quantity>().unwrap().ceil()))
    };
    let mut advertised: Vec<_> = nodes.into_iter().filter_map(watts).collect();
    advertised.sort();
    advertised
}
