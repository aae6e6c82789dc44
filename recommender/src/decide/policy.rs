//! Policies: whose pods and devices, how much they draw, and what each device may draw and clock.
//!
//! Each device's power limit is an equal share of the cap and stands always, so that the cap holds by
//! construction, through the node agent's fast loop and the board's own limiter. The clock ceiling comes
//! on top when power crosses the capping threshold: a lower clock draws less for the same work.

use std::{collections::BTreeMap, sync::Arc};

use jiff::{SignedDuration, Timestamp};
use powercap_common::{
    api::{Mode, PowerCappingPolicy, PowerScope},
    condition::{self, Truth, kind},
    policy::{Policy, PolicyError},
    reason::Reason,
    units::{Megahertz, Watts},
};

use super::{
    ceiling::{self, Loaded, Pressure, Range},
    fleet::{self, Fleet},
    uniform,
};
use crate::observation::{GpuReading, Hold, Observation, PodFacts, PodName, Sample, fresh};

/// After a change of a ceiling, readings younger than this may still be of before: the clock lock takes
/// some 100 ms and a board's power is an average over a second.
const SETTLES_WITHIN: SignedDuration = SignedDuration::from_millis(1500);
/// Power and clock of one scrape; further apart they are of two.
const SAME_MOMENT: SignedDuration = SignedDuration::from_secs(1);
/// A board whose agent has not told: the lowest clock and idle power of those that we know.
const UNKNOWN_LOWEST: Megahertz = Megahertz::new(210);
const UNKNOWN_IDLE: Watts = Watts::new(70);

/// A policy as written, as understood, and its pods and devices.
pub struct PolicyView<'a> {
    /// As written.
    pub object: Arc<PowerCappingPolicy>,
    /// As understood.
    pub policy: Result<Policy, PolicyError>,
    /// Running pods that it selects.
    pub pods: BTreeMap<&'a PodName, &'a PodFacts>,
    /// Their devices, those shared with pods of others apart.
    pub devices: BTreeMap<&'a str, &'a GpuReading>,
    /// Devices that it shares with pods that it does not select, and its part of them.
    pub shared: BTreeMap<&'a str, (&'a GpuReading, f64)>,
}

/// What a policy asks for, and what it found.
pub struct Verdict {
    /// Its power, or why it is not known.
    pub power: Result<Watts, Hold>,
    /// Whether capping is triggered.
    pub triggered: Truth,
    /// The power limit of each of its devices.
    pub limits: BTreeMap<String, Watts>,
    /// The clock ceiling of all of its devices.
    pub ceiling: Option<Megahertz>,
    /// When the ceiling was last changed.
    pub changed_at: Option<Timestamp>,
    /// What its devices draw together at their lowest settings.
    pub floor: Watts,
    /// What is left of the cap for its devices.
    pub for_devices: Watts,
}

impl<'a> PolicyView<'a> {
    /// Understands one policy. `pods_in` are the running pods of its namespace.
    pub fn of(
        object: &Arc<PowerCappingPolicy>,
        pods_in: &[&'a PodFacts],
        fleet: &Fleet<'a>,
        observation: &'a Observation,
    ) -> Self {
        let policy = Policy::try_from(&**object);
        let selects = |pod: &PodFacts| {
            policy.as_ref().is_ok_and(|policy| policy.mode != Mode::Off && policy.selector.matches(&pod.labels))
        };
        let pods: BTreeMap<_, _> =
            pods_in.iter().copied().filter(|pod| selects(pod)).map(|pod| (&pod.name, pod)).collect();
        let (mut devices, mut shared) = (BTreeMap::new(), BTreeMap::new());
        for uuid in pods.keys().filter_map(|pod| fleet.devices_of.get(pod)).flatten() {
            let Some(reading) = observation.telemetry.gpus.get(*uuid) else { continue };
            let tenants = fleet.running_tenants(reading);
            let ours = tenants.iter().filter(|tenant| pods.contains_key(*tenant)).count();
            if ours == tenants.len() {
                devices.insert(*uuid, reading);
            } else {
                #[expect(clippy::cast_precision_loss, reason = "a device has few tenants")]
                shared.insert(*uuid, (reading, ours as f64 / tenants.len() as f64));
            }
        }
        Self { object: Arc::clone(object), policy, pods, devices, shared }
    }

    /// Whether it writes ceilings.
    pub fn enforces(&self) -> bool {
        self.policy.as_ref().is_ok_and(|policy| policy.mode == Mode::Enforce)
    }

    /// As it stands in `setBy`, even when the spec cannot be understood.
    pub fn set_by(&self) -> String {
        let metadata = &self.object.metadata;
        let part = |name: &Option<String>| name.clone().unwrap_or_default();
        format!("powercappingpolicy/{}/{}", part(&metadata.namespace), part(&metadata.name))
    }
}

/// Judges one policy that is understood and not off.
pub fn judge(
    view: &PolicyView<'_>,
    policy: &Policy,
    fleet: &Fleet<'_>,
    observation: &Observation,
    now: Timestamp,
) -> Verdict {
    let old = view.object.status.clone().unwrap_or_default();
    let host = host_power(view, policy, observation, now);
    let devices = device_power(view, observation, now);
    let shared: Watts =
        view.shared.values().filter_map(|(reading, part)| reading.power.map(|power| power.value.scaled(*part))).sum();
    let power = match (&devices, &host) {
        (Ok(devices), Ok(host)) => Ok(*devices + *host),
        (Err(hold), _) | (_, Err(hold)) => Err(hold.clone()),
    };

    let reserved = reserved(policy, view.devices.len(), old.recommended_device_watts, host.as_ref().ok().copied());
    let for_devices = policy.cap.saturating_sub(reserved).saturating_sub(shared);
    let boards: Vec<_> = view.devices.keys().map(|uuid| fleet.boards.get(uuid).map(|(_, board)| *board)).collect();
    let maxima: Vec<_> =
        boards.iter().map(|board| board.map(|board| Watts::new(board.max_power_limit_watts))).collect();
    let shares = uniform::shares(for_devices, &maxima).into_iter().map(|share| share.max(Watts::new(1)));
    let limits: BTreeMap<_, _> = view.devices.keys().map(|uuid| (*uuid).to_owned()).zip(shares).collect();

    let triggered = triggered(policy, &power, condition::truth(&old.conditions, kind::CAP_TRIGGERED));
    let target = policy.capping_threshold.saturating_sub(host.unwrap_or(reserved)).saturating_sub(shared);
    let present = present_ceiling(view, fleet, old.recommended_max_megahertz);
    let edited = old.observed_generation.is_some() && old.observed_generation != view.object.metadata.generation;
    let last_change = observation.steps.get(&policy.id).copied();
    let ceiling = match loads(view, fleet, observation, now) {
        Some((loads, oldest)) => {
            let settled = last_change.is_none_or(|change| oldest.duration_since(change) > SETTLES_WITHIN);
            let pressure = pressure(policy, &power, edited, settled);
            ceiling::next(present, pressure, &loads, target, range(&boards))
        }
        // Without readings everything stays as it is.
        None => present,
    };
    let changed_at = if ceiling == present { last_change } else { Some(now) };
    let floor = boards.iter().map(|board| board.map_or(UNKNOWN_IDLE, fleet::floor)).sum();
    Verdict { power, triggered, limits, ceiling, changed_at, floor, for_devices }
}

fn pressure(policy: &Policy, power: &Result<Watts, Hold>, edited: bool, settled: bool) -> Pressure {
    match power {
        Ok(power) if *power >= policy.capping_threshold && (settled || edited) => Pressure::Lower,
        Ok(power) if *power < policy.release_threshold && edited => Pressure::RelaxAtOnce,
        Ok(power) if *power < policy.release_threshold && settled => Pressure::Relax,
        _ => Pressure::Hold,
    }
}

fn triggered(policy: &Policy, power: &Result<Watts, Hold>, before: Truth) -> Truth {
    match power {
        Ok(power) if *power >= policy.capping_threshold => Truth::True,
        Ok(power) if *power < policy.release_threshold => Truth::False,
        Ok(_) => (before == Truth::True).into(),
        Err(_) if before == Truth::True => Truth::True,
        Err(_) => Truth::Unknown,
    }
}

/// CPU power of the pods, where the policy counts it.
fn host_power(
    view: &PolicyView<'_>,
    policy: &Policy,
    observation: &Observation,
    now: Timestamp,
) -> Result<Watts, Hold> {
    if policy.scope == PowerScope::Devices {
        return Ok(Watts::ZERO);
    }
    let telemetry = &observation.telemetry;
    let of_pod = |pod: &&PodName| {
        let what = format!("the CPU use of pod {pod}");
        let sample = telemetry.pod_cpu.get(*pod);
        fresh(sample, &what, telemetry.cpu_problem.as_ref(), now, observation.stale_after()).map(|sample| sample.value)
    };
    view.pods.keys().map(of_pod).sum()
}

/// Power of the pods' devices; of shared ones, the policy's part.
fn device_power(view: &PolicyView<'_>, observation: &Observation, now: Timestamp) -> Result<Watts, Hold> {
    let problem = observation.telemetry.gpu_problem.as_ref();
    if let Some(problem) = problem.filter(|_| !view.pods.is_empty() && view.devices.is_empty()) {
        return Err(problem.clone());
    }
    for pod in view.pods.values().filter(|pod| pod.gpus > 0) {
        let seen = view.devices.values().chain(view.shared.values().map(|(reading, _)| reading));
        if !seen.into_iter().any(|reading| reading.tenants.contains(&pod.name)) {
            let nothing = || Hold::new(Reason::NoData, format!("no reading names a GPU of pod {}", pod.name));
            return Err(problem.cloned().unwrap_or_else(nothing));
        }
    }
    let whole = view.devices.iter().map(|(uuid, reading)| (*uuid, *reading, 1.0));
    let parts = view.shared.iter().map(|(uuid, (reading, part))| (*uuid, *reading, *part));
    whole
        .chain(parts)
        .map(|(uuid, reading, part)| {
            let sample = fresh(reading.power.as_ref(), uuid, problem, now, observation.stale_after())?;
            Ok(sample.value.scaled(part))
        })
        .sum()
}

/// Watts of the cap that are kept for CPUs. They move in steps, so that limits do not follow every
/// flicker: up as soon as they are too few, down when they are too many by more than two steps.
fn reserved(policy: &Policy, devices: usize, limit_before: Option<u32>, host: Option<Watts>) -> Watts {
    if policy.scope == PowerScope::Devices {
        return Watts::ZERO;
    }
    let devices = u64::try_from(devices).unwrap_or(u64::MAX);
    let before = limit_before.map(|limit| {
        policy.cap.saturating_sub(Watts::from_milliwatts(Watts::new(limit).as_milliwatts().saturating_mul(devices)))
    });
    let Some(host) = host else { return before.unwrap_or_default() };
    let step = policy.cap.percent(2).max(Watts::new(25));
    match before {
        Some(before) if host <= before && before <= host + step + step => before,
        _ => host + step,
    }
}

/// The ceiling that the policy has now: the lower of what it wrote to nodes and what it last reported.
fn present_ceiling(view: &PolicyView<'_>, fleet: &Fleet<'_>, reported: Option<u32>) -> Option<Megahertz> {
    let set_by = view.set_by();
    let written = view.devices.keys().filter_map(|uuid| fleet.ceilings.get(uuid));
    let written = written.filter(|(_, gpu)| gpu.set_by == set_by).filter_map(|(_, gpu)| gpu.max_graphics_megahertz);
    written.chain(reported).min().map(Megahertz::new)
}

/// Power and clock of every device of the same moment, and the oldest of these moments; `None` unless
/// all of them are recent.
fn loads(
    view: &PolicyView<'_>,
    fleet: &Fleet<'_>,
    observation: &Observation,
    now: Timestamp,
) -> Option<(Vec<Loaded>, Timestamp)> {
    let recent = |at: Timestamp| now.duration_since(at).abs() <= observation.stale_after();
    let loaded = |(uuid, reading): (&&str, &&GpuReading)| {
        let (power, clock): (Sample<Watts>, Sample<Megahertz>) = reading.power.zip(reading.clock)?;
        let usable = recent(power.at) && power.at.duration_since(clock.at).abs() <= SAME_MOMENT;
        let idle = fleet.boards.get(uuid).map_or(UNKNOWN_IDLE, |(_, board)| fleet::idle(board));
        usable.then_some((Loaded { power: power.value, clock: clock.value, idle }, power.at))
    };
    let loads: Vec<_> = view.devices.iter().map(loaded).collect::<Option<_>>()?;
    let oldest = loads.iter().map(|(_, at)| *at).min()?;
    Some((loads.into_iter().map(|(load, _)| load).collect(), oldest))
}

/// The clocks that the boards can be held to. While no agent has told the highest, no ceiling is taken off.
fn range(boards: &[Option<&powercap_common::api::GpuStatus>]) -> Range {
    let known = || boards.iter().flatten().filter(|board| board.max_graphics_megahertz > 0);
    Range {
        lowest: known().map(|board| board.min_graphics_megahertz).max().map_or(UNKNOWN_LOWEST, Megahertz::new),
        highest: known()
            .map(|board| board.max_graphics_megahertz)
            .max()
            .map_or(Megahertz::new(100_000), Megahertz::new),
    }
}
