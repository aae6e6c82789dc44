//! `workload train`: a training job with a rank on each of its boards.
//!
//! ```text
//! step: compute (dense; ends when the SLOWEST rank is done) ─▶ all-reduce (low power, a fixed time) ─▶ …
//! ```
//! What must hold: a slow board slows all ranks; progress comes from the boards' own work counters, so
//! a lower clock means fewer steps a second.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use axum::Router;
use axum::routing::get;
use powercap_simulated_hardware::Load;
use tokio::sync::watch;

use super::BoardFlags;
use super::boards::{HeldBoard, held, release};
use crate::exporters::exposition::Page;

const TICK: Duration = Duration::from_millis(25);
const MEMORY_USED_MIB: u64 = 70_000;

/// Flags of `workload train`.
#[derive(Debug, clap::Args)]
pub struct Flags {
    #[command(flatten)]
    boards: BoardFlags,
    /// Length of a step at full clock
    #[arg(long, default_value_t = 2.0)]
    step_seconds: f64,
    /// Part of a step that is all-reduce: its power is low and its time does not depend on the clock
    #[arg(long, default_value_t = 10.0)]
    all_reduce_percent: f64,
    /// Part of the compute that is bound by memory
    #[arg(long, default_value_t = 10.0)]
    memory_percent: f64,
    /// Stop after that many steps; 0 goes on until SIGTERM
    #[arg(long, default_value_t = 0)]
    steps: u64,
    /// Address to serve /metrics and /health on; none without this
    #[arg(long)]
    listen: Option<SocketAddr>,
}

/// Where a step is.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Phase {
    /// The ranks' work counters at its start.
    Compute,
    /// Until then.
    AllReduce(Instant),
}

/// Trains until SIGTERM, or until the steps are done.
///
/// # Errors
/// When the boards cannot be found or the address not be listened on.
pub async fn run(flags: Flags) -> anyhow::Result<()> {
    let mut boards = held(&flags.boards)?;
    tracing::info!(ranks = boards.len(), step_seconds = flags.step_seconds, "training begins");
    let (progress, seen) = watch::channel((0u64, 0.0f64));
    let serving = serve(flags.listen, seen);
    let trained = tokio::select! {
        trained = train(&flags, &mut boards, &progress) => trained,
        served = serving => served,
        asked = crate::stop::asked() => asked.context("watch signals"),
    };
    release(&mut boards);
    tracing::info!(steps = progress.borrow().0, "training ends");
    trained
}

async fn train(flags: &Flags, boards: &mut [HeldBoard], progress: &watch::Sender<(u64, f64)>) -> anyhow::Result<()> {
    let reduce_share = (flags.all_reduce_percent / 100.0).clamp(0.0, 0.9);
    let compute_seconds = flags.step_seconds.max(0.05) * (1.0 - reduce_share);
    let reduce = Duration::from_secs_f64(flags.step_seconds.max(0.05) * reduce_share);
    let memory_share = (flags.memory_percent / 100.0).clamp(0.0, 1.0);
    let mut starts = Vec::new();
    for board in boards.iter_mut() {
        starts.push(board.state()?.work_seconds);
    }
    let (mut phase, mut steps) = (Phase::Compute, 0u64);
    let mut ticks = tokio::time::interval(TICK);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
    while flags.steps == 0 || steps < flags.steps {
        ticks.tick().await;
        let mut slowest = f64::INFINITY;
        for (board, start) in boards.iter_mut().zip(&mut starts) {
            let counter = board.state()?.work_seconds;
            // A counter that fell: the board was booted anew, and its rank begins the step again.
            *start = start.min(counter);
            let done = counter - *start;
            slowest = slowest.min(done);
            board.drive(match phase {
                // A rank that is done waits for the others at the power of an all-reduce.
                Phase::Compute if done < compute_seconds => Load { memory_share, ..Load::training(0, MEMORY_USED_MIB) },
                _ => Load::all_reduce(0, MEMORY_USED_MIB),
            })?;
        }
        match phase {
            Phase::Compute if slowest >= compute_seconds => {
                phase = Phase::AllReduce(Instant::now() + reduce);
            }
            Phase::AllReduce(until) if Instant::now() >= until => {
                steps += 1;
                for (board, start) in boards.iter_mut().zip(&mut starts) {
                    *start = board.state()?.work_seconds;
                }
                phase = Phase::Compute;
            }
            _ => {}
        }
        let part = if phase == Phase::Compute { slowest.clamp(0.0, compute_seconds) } else { compute_seconds };
        #[expect(clippy::cast_precision_loss, reason = "a count of steps")]
        let units = steps as f64 * flags.step_seconds + part;
        for board in boards.iter_mut() {
            board.report(units)?;
        }
        progress.send_replace((steps, units));
    }
    Ok(())
}

async fn serve(listen: Option<SocketAddr>, progress: watch::Receiver<(u64, f64)>) -> anyhow::Result<()> {
    let Some(listen) = listen else {
        return std::future::pending().await;
    };
    let metrics = move || {
        let (steps, seconds) = *progress.borrow();
        let mut page = Page::default();
        page.begin("training_steps_total", "counter", "Steps done.");
        page.sample("training_steps_total", &[], &steps.to_string());
        page.begin("training_work_seconds_total", "counter", "Work done, in seconds at full clock.");
        page.sample("training_work_seconds_total", &[], &seconds.to_string());
        let page: Arc<str> = page.finish().into();
        async move { page.to_string() }
    };
    let routes = Router::new().route("/metrics", get(metrics)).route("/health", get(async || "ok\n"));
    let listener = tokio::net::TcpListener::bind(listen).await.with_context(|| format!("listen on {listen}"))?;
    axum::serve(listener, routes).await.context("serve metrics")
}
