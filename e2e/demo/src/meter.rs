//! Reads what the judge writes: true power, by a process of its own.

use std::{
    collections::VecDeque,
    fs::File,
    io::{BufRead, BufReader},
    path::PathBuf,
};

use anyhow::{Context, Result};
use powercap_simulated_hardware::{NodeSpec, Root};
use powercap_simulator::judge::record::{NodePower, Sample};

/// A node's true power, mean of the last second.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Reading {
    pub(crate) node: String,
    pub(crate) ac_watts: f64,
    pub(crate) boards: Vec<Board>,
}

/// What a board truly does: means of the last second, and its clock now.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Board {
    pub(crate) uuid: String,
    pub(crate) watts: f64,
    pub(crate) clock_mhz: u32,
    /// Work a second, 1 at full speed.
    pub(crate) work: f64,
}

/// Follows the judge's record while it grows.
pub(crate) struct Tail {
    path: PathBuf,
    hardware: Vec<NodeSpec>,
    reader: Option<BufReader<File>>,
    line: String,
    last_second: VecDeque<Sample>,
}

impl Tail {
    /// Of the record at `path`, of nodes with these folders of hardware.
    pub(crate) fn new(path: PathBuf, folders: &[PathBuf]) -> Result<Self> {
        let hardware = folders.iter().map(|folder| Root::new(folder).node().context("read what a node is"));
        let hardware = hardware.collect::<Result<_>>()?;
        Ok(Self { path, hardware, reader: None, line: String::new(), last_second: VecDeque::new() })
    }

    /// Takes in what was written since the last call.
    pub(crate) fn read(&mut self) -> Result<()> {
        if self.reader.is_none() {
            let Ok(file) = File::open(&self.path) else { return Ok(()) };
            self.reader = Some(BufReader::new(file));
        }
        let Some(reader) = &mut self.reader else { return Ok(()) };
        while reader.read_line(&mut self.line).context("read the judge's record")? > 0 {
            if !self.line.ends_with('\n') {
                break;
            }
            let sample: Sample = serde_json::from_str(&self.line).context("read the judge's record")?;
            self.line.clear();
            let oldest = sample.wall_us.saturating_sub(1_000_000);
            self.last_second.push_back(sample);
            while self.last_second.len() > 2 && self.last_second.get(1).is_some_and(|second| second.wall_us <= oldest) {
                self.last_second.pop_front();
            }
        }
        Ok(())
    }

    /// Means of the last second, and when it ended (microseconds since 1970). Nodes whose simulation
    /// stands still are left out: they have no power, not zero power.
    pub(crate) fn readings<'a>(&'a self) -> Option<(u64, Vec<Reading>)> {
        let last = self.last_second.back()?;
        let readings = self.hardware.iter().filter_map(|node| {
            let of_node =
                |sample: &'a Sample| sample.nodes.iter().find(|other| other.node == node.node)?.power.as_ref();
            let second: Option<Vec<_>> = self.last_second.iter().map(of_node).collect();
            reading(node, &second?)
        });
        Some((last.wall_us, readings.collect()))
    }
}

/// The means of a node, of what the judge saw of it in the last second.
fn reading(node: &NodeSpec, second: &[&NodePower]) -> Option<Reading> {
    let (before, after) = (second.first()?, second.last()?);
    #[expect(clippy::cast_precision_loss, reason = "a few seconds in microseconds")]
    let seconds = after.stamped_us.checked_sub(before.stamped_us).filter(|passed| *passed > 0)? as f64 / 1e6;
    #[expect(clippy::cast_precision_loss, reason = "the samples of a second")]
    let looks = second.len() as f64;
    let board = |index: u32| {
        let at = usize::try_from(index).ok()?;
        Some(Board {
            uuid: node.uuid(index),
            watts: second.iter().filter_map(|power| power.board_watts.get(at)).sum::<f64>() / looks,
            clock_mhz: *after.clock_mhz.get(at)?,
            work: (after.work_seconds.get(at)? - before.work_seconds.get(at)?) / seconds,
        })
    };
    Some(Reading {
        node: node.node.clone(),
        ac_watts: (after.ac_joules - before.ac_joules) / seconds,
        boards: (0..node.boards).filter_map(board).collect(),
    })
}

#[cfg(test)]
mod tests {
    use powercap_simulated_hardware::BoardSpec;

    use super::*;

    #[test]
    fn a_mean_is_energy_over_time() {
        let node = NodeSpec::new("n1", 2, BoardSpec::h100_sxm());
        let before = NodePower {
            stamped_us: 1_000_000,
            ac_joules: 100.0,
            board_watts: vec![400.0, 100.0],
            work_seconds: vec![1.0, 1.0],
            ..Default::default()
        };
        let after = NodePower {
            stamped_us: 2_000_000,
            ac_joules: 700.0,
            board_watts: vec![500.0, 100.0],
            work_seconds: vec![2.0, 1.5],
            clock_mhz: vec![1980, 900],
            ..Default::default()
        };
        let reading = reading(&node, &[&before, &after]).unwrap();
        assert_eq!((reading.node.as_str(), reading.ac_watts), ("n1", 600.0));
        let expected = [(0, 450.0, 1980, 1.0), (1, 100.0, 900, 0.5)];
        let boards =
            expected.map(|(index, watts, clock_mhz, work)| Board { uuid: node.uuid(index), watts, clock_mhz, work });
        assert_eq!(reading.boards, boards);
        assert_eq!(super::reading(&node, &[&before, &before]), None);
    }
}
