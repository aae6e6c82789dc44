//! The two processes beside the demo: the judge, which reads true power, and the clients of the
//! inference workload. The demo reads what they write and never stands in for them.

use std::{
    collections::VecDeque,
    fs::File,
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::Stdio,
};

use anyhow::{Context, Result};
use powercap_simulator::judge::record::{NodePower, Sample};
use tokio::process::{Child, Command};

/// A node's true power and work, means of the last second.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Reading {
    pub(crate) node: String,
    pub(crate) ac_watts: f64,
    /// Lowest and highest clock of its boards.
    pub(crate) clocks_mhz: (u32, u32),
    /// Work a second, in boards at full speed.
    pub(crate) work: f64,
    pub(crate) boards: usize,
}

/// A program of the simulator, ended with SIGTERM and waited for.
pub(crate) struct Beside {
    name: &'static str,
    child: Child,
}

impl Beside {
    /// Starts `powercap-simulator` with these arguments, its log in a file.
    pub(crate) fn start(name: &'static str, program: &Path, arguments: &[String], log: &Path) -> Result<Self> {
        let log = File::create(log).with_context(|| format!("create {}", log.display()))?;
        let child = Command::new(program)
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("start the {name}: {}", program.display()))?;
        Ok(Self { name, child })
    }

    /// Fails when the program has ended by itself.
    pub(crate) fn check(&mut self) -> Result<()> {
        match self.child.try_wait().with_context(|| format!("look at the {}", self.name))? {
            None => Ok(()),
            Some(status) => anyhow::bail!("the {} ended by itself: {status}", self.name),
        }
    }

    /// Asks it to stop and waits, so that what it writes is whole.
    pub(crate) async fn stop(mut self) -> Result<()> {
        if let Some(pid) =
            self.child.id().and_then(|id| i32::try_from(id).ok()).and_then(rustix::process::Pid::from_raw)
        {
            rustix::process::kill_process(pid, rustix::process::Signal::TERM)
                .with_context(|| format!("stop the {}", self.name))?;
        }
        self.child.wait().await.with_context(|| format!("wait for the {}", self.name))?;
        Ok(())
    }
}

/// Follows the judge's record while it grows.
pub(crate) struct Tail {
    path: PathBuf,
    reader: Option<BufReader<File>>,
    line: String,
    last_second: VecDeque<Sample>,
}

impl Tail {
    pub(crate) fn new(path: PathBuf) -> Self {
        Self { path, reader: None, line: String::new(), last_second: VecDeque::new() }
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
    pub(crate) fn readings(&self) -> Option<(u64, Vec<Reading>)> {
        let (first, last) = (self.last_second.front()?, self.last_second.back()?);
        let readings = first.nodes.iter().zip(&last.nodes).filter_map(|(earlier, later)| {
            let (before, after) = (earlier.power.as_ref()?, later.power.as_ref()?);
            reading(&later.node, before, after)
        });
        Some((last.wall_us, readings.collect()))
    }
}

fn reading(node: &str, before: &NodePower, after: &NodePower) -> Option<Reading> {
    #[expect(clippy::cast_precision_loss, reason = "a few seconds in microseconds")]
    let seconds = after.stamped_us.checked_sub(before.stamped_us).filter(|passed| *passed > 0)? as f64 / 1e6;
    let work = after.work_seconds.iter().sum::<f64>() - before.work_seconds.iter().sum::<f64>();
    let (low, high) = (after.clock_mhz.iter().min(), after.clock_mhz.iter().max());
    Some(Reading {
        node: node.to_owned(),
        ac_watts: (after.ac_joules - before.ac_joules) / seconds,
        clocks_mhz: (low.copied().unwrap_or_default(), high.copied().unwrap_or_default()),
        work: work / seconds,
        boards: after.clock_mhz.len(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mean_is_energy_over_time() {
        let before =
            NodePower { stamped_us: 1_000_000, ac_joules: 100.0, work_seconds: vec![1.0, 1.0], ..Default::default() };
        let after = NodePower {
            stamped_us: 2_000_000,
            ac_joules: 700.0,
            work_seconds: vec![2.0, 1.5],
            clock_mhz: vec![1980, 900],
            ..Default::default()
        };
        let reading = reading("n1", &before, &after).unwrap();
        assert_eq!((reading.ac_watts, reading.work, reading.clocks_mhz), (600.0, 1.5, (900, 1980)));
        assert_eq!(super::reading("n1", &before, &before), None);
    }
}
