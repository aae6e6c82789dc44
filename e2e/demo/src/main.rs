//! What `make demo` runs inside its cluster: deploys kube-powercap and two workloads by kustomize, plays
//! a script of events, shows power against cap, and judges the run by the simulator's true power.
//!
//! ```text
//! deploy ─▶ wait until all runs ─▶ play (`script.rs`): load up, cap down, a late pod, a brake, cap released ─▶ figures
//!                                    │ judge (a process of its own) writes true power ─────────────▲
//! ```
#![forbid(unsafe_code)]

mod figures;
mod ladder;
mod meter;
mod picture;
mod play;
mod script;
mod surroundings;
mod view;
mod watch;
mod why;

use std::{io::Write, path::PathBuf, process::ExitCode, time::Duration};

use anyhow::{Context, Result};
use clap::Parser;
use powercap_e2e::{cluster::existing, deployment::Deployment};
use powercap_simulator::judge::score::score;

use crate::play::Play;

/// Deploy kube-powercap to the cluster of `cluster run`, watch a power cap being held, and judge it
#[derive(Parser)]
#[command(version, max_term_width = 100)]
pub(crate) struct Flags {
    /// Play for this long without a screen, then print the figures; without it, until q or Ctrl-C
    #[arg(long)]
    seconds: Option<u64>,
    /// Leave out a component, such as actuator: the negative control, which must fail
    #[arg(long, value_name = "COMPONENT")]
    without: Vec<String>,
    /// Folder for demo.json's parts: the judge's record, logs, pictures
    #[arg(long, default_value = "target/demo")]
    pub(crate) out: PathBuf,
    /// The figures
    #[arg(long, default_value = "target/demo.json")]
    figures: PathBuf,
    /// The repository's manifests
    #[arg(long, default_value = "manifests")]
    manifests: PathBuf,
    /// The program that judges and sends requests
    #[arg(long, default_value = "target/release/powercap-simulator")]
    pub(crate) simulator: PathBuf,
    /// The command that people ask
    #[arg(long, default_value = "target/release/kubectl-powercap")]
    pub(crate) powercap: PathBuf,
    /// When the whole command began, in seconds since 1970, to say how long it took until the cap held
    #[arg(long, value_name = "UNIX_SECONDS")]
    pub(crate) began: Option<i64>,
}

/// The exit status when the cap did not hold, to tell that from a demo that could not run.
const NOT_HELD: u8 = 2;

fn main() -> ExitCode {
    match run(&Flags::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(NOT_HELD),
        Err(error) => {
            say(&format!("demo: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

#[tokio::main(flavor = "current_thread")]
async fn run(flags: &Flags) -> Result<bool> {
    powercap_process::install_tls_provider();
    std::fs::create_dir_all(&flags.out).with_context(|| format!("create {}", flags.out.display()))?;
    let client = kube::Client::try_from(existing::config().await?).context("make a client for the cluster")?;

    say("deploying with kubectl apply -k manifests/overlays/demo");
    let deployment = Deployment { manifests: flags.manifests.clone(), without: flags.without.clone() };
    deployment.apply().await?;
    powercap_e2e::deployment::wait_until_running(&client, say).await?;

    let length = flags.seconds.map(Duration::from_secs);
    let play = Play::start(&client, deployment, flags, length).await?;
    let played = play.run().await?;

    let samples = figures::read_record(&played.record)?;
    let score = score(&samples, &played.events);
    let rows = figures::figures(&score, &played.events, played.ready_seconds, played.rungs_missed);
    powercap_e2e::figures::write(&flags.figures, &rows)?;
    picture::draw(&samples, &played.events, &played.rungs, &flags.out.join("demo.svg"))?;
    say(&format!("\n{}", powercap_e2e::figures::table(&rows)));
    say(&format!("figures: {}, picture: {}", flags.figures.display(), flags.out.join("demo.svg").display()));
    let held = rows.iter().all(|row| row.holds);
    say(if held { "the cap held" } else { "the cap did NOT hold" });
    Ok(held)
}

/// A line for people.
fn say(text: &str) {
    let _unseen = writeln!(std::io::stdout().lock(), "{text}");
}
