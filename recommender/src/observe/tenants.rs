//! Whose a device is: its node's agent knows best, since the kubelet told it; else its exporter says.
//!
//! Must hold: labels of series, which anybody may expose who is scraped, attribute no device of which an
//! agent tells; an agent that is silent tells nothing; a pod on another node uses no device of this one,
//! whoever tells so.

use std::collections::BTreeMap;

use jiff::Timestamp;
use powercap_common::api::Tenant;

use crate::observation::{Observation, PodName};

/// Puts the tenants that agents tell in the place of those by the exporter's labels. A device of which
/// there is no reading gets an empty one: whose it is is known, and that its power is not.
pub fn attribute(observation: &mut Observation, now: Timestamp) {
    let node_of: BTreeMap<_, _> =
        observation.pods.iter().filter(|pod| pod.gpus > 0).map(|pod| (&pod.name, pod.node.as_str())).collect();
    let is_on = |pod: &PodName, node: &str| node_of.get(pod).is_none_or(|on| *on == node);
    let mut told = BTreeMap::new();
    let mut place = BTreeMap::new();
    for (node, object) in &observation.frequencies {
        let known = observation.nodes.contains_key(node) && !observation.agent_is_silent(node, Some(object), now);
        let Some(status) = object.status.as_ref() else { continue };
        for gpu in &status.gpus {
            place.insert(gpu.uuid.as_str(), node.as_str());
            if !known {
                continue;
            }
            let Some(tenants) = &gpu.tenants else { continue };
            let names = tenants.iter().map(name);
            let mut of_this_node: Vec<_> = names.filter(|pod| is_on(pod, node)).collect();
            of_this_node.sort_unstable();
            of_this_node.dedup();
            told.insert(gpu.uuid.clone(), (node.clone(), of_this_node));
        }
    }
    for (uuid, gpu) in &mut observation.telemetry.gpus {
        // Exporters may name their nodes otherwise than the cluster does.
        let by_label = gpu.node.as_deref().filter(|node| observation.nodes.contains_key(*node));
        let Some(node) = place.get(uuid.as_str()).copied().or(by_label) else { continue };
        gpu.tenants.retain(|pod| is_on(pod, node));
    }
    for (uuid, (node, tenants)) in told {
        let reading = observation.telemetry.gpus.entry(uuid).or_default();
        reading.node.get_or_insert(node);
        reading.tenants = tenants;
    }
}

fn name(tenant: &Tenant) -> PodName {
    PodName { namespace: tenant.namespace.clone(), name: tenant.name.clone() }
}
