//! What `make bench` runs inside a control plane: the node agent against simulated boards and a real API
//! server, and the recommender against the same, measured from outside.
//!
//! ```text
//!  bench ──grant, brake──▶ API server ──watch──▶ agent ──NVML──▶ boards ◀──load── bench
//!    ▲                                      /proc │               │
//!    └──────────────────────────────────────◀─────┴──── records ◀─┘
//! ```
#![forbid(unsafe_code)]

mod cut;
mod measure;
mod node;
mod phases;
mod trace;
mod usage;

use std::{io::Write, path::PathBuf, process::ExitCode, time::Duration};

use anyhow::{Context, Result};
use clap::Parser;
use powercap_e2e::{
    cluster::existing::{self, Choice},
    deployment::Deployment,
    figures::{self, Figure},
    rotation,
};
use powercap_simulated_hardware::Root;

use crate::{
    node::{Node, Programs},
    phases::Bench,
    trace::Recorder,
};

/// Measure the node agent in the control plane of `cluster run`, and write all figures of the bench
#[derive(Parser)]
#[command(version, max_term_width = 100)]
struct Flags {
    /// The figures
    #[arg(long, default_value = "target/bench.json")]
    figures: PathBuf,
    /// Figures that were measured before, to be put into the same file and table
    #[arg(long, value_name = "FILE")]
    merge: Vec<PathBuf>,
    /// Folder for what explains the figures: traces and logs
    #[arg(long, default_value = "target/bench")]
    out: PathBuf,
    /// The repository's manifests
    #[arg(long, default_value = "manifests")]
    manifests: PathBuf,
    /// Where the release binaries are
    #[arg(long, default_value = "target/release")]
    programs: PathBuf,
    /// How many steps of load the reaction is measured with
    #[arg(long, default_value_t = 60)]
    steps: u32,
    /// How long memory and processor time are measured
    #[arg(long, default_value_t = 60)]
    usage_seconds: u64,
}

/// The exit status when a goal was missed, to tell that from a bench that could not run.
const MISSED: u8 = 2;

fn main() -> ExitCode {
    match run(&Flags::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(MISSED),
        Err(error) => {
            say(&format!("bench: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

#[tokio::main(flavor = "current_thread")]
async fn run(flags: &Flags) -> Result<bool> {
    powercap_process::install_tls_provider();
    let mut rows = Vec::new();
    for merged in &flags.merge {
        rows.extend(figures::read(merged)?);
    }
    std::fs::create_dir_all(&flags.out).with_context(|| format!("create {}", flags.out.display()))?;
    tokio::select! {
        measured = measure(flags) => rows.extend(measured?),
        () = powercap_process::shutdown_signal() => anyhow::bail!("stopped by a signal; nothing was written"),
    }
    figures::write(&flags.figures, &rows)?;
    say(&format!("\n{}", figures::table(&rows)));
    say(&format!("figures: {}, traces and logs: {}", flags.figures.display(), flags.out.display()));
    Ok(rows.iter().all(|row| row.holds))
}

async fn measure(flags: &Flags) -> Result<Vec<Figure>> {
    // Only in a cluster of our own is /run a file system that goes with it.
    let cluster = std::env::var(existing::CLUSTER_DIR).ok();
    let Choice::OwnRun(directory) = existing::choose(None, cluster.as_deref())? else {
        anyhow::bail!("the bench runs in a control plane of its own: run `make bench`");
    };
    let client = kube::Client::try_from(existing::config().await?).context("make a client for the cluster")?;
    Deployment { manifests: flags.manifests.clone(), without: Vec::new() }.define().await?;

    let programs = Programs::find(&flags.programs, &flags.out)?;
    let folder = tempfile::Builder::new().prefix("powercap-bench-").tempdir_in("/run").context("make a folder")?;
    let root = Root::new(folder.path());
    let node = Node::start(client.clone(), &programs, &root).await?;
    let recorder = Recorder::start(&root)?;
    let mut bench = Bench::new(node, recorder, flags.out.clone());

    say("the agent takes its grant");
    bench.ready().await?;
    say("full load, three times: settling, calls at once");
    let mut rows = bench.settle(3).await?;
    say(&format!("full load for {} s: memory, processor time, unused watts", flags.usage_seconds));
    rows.extend(bench.steady(Duration::from_secs(flags.usage_seconds)).await?);
    say(&format!("{} steps of load: reaction, calls that take 15 ms", flags.steps));
    rows.extend(bench.react(flags.steps).await?);
    say("the brake, five times, calls that take 15 ms");
    rows.extend(bench.brake(5).await?);
    bench.stop().await?;
    say("a hundred nodes: a cut of their cap, and the same writes without anybody deciding");
    let (recommender, kubeconfig) = (flags.programs.join("powercap-recommender"), directory.join("kubeconfig"));
    rows.extend(cut::cut_vs_writes(client.clone(), &recommender, &kubeconfig, &flags.out).await?);
    say("a hundred rotations of the webhook's certificates, under load");
    rows.extend(rotations(&client).await?);
    Ok(rows)
}

async fn rotations(client: &kube::Client) -> Result<Vec<Figure>> {
    let outcome = rotation::under_load(client, 100).await?;
    if let Some(first) = &outcome.first_failure {
        say(&format!("a call failed: {first}"));
    }
    let count = |count: u64| Some(f64::from(u32::try_from(count).unwrap_or(u32::MAX)));
    Ok(vec![
        Figure::at_most("admission_rotation_failures", count(outcome.failures), "calls", 0.0),
        Figure::reported("admission_rotation_calls", count(outcome.calls), "calls"),
    ])
}

/// A line for people.
fn say(text: &str) {
    let _unseen = writeln!(std::io::stdout().lock(), "{text}");
}
