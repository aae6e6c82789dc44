//! The recommender's own process with a thousand nodes of eight boards and ten thousand pods: its memory, and how
//! often it writes when nothing changes, when a cap is cut, and under a brake; and how soon a second replica takes
//! over. Writes rows of bench.json. API server and Prometheus are those of the tests.
//!
//! Run it with `--release`, after the binary:
//! `cargo build --release -p powercap-recommender --bins --example run_at_scale && target/release/examples/run_at_scale FILE`.
#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stderr, reason = "a program for developers alone")]
#![allow(clippy::cast_precision_loss, reason = "figures are far below 2^53")]

#[path = "../tests/apiserver/mod.rs"]
#[allow(dead_code, reason = "the tests need more of it")]
mod apiserver;
mod fleet;
#[path = "../tests/process/mod.rs"]
#[allow(dead_code, reason = "the tests need more of it")]
mod process;
#[path = "../tests/prometheus/mod.rs"]
#[allow(dead_code, reason = "the tests need more of it")]
mod prometheus;

use std::{
    io::Write,
    time::{Duration, Instant},
};

use apiserver::{ApiServer, Key};
use fleet::{BOARDS, NAMESPACE, exported, name, pod_name};
use jiff::Timestamp;
use process::{Recommender, domain, edit_cap, eventually, grants, node, rack, share, silence, writes_since};
use prometheus::Server;
use serde_json::{Value, json};

const NODES: usize = 1000;
/// Pods without a board, beside one on each board.
const OTHER_PODS: usize = 2000;
const BOARDS_PER_POLICY: usize = 100;
const PATIENCE: Duration = Duration::from_secs(180);
/// How long nothing changes, in cycles of a second.
const STEADY_CYCLES: u64 = 20;

#[tokio::main]
async fn main() -> std::io::Result<()> {
    let mut rows = at_scale().await;
    rows.push(row("takeover_s", takeover().await.as_secs_f64(), "s", 15.0));
    let text = serde_json::to_string_pretty(&rows)? + "\n";
    match std::env::args().nth(1) {
        Some(path) => std::fs::write(path, text),
        None => std::io::stdout().lock().write_all(text.as_bytes()),
    }
}

fn row(name: &str, value: f64, unit: &str, most: f64) -> Value {
    let value = (value * 1000.0).round() / 1000.0;
    json!({"name": name, "value": value, "unit": unit, "goal": format!("≤ {most}"), "holds": value <= most})
}

/// Memory and writes.
async fn at_scale() -> Vec<Value> {
    let prometheus = Server::start().await;
    {
        let now = Timestamp::now().as_duration().as_secs_f64();
        let mut state = prometheus.state();
        (state.now, state.repeats) = (now, true);
        state.series = (0..NODES).flat_map(|node| exported(node, now - 1.0)).collect();
    }
    let server = ApiServer::start().await;
    server.state().agents_take = Some(Duration::from_millis(500));
    populate(&server);
    // Readings that are made once stay fresh for half an hour.
    let arguments = ["--collection-interval-seconds=600", "--prometheus-timeout-ms=30000"];
    let url = format!("--prometheus-url={}", prometheus.url);
    let recommender = Recommender::start(&server, &[arguments[0], arguments[1], &url]);
    settled(&server, 6000).await;

    let began = Instant::now();
    tokio::time::sleep(Duration::from_secs(STEADY_CYCLES)).await;
    let steady = writes_since(&server, began).len() as f64 / NODES as f64 / STEADY_CYCLES as f64;

    let cut = Instant::now();
    edit_cap(&server, "rack", 4000 * u32::try_from(NODES).unwrap());
    settled(&server, 4000).await;
    let cut = grants_written_since(&server, cut) as f64 / NODES as f64;

    let braked = Instant::now();
    server.edit(&Key::of("powerdomains", "rack"), &json!({"spec": {"brake": "Minimum"}}));
    tokio::time::sleep(Duration::from_secs(5)).await;
    // The person's own, and every node watches the domain.
    let brake = 1 + grants_written_since(&server, braked);
    vec![
        row("recommender_rss_mib", memory_mib(recommender.id()), "MiB", 150.0),
        row("api_writes_steady", steady, "a node and cycle", 0.01),
        row("api_writes_cut", cut, "a node", 1.0),
        row("api_writes_brake", brake as f64, "writes", 1.0),
    ]
}

fn populate(server: &ApiServer) {
    for at in 0..NODES {
        node(server, &name(at), "rack");
        for board in 0..BOARDS {
            let index = at * BOARDS + board;
            let app = format!("app-{}", index / BOARDS_PER_POLICY);
            put(server, "pods", &pod_name(at, board), pod(&pod_name(at, board), &name(at), &app, 1));
            if index.is_multiple_of(BOARDS_PER_POLICY) {
                put(server, "powercappingpolicies", &app, policy(&app));
            }
        }
    }
    for at in 0..OTHER_PODS {
        let pod_name = format!("sidecar-{at}");
        put(server, "pods", &pod_name, pod(&pod_name, &name(at % NODES), "sidecar", 0));
    }
    domain(server, "rack", 6000 * u32::try_from(NODES).unwrap());
}

fn put(server: &ApiServer, plural: &str, name: &str, object: Value) {
    let key = Key { namespace: Some(NAMESPACE.into()), ..Key::of(plural, name) };
    server.state().store.put(&key, object).unwrap();
}

/// A policy that watches a hundred boards at some 61 kW, below its cap.
fn policy(app: &str) -> Value {
    json!({
        "apiVersion": "powercapping.io/v1alpha1", "kind": "PowerCappingPolicy",
        "metadata": {"name": app, "namespace": NAMESPACE},
        "spec": {"powerCapLimitWatts": 80_000, "mode": "Enforce", "selector": {"matchLabels": {"app": app}}},
    })
}

/// A pod of the usual size: some five kilobytes.
fn pod(name: &str, node: &str, app: &str, gpus: u32) -> Value {
    let variables: Vec<_> = (0..20)
        .map(|at| json!({"name": format!("VARIABLE_{at}"), "value": format!("some value of some length {at}")}))
        .collect();
    let managed: Vec<_> = (0..3)
        .map(|at| json!({"manager": format!("manager-{at}"), "operation": "Update", "fieldsType": "FieldsV1",
            "fieldsV1": {"f:metadata": {"f:labels": {".": {}, "f:app": {}}}, "f:spec": {"f:containers": {"k:server": "x".repeat(500)}}}}))
        .collect();
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": name, "namespace": NAMESPACE, "managedFields": managed, "labels": {
            "app": app, "pod-template-hash": "7d9f8b6c5", "app.kubernetes.io/part-of": "chat",
        }},
        "spec": {"nodeName": node, "serviceAccountName": "server", "containers": [{
            "name": "server", "image": "registry.example.com/llm/server:v1.2.3", "env": variables,
            "resources": {"limits": {"nvidia.com/gpu": gpus.to_string(), "memory": "64Gi"}},
        }]},
        "status": {"phase": "Running", "podIP": "10.244.1.17"},
    })
}

/// Waits until every node has its share, and nothing is written any more.
async fn settled(server: &ApiServer, grant: u64) {
    let all = eventually(PATIENCE, || {
        let grants = grants(server);
        grants.len() == NODES && grants.iter().all(|now| *now == Some(grant))
    });
    assert!(all.await, "every node is granted {grant} W: {:?}", &grants(server).first());
    assert!(silence(server, PATIENCE).await, "nothing is written any more");
}

fn grants_written_since(server: &ApiServer, since: Instant) -> usize {
    writes_since(server, since).iter().filter(|write| write.key.plural == "nodefrequencies").count()
}

/// Memory that is resident now.
fn memory_mib(process: u32) -> f64 {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<f64>().unwrap() / 1024.0
}

/// From the leader's death, at which a cap is cut, until the other replica has lowered every grant.
async fn takeover() -> Duration {
    let server = rack().await;
    let leader = Recommender::start(&server, &["--identity=a"]);
    let share_of = |cap| move |grant: &Option<u64>| *grant == Some(share(cap));
    assert!(
        eventually(PATIENCE, || grants(&server).iter().filter(|grant| share_of(process::CAP)(grant)).count() == 4)
            .await
    );
    let _other = Recommender::start(&server, &["--identity=b"]);
    assert!(silence(&server, PATIENCE).await);
    let died = Instant::now();
    leader.signal("KILL");
    edit_cap(&server, "rack", 16_000);
    assert!(eventually(PATIENCE, || grants(&server).iter().all(share_of(16_000))).await);
    died.elapsed()
}
