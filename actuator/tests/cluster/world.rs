//! What is in the cluster: a policy above its cap, three Deployments, a Job, and time.
//!
//! A pod draws 100 W until it is evicted; when time passes it is gone and its Deployment has made another, which a
//! node elsewhere runs: ready, and drawing nothing here. The ranks of a suspended Job draw nothing.

use std::{collections::BTreeMap, sync::Arc};

use k8s_openapi::{apimachinery::pkg::apis::meta::v1::Time, jiff::Timestamp};
use powercap_actuator::escalate::{
    observation::{Memory, Observation},
    observe::objects::{SeenJob, SeenPod, job_facts, pod_facts},
};
use powercap_common::api::PowerCappingPolicy;
use serde_json::{Value, json};

const NAMESPACE: &str = "llm";
const POD_WATTS: usize = 100;

/// A time, in seconds after the beginning.
pub fn at(second: i64) -> Time {
    Time(Timestamp::from_second(1_000_000 + second).unwrap())
}

/// All of it.
pub struct World {
    pub second: i64,
    pub policy: Value,
    pub pods: BTreeMap<String, Value>,
    pub jobs: BTreeMap<String, Value>,
    /// Which pods went, by UID, and when; and `Job/NAME` for each time that one was suspended.
    pub effects: Vec<(String, i64)>,
    /// Pods whose eviction is refused, and by which status.
    pub refused: BTreeMap<String, u16>,
    version: u64,
}

impl World {
    /// Nine pods and a Job of two ranks draw 1,100 W; the cap is 700 W. The Job comes second.
    pub fn new() -> Self {
        let mut world = Self {
            second: 0,
            policy: policy(),
            pods: BTreeMap::new(),
            jobs: BTreeMap::new(),
            effects: Vec::new(),
            refused: BTreeMap::new(),
            version: 1,
        };
        for workload in ["chat", "more", "solo"] {
            (1..=3).for_each(|number| world.add(&format!("{workload}-{number}"), "ReplicaSet", workload));
        }
        (1..=2).for_each(|number| world.add(&format!("train-{number}"), "Job", "train"));
        world.jobs.insert("train".into(), job("train"));
        world.recommend();
        world
    }

    fn add(&mut self, name: &str, kind: &str, controller: &str) {
        self.pods.insert(name.to_owned(), pod(name, kind, controller, &at(self.second - 1000)));
    }

    /// Time goes on by so many seconds, and everybody but us does their work.
    pub fn pass(&mut self, seconds: i64) {
        self.second += seconds;
        let ending = |pod: &Value| !pod["metadata"]["deletionTimestamp"].is_null();
        let gone: Vec<_> = self.pods.extract_if(.., |_, pod| ending(pod)).collect();
        for (name, before) in gone {
            let controller = before["metadata"]["labels"]["of"].as_str().unwrap_or_default().to_owned();
            let mut again = pod(&format!("{name}-again"), "ReplicaSet", &controller, &at(self.second - 1000));
            again["elsewhere"] = json!(true);
            self.pods.insert(format!("{name}-again"), again);
        }
        self.recommend();
    }

    /// What flows here.
    pub fn watts(&self) -> usize {
        let suspended = |pod: &Value| {
            let of = pod["metadata"]["labels"]["of"].as_str().unwrap_or_default();
            self.jobs.get(of).is_some_and(|job| job["spec"]["suspend"] == true)
        };
        let draws = |pod: &&Value| {
            pod["elsewhere"] != true && pod["metadata"]["deletionTimestamp"].is_null() && !suspended(pod)
        };
        self.pods.values().filter(draws).count() * POD_WATTS
    }

    /// The victims: the first of each Deployment and the Job, in order, while power is above the cap.
    fn recommend(&mut self) {
        if self.policy.is_null() {
            return;
        }
        let (watts, cap) = (self.watts(), self.policy["spec"]["powerCapLimitWatts"].as_u64().unwrap());
        let cap = usize::try_from(cap).unwrap();
        let victims = [("chat-1", "chat"), ("", "train"), ("more-1", "more"), ("solo-1", "solo")];
        let there = |&(pod, of): &(&str, &str)| {
            if pod.is_empty() { self.jobs[of]["spec"]["suspend"] != true } else { self.pods.contains_key(pod) }
        };
        let pending = victims.into_iter().filter(there).filter(|_| watts > cap).map(|(pod, of)| {
            let workload = if pod.is_empty() { format!("Job/{of}") } else { format!("Deployment/{of}") };
            let frees = if pod.is_empty() { 2 * POD_WATTS } else { POD_WATTS };
            let mut action = json!({"action": "Evict", "namespace": NAMESPACE, "workload": workload,
                "freesWatts": frees, "reason": "PowerAboveCap", "since": at(-100)});
            if !pod.is_empty() {
                action["pod"] = json!(pod);
            }
            action
        });
        let pending: Vec<_> = pending.collect();
        let status = &mut self.policy["status"];
        status["pendingActions"] = json!(pending);
        status["currentPowerWatts"] = json!(watts);
        let within = if watts > cap { "False" } else { "True" };
        let conditions = status["conditions"].as_array_mut().unwrap();
        conditions.retain(|condition| condition["type"] == "Escalating");
        conditions.extend([condition("DataFresh", "True"), condition("WithinCap", within)]);
        self.touch();
    }

    fn touch(&mut self) {
        self.version += 1;
        self.policy["metadata"]["resourceVersion"] = json!(self.version.to_string());
    }

    /// As caches that lag behind nothing would show it.
    pub fn observe(&self, memory: &Memory) -> Observation {
        let read = |pod: &Value| serde_json::from_value::<SeenPod>(pod.clone()).unwrap();
        let facts = |pod: &Value| {
            let (name, facts) = pod_facts(&read(pod));
            (name, Arc::new(facts))
        };
        let job = |job: &Value| job_facts(&serde_json::from_value::<SeenJob>(job.clone()).unwrap());
        let policy: Option<PowerCappingPolicy> =
            (!self.policy.is_null()).then(|| serde_json::from_value(self.policy.clone()).unwrap());
        Observation {
            policies: policy.into_iter().map(Arc::new).collect(),
            pods: self.pods.values().map(facts).collect(),
            jobs: self.jobs.values().map(job).collect(),
            memory: memory.clone(),
            ..Observation::default()
        }
    }

    pub(super) fn policy_named(&self, name: &str) -> Result<Value, u16> {
        if self.policy["metadata"]["name"] == name { Ok(self.policy.clone()) } else { Err(404) }
    }

    pub(super) fn evict(&mut self, name: &str, uid: &str) -> Result<(), u16> {
        if let Some(code) = self.refused.get(name) {
            return Err(*code);
        }
        let pod = self.pods.get_mut(name).ok_or(404_u16)?;
        if pod["metadata"]["uid"] != uid {
            return Err(409);
        }
        if pod["metadata"]["deletionTimestamp"].is_null() {
            pod["metadata"]["deletionTimestamp"] = json!(at(self.second));
            self.effects.push((uid.to_owned(), self.second));
        }
        Ok(())
    }

    /// Server-side apply of what is ours: `escalated`, and the condition `Escalating`.
    pub(super) fn apply(&mut self, name: &str, patch: &Value) -> Result<Value, u16> {
        self.policy_named(name)?;
        let (given, known) = (&patch["metadata"], &self.policy["metadata"]);
        if given["uid"] != known["uid"] || given["resourceVersion"] != known["resourceVersion"] {
            return Err(409);
        }
        let status = self.policy["status"].as_object_mut().unwrap();
        status.remove("escalated");
        if let Some(escalated) = patch["status"].get("escalated") {
            status.insert("escalated".to_owned(), escalated.clone());
        }
        let conditions = status["conditions"].as_array_mut().unwrap();
        conditions.retain(|condition| condition["type"] != "Escalating");
        conditions.extend(patch["status"]["conditions"].as_array().unwrap().clone());
        self.touch();
        Ok(self.policy.clone())
    }

    pub(super) fn patch_job(&mut self, name: &str, patch: &Value) -> Result<Value, u16> {
        let job = self.jobs.get_mut(name).ok_or(404_u16)?;
        if patch["metadata"]["uid"] != job["metadata"]["uid"] {
            return Err(409);
        }
        let suspend = &patch["spec"]["suspend"];
        if *suspend == true && job["spec"]["suspend"] != true {
            self.effects.push((format!("Job/{name}"), self.second));
        }
        job["spec"]["suspend"] = suspend.clone();
        job["metadata"]["annotations"] = patch["metadata"]["annotations"].clone();
        job["metadata"]["annotations"].as_object_mut().unwrap().retain(|_, mark| !mark.is_null());
        Ok(job.clone())
    }
}

fn condition(kind: &str, status: &str) -> Value {
    json!({"type": kind, "status": status, "reason": kind, "message": "", "lastTransitionTime": at(0)})
}

fn policy() -> Value {
    json!({
        "apiVersion": "powercapping.io/v1alpha1", "kind": "PowerCappingPolicy",
        "metadata": {"namespace": NAMESPACE, "name": "all", "uid": "uid-all", "generation": 1},
        "spec": {"powerCapLimitWatts": 700, "mode": "Enforce", "selector": {"matchLabels": {"app": "llm"}},
            "escalation": [{"action": "Throttle"}, {"action": "Evict"}]},
        "status": {"conditions": []},
    })
}

fn pod(name: &str, kind: &str, controller: &str, created: &Time) -> Value {
    json!({
        "metadata": {
            "namespace": NAMESPACE, "name": name, "uid": format!("uid-{name}"), "creationTimestamp": created,
            "labels": {"app": "llm", "of": controller},
            "ownerReferences": [{"apiVersion": "v1", "kind": kind, "name": controller, "uid": "u", "controller": true}],
        },
        "spec": {},
        "status": {"conditions": [{"type": "Ready", "status": "True", "lastTransitionTime": created}]},
    })
}

fn job(name: &str) -> Value {
    json!({
        "apiVersion": "batch/v1", "kind": "Job",
        "metadata": {"namespace": NAMESPACE, "name": name, "uid": format!("uid-{name}"), "annotations": {}},
        "spec": {"suspend": false, "template": {}},
    })
}
