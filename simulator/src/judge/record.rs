//! The judge's record: what flowed at each node, by wall-clock time.

use std::io::BufRead;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use powercap_simulated_hardware::record::RecordFile;
use powercap_simulated_hardware::{Root, Truth};
use serde::{Deserialize, Serialize};

/// A simulation that does not step for this long has stalled (its step is 5 ms).
const STALLED_US: u64 = 250_000;

/// One look at all nodes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Sample {
    /// When, in microseconds since 1970.
    pub wall_us: u64,
    /// The nodes, in the order of the command line.
    pub nodes: Vec<NodeSample>,
}

/// One node.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct NodeSample {
    /// Its name.
    pub node: String,
    /// True when the simulation stands still or is gone: then there is no power here.
    pub stalled: bool,
    /// What flows, unless stalled.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub power: Option<NodePower>,
}

/// What flows at a node.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct NodePower {
    /// When the simulation wrote it, in microseconds since 1970.
    pub stamped_us: u64,
    /// AC now.
    pub ac_watts: f64,
    /// AC energy since the node's boot.
    pub ac_joules: f64,
    /// CPU packages, DC.
    pub cpu_watts: [f64; 2],
    /// Boards, DC.
    pub board_watts: Vec<f64>,
    /// Boards' clocks.
    pub clock_mhz: Vec<u32>,
    /// Boards' share of time with work, 0 to 1.
    pub utilisation: Vec<f64>,
    /// Boards' work since boot, in seconds at full speed.
    pub work_seconds: Vec<f64>,
    /// Boards' work by the workloads' own counts.
    pub work_units: Vec<f64>,
}

/// Watches one node.
#[derive(Debug)]
pub struct Watcher {
    node: String,
    truth: RecordFile<Truth>,
    last_steps: u64,
    advanced_us: u64,
    stalled: bool,
}

impl Watcher {
    /// Opens a node's truth.
    ///
    /// # Errors
    /// When the folder has none.
    pub fn new(folder: &Path) -> anyhow::Result<Self> {
        let root = Root::new(folder);
        let node = root.node()?.node;
        Ok(Self { node, truth: root.truth()?, last_steps: 0, advanced_us: 0, stalled: false })
    }

    /// Looks once.
    pub fn look(&mut self, wall_us: u64) -> NodeSample {
        let truth = self.truth.read().ok();
        let steps = truth.as_ref().map_or(self.last_steps, |truth| truth.steps);
        if steps != self.last_steps || self.advanced_us == 0 {
            self.advanced_us = wall_us;
            self.last_steps = steps;
        }
        let stalled = truth.is_none() || wall_us.saturating_sub(self.advanced_us) > STALLED_US;
        if stalled && !self.stalled {
            tracing::error!(node = %self.node, "the hardware simulation stands still: its power is unknown");
        }
        self.stalled = stalled;
        let power = truth.as_ref().filter(|_| !stalled).map(power);
        NodeSample { node: self.node.clone(), stalled, power }
    }
}

fn power(truth: &Truth) -> NodePower {
    NodePower {
        stamped_us: truth.wall_us,
        ac_watts: round(truth.ac_watts),
        ac_joules: round(truth.ac_joules),
        cpu_watts: truth.cpu_watts.map(round),
        board_watts: truth.boards.iter().map(|board| round(board.watts)).collect(),
        clock_mhz: truth.boards.iter().map(|board| board.clock_mhz).collect(),
        utilisation: truth.boards.iter().map(|board| round(board.utilisation)).collect(),
        work_seconds: truth.boards.iter().map(|board| round(board.work_seconds)).collect(),
        work_units: truth.boards.iter().map(|board| round(board.work_units)).collect(),
    }
}

/// To a thousandth: the record stays readable.
fn round(value: f64) -> f64 {
    (value * 1000.0).round() / 1000.0
}

#[expect(clippy::disallowed_methods, reason = "the judge stamps its record with the time of day, as events are")]
pub(crate) fn wall_us() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(now.as_micros()).unwrap_or(u64::MAX)
}

/// Reads a record. A last line that was cut off is left out.
///
/// # Errors
/// When a line before the last is not a sample.
pub fn read(from: impl BufRead) -> anyhow::Result<Vec<Sample>> {
    let mut samples = Vec::new();
    let mut broken = None;
    for line in from.lines() {
        if let Some(error) = broken {
            return Err(error);
        }
        match serde_json::from_str(&line?) {
            Ok(sample) => samples.push(sample),
            Err(error) => {
                broken = Some(anyhow::Error::from(error).context("read the judge's record"));
            }
        }
    }
    Ok(samples)
}

#[cfg(test)]
mod tests {
    use powercap_simulated_hardware::daemon::Hardware;
    use powercap_simulated_hardware::{BoardSpec, NodeSpec};

    use super::*;

    #[test]
    fn a_stalled_simulation_is_said_and_its_value_not_repeated() {
        let folder = tempfile::tempdir().unwrap();
        let root = Root::new(folder.path());
        let mut hardware = Hardware::boot(&root, &NodeSpec::new("node-1", 1, BoardSpec::h100_sxm())).unwrap();
        hardware.step(0.005, 1).unwrap();
        let mut watcher = Watcher::new(folder.path()).unwrap();
        assert!(watcher.look(1_000_000).power.is_some());
        assert!(watcher.look(1_200_000).power.is_some());
        let late = watcher.look(1_300_000);
        assert!(late.stalled && late.power.is_none());
        hardware.step(0.005, 2).unwrap();
        assert!(watcher.look(1_350_000).power.is_some());
    }

    #[test]
    fn a_cut_off_line_is_left_out_and_a_broken_one_is_not() {
        let sample = serde_json::to_string(&Sample { wall_us: 1, nodes: Vec::new() }).unwrap();
        assert_eq!(read(format!("{sample}\n{sample}\n{{\"wall").as_bytes()).unwrap().len(), 2);
        assert!(read(format!("{sample}\nno\n{sample}\n").as_bytes()).is_err());
    }
}
