//! How long one escalating decision takes where there is much to do and nothing possible, and how long an eviction
//! takes at the most: writes rows of bench.json.
//!
//! A thousand policies above their caps, with 20,000 pods of 5,000 workloads that all are listed, by their policies
//! and by twenty domains, and none of which may go: a budget of each workload allows no disruption.
//!
//! Run it with `--release`: `cargo run --release -p powercap-actuator --example escalate_at_scale -- FILE`.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a program for developers alone")]

#[path = "manners/mod.rs"]
mod manners;

use std::{
    io::Write,
    sync::Arc,
    time::{Duration, Instant},
};

use k8s_openapi::{apimachinery::pkg::apis::meta::v1::Time, jiff::Timestamp};
use powercap_actuator::escalate::{
    decide::decide,
    observation::{Budget, Observation, PodFacts, PodName},
};
use powercap_common::{selector::Selector, target::Controller};
use serde_json::{Value, json};

const POLICIES: usize = 1000;
const POLICIES_IN_A_NAMESPACE: usize = 10;
const WORKLOADS_OF_A_POLICY: usize = 5;
const PODS_OF_A_WORKLOAD: usize = 4;
const DOMAINS: usize = 20;
/// The API's limit on a list of pending actions.
const LISTED: usize = 100;
/// Decisions that are timed; the median counts.
const TIMES: usize = 11;
const GOAL_MS: f64 = 50.0;
const GOAL_CALL_S: f64 = 5.0;

#[tokio::main(flavor = "current_thread")]
async fn main() -> std::io::Result<()> {
    powercap_process::install_tls_provider();
    let file = std::env::args().nth(1);
    let rows = json!([
        row("escalate_decide_ms", median(&cluster_of(POLICIES)).as_secs_f64() * 1e3, "ms", GOAL_MS),
        row("eviction_call_max_s", manners::longest_call().await.as_secs_f64(), "s", GOAL_CALL_S),
    ]);
    let text = serde_json::to_string_pretty(&rows)? + "\n";
    match file {
        Some(path) => std::fs::write(path, text),
        None => std::io::stdout().lock().write_all(text.as_bytes()),
    }
}

fn row(name: &str, value: f64, unit: &str, most: f64) -> Value {
    let value = (value * 100.0).round() / 100.0;
    json!({"name": name, "value": value, "unit": unit, "goal": format!("≤ {most}"), "holds": value <= most})
}

fn median(seen: &Observation) -> Duration {
    let mut times: Vec<_> = (0..TIMES)
        .map(|_| {
            let began = Instant::now();
            let plan = decide(seen, now());
            let took = began.elapsed();
            assert_eq!(plan.steps.len(), 0, "nothing is possible");
            assert!(plan.held.len() >= POLICIES * WORKLOADS_OF_A_POLICY * PODS_OF_A_WORKLOAD, "all were looked at");
            took
        })
        .collect();
    times.sort_unstable();
    times[TIMES / 2]
}

fn now() -> Timestamp {
    Timestamp::constant(1_800_000_000, 0)
}

fn cluster_of(policies: usize) -> Observation {
    let mut seen = Observation::default();
    let mut listed_by_domains = Vec::new();
    for policy in 0..policies {
        let namespace = format!("ns{:03}", policy / POLICIES_IN_A_NAMESPACE);
        let mut listed = Vec::new();
        for workload in 0..WORKLOADS_OF_A_POLICY {
            let workload = format!("w{policy}-{workload}");
            for pod in 0..PODS_OF_A_WORKLOAD {
                let (name, facts) = pod_of(&namespace, &format!("p{policy}"), &workload, pod);
                listed.push(pending(&namespace, &workload, &name.name));
                seen.pods.insert(name, Arc::new(facts));
            }
            let selector = serde_json::from_value(json!({"matchLabels": {"of": workload}})).unwrap();
            let budget = Budget { selector: Some(Selector::try_from(&selector).unwrap()), allowed: 0 };
            seen.budgets.entry(namespace.clone()).or_default().push(budget);
        }
        listed_by_domains.extend(listed.first().cloned().into_iter().chain(listed.last().cloned()));
        let object = json!({
            "apiVersion": "powercapping.io/v1alpha1", "kind": "PowerCappingPolicy",
            "metadata": {"namespace": namespace, "name": format!("p{policy}"), "uid": format!("p{policy}")},
            "spec": {"powerCapLimitWatts": 1000, "mode": "Enforce",
                "selector": {"matchLabels": {"policy": format!("p{policy}")}},
                "escalation": [{"action": "Throttle"}, {"action": "Evict"}]},
            "status": above(&listed),
        });
        seen.policies.push(Arc::new(serde_json::from_value(object).unwrap()));
    }
    for (domain, listed) in listed_by_domains.chunks(LISTED).take(DOMAINS).enumerate() {
        let object = json!({
            "apiVersion": "powercapping.io/v1alpha1", "kind": "PowerDomain", "metadata": {"name": format!("rack{domain}")},
            "spec": {"powerCapLimitWatts": 5000, "nodeSelector": {"matchLabels": {"rack": "r"}}}, "status": above(listed),
        });
        seen.domains.push(Arc::new(serde_json::from_value(object).unwrap()));
    }
    seen
}

fn pod_of(namespace: &str, policy: &str, workload: &str, number: usize) -> (PodName, PodFacts) {
    let name = format!("{workload}-{number}");
    let labels = [("app", workload), ("of", workload), ("policy", policy), ("pod-template-hash", "6d4cf56db6")];
    let facts = PodFacts {
        uid: format!("uid-{name}"),
        labels: labels.map(|(key, value)| (key.to_owned(), value.to_owned())).into(),
        controller: Some(Controller { kind: "ReplicaSet".into(), name: format!("{workload}-6d4cf56db6") }),
        created: Some(Timestamp::UNIX_EPOCH),
        ready: true,
        ..PodFacts::default()
    };
    (PodName { namespace: namespace.into(), name }, facts)
}

fn pending(namespace: &str, workload: &str, pod: &str) -> Value {
    json!({"action": "Evict", "namespace": namespace, "workload": format!("Deployment/{workload}"), "pod": pod,
        "freesWatts": 200, "reason": "PowerAboveCap", "since": Time(Timestamp::UNIX_EPOCH)})
}

fn above(listed: &[Value]) -> Value {
    let said = |kind: &str, status: &str| {
        json!({"type": kind, "status": status, "reason": kind, "message": "",
            "lastTransitionTime": Time(Timestamp::UNIX_EPOCH)})
    };
    json!({"currentPowerWatts": 6000, "pendingActions": listed,
        "conditions": [said("DataFresh", "True"), said("WithinCap", "False")]})
}
