//! What the pods of each policy use, by container: what requests are recommended by.
//!
//! Must hold: a policy has at most [`MOST_CONTAINERS`] containers here, each of at most some 5 KB; one that
//! nothing was seen of for as long as memory counts is forgotten.

use std::collections::BTreeMap;

use jiff::Timestamp;
use powercap_common::{
    policy::PolicyId,
    units::{Bytes, Millicores, Watts},
};
use serde::{Deserialize, Serialize};

use super::{
    daily::{DAYS, DailyPeaks},
    histogram::{Histogram, Scale, Seen},
};

/// Watts of a container.
pub const WATTS: Scale = Scale { first: 2.0, most: 20_000.0 };
/// Cores of a container.
pub const CORES: Scale = Scale { first: 0.01, most: 1_000.0 };
/// As many have room in a status.
pub const MOST_CONTAINERS: usize = 32;
/// A sample of CPU weighs as much as its container requests, as with the Vertical Pod Autoscaler, and no less than this:
/// a replica that was given more is a better witness of what is needed.
const LEAST_CORES: f64 = 0.1;
const KEPT_SECONDS: i64 = DAYS * 86_400;

/// What the pods of one policy use.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Demand {
    /// The minute of the last samples, since 1970.
    pub minute: i64,
    /// What was before the first samples is in it, as far as it is known.
    pub past: bool,
    /// By the containers' names.
    pub containers: BTreeMap<String, ContainerDemand>,
}

/// What the containers of one name use.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ContainerDemand {
    /// Watts at the devices.
    pub watts: Histogram,
    /// Cores.
    pub cpu: Histogram,
    /// Memory.
    pub memory: DailyPeaks,
}

/// What a container used at one time, or over some minutes.
#[derive(Clone, Debug, PartialEq)]
pub struct Sample {
    /// Its name.
    pub container: String,
    /// How much of what.
    pub used: Used,
    /// When; of some minutes, their middle.
    pub at: Timestamp,
    /// For how long.
    pub minutes: u32,
}

/// An amount of a resource.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Used {
    /// Power.
    Watts(Watts),
    /// Processor time of a container, and what it requests of it.
    Cpu {
        /// So much was used.
        used: Millicores,
        /// By it the sample weighs.
        requested: Millicores,
    },
    /// Memory.
    Memory(Bytes),
}

/// What a decision saw the pods of a policy use.
#[derive(Clone, Debug, PartialEq)]
pub struct Samples {
    /// Of which policy.
    pub policy: PolicyId,
    /// The minute, since 1970.
    pub minute: i64,
    /// What was before is among them.
    pub past: bool,
    /// What they used.
    pub samples: Vec<Sample>,
}

impl Demand {
    /// Takes note of what was seen.
    pub fn note(&mut self, samples: &Samples) {
        self.minute = self.minute.max(samples.minute);
        self.past |= samples.past;
        for Sample { container, used, at, minutes } in &samples.samples {
            if !self.containers.contains_key(container) && self.containers.len() >= MOST_CONTAINERS {
                continue;
            }
            let of = self.containers.entry(container.clone()).or_default();
            match used {
                Used::Watts(watts) => of.watts.note(WATTS, watts.as_f64(), *minutes, 1.0, *at),
                Used::Cpu { used, requested } => {
                    let weight = requested.as_cores().max(LEAST_CORES);
                    of.cpu.note(CORES, used.as_cores(), *minutes, weight, *at);
                }
                Used::Memory(bytes) => of.memory.note(*bytes, *minutes, *at),
            }
        }
        let oldest = samples.minute * 60 - KEPT_SECONDS;
        self.containers.retain(|_, of| of.last().is_some_and(|last| last > oldest));
    }

    /// Whether anything of it still counts.
    #[must_use]
    pub fn reaches(&self, now: Timestamp) -> bool {
        self.minute * 60 > now.as_second() - KEPT_SECONDS
    }

    /// When the first sample was of, in seconds since 1970.
    #[must_use]
    pub fn since(&self) -> Option<i64> {
        self.containers.values().flat_map(ContainerDemand::seen).filter_map(|seen| seen.since()).min()
    }
}

impl ContainerDemand {
    fn seen(&self) -> [Seen; 3] {
        [self.watts.seen(), self.cpu.seen(), self.memory.seen()]
    }

    fn last(&self) -> Option<i64> {
        self.seen().iter().filter_map(Seen::last).max()
    }
}

#[cfg(test)]
mod tests {
    use jiff::SignedDuration;

    use super::*;

    fn samples(minute: i64, containers: impl IntoIterator<Item = String>) -> Samples {
        let at = Timestamp::UNIX_EPOCH + SignedDuration::from_mins(minute);
        let sample = |container| Sample { container, used: Used::Watts(Watts::new(300)), at, minutes: 1 };
        let policy = PolicyId { namespace: "llm".into(), name: "chat".into() };
        Samples { policy, minute, past: false, samples: containers.into_iter().map(sample).collect() }
    }

    #[test]
    fn as_many_containers_are_remembered_as_a_status_has_room_for() {
        let mut demand = Demand::default();
        demand.note(&samples(1, (0..100).map(|n| format!("c{n}"))));
        assert_eq!(demand.containers.len(), MOST_CONTAINERS);
        demand.note(&samples(2, ["c0".to_owned(), "another".to_owned()]));
        assert!(!demand.containers.contains_key("another"), "who came first stays");
        assert_eq!(demand.since(), Some(60));
    }

    #[test]
    fn a_container_that_is_gone_for_eight_days_is_forgotten() {
        let mut demand = Demand::default();
        demand.note(&samples(0, ["old".to_owned()]));
        demand.note(&samples(7 * 1440, ["new".to_owned()]));
        assert_eq!(demand.containers.len(), 2);
        demand.note(&samples(8 * 1440 + 1, ["new".to_owned()]));
        assert_eq!(demand.containers.keys().collect::<Vec<_>>(), ["new"]);
        let after = |days: i64| Timestamp::UNIX_EPOCH + SignedDuration::from_hours(24 * days);
        assert!(demand.reaches(after(15)) && !demand.reaches(after(17)));
    }
}
