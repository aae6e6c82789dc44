//! What a policy's status tells people.

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use powercap_common::{
    api::{Mode, PowerCappingPolicyStatus},
    condition::{self, Truth, kind},
    policy::Policy,
    reason::Reason,
};

use super::{
    outlook,
    policy::{PolicyView, Verdict},
    readings::{Readings, differences},
    steady::{Bounds, steady},
    violators::violators,
};

/// The status of a policy that could be judged.
pub fn judged(
    view: &PolicyView<'_>,
    policy: &Policy,
    verdict: &Verdict<'_>,
    readings: &Readings<'_>,
) -> PowerCappingPolicyStatus {
    let (now, history) = (readings.now, &*readings.observation.telemetry.history);
    let mut status = beginning(view);
    let mut say = teller(view, now);
    let (pods, devices) = (view.pods.len(), view.devices.len() + view.shared.len());
    (status.matched_pods, status.matched_devices) = (count(pods), count(devices));
    status.recommended_max_megahertz = verdict.ceiling.map(|ceiling| ceiling.get());
    status.recommended_device_watts = verdict.limits.values().min().map(|limit| limit.floor());

    let shown = [status.peak_power_watts, status.forecast_power_watts];
    [status.peak_power_watts, status.forecast_power_watts] = verdict.outlook.shown(shown, history);
    let listed = (std::mem::take(&mut status.violators), status.violator_count);
    (status.violators, status.violator_count) = violators(listed, view, policy, verdict, (history, now));
    match outlook::trouble(history) {
        Some((truth, reason, message)) => say(&mut status, kind::HISTORY_READ, truth, reason, message),
        None => status.conditions.retain(|condition| condition.type_ != kind::HISTORY_READ),
    }

    let (ready, reason, message) = readiness(view, policy);
    say(&mut status, kind::READY, ready, reason, message);
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
            match differences(&verdict.apart) {
                Some(message) => {
                    let message = format!("{message} and no ceiling is relaxed");
                    say(&mut status, kind::SOURCES_AGREE, Truth::False, Reason::SourcesDiffer, message);
                }
                None => status.conditions.retain(|condition| condition.type_ != kind::SOURCES_AGREE),
            }
            let (reason, message) = match (verdict.triggered, verdict.ceiling) {
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
    let (floor, left) = (verdict.floor.ceil(), verdict.for_devices.floor());
    let (feasible, reason, message) = if verdict.floor <= verdict.for_devices {
        (
            Truth::True,
            Reason::CapReachable,
            format!("{left} W for devices that draw about {floor} W at their lowest clock"),
        )
    } else {
        let message =
            format!("the devices draw about {floor} W at their lowest clock, more than the {left} W left for them");
        (Truth::False, Reason::CapBelowFloor, message)
    };
    say(&mut status, kind::FEASIBLE, feasible, reason, message);
    status
}

/// The status of a policy that is off, or that nobody understands.
pub fn unjudged(view: &PolicyView<'_>, now: Timestamp) -> PowerCappingPolicyStatus {
    let mut status = beginning(view);
    let mut say = teller(view, now);
    let (reason, message) = match &view.policy {
        Err(error) => (Reason::InvalidSpec, format!("{error}. Until then its ceilings stay as they are")),
        Ok(_) => (Reason::SwitchedOff, "spec.mode is Off: nothing is measured and nothing is changed".to_owned()),
    };
    (status.matched_pods, status.matched_devices, status.current_power_watts) = (0, 0, None);
    (status.violators, status.violator_count) = (Vec::new(), 0);
    (status.peak_power_watts, status.forecast_power_watts) = (None, None);
    if reason == Reason::SwitchedOff {
        (status.recommended_max_megahertz, status.recommended_device_watts) = (None, None);
    }
    say(&mut status, kind::READY, Truth::False, reason, message.clone());
    for kind in [kind::DATA_FRESH, kind::CAP_TRIGGERED, kind::WITHIN_CAP, kind::FEASIBLE] {
        say(&mut status, kind, Truth::Unknown, reason, message.clone());
    }
    status
}

fn readiness(view: &PolicyView<'_>, policy: &Policy) -> (Truth, Reason, String) {
    let pods = view.pods.len();
    if pods == 0 {
        let message = format!("spec.selector matches no running pod in namespace {}", policy.id.namespace);
        return (Truth::False, Reason::NoMatchingPods, message);
    }
    if let Some((uuid, (reading, _))) = view.shared.first_key_value() {
        let others: Vec<_> = reading.tenants.iter().filter(|pod| !view.pods.contains_key(pod)).take(3).collect();
        let others = others.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        let message = format!(
            "{} of its devices are used by other pods too and are left alone: {uuid} by {others}",
            view.shared.len()
        );
        return (Truth::False, Reason::SharedDevice, message);
    }
    match policy.mode {
        Mode::Enforce => {
            (Truth::True, Reason::Enforcing, format!("pods ({pods}) are kept within {} W", policy.cap.floor()))
        }
        _ => (Truth::True, Reason::Advising, "recommending only; set spec.mode to Enforce to keep the cap".to_owned()),
    }
}

fn beginning(view: &PolicyView<'_>) -> PowerCappingPolicyStatus {
    let mut status = view.object.status.clone().unwrap_or_default();
    status.observed_generation = view.object.metadata.generation;
    status
}

/// Sets one condition of a status.
fn teller(
    view: &PolicyView<'_>,
    now: Timestamp,
) -> impl FnMut(&mut PowerCappingPolicyStatus, &str, Truth, Reason, String) + use<> {
    let generation = view.object.metadata.generation;
    move |status, kind, truth, reason, message| {
        condition::set(&mut status.conditions, kind, truth, reason, message, generation, Time(now));
    }
}

fn count(things: usize) -> u32 {
    u32::try_from(things).unwrap_or(u32::MAX)
}
