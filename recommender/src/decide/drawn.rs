//! What the readings tell of a policy's pods and devices.
//!
//! Must hold: a device of which nobody tells any more whose it is counts with what it may draw; what is missing is
//! never zero watts.

use powercap_common::{
    api::{GpuCeiling, PowerScope},
    policy::Policy,
    reason::Reason,
    units::Watts,
};

use super::{
    fleet::{Board, Pod},
    node,
    policy::PolicyView,
    readings::{Doubt, Readings},
};
use crate::observation::{Hold, fresh};

/// CPU power of the pods, where the policy counts it.
pub fn host_power(view: &PolicyView<'_>, policy: &Policy, readings: &Readings<'_>) -> Result<Watts, Hold> {
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
pub fn device_power(
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
pub fn shared_power(view: &PolicyView<'_>, readings: &Readings<'_>) -> Result<Watts, Hold> {
    let part = |(board, part): &(&Board<'_>, f64)| Ok(readings.of_board(board)?.power.value.scaled(*part));
    let barred = view.barred.iter().map(|board| Ok(readings.of_board(board)?.power.value));
    view.shared.iter().map(part).chain(barred).sum()
}

/// Devices that the policy has put a ceiling on and of which nobody tells any more whose they are. The pods
/// may still use them: what they may draw is not for the other devices.
pub fn lost<'a>(view: &PolicyView<'_>, readings: &Readings<'a>) -> Vec<(&'a Board<'a>, &'a GpuCeiling)> {
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
pub fn kept(board: &Board<'_>, ceiling: &GpuCeiling) -> Watts {
    let most = || board.told.map(|told| told.max_power_limit_watts);
    ceiling.power_limit_watts.or_else(most).map(Watts::new).unwrap_or_default()
}

/// Devices on which sources differ.
pub fn doubts<'a>(view: &PolicyView<'_>, readings: &Readings<'a>) -> Vec<(String, Doubt<'a>)> {
    view.boards().filter_map(|board| Some((board.uuid.to_owned(), readings.of_board(board).ok()?.doubt?))).collect()
}

/// Whether every device's clock is known.
pub fn clocks(view: &PolicyView<'_>, readings: &Readings<'_>) -> Result<(), Hold> {
    for board in &view.devices {
        let clock = readings.of_board(board)?.clock;
        if !clock.is_some_and(|clock| readings.recent(clock.at)) {
            return Err(Hold::new(Reason::NoData, format!("no recent reading of the clock of {}", board.uuid)));
        }
    }
    Ok(())
}
