//! What a review costs, beside the admission controller of the Vertical Pod Autoscaler: both against the same API
//! server with 1,000 objects each, asked for the same pods by the same client over TLS on loopback, in turn. Writes
//! rows of bench.json.
//!
//! Runs in a control plane without nodes: `make bench-peers`, or without the peer
//! `cluster run --nodes 0 -- target/release/examples/measure_reviews --figures FILE`.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stderr,
    clippy::cast_precision_loss,
    reason = "a program for developers alone"
)]

mod load;
#[path = "../../tests/served/mod.rs"]
#[allow(dead_code, reason = "the tests need more of it")]
mod served;
mod server;
mod world;

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use clap::Parser;
use serde_json::{Value, json};

use self::{
    load::Load,
    served::review_of,
    server::Server,
    world::{POD_BYTES, pods},
};

/// The goals.
const GOALS: [(&str, f64); 5] = [
    ("admission_cpu_vs_vpa", 0.2),
    ("admission_p99_vs_vpa", 0.3),
    ("admission_rss_vs_vpa", 0.2),
    ("admission_start_vs_vpa", 0.3),
    ("admission_rss_mib", 15.0),
];
const PACED_P99_MS: f64 = 2.0;
const STREAMS: usize = 32;
const GROWS_AT_MOST: f64 = 1.05;
const TIMES: usize = 5;
const REQUESTS: usize = 20_000;
const PACED_SECONDS: u64 = 15;

/// Measure admission, and beside it the Vertical Pod Autoscaler's
#[derive(Parser)]
struct Flags {
    /// The rows; those of other names that are there stay
    #[arg(long, default_value = "target/bench.json")]
    figures: PathBuf,
    /// Our binary
    #[arg(long, default_value = "target/release/powercap-admission")]
    admission: PathBuf,
    /// The peer's binary; without it ours is measured alone
    #[arg(long)]
    vpa: Option<PathBuf>,
    /// So many reviews of one process of ours, instead of the rows: what it holds must not grow
    #[arg(long, value_name = "NUMBER")]
    reviews: Option<usize>,
    /// The peer's CustomResourceDefinitions
    #[arg(long)]
    vpa_definitions: Option<PathBuf>,
}

/// What was seen of one server.
#[derive(Clone, Copy, Debug)]
struct Seen {
    start_ms: f64,
    rest_mib: f64,
    load_mib: f64,
    cpu_s: f64,
    p50_ms: f64,
    p99_ms: f64,
    per_second: f64,
    paced_p99_ms: f64,
}

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let flags = Flags::parse();
    powercap_process::install_tls_provider();
    let client = kube::Client::try_default().await.expect("run it in `cluster run --nodes 0`");
    world::fill(&client, flags.vpa_definitions.as_deref()).await;
    let reviews: Arc<Vec<_>> = Arc::new(pods().iter().map(|pod| review_of(pod).to_string().into()).collect());
    eprintln!("1,000 pods of {POD_BYTES} bytes and more, {STREAMS} streams over one connection");

    if let Some(many) = flags.reviews {
        return endure(&flags.admission, many, &reviews).await;
    }
    let ours = measure(|folder| Server::ours(&flags.admission, folder), "/mutate", &reviews).await;
    eprintln!("ours: {ours:#?}");
    let mut rows = vec![
        row("admission_p99_ms", ours.paced_p99_ms, "ms", Some(PACED_P99_MS)),
        goal("admission_rss_mib", ours.rest_mib, "MiB"),
        row("admission_load_rss_mib", ours.load_mib, "MiB", None),
        row("admission_cpu_ms", ours.cpu_s * 1e3, "ms/1000", None),
        row("admission_p50_ms", ours.p50_ms, "ms", None),
        row("admission_reviews", ours.per_second, "1/s", None),
        row("admission_start_ms", ours.start_ms, "ms", None),
    ];
    if let Some(vpa) = &flags.vpa {
        let theirs = measure(|folder| Server::vpa(vpa, folder), "/", &reviews).await;
        eprintln!("theirs: {theirs:#?}");
        rows.extend([
            goal("admission_cpu_vs_vpa", ours.cpu_s / theirs.cpu_s, "ratio"),
            goal("admission_p99_vs_vpa", ours.p99_ms / theirs.p99_ms, "ratio"),
            goal("admission_rss_vs_vpa", ours.load_mib / theirs.load_mib, "ratio"),
            goal("admission_start_vs_vpa", ours.start_ms / theirs.start_ms, "ratio"),
        ]);
    }
    for row in &rows {
        eprintln!("{row}");
    }
    merge(&flags.figures, rows);
}

/// Puts rows into a file of rows, in the place of earlier ones of the same names.
fn merge(file: &Path, rows: Vec<Value>) {
    let before = std::fs::read_to_string(file).unwrap_or_else(|_| "[]".to_owned());
    let mut all: Vec<Value> = serde_json::from_str(&before).expect("a list of rows");
    all.retain(|before| rows.iter().all(|row| row["name"] != before["name"]));
    all.extend(rows);
    std::fs::write(file, serde_json::to_string_pretty(&all).unwrap() + "\n").unwrap();
}

async fn measure(start: impl Fn(&Path) -> Server, path: &str, reviews: &Arc<Vec<hyper::body::Bytes>>) -> Seen {
    let mut starts = Vec::new();
    for _ in 1..TIMES {
        let folder = tempfile::tempdir().unwrap();
        starts.push(start(folder.path()).first_answer(path, &reviews[0]).await.0);
    }
    let folder = tempfile::tempdir().unwrap();
    let server = start(folder.path());
    let (took, connection) = server.first_answer(path, &reviews[0]).await;
    starts.push(took);
    tokio::time::sleep(Duration::from_secs(5)).await;
    let rest_mib = server.resident_mib("VmRSS:");
    let load = Load { connection, path: path.to_owned(), reviews: Arc::clone(reviews), streams: STREAMS };
    let paced = load.paced(1000, Duration::from_secs(PACED_SECONDS)).await;
    let mut runs = Vec::new();
    for _ in 0..TIMES {
        let before = server.processor();
        let run = load.unpaced(REQUESTS).await;
        let cpu = (server.processor() - before).as_secs_f64() * 1000.0 / REQUESTS as f64;
        runs.push((cpu, run.quantile_ms(0.5), run.quantile_ms(0.99), REQUESTS as f64 / run.took.as_secs_f64()));
    }
    let median_of = |value: fn(&(f64, f64, f64, f64)) -> f64| median(runs.iter().map(value).collect());
    Seen {
        start_ms: median(starts.iter().map(|took| took.as_secs_f64() * 1e3).collect()),
        rest_mib,
        load_mib: server.resident_mib("VmHWM:"),
        cpu_s: median_of(|run| run.0),
        p50_ms: median_of(|run| run.1),
        p99_ms: median_of(|run| run.2),
        per_second: median_of(|run| run.3),
        paced_p99_ms: paced.quantile_ms(0.99),
    }
}

/// Shows what one process holds after each tenth of so many reviews: from the first tenth on, the most is within
/// [`GROWS_AT_MOST`] of the least.
async fn endure(program: &Path, many: usize, reviews: &Arc<Vec<hyper::body::Bytes>>) {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::ours(program, folder.path());
    let (_, connection) = server.first_answer("/mutate", &reviews[0]).await;
    let load = Load { connection, path: "/mutate".to_owned(), reviews: Arc::clone(reviews), streams: STREAMS };
    let mut held = Vec::new();
    for tenth in 1..=10 {
        let run = load.unpaced(many / 10).await;
        held.push(server.resident_mib("VmRSS:"));
        let (reviews, took) = (many / 10 * tenth, run.took.as_secs_f64());
        eprintln!("{reviews} reviews: {:.2} MiB; the last tenth in {took:.1} s", held[tenth - 1]);
    }
    let (least, most) = held.iter().fold((f64::MAX, 0.0_f64), |(least, most), now| (least.min(*now), most.max(*now)));
    assert!(most <= least * GROWS_AT_MOST, "from {least:.2} to {most:.2} MiB");
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn goal(name: &str, value: f64, unit: &str) -> Value {
    row(name, value, unit, GOALS.iter().find(|(goal, _)| *goal == name).map(|(_, most)| *most))
}

fn row(name: &str, value: f64, unit: &str, most: Option<f64>) -> Value {
    let value = (value * 100.0).round() / 100.0;
    let goal = most.map(|most| if most == 0.0 { "= 0".to_owned() } else { format!("≤ {most}") });
    json!({"name": name, "value": value, "unit": unit, "goal": goal, "holds": most.is_none_or(|most| value <= most)})
}
