//! What a decision saw of boards and pods that the history does not know yet.
//!
//! Must hold: only what counts is remembered. What no board can draw is no part of its past.

use powercap_common::units::Watts;

use super::readings::Readings;
use crate::{
    model::demand::Samples,
    observation::{PodName, Sample},
};

/// Readings that are later than the last ones that were remembered.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct News {
    /// Power of boards, by UUID.
    pub boards: Vec<(String, Sample<Watts>)>,
    /// Power of pods' CPU use.
    pub pods: Vec<(PodName, Sample<Watts>)>,
    /// What containers use, by policy: once a minute.
    pub samples: Vec<Samples>,
}

impl News {
    /// Of these readings.
    pub fn of(readings: &Readings<'_>) -> Self {
        let telemetry = &readings.observation.telemetry;
        let history = &telemetry.history;
        let boards = readings.counted().filter(|(board, power)| {
            board.course.is_none_or(|course| power.at > course.at) && readings.recent(power.at)
        });
        let pods = telemetry.pod_cpu.iter().filter(|(pod, power)| {
            history.pods.get(*pod).is_none_or(|course| power.at > course.at) && readings.recent(power.at)
        });
        Self {
            boards: boards.map(|(board, power)| (board.uuid.to_owned(), power)).collect(),
            pods: pods.map(|(pod, power)| (pod.clone(), *power)).collect(),
            samples: Vec::new(),
        }
    }
}
