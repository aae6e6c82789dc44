//! What a new pod requests.
//!
//! ```text
//!   Pod ─▶ policy that comes first ─▶ each container's wish: watts, CPU, memory ─▶ what the pod as a whole may
//!                                     within its bounds, the nodes' and LimitRange's    (LimitRange, ResourceQuota)
//! ```
//!
//! Must hold: what it decides for its own outcome is nothing; a request is never above its limit; nothing but
//! requests and limits of ordinary containers is ever changed, and the node that a pod prefers, where a place is held
//! for it; where it cannot act it says so and changes nothing.

pub mod amount;
mod containers;
mod watts;
mod whole;

use powercap_common::{
    api::{ControlledResource, Mode, PowerCappingPolicy, WATTS},
    policy::PolicyId,
    reason::Reason,
    selector::Labels,
};

use self::amount::{Units, quantity};
use crate::{
    cluster::{Cluster, Namespace, Nodes},
    pod::Pod,
};

/// What becomes of a pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mutation {
    /// In one word.
    pub outcome: Reason,
    /// By whose recommendation.
    pub policy: Option<PolicyId>,
    /// What changes.
    pub changes: Vec<Change>,
    /// What its creator should know.
    pub warnings: Vec<Warning>,
    /// Whether no node that it may run on offers its watts now: it waits.
    pub waits: bool,
    /// The node where a place is held for it.
    pub destination: Option<String>,
}

/// A change of one resource of a container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// The container's place among the pod's.
    pub container: usize,
    /// Which resource.
    pub resource: ControlledResource,
    /// Its request.
    pub request: Edit,
    /// Its limit, where that changes too.
    pub limit: Option<Edit>,
    /// Why.
    pub reason: Reason,
}

/// From an amount to another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Edit {
    /// What was there.
    pub from: Option<Units>,
    /// What is there then.
    pub to: Units,
}

/// What its creator should know of a pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Warning {
    /// In one word.
    pub reason: Reason,
    /// In a sentence.
    pub text: String,
}

/// What is wished for a pod, with what speaks against it.
#[derive(Clone, Debug, Default)]
struct Wishes {
    changes: Vec<Change>,
    warnings: Vec<Warning>,
    /// Whether anything is known of what its containers need.
    recommended: bool,
}

/// What becomes of a pod that is to be created in a namespace.
#[must_use]
pub fn decide(pod: &Pod, namespace: &str, cluster: &Cluster) -> Mutation {
    let Some(here) = cluster.namespaces.get(namespace) else { return Mutation::of(Reason::NotOptedIn) };
    let destination = here.policies.destination(pod.controller().as_ref()).filter(|_| !pod.is_bound());
    Mutation { destination: destination.map(str::to_owned), ..requests(pod, namespace, here, &cluster.nodes) }
}

fn requests(pod: &Pod, namespace: &str, here: &Namespace, nodes: &Nodes) -> Mutation {
    let none = Labels::new();
    let labels = pod.metadata.labels.as_ref().unwrap_or(&none);
    let Some(policy) = here.policies.first(labels, pod.controller().as_ref()) else {
        return Mutation::of(Reason::NotSelected);
    };
    let by = |outcome| Mutation { policy: Some(identity(policy, namespace)), ..Mutation::of(outcome) };
    if policy.spec.mode == Mode::Off {
        return by(Reason::SwitchedOff);
    }
    if pod.is_bound() {
        return by(Reason::AlreadyBound);
    }
    let mut wishes = Wishes::default();
    watts::wish(&mut wishes, pod, policy, here, nodes);
    containers::wish(&mut wishes, pod, policy, here);
    whole::keep_to(&mut wishes, pod, here);
    let (advises, outcome) = (policy.spec.mode == Mode::Advise, wishes.outcome());
    if advises && !wishes.changes.is_empty() {
        return Mutation { warnings: advice(pod, &wishes.changes), ..by(Reason::Advising) };
    }
    let waits = watts::waits(pod, &wishes.changes, nodes);
    Mutation { changes: wishes.changes, warnings: wishes.warnings, waits, ..by(outcome) }
}

impl Mutation {
    /// Nothing changes, for this reason.
    #[must_use]
    pub fn of(outcome: Reason) -> Self {
        Self { outcome, policy: None, changes: Vec::new(), warnings: Vec::new(), waits: false, destination: None }
    }
}

impl Edit {
    /// Whether anything changes.
    #[must_use]
    pub fn is_one(&self) -> bool {
        self.from != Some(self.to)
    }
}

impl Wishes {
    fn outcome(&self) -> Reason {
        match (self.changes.first(), self.warnings.first()) {
            (Some(_), _) => Reason::RequestsSet,
            (None, Some(warning)) => warning.reason,
            (None, None) if self.recommended => Reason::RequestsSuffice,
            (None, None) => Reason::NothingRecommended,
        }
    }

    fn warn(&mut self, reason: Reason, text: String) {
        self.warnings.push(Warning { reason, text });
    }

    /// What was wished of a resource is not done.
    fn leave_out(&mut self, resource: ControlledResource, reason: Reason, text: String) {
        self.changes.retain(|change| change.resource != resource);
        self.warn(reason, text);
    }
}

/// In mode Advise nothing changes; whoever makes the pod hears what would.
fn advice(pod: &Pod, changes: &[Change]) -> Vec<Warning> {
    let would = changes.iter().map(|change| {
        let amount = quantity(change.resource, change.request.to);
        let (container, resource) = (name(pod, change.container), word(change.resource));
        let text = format!("container {container} would request {resource} {amount} if its policy's mode were Enforce");
        Warning { reason: Reason::Advising, text }
    });
    would.collect()
}

/// The word under which a resource stands in requests and limits.
#[must_use]
pub fn word(resource: ControlledResource) -> &'static str {
    match resource {
        ControlledResource::Cpu => "cpu",
        ControlledResource::Memory => "memory",
        ControlledResource::Watts => WATTS,
    }
}

/// The name of a container by its place.
#[must_use]
pub fn name(pod: &Pod, container: usize) -> &str {
    pod.spec.containers.get(container).map_or("", |container| container.name.as_str())
}

fn identity(policy: &PowerCappingPolicy, namespace: &str) -> PolicyId {
    PolicyId { namespace: namespace.to_owned(), name: policy.metadata.name.clone().unwrap_or_default() }
}
