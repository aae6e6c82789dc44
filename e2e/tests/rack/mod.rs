//! The demo's rack as the tests use it: deployed once, put back to its manifests at the start of each
//! test, and read in two ways: as the API tells it, and as the simulator knows it to be.

pub mod account;
mod afresh;
pub mod figures;
pub mod process;

use std::{
    fmt::Debug,
    path::Path,
    time::{Duration, Instant},
};

use k8s_openapi::api::{apps::v1::DaemonSet, core::v1::Pod};
use kube::{
    Api, Client,
    api::{DeleteParams, ListParams, LogParams, Patch, PatchParams},
};
use powercap_common::{
    api::{CpuStatus, DeviceState, NodeFrequencies, PowerCappingPolicy, PowerDomain},
    condition::{self, Truth},
};
use powercap_e2e::{
    cluster::existing::hardware_folders,
    deployment::{Deployment, wait_until_running},
};
use powercap_simulator::judge::record::{NodePower, Watcher};
use serde_json::{Value, json};

/// After this a claim is given up. It is no claim itself: how long things take is measured by `make bench`, where the
/// machine is idle.
const PATIENCE: Duration = Duration::from_secs(300);

/// Two nodes of eight boards, a training and an inference workload, a domain and two policies.
pub struct Rack {
    pub client: Client,
}

impl Rack {
    /// The rack with everything running, its caps as the manifests say, and every node holding its grant.
    pub async fn ready() -> Self {
        let rack = Self { client: powercap_e2e::client().await };
        rack.clear_away().await;
        let manifests = Path::new(env!("CARGO_MANIFEST_DIR")).join("../manifests");
        Deployment { manifests, without: Vec::new() }.apply().await.unwrap();
        wait_until_running(&rack.client, |_| {}).await.unwrap();
        rack.eventually("every node holds its grant", async |rack| rack.all_hold().await).await;
        rack
    }

    /// Looks five times a second until the claim holds; fails with the state of the rack.
    pub async fn eventually(&self, claim: &str, holds: impl AsyncFn(&Self) -> bool) {
        let begun = Instant::now();
        while !holds(self).await {
            assert!(
                begun.elapsed() < PATIENCE,
                "after {} s not so: {claim}\n{}",
                PATIENCE.as_secs(),
                self.state().await
            );
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }

    /// Looks five times a second for the whole time; fails at the first look at which the claim does not hold.
    pub async fn throughout(&self, claim: &str, seconds: u64, holds: impl AsyncFn(&Self) -> bool) {
        let begun = Instant::now();
        while begun.elapsed() < Duration::from_secs(seconds) {
            assert!(holds(self).await, "no longer so: {claim}\n{}", self.state().await);
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }

    pub async fn all_hold(&self) -> bool {
        let nodes = self.nodes().await;
        nodes.len() == 2
            && nodes.iter().all(|node| {
                let held = node.status.as_ref().and_then(|status| status.acknowledged);
                held.is_some_and(|held| held.epoch == node.spec.epoch && held.power_limit_watts.is_some())
            })
    }

    /// Whether what every node holds is within a cap that was set: grants of before may still be held.
    pub async fn all_hold_within(&self, cap: u32) -> bool {
        self.granted().await.is_some_and(|granted| granted <= cap) && self.all_hold().await
    }

    /// Whether every node has CPUs, and each is held below its highest clock.
    pub async fn cpus_are_slowed(&self) -> bool {
        let slowed = |cpu: &CpuStatus| {
            cpu.state == DeviceState::Applied && cpu.target_megahertz.is_some_and(|clock| clock < cpu.max_megahertz)
        };
        let nodes = self.nodes().await;
        nodes.len() == 2
            && nodes.iter().all(|node| {
                let cpus = node.status.as_ref().map(|status| status.cpus.as_slice()).unwrap_or_default();
                !cpus.is_empty() && cpus.iter().all(slowed)
            })
    }

    /// What both nodes are granted together; none while one of them may draw anything.
    pub async fn granted(&self) -> Option<u32> {
        let nodes = self.nodes().await;
        nodes.iter().map(|node| node.spec.power_limit_watts).sum::<Option<u32>>().filter(|_| nodes.len() == 2)
    }

    pub async fn nodes(&self) -> Vec<NodeFrequencies> {
        Api::<NodeFrequencies>::all(self.client.clone()).list(&ListParams::default()).await.unwrap().items
    }

    pub async fn domain(&self) -> PowerDomain {
        self.domains().get("rack").await.unwrap()
    }

    pub async fn policy(&self, name: &str) -> PowerCappingPolicy {
        self.policies().get(name).await.unwrap()
    }

    fn policies(&self) -> Api<PowerCappingPolicy> {
        Api::namespaced(self.client.clone(), "demo")
    }

    fn domains(&self) -> Api<PowerDomain> {
        Api::all(self.client.clone())
    }

    pub async fn edit_domain(&self, spec: Value) {
        let patch = Patch::Merge(json!({"spec": spec}));
        self.domains().patch("rack", &PatchParams::default(), &patch).await.unwrap();
    }

    pub async fn edit_policy(&self, name: &str, spec: Value) {
        let patch = Patch::Merge(json!({"spec": spec}));
        self.policies().patch(name, &PatchParams::default(), &patch).await.unwrap();
    }

    pub async fn remove_caps(&self) {
        let (now, everything) = (DeleteParams::default(), ListParams::default());
        self.domains().delete_collection(&now, &everything).await.unwrap();
        self.policies().delete_collection(&now, &everything).await.unwrap();
    }

    /// What a policy's condition says, and why.
    pub async fn policy_condition(&self, name: &str, kind: &str) -> (Truth, String) {
        let conditions = self.policy(name).await.status.unwrap_or_default().conditions;
        let reason =
            conditions.iter().find(|condition| condition.type_ == kind).map(|condition| condition.reason.clone());
        (condition::truth(&conditions, kind), reason.unwrap_or_default())
    }

    pub async fn scale(&self, namespace: &str, deployment: &str, replicas: u32) {
        let patch = Patch::Merge(json!({"spec": {"replicas": replicas}}));
        Api::<k8s_openapi::api::apps::v1::Deployment>::namespaced(self.client.clone(), namespace)
            .patch(deployment, &PatchParams::default(), &patch)
            .await
            .unwrap();
    }

    /// Pods of a namespace with this label.
    pub async fn pods(&self, namespace: &str, label: &str) -> Vec<Pod> {
        let labelled = ListParams::default().labels(label);
        Api::<Pod>::namespaced(self.client.clone(), namespace).list(&labelled).await.unwrap().items
    }

    pub async fn kill_pod(&self, pod: &Pod) {
        let pods = Api::<Pod>::namespaced(self.client.clone(), pod.metadata.namespace.as_ref().unwrap());
        let at_once = DeleteParams { grace_period_seconds: Some(0), ..Default::default() };
        pods.delete(pod.metadata.name.as_ref().unwrap(), &at_once).await.unwrap();
    }

    /// Has the DaemonSet of the node agents run on every node, as the manifests do, or on none.
    pub async fn run_agents(&self, run: bool) {
        let selector = if run { json!(null) } else { json!({"kubernetes.io/os": "nowhere"}) };
        let patch = json!({"spec": {"template": {"spec": {"nodeSelector": selector}}}});
        Api::<DaemonSet>::namespaced(self.client.clone(), "powercap-node")
            .patch("powercap-actuator-node", &PatchParams::default(), &Patch::Merge(patch))
            .await
            .unwrap();
    }

    /// Stops the node agents as an update would, and waits until none runs.
    pub async fn stop_agents(&self) {
        self.run_agents(false).await;
        self.eventually("no agent runs", async |_| process::agents().is_empty()).await;
    }

    /// Starts the node agents again, and waits until each node has one.
    pub async fn start_agents(&self) {
        self.run_agents(true).await;
        self.eventually("an agent runs on each node", async |_| process::agents().len() == 2).await;
    }

    /// True power of each node now, as the simulator knows it.
    pub fn truth(&self) -> Vec<(String, NodePower)> {
        let mut nodes = Vec::new();
        for folder in hardware_folders().unwrap() {
            let sample = Watcher::new(&folder).unwrap().look(1);
            nodes.push((sample.node, sample.power.expect("the simulation runs")));
        }
        nodes
    }

    /// True power of all nodes together, alternating current.
    pub fn true_watts(&self) -> f64 {
        self.truth().iter().map(|(_, power)| power.ac_watts).sum()
    }

    async fn state(&self) -> String {
        let mut state = format!("true power {:.0} W\n", self.true_watts());
        let add = |state: &mut String, what: &dyn Debug| state.push_str(&format!("{what:?}\n"));
        for node in self.nodes().await {
            add(&mut state, &node.spec);
            add(&mut state, &node.status);
        }
        for name in ["training", "inference"] {
            // Where nothing is installed there are no policies.
            add(&mut state, &self.policies().get_opt(name).await.map(|policy| policy.map(|policy| policy.status)));
        }
        let agents = Api::<DaemonSet>::namespaced(self.client.clone(), "powercap-node");
        for agents in agents.list(&ListParams::default()).await.unwrap().items {
            add(&mut state, &(agents.metadata.generation, agents.status));
        }
        let last = LogParams { tail_lines: Some(20), ..LogParams::default() };
        for namespace in ["powercap-node", "powercap-system"] {
            for pod in self.pods(namespace, "app.kubernetes.io/component").await {
                let name = pod.metadata.name.unwrap();
                let status = pod.status.unwrap_or_default();
                add(&mut state, &(&name, pod.metadata.deletion_timestamp, status.phase, status.container_statuses));
                let logs = Api::<Pod>::namespaced(self.client.clone(), namespace).logs(&name, &last).await;
                state.push_str(&logs.unwrap_or_else(|error| error.to_string()));
            }
        }
        state
    }
}
