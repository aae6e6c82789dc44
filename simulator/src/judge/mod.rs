//! `judge`: a process of its own that records the true power of nodes, and figures made from the record.
//!
//! It reads the truth alone, never a metric of kube-powercap. A node whose simulation stands still is
//! recorded as stalled, without values: an old value repeated would look like a cap that holds.

use std::io::{BufWriter, Write};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context;

pub mod record;
pub mod score;

use record::{Sample, Watcher};

/// Flags of `judge`.
#[derive(Debug, clap::Args)]
pub struct Flags {
    /// Hardware folders, one a node
    #[arg(long, required = true, num_args = 1..)]
    hardware: Vec<PathBuf>,
    /// File for the record, a JSON object a line
    #[arg(long)]
    out: PathBuf,
    /// How often to look
    #[arg(long, default_value_t = 50)]
    period_ms: u64,
}

/// Records until SIGTERM.
///
/// # Errors
/// When a folder has no truth, or the record cannot be written.
pub async fn run(flags: Flags) -> anyhow::Result<()> {
    let mut watchers = Vec::new();
    for folder in &flags.hardware {
        watchers.push(Watcher::new(folder).with_context(|| format!("judge {}", folder.display()))?);
    }
    let file = std::fs::File::create(&flags.out)
        .with_context(|| format!("write {}: pick another --out", flags.out.display()))?;
    let mut out = BufWriter::new(file);
    let mut looks = tokio::time::interval(Duration::from_millis(flags.period_ms.max(5)));
    looks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
    let stop = crate::stop::asked();
    tokio::pin!(stop);
    tracing::info!(nodes = watchers.len(), out = %flags.out.display(), "the judge watches");
    loop {
        tokio::select! {
            asked = &mut stop => {
                asked?;
                return out.flush().context("write the record");
            }
            _ = looks.tick() => {
                let wall_us = record::wall_us();
                let sample = Sample { wall_us, nodes: watchers.iter_mut().map(|watcher| watcher.look(wall_us)).collect() };
                serde_json::to_writer(&mut out, &sample)?;
                out.write_all(b"\n").and_then(|()| out.flush()).context("write the record")?;
            }
        }
    }
}
