//! What pods account for of each node's power; the rest is nobody's: overhead, boards that no pod holds,
//! CPU power beyond that of the pods.
//!
//! Must hold: a board counts once, however many pods share it or hold a part of it; CPU power counts by
//! pods' own series and never more than the node's; what no recent reading tells, no pod accounts for.

use powercap_common::units::Watts;

use super::readings::Readings;

/// The watts of each node, at its meter, that no pod accounts for, by the node's index; `None` where a reading
/// of one of its devices is missing.
pub fn unattributed(readings: &Readings<'_>) -> Vec<Option<Watts>> {
    let fleet = readings.fleet;
    let mut cpus = vec![Watts::ZERO; fleet.nodes.len()];
    for pod in &fleet.pods {
        if let Some((sample, at)) = readings.cpu_of(pod).zip(pod.node) {
            cpus[at] = cpus[at] + sample.value;
        }
    }
    let node = |at: usize| {
        let (mut all, mut of_pods) = (Watts::ZERO, Watts::ZERO);
        for board in readings.boards_of(at) {
            let power = readings.of_board(board).ok()?.power.value;
            all = all + power;
            if !board.tenants.is_empty() {
                of_pods = of_pods + power;
            }
        }
        let cpu = readings.of_cpus(at).ok()?.power.value;
        let power = fleet.nodes[at].overhead.node_power(all + cpu);
        Some(power.saturating_sub(of_pods + cpus[at].min(cpu)))
    };
    (0..fleet.nodes.len()).map(node).collect()
}
