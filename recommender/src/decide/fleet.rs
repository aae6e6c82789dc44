//! The observation put in order once, so that every later question is a look-up.

pub use powercap_common::board::{draws_at, floor, idle, is_lost};
use powercap_common::{
    api::{GpuCeiling, GpuStatus, NodeFrequencies, NodeOverhead},
    units::Watts,
};

pub use super::boards::{Board, Pod};
use super::{boards, grants::Holding, index::Index};
use crate::observation::{NodeFacts, Observation};

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
    /// Running pods by place; the order is that of their names.
    pub pods: Vec<Pod<'a>>,
    /// Boards by place; the order is that of their UUIDs.
    pub boards: Vec<Board<'a>>,
    /// The boards on which each policy or domain has set a ceiling, by `setBy`.
    ceilings_by: Index<&'a str, Vec<usize>>,
    index: Index<&'a str, usize>,
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
        let index = nodes.iter().enumerate().map(|(at, node)| (node.name, at)).collect();
        let mut pods = boards::pods(observation, &index);
        let boards = boards::boards(observation, &nodes, &index, &mut pods);
        let mut ceilings_by = Index::<_, Vec<_>>::default();
        for board in &boards {
            let Some((_, ceiling)) = board.ceiling else { continue };
            ceilings_by.entry(ceiling.set_by.as_str()).or_default().push(board.at);
        }
        Self { nodes, pods, boards, ceilings_by, index }
    }

    /// The index of the node of this name.
    pub fn node(&self, name: &str) -> Option<usize> {
        self.index.get(name).copied()
    }

    /// The boards that a pod uses, in their order.
    pub fn boards_of(&self, pod: &Pod<'_>) -> impl Iterator<Item = &Board<'a>> {
        pod.boards.iter().map(|at| &self.boards[*at])
    }

    /// The running pods that use a board, in their order.
    pub fn tenants_of(&self, board: &Board<'_>) -> impl Iterator<Item = &Pod<'a>> {
        board.tenants.iter().map(|at| &self.pods[*at])
    }

    /// The ceilings of one `setBy`: each with its board and the index of the node in whose spec it stands.
    pub fn ceilings_by(&self, set_by: &str) -> impl Iterator<Item = (&Board<'a>, usize, &'a GpuCeiling)> {
        let boards = self.ceilings_by.get(set_by).into_iter().flatten().map(|at| &self.boards[*at]);
        boards.filter_map(|board| board.ceiling.map(|(at, ceiling)| (board, at, ceiling)))
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
pub const CPU_ALLOWANCE: Watts = Watts::new(1000);

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
    /// What it draws at its meter when they do; `None` likewise.
    pub fn floor(&self) -> Option<Watts> {
        self.devices_floor().map(|devices| self.overhead.node_power(devices))
    }

    /// Whether its devices can go no lower: by its grant, or by what its agent tells of its boards.
    pub fn is_at_floor(&self) -> bool {
        let grant = self.frequencies.and_then(|object| object.spec.power_limit_watts);
        let granted_less = grant.zip(self.floor()).is_some_and(|(grant, floor)| grant <= floor.ceil());
        let lowest = |board: &GpuStatus| {
            let target = board.target_graphics_megahertz;
            is_lost(board) || target.is_some_and(|target| target <= board.min_graphics_megahertz)
        };
        granted_less || self.boards().next().is_some() && self.boards().all(lowest)
    }
}
