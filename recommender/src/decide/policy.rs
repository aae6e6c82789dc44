//! Policies: whose pods and devices, how much they draw, and what each device may draw and clock.
//!
//! Each device's power limit is an equal share of the cap and stands always, so that the cap holds by
//! construction, through the node agent's fast loop and the board's own limiter. The clock ceiling comes
//! on top when power crosses the capping threshold: a lower clock draws less for the same work.

use std::{collections::BTreeMap, sync::Arc};

use jiff::{SignedDuration, Timestamp};
use powercap_common::{
    api::{GpuCeiling, Mode, PowerCappingPolicy, PowerScope},
    condition::{self, Truth, kind},
    policy::{Policy, PolicyError},
    reason::Reason,
    units::{Megahertz, Watts},
};

use super::{
    ceiling::{self, Loaded, Pressure, Range},
    fleet::{self, Fleet},
    node,
    outlook::{self, Outlook},
    readings::Readings,
    uniform,
};
use crate::observation::{Apart, GpuReading, Hold, Observation, PodFacts, PodName, fresh};

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
pub struct Verdict<'a> {
    /// Its power, or why it is not known.
    pub power: Result<Watts, Hold>,
    /// Whether the clocks of its devices are known; without them the ceiling stays as it is.
    pub clocks: Result<(), Hold>,
    /// Its devices of which two sources tell different power.
    pub apart: Vec<(String, &'a Apart)>,
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
    /// Its peak and forecast.
    pub outlook: Outlook,
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

    /// Whether a pod asks for GPUs and no device names it.
    fn is_without_device(&self, pod: &PodFacts) -> bool {
        let mut seen = self.devices.values().copied().chain(self.shared.values().map(|(reading, _)| *reading));
        pod.gpus > 0 && !seen.any(|reading| reading.tenants.contains(&pod.name))
    }

    /// As it stands in `setBy`, even when the spec cannot be understood.
    pub fn set_by(&self) -> String {
        let metadata = &self.object.metadata;
        let part = |name: &Option<String>| name.clone().unwrap_or_default();
        format!("powercappingpolicy/{}/{}", part(&metadata.namespace), part(&metadata.name))
    }
}

/// Judges one policy that is understood and not off.
pub fn judge<'a>(view: &PolicyView<'_>, policy: &Policy, readings: &Readings<'a>) -> Verdict<'a> {
    let &Readings { fleet, observation, now, .. } = readings;
    let old = view.object.status.clone().unwrap_or_default();
    let host = host_power(view, policy, observation, now);
    let lost = lost(view, readings);
    let devices = device_power(view, &lost, readings);
    let parts = shared_power(view, readings);
    let power = match (&devices, &parts, &host) {
        (Ok(devices), Ok(parts), Ok(host)) => Ok(*devices + *parts + *host),
        (Err(hold), _, _) | (_, Err(hold), _) | (_, _, Err(hold)) => Err(hold.clone()),
    };

    let reserved = reserved(policy, view.devices.len(), old.recommended_device_watts, host.as_ref().ok().copied());
    let kept: Watts = lost.values().map(|ceiling| kept(ceiling, fleet)).sum();
    let shared = parts.as_ref().ok().copied().unwrap_or_default();
    let for_devices = policy.cap.saturating_sub(reserved).saturating_sub(shared).saturating_sub(kept);
    let boards: Vec<_> = view.devices.keys().map(|uuid| fleet.boards.get(uuid).map(|(_, board)| *board)).collect();
    let maxima: Vec<_> =
        boards.iter().map(|board| board.map(|board| Watts::new(board.max_power_limit_watts))).collect();
    let shares = uniform::shares(for_devices, &maxima).into_iter().map(|share| share.max(Watts::new(1)));
    let blind = parts.is_err() || !lost.is_empty();
    let limit = |(uuid, share): (&&str, Watts)| {
        // Others may draw what they did while nobody tells: nothing is raised on that.
        let standing = fleet.ceilings.get(uuid).filter(|_| blind).and_then(|(_, ceiling)| ceiling.power_limit_watts);
        ((*uuid).to_owned(), standing.map_or(share, |standing| share.min(Watts::new(standing))))
    };
    let limits: BTreeMap<_, _> = view.devices.keys().zip(shares).map(limit).collect();

    let triggered = triggered(policy, &power, condition::truth(&old.conditions, kind::CAP_TRIGGERED));
    let target = policy.capping_threshold.saturating_sub(host.unwrap_or(reserved)).saturating_sub(shared);
    let present = present_ceiling(view, fleet, old.recommended_max_megahertz);
    let edited = old.observed_generation.is_some() && old.observed_generation != view.object.metadata.generation;
    let last_change = observation.steps.get(&policy.id).copied();
    let apart = apart(view, readings);
    let ceiling = match loads(view, readings).filter(|_| lost.is_empty()) {
        Some((loads, oldest)) => {
            let settled = last_change.is_none_or(|change| oldest.duration_since(change) > SETTLES_WITHIN);
            let pressure = pressure(policy, &power, edited, settled).unless(!apart.is_empty());
            ceiling::next(present, pressure, &loads, target, range(&boards))
        }
        // Without readings everything stays as it is.
        None => present,
    };
    let changed_at = if ceiling == present { last_change } else { Some(now) };
    let floor = boards.iter().map(|board| board.map_or(UNKNOWN_IDLE, fleet::floor)).sum();
    let clocks = clocks(view, readings);
    let history = &observation.telemetry.history;
    let past = outlook::of_policy(view, policy, history, now);
    let outlook = Outlook::of(past, power.as_ref().ok().copied(), history, now);
    Verdict { power, clocks, apart, triggered, limits, ceiling, changed_at, floor, for_devices, outlook }
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
        let (name, what) = (pod.to_string(), format!("the CPU use of pod {pod}"));
        let (sample, trouble) = (telemetry.pod_cpu.get(*pod), telemetry.trouble_of_cpu(&name));
        fresh(sample, &what, trouble, now, observation.stale_after()).map(|sample| sample.value)
    };
    view.pods.keys().map(of_pod).sum()
}

/// Power of the pods' own devices.
fn device_power(
    view: &PolicyView<'_>,
    lost: &BTreeMap<&str, &GpuCeiling>,
    readings: &Readings<'_>,
) -> Result<Watts, Hold> {
    let problem = readings.observation.telemetry.gpu_problem.as_ref();
    if let Some(problem) = problem.filter(|_| !view.pods.is_empty() && view.devices.is_empty()) {
        return Err(problem.clone());
    }
    let nothing = |what: String| problem.cloned().unwrap_or_else(|| Hold::new(Reason::NoData, what));
    if let Some(pod) = view.pods.values().find(|pod| view.is_without_device(pod)) {
        return Err(nothing(format!("no reading names a GPU of pod {}", pod.name)));
    }
    if let Some(uuid) = lost.keys().next() {
        let trouble = readings.observation.telemetry.gpu_rejected.get(*uuid).cloned();
        return Err(trouble.unwrap_or_else(|| nothing(format!("no reading tells any more whose {uuid} is"))));
    }
    view.devices.keys().map(|uuid| Ok(readings.of_board(uuid)?.power.value)).sum()
}

/// The policy's part of the power of devices that it shares.
fn shared_power(view: &PolicyView<'_>, readings: &Readings<'_>) -> Result<Watts, Hold> {
    let part = |(uuid, (_, part)): (&&str, &(_, f64))| Ok(readings.of_board(uuid)?.power.value.scaled(*part));
    view.shared.iter().map(part).sum()
}

/// Devices that the policy has put a ceiling on and of which nobody tells any more whose they are. The pods
/// may still use them: what they may draw is not for the other devices.
fn lost<'a>(view: &PolicyView<'_>, readings: &Readings<'a>) -> BTreeMap<&'a str, &'a GpuCeiling> {
    let &Readings { fleet, observation, now, .. } = readings;
    let set_by = view.set_by();
    let ours = fleet.ceilings.iter().filter(|(_, (_, ceiling))| view.enforces() && ceiling.set_by == set_by);
    let lost = ours.filter(|(uuid, (at, _))| {
        let node = &fleet.nodes[*at];
        let agent = node.frequencies.and_then(|object| object.status.as_ref());
        let agent = agent.filter(|_| !observation.agent_is_silent(node.name, node.frequencies, now));
        // Its agent knows whose it is, or that it is there no more.
        let known = agent.is_some_and(|status| match fleet.boards.get(*uuid) {
            Some((_, board)) => board.tenants.is_some(),
            None => !status.gpus.is_empty(),
        });
        let here = |pod: &&&PodFacts| fleet.node(&pod.node) == Some(*at);
        let in_search = || view.pods.values().filter(here).any(|pod| view.is_without_device(pod));
        !known
            && node::stands(view, uuid, *at, readings)
            && (in_search() || observation.telemetry.gpus.get(**uuid).is_none_or(|gpu| gpu.power.is_none()))
    });
    lost.map(|(uuid, (_, ceiling))| (*uuid, *ceiling)).collect()
}

/// What a lost device may draw.
fn kept(ceiling: &GpuCeiling, fleet: &Fleet<'_>) -> Watts {
    let most = || fleet.boards.get(ceiling.uuid.as_str()).map(|(_, board)| board.max_power_limit_watts);
    ceiling.power_limit_watts.or_else(most).map(Watts::new).unwrap_or_default()
}

/// Devices of which two sources tell different power.
fn apart<'a>(view: &PolicyView<'_>, readings: &Readings<'a>) -> Vec<(String, &'a Apart)> {
    let of = |uuid: &&str| Some(((*uuid).to_owned(), readings.of_board(uuid).ok()?.apart?));
    view.devices.keys().chain(view.shared.keys()).filter_map(of).collect()
}

/// Whether every device's clock is known.
fn clocks(view: &PolicyView<'_>, readings: &Readings<'_>) -> Result<(), Hold> {
    for uuid in view.devices.keys() {
        let clock = readings.of_board(uuid)?.clock;
        if !clock.is_some_and(|clock| readings.recent(clock.at)) {
            return Err(Hold::new(Reason::NoData, format!("no recent reading of the clock of {uuid}")));
        }
    }
    Ok(())
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
fn loads(view: &PolicyView<'_>, readings: &Readings<'_>) -> Option<(Vec<Loaded>, Timestamp)> {
    let loaded = |uuid: &&str| {
        let counted = readings.of_board(uuid).ok()?;
        let (power, clock) = (counted.power, counted.clock?);
        let usable = power.at.duration_since(clock.at).abs() <= SAME_MOMENT;
        let idle = readings.fleet.boards.get(uuid).map_or(UNKNOWN_IDLE, |(_, board)| fleet::idle(board));
        usable.then_some((Loaded { power: power.value, clock: clock.value, idle }, power.at))
    };
    let loads: Vec<_> = view.devices.keys().map(loaded).collect::<Option<_>>()?;
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
