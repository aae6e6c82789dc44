//! Policies: whose pods and devices, how much they draw, and what each device may draw and clock.
//!
//! Each device's power limit is its share of the cap and stands always, so that the cap holds by
//! construction, through the node agent's fast loop and the board's own limiter. The clock ceiling comes
//! on top when power crosses the capping threshold: a lower clock draws less for the same work. Neither goes
//! below what `spec.performance` allows, in which the cap is given up first.

use std::sync::Arc;

use jiff::SignedDuration;
use powercap_common::{
    api::{FoundTarget, GpuCeiling, Mode, PowerCappingPolicy, PowerScope},
    condition::{self, Truth, kind},
    policy::{Policy, PolicyError},
    reason::Reason,
    units::Watts,
};

use super::{
    ceiling::Pressure,
    claims::Device,
    fleet::{self, Board, Fleet, Pod},
    groups::Groups,
    labelled::Labelled,
    node,
    outlook::{self, Outlook},
    overlap::{First, Taken},
    performance,
    readings::{Doubt, Readings},
    selection::Selection,
    share,
    tenancy::{Permission, Rules},
    throttle::{self, Ceilings, UNKNOWN_IDLE},
};
use crate::{
    algorithms::{self, Algorithm},
    observation::{Hold, Observation, PodName, Throttled, fresh},
};

/// After a change of a ceiling, readings younger than this may still be of before: the clock lock takes
/// some 100 ms and a board's power is an average over a second.
const SETTLES_WITHIN: SignedDuration = SignedDuration::from_millis(1500);

/// A policy as written, as understood, and its pods and devices.
pub struct PolicyView<'a> {
    /// As written.
    pub object: Arc<PowerCappingPolicy>,
    /// As understood.
    pub policy: Result<Policy, PolicyError>,
    /// By which it shares its cap out.
    pub algorithm: Box<dyn Algorithm>,
    /// Running pods that it selects.
    pub pods: Vec<&'a Pod<'a>>,
    /// Their devices, those shared with pods of others apart. These and those below are in their order.
    pub devices: Vec<&'a Board<'a>>,
    /// Devices that it shares with pods that it does not select, and its part of them.
    pub shared: Vec<(&'a Board<'a>, f64)>,
    /// Its own devices on nodes whose domains let it do less than elsewhere.
    pub barred: Vec<&'a Board<'a>>,
    /// What its target led to.
    pub target: Option<FoundTarget>,
    /// Why its target is not known now.
    pub trouble: Option<Hold>,
    /// What the domains of its pods' nodes permit.
    pub permission: Permission,
}

/// What a policy asks for, and what it found.
pub struct Verdict<'a> {
    /// Its power, or why it is not known.
    pub power: Result<Watts, Hold>,
    /// Whether the clocks of its devices are known; without them the ceiling stays as it is.
    pub clocks: Result<(), Hold>,
    /// Its devices on which sources differ.
    pub doubts: Vec<(String, Doubt<'a>)>,
    /// Whether capping is triggered.
    pub triggered: Truth,
    /// The power limit of each of its devices, in their order.
    pub limits: Vec<Watts>,
    /// The clock ceilings of its devices.
    pub ceilings: Ceilings,
    /// How far down they are.
    pub floor_reached: FloorReached,
    /// What is to be remembered of them.
    pub throttled: Throttled,
    /// What its devices draw together at their lowest settings.
    pub floor: Watts,
    /// Likewise at the lowest clocks that `spec.performance` allows, and the field that binds.
    pub performance_floor: Option<(Watts, String)>,
    /// What is left of the cap for its devices.
    pub for_devices: Watts,
    /// Its peak and forecast.
    pub outlook: Outlook,
    /// What else the cap has to cover.
    pub beside: Beside,
    /// Why its algorithm's shares were not used.
    pub refused: Option<Hold>,
    /// Its devices on which a policy that comes first has the say.
    pub overlapped: Vec<(&'a Board<'a>, First)>,
}

/// Whether the ceilings of a policy's devices are as low as they may go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FloorReached {
    /// Some may go lower.
    No,
    /// They are, and the readings may still be of before.
    Ordered,
    /// They are, and the readings are of that.
    Measured,
}

/// Watts of a cap that are not for the policy's own devices.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Beside {
    /// Kept for the CPU use of the pods.
    pub host: Watts,
    /// The policy's part of devices that it shares.
    pub shared: Watts,
    /// Kept for devices of which nobody tells any more whose they are.
    pub lost: Watts,
}

impl<'a> PolicyView<'a> {
    /// Understands one policy. `pods_in` are the running pods of its namespace, if there are any.
    pub fn of(
        object: &Arc<PowerCappingPolicy>,
        pods_in: Option<&mut Labelled<'a, &'a Pod<'a>>>,
        rules: &Rules<'_>,
        fleet: &'a Fleet<'a>,
        observation: &'a Observation,
    ) -> Self {
        let (mut policy, algorithm) = understood(object);
        let active = policy.as_ref().ok().filter(|policy| policy.mode != Mode::Off);
        let selection = active.map(|policy| Selection::of(policy, object, pods_in, observation)).unwrap_or_default();
        let Selection { mut pods, target, trouble } = selection;
        let chosen = pods.iter().copied();
        let permission = active.map(|policy| Permission::of(policy, chosen, rules, fleet, observation));
        let permission = permission.unwrap_or_default();
        if let Ok(policy) = &mut policy {
            policy.mode = policy.mode.min(permission.mode);
            if policy.mode == Mode::Off {
                pods.clear();
            }
        }
        let mut boards: Vec<_> = pods.iter().flat_map(|pod| fleet.boards_of(pod)).collect();
        boards.sort_by_key(|board| board.at);
        boards.dedup_by_key(|board| board.at);
        let (mut devices, mut shared, mut barred) = (Vec::new(), Vec::new(), Vec::new());
        for board in boards {
            let tenants = &board.tenants;
            let is_ours = |tenant: &&usize| pods.binary_search_by_key(*tenant, |pod| pod.at).is_ok();
            let ours = tenants.iter().filter(is_ours).count();
            if ours < tenants.len() && !permission.shares_on(board.node) {
                #[expect(clippy::cast_precision_loss, reason = "a device has few tenants")]
                shared.push((board, ours as f64 / tenants.len() as f64));
            } else if permission.acts_on(board.node) {
                devices.push(board);
            } else {
                barred.push(board);
            }
        }
        Self {
            object: Arc::clone(object),
            policy,
            algorithm,
            pods,
            devices,
            shared,
            barred,
            target,
            trouble,
            permission,
        }
    }

    /// The place of a board among its devices, if it is one of them.
    pub fn device(&self, board: &Board<'_>) -> Option<usize> {
        self.devices.binary_search_by_key(&board.at, |board| board.at).ok()
    }

    /// Every board that its pods use.
    pub fn boards(&self) -> impl Iterator<Item = &'a Board<'a>> {
        let shared = self.shared.iter().map(|(board, _)| board);
        self.devices.iter().chain(shared).chain(&self.barred).copied()
    }

    /// Where among its pods the running pod of this place stands, if it selects it.
    pub fn place(&self, pod: usize) -> Option<usize> {
        self.pods.binary_search_by_key(&pod, |pod| pod.at).ok()
    }

    /// The running pod of this name, if it selects it.
    pub fn named(&self, name: &PodName) -> Option<&'a Pod<'a>> {
        let at = self.pods.binary_search_by_key(&name, |pod| &pod.facts.name).ok()?;
        self.pods.get(at).copied()
    }

    /// Whether it writes ceilings.
    pub fn enforces(&self) -> bool {
        self.policy.as_ref().is_ok_and(|policy| policy.mode == Mode::Enforce)
    }

    /// Why it is neither judged nor carried out although it is understood and not switched off.
    pub fn hold(&self) -> Option<&Hold> {
        let unknown = self.trouble.as_ref().filter(|_| self.is_unresolved());
        unknown.or(self.permission.bound.as_ref().filter(|_| self.permission.mode == Mode::Off))
    }

    /// Whether nobody knows which pods it is for.
    pub fn is_unresolved(&self) -> bool {
        self.trouble.is_some() && self.target.is_none()
    }

    /// As it stands in `setBy`, even when the spec cannot be understood.
    pub fn set_by(&self) -> String {
        let metadata = &self.object.metadata;
        let part = |name: &Option<String>| name.clone().unwrap_or_default();
        format!("powercappingpolicy/{}/{}", part(&metadata.namespace), part(&metadata.name))
    }
}

/// The policy and its algorithm; nobody understands one whose algorithm nobody knows.
fn understood(object: &PowerCappingPolicy) -> (Result<Policy, PolicyError>, Box<dyn Algorithm>) {
    let policy = Policy::try_from(object);
    let algorithm = algorithms::made(policy.as_ref().map(|policy| policy.algorithm).unwrap_or_default());
    (policy, algorithm)
}

/// Judges one policy that is understood and not off.
pub fn judge<'a>(
    view: &PolicyView<'a>,
    policy: &Policy,
    taken: &Taken,
    groups: &Groups,
    readings: &Readings<'a>,
) -> Verdict<'a> {
    let &Readings { observation, now, .. } = readings;
    let old = view.object.status.clone().unwrap_or_default();
    let host = host_power(view, policy, readings);
    let lost = lost(view, readings);
    let measured = device_power(view, &lost, readings);
    let parts = shared_power(view, readings);
    let power = match (&measured, &parts, &host) {
        (Ok(devices), Ok(parts), Ok(host)) => Ok(*devices + *parts + *host),
        (Err(hold), _, _) | (_, Err(hold), _) | (_, _, Err(hold)) => Err(hold.clone()),
    };

    let beside = Beside {
        host: reserved(policy, old.host_reserve_watts, host.as_ref().ok().copied()),
        shared: parts.as_ref().ok().copied().unwrap_or_default(),
        lost: lost.iter().map(|(board, ceiling)| kept(board, ceiling)).sum(),
    };
    let for_devices = policy.cap.saturating_sub(beside.host + beside.shared + beside.lost);
    let target = policy.capping_threshold.saturating_sub(host.unwrap_or(beside.host) + beside.shared);
    let first = |board: &Board<'_>| taken.first(board).filter(|_| view.enforces());
    let overlapped: Vec<_> = view.devices.iter().filter_map(|board| Some((*board, first(board)?))).collect();
    let devices = devices(view, policy, first);
    let shared = share::out(view, &devices, for_devices, target, groups, readings);
    let blind = parts.is_err() || !lost.is_empty();
    let limit = |(device, share): (&Device<'_>, Watts)| {
        // Others may draw what they did while nobody tells: nothing is raised on that.
        let standing = device.board.ceiling.filter(|_| blind);
        let standing = standing.and_then(|(_, ceiling)| ceiling.power_limit_watts);
        standing.map_or(share, |standing| share.min(Watts::new(standing)))
    };
    let limits: Vec<_> = devices.iter().zip(shared.limits).map(limit).collect();

    let triggered = triggered(policy, &power, condition::truth(&old.conditions, kind::CAP_TRIGGERED));
    let before = observation.throttled.get(&policy.id).copied().unwrap_or_default();
    // What is ahead of us was remembered before the clock was set back.
    let before = Throttled { changed_at: before.changed_at.map(|at| at.min(now)), ..before };
    let doubts = doubts(view, readings);
    let present = shared.throttle.present();
    let (ceilings, settled, threshold) = match throttle::loads(view, readings).filter(|_| lost.is_empty()) {
        Some((loads, oldest)) => {
            let settled = before.changed_at.is_none_or(|change| oldest.duration_since(change) > SETTLES_WITHIN);
            let certain = settled && power.is_ok() && doubts.is_empty();
            let pressure = pressure(policy, &power, before.threshold, settled).unless(!doubts.is_empty());
            let acted = certain || pressure == Pressure::Lower;
            let threshold = if acted { Some(policy.capping_threshold) } else { before.threshold };
            (shared.throttle.next(pressure, &loads, certain), settled, threshold)
        }
        // Without readings everything stays as it is.
        None => (present.clone(), devices.is_empty(), before.threshold),
    };
    let floor_reached = match shared.throttle.is_at_floor(&ceilings) {
        false => FloorReached::No,
        true if settled && ceilings == present => FloorReached::Measured,
        true => FloorReached::Ordered,
    };
    let changed_at = if ceilings == present { before.changed_at } else { Some(now) };
    let floor = devices.iter().map(|device| device.board.told.map_or(UNKNOWN_IDLE, fleet::floor)).sum();
    let performance_floor = performance_floor(policy, &devices, &overlapped);
    let clocks = clocks(view, readings);
    let refused = shared.refused;
    let history = &observation.telemetry.history;
    let past = outlook::of_policy(view, policy, readings);
    let outlook = Outlook::of(past, power.as_ref().ok().copied(), history, now);
    Verdict {
        power,
        clocks,
        doubts,
        triggered,
        limits,
        ceilings,
        floor_reached,
        throttled: Throttled { changed_at, threshold },
        floor,
        performance_floor,
        for_devices,
        beside,
        refused,
        overlapped,
        outlook,
    }
}

/// What is known of each of its devices, in their order.
fn devices<'a>(view: &PolicyView<'a>, policy: &Policy, first: impl Fn(&Board<'_>) -> Option<First>) -> Vec<Device<'a>> {
    let device = |board: &&'a Board<'a>| {
        let first = first(board);
        let floor = first.map_or(policy.clock_floor, |first| first.clock_floor);
        // A board that nobody has told of has no clock that could be a share of its highest.
        let bounds = board.told.zip(floor).filter(|(told, _)| told.max_graphics_megahertz > 0);
        Device {
            board,
            lowest_by_floor: bounds.map(|(told, floor)| performance::lowest_clock(told, floor)),
            least_by_floor: bounds.map(|(told, floor)| performance::lowest_limit(told, floor)),
            most_by_others: first.map(|first| first.most),
        }
    };
    view.devices.iter().map(device).collect()
}

/// What the devices draw at the lowest clocks that the policy may ask of them, and the field that binds.
fn performance_floor(
    policy: &Policy,
    devices: &[Device<'_>],
    overlapped: &[(&Board<'_>, First)],
) -> Option<(Watts, String)> {
    let own = policy.clock_floor.filter(|_| overlapped.len() < devices.len()).map(|floor| floor.field.to_string());
    let others = || {
        let floor = overlapped.iter().find_map(|(_, first)| first.clock_floor)?;
        Some(format!("{} of a policy that comes first", floor.field))
    };
    let field = own.or_else(others)?;
    let draws = |device: &Device<'_>| {
        let lowest = device.board.told.map_or(UNKNOWN_IDLE, fleet::floor);
        lowest.max(device.least_by_floor.unwrap_or_default())
    };
    Some((devices.iter().map(draws).sum(), field))
}

/// `before` is the capping threshold that the ceilings were last reckoned for.
fn pressure(policy: &Policy, power: &Result<Watts, Hold>, before: Option<Watts>, settled: bool) -> Pressure {
    let lowered = before.is_some_and(|before| policy.capping_threshold < before);
    let raised = before.is_some_and(|before| policy.capping_threshold > before);
    match power {
        Ok(power) if *power >= policy.capping_threshold && (settled || lowered) => Pressure::Lower,
        Ok(power) if *power < policy.release_threshold && settled && raised => Pressure::RelaxAtOnce,
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
fn host_power(view: &PolicyView<'_>, policy: &Policy, readings: &Readings<'_>) -> Result<Watts, Hold> {
    if policy.scope == PowerScope::Devices {
        return Ok(Watts::ZERO);
    }
    let &Readings { observation, now, .. } = readings;
    let of_pod = |pod: &&Pod<'_>| {
        if let Some(sample) = readings.cpu_of(pod) {
            return Ok(sample.value);
        }
        let name = &pod.facts.name;
        let trouble = observation.telemetry.trouble_of_cpu(&name.to_string());
        let what = format_args!("the CPU use of pod {name}");
        fresh(pod.cpu, &what, trouble, now, observation.stale_after()).map(|sample| sample.value)
    };
    view.pods.iter().map(of_pod).sum()
}

/// Power of the pods' own devices.
fn device_power(
    view: &PolicyView<'_>,
    lost: &[(&Board<'_>, &GpuCeiling)],
    readings: &Readings<'_>,
) -> Result<Watts, Hold> {
    let problem = readings.observation.telemetry.gpu_problem.as_ref();
    if let Some(problem) =
        problem.filter(|_| !view.pods.is_empty() && view.devices.is_empty() && view.barred.is_empty())
    {
        return Err(problem.clone());
    }
    let nothing = |what: String| problem.cloned().unwrap_or_else(|| Hold::new(Reason::NoData, what));
    if let Some(pod) = view.pods.iter().find(|pod| pod.is_without_device()) {
        return Err(nothing(format!("no reading names a GPU of pod {}", pod.facts.name)));
    }
    if let Some((Board { uuid, .. }, _)) = lost.first() {
        let trouble = readings.observation.telemetry.gpu_rejected.get(*uuid).cloned();
        return Err(trouble.unwrap_or_else(|| nothing(format!("no reading tells any more whose {uuid} is"))));
    }
    view.devices.iter().map(|board| Ok(readings.of_board(board)?.power.value)).sum()
}

/// The policy's part of the power of devices that it shares, and all of that of devices on which it may not act.
fn shared_power(view: &PolicyView<'_>, readings: &Readings<'_>) -> Result<Watts, Hold> {
    let part = |(board, part): &(&Board<'_>, f64)| Ok(readings.of_board(board)?.power.value.scaled(*part));
    let barred = view.barred.iter().map(|board| Ok(readings.of_board(board)?.power.value));
    view.shared.iter().map(part).chain(barred).sum()
}

/// Devices that the policy has put a ceiling on and of which nobody tells any more whose they are. The pods
/// may still use them: what they may draw is not for the other devices.
fn lost<'a>(view: &PolicyView<'_>, readings: &Readings<'a>) -> Vec<(&'a Board<'a>, &'a GpuCeiling)> {
    let &Readings { fleet, observation, now, .. } = readings;
    let set_by = view.set_by();
    let ours = fleet.ceilings_by(&set_by).filter(|_| view.enforces());
    let lost = ours.filter(|(board, at, _)| {
        let node = &fleet.nodes[*at];
        let agent = node.frequencies.and_then(|object| object.status.as_ref());
        let agent = agent.filter(|_| !observation.agent_is_silent(node.name, node.frequencies, now));
        // Its agent knows whose it is, or that it is there no more.
        let known = agent.is_some_and(|status| match board.told {
            Some(told) => told.tenants.is_some(),
            None => !status.gpus.is_empty(),
        });
        let in_search = || view.pods.iter().any(|pod| pod.node == Some(*at) && pod.is_without_device());
        !known
            && node::stands(view, board, *at, readings)
            && (in_search() || board.reading.is_none_or(|gpu| gpu.power.is_none()))
    });
    lost.map(|(board, _, ceiling)| (board, ceiling)).collect()
}

/// What a lost device may draw.
fn kept(board: &Board<'_>, ceiling: &GpuCeiling) -> Watts {
    let most = || board.told.map(|told| told.max_power_limit_watts);
    ceiling.power_limit_watts.or_else(most).map(Watts::new).unwrap_or_default()
}

/// Devices on which sources differ.
fn doubts<'a>(view: &PolicyView<'_>, readings: &Readings<'a>) -> Vec<(String, Doubt<'a>)> {
    view.boards().filter_map(|board| Some((board.uuid.to_owned(), readings.of_board(board).ok()?.doubt?))).collect()
}

/// Whether every device's clock is known.
fn clocks(view: &PolicyView<'_>, readings: &Readings<'_>) -> Result<(), Hold> {
    for board in &view.devices {
        let clock = readings.of_board(board)?.clock;
        if !clock.is_some_and(|clock| readings.recent(clock.at)) {
            return Err(Hold::new(Reason::NoData, format!("no recent reading of the clock of {}", board.uuid)));
        }
    }
    Ok(())
}

/// Watts of the cap that are kept for CPUs. They move in steps, so that limits do not follow every
/// flicker: up as soon as they are too few, down when they are too many by more than two steps.
fn reserved(policy: &Policy, before: Option<u32>, host: Option<Watts>) -> Watts {
    if policy.scope == PowerScope::Devices {
        return Watts::ZERO;
    }
    let before = before.map(Watts::new);
    let Some(host) = host else { return before.unwrap_or_default() };
    let step = policy.cap.percent(2).max(Watts::new(25));
    match before {
        Some(before) if host <= before && before <= host + step + step => before,
        _ => Watts::new((host + step).ceil()),
    }
}
