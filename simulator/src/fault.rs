//! `fault`: makes a board misbehave, or well again.

use std::path::PathBuf;

use powercap_simulated_hardware::folder::{DEFAULT_ROOT, ROOT_VARIABLE};
use powercap_simulated_hardware::{Fault, Root};

/// Flags of `fault`. Without a kind of fault, the board is well again.
#[derive(Debug, clap::Args)]
pub struct Flags {
    /// Folder that holds the node's hardware
    #[arg(long, env = ROOT_VARIABLE, default_value = DEFAULT_ROOT)]
    root: PathBuf,
    /// Which board
    #[arg(long)]
    uuid: String,
    /// NVML's answer to every reading of a sensor (15: the GPU is lost); 0 reads
    #[arg(long, default_value_t = 0)]
    read_code: u32,
    /// NVML's answer to every setter (4: no permission); 0 sets
    #[arg(long, default_value_t = 0)]
    write_code: u32,
    /// Setters answer success and change nothing
    #[arg(long)]
    ignore_writes: bool,
}

/// Sets the fault and returns.
///
/// # Errors
/// When the board is not there.
pub fn run(flags: &Flags) -> anyhow::Result<()> {
    let wanted =
        Fault { read_code: flags.read_code, write_code: flags.write_code, ignores_writes: flags.ignore_writes };
    Root::new(&flags.root).board(&flags.uuid).fault()?.update(|fault| *fault = wanted)?;
    tracing::info!(uuid = %flags.uuid, ?wanted, "the board's fault is set");
    Ok(())
}
