//! Whom a rung could be applied to, what that would free, and in which order they come.
//!
//! | rung | is for | frees |
//! |---|---|---|
//! | Freeze | a workload that can be scaled | nothing: it keeps what is there from growing |
//! | Resize | a pod with CPU power that counts, and of no job | its CPU power |
//! | Scale | a workload that can be scaled, of more than one pod | the mean of its pods |
//! | Migrate, Evict | a pod that something makes anew | its power |
//!
//! The ranks of one job are one victim. The order: lower priority first (the policy's, then the pod's), then pods
//! above their own watts, then more watts first, since what work a watt does is not learned yet, then by name.
//!
//! Must hold: a victim is whole; no pod of it is unselected, or forbidden by a policy or domain that comes first;
//! what is ownerless, critical, static or a DaemonSet's is never evicted.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use powercap_common::{
    api::{Action, PowerScope},
    policy::Policy,
    target,
    units::Watts,
};

use super::{fleet::Pod, ladder::permits, policy::PolicyView, readings::Readings, verdict::Verdict};
use crate::observation::{PodFacts, PodName};

/// Kinds whose replicas we can bound.
const SCALED: [&str; 4] = ["Deployment", "StatefulSet", "InferenceService", "LLMInferenceService"];
/// Kinds whose pods run on this node or nowhere; those of a Node are static.
const BOUND: [&str; 2] = ["DaemonSet", "Node"];
/// Pods of this priority and above are critical: kube-scheduler's own classes begin here.
const CRITICAL: i32 = 2_000_000_000;
/// Where the cluster's own pods are.
const SYSTEM: &str = "kube-system";

/// What could be done, to whom.
#[derive(Clone, Debug)]
pub struct Victim<'a> {
    /// The rung.
    pub action: Action,
    /// The namespace.
    pub namespace: &'a str,
    /// The workload, as `Kind/name`.
    pub workload: String,
    /// The pod, where one is meant.
    pub pod: Option<&'a str>,
    /// What it frees.
    pub frees: Watts,
    /// Some pod of it draws more than its own watts.
    pub above: bool,
    /// The priorities of its policy and of its pod.
    pub priority: (u32, i32),
    /// Its pods with their nodes, each with its part of what is freed.
    pub pods: Vec<(&'a PodName, Option<usize>, Watts)>,
}

/// Tells one from the others: rung, namespace, workload, pod.
pub type Key<'k> = (Action, &'k str, &'k str, Option<&'k str>);

impl Victim<'_> {
    /// What tells it from the others.
    pub fn key(&self) -> Key<'_> {
        (self.action, self.namespace, &self.workload, self.pod)
    }

    /// The lower comes first; of the same priority those that have a place already, in their order.
    pub fn order(&self, place: Option<usize>) -> impl Ord + '_ {
        (self.priority, place.unwrap_or(usize::MAX), Reverse((self.above, self.frees)), self.key())
    }
}

/// Which workloads and jobs the running pods make up.
#[derive(Default)]
pub struct Workloads<'a> {
    of: HashMap<&'a PodName, String>,
    /// How many pods each has, by namespace.
    sizes: HashMap<&'a str, HashMap<String, usize>>,
    ranks: HashMap<(&'a str, &'a str), usize>,
}

impl<'a> Workloads<'a> {
    /// Of these pods.
    pub fn of(pods: &'a [Arc<PodFacts>]) -> Self {
        let mut workloads = Self::default();
        for pod in pods {
            let namespace = pod.name.namespace.as_str();
            if let Some(job) = &pod.job {
                *workloads.ranks.entry((namespace, job)).or_default() += 1;
            }
            if let Some(owner) = target::outermost(pod.controller.as_ref(), &pod.labels) {
                let owner = owner.to_string();
                *workloads.sizes.entry(namespace).or_default().entry(owner.clone()).or_default() += 1;
                workloads.of.insert(&pod.name, owner);
            }
        }
        workloads
    }

    /// The workload of a pod, as `Kind/name`; a pod that nothing controls stands for itself.
    pub fn workload(&self, pod: &PodName) -> String {
        self.of.get(pod).cloned().unwrap_or_else(|| format!("Pod/{}", pod.name))
    }

    fn has_all(&self, pods: &[&Drawn<'_>], together: Together<'_>) -> bool {
        let Some(namespace) = pods.first().map(|drawn| drawn.pod.name.namespace.as_str()) else { return false };
        pods.len()
            == match together {
                Together::Workload(name) => self.sizes.get(namespace).and_then(|sizes| sizes.get(name)).copied(),
                Together::Job(job) => self.ranks.get(&(namespace, job)).copied(),
                Together::Pod(_) => Some(1),
            }
            .unwrap_or_default()
    }
}

/// What is taken together.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Together<'n> {
    Workload(&'n str),
    Job(&'n str),
    Pod(&'n str),
}

/// A pod, and what it draws at the lowest clocks.
struct Drawn<'a> {
    pod: &'a PodFacts,
    workload: String,
    node: Option<usize>,
    /// All of it that counts.
    watts: Watts,
    /// Its CPU power, as far as that counts.
    cpu: Watts,
    /// More than its own watts.
    above: bool,
}

/// The policies whose permission counts for each pod: of several that enforce the one that comes first.
pub struct Permits<'p>(HashMap<&'p PodName, (usize, &'p Policy)>);

impl<'p> Permits<'p> {
    /// Of these policies, by their places; those first that come first.
    pub fn of(policies: impl Iterator<Item = (usize, &'p PolicyView<'p>)>) -> Self {
        let mut first = HashMap::new();
        for (at, view) in policies.filter(|(_, view)| view.enforces()) {
            let Ok(policy) = &view.policy else { continue };
            for pod in &view.pods {
                first.entry(&pod.facts.name).or_insert((at, policy));
            }
        }
        Self(first)
    }

    fn permit(&self, pod: &PodName, by: usize, action: Action) -> bool {
        self.0.get(pod).is_none_or(|(first, policy)| *first == by || permits(policy, action))
    }
}

/// The pods of a policy, as its rungs and those of its domains see them.
pub struct Pods<'s, 'a> {
    at: usize,
    priority: u32,
    permits: &'s Permits<'s>,
    workloads: &'s Workloads<'a>,
    drawn: Vec<Drawn<'a>>,
}

impl<'s, 'a> Pods<'s, 'a> {
    /// Those of the policy at this place. `host`: CPU power counts. `part` of what they draw is left at the lowest
    /// clocks.
    pub fn of(
        (at, view, policy): (usize, &PolicyView<'a>, &Policy),
        verdict: &Verdict<'_>,
        (permits, workloads): (&'s Permits<'s>, &'s Workloads<'a>),
        (host, part): (bool, f64),
        readings: &Readings<'a>,
    ) -> Self {
        let for_cpus = policy.cap.saturating_sub(verdict.for_devices).divided(view.pods.len());
        let for_cpus = if policy.scope == PowerScope::DevicesAndHost { for_cpus } else { Watts::ZERO };
        let drawn = |running: &&Pod<'a>| {
            let &&Pod { facts: pod, node, .. } = running;
            let (mut devices, mut share) = (Watts::ZERO, for_cpus);
            for board in readings.fleet.boards_of(running) {
                let tenants = board.tenants.len();
                devices = devices + readings.of_board(board).ok()?.power.value.divided(tenants);
                let limit = view.device(board).map(|at| verdict.limits[at]);
                share = share + limit.unwrap_or_default().divided(tenants);
            }
            let cpu = readings.cpu_of(running).filter(|_| host).map(|sample| sample.value).unwrap_or_default();
            let own = if pod.requests.watts > Watts::ZERO { pod.requests.watts } else { share };
            let (watts, above) = (devices.scaled(part) + cpu, devices + cpu > own);
            Some(Drawn { pod, workload: workloads.workload(&pod.name), node, watts, cpu, above })
        };
        let pods = view.pods.iter().filter(|pod| view.permission.acts_on(pod.node));
        let priority = view.permission.priority(policy.priority);
        Self { at, priority, permits, workloads, drawn: pods.filter_map(drawn).collect() }
    }

    /// Whom this rung could be applied to, in no order.
    pub fn victims(&self, action: Action) -> Vec<Victim<'a>> {
        let mut together = BTreeMap::<_, Vec<&Drawn<'a>>>::new();
        for drawn in &self.drawn {
            together.entry(drawn.together(action)).or_default().push(drawn);
        }
        let possible = |(what, pods): &(Together<'_>, Vec<&Drawn<'a>>)| {
            self.workloads.has_all(pods, *what) && pods.iter().all(|drawn| self.is_possible(drawn, action))
        };
        together.into_iter().filter(possible).filter_map(|(what, pods)| self.victim(action, what, &pods)).collect()
    }

    fn is_possible(&self, drawn: &Drawn<'_>, action: Action) -> bool {
        let pod = drawn.pod;
        let critical = pod.priority >= CRITICAL || pod.name.namespace == SYSTEM;
        let controller = pod.controller.as_ref().map(|controller| controller.kind.as_str());
        let kind = drawn.workload.split_once('/').map_or("", |(kind, _)| kind);
        let can = match action {
            Action::Throttle => false,
            Action::Freeze | Action::Scale => SCALED.contains(&kind),
            // A rank that is slowed slows all.
            Action::Resize => controller != Some("Node") && pod.job.is_none(),
            Action::Migrate | Action::Evict => controller.is_some_and(|kind| !BOUND.contains(&kind)),
        };
        can && !critical && self.permits.permit(&pod.name, self.at, action)
    }

    fn victim(&self, action: Action, what: Together<'_>, pods: &[&Drawn<'a>]) -> Option<Victim<'a>> {
        let first = pods.first()?;
        let alone = match what {
            Together::Pod(_) => true,
            // A replica of a LeaderWorkerSet goes and comes with its leader, whose name is the first.
            Together::Job(job) => job.matches('/').count() > 1,
            Together::Workload(_) => false,
        };
        let freed = |drawn: &Drawn<'_>| match action {
            Action::Throttle | Action::Freeze => Watts::ZERO,
            Action::Resize => drawn.cpu,
            Action::Scale => drawn.watts.divided(pods.len()),
            Action::Migrate | Action::Evict => drawn.watts,
        };
        let frees = pods.iter().map(|drawn| freed(drawn)).sum();
        let enough = match action {
            Action::Throttle | Action::Freeze => true,
            Action::Scale => pods.len() > 1 && frees > Watts::ZERO,
            Action::Resize | Action::Migrate | Action::Evict => frees > Watts::ZERO,
        };
        enough.then(|| Victim {
            action,
            namespace: &first.pod.name.namespace,
            workload: first.workload.clone(),
            pod: alone.then_some(first.pod.name.name.as_str()),
            frees,
            above: pods.iter().any(|drawn| drawn.above),
            priority: (self.priority, pods.iter().map(|drawn| drawn.pod.priority).max().unwrap_or_default()),
            pods: pods.iter().map(|drawn| (&drawn.pod.name, drawn.node, freed(drawn))).collect(),
        })
    }
}

impl Drawn<'_> {
    fn together(&self, action: Action) -> Together<'_> {
        match (action, &self.pod.job) {
            (Action::Freeze | Action::Scale, _) => Together::Workload(&self.workload),
            (_, Some(job)) => Together::Job(job),
            (_, None) => Together::Pod(&self.pod.name.name),
        }
    }
}
