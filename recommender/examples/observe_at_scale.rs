//! How long one round of questions takes, from the queries to the readings, of a thousand nodes of eight
//! boards that DCGM exporter, Kepler and node agents tell of: writes a row of bench.json. Prometheus's answers
//! are ready; they are sent over a real socket.
//!
//! Run it with `--release`: `cargo run --release -p powercap-recommender --example observe_at_scale -- FILE`.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a program for developers alone")]

#[path = "../tests/prometheus/mod.rs"]
mod prometheus;

use std::{
    io::Write,
    time::{Duration, Instant},
};

use jiff::{SignedDuration, Timestamp};
use powercap_recommender::{
    metrics::Metrics,
    observe::{
        names::Names,
        prometheus::{Access, Prometheus},
        telemetry::{Inquiry, LatestTelemetry},
    },
};
use prometheus::{Series, Server};
use serde_json::json;

const NODES: usize = 1000;
const BOARDS: usize = 8;
/// Rounds that are timed; the median counts.
const TIMES: usize = 9;
/// A tenth of a cycle.
const GOAL_MS: f64 = 500.0;

#[tokio::main]
async fn main() -> std::io::Result<()> {
    powercap_process::install_tls_provider();
    let now = Timestamp::now();
    let server = Server::start().await;
    {
        let mut state = server.state();
        (state.now, state.repeats) = (now.as_duration().as_secs_f64(), true);
        state.series = (0..NODES).flat_map(|node| exported(node, now.as_duration().as_secs_f64() - 1.0)).collect();
    }
    let access = Access::open(&server.url, Duration::from_secs(60));
    let (latest, names) = (LatestTelemetry::default(), Names::default());
    let prometheus = Prometheus::new(access, names.labels());
    let interval = SignedDuration::from_secs(5);
    let mut inquiry = Inquiry::new(prometheus, names, interval, latest.clone(), Metrics::default());
    // The first round makes the answers.
    inquiry.ask_all(now).await;
    let telemetry = latest.get();
    let found =
        [&telemetry.gpus, &telemetry.agent_gpus].map(|gpus| gpus.values().filter(|gpu| gpu.power.is_some()).count());
    assert_eq!(found, [NODES * BOARDS; 2], "every board is read");
    let mut times = Vec::new();
    for _ in 0..TIMES {
        let began = Instant::now();
        inquiry.ask_all(now).await;
        times.push(began.elapsed());
    }
    times.sort_unstable();
    let ms = (times[TIMES / 2].as_secs_f64() * 1e4).round() / 10.0;
    let rows = json!([{
        "name": "observe_1000_nodes_ms", "value": ms, "unit": "ms", "goal": format!("≤ {GOAL_MS}"), "holds": ms <= GOAL_MS,
    }]);
    let text = serde_json::to_string_pretty(&rows)? + "\n";
    match std::env::args().nth(1) {
        Some(path) => std::fs::write(path, text),
        None => std::io::stdout().lock().write_all(text.as_bytes()),
    }
}

/// What Prometheus has of one node, with all labels that exporters and scrapes put on.
fn exported(node: usize, at: f64) -> Vec<Series> {
    let name = format!("gpu-node-{node}.cluster.example.com");
    let mut all = Vec::new();
    for board in 0..BOARDS {
        let uuid = format!("GPU-{node:08x}-{board:04x}-28c9-419e-426f98e4aa55");
        let pod = format!("chat-{}-7d9f8b6c5-x{board}", node * BOARDS + board);
        let dcgm = [
            ("UUID", uuid.as_str()),
            ("Hostname", &name),
            ("exported_pod", &pod),
            ("exported_namespace", "llm-production"),
            ("exported_container", "server"),
            ("pod", "nvidia-dcgm-exporter-x7k2p"),
            ("namespace", "gpu-operator"),
            ("container", "nvidia-dcgm-exporter"),
            ("service", "nvidia-dcgm-exporter"),
            ("job", "nvidia-dcgm-exporter"),
            ("endpoint", "gpu-metrics"),
            ("instance", "10.244.100.170:9400"),
            ("gpu", "0"),
            ("device", "nvidia0"),
            ("modelName", "NVIDIA H100 80GB HBM3"),
            ("pci_bus_id", "00000000:1B:00.0"),
            ("DCGM_FI_DRIVER_VERSION", "570.86.15"),
        ];
        let agent = [("node", name.as_str()), ("uuid", &uuid), ("job", "powercap-node"), ("instance", &name)];
        all.push(series("DCGM_FI_DEV_POWER_USAGE", &dcgm, 612.345, at));
        all.push(series("DCGM_FI_DEV_SM_CLOCK", &dcgm, 1755.0, at));
        all.push(series("powercap_agent_gpu_power_watts", &agent, 610.5, at));
        all.push(series("powercap_agent_gpu_clock_megahertz", &agent, 1755.0, at));
        let kepler = [
            ("node_name", name.as_str()),
            ("pod_name", &pod),
            ("pod_namespace", "llm-production"),
            ("pod_id", "1a1d74d3-3a0c-4d5e-9d0e-5f3f7a1f2c11"),
            ("zone", "package"),
            ("state", "running"),
            ("job", "kepler"),
            ("instance", "10.244.100.171:28282"),
        ];
        all.push(series("kepler_pod_cpu_watts", &kepler, 31.5, at));
    }
    let agent = [("node", name.as_str()), ("job", "powercap-node"), ("instance", &name)];
    all.push(series("powercap_agent_node_power_watts", &agent, 6100.0, at));
    all.push(series("powercap_agent_cpu_power_watts", &agent, 420.0, at));
    let kepler = [("node_name", name.as_str()), ("zone", "package"), ("job", "kepler")];
    all.push(series("kepler_node_cpu_watts", &kepler, 400.0, at));
    all
}

fn series(name: &str, labels: &[(&str, &str)], value: f64, at: f64) -> Series {
    let labels = labels.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    Series { name: name.to_owned(), labels, value, at }
}
