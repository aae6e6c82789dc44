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
//! Must hold: what is old, or more than the board can draw, is no reading, and never zero watts.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use powercap_common::{
    reason::Reason,
    units::{Megahertz, Watts},
};

use super::fleet::Fleet;
use crate::observation::{Apart, GpuReading, Hold, Observation, Sample, fresh};

/// A board's limiter lets more than its maximum pass for moments, and sensors err; not by this much.
const MOST_PERCENT_OF_MAXIMUM: u32 = 150;

/// What counts of a device.
#[derive(Clone)]
pub struct Counted<'a> {
    /// Its power.
    pub power: Sample<Watts>,
    /// The clock of a board, by the same source where it tells one.
    pub clock: Option<Sample<Megahertz>>,
    /// Two sources have lain apart for too long.
    pub apart: Option<&'a Apart>,
}

/// The readings, the boards that they are of, and the time.
pub struct Readings<'a> {
    /// For what the boards can draw, and where they are.
    pub fleet: &'a Fleet<'a>,
    /// The readings.
    pub observation: &'a Observation,
    /// Now.
    pub now: Timestamp,
    /// What counts of each board: reckoned once, asked for often.
    boards: BTreeMap<&'a str, Result<Counted<'a>, Hold>>,
}

impl<'a> Readings<'a> {
    /// Puts them in order.
    pub fn of(fleet: &'a Fleet<'a>, observation: &'a Observation, now: Timestamp) -> Self {
        let mut readings = Self { fleet, observation, now, boards: BTreeMap::new() };
        let telemetry = &observation.telemetry;
        let told = telemetry.gpus.keys().chain(telemetry.agent_gpus.keys()).map(String::as_str);
        let all: BTreeSet<_> = told.chain(fleet.boards.keys().copied()).collect();
        readings.boards = all.into_iter().map(|uuid| (uuid, readings.reckoned(uuid))).collect();
        readings
    }

    /// What counts of a board.
    ///
    /// # Errors
    /// Why nothing does.
    pub fn of_board(&self, uuid: &str) -> Result<Counted<'a>, Hold> {
        self.boards.get(uuid).cloned().unwrap_or_else(|| self.reckoned(uuid))
    }

    fn reckoned(&self, uuid: &str) -> Result<Counted<'a>, Hold> {
        let telemetry = &self.observation.telemetry;
        let (exporter, agent) = (telemetry.gpus.get(uuid), telemetry.agent_gpus.get(uuid));
        let place = self.fleet.node_of_gpu(uuid, exporter).map(|at| self.fleet.nodes[at].name);
        let what = place.map_or_else(|| uuid.to_owned(), |node| format!("{uuid} on {node}"));
        let maximum = self.fleet.boards.get(uuid).map(|(_, board)| Watts::new(board.max_power_limit_watts));
        let trouble = telemetry.trouble_of_gpu(uuid);
        let usable = |reading: Option<&GpuReading>| {
            let power = reading.and_then(|reading| reading.power.as_ref());
            let sample = self.fresh(power, &what, trouble)?;
            possible(sample, maximum, &what)
        };
        let clock = |reading: Option<&GpuReading>| reading.and_then(|reading| reading.clock);
        let by = |power, one, other| Counted { power, clock: clock(one).or_else(|| clock(other)), apart: None };
        match (usable(exporter), usable(agent)) {
            (Ok(exporters), Ok(agents)) => {
                let apart = self.apart(uuid);
                let (power, one, other) = if apart.is_some() && agents.value > exporters.value {
                    (agents, agent, exporter)
                } else {
                    (exporters, exporter, agent)
                };
                Ok(Counted { apart, ..by(power, one, other) })
            }
            (Ok(power), Err(_)) => Ok(by(power, exporter, agent)),
            (Err(_), Ok(power)) => Ok(by(power, agent, exporter)),
            // Where only the agent ever told, its silence is what is wrong.
            (Err(hold), Err(agents)) => {
                Err(if exporter.is_none_or(|gpu| gpu.power.is_none()) && agent.is_some() { agents } else { hold })
            }
        }
    }

    /// Power of every board of which something counts, by UUID.
    pub fn counted(&self) -> impl Iterator<Item = (&'a str, Sample<Watts>)> {
        self.boards.iter().filter_map(|(uuid, counted)| Some((*uuid, counted.as_ref().ok()?.power)))
    }

    /// What counts of a node's CPUs.
    ///
    /// # Errors
    /// Why nothing does.
    pub fn of_cpus(&self, node: &str) -> Result<Counted<'a>, Hold> {
        let telemetry = &self.observation.telemetry;
        let (what, trouble) = (format!("the CPUs of {node}"), telemetry.trouble_of_cpu(node));
        let kepler = self.fresh(telemetry.node_cpu.get(node), &what, trouble);
        let agent = self.fresh(telemetry.agent_cpu.get(node), &what, trouble);
        let (power, apart) = match (kepler, agent) {
            (Ok(kepler), Ok(agent)) => {
                let apart = self.apart(node);
                (if apart.is_some() && agent.value > kepler.value { agent } else { kepler }, apart)
            }
            (Ok(kepler), Err(_)) => (kepler, None),
            (Err(_), Ok(agent)) => (agent, None),
            (Err(hold), Err(_)) => return Err(hold),
        };
        Ok(Counted { power, clock: None, apart })
    }

    /// Whether a moment is recent.
    pub fn recent(&self, at: Timestamp) -> bool {
        self.now.duration_since(at).abs() <= self.observation.stale_after()
    }

    fn fresh(&self, sample: Option<&Sample<Watts>>, what: &str, trouble: Option<&Hold>) -> Result<Sample<Watts>, Hold> {
        fresh(sample, what, trouble, self.now, self.observation.stale_after()).copied()
    }

    /// Sources that have lain apart for longer than chance and a slow exporter explain.
    fn apart(&self, device: &str) -> Option<&'a Apart> {
        let apart = self.observation.telemetry.apart.get(device)?;
        (self.now.duration_since(apart.since) > self.observation.stale_after()).then_some(apart)
    }
}

fn possible(sample: Sample<Watts>, maximum: Option<Watts>, what: &str) -> Result<Sample<Watts>, Hold> {
    let most = maximum.filter(|maximum| *maximum > Watts::ZERO).map(|most| most.percent(MOST_PERCENT_OF_MAXIMUM));
    match most {
        Some(most) if sample.value > most => {
            let message = format!("{} tells more than {most} of {what}, which draws less", sample.source);
            Err(Hold::new(Reason::ImplausibleReading, message))
        }
        _ => Ok(sample),
    }
}

/// What to tell people of devices on which sources lie apart; none when there is no such device.
pub fn differences(of: &[(String, &Apart)]) -> Option<String> {
    let (device, Apart { higher, lower, .. }) = of.first()?;
    let more = of.len() - 1;
    let more = if more > 0 { format!(", and so on {more} more") } else { String::new() };
    Some(format!("{higher} tells more power of {device} than {lower}{more}; the higher counts"))
}
