//! Figures from the judge's record and the events of a run: pure, the same for the same input.
//!
//! Power is judged by the mean of the last second, made from energy totals, so that it is exact however
//! often the judge looked. A second in which any node stalled is unknown: it counts neither as under
//! the cap nor as nothing, but as `unknown_s`, and it delays every "was under the cap".
//!
//! | figure | from | to |
//! |---|---|---|
//! | `under_cap_s` | the edit of the cap downward | total AC mean under the cap, and staying so; the worst edit |
//! | `step_s` | the load step | every node's mean within its grant, and staying so; the worst step |
//! | `above_cap_s` | 1 s after the first acknowledgement, 30 s after the start at the latest | the end, without 3 s after each edit |
//! | `work_kept` | the same span | work done over what the busy boards would have done at full speed |

use serde::{Deserialize, Serialize};

use super::record::Sample;

/// "Staying so" means that long (or until the next edit).
const HOLD_S: f64 = 10.0;
/// An edit's own time, in which being above the new cap does not count.
const EDIT_S: f64 = 3.0;
/// After the first acknowledgement the cap must hold from here.
const AFTER_ACKNOWLEDGED_S: f64 = 1.0;
/// Without an acknowledgement it must hold from here.
const AFTER_START_S: f64 = 30.0;

/// Something that happened in a run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Event {
    /// When, in microseconds since 1970.
    pub wall_us: u64,
    /// What.
    #[serde(flatten)]
    pub kind: EventKind,
}

/// What can happen.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum EventKind {
    /// kube-powercap was started.
    Start,
    /// The cap was set (AC, all nodes together).
    CapChanged {
        /// To this.
        cap_watts: f64,
    },
    /// All nodes acknowledged their grants for the first time.
    Acknowledged,
    /// The load rose.
    LoadStep,
    /// The brake was pulled.
    BrakePulled,
    /// A node was granted so much (AC).
    Granted {
        /// Which.
        node: String,
        /// How much.
        watts: f64,
    },
    /// The cap of a workload's own was set.
    WorkloadCapChanged {
        /// To this.
        cap_watts: f64,
    },
    /// A workload has so many replicas.
    Replicas {
        /// So many.
        count: u32,
    },
    /// What comes after is not judged.
    Stop,
}

/// The figures. `None` is never good: what should have happened did not, or could not be judged.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Score {
    /// From an edit of the cap downward to power under it: the worst edit.
    pub under_cap_s: Option<f64>,
    /// From a load step to every node within its grant: the worst step.
    pub step_s: Option<f64>,
    /// Time above the cap.
    pub above_cap_s: Option<f64>,
    /// Work done over what the boards would have done at full speed in the time that they were busy. It
    /// flatters nobody: a board that is slowed is busy for longer.
    pub work_kept: Option<f64>,
    /// Time in which the cap had to hold.
    pub judged_s: f64,
    /// Of that, time in which power was unknown.
    pub unknown_s: f64,
    /// The highest mean of a second above the cap in force, in the time judged; negative when always below.
    pub worst_above_watts: Option<f64>,
    /// The highest mean of a second in the whole record.
    pub worst_watts: Option<f64>,
}

/// Makes the figures.
#[must_use]
pub fn score(samples: &[Sample], events: &[Event]) -> Score {
    let record = Means::new(samples);
    let run = Run::new(samples, events);
    let mut score = Score {
        under_cap_s: run.under_cap(&record),
        step_s: run.steps(&record),
        worst_watts: record.total.iter().flatten().copied().reduce(f64::max),
        ..Score::default()
    };
    run.judge(&record, &mut score);
    score.work_kept = run.judged.and_then(|span| work_kept(samples, span));
    score
}

/// Means of the last second at each sample: `None` where it is not known.
struct Means {
    at: Vec<f64>,
    nodes: Vec<(String, Vec<Option<f64>>)>,
    total: Vec<Option<f64>>,
}

impl Means {
    fn new(samples: &[Sample]) -> Self {
        let at: Vec<f64> = samples.iter().map(|sample| seconds(sample.wall_us)).collect();
        let count = samples.iter().map(|sample| sample.nodes.len()).max().unwrap_or(0);
        let mut nodes = Vec::new();
        for index in 0..count {
            let name = samples.iter().find_map(|sample| sample.nodes.get(index)).map(|node| node.node.clone());
            nodes.push((name.unwrap_or_default(), node_means(samples, &at, index)));
        }
        let sum = |sample: usize| nodes.iter().map(|(_, means)| means[sample]).sum::<Option<f64>>();
        let total = (0..samples.len()).map(|sample| if nodes.is_empty() { None } else { sum(sample) }).collect();
        Self { at, nodes, total }
    }

    /// The time each sample stands for: since the one before.
    fn weight(&self, sample: usize) -> f64 {
        if sample == 0 { 0.0 } else { self.at[sample] - self.at[sample - 1] }
    }
}

fn node_means(samples: &[Sample], at: &[f64], index: usize) -> Vec<Option<f64>> {
    // Energy at each look: what the simulation stamped, and what flowed since.
    let energy = |sample: usize| -> Option<f64> {
        let power = samples[sample].nodes.get(index)?.power.as_ref()?;
        let since = samples[sample].wall_us.saturating_sub(power.stamped_us);
        Some(power.ac_joules + power.ac_watts * seconds(since))
    };
    let mut known_from = 0;
    let mut start = 0;
    (0..samples.len())
        .map(|sample| {
            let now = energy(sample);
            let before = sample.checked_sub(1).and_then(energy);
            if now.is_none() {
                known_from = sample + 1;
            } else if before > now {
                // The node was booted anew.
                known_from = sample;
            }
            while start + 1 < sample && at[start + 1] <= at[sample] - 1.0 {
                start += 1;
            }
            if start < known_from || at[start] > at[sample] - 1.0 || start + 1 > sample {
                return None;
            }
            let (low, high) = (energy(start)?, energy(start + 1)?);
            let share = (at[sample] - 1.0 - at[start]) / (at[start + 1] - at[start]);
            Some(now? - (low + share * (high - low)))
        })
        .collect()
}

/// Events in the shape that judging needs.
struct Run {
    caps: Vec<(f64, f64)>,
    steps: Vec<f64>,
    grants: Vec<(f64, String, f64)>,
    judged: Option<(f64, f64)>,
    end: f64,
}

impl Run {
    fn new(samples: &[Sample], events: &[Event]) -> Self {
        let first = samples.first().map_or(0.0, |sample| seconds(sample.wall_us));
        let last = samples.last().map_or(0.0, |sample| seconds(sample.wall_us));
        let mut events = events.to_vec();
        events.sort_by_key(|event| event.wall_us);
        let at =
            |wanted: EventKind| events.iter().find(|event| event.kind == wanted).map(|event| seconds(event.wall_us));
        let end = at(EventKind::Stop).unwrap_or(last).min(last);
        let start = at(EventKind::Start).unwrap_or(first);
        let acknowledged = at(EventKind::Acknowledged).map_or(f64::INFINITY, |at| at + AFTER_ACKNOWLEDGED_S);
        let mut run = Self { caps: Vec::new(), steps: Vec::new(), grants: Vec::new(), judged: None, end };
        for event in &events {
            let at = seconds(event.wall_us);
            match &event.kind {
                EventKind::CapChanged { cap_watts } => run.caps.push((at, *cap_watts)),
                EventKind::LoadStep => run.steps.push(at),
                EventKind::Granted { node, watts } => run.grants.push((at, node.clone(), *watts)),
                _ => {}
            }
        }
        let from = acknowledged.min(start + AFTER_START_S).max(run.caps.first().map_or(f64::INFINITY, |cap| cap.0));
        run.judged = (from < end).then_some((from, end));
        run
    }

    fn cap(&self, at: f64) -> Option<f64> {
        self.caps.iter().rev().find(|cap| cap.0 <= at).map(|cap| cap.1)
    }

    fn grant(&self, node: &str, at: f64) -> Option<f64> {
        self.grants.iter().rev().find(|grant| grant.0 <= at && grant.1 == node).map(|grant| grant.2)
    }

    fn under_cap(&self, means: &Means) -> Option<f64> {
        let mut worst = None;
        for (index, (at, cap)) in self.caps.iter().enumerate() {
            // The first cap is where a run begins, not an edit.
            let downward = index.checked_sub(1).is_some_and(|before| self.caps[before].1 > *cap);
            if downward {
                let until = self.caps.get(index + 1).map_or(self.end, |next| next.0);
                let settled =
                    settled(means, *at, until, |sample| means.total[sample].is_some_and(|watts| watts <= *cap))?;
                worst = Some(settled.max(worst.unwrap_or(0.0)));
            }
        }
        worst
    }

    fn steps(&self, means: &Means) -> Option<f64> {
        let mut worst = None;
        for (index, at) in self.steps.iter().enumerate() {
            let until = self.steps.get(index + 1).copied().unwrap_or(self.end);
            let within = |sample: usize| {
                means.nodes.iter().all(|(node, watts)| {
                    let grant = self.grant(node, means.at[sample]);
                    watts[sample].zip(grant).is_some_and(|(watts, grant)| watts <= grant)
                })
            };
            let settled = settled(means, *at, until, within)?;
            worst = Some(settled.max(worst.unwrap_or(0.0)));
        }
        worst
    }

    fn judge(&self, means: &Means, score: &mut Score) {
        let Some((from, to)) = self.judged else {
            return;
        };
        let mut above = 0.0;
        for (sample, at) in means.at.iter().enumerate() {
            let editing = self.caps.iter().any(|cap| (cap.0..=cap.0 + EDIT_S).contains(at));
            let Some(cap) = self.cap(*at).filter(|_| *at >= from && *at <= to && !editing) else {
                continue;
            };
            score.judged_s += means.weight(sample);
            let Some(watts) = means.total[sample] else {
                score.unknown_s += means.weight(sample);
                continue;
            };
            score.worst_above_watts = Some((watts - cap).max(score.worst_above_watts.unwrap_or(f64::NEG_INFINITY)));
            if watts > cap {
                above += means.weight(sample);
            }
        }
        score.above_cap_s = (score.judged_s > 0.0).then_some(above);
    }
}

/// From `from` to the first time from which all samples are good for [`HOLD_S`], or until `until`.
fn settled(means: &Means, from: f64, until: f64, good: impl Fn(usize) -> bool) -> Option<f64> {
    let mut since = from;
    let mut after_bad = false;
    let mut any = false;
    for (sample, at) in means.at.iter().enumerate() {
        if *at < from || *at > until {
            continue;
        }
        if good(sample) {
            if after_bad || !any {
                since = if after_bad { *at } else { from };
                after_bad = false;
            }
            any = true;
            if *at - since >= HOLD_S {
                return Some(since - from);
            }
        } else {
            after_bad = true;
        }
    }
    (any && !after_bad).then_some(since - from)
}

/// Board-seconds of full work between two times, over board-seconds in which there was work to do.
fn work_kept(samples: &[Sample], (from, to): (f64, f64)) -> Option<f64> {
    let (mut work, mut busy) = (0.0, 0.0);
    for pair in samples.windows(2) {
        let (before, after) = (seconds(pair[0].wall_us), seconds(pair[1].wall_us));
        if before < from || after > to {
            continue;
        }
        for (earlier, later) in pair[0].nodes.iter().zip(&pair[1].nodes) {
            let (Some(earlier), Some(later)) = (&earlier.power, &later.power) else { continue };
            // A counter that fell was booted anew.
            let done = later.work_seconds.iter().zip(&earlier.work_seconds).map(|(now, then)| (now - then).max(0.0));
            work += done.sum::<f64>();
            busy += later.utilisation.iter().sum::<f64>() * (after - before);
        }
    }
    (busy > 0.0).then_some(work / busy)
}

#[expect(clippy::cast_precision_loss, reason = "microseconds since 1970 fit 53 bits")]
fn seconds(us: u64) -> f64 {
    us as f64 / 1e6
}

#[cfg(test)]
mod tests;
