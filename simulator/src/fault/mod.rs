//! `fault`: makes a board, the NVML library or a CPU's control misbehave, or well again; once, or by a script.
//!
//! The words are the same on the command line and in a script, and each says all that is wrong with
//! its target: words that are left out are faults that are lifted.
//!
//! What must hold: a script is checked as a whole before its first step is done.

mod script;
mod words;

use std::path::{Component, Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use powercap_simulated_hardware::folder::{DEFAULT_ROOT, ROOT_VARIABLE};
use powercap_simulated_hardware::record::RecordFile;
use powercap_simulated_hardware::{Fault, Root, tree_fault};

pub use script::{Script, ScriptError, Step};
pub use words::{Code, ControlFault, Symbol, Target, Words};

/// Flags of `fault`. Without a kind of fault, the target is well again.
#[derive(Debug, clap::Args)]
pub struct Flags {
    /// Folder that holds the node's hardware
    #[arg(long, env = ROOT_VARIABLE, default_value = DEFAULT_ROOT)]
    root: PathBuf,
    /// Do the steps of this file instead, each at its time, and end with the last. YAML: a list of the
    /// flags below without their dashes, each with `at-seconds`, as in
    /// `[{at-seconds: 10, board: 0, write-code: NO_PERMISSION}, {at-seconds: 20, board: 0}]`
    #[arg(long, value_name = "FILE", conflicts_with_all = ["uuid", "board", "library", "control"])]
    script: Option<PathBuf>,
    #[command(flatten)]
    words: Words,
}

/// Sets the fault, or does the script, and returns.
///
/// # Errors
/// When the target is not there or the script says nothing that can be done.
pub fn run(flags: &Flags) -> anyhow::Result<()> {
    let root = Root::new(&flags.root);
    let Some(path) = &flags.script else {
        return carry_out(&root, &flags.words);
    };
    let text = std::fs::read_to_string(path).with_context(|| format!("read {}", path.display()))?;
    let script: Script = text.parse().with_context(|| format!("understand {}", path.display()))?;
    let start = Instant::now();
    for Step { at, words } in script.steps() {
        std::thread::sleep((start + *at).saturating_duration_since(Instant::now()));
        carry_out(&root, words)?;
    }
    Ok(())
}

fn carry_out(root: &Root, words: &Words) -> anyhow::Result<()> {
    let target = words.target()?;
    let fault = words.fault();
    match &target {
        Target::Uuid(uuid) => set(root, uuid, fault, words.for_seconds())?,
        Target::Board(index) => {
            let boards = root.boards()?;
            let board = boards.iter().find(|(identity, _)| identity.index == *index);
            let (identity, _) = board.with_context(|| format!("board is {index}: no such board is on this node"))?;
            set(root, &identity.uuid, fault, words.for_seconds())?;
        }
        Target::Control(path) => {
            let control = control(root, path)?;
            let done = match words.control_fault() {
                Some(fault) => tree_fault::spoil(&control, fault),
                None => tree_fault::mend(&control),
            };
            done.with_context(|| format!("change {}", control.display()))?;
            if let Some(time) = words.for_seconds() {
                std::thread::sleep(time);
                tree_fault::mend(&control).with_context(|| format!("mend {}", control.display()))?;
            }
        }
        Target::Library => {
            write(root.library_fault()?, fault)?;
            if let Some(time) = words.for_seconds() {
                // No daemon watches over the library: its time is up when this program says so.
                std::thread::sleep(time);
                write(root.library_fault()?, Fault::default())?;
            }
        }
    }
    tracing::info!(?target, ?fault, "the fault is set");
    Ok(())
}

/// Where that control is. It may not be there: that is one of its faults.
fn control(root: &Root, path: &Path) -> anyhow::Result<PathBuf> {
    let trees = [root.cpufreq_path(), root.powercap_path()];
    let plain = path.components().all(|part| matches!(part, Component::Normal(_)));
    let found =
        trees.into_iter().map(|tree| tree.join(path)).find(|control| control.parent().is_some_and(Path::is_dir));
    match found {
        Some(control) if plain => Ok(control),
        _ => bail!(
            "control is {}: name one of the cpufreq or powercap tree, e.g. policy0/scaling_max_freq",
            path.display()
        ),
    }
}

fn set(root: &Root, uuid: &str, fault: Fault, time: Option<Duration>) -> anyhow::Result<()> {
    let board = root.board(uuid);
    let fault = match time {
        Some(time) => fault.lasting(time.as_secs_f64(), board.state()?.read()?.uptime_seconds),
        None => fault,
    };
    Ok(write(board.fault()?, fault)?)
}

fn write(mut record: RecordFile<Fault>, fault: Fault) -> Result<(), powercap_simulated_hardware::record::RecordError> {
    record.update(|present| *present = fault)
}
