//! What of each node its pods have taken already: watts, GPUs, CPU and memory.
//!
//! Must hold: a pod counts from the moment at which it has its place, as it does for kube-scheduler; a watt that
//! is requested is counted as requested, and what a pod may draw beyond its request beside that.

use powercap_common::units::Watts;

use super::{fits::less, readings::Readings};
use crate::observation::Requests;

/// What of one node is taken.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Booked {
    /// Watts at the devices that its pods request, in whole ones.
    pub requested: Watts,
    /// What its pods count with beyond that: pods that request none, or too few.
    pub beyond: Watts,
    /// What is left of everything else.
    pub left: Requests,
}

impl Booked {
    /// Of each node, by its index, given what running pods count with, by their places.
    pub fn of_nodes(reserved: &[Watts], readings: &Readings<'_>) -> Vec<Self> {
        let fleet = readings.fleet;
        let empty = |allocatable| Self { left: allocatable, ..Self::default() };
        let mut nodes: Vec<_> = fleet.nodes.iter().map(|node| empty(node.facts.allocatable)).collect();
        let running = fleet.pods.iter().zip(reserved).map(|(pod, reserved)| (pod.node, &pod.facts.requests, *reserved));
        // Those that have their place and do not run yet draw nothing that they did not request.
        let pending = readings.observation.pending.iter();
        let placed =
            pending.filter_map(|pod| Some((fleet.node(pod.node.as_deref()?), &pod.requests, pod.requests.watts)));
        for (node, requests, reserved) in running.chain(placed) {
            let Some(at) = node else { continue };
            let node = &mut nodes[at];
            node.requested = node.requested + requests.watts;
            node.beyond = node.beyond + reserved.saturating_sub(requests.watts);
            node.left = less(node.left, requests);
        }
        nodes
    }

    /// What its pods may draw.
    pub fn reserved(&self) -> Watts {
        self.requested + self.beyond
    }
}
