//! A small cluster in memory: an API server that keeps objects, versions and epochs, agents that
//! acknowledge when told to, and readings that stand still. `decide` runs on it as in the real thing.
#![allow(clippy::needless_pass_by_value, reason = "a test hands over what it wrote")]

use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use powercap_common::{
    api::{
        Acknowledged, CpuStatus, Epoch, GpuStatus, NodeFrequencies, NodeFrequenciesStatus, PowerCappingPolicy,
        PowerDomain,
    },
    condition,
    units::{Megahertz, Watts},
};
use powercap_recommender::{
    decide::{NodeWrite, Plan, decide},
    memory::Memory,
    observation::{GpuReading, MeterReading, NodeFacts, Observation, PodFacts, PodName, Sample, Source},
};
use serde_json::{Value, json};

/// The cluster.
pub struct World {
    /// Everything that a decision sees.
    pub observation: Observation,
    /// The time.
    pub now: Timestamp,
    versions: u64,
}

/// Why the API server refuses a write.
#[derive(Debug, PartialEq, Eq)]
pub enum Refused {
    /// There is a newer version.
    Conflict,
    /// There is a later epoch.
    EpochGoesBack,
}

impl World {
    /// Nodes `n0`, `n1`… with the label `rack: r1`, in term 1.
    pub fn of_nodes(count: usize) -> Self {
        let mut world = Self {
            observation: Observation {
                epoch: Epoch { term: 1, sequence: 1 },
                collection_interval: SignedDuration::from_secs(5),
                ..Observation::default()
            },
            now: "2026-11-22T07:00:00Z".parse().unwrap(),
            versions: 0,
        };
        for at in 0..count {
            world.node(&format!("n{at}"), "r1");
        }
        world.observation.telemetry.agents_answered = true;
        world
    }

    pub fn node(&mut self, name: &str, rack: &str) {
        let labels = [("rack".to_owned(), rack.to_owned())].into();
        let boot_id = self.observation.nodes.get(name).map_or_else(|| "boot-0".to_owned(), |node| node.boot_id.clone());
        let facts = NodeFacts { uid: format!("uid-{name}"), labels, boot_id, ..NodeFacts::default() };
        self.observation.nodes.insert(name.to_owned(), facts);
    }

    pub fn domain(&mut self, name: &str, spec: Value) {
        let generation = self.version();
        let old = self.observation.domains.iter().position(|object| object.metadata.name.as_deref() == Some(name));
        let status = old.and_then(|at| self.observation.domains.remove(at).status.clone());
        let object: PowerDomain = serde_json::from_value(json!({
            "apiVersion": "powercapping.io/v1alpha1", "kind": "PowerDomain",
            "metadata": {"name": name, "generation": generation}, "spec": spec, "status": status,
        }))
        .unwrap();
        self.observation.domains.push(Arc::new(object));
    }

    /// A domain of the nodes of rack `r1`.
    pub fn rack(&mut self, cap: u32) {
        self.domain("rack", json!({"powerCapLimitWatts": cap, "nodeSelector": {"matchLabels": {"rack": "r1"}}}));
    }

    /// A policy `llm/NAME` on pods with `app: NAME`.
    pub fn policy(&mut self, name: &str, cap: u32, mode: &str) {
        let spec = json!({"powerCapLimitWatts": cap, "mode": mode, "selector": {"matchLabels": {"app": name}}});
        self.policy_of(name, spec);
    }

    pub fn policy_of(&mut self, name: &str, spec: Value) {
        let generation = self.version();
        let policies = &mut self.observation.policies;
        let old = policies.iter().position(|object| object.metadata.name.as_deref() == Some(name));
        let status = old.and_then(|at| policies.remove(at).status.clone());
        let object: PowerCappingPolicy = serde_json::from_value(json!({
            "apiVersion": "powercapping.io/v1alpha1", "kind": "PowerCappingPolicy",
            "metadata": {"namespace": "llm", "name": name, "generation": generation}, "spec": spec, "status": status,
        }))
        .unwrap();
        policies.push(Arc::new(object));
    }

    /// A running pod `llm/NAME` with `app: APP`.
    pub fn pod(&mut self, name: &str, app: &str, node: &str) -> PodName {
        let pod = PodName { namespace: "llm".into(), name: name.into() };
        let labels = [("app".to_owned(), app.to_owned())].into();
        let facts = PodFacts { name: pod.clone(), node: node.into(), labels, gpus: 1, ..PodFacts::default() };
        self.observation.pods.push(Arc::new(facts));
        pod
    }

    /// The facts of the running pod at this place, in the order in which they came.
    pub fn facts(&mut self, at: usize) -> &mut PodFacts {
        Arc::make_mut(&mut self.observation.pods[at])
    }

    /// Those of the pod that came last.
    pub fn newest(&mut self) -> &mut PodFacts {
        Arc::make_mut(self.observation.pods.last_mut().unwrap())
    }

    /// An H100 on a node, with its reading of just now.
    pub fn gpu(&mut self, uuid: &str, node: &str, tenants: &[&PodName], power: u32, clock: u32) {
        let reading = GpuReading {
            node: Some(node.into()),
            tenants: tenants.iter().map(|pod| (*pod).clone()).collect(),
            power: Some(Sample { value: Watts::new(power), at: self.now, source: Source::DcgmExporter }),
            clock: Some(Sample { value: Megahertz::new(clock), at: self.now, source: Source::DcgmExporter }),
        };
        self.observation.telemetry.gpus.insert(uuid.into(), reading);
    }

    pub fn cpu(&mut self, node: &str, power: u32) {
        let sample = Sample { value: Watts::new(power), at: self.now, source: Source::Kepler };
        self.observation.telemetry.node_cpu.insert(node.into(), sample);
    }

    pub fn pod_cpu(&mut self, pod: &PodName, power: u32) {
        let sample = Sample { value: Watts::new(power), at: self.now, source: Source::Kepler };
        self.observation.telemetry.pod_cpu.insert(pod.clone(), sample);
    }

    /// What the domain's meter tells just now.
    pub fn meter(&mut self, domain: &str, power: u32) {
        let power = Some(Sample { value: Watts::new(power), at: self.now, source: Source::Meter });
        self.observation.telemetry.meters.insert(domain.into(), MeterReading { power, problem: None });
    }

    /// Time passes, and everything is read anew as it was.
    pub fn read_again(&mut self, seconds: i64) {
        self.pass(seconds);
        let telemetry = &mut self.observation.telemetry;
        for gpu in telemetry.gpus.values_mut() {
            gpu.power.iter_mut().for_each(|sample| sample.at = self.now);
            gpu.clock.iter_mut().for_each(|sample| sample.at = self.now);
        }
        let meters = telemetry.meters.values_mut().filter_map(|meter| meter.power.as_mut());
        let cpus = telemetry.node_cpu.values_mut().chain(telemetry.pod_cpu.values_mut());
        cpus.chain(meters).for_each(|sample| sample.at = self.now);
    }

    pub fn pass(&mut self, seconds: i64) {
        self.now += SignedDuration::from_secs(seconds);
    }

    pub fn decide(&self) -> Plan {
        let plan = decide(&self.observation, self.now);
        assert_eq!(plan, decide(&self.observation, self.now), "a decision replays to the same plan");
        plan
    }

    /// Decides, and carries it out.
    pub fn turn(&mut self) -> Plan {
        let plan = self.decide();
        for write in &plan.nodes {
            self.write(write).unwrap();
        }
        self.write_statuses(&plan);
        plan
    }

    pub fn write_statuses(&mut self, plan: &Plan) {
        if !plan.nodes.is_empty() {
            self.observation.epoch.sequence += 1;
        }
        self.observation.throttled = plan.throttled.clone();
        self.observation.told = plan.notices.told.clone();
        self.observation.metered = plan.metered.clone();
        Arc::make_mut(&mut self.observation.telemetry.history).note(&plan.news, &plan.figures, self.now);
        for (id, status) in &plan.policies {
            let named = |object: &&mut Arc<PowerCappingPolicy>| object.metadata.name.as_ref() == Some(&id.name);
            let object = self.observation.policies.iter_mut().find(named).unwrap();
            Arc::make_mut(object).status = Some(status.clone());
        }
        for (name, status) in &plan.domains {
            let named = |object: &&mut Arc<PowerDomain>| object.metadata.name.as_ref() == Some(name);
            let object = self.observation.domains.iter_mut().find(named).unwrap();
            Arc::make_mut(object).status = Some(status.clone());
        }
    }

    /// What the API server makes of a write.
    pub fn write(&mut self, write: &NodeWrite) -> Result<(), Refused> {
        let version = self.version().to_string();
        let existing = self.observation.frequencies.get(&write.name);
        if existing.and_then(|object| object.metadata.resource_version.as_ref()) != write.resource_version.as_ref() {
            return Err(Refused::Conflict);
        }
        if existing.is_some_and(|object| object.spec.epoch > write.spec.epoch) {
            return Err(Refused::EpochGoesBack);
        }
        let mut object = NodeFrequencies::new(&write.name, write.spec.clone());
        object.status = existing.and_then(|object| object.status.clone());
        object.metadata.resource_version = Some(version);
        self.observation.frequencies.insert(write.name.clone(), Arc::new(object));
        Ok(())
    }

    /// The node's agent acknowledges what it is told now, and tells its boards and CPUs.
    pub fn acknowledge(&mut self, node: &str) {
        let spec = self.spec(node);
        let acknowledged = Acknowledged { epoch: spec.epoch, power_limit_watts: spec.power_limit_watts };
        self.acknowledge_as(node, acknowledged);
    }

    pub fn acknowledge_as(&mut self, node: &str, acknowledged: Acknowledged) {
        let version = self.version().to_string();
        let gpus = self.observation.telemetry.gpus.iter().filter(|(_, gpu)| gpu.node.as_deref() == Some(node));
        let gpus = gpus.map(|(uuid, _)| h100(uuid)).collect();
        let cpus =
            vec![CpuStatus { cpufreq_policy: 0, min_megahertz: 800, max_megahertz: 3800, ..CpuStatus::default() }];
        let Some(object) = self.observation.frequencies.get_mut(node) else { return };
        let object = Arc::make_mut(object);
        object.metadata.resource_version = Some(version);
        object.status = Some(NodeFrequenciesStatus {
            acknowledged: Some(acknowledged),
            boot_id: Some(self.observation.nodes[node].boot_id.clone()),
            gpus,
            cpus,
            ..NodeFrequenciesStatus::default()
        });
    }

    /// The node boots, and its kubelet says so; its agent is not back yet.
    pub fn boot(&mut self, node: &str) {
        let boot_id = format!("boot-{}", self.version());
        self.observation.nodes.get_mut(node).unwrap().boot_id = boot_id;
    }

    /// The agent is back after a boot, and reports for the first time.
    pub fn report_boot(&mut self, node: &str) {
        let boot_id = self.observation.nodes[node].boot_id.clone();
        let version = self.version().to_string();
        let Some(object) = self.observation.frequencies.get_mut(node) else { return };
        let object = Arc::make_mut(object);
        object.metadata.resource_version = Some(version);
        let status = object.status.get_or_insert_default();
        if status.boot_id.as_ref() != Some(&boot_id) {
            (status.boot_id, status.acknowledged) = (Some(boot_id), None);
        }
    }

    pub fn acknowledge_all(&mut self) {
        let nodes: Vec<_> = self.observation.frequencies.keys().cloned().collect();
        nodes.iter().for_each(|node| self.acknowledge(node));
    }

    /// Decides and acknowledges until nothing is written any more.
    pub fn settle(&mut self) {
        for _ in 0..20 {
            let plan = self.turn();
            self.acknowledge_all();
            if plan.is_empty() && self.decide().is_empty() {
                return;
            }
        }
        panic!("does not settle: {:#?}", self.decide());
    }

    /// Another leader: a new term, and no memory.
    pub fn new_leader(&mut self) {
        let term = self.observation.epoch.term + 1;
        Memory::of_term(term, &self.observation.policies, self.now).put_into(&mut self.observation);
    }

    pub fn spec(&self, node: &str) -> &powercap_common::api::NodeFrequenciesSpec {
        &self.observation.frequencies[node].spec
    }

    pub fn grants(&self) -> Vec<Option<u32>> {
        self.observation.frequencies.values().map(|object| object.spec.power_limit_watts).collect()
    }

    /// `STATUS Reason` of a policy's condition.
    pub fn policy_says(&self, name: &str, kind: &str) -> String {
        let policies = self.observation.policies.iter();
        let object = policies.clone().find(|object| object.metadata.name.as_deref() == Some(name)).unwrap();
        says(&object.status.as_ref().unwrap().conditions, kind)
    }

    /// Likewise of a domain's.
    pub fn domain_says(&self, name: &str, kind: &str) -> String {
        let domains = self.observation.domains.iter();
        let object = domains.clone().find(|object| object.metadata.name.as_deref() == Some(name)).unwrap();
        says(&object.status.as_ref().unwrap().conditions, kind)
    }

    /// `UUID: MHz, W` of a node's ceilings.
    pub fn ceilings(&self, node: &str) -> Vec<(String, Option<u32>, Option<u32>)> {
        let ceilings = &self.spec(node).gpu_frequencies;
        ceilings.iter().map(|gpu| (gpu.uuid.clone(), gpu.max_graphics_megahertz, gpu.power_limit_watts)).collect()
    }

    fn version(&mut self) -> u64 {
        self.versions += 1;
        self.versions
    }
}

fn says(conditions: &[Condition], kind: &str) -> String {
    let reason = conditions.iter().find(|condition| condition.type_ == kind).map(|condition| condition.reason.as_str());
    format!("{} {}", condition::truth(conditions, kind).as_str(), reason.unwrap_or("-"))
}

fn h100(uuid: &str) -> GpuStatus {
    GpuStatus {
        uuid: uuid.into(),
        min_graphics_megahertz: 345,
        max_graphics_megahertz: 1980,
        min_power_limit_watts: 200,
        max_power_limit_watts: 700,
        ..GpuStatus::default()
    }
}
