//! What the nodes of a domain draw: by the readings of every device and the rule for what stands beside them.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use powercap_common::{reason::Reason, units::Watts};

use super::{domain::DomainView, readings::Readings};
use crate::observation::{Apart, Hold};

/// Power of the nodes, alternating current.
pub struct Accounted<'a> {
    /// All of them together.
    pub power: Watts,
    /// When the oldest reading was taken.
    pub oldest: Timestamp,
    /// Devices of which two sources tell different power.
    pub apart: Vec<(String, &'a Apart)>,
}

/// What is known of all nodes of a domain.
///
/// # Errors
/// Why it is not known of one.
pub fn accounted<'a>(view: &DomainView, readings: &Readings<'a>) -> Result<Accounted<'a>, Hold> {
    if view.members.is_empty() {
        return Err(Hold::new(Reason::NoMatchingNodes, "no node, no reading"));
    }
    let &Readings { fleet, observation, now, .. } = readings;
    let (mut oldest, mut apart) = (now, Vec::new());
    let members: BTreeSet<_> = view.members.iter().copied().collect();
    let mut devices = vec![Watts::ZERO; fleet.nodes.len()];
    let expected = fleet.boards.keys().map(|uuid| (*uuid, None));
    let seen = observation.telemetry.gpus.iter().map(|(uuid, reading)| (uuid.as_str(), Some(reading)));
    let places = expected.chain(seen).filter_map(|(uuid, reading)| Some((uuid, fleet.node_of_gpu(uuid, reading)?)));
    let places: BTreeMap<_, _> = places.filter(|(_, at)| members.contains(at)).collect();
    for (uuid, at) in places {
        let counted = readings.of_board(uuid)?;
        devices[at] = devices[at] + counted.power.value;
        oldest = oldest.min(counted.power.at);
        apart.extend(counted.apart.map(|apart| (format!("{uuid} on {}", fleet.nodes[at].name), apart)));
    }
    let mut power = Watts::ZERO;
    for &at in &view.members {
        let name = fleet.nodes[at].name;
        let cpus = readings.of_cpus(name)?;
        power = power + fleet.nodes[at].overhead.node_power(devices[at] + cpus.power.value);
        oldest = oldest.min(cpus.power.at);
        apart.extend(cpus.apart.map(|apart| (format!("the CPUs of {name}"), apart)));
    }
    Ok(Accounted { power, oldest, apart })
}
