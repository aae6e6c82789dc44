//! What a policy's status tells people.

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use powercap_common::{
    api::{Mode, PowerCappingPolicyStatus},
    condition::{self, Truth, kind},
    policy::{Chosen, Policy},
    reason::Reason,
    units::Watts,
};

use super::{
    fleet::Board,
    outlook,
    policy::PolicyView,
    readings::{Readings, differences},
    steady::{Bounds, steady},
    verdict::{Beside, Verdict},
    violators::violators,
};

/// The status of a policy that could be judged, one of `all`.
pub fn judged(
    all: &[(PolicyView<'_>, Option<Verdict<'_>>)],
    view: &PolicyView<'_>,
    policy: &Policy,
    verdict: &Verdict<'_>,
    readings: &Readings<'_>,
) -> PowerCappingPolicyStatus {
    let (now, history) = (readings.now, &*readings.observation.telemetry.history);
    let mut status = beginning(view, now);
    let mut say = teller(view, now);
    let (pods, devices) = (view.pods.len(), view.devices.len() + view.shared.len() + view.barred.len());
    (status.matched_pods, status.matched_devices) = (count(pods), count(devices));
    status.recommended_max_megahertz = verdict.ceilings.lowest.map(|ceiling| ceiling.get());
    status.recommended_device_watts = lowest_limit(view, verdict);
    status.host_reserve_watts = Some(verdict.beside.host.floor()).filter(|watts| *watts > 0);

    let shown = [status.peak_power_watts, status.forecast_power_watts];
    [status.peak_power_watts, status.forecast_power_watts] = verdict.outlook.shown(shown, history);
    let listed = (std::mem::take(&mut status.violators), status.violator_count);
    (status.violators, status.violator_count) = violators(listed, view, policy, verdict, readings);
    match outlook::trouble(history) {
        Some((truth, reason, message)) => say(&mut status, kind::HISTORY_READ, truth, reason, message),
        None => status.conditions.retain(|condition| condition.type_ != kind::HISTORY_READ),
    }

    let (ready, reason, message) = readiness(view, policy, verdict);
    say(&mut status, kind::READY, ready, reason, message);
    match overlap(all, verdict) {
        Some(message) => say(&mut status, kind::OVERLAPPED, Truth::True, Reason::Overlapped, message),
        None => status.conditions.retain(|condition| condition.type_ != kind::OVERLAPPED),
    }
    let cap = policy.cap.floor();
    let (starts, ends) = (policy.capping_threshold.floor(), policy.release_threshold.floor());
    match &verdict.power {
        Ok(power) => {
            let edges = [policy.cap, policy.capping_threshold, policy.release_threshold];
            let shown = steady(status.current_power_watts, *power, &Bounds { edges: &edges });
            status.current_power_watts = Some(shown);
            match &verdict.clocks {
                Ok(()) => {
                    let message = format!("recent readings of every device ({devices}) of the pods ({pods})");
                    say(&mut status, kind::DATA_FRESH, Truth::True, Reason::DataFresh, message);
                }
                Err(hold) => {
                    let message = format!("{}; the clock ceiling stays as it is", hold.message);
                    say(&mut status, kind::DATA_FRESH, Truth::False, hold.reason, message);
                }
            }
            match differences(&verdict.doubts) {
                Some((reason, message)) => {
                    let message = format!("{message} and no ceiling is relaxed");
                    say(&mut status, kind::SOURCES_AGREE, Truth::False, reason, message);
                }
                None => status.conditions.retain(|condition| condition.type_ != kind::SOURCES_AGREE),
            }
            let (reason, message) = match (verdict.triggered, verdict.ceilings.lowest) {
                (Truth::True, Some(ceiling)) => (
                    Reason::ThresholdCrossed,
                    format!("{shown} W: reached {starts} W and not fallen below {ends} W since; ceiling {ceiling}"),
                ),
                (Truth::True, None) => (
                    Reason::ThresholdCrossed,
                    format!("{shown} W: reached {starts} W and not fallen below {ends} W since"),
                ),
                _ => (Reason::BelowThreshold, format!("{shown} W; capping begins at {starts} W")),
            };
            say(&mut status, kind::CAP_TRIGGERED, verdict.triggered, reason, message);
            let (reason, word) = match *power <= policy.cap {
                true => (Reason::PowerBelowCap, "within"),
                false => (Reason::PowerAboveCap, "above"),
            };
            let message = format!("{shown} W is {word} the cap of {cap} W");
            say(&mut status, kind::WITHIN_CAP, (*power <= policy.cap).into(), reason, message);
        }
        Err(hold) => {
            status.current_power_watts = None;
            let message = format!("{}; ceilings stay as they are", hold.message);
            say(&mut status, kind::DATA_FRESH, Truth::False, hold.reason, message.clone());
            say(&mut status, kind::CAP_TRIGGERED, verdict.triggered, hold.reason, message.clone());
            say(&mut status, kind::WITHIN_CAP, Truth::Unknown, hold.reason, message);
        }
    }
    let (feasible, reason, message) = feasibility(policy, verdict);
    say(&mut status, kind::FEASIBLE, feasible, reason, message);
    status
}

/// Whether the cap can be kept, and what binds if not.
fn feasibility(policy: &Policy, verdict: &Verdict<'_>) -> (Truth, Reason, String) {
    let (floor, left) = (verdict.floor.ceil(), verdict.for_devices.floor());
    let left = format!("{left} W{}", beside(policy, verdict.beside));
    if verdict.floor > verdict.for_devices {
        let message = format!("the devices draw about {floor} W at their lowest clock, more than the {left}");
        return (Truth::False, Reason::CapBelowFloor, message);
    }
    match &verdict.performance_floor {
        Some((draws, field)) if *draws > verdict.for_devices => {
            let message = format!(
                "{field} lets the devices go no lower than about {} W, more than the {left}; at their lowest clock they draw {floor} W",
                draws.ceil()
            );
            (Truth::False, Reason::CapBelowPerformance, message)
        }
        _ => {
            let message = format!("{left} for devices that draw about {floor} W at their lowest clock");
            (Truth::True, Reason::CapReachable, message)
        }
    }
}

/// Where the cap goes that is not for the policy's own devices.
fn beside(policy: &Policy, beside: Beside) -> String {
    let parts = [
        (beside.host, "for CPUs"),
        (beside.shared, "for its part of shared devices"),
        (beside.lost, "for devices of which nobody tells any more whose they are"),
    ];
    let parts: Vec<_> = parts.into_iter().filter(|(watts, _)| *watts > Watts::ZERO).collect();
    if parts.is_empty() {
        return " of the cap".to_owned();
    }
    let parts: Vec<_> = parts.iter().map(|(watts, what)| format!("{} W {what}", watts.ceil())).collect();
    format!(" that are left of {} W, after {}", policy.cap.floor(), parts.join(", "))
}

/// The lowest limit. What follows power is shown as steadily as power is, where no limit that stands keeps it.
fn lowest_limit(view: &PolicyView<'_>, verdict: &Verdict<'_>) -> Option<u32> {
    let lowest = verdict.limits.iter().min().copied()?;
    let shown = view.object.status.as_ref().and_then(|status| status.recommended_device_watts);
    let follows_power = !view.algorithm.treats_all_alike() && !view.enforces();
    let shown = shown.filter(|_| follows_power);
    Some(shown.map_or(lowest.floor(), |shown| steady(Some(shown), lowest, &Bounds { edges: &[] })))
}

/// Which policy comes first, and on what.
fn overlap(all: &[(PolicyView<'_>, Option<Verdict<'_>>)], verdict: &Verdict<'_>) -> Option<String> {
    let (_, first) = verdict.overlapped.first()?;
    let devices: Vec<_> = verdict.overlapped.iter().take(3).map(|(board, _)| board.uuid).collect();
    let more = verdict.overlapped.len().saturating_sub(devices.len());
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    Some(format!(
        "{} comes first on {}{more}, by its priority or its age: all caps hold, and its order of shedding, its algorithm and its spec.performance count there",
        all.get(first.by)?.0.set_by(),
        devices.join(", "),
    ))
}

/// The status of a policy that is off, or that nobody understands.
pub fn unjudged(view: &PolicyView<'_>, now: Timestamp) -> PowerCappingPolicyStatus {
    let mut status = beginning(view, now);
    let mut say = teller(view, now);
    let (reason, message) = match (&view.policy, view.hold()) {
        (Err(error), _) => (Reason::InvalidSpec, format!("{error}. Until then its ceilings stay as they are")),
        (Ok(_), Some(hold)) if hold.reason == Reason::NotPermitted => (
            hold.reason,
            format!("{}; it is as if it were switched off, while the domain's own cap holds", hold.message),
        ),
        (Ok(_), Some(hold)) => (hold.reason, format!("{}; its ceilings stay as they are", hold.message)),
        (Ok(_), None) => {
            (Reason::SwitchedOff, "spec.mode is Off: nothing is measured and nothing is changed".to_owned())
        }
    };
    (status.matched_pods, status.matched_devices, status.current_power_watts) = (0, 0, None);
    (status.violators, status.violator_count) = (Vec::new(), 0);
    (status.peak_power_watts, status.forecast_power_watts) = (None, None);
    (status.watts_stale, status.watts_stale_pods) = (Vec::new(), 0);
    status.conditions.retain(|condition| ![kind::WATTS_CURRENT, kind::USE_KNOWN].contains(&&*condition.type_));
    if matches!(reason, Reason::SwitchedOff | Reason::NotPermitted) {
        (status.recommended_max_megahertz, status.recommended_device_watts) = (None, None);
        (status.host_reserve_watts, status.recommendation) = (None, None);
        status.conditions.retain(|condition| condition.type_ != kind::OVERLAPPED);
    }
    say(&mut status, kind::READY, Truth::False, reason, message.clone());
    for kind in [kind::DATA_FRESH, kind::CAP_TRIGGERED, kind::WITHIN_CAP, kind::FEASIBLE] {
        say(&mut status, kind, Truth::Unknown, reason, message.clone());
    }
    status
}

fn readiness(view: &PolicyView<'_>, policy: &Policy, verdict: &Verdict<'_>) -> (Truth, Reason, String) {
    let pods = view.pods.len();
    if let Some(trouble) = &view.trouble {
        let message = format!("{}; the pods ({pods}) that it last selected stay capped", trouble.message);
        return (Truth::False, trouble.reason, message);
    }
    if pods == 0 {
        let namespace = &policy.id.namespace;
        let message = match &policy.chosen {
            Chosen::Labels(_) => format!("spec.selector matches no running pod in namespace {namespace}"),
            Chosen::Target(target) => format!("{target} has no running pod in namespace {namespace}"),
        };
        return (Truth::False, Reason::NoMatchingPods, message);
    }
    if let Some((Board { uuid, reading, .. }, _)) = view.shared.first() {
        let tenants = reading.iter().flat_map(|reading| &reading.tenants);
        let others: Vec<_> = tenants.filter(|pod| view.named(pod).is_none()).take(3).collect();
        let others = others.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        let message = format!(
            "{} of its devices are used by other pods too and are left alone: {uuid} by {others}",
            view.shared.len()
        );
        return (Truth::False, Reason::SharedDevice, message);
    }
    if let Some(hold) = &verdict.refused {
        return (Truth::False, hold.reason, hold.message.clone());
    }
    // A domain may permit less than the spec asks for.
    if let Some(bound) = view.permission.bound.as_ref().filter(|_| policy.mode < view.object.spec.mode) {
        return (Truth::True, bound.reason, format!("{}; recommending only", bound.message));
    }
    match policy.mode {
        Mode::Enforce => {
            (Truth::True, Reason::Enforcing, format!("pods ({pods}) are kept within {} W", policy.cap.floor()))
        }
        _ => (Truth::True, Reason::Advising, "recommending only; set spec.mode to Enforce to keep the cap".to_owned()),
    }
}

/// What is said of every policy.
fn beginning(view: &PolicyView<'_>, now: Timestamp) -> PowerCappingPolicyStatus {
    let mut status = view.object.status.clone().unwrap_or_default();
    status.observed_generation = view.object.metadata.generation;
    if view.target.is_some() {
        status.target.clone_from(&view.target);
    }
    status.target = status.target.filter(|found| view.object.spec.target_ref.as_ref() == Some(&found.target_ref));
    match &view.permission.bound {
        Some(bound) => {
            teller(view, now)(&mut status, kind::PERMITTED, Truth::False, bound.reason, bound.message.clone());
        }
        None => status.conditions.retain(|condition| condition.type_ != kind::PERMITTED),
    }
    status
}

/// Sets one condition of a status.
pub fn teller(
    view: &PolicyView<'_>,
    now: Timestamp,
) -> impl FnMut(&mut PowerCappingPolicyStatus, &str, Truth, Reason, String) + use<> {
    let generation = view.object.metadata.generation;
    move |status, kind, truth, reason, message| {
        condition::set(&mut status.conditions, kind, truth, reason, message, generation, Time(now));
    }
}

/// A number of things as a status tells it.
pub fn count(things: usize) -> u32 {
    u32::try_from(things).unwrap_or(u32::MAX)
}
