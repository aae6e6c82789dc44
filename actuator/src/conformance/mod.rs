//! The conformance role: one suite for simulation and silicon, which tells whether boards and CPUs do
//! what the agent relies on.
//!
//! ```text
//!  devices, files ──measure──▶ measured ──judge (pure)──▶ findings ──▶ report
//! ```
//!
//! What must hold: without `--write` nothing is changed; with it nothing is raised, and everything is
//! put back; an agent and this suite never write the same boards.

pub mod catalogue;
pub mod finding;
pub mod judge;
pub mod measure;
pub mod measured;
pub mod report;
pub mod series;
mod suite;

use std::{
    fs::{File, TryLockError},
    io::{self, Write},
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};

use crate::flags::ConformanceFlags;
use measure::{Pending, Stop};
use report::Report;

/// After Ctrl-C, what was changed is put back within this time, unless a driver does not answer.
const PUTTING_BACK: Duration = Duration::from_secs(10);

/// The suite could not be run.
#[derive(Debug, thiserror::Error)]
pub enum ConformanceError {
    /// An agent may write the same devices.
    #[error("an agent holds {path}: stop it first, or leave --write away")]
    AgentRuns {
        /// Its lock.
        path: PathBuf,
    },
    /// Nobody could tell whether an agent runs.
    #[error("the node's lock {path} cannot be taken")]
    TakeLock {
        /// The lock.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Somebody would lose speed.
    #[error("board {index} is in use ({by}): free it, or give --force, or leave --write away")]
    InUse {
        /// NVML's index.
        index: u32,
        /// How that shows.
        by: String,
    },
    /// The report cannot be written.
    #[error("the report cannot be written to {path}")]
    WriteReport {
        /// Where to.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Nobody hears.
    #[error("standard output takes no text")]
    Print(#[source] io::Error),
    /// It was asked to end, and a driver did not answer.
    #[error("a driver did not answer after the suite was asked to end: look at limits and locks by hand")]
    Hangs,
}

/// Runs the suite and prints what it found: 0 when all passed, 1 when a check failed, 2 when it could not
/// be run to its end.
pub async fn run(flags: ConformanceFlags) -> ExitCode {
    match outcome(flags).await {
        Ok(None) => ExitCode::SUCCESS,
        Ok(Some(report)) if report.interrupted() => ExitCode::from(2),
        Ok(Some(report)) => ExitCode::from(u8::from(!report.passed())),
        Err(error) => {
            let cause = std::error::Error::source(&error).map(ToString::to_string);
            tracing::error!(%error, cause, "the conformance suite could not be run");
            ExitCode::from(2)
        }
    }
}

async fn outcome(flags: ConformanceFlags) -> Result<Option<Report>, ConformanceError> {
    if flags.list {
        report::list(&mut io::stdout().lock()).map_err(ConformanceError::Print)?;
        return Ok(None);
    }
    // Held to the end, so that an agent that is started meanwhile waits.
    let _lock = if flags.write { take(&flags.journal.with_extension("lock"))? } else { None };
    let holdings = measure::node::holdings(&flags.pod_resources_socket).await;
    let stop = Stop::default();
    let (sender, mut finished) = tokio::sync::oneshot::channel();
    let suite = Pending::begin({
        let (flags, stop) = (flags.clone(), stop.clone());
        move || {
            let report = suite::run(&flags, holdings, &stop);
            // Nobody waits when the process is ending.
            let _unheard = sender.send(());
            report
        }
    });
    let patience = tokio::select! {
        _ = &mut finished => Duration::ZERO,
        () = powercap_process::shutdown_signal() => {
            tracing::info!("putting back what was changed");
            stop.ask();
            PUTTING_BACK
        }
    };
    if !patience.is_zero() {
        let _late = tokio::time::timeout(patience, finished).await;
    }
    let report = suite.by(std::time::Instant::now() + Duration::from_secs(1)).ok_or(ConformanceError::Hangs)??;
    report.print(&mut io::stdout().lock()).map_err(ConformanceError::Print)?;
    if let Some(path) = &flags.output {
        save(&report, path).map_err(|source| ConformanceError::WriteReport { path: path.clone(), source })?;
    }
    Ok(Some(report))
}

/// The node's lock; `None` where its folder is not there: no agent has run on this node.
fn take(path: &Path) -> Result<Option<File>, ConformanceError> {
    if path.parent().is_none_or(|folder| !folder.is_dir()) {
        return Ok(None);
    }
    let failed = |source| ConformanceError::TakeLock { path: path.to_owned(), source };
    let file = File::options().write(true).create(true).truncate(false).open(path).map_err(failed)?;
    match file.try_lock() {
        Ok(()) => Ok(Some(file)),
        Err(TryLockError::WouldBlock) => Err(ConformanceError::AgentRuns { path: path.to_owned() }),
        Err(TryLockError::Error(source)) => Err(failed(source)),
    }
}

fn save(report: &Report, path: &Path) -> io::Result<()> {
    let mut file = File::create(path)?;
    serde_json::to_writer_pretty(&mut file, report)?;
    file.write_all(b"\n")
}
