//! Watts beside what else moves pods: preemption by kube-scheduler, and drains by evictions, as `kubectl drain`, Cluster
//! Autoscaler and descheduler do them.

use std::collections::BTreeSet;

use k8s_openapi::api::{
    apps::v1::Deployment,
    core::v1::{Node, Pod},
    policy::v1::{Eviction, PodDisruptionBudget},
    scheduling::v1::PriorityClass,
};
use kube::{
    Api, Client, ResourceExt,
    api::{DeleteParams, ObjectMeta, Patch, PatchParams, PostParams},
};
use powercap_e2e::cluster::existing::config;
use serde_json::{Value, json};

use crate::{
    admit_by_watts::{advertised, holds, idle, is_made_to_run, phase},
    rack::Rack,
};

/// What is left for devices of the demo's cap, and what one node may hold of it.
const FOR_DEVICES: u64 = 8240;
const WHOLE: u64 = 5600;

#[tokio::test]
async fn a_pod_of_higher_priority_preempts_one_that_holds_the_watts_and_the_cap_is_as_it_was() {
    let rack = idle().await;
    let class = json!({"metadata": {"name": "urgent"}, "value": 1000, "preemptionPolicy": "PreemptLowerPriority"});
    apply(&Api::<PriorityClass>::all(rack.client.clone()), class).await;
    let pods = Api::<Pod>::namespaced(rack.client.clone(), "default");
    let first = json!({"metadata": {"name": "first"}, "spec": holds(WHOLE, 8)});
    rack.eventually("a pod holds the watts of a node", async |_| is_made_to_run(&pods, &first).await).await;

    let mut second = json!({"metadata": {"name": "second"}, "spec": holds(WHOLE, 8)});
    second["spec"]["priorityClassName"] = json!("urgent");
    rack.eventually("a more urgent one has its place", async |_| is_made_to_run(&pods, &second).await).await;
    rack.eventually("and the other is gone", async |_| pods.get_opt("first").await.unwrap().is_none()).await;
    let offered: u64 = advertised(&rack).await.iter().map(|(_, watts)| watts).sum();
    assert!(offered <= FOR_DEVICES, "{offered} W");

    pods.delete("second", &DeleteParams::default().grace_period(0)).await.unwrap();
    Api::<PriorityClass>::all(rack.client.clone()).delete("urgent", &DeleteParams::default()).await.unwrap();
    rack.eventually("its boards are free", async |_| pods.get_opt("second").await.unwrap().is_none()).await;
}

#[tokio::test]
async fn a_drain_keeps_to_the_budget_and_what_comes_back_is_placed_by_watts() {
    let rack = idle().await;
    let pods = async |rack: &Rack| {
        let mut pods = rack.pods("demo", "app=drained").await;
        pods.retain(|pod| pod.metadata.deletion_timestamp.is_none() && phase(pod) != "Failed");
        pods
    };
    let run = async |rack: &Rack| pods(rack).await.iter().filter(|pod| is_ready(pod)).count() == 2;
    apply(&Api::<Deployment>::namespaced(rack.client.clone(), "demo"), workload()).await;
    rack.eventually("each of two pods holds most of what a node offers", run).await;
    let nodes = Api::<Node>::all(rack.client.clone());
    let source = node_of(&pods(&rack).await[0]);
    close(&nodes, &source, true).await;
    let there = async |rack: &Rack| {
        let mut there = pods(rack).await;
        there.retain(|pod| node_of(pod) == source);
        there.iter().map(ResourceExt::name_any).collect::<BTreeSet<_>>()
    };
    let before = there(&rack).await;
    let asked_once = pods_asked_once().await;

    let budgets = Api::<PodDisruptionBudget>::namespaced(rack.client.clone(), "demo");
    apply(&budgets, budget(2)).await;
    rack.eventually("the budget is counted", async |_| is_counted(&budgets).await).await;
    for pod in &before {
        assert_eq!(evict(&asked_once, pod).await, 429, "both are to stay");
    }
    assert_eq!(there(&rack).await, before);

    apply(&budgets, budget(1)).await;
    rack.eventually("a drain that asks again and again is done, one pod at a time", async |rack| {
        let left = there(rack).await;
        for pod in &left {
            let answer = evict(&asked_once, pod).await;
            assert!([201, 404, 429].contains(&answer), "{answer}");
        }
        left.is_empty()
    })
    .await;
    rack.eventually("what came back runs where the watts went, and the cap is as it was", async |rack| {
        let offered: u64 = advertised(rack).await.iter().map(|(_, watts)| watts).sum();
        run(rack).await && there(rack).await.is_empty() && offered <= FOR_DEVICES
    })
    .await;

    close(&nodes, &source, false).await;
    budgets.delete("drained", &DeleteParams::default()).await.unwrap();
    Api::<Deployment>::namespaced(rack.client.clone(), "demo")
        .delete("drained", &DeleteParams::default())
        .await
        .unwrap();
    rack.eventually("its boards are free", async |rack| rack.pods("demo", "app=drained").await.is_empty()).await;
}

/// Two pods: one node can have the watts of both, and has them only where the other gives up its own.
fn workload() -> Value {
    json!({
        "metadata": {"name": "drained"},
        "spec": {
            "replicas": 2, "selector": {"matchLabels": {"app": "drained"}},
            "template": {"metadata": {"labels": {"app": "drained"}}, "spec": holds(3200, 1)},
        },
    })
}

fn budget(least: u32) -> Value {
    json!({
        "metadata": {"name": "drained"},
        "spec": {"minAvailable": least, "selector": {"matchLabels": {"app": "drained"}}},
    })
}

async fn is_counted(budgets: &Api<PodDisruptionBudget>) -> bool {
    let budget = budgets.get("drained").await.unwrap();
    let status = budget.status.unwrap_or_default();
    status.observed_generation == budget.metadata.generation && status.current_healthy == 2
}

async fn apply<K>(objects: &Api<K>, mut object: Value)
where
    K: kube::Resource<DynamicType = ()> + Clone + serde::de::DeserializeOwned + std::fmt::Debug,
{
    (object["apiVersion"], object["kind"]) = (json!(K::api_version(&())), json!(K::kind(&())));
    let name = object["metadata"]["name"].as_str().unwrap().to_owned();
    objects.patch(&name, &PatchParams::apply("e2e").force(), &Patch::Apply(object)).await.unwrap();
}

/// Asks once: the client of others would ask again for minutes where a budget refuses.
async fn pods_asked_once() -> Api<Pod> {
    let mut config = config().await.unwrap();
    config.default_retry = false;
    Api::namespaced(Client::try_from(config).unwrap(), "demo")
}

/// As a drain does; the HTTP status of the answer.
async fn evict(pods: &Api<Pod>, pod: &str) -> u16 {
    let metadata = ObjectMeta { name: Some(pod.to_owned()), ..ObjectMeta::default() };
    let eviction = Eviction { metadata, ..Eviction::default() };
    match pods.create_subresource::<_, Value>("eviction", pod, &PostParams::default(), &eviction).await {
        Ok(_) => 201,
        Err(kube::Error::Api(answer)) => answer.code,
        Err(error) => panic!("{error}"),
    }
}

async fn close(nodes: &Api<Node>, node: &str, closed: bool) {
    let patch = Patch::Merge(json!({"spec": {"unschedulable": closed}}));
    nodes.patch(node, &PatchParams::default(), &patch).await.unwrap();
}

fn node_of(pod: &Pod) -> String {
    pod.spec.as_ref().and_then(|spec| spec.node_name.clone()).unwrap_or_default()
}

fn is_ready(pod: &Pod) -> bool {
    let conditions = pod.status.iter().flat_map(|status| status.conditions.iter().flatten());
    conditions.into_iter().any(|condition| condition.type_ == "Ready" && condition.status == "True")
}
