//! The observation put in order once, so that every later question is a look-up.

use std::collections::{BTreeMap, BTreeSet};

use powercap_common::{
    api::{DeviceState, GpuCeiling, GpuStatus, NodeFrequencies, NodeOverhead},
    reason::Reason,
    units::{Megahertz, Watts},
};

use super::{ceiling::EXPONENT, grants::Holding};
use crate::observation::{GpuReading, NodeFacts, Observation, PodFacts, PodName};

/// A node, and what was and is said about it.
pub struct NodeView<'a> {
    /// Its name.
    pub name: &'a str,
    /// Its labels and identity.
    pub facts: &'a NodeFacts,
    /// Its object, if it has one that is about this node and not about an earlier one of its name.
    pub frequencies: Option<&'a NodeFrequencies>,
    /// Its grant and commitment.
    pub holding: Holding,
    /// What it draws beside its devices, by the rules of its domains.
    pub overhead: NodeOverhead,
    /// The most that it can draw, by those rules; `None` while its agent has not told.
    pub nameplate: Option<Watts>,
}

/// The observation, indexed.
pub struct Fleet<'a> {
    /// Nodes by index; the order is that of their names.
    pub nodes: Vec<NodeView<'a>>,
    /// Running pods by name.
    pub pods: BTreeMap<&'a PodName, &'a PodFacts>,
    /// What each agent says its GPUs are, by UUID, with the index of the node.
    pub boards: BTreeMap<&'a str, (usize, &'a GpuStatus)>,
    /// The ceilings that stand in the nodes' specs, by UUID, with the index of the node.
    pub ceilings: BTreeMap<&'a str, (usize, &'a GpuCeiling)>,
    /// The same by who set them: UUID, index of the node, ceiling.
    pub ceilings_by: BTreeMap<&'a str, Vec<(&'a str, usize, &'a GpuCeiling)>>,
    /// UUIDs of the GPUs that each pod uses.
    pub devices_of: BTreeMap<&'a PodName, Vec<&'a str>>,
    index: BTreeMap<&'a str, usize>,
}

impl<'a> Fleet<'a> {
    /// Puts it in order.
    pub fn of(observation: &'a Observation) -> Self {
        let term = observation.epoch.term;
        let view = |(name, facts): (&'a String, &'a NodeFacts)| {
            let frequencies = observation.frequencies.get(name).map(AsRef::as_ref);
            let frequencies = frequencies.filter(|object| is_about(object, facts));
            let uncertain = observation.uncertain.get(name).copied();
            let holding =
                frequencies.map(|object| Holding::of(object, &facts.boot_id, term, uncertain)).unwrap_or_default();
            NodeView { name, facts, frequencies, holding, overhead: NodeOverhead::default(), nameplate: None }
        };
        let nodes: Vec<_> = observation.nodes.iter().map(view).collect();
        let index: BTreeMap<_, _> = nodes.iter().enumerate().map(|(at, node)| (node.name, at)).collect();
        let statuses = nodes.iter().enumerate().filter_map(|(at, node)| Some((at, node.frequencies?.status.as_ref()?)));
        let boards =
            statuses.flat_map(|(at, status)| status.gpus.iter().map(move |gpu| (gpu.uuid.as_str(), (at, gpu))));
        let specs = nodes.iter().enumerate().filter_map(|(at, node)| Some((at, &node.frequencies?.spec)));
        let ceilings =
            specs.flat_map(|(at, spec)| spec.gpu_frequencies.iter().map(move |gpu| (gpu.uuid.as_str(), (at, gpu))));
        let ceilings: BTreeMap<_, _> = ceilings.collect();
        let mut ceilings_by = BTreeMap::<_, Vec<_>>::new();
        for (uuid, (at, ceiling)) in &ceilings {
            ceilings_by.entry(ceiling.set_by.as_str()).or_default().push((*uuid, *at, *ceiling));
        }
        let mut devices_of = BTreeMap::<_, Vec<_>>::new();
        for (uuid, gpu) in &observation.telemetry.gpus {
            for tenant in &gpu.tenants {
                devices_of.entry(tenant).or_default().push(uuid.as_str());
            }
        }
        let boards = boards.collect();
        let pods = observation.pods.iter().map(|pod| (&pod.name, pod)).collect();
        Self { nodes, pods, boards, ceilings, ceilings_by, devices_of, index }
    }

    /// The index of the node of this name.
    pub fn node(&self, name: &str) -> Option<usize> {
        self.index.get(name).copied()
    }

    /// The index of the node that a GPU is in: its agent knows best, else its exporter says.
    pub fn node_of_gpu(&self, uuid: &str, reading: Option<&GpuReading>) -> Option<usize> {
        let by_agent = self.boards.get(uuid).map(|(at, _)| *at);
        by_agent.or_else(|| self.node(reading?.node.as_deref()?))
    }

    /// Whether a pod asks for GPUs and no reading names it.
    pub fn is_without_device(&self, pod: &PodFacts) -> bool {
        pod.gpus > 0 && !self.devices_of.contains_key(&pod.name)
    }

    /// The pods of a device that are running.
    pub fn running_tenants(&self, reading: &'a GpuReading) -> BTreeSet<&'a PodName> {
        reading.tenants.iter().filter(|tenant| self.pods.contains_key(tenant)).collect()
    }
}

/// Whether an object is about this node, and not about an earlier one of the same name. Where only the Node
/// was deleted and made again, the machine runs on as it was told: its agent speaks of the same boot.
fn is_about(object: &NodeFrequencies, facts: &NodeFacts) -> bool {
    let told = object.status.as_ref().and_then(|status| status.boot_id.as_deref());
    let same_boot = told.is_some_and(|told| !told.is_empty() && told == facts.boot_id);
    same_boot || is_owned(object, facts)
}

/// Whether an object goes when this node goes, and not with an earlier one of the same name.
pub fn is_owned(object: &NodeFrequencies, facts: &NodeFacts) -> bool {
    let mut owners = object.metadata.owner_references.iter().flatten().filter(|owner| owner.kind == "Node").peekable();
    owners.peek().is_none() || owners.any(|owner| owner.uid == facts.uid)
}

/// What the CPUs of a node may draw at most, as long as nobody tells: two sockets of the largest kind.
const CPU_ALLOWANCE: Watts = Watts::new(1000);
/// A board draws about a tenth of its highest limit without work (H100: 70 of 700 W).
const IDLE_PERCENT: u32 = 10;

impl NodeView<'_> {
    /// The most that the devices of this node can draw; `None` while its agent has not told.
    pub fn devices_maximum(&self) -> Option<Watts> {
        let status = self.frequencies?.status.as_ref()?;
        let boards = status.gpus.iter().map(|gpu| Watts::new(gpu.max_power_limit_watts)).sum::<Watts>();
        let known = !status.gpus.is_empty() || !status.cpus.is_empty();
        known.then(|| boards + CPU_ALLOWANCE)
    }

    /// Its boards, as far as its agent has told.
    pub fn boards(&self) -> impl Iterator<Item = &GpuStatus> {
        self.frequencies.and_then(|object| object.status.as_ref()).into_iter().flat_map(|status| &status.gpus)
    }

    /// What its devices draw at their lowest settings; `None` while its agent has not told.
    pub fn devices_floor(&self) -> Option<Watts> {
        let status = self.frequencies?.status.as_ref()?;
        let known = !status.gpus.is_empty() || !status.cpus.is_empty();
        known.then(|| status.gpus.iter().map(floor).sum())
    }
}

/// What a board draws without work.
pub fn idle(board: &GpuStatus) -> Watts {
    Watts::new(board.max_power_limit_watts).percent(IDLE_PERCENT)
}

/// What a board draws under load at its lowest clock; one that nothing holds the most that it can.
pub fn floor(board: &GpuStatus) -> Watts {
    if is_lost(board) {
        return Watts::new(board.max_power_limit_watts);
    }
    draws_at(board, Megahertz::new(board.min_graphics_megahertz))
}

/// Whether its agent says that nothing holds it.
pub fn is_lost(board: &GpuStatus) -> bool {
    let reasons = [Reason::Quarantined, Reason::Contended, Reason::WithoutEffect, Reason::DevicesLetGo];
    board.state == DeviceState::Quarantined || reasons.iter().any(|reason| board.reason == reason.as_str())
}

/// What a board draws under full load at this clock, by the law of [`super::ceiling`].
pub fn draws_at(board: &GpuStatus, clock: Megahertz) -> Watts {
    let ratio = f64::from(clock.get()) / f64::from(board.max_graphics_megahertz.max(1));
    let most = Watts::new(board.max_power_limit_watts);
    idle(board) + most.saturating_sub(idle(board)).scaled(ratio.min(1.0).powf(EXPONENT))
}
