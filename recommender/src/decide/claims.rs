//! What nodes and devices claim of the watts that are shared out.

use powercap_common::units::{Megahertz, Watts};

use super::{
    booked::Booked,
    fleet::{Board, Fleet},
    policy::PolicyView,
    readings::{Counted, Readings},
};
use crate::{algorithms::Claim, observation::Hold};

/// What each node claims, by its index; a domain adds what bounds the node further down.
pub fn of_nodes(policies: &[PolicyView<'_>], readings: &Readings<'_>, alike: bool) -> Vec<Claim> {
    let fleet = readings.fleet;
    let claim = |node: &super::fleet::NodeView<'_>| Claim {
        least: node.devices_floor().map(|devices| node.overhead.node_power(devices)).unwrap_or_default(),
        most: node.nameplate,
        standing: node.holding.granted,
        ..Claim::default()
    };
    let mut claims: Vec<_> = fleet.nodes.iter().map(claim).collect();
    if !alike {
        for (claim, power) in claims.iter_mut().zip(power_of_nodes(readings)) {
            claim.power = power;
        }
        for view in policies.iter().filter(|view| view.enforces()) {
            for at in view.pods.iter().filter_map(|pod| pod.node) {
                let priority = i64::from(view.permission.priority_on(at, view.object.spec.priority));
                claims[at].priority = claims[at].priority.max(priority);
            }
        }
    }
    claims
}

/// What each node must be granted so that its pods can draw what they requested, by its index.
pub fn requested(booked: &[Booked], fleet: &Fleet<'_>) -> Vec<Watts> {
    let power = |(node, booked): (&super::fleet::NodeView<'_>, &Booked)| match booked.requested {
        Watts::ZERO => Watts::ZERO,
        requested => node.overhead.node_power(requested),
    };
    fleet.nodes.iter().zip(booked).map(power).collect()
}

/// The power, where it is known and not in doubt: on less nothing is raised.
pub fn certain(counted: Result<Counted<'_>, Hold>) -> Option<Watts> {
    counted.ok().filter(|counted| counted.doubt.is_none()).map(|counted| counted.power.value)
}

/// What each node draws, its overhead included; `None` where a reading of it is missing.
fn power_of_nodes(readings: &Readings<'_>) -> Vec<Option<Watts>> {
    let fleet = readings.fleet;
    let mut devices: Vec<_> = (0..fleet.nodes.len()).map(|at| certain(readings.of_cpus(at))).collect();
    for (at, sum) in devices.iter_mut().enumerate() {
        for board in readings.boards_of(at) {
            *sum = sum.zip(certain(readings.of_board(board))).map(|(sum, power)| sum + power);
        }
    }
    let with_overhead = |(node, devices): (&super::fleet::NodeView<'_>, Option<Watts>)| {
        devices.map(|devices| node.overhead.node_power(devices))
    };
    fleet.nodes.iter().zip(devices).map(with_overhead).collect()
}

/// What is known of a device of a policy, for its claim.
pub struct Device<'a> {
    /// Which.
    pub board: &'a Board<'a>,
    /// The lowest clock that the policy asks of it, by `spec.performance`.
    pub lowest_by_floor: Option<Megahertz>,
    /// The lowest limit that leaves it that clock.
    pub least_by_floor: Option<Watts>,
    /// What a policy that comes first gives it.
    pub most_by_others: Option<Watts>,
}

impl Device<'_> {
    /// What it claims, whatever it draws and whosesoever it is.
    pub fn claim(&self) -> Claim {
        let least = self.board.told.map(|board| Watts::new(board.min_power_limit_watts)).unwrap_or_default();
        let most = self.board.told.map(|board| Watts::new(board.max_power_limit_watts));
        Claim {
            least: least.max(self.least_by_floor.unwrap_or_default()),
            most: most.into_iter().chain(self.most_by_others).min(),
            ..Claim::default()
        }
    }
}
