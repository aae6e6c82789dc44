//! `workload`: programs that run in a pod and drive the boards it was given.
//!
//! What must hold: only the boards that the container may see are driven; when the process dies, its
//! load fades within a second (the record's beat stands still).

use powercap_simulated_hardware::folder::{DEFAULT_ROOT, ROOT_VARIABLE};
use std::path::PathBuf;

pub mod batching;
pub mod boards;
pub mod serve;
pub mod train;

/// The programs.
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Train: steps of dense work on all boards, with an all-reduce in between
    Train(train::Flags),
    /// Serve a language model over HTTP
    Serve(serve::Flags),
}

/// Where the boards are.
#[derive(Debug, clap::Args)]
pub struct BoardFlags {
    /// Folder that holds the boards of this container
    #[arg(long, env = ROOT_VARIABLE, default_value = DEFAULT_ROOT)]
    root: PathBuf,
    /// Boards to use: UUIDs with commas, or "all"
    #[arg(long, env = "NVIDIA_VISIBLE_DEVICES", default_value = "all")]
    visible_devices: String,
}

/// Runs until SIGTERM.
///
/// # Errors
/// When the boards cannot be found or the address not be listened on.
pub async fn run(command: Command) -> anyhow::Result<()> {
    match command {
        Command::Train(flags) => train::run(flags).await,
        Command::Serve(flags) => serve::run(flags).await,
    }
}
