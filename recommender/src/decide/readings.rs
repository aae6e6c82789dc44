//! Which reading of a device counts, where several sources tell of it.
//!
//! ```text
//!   DCGM exporter, Kepler │ node agent    │ counts
//!   ──────────────────────┼───────────────┼───────────────────────────────────────────────
//!   usable                │ usable        │ the exporter's; the higher while they lie apart
//!   usable                │ old or none   │ the exporter's
//!   old, none or absurd   │ usable        │ the agent's
//!   old, none or absurd   │ likewise      │ none, with the reason why
//! ```
//!
//! A board is where its node's agent says that it is, whatever node the labels of its readings name.
//!
//! Must hold: what is old, or more than the board can draw, is no reading, and never zero watts; sources that differ,
//! in power or in place, raise nothing.

use std::fmt;

use jiff::Timestamp;
use powercap_common::{
    reason::Reason,
    units::{Megahertz, Watts},
};

use super::fleet::{Board, Fleet, Pod};
use crate::observation::{Apart, GpuReading, Hold, Observation, Sample, Source, fresh};

/// A board's limiter lets more than its maximum pass for moments, and sensors err; not by this much.
const MOST_PERCENT_OF_MAXIMUM: u32 = 150;

/// What counts of a device.
#[derive(Clone)]
pub struct Counted<'a> {
    /// Its power.
    pub power: Sample<Watts>,
    /// The clock of a board, by the same source where it tells one.
    pub clock: Option<Sample<Megahertz>>,
    /// Why it is no basis for raising anything.
    pub doubt: Option<Doubt<'a>>,
}

/// What is in doubt about a device's reading.
#[derive(Clone, Copy)]
pub enum Doubt<'a> {
    /// Two sources have lain apart for too long.
    Apart(&'a Apart),
    /// A source names another node as the board's than its node's agent does.
    Elsewhere {
        /// Who does.
        source: Source,
        /// Which node that is.
        named: &'a str,
        /// The agent's.
        node: &'a str,
    },
}

/// The readings, the boards that they are of, and the time.
pub struct Readings<'a> {
    /// For what the boards can draw, and where they are.
    pub fleet: &'a Fleet<'a>,
    /// The readings.
    pub observation: &'a Observation,
    /// Now.
    pub now: Timestamp,
    /// What counts of each board, by its place: reckoned once, asked for often.
    counted: Vec<Result<Counted<'a>, Hold>>,
    /// What counts of each node's CPUs, by its index.
    cpus: Vec<Result<Counted<'a>, Hold>>,
    /// The boards of each node, by its index: asked for by every domain around the node.
    boards_in: Vec<Vec<&'a Board<'a>>>,
}

impl<'a> Readings<'a> {
    /// Puts them in order.
    pub fn of(fleet: &'a Fleet<'a>, observation: &'a Observation, now: Timestamp) -> Self {
        let mut boards_in = vec![Vec::new(); fleet.nodes.len()];
        for board in &fleet.boards {
            board.node.into_iter().for_each(|at| boards_in[at].push(board));
        }
        let readings = Self { fleet, observation, now, counted: Vec::new(), cpus: Vec::new(), boards_in };
        let counted = fleet.boards.iter().map(|board| readings.reckoned(board)).collect();
        let cpus = fleet.nodes.iter().map(|node| readings.reckoned_of_cpus(node.name)).collect();
        Self { counted, cpus, ..readings }
    }

    /// What counts of a board.
    ///
    /// # Errors
    /// Why nothing does.
    pub fn of_board(&self, board: &Board<'_>) -> Result<Counted<'a>, Hold> {
        self.counted[board.at].clone()
    }

    /// What counts of a node's CPUs, by the node's index.
    ///
    /// # Errors
    /// Why nothing does.
    pub fn of_cpus(&self, at: usize) -> Result<Counted<'a>, Hold> {
        self.cpus[at].clone()
    }

    /// The boards of a node: those that its agent tells of, and those that an exporter does.
    pub fn boards_of(&self, at: usize) -> &[&'a Board<'a>] {
        self.boards_in.get(at).map_or(&[], Vec::as_slice)
    }

    fn reckoned(&self, board: &Board<'a>) -> Result<Counted<'a>, Hold> {
        let (exporter, agent) = (board.reading, board.by_agent);
        let place = board.node.map(|at| self.fleet.nodes[at].name);
        let what = What { uuid: board.uuid, place };
        let maximum = board.told.map(|told| Watts::new(told.max_power_limit_watts));
        let trouble = self.observation.telemetry.trouble_of_gpu(board.uuid);
        let usable = |reading: Option<&GpuReading>| {
            let power = reading.and_then(|reading| reading.power.as_ref());
            let sample = self.fresh(power, &what, trouble)?;
            possible(sample, maximum, &what)
        };
        let clock = |reading: Option<&GpuReading>| reading.and_then(|reading| reading.clock);
        let by = |power, one, other, apart: Option<_>| {
            let doubt = apart.map(Doubt::Apart).or_else(|| self.elsewhere(board));
            Counted { power, clock: clock(one).or_else(|| clock(other)), doubt }
        };
        match (usable(exporter), agent.map(|agent| usable(Some(agent)))) {
            (Ok(exporters), Some(Ok(agents))) => {
                let apart = self.apart(board.uuid);
                let (power, one, other) = if apart.is_some() && agents.value > exporters.value {
                    (agents, agent, exporter)
                } else {
                    (exporters, exporter, agent)
                };
                Ok(by(power, one, other, apart))
            }
            (Ok(power), _) => Ok(by(power, exporter, agent, None)),
            (Err(_), Some(Ok(power))) => Ok(by(power, agent, exporter, None)),
            // Where only the agent ever told, its silence is what is wrong.
            (Err(_), Some(Err(agents))) if exporter.is_none_or(|gpu| gpu.power.is_none()) => Err(agents),
            (Err(hold), _) => Err(hold),
        }
    }

    /// Every board of which something counts, with its power.
    pub fn counted(&self) -> impl Iterator<Item = (&'a Board<'a>, Sample<Watts>)> {
        let counted = self.fleet.boards.iter().zip(&self.counted);
        counted.filter_map(|(board, counted)| Some((board, counted.as_ref().ok()?.power)))
    }

    fn reckoned_of_cpus(&self, node: &str) -> Result<Counted<'a>, Hold> {
        let telemetry = &self.observation.telemetry;
        let trouble = telemetry.trouble_of_cpu(node);
        let fresh = |sample| self.fresh(sample, &format_args!("the CPUs of {node}"), trouble);
        let agent = telemetry.agent_cpu.get(node).and_then(|sample| fresh(Some(sample)).ok());
        let (power, apart) = match (fresh(telemetry.node_cpu.get(node)), agent) {
            (Ok(kepler), Some(agent)) => {
                let apart = self.apart(node);
                (if apart.is_some() && agent.value > kepler.value { agent } else { kepler }, apart)
            }
            (Ok(kepler), None) => (kepler, None),
            (Err(_), Some(agent)) => (agent, None),
            (Err(hold), None) => return Err(hold),
        };
        Ok(Counted { power, clock: None, doubt: apart.map(Doubt::Apart) })
    }

    /// The CPU power of a pod, where a recent reading tells it.
    pub fn cpu_of(&self, pod: &Pod<'a>) -> Option<&'a Sample<Watts>> {
        pod.cpu.filter(|sample| self.recent(sample.at))
    }

    /// Whether a moment is recent.
    pub fn recent(&self, at: Timestamp) -> bool {
        self.now.duration_since(at).abs() <= self.observation.stale_after()
    }

    fn fresh(
        &self,
        sample: Option<&Sample<Watts>>,
        what: &impl fmt::Display,
        trouble: Option<&Hold>,
    ) -> Result<Sample<Watts>, Hold> {
        fresh(sample, what, trouble, self.now, self.observation.stale_after()).copied()
    }

    /// A source whose recent readings of a board carry the name of another node than the one whose agent tells of it.
    /// Names that no node has are the exporter's own; an agent that is silent may tell of a board that was moved.
    fn elsewhere(&self, board: &Board<'a>) -> Option<Doubt<'a>> {
        let node = &self.fleet.nodes[board.told.and(board.node)?];
        let named = |reading: &'a GpuReading| {
            let named = reading.node.as_deref().filter(|named| *named != node.name)?;
            let power = reading.power.filter(|power| self.recent(power.at))?;
            self.fleet.node(named)?;
            Some(Doubt::Elsewhere { source: power.source, named, node: node.name })
        };
        let doubt = board.reading.and_then(named).or_else(|| board.by_agent.and_then(named))?;
        (!self.observation.agent_is_silent(node.name, node.frequencies, self.now)).then_some(doubt)
    }

    /// Sources that have lain apart for longer than chance and a slow exporter explain.
    fn apart(&self, device: &str) -> Option<&'a Apart> {
        let apart = self.observation.telemetry.apart.get(device)?;
        (self.now.duration_since(apart.since) > self.observation.stale_after()).then_some(apart)
    }
}

/// A board and its node, as people are told of them.
struct What<'a> {
    uuid: &'a str,
    place: Option<&'a str>,
}

impl fmt::Display for What<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.place {
            Some(node) => write!(f, "{} on {node}", self.uuid),
            None => f.write_str(self.uuid),
        }
    }
}

fn possible(sample: Sample<Watts>, maximum: Option<Watts>, what: &What<'_>) -> Result<Sample<Watts>, Hold> {
    let most = maximum.filter(|maximum| *maximum > Watts::ZERO).map(|most| most.percent(MOST_PERCENT_OF_MAXIMUM));
    match most {
        Some(most) if sample.value > most => {
            let message = format!("{} tells more than {most} of {what}, which draws less", sample.source);
            Err(Hold::new(Reason::ImplausibleReading, message))
        }
        _ => Ok(sample),
    }
}

/// What to tell people of devices on which sources differ; none when there is no such device.
pub fn differences(of: &[(String, Doubt<'_>)]) -> Option<(Reason, String)> {
    let (device, doubt) = of.first()?;
    let more = of.len() - 1;
    let more = if more > 0 { format!(", and so on {more} more") } else { String::new() };
    Some(match doubt {
        Doubt::Apart(Apart { higher, lower, .. }) => (
            Reason::SourcesDiffer,
            format!("{higher} tells more power of {device} than {lower}{more}; the higher counts"),
        ),
        Doubt::Elsewhere { source, named, node } => (
            Reason::NodesDiffer,
            format!(
                "{source} tells of {device} with {named} as its node's name, while the agent of {node} has that board{more}; correct the relabelling of that scrape. Until then it counts for {node}"
            ),
        ),
    })
}
