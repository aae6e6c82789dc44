//! How long one decision takes for a thousand nodes of eight boards, 10,000 pods and 200 policies, and what a
//! node costs in a fleet eight times as large: writes rows of bench.json. The world is the tests' own:
//! objects, readings and acknowledgements in memory.
//!
//! Run it with `--release`: `cargo run --release -p powercap-recommender --example decide_at_scale -- FILE`.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a program for developers alone")]

#[path = "../tests/world/mod.rs"]
#[allow(dead_code, reason = "the tests need more of it")]
mod world;

use std::{
    io::Write,
    sync::Arc,
    time::{Duration, Instant},
};

use powercap_recommender::{decide::decide, model::history::Past, observation::ContainerFacts};
use serde_json::{Value, json};
use world::World;

const BOARDS: usize = 8;
const BOARDS_PER_POLICY: usize = 40;
/// Pods without a board, for each node.
const OTHERS: usize = 2;
/// Decisions that are timed; the median counts.
const TIMES: usize = 10;
/// A cycle is 5 s; a decision should be a small part of it.
const GOAL_MS: f64 = 100.0;
const GOAL_GROWTH: f64 = 1.5;

fn main() -> std::io::Result<()> {
    let file = std::env::args().nth(1);
    let (thousand, eight) = (median(1000), median(8000));
    let growth = eight.as_secs_f64() / 8.0 / thousand.as_secs_f64();
    let rows = json!([
        row("decide_1000_nodes_ms", thousand.as_secs_f64() * 1e3, "ms", GOAL_MS),
        row("decide_growth", growth, "ratio", GOAL_GROWTH),
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

/// The median time of a decision after a cut of the cap: every node gets a new grant.
fn median(nodes: usize) -> Duration {
    let mut world = fleet(nodes);
    world.settle();
    // The decision of a minute also takes down what every pod uses.
    world.read_again(60);
    let cap = u32::try_from(nodes).unwrap() * 4_000;
    world.rack(cap);
    let mut times: Vec<_> = (0..TIMES)
        .map(|_| {
            let began = Instant::now();
            let plan = decide(&world.observation, world.now);
            let took = began.elapsed();
            assert_eq!(plan.nodes.len(), nodes, "the cut reaches every node");
            took
        })
        .collect();
    times.sort_unstable();
    times[TIMES / 2]
}

fn fleet(nodes: usize) -> World {
    let mut world = World::of_nodes(nodes);
    world.rack(u32::try_from(nodes).unwrap() * 6_000);
    for board in 0..nodes * BOARDS {
        let (node, app) = (format!("n{}", board / BOARDS), format!("app{}", board / BOARDS_PER_POLICY));
        if board % BOARDS_PER_POLICY == 0 {
            world.policy(&app, 16_000, "Enforce");
        }
        let pod = world.pod(&format!("pod{board}"), &app, &node);
        world.gpu(&format!("GPU-{board}"), &node, &[&pod], 500, 1500);
    }
    for other in 0..nodes * OTHERS {
        world.pod(&format!("other{other}"), &format!("other{}", other % 100), &format!("n{}", other % nodes));
    }
    for pod in world.observation.pods.iter_mut().map(Arc::make_mut) {
        pod.containers = vec![ContainerFacts { name: "server".to_owned(), gpus: pod.gpus, ..Default::default() }];
    }
    Arc::make_mut(&mut world.observation.telemetry.history).past = Past::Read;
    for node in 0..nodes {
        world.cpu(&format!("n{node}"), 200);
    }
    world
}
