//! Everything that a decision sees, as plain data.
//!
//! Must hold: an [`Observation`] is complete. Nothing else (no clock, no client, no global) enters
//! [`crate::decide::decide`], so that whoever keeps an observation can replay its decision. It is read from JSON
//! as exactly what was written ([`crate::record`]).

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    sync::Arc,
};

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{NodeSelector, Taint, Toleration};
use powercap_common::{
    api::{Epoch, FoundTarget, NodeFrequencies, PowerCappingPolicy, PowerDomain, TargetRef},
    policy::PolicyId,
    reason::Reason,
    selector::Labels,
    target::Controller,
    units::{Bytes, Megahertz, Millicores, Watts},
};
use serde::{Deserialize, Serialize};

use crate::model::history::History;

/// What the recommender knows at one moment.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Observation {
    /// All policies, as written, with the status that we gave them.
    pub policies: Vec<Arc<PowerCappingPolicy>>,
    /// All domains, likewise.
    pub domains: Vec<Arc<PowerDomain>>,
    /// What each node was told (spec) and what its agent said (status), by the node's name.
    pub frequencies: BTreeMap<String, Arc<NodeFrequencies>>,
    /// The nodes, by name.
    pub nodes: BTreeMap<String, NodeFacts>,
    /// The running pods.
    pub pods: Vec<Arc<PodFacts>>,
    /// Pods that do not run yet.
    pub pending: Vec<Arc<PendingPod>>,
    /// The labels of each namespace.
    pub namespaces: BTreeMap<String, Labels>,
    /// What the policies' targets are known to select, or why that is not known; one that is not here is being looked up.
    #[serde(with = "pairs")]
    pub targets: BTreeMap<Target, Result<FoundTarget, Hold>>,
    /// Readings, with their age and source.
    pub telemetry: Telemetry,
    /// The epoch under which this decision's changes are written: our term, and the next count in it.
    pub epoch: Epoch,
    /// Grants that were sent and whose fate is unknown (a timeout): they may still arrive, so they
    /// count as commitments.
    pub uncertain: BTreeMap<String, Watts>,
    /// What is remembered of the clock ceilings of each policy.
    #[serde(with = "pairs")]
    pub throttled: BTreeMap<PolicyId, Throttled>,
    /// What people were told lately by events.
    pub told: Told,
    /// How long agents keep to what they were told without a sign of life from us, in seconds; `None`: for
    /// ever.
    pub agent_lease_seconds: Option<u32>,
    /// What the last decision reckoned of each domain with a meter.
    pub metered: BTreeMap<String, Metered>,
    /// The interval at which the exporters collect; three of them make a reading stale.
    pub collection_interval: SignedDuration,
}

/// What is remembered of a policy's clock ceilings from one decision to the next.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Throttled {
    /// When they were last changed: a reading from before says nothing about them.
    pub changed_at: Option<Timestamp>,
    /// The capping threshold by which readings last moved them, or left them. Where the policy has a higher one
    /// now, what that gives is still owed to its pods: those may have come since, and have no readings yet.
    pub threshold: Option<Watts>,
}

/// What is remembered of a domain with a meter from one decision to the next.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Metered {
    /// What it draws unmanaged: rises at once, falls slowly. None: its meter was never read.
    pub held: Option<Watts>,
    /// When that was reckoned.
    pub at: Timestamp,
    /// What its nodes drew of late, each with its time.
    pub nodes: Vec<(Timestamp, Watts)>,
    /// Since when the meter tells less than the nodes draw.
    pub below_since: Option<Timestamp>,
}

/// What matters of a Node.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct NodeFacts {
    /// Tells a node from an earlier one of the same name.
    pub uid: String,
    /// For the domains' selectors.
    pub labels: Labels,
    /// Changes with every boot, by the node's kubelet.
    pub boot_id: String,
    /// The node waits behind the taint of nodes without limits.
    pub boot_taint: Option<BootTaint>,
    /// What it advertises of `powercapping.io/watts`, as kube-scheduler reads it.
    pub advertised: Option<Watts>,
    /// What pods may request there of what else we know of. Its watts are nothing: those are ours to say.
    pub allocatable: Requests,
    /// A person keeps new pods away.
    pub unschedulable: bool,
    /// Taints that keep new pods away.
    pub taints: Vec<Taint>,
}

/// The taint that a kubelet may register its node with: no pod comes before the node's limits are set.
pub const BOOT_TAINT: &str = "powercapping.io/uninitialized";

/// The taint [`BOOT_TAINT`] stands on a node.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct BootTaint {
    /// The version of the node that has it.
    pub resource_version: String,
    /// What else is on the node, and stays.
    pub others: Vec<Taint>,
}

/// Amounts of the resources by which we tell where a pod fits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Requests {
    /// Of `powercapping.io/watts`.
    pub watts: Watts,
    /// Whole GPUs.
    pub gpus: u64,
    /// Thousandths of a core.
    pub cpu_millis: u64,
    /// Memory.
    pub memory_bytes: u64,
}

/// A pod's namespace and name.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct PodName {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

impl fmt::Display for PodName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// A workload that a policy names.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Target {
    /// The policy's namespace.
    pub namespace: String,
    /// Which one there.
    pub target_ref: TargetRef,
}

/// What people were told lately by events: the same is not told again soon, and not too much at once.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Told {
    /// When what was told of whom: a policy (`NAMESPACE/NAME`) or a pod of it.
    #[serde(with = "pairs")]
    pub at: BTreeMap<(Subject, Reason), Timestamp>,
    /// When each of the last events was sent, the oldest first.
    pub sent: Vec<Timestamp>,
}

/// Whom an event is about.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Subject {
    /// A policy.
    Policy(PolicyId),
    /// A pod.
    Pod(PodName),
}

/// What matters of a running Pod.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct PodFacts {
    /// Which one it is.
    pub name: PodName,
    /// Where it runs.
    pub node: String,
    /// For the policies' selectors.
    pub labels: Labels,
    /// GPUs that it asks for.
    pub gpus: u64,
    /// Its containers, and its sidecars.
    pub containers: Vec<ContainerFacts>,
    /// What kube-scheduler counts of it.
    pub requests: Requests,
    /// The job whose ranks run in step with it, as `Kind/name`.
    pub job: Option<String>,
    /// By its PriorityClass; 0 where it has none.
    pub priority: i32,
    /// What controls it.
    pub controller: Option<Controller>,
    /// Tells it from an earlier one of the same name.
    pub uid: String,
    /// When its kubelet took it on: what its devices drew before was drawn by others.
    pub started: Option<Timestamp>,
}

/// What matters of a container that runs as long as its pod does: one of its containers, or a sidecar.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ContainerFacts {
    /// Its name.
    pub name: String,
    /// GPUs that it asks for.
    pub gpus: u64,
    /// What it requests of `powercapping.io/watts`.
    pub watts: Option<Watts>,
    /// The processor time that it requests.
    pub cpu: Millicores,
}

/// What matters of a pod that does not run yet.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct PendingPod {
    /// Which one it is.
    pub name: PodName,
    /// Where it will run; `None`: kube-scheduler has found no place for it yet.
    pub node: Option<String>,
    /// What kube-scheduler counts of it.
    pub requests: Requests,
    /// By its PriorityClass; 0 where it has none.
    pub priority: i32,
    /// When it was made.
    pub created: Option<Timestamp>,
    /// Labels that its node must have.
    pub node_selector: Labels,
    /// What else its node must be: its required node affinity.
    pub affinity: Option<NodeSelector>,
    /// Taints that it does not mind.
    pub tolerations: Vec<Toleration>,
}

/// The last readings of every series, kept while they are of any use.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Telemetry {
    /// What the DCGM exporter tells, by UUID.
    pub gpus: BTreeMap<String, GpuReading>,
    /// What node agents tell of the same boards.
    pub agent_gpus: BTreeMap<String, GpuReading>,
    /// CPU power of pods.
    #[serde(with = "pairs")]
    pub pod_cpu: BTreeMap<PodName, Sample<Watts>>,
    /// CPU power of nodes, by Kepler.
    pub node_cpu: BTreeMap<String, Sample<Watts>>,
    /// CPU power of nodes, by their agents.
    pub agent_cpu: BTreeMap<String, Sample<Watts>>,
    /// Boards (by UUID) and nodes (for their CPUs) of which two sources tell different power.
    pub apart: BTreeMap<String, Apart>,
    /// What is wrong with the last readings of single boards that are none, by UUID.
    pub gpu_rejected: BTreeMap<String, Hold>,
    /// Likewise of CPUs, by `NODE` or `NAMESPACE/POD`.
    pub cpu_rejected: BTreeMap<String, Hold>,
    /// When each node's agent was last scraped, as far as agents are scraped at all.
    pub agents: BTreeMap<String, Timestamp>,
    /// Whether the last question about agents was answered: if not, none is called silent.
    pub agents_answered: bool,
    /// What the meters of domains tell, by the domain's name.
    pub meters: BTreeMap<String, MeterReading>,
    /// What is remembered of power.
    pub history: Arc<History>,
    /// What containers use, of policies that ask for it.
    pub usage: Arc<Usage>,
    /// What went wrong with the last questions about GPUs.
    pub gpu_problem: Option<Hold>,
    /// What went wrong with the last questions about CPUs.
    pub cpu_problem: Option<Hold>,
}

impl Telemetry {
    /// Why there may be no reading of a board: what is wrong with its own, or with all.
    #[must_use]
    pub fn trouble_of_gpu(&self, uuid: &str) -> Option<&Hold> {
        self.gpu_rejected.get(uuid).or(self.gpu_problem.as_ref())
    }

    /// Likewise of the CPUs of a node or of a pod.
    #[must_use]
    pub fn trouble_of_cpu(&self, owner: &str) -> Option<&Hold> {
        self.cpu_rejected.get(owner).or(self.cpu_problem.as_ref())
    }
}

/// What the API server tells of the CPU and memory that containers use, and who else sets what they request.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Usage {
    /// By pod, of the namespaces that were asked about.
    #[serde(with = "pairs")]
    pub pods: BTreeMap<PodName, PodUse>,
    /// Workloads whose requests an active VerticalPodAutoscaler sets.
    pub autoscaled: BTreeSet<Target>,
    /// What went wrong with the last question.
    pub problem: Option<Hold>,
}

/// What the containers of one pod use.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct PodUse {
    /// When it was measured.
    pub at: Timestamp,
    /// By name.
    pub containers: BTreeMap<String, ContainerUse>,
}

/// What one container uses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ContainerUse {
    /// Processor time; none where that is not known.
    pub cpu: Option<Millicores>,
    /// Memory, likewise.
    pub memory: Option<Bytes>,
}

/// Two sources that have told different power of one device.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Apart {
    /// Which of them tells more.
    pub higher: Source,
    /// Which less.
    pub lower: Source,
    /// Since when.
    pub since: Timestamp,
}

/// One GPU as a source tells it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct GpuReading {
    /// The node that it is in.
    pub node: Option<String>,
    /// The pods that use it, in their order, each once: one, but for shared boards.
    pub tenants: Vec<PodName>,
    /// Its power.
    pub power: Option<Sample<Watts>>,
    /// Its SM clock.
    pub clock: Option<Sample<Megahertz>>,
}

/// What a domain's meter told last, and what was wrong with the last question, if anything.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct MeterReading {
    /// Power of the whole domain, alternating current.
    pub power: Option<Sample<Watts>>,
    /// Why the last question gave none.
    pub problem: Option<Hold>,
}

/// A value, when it was measured (on our clock), and who said so.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Sample<T> {
    /// What was measured.
    pub value: T,
    /// When.
    pub at: Timestamp,
    /// By whom.
    pub source: Source,
}

/// Who measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Source {
    /// NVIDIA's DCGM exporter.
    DcgmExporter,
    /// Kepler.
    Kepler,
    /// The node's agent, by its own sensors.
    Agent,
    /// A domain's meter.
    Meter,
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::DcgmExporter => "the DCGM exporter",
            Self::Kepler => "Kepler",
            Self::Agent => "the node agent",
            Self::Meter => "its meter",
        })
    }
}

/// Refusing to act, and why: a value, not an error.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hold {
    /// The word.
    pub reason: Reason,
    /// The particulars, for people.
    pub message: String,
}

impl Hold {
    /// For this reason, with these particulars.
    pub fn new(reason: Reason, message: impl Into<String>) -> Self {
        Self { reason, message: message.into() }
    }
}

/// Agents write a status at least every five minutes and a half. Sooner than by that, a silent one is
/// known by its series.
const AGENT_SILENT_AFTER: SignedDuration = SignedDuration::from_mins(6);

impl Observation {
    /// Whether a node's agent was not heard of for longer than it should. `object` is the node's, if it has
    /// one.
    #[must_use]
    pub fn agent_is_silent(&self, node: &str, object: Option<&NodeFrequencies>, now: Timestamp) -> bool {
        let beat = object.and_then(|object| object.status.as_ref()?.heartbeat_time.as_ref());
        let heard = self.telemetry.agents.get(node).filter(|_| self.telemetry.agents_answered);
        beat.is_some_and(|beat| now.duration_since(beat.0) > AGENT_SILENT_AFTER)
            || heard.is_some_and(|heard| now.duration_since(*heard) > self.stale_after())
    }

    /// A reading older than this is no basis for raising anything.
    #[must_use]
    pub fn stale_after(&self) -> SignedDuration {
        stale_after(self.collection_interval)
    }
}

/// The age at which a reading is stale, given how often the exporters collect.
#[must_use]
pub fn stale_after(collection_interval: SignedDuration) -> SignedDuration {
    collection_interval.saturating_mul(3)
}

/// The sample if it is recent, else why it cannot be used. `of_what` names the device, pod or node.
///
/// # Errors
/// `NoData` when there is none, `DataStale` when it is too old; or the problem with the last question,
/// when there was one.
pub fn fresh<'a, T>(
    sample: Option<&'a Sample<T>>,
    of_what: &(impl fmt::Display + ?Sized),
    problem: Option<&Hold>,
    now: Timestamp,
    stale_after: SignedDuration,
) -> Result<&'a Sample<T>, Hold> {
    let Some(sample) = sample else {
        return Err(problem.cloned().unwrap_or_else(|| Hold::new(Reason::NoData, format!("no reading of {of_what}"))));
    };
    if now.duration_since(sample.at).abs() <= stale_after {
        return Ok(sample);
    }
    // The time, not the age: a message that counts seconds would be written every second.
    let last = format!("the last reading of {of_what} by {} is of {:.0}", sample.source, sample.at);
    Err(match problem {
        Some(problem) => Hold::new(problem.reason, format!("{}; {last}", problem.message)),
        None => Hold::new(Reason::DataStale, last),
    })
}

/// Maps whose keys are no strings, as lists of pairs: JSON knows no other keys.
pub(crate) mod pairs {
    use std::collections::BTreeMap;

    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    pub(crate) fn serialize<K: Serialize, V: Serialize, S: Serializer>(
        map: &BTreeMap<K, V>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(map)
    }

    pub(crate) fn deserialize<'de, K, V, D>(deserializer: D) -> Result<BTreeMap<K, V>, D::Error>
    where
        K: Deserialize<'de> + Ord,
        V: Deserialize<'de>,
        D: Deserializer<'de>,
    {
        Vec::<(K, V)>::deserialize(deserializer).map(BTreeMap::from_iter)
    }
}
