//! What a policy asks for: how much its devices draw, and what each may draw and clock.
//!
//! Each device's power limit is its share of the cap and stands always, so that the cap holds by
//! construction, through the node agent's fast loop and the board's own limiter. The clock ceiling comes
//! on top when power crosses the capping threshold: a lower clock draws less for the same work. Neither goes
//! below what `spec.performance` allows, in which the cap is given up first.

use jiff::SignedDuration;
use powercap_common::{
    api::PowerScope,
    condition::{self, Truth, kind},
    policy::Policy,
    units::Watts,
};

use super::{
    ceiling::Pressure,
    claims::Device,
    drawn::{clocks, device_power, doubts, host_power, kept, lost, shared_power},
    fleet::{self, Board},
    groups::Groups,
    outlook::{self, Outlook},
    overlap::{First, Taken},
    performance,
    policy::PolicyView,
    readings::{Doubt, Readings},
    share,
    throttle::{self, Ceilings, UNKNOWN_IDLE},
};
use crate::observation::{Hold, Throttled};

/// After a change of a ceiling, readings younger than this may still be of before: the clock lock takes
/// some 100 ms and a board's power is an average over a second.
const SETTLES_WITHIN: SignedDuration = SignedDuration::from_millis(1500);

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
