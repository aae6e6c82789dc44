//! How fast pods are evicted, what is done in status before it is, against plain DELETEs of as many, both from the same
//! number of tasks on the same real API server: writes rows of bench.json. The events come as they do, one after the
//! other; the next measurement waits for the last of them.
//!
//! Each task has a policy, with pods of as many workloads as may be taken from at once: one of each, so that a status
//! goes before so many evictions. Beside that, with a status before each, as is the default; and evictions alone, which
//! is the most that could be reached.
//!
//! No budget, no grace, no other limits, no time to settle. The pods are on no node and of no workload that makes them
//! anew: a ConfigMap stands as their controller, so that the garbage collector leaves them.
//!
//! Run it in a control plane: `cluster run --nodes 0 -- target/release/examples/evict_at_rate FILE`.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a program for developers alone")]

use std::{
    collections::BTreeMap,
    io::Write,
    sync::Arc,
    time::{Duration, Instant},
};

use futures::{StreamExt, TryStreamExt, stream};
use k8s_openapi::{
    api::{
        core::v1::{ConfigMap, Pod, ServiceAccount},
        events::v1::Event,
        policy::v1::Eviction,
    },
    apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition,
    apimachinery::pkg::apis::meta::v1::{DeleteOptions, ObjectMeta, Preconditions, Status},
    jiff::Timestamp,
};
use kube::{
    Api, Client, CustomResourceExt, ResourceExt,
    api::{DeleteParams, ListParams, Patch, PatchParams, PostParams},
};
use powercap_actuator::escalate::{
    apply::Writer,
    decide::decide,
    metrics::Metrics,
    observation::{Limits, Memory, Observation, PodFacts, PodName},
};
use powercap_common::{api::PowerCappingPolicy, target::Controller};
use powercap_process::{kubernetes, leader::Leadership};
use serde_json::{Value, json};

/// As many as the API server is asked for at once: one task each, and of the evictions one policy each.
const TASKS: usize = 8;
/// Of each task: so many may be taken at once.
const WORKLOADS: usize = 8;
const PODS_OF_A_TASK: usize = 5 * WORKLOADS;
const CAP_WATTS: u32 = 1000;
const POD_WATTS: u32 = 100;
/// Each is done so often, in turn; the medians count.
const TIMES: usize = 5;
/// On each pod that is evicted, and on its policy one for each step.
const EVENTS_OF_ONES: usize = 2 * TASKS * PODS_OF_A_TASK;
const EVENTS_OF_MANY: usize = TASKS * PODS_OF_A_TASK + TASKS * PODS_OF_A_TASK / WORKLOADS;
const GOAL: f64 = 0.5;
const NAMESPACE: &str = "default";

#[tokio::main(flavor = "current_thread")]
async fn main() -> kube::Result<()> {
    powercap_process::install_tls_provider();
    let client = kubernetes::client().await.unwrap();
    let site = Site { writer: Writer::new(client.clone(), "bench".into(), Metrics::default()), client };
    site.define().await?;
    let (mut deletions, mut posts, mut ones, mut evictions) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for time in 0..TIMES {
        deletions.push(site.rate(Site::delete).await?);
        posts.push(site.rate(Site::post).await?);
        ones.push(site.rate(async |site, policy, pods| site.evict(policy, pods, 1).await).await?);
        site.told(EVENTS_OF_ONES * (time + 1) + EVENTS_OF_MANY * time).await?;
        evictions.push(site.rate(async |site, policy, pods| site.evict(policy, pods, WORKLOADS).await).await?);
        site.told((EVENTS_OF_ONES + EVENTS_OF_MANY) * (time + 1)).await?;
    }
    let (deletions, posts, ones, evictions) = (median(deletions), median(posts), median(ones), median(evictions));
    let over_deletions = |rate: f64| (rate / deletions * 100.0).round() / 100.0;
    let ratio = over_deletions(evictions);
    let reported = |name: &str, value: f64, unit: &str| json!({"name": name, "value": value, "unit": unit, "goal": null, "holds": true});
    let rows = json!([
        {"name": "eviction_rate_vs_delete", "value": ratio, "unit": "ratio", "goal": format!("≥ {GOAL}"),
            "holds": ratio >= GOAL},
        reported("eviction_rate_one_at_a_time", over_deletions(ones), "ratio"),
        reported("eviction_rate_alone", over_deletions(posts), "ratio"),
        reported("evictions_per_s", evictions.round(), "pods/s"),
        reported("deletions_per_s", deletions.round(), "pods/s"),
    ]);
    let text = serde_json::to_string_pretty(&rows).unwrap() + "\n";
    match std::env::args().nth(1) {
        Some(path) => std::fs::write(path, text).unwrap(),
        None => std::io::stdout().lock().write_all(text.as_bytes()).unwrap(),
    }
    Ok(())
}

fn median(mut rates: Vec<f64>) -> f64 {
    rates.sort_unstable_by(f64::total_cmp);
    rates[rates.len() / 2]
}

struct Site {
    client: Client,
    writer: Writer,
}

impl Site {
    fn pods(&self) -> Api<Pod> {
        Api::namespaced(self.client.clone(), NAMESPACE)
    }

    async fn define(&self) -> kube::Result<()> {
        let definitions: Api<CustomResourceDefinition> = Api::all(self.client.clone());
        definitions.create(&PostParams::default(), &PowerCappingPolicy::crd()).await?;
        let accounts: Api<ServiceAccount> = Api::namespaced(self.client.clone(), NAMESPACE);
        let policies: Api<PowerCappingPolicy> = Api::namespaced(self.client.clone(), NAMESPACE);
        let ready =
            async || accounts.get("default").await.is_ok() && policies.list(&ListParams::default()).await.is_ok();
        while !ready().await {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        Ok(())
    }

    /// Waits until there are so many events.
    async fn told(&self, wanted: usize) -> kube::Result<()> {
        let events: Api<Event> = Api::namespaced(self.client.clone(), NAMESPACE);
        loop {
            let first = events.list(&ListParams::default().limit(1)).await?;
            let rest = first.metadata.remaining_item_count.unwrap_or_default();
            if first.items.len() + usize::try_from(rest).unwrap() >= wanted {
                return Ok(());
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// Pods a second that go, of all tasks together.
    async fn rate(
        &self,
        go: impl AsyncFn(&Self, PowerCappingPolicy, Vec<Pod>) -> kube::Result<()>,
    ) -> kube::Result<f64> {
        let policies: Vec<_> = stream::iter(0..TASKS).then(|task| self.fill(task)).try_collect().await?;
        let began = Instant::now();
        let tasks = policies.into_iter().map(|(policy, pods)| go(self, policy, pods));
        futures::future::try_join_all(tasks).await?;
        let took = began.elapsed().as_secs_f64();
        assert_eq!(self.pods().list(&ListParams::default()).await?.items.len(), 0, "all are gone");
        Ok(f64::from(u32::try_from(TASKS * PODS_OF_A_TASK).unwrap()) / took)
    }

    /// Makes a task's policy, with pods that all are to be evicted.
    async fn fill(&self, task: usize) -> kube::Result<(PowerCappingPolicy, Vec<Pod>)> {
        let name = format!("task-{task}");
        let params = PatchParams::apply("bench").force();
        let configs: Api<ConfigMap> = Api::namespaced(self.client.clone(), NAMESPACE);
        let own = async |number| {
            let workload = format!("{name}-{number}");
            let owner = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": workload}});
            configs.patch(&workload, &params, &Patch::Apply(&owner)).await
        };
        let owners: Vec<_> = stream::iter(0..WORKLOADS).then(own).try_collect().await?;
        let create = async |(number, owner)| {
            let pod = pod(&format!("{name}-{number}"), &name, owner);
            self.pods().create(&PostParams::default(), &pod).await
        };
        let wanted = owners.iter().cycle().take(PODS_OF_A_TASK).enumerate();
        let pods: Vec<_> = stream::iter(wanted).map(create).buffered(TASKS).try_collect().await?;
        let policies: Api<PowerCappingPolicy> = Api::namespaced(self.client.clone(), NAMESPACE);
        let mut policy = json!({
            "apiVersion": "powercapping.io/v1alpha1", "kind": "PowerCappingPolicy", "metadata": {"name": name},
            "spec": {"powerCapLimitWatts": CAP_WATTS, "mode": "Enforce", "selector": {"matchLabels": {"of": name}},
                "escalation": [{"action": "Throttle"}, {"action": "Evict"}]},
        });
        policies.patch(&name, &params, &Patch::Apply(&policy)).await?;
        policy["status"] = above_its_cap(&pods);
        policy.as_object_mut().unwrap().remove("spec");
        Ok((policies.patch_status(&name, &params, &Patch::Apply(&policy)).await?, pods))
    }

    async fn delete(&self, _: PowerCappingPolicy, pods: Vec<Pod>) -> kube::Result<()> {
        for pod in pods {
            self.pods().delete(&pod.name_any(), &DeleteParams::default()).await?;
        }
        Ok(())
    }

    /// Evictions by UID, and nothing else.
    async fn post(&self, _: PowerCappingPolicy, pods: Vec<Pod>) -> kube::Result<()> {
        for pod in pods {
            let preconditions = Preconditions { uid: pod.uid(), ..Preconditions::default() };
            let eviction = Eviction {
                metadata: ObjectMeta { name: Some(pod.name_any()), ..ObjectMeta::default() },
                delete_options: Some(DeleteOptions { preconditions: Some(preconditions), ..DeleteOptions::default() }),
            };
            let params = PostParams::default();
            self.pods().create_subresource::<_, Status>("eviction", &pod.name_any(), &params, &eviction).await?;
        }
        Ok(())
    }

    async fn evict(&self, mut policy: PowerCappingPolicy, pods: Vec<Pod>, at_once: usize) -> kube::Result<()> {
        let mut memory = Memory::default();
        let leads = || Some(Leadership { term: 1, until: Instant::now() + Duration::from_secs(60) });
        let mut left: BTreeMap<_, _> = pods.iter().map(facts).collect();
        while !left.is_empty() {
            // As the recommender would say it: what is evicted draws no more.
            let power = CAP_WATTS + POD_WATTS * u32::try_from(left.len()).unwrap();
            policy.status.as_mut().unwrap().current_power_watts = Some(power);
            let seen = Observation {
                policies: vec![Arc::new(policy)],
                pods: left.clone(),
                limits: limits(at_once),
                ..Observation::default()
            };
            let plan = decide(&seen, Timestamp::now());
            policy = self.writer.carry_out(&plan, &mut memory, leads).await.remove(0);
            left.retain(|_, pod| !memory.done.contains(&pod.uid));
        }
        Ok(())
    }
}

fn limits(at_once: usize) -> Limits {
    Limits {
        settle: Duration::ZERO,
        cool_down: Duration::ZERO,
        minimum_replicas: 0,
        for_a_policy: at_once,
        in_a_namespace: usize::MAX,
        for_a_domain: usize::MAX,
        in_all: usize::MAX,
        ..Limits::default()
    }
}

/// All are ready, whatever no kubelet says.
fn facts(pod: &Pod) -> (PodName, Arc<PodFacts>) {
    let facts = PodFacts {
        uid: pod.uid().unwrap(),
        labels: pod.labels().clone(),
        controller: Controller::of(&pod.metadata),
        ready: true,
        ..PodFacts::default()
    };
    (PodName { namespace: NAMESPACE.into(), name: pod.name_any() }, Arc::new(facts))
}

fn pod(name: &str, of: &str, owner: &ConfigMap) -> Pod {
    let pod = json!({
        "metadata": {"name": name, "labels": {"of": of}, "ownerReferences": [{"apiVersion": "v1",
            "kind": "ConfigMap", "name": owner.name_any(), "uid": owner.uid(), "controller": true}]},
        "spec": {"terminationGracePeriodSeconds": 0, "automountServiceAccountToken": false,
            "containers": [{"name": "c", "image": "none"}]},
    });
    serde_json::from_value(pod).unwrap()
}

fn above_its_cap(pods: &[Pod]) -> Value {
    let now = Timestamp::now();
    let said = |kind: &str, status: &str| json!({"type": kind, "status": status, "reason": kind, "message": "", "lastTransitionTime": now});
    let pending = pods.iter().map(|pod| {
        let workload = format!("ConfigMap/{}", pod.owner_references()[0].name);
        json!({"action": "Evict", "namespace": NAMESPACE, "workload": workload, "pod": pod.name_any(),
            "freesWatts": POD_WATTS, "reason": "PowerAboveCap", "since": now})
    });
    json!({"conditions": [said("DataFresh", "True"), said("WithinCap", "False")],
        "pendingActions": pending.collect::<Vec<_>>()})
}
