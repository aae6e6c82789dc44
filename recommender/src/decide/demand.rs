//! What the pods of a policy use, taken down once a minute: requests are recommended by it.
//!
//! Under a cap a board draws what the cap leaves. Were that its demand, requests would fall with the cap, more
//! pods would be placed on the same watts, and each would be left less still. So a board that runs into what holds
//! it back counts with what it would draw at its highest clock, by the law of [`super::ceiling`].
//!
//! Must hold: what is not known is no sample; nothing is taken down before the past was read or could not be.

use powercap_common::{
    api::{ControlledResource, GpuStatus, PowerScope, ResourcePolicy},
    board::EXPONENT,
    policy::Policy,
    units::{Megahertz, Watts},
};

use jiff::{SignedDuration, Timestamp};

use super::{
    capped,
    ceiling::GRID_MHZ,
    fleet::{self, Board, Pod},
    outlook,
    policy::PolicyView,
    readings::{Counted, Readings},
    reserved::carriers,
};
use crate::{
    model::{
        course::Course,
        demand::{Sample, Samples, Used},
        history::{History, Past},
    },
    observation::PodFacts,
};

/// A board draws about its limit above this share of it.
const AT_LIMIT_PERCENT: u32 = 95;
/// Of CPU and memory a reading counts for this long: metrics-server takes one every 15 s to a minute.
const USE_COUNTS_FOR: SignedDuration = SignedDuration::from_secs(150);
/// Of a step of the past mean and peak are known: it counts as at its peak for this part of it.
const AT_PEAK_PERCENT: u32 = 10;

/// What is to be remembered of a policy's pods now; none when this minute's is.
pub fn samples(view: &PolicyView<'_>, policy: &Policy, readings: &Readings<'_>) -> Option<Samples> {
    let history = &*readings.observation.telemetry.history;
    if history.past == Past::Awaited || view.pods.is_empty() {
        return None;
    }
    let known = history.demand.get(&policy.id);
    let minute = readings.now.as_second().div_euclid(60);
    let is_due = known.is_none_or(|known| known.minute < minute);
    let past = history.past == Past::Read && known.is_none_or(|known| !known.past);
    if !is_due && !past {
        return None;
    }
    let control = &view.object.spec.resource_policy;
    let mut samples = Vec::new();
    for pod in view.pods.iter().copied() {
        if is_due {
            samples.extend(watts_now(pod, policy.scope, readings));
            samples.extend(use_now(pod.facts, control, readings));
        }
        if past {
            let until = known.and_then(|known| Timestamp::from_second(known.since()?).ok()).unwrap_or(readings.now);
            let steps =
                Steps { history, since: outlook::since(pod.facts, history.span), until: history.span.step(until) };
            samples.extend(steps.watts(pod, policy.scope, readings));
            samples.extend(steps.uses(pod.facts, control));
        }
    }
    Some(Samples { policy: policy.id.clone(), minute, past, samples })
}

/// Whether a cap keeps a board from drawing what it would.
pub fn is_hindered(board: &GpuStatus, counted: &Counted<'_>) -> bool {
    let at = |clock: Megahertz, ceiling: u32| clock.get() + 2 * GRID_MHZ >= ceiling;
    let clock = counted.clock.map(|clock| clock.value).zip(board.target_graphics_megahertz);
    let limit = board.power_limit_watts.map(|limit| Watts::new(limit).percent(AT_LIMIT_PERCENT));
    capped::is_held(board)
        && (clock.is_some_and(|(clock, ceiling)| at(clock, ceiling))
            || limit.is_some_and(|most| counted.power.value >= most))
}

/// What a board would draw if nothing held it back.
fn unhindered(board: Option<&GpuStatus>, counted: &Counted<'_>) -> Watts {
    let power = counted.power.value;
    let Some(board) = board.filter(|board| is_hindered(board, counted)) else { return power };
    let most = Watts::new(board.max_power_limit_watts);
    let Some(clock) = counted.clock.map(|clock| clock.value).filter(|clock| clock.get() > 0) else {
        return most.max(power);
    };
    let idle = fleet::idle(board);
    let ratio = f64::from(board.max_graphics_megahertz) / f64::from(clock.get());
    let at_highest = idle + power.saturating_sub(idle).scaled(ratio.max(1.0).powf(EXPONENT));
    at_highest.min(most).max(power)
}

/// The watts of a pod's containers now; nothing when a reading is missing, or it has no devices that count.
fn watts_now(pod: &Pod<'_>, scope: PowerScope, readings: &Readings<'_>) -> Vec<Sample> {
    let watts = pod_watts(pod, scope, readings).filter(|watts| *watts > Watts::ZERO);
    let of = |watts: Watts| carriers(pod.facts).map(move |(container, part)| (&container.name, watts.scaled(part)));
    let sample = |(name, watts): (&String, Watts)| sample(name, Used::Watts(watts), readings.now, 1);
    watts.into_iter().flat_map(of).map(sample).collect()
}

/// What a pod would draw if nothing held it back; none when a reading is missing.
pub fn pod_watts(pod: &Pod<'_>, scope: PowerScope, readings: &Readings<'_>) -> Option<Watts> {
    if pod.is_without_device() {
        return None;
    }
    let board = |board: &Board<'_>| {
        let counted = readings.of_board(board).ok()?;
        Some(unhindered(board.told, &counted).divided(board.tenants.len()))
    };
    let boards: Option<Watts> = readings.fleet.boards_of(pod).map(board).sum();
    let cpu = match scope {
        PowerScope::Devices => Watts::ZERO,
        PowerScope::DevicesAndHost => readings.cpu_of(pod)?.value,
    };
    boards.map(|boards| boards + cpu)
}

/// The CPU and memory of those of a pod's containers of which the policy controls it.
fn use_now(pod: &PodFacts, control: &ResourcePolicy, readings: &Readings<'_>) -> Vec<Sample> {
    let seen = readings.observation.telemetry.usage.pods.get(&pod.name);
    let Some(seen) = seen.filter(|seen| readings.now.duration_since(seen.at).abs() <= USE_COUNTS_FOR) else {
        return Vec::new();
    };
    let of_container = |(name, used): (&String, &crate::observation::ContainerUse)| {
        let requested = pod.containers.iter().find(|facts| facts.name == *name).map(|facts| facts.cpu);
        let requested = requested.unwrap_or_default();
        let cpu = used.cpu.map(|used| Used::Cpu { used, requested });
        let used = [cpu, used.memory.map(Used::Memory)].into_iter().flatten();
        let wanted: Vec<_> = used.filter(|used| controls(control, name, *used)).collect();
        wanted.into_iter().map(|used| sample(name, used, seen.at, 1)).collect::<Vec<_>>()
    };
    seen.containers.iter().flat_map(of_container).collect()
}

fn controls(control: &ResourcePolicy, container: &str, used: Used) -> bool {
    control.of(container).controlled_resources.contains(&match used {
        Used::Watts(_) => ControlledResource::Watts,
        Used::Cpu { .. } => ControlledResource::Cpu,
        Used::Memory(_) => ControlledResource::Memory,
    })
}

fn sample(container: &str, used: Used, at: Timestamp, minutes: u32) -> Sample {
    Sample { container: container.to_owned(), used, at, minutes }
}

/// Steps of the past, from when a pod was started until we looked ourselves.
struct Steps<'h> {
    history: &'h History,
    since: Option<i64>,
    until: i64,
}

impl Steps<'_> {
    fn are_of(&self, step: i64) -> bool {
        self.since.is_some_and(|since| (since..self.until).contains(&step))
    }

    /// The middle of a step, and its minutes: as a whole, and at its peak.
    fn time(&self, step: i64) -> Option<(Timestamp, u32, u32)> {
        let seconds = self.history.span.step_seconds;
        let minutes = u32::try_from(seconds / 60).ok()?;
        let at_peak = (minutes * AT_PEAK_PERCENT / 100).max(1);
        Some((Timestamp::from_second(step * seconds + seconds / 2).ok()?, minutes, at_peak))
    }

    /// What a pod's boards drew; nothing of those that others use too.
    fn watts(&self, pod: &Pod<'_>, scope: PowerScope, readings: &Readings<'_>) -> Vec<Sample> {
        let boards = readings.fleet.boards_of(pod).filter(|board| board.tenants.len() == 1).map(|board| board.course);
        let cpu = (scope == PowerScope::DevicesAndHost).then_some(pod.course);
        let Some(courses) = boards.chain(cpu).collect::<Option<Vec<_>>>().filter(|courses| !courses.is_empty()) else {
            return Vec::new();
        };
        let mut samples = Vec::new();
        for step in self.since.unwrap_or(self.until).max(self.until - crate::model::window::STEPS)..self.until {
            let sum = |of: fn(&Course) -> &crate::model::window::Window| {
                courses.iter().map(|course| of(course).at(step)).sum::<Option<Watts>>()
            };
            let (Some(mean), Some(peak)) = (sum(|course| &course.means), sum(|course| &course.peaks)) else { continue };
            let Some((at, minutes, at_peak)) = self.time(step) else { continue };
            for (container, part) in carriers(pod.facts) {
                let of = |watts: Watts, minutes| sample(&container.name, Used::Watts(watts.scaled(part)), at, minutes);
                samples.extend([of(mean, minutes - at_peak), of(peak, at_peak)]);
            }
        }
        samples
    }

    /// The CPU and memory that its containers used.
    fn uses(&self, pod: &PodFacts, control: &ResourcePolicy) -> Vec<Sample> {
        let mut samples = Vec::new();
        for container in &pod.containers {
            let Some(past) = self.history.containers.get(&(pod.name.clone(), container.name.clone())) else { continue };
            let requested = container.cpu;
            let cpu = past.cpu.iter().map(|&(step, used)| (step, Used::Cpu { used, requested }));
            let memory = past.memory.iter().map(|(step, memory)| (*step, Used::Memory(*memory)));
            for (step, used) in cpu.chain(memory).filter(|(step, _)| self.are_of(*step)) {
                let Some((at, minutes, _)) = self.time(step) else { continue };
                if controls(control, &container.name, used) {
                    samples.push(sample(&container.name, used, at, minutes));
                }
            }
        }
        samples
    }
}
