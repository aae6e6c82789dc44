//! How long one round of questions takes, from the queries to the readings, of a thousand nodes of eight
//! boards that DCGM exporter, Kepler and node agents tell of: writes a row of bench.json. Prometheus's answers
//! are ready; they are sent over a real socket.
//!
//! Run it with `--release`: `cargo run --release -p powercap-recommender --example observe_at_scale -- FILE`.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a program for developers alone")]

mod fleet;
#[path = "../tests/prometheus/mod.rs"]
#[allow(dead_code, reason = "the tests need more of it")]
mod prometheus;

use std::{
    io::Write,
    time::{Duration, Instant},
};

use fleet::{BOARDS, exported};
use jiff::{SignedDuration, Timestamp};
use powercap_recommender::{
    metrics::Metrics,
    observe::{
        names::Names,
        prometheus::{Access, Prometheus},
        telemetry::{Inquiry, LatestTelemetry},
    },
};
use prometheus::Server;
use serde_json::json;

const NODES: usize = 1000;
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
