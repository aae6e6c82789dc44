//! Boards, each with everything that is told of it, and pods likewise.
//!
//! A decision asks for each of them dozens of times. So what is told is put side by side once, in the order of names;
//! whoever found a board reads on from there, and what is reckoned of boards are tables by their places.
//!
//! Must hold: the order of places is that of names, which is the order of all that is written.

use std::{borrow::Borrow, sync::Arc};

use powercap_common::{
    api::{GpuCeiling, GpuStatus},
    units::Watts,
};

use super::{fleet::NodeView, index::Index};
use crate::{
    model::course::Course,
    observation::{GpuReading, Observation, PodFacts, PodName, Sample, Telemetry},
};

/// A board of which anybody tells.
pub struct Board<'a> {
    /// Its place among all.
    pub at: usize,
    /// Its name.
    pub uuid: &'a str,
    /// What an exporter says of it.
    pub reading: Option<&'a GpuReading>,
    /// What the series of its node's agent say of it.
    pub by_agent: Option<&'a GpuReading>,
    /// What its node's agent says that it is.
    pub told: Option<&'a GpuStatus>,
    /// The index of the node that it is in: its agent knows best, else its exporter says.
    pub node: Option<usize>,
    /// The ceiling that stands in a node's spec, with the index of that node.
    pub ceiling: Option<(usize, &'a GpuCeiling)>,
    /// What it drew in the past.
    pub course: Option<&'a Course>,
    /// The running pods that use it, by their places.
    pub tenants: Vec<usize>,
}

/// A running pod.
pub struct Pod<'a> {
    /// Its place among all.
    pub at: usize,
    /// What matters of it.
    pub facts: &'a PodFacts,
    /// The index of its node.
    pub node: Option<usize>,
    /// Its CPU power.
    pub cpu: Option<&'a Sample<Watts>>,
    /// What that was in the past.
    pub course: Option<&'a Course>,
    /// The boards that it uses, by their places.
    pub boards: Vec<usize>,
}

impl Pod<'_> {
    /// Whether it asks for GPUs and no reading names it.
    pub fn is_without_device(&self) -> bool {
        self.facts.gpus > 0 && self.boards.is_empty()
    }
}

/// Every running pod, and nothing yet of its boards.
pub fn pods<'a>(observation: &'a Observation, nodes: &Index<&str, usize>) -> Vec<Pod<'a>> {
    let mut facts: Vec<_> = observation.pods.iter().map(Arc::as_ref).collect();
    facts.sort_by_key(|facts| &facts.name);
    let telemetry = &observation.telemetry;
    let (mut cpu, mut course) = (beside(&telemetry.pod_cpu), beside(&telemetry.history.pods));
    let pod = |(at, facts): (usize, &'a PodFacts)| {
        let (name, node) = (&facts.name, nodes.get(facts.node.as_str()).copied());
        Pod { at, facts, node, cpu: cpu(name), course: course(name), boards: Vec::new() }
    };
    facts.into_iter().enumerate().map(pod).collect()
}

/// Every board, each known to its tenants.
pub fn boards<'a>(
    observation: &'a Observation,
    nodes: &[NodeView<'a>],
    index: &Index<&str, usize>,
    pods: &mut [Pod<'a>],
) -> Vec<Board<'a>> {
    let Telemetry { gpus, agent_gpus, history, .. } = &observation.telemetry;
    let objects = || nodes.iter().enumerate().filter_map(|(at, node)| Some((at, node.frequencies?)));
    let statuses = objects().filter_map(|(at, object)| Some((at, object.status.as_ref()?)));
    let told = statuses.flat_map(|(at, status)| status.gpus.iter().map(move |gpu| (gpu.uuid.as_str(), (at, gpu))));
    let told = in_order(told);
    let ceilings = objects().flat_map(|(at, object)| object.spec.gpu_frequencies.iter().map(move |gpu| (at, gpu)));
    let ceilings = in_order(ceilings.map(|(at, gpu)| (gpu.uuid.as_str(), (at, gpu))));

    let seen = gpus.keys().chain(agent_gpus.keys()).map(String::as_str);
    let told_of = told.iter().map(|(uuid, _)| *uuid).chain(ceilings.iter().map(|(uuid, _)| *uuid));
    let mut uuids: Vec<_> = seen.chain(told_of).collect();
    uuids.sort();
    uuids.dedup();
    let places: Index<_, _> = pods.iter().map(|pod| (&pod.facts.name, pod.at)).collect();
    let (mut reading, mut by_agent, mut course) = (beside(gpus), beside(agent_gpus), beside(&history.boards));
    let (mut told, mut ceiling) = (beside(told), beside(ceilings));
    let board = |(at, uuid): (usize, &'a str)| {
        let (reading, told) = (reading(uuid), told(uuid));
        let by_exporter = || index.get(reading?.node.as_deref()?).copied();
        let tenants = reading.into_iter().flat_map(|reading| &reading.tenants);
        let tenants: Vec<_> = tenants.filter_map(|tenant: &PodName| places.get(tenant)).copied().collect();
        tenants.iter().for_each(|pod| pods[*pod].boards.push(at));
        Board {
            at,
            uuid,
            reading,
            by_agent: by_agent(uuid),
            told: told.map(|(_, gpu)| gpu),
            node: told.map(|(node, _)| node).or_else(by_exporter),
            ceiling: ceiling(uuid),
            course: course(uuid),
            tenants,
        }
    };
    uuids.into_iter().enumerate().map(board).collect()
}

fn in_order<'a, T>(told: impl Iterator<Item = (&'a str, T)>) -> Vec<(&'a str, T)> {
    let mut told: Vec<_> = told.collect();
    told.sort_by_key(|(uuid, _)| *uuid);
    told
}

/// What belongs to each name of a list, asked for in their order. Of a name that comes twice the last counts.
fn beside<'a, Q, K, V>(list: impl IntoIterator<Item = (&'a K, V)>) -> impl FnMut(&Q) -> Option<V>
where
    Q: Ord + ?Sized,
    K: Borrow<Q> + ?Sized + 'a,
{
    let mut rest = list.into_iter().peekable();
    move |name| {
        let mut found = None;
        while let Some((known, value)) = rest.next_if(|(known, _)| (*known).borrow() <= name) {
            found = (known.borrow() == name).then_some(value);
        }
        found
    }
}
