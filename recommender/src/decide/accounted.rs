//! What the nodes of a domain draw: by the readings of every device and the rule for what stands beside them.

use jiff::Timestamp;
use powercap_common::{reason::Reason, units::Watts};

use super::{
    domain::DomainView,
    readings::{Doubt, Readings},
};
use crate::observation::Hold;

/// Power of the nodes, alternating current.
pub struct Accounted<'a> {
    /// All of them together.
    pub power: Watts,
    /// When the oldest reading was taken.
    pub oldest: Timestamp,
    /// Devices on which sources differ.
    pub doubts: Vec<(String, Doubt<'a>)>,
}

/// What is known of all nodes of a domain.
///
/// # Errors
/// Why it is not known of one.
pub fn accounted<'a>(view: &DomainView, readings: &Readings<'a>) -> Result<Accounted<'a>, Hold> {
    if view.members.is_empty() {
        return Err(Hold::new(Reason::NoMatchingNodes, "no node, no reading"));
    }
    let &Readings { fleet, now, .. } = readings;
    let (mut power, mut oldest, mut doubts) = (Watts::ZERO, now, Vec::new());
    for &at in &view.members {
        let name = fleet.nodes[at].name;
        let mut devices = Watts::ZERO;
        for board in readings.boards_of(at) {
            let counted = readings.of_board(board)?;
            devices = devices + counted.power.value;
            oldest = oldest.min(counted.power.at);
            doubts.extend(counted.doubt.map(|doubt| (format!("{} on {name}", board.uuid), doubt)));
        }
        let cpus = readings.of_cpus(at)?;
        power = power + fleet.nodes[at].overhead.node_power(devices + cpus.power.value);
        oldest = oldest.min(cpus.power.at);
        doubts.extend(cpus.doubt.map(|doubt| (format!("the CPUs of {name}"), doubt)));
    }
    Ok(Accounted { power, oldest, doubts })
}
