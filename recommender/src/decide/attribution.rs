//! What pods account for of each node's power; the rest is nobody's: overhead, boards that no pod holds,
//! CPU power beyond that of the pods.
//!
//! Must hold: a board counts once, however many pods share it or hold a part of it; CPU power counts by
//! pods' own series and never more than the node's; what no recent reading tells, no pod accounts for.

use std::collections::BTreeMap;

use powercap_common::units::Watts;

use super::readings::Readings;
use crate::observation::fresh;

/// The watts of each node, at its meter, that no pod accounts for, by the node's index; `None` where a reading
/// of one of its devices is missing.
pub fn unattributed(readings: &Readings<'_>) -> Vec<Option<Watts>> {
    let &Readings { fleet, observation, now, .. } = readings;
    let mut boards: Vec<Option<(Watts, Watts)>> = vec![Some((Watts::ZERO, Watts::ZERO)); fleet.nodes.len()];
    let expected = fleet.boards.keys().copied();
    let places = expected
        .chain(observation.telemetry.gpus.keys().map(String::as_str))
        .filter_map(|uuid| Some((uuid, fleet.node_of_gpu(uuid, observation.telemetry.gpus.get(uuid))?)));
    for (uuid, at) in places.collect::<BTreeMap<_, _>>() {
        let power = readings.of_board(uuid).ok().map(|counted| counted.power.value);
        let reading = observation.telemetry.gpus.get(uuid);
        let held = reading.is_some_and(|reading| !fleet.running_tenants(reading).is_empty());
        boards[at] = boards[at]
            .zip(power)
            .map(|((all, of_pods), power)| (all + power, if held { of_pods + power } else { of_pods }));
    }
    let mut cpus = vec![Watts::ZERO; fleet.nodes.len()];
    for (pod, facts) in &fleet.pods {
        let sample = fresh(observation.telemetry.pod_cpu.get(*pod), "", None, now, observation.stale_after());
        let place = fleet.node(&facts.node);
        if let Some((sample, at)) = sample.ok().zip(place) {
            cpus[at] = cpus[at] + sample.value;
        }
    }
    let node = |(at, boards): (usize, Option<(Watts, Watts)>)| {
        let (all, of_pods) = boards?;
        let cpu = readings.of_cpus(fleet.nodes[at].name).ok()?.power.value;
        let power = fleet.nodes[at].overhead.node_power(all + cpu);
        Some(power.saturating_sub(of_pods + cpus[at].min(cpu)))
    };
    boards.into_iter().enumerate().map(node).collect()
}
