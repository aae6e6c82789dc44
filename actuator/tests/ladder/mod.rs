//! A namespace with a policy above its cap, and Deployments to take from.

use std::{sync::Arc, time::Duration};

use k8s_openapi::{apimachinery::pkg::apis::meta::v1::Time, jiff::Timestamp};
use powercap_actuator::escalate::{
    ceilings::stored::Kind,
    decide::{Plan, What, decide},
    observation::{Budget, JobFacts, ObjectName, Observation, PodFacts, PodName, SuspendedByUs},
};
use powercap_common::{
    api::PowerCappingPolicy,
    condition,
    reason::Reason,
    selector::Selector,
    target::{Controller, JOB_SET},
};
use serde_json::{Value, json};

/// A time, in seconds after the beginning.
pub fn at(second: i64) -> Time {
    Time(Timestamp::from_second(1_000_000 + second).unwrap())
}

pub fn condition(kind: &str, status: &str) -> Value {
    json!({"type": kind, "status": status, "reason": kind, "message": "", "lastTransitionTime": at(0)})
}

pub fn reasons(plan: &Plan) -> Vec<Reason> {
    plan.reports.iter().map(|report| report.reason).collect()
}

pub fn evicted(plan: &Plan) -> Vec<String> {
    let evicted = |what: &What| match what {
        What::Evict(pod) => Some(pod.name.clone()),
        _ => None,
    };
    plan.steps.iter().filter_map(|step| evicted(&step.what)).collect()
}

fn pending(workload: &str, pod: Option<&str>) -> Value {
    json!({"action": "Evict", "namespace": "llm", "workload": workload, "pod": pod, "freesWatts": 200,
        "reason": "PowerAboveCap", "since": at(-100)})
}

pub struct Site {
    pub seen: Observation,
}

impl Site {
    /// Four Deployments of three pods, of each of which the first is listed.
    pub fn new() -> Self {
        let mut seen = Observation::default();
        seen.limits.settle = Duration::from_secs(30);
        let mut actions = Vec::new();
        for workload in ["chat", "solo", "more", "last"] {
            actions.push(pending(&format!("Deployment/{workload}"), Some(&format!("{workload}-1"))));
            for number in 1..=3 {
                let (name, facts) = pod(&format!("{workload}-{number}"), "ReplicaSet", workload);
                seen.pods.insert(name, Arc::new(facts));
            }
        }
        let mut site = Self { seen };
        site.policy(&json!(actions));
        site
    }

    /// A job of two ranks.
    pub fn with_job(kind: Kind) -> Self {
        let mut site = Self { seen: Observation::default() };
        for number in 1..=2 {
            let (name, mut facts) = pod(&format!("train-{number}"), kind.names().2, "train");
            if kind == Kind::JobSet {
                facts.controller = Some(Controller { kind: "Job".into(), name: format!("train-{number}") });
                facts.labels.insert(JOB_SET.into(), "train".into());
            }
            site.seen.pods.insert(name, Arc::new(facts));
        }
        let name = ObjectName { kind, namespace: "llm".into(), name: "train".into() };
        site.policy(&json!([pending(&name.workload(), None)]));
        site.seen.jobs.insert(name, JobFacts { uid: "uid-train".into(), ..JobFacts::default() });
        site
    }

    fn policy(&mut self, actions: &Value) {
        let policy = json!({
            "apiVersion": "powercapping.io/v1alpha1", "kind": "PowerCappingPolicy",
            "metadata": {"namespace": "llm", "name": "all", "uid": "uid-all", "generation": 1},
            "spec": {"powerCapLimitWatts": 1000, "mode": "Enforce", "selector": {"matchLabels": {"app": "llm"}},
                "escalation": [{"action": "Throttle"}, {"action": "Evict"}]},
            "status": {"currentPowerWatts": 3000, "pendingActions": actions,
                "conditions": [condition("DataFresh", "True"), condition("WithinCap", "False")]},
        });
        self.seen.policies = vec![Arc::new(serde_json::from_value(policy).unwrap())];
    }

    pub fn decide(&self, second: i64) -> Plan {
        decide(&self.seen, at(second).0)
    }

    fn edit(&mut self, edit: impl FnOnce(&mut Value)) {
        let mut object = json!(*self.seen.policies[0]);
        edit(&mut object);
        let policy: PowerCappingPolicy = serde_json::from_value(object).unwrap();
        self.seen.policies = vec![Arc::new(policy)];
    }

    pub fn spec(&mut self, spec: &Value) {
        self.edit(|object| merge(&mut object["spec"], spec));
    }

    pub fn status(&mut self, status: &Value) {
        self.edit(|object| merge(&mut object["status"], status));
    }

    pub fn generation(&mut self, generation: i64) {
        self.edit(|object| object["metadata"]["generation"] = json!(generation));
    }

    pub fn change_pod(&mut self, name: &str, change: &Value) {
        let name = PodName { namespace: "llm".into(), name: name.into() };
        let mut facts = PodFacts::clone(&self.seen.pods[&name]);
        for (key, value) in change.as_object().unwrap() {
            match key.as_str() {
                "controller" => {
                    facts.controller =
                        value.as_str().map(|kind| Controller { kind: kind.into(), name: "other".into() });
                }
                "static" => facts.is_static = true,
                "critical" => facts.critical = true,
                "data" => facts.keeps_data = true,
                // As the kubelet says it.
                "ready" => (facts.ready, facts.amiss_since) = (false, Some(at(-10).0)),
                "ending" => (facts.ending, facts.amiss_since) = (true, Some(at(-10).0)),
                "app" => drop(facts.labels.insert("app".into(), "other".into())),
                _ => facts.created = Some(at(value.as_i64().unwrap()).0),
            }
        }
        self.seen.pods.insert(name, Arc::new(facts));
    }

    /// Budgets on a workload's pods, that allow so many disruptions.
    pub fn budgets(&mut self, workload: &str, allowed: &[i32]) {
        let selector = serde_json::from_value(json!({"matchLabels": {"of": workload}})).unwrap();
        let selector = Selector::try_from(&selector).unwrap();
        let budget = |allowed: &i32| Budget { selector: Some(selector.clone()), allowed: *allowed };
        self.seen.budgets = [("llm".to_owned(), allowed.iter().map(budget).collect())].into();
    }

    pub fn suspended(&mut self) {
        let job = self.seen.jobs.values_mut().next().unwrap();
        job.suspended = true;
        job.suspended_by_us = Some(SuspendedByUs { policy: "all".into(), domain: None, watts: 200 });
    }

    /// What the plan's last word on the policy is, in its status.
    pub fn apply_status(&mut self, plan: &Plan) {
        let before = plan.steps.iter().filter_map(|step| step.before.as_ref());
        let Some(report) = plan.reports.iter().chain(before).next_back() else { return };
        let mut policy = PowerCappingPolicy::clone(&self.seen.policies[0]);
        let status = policy.status.get_or_insert_default();
        status.escalated.clone_from(&report.escalated);
        let (truth, reason, message) = (report.truth, report.reason, report.message.as_str());
        let kind = condition::kind::ESCALATING;
        condition::set(&mut status.conditions, kind, truth, reason, message, report.generation, at(0));
        self.seen.policies = vec![Arc::new(policy)];
    }

    /// As the cluster does: who is evicted is gone, and comes back under another name at once.
    pub fn carry_out(&mut self, plan: &Plan) {
        self.apply_status(plan);
        for name in evicted(plan) {
            let name = PodName { namespace: "llm".into(), name };
            let gone = self.seen.pods.remove(&name).unwrap();
            let facts = PodFacts { uid: format!("{}-again", gone.uid), ..PodFacts::clone(&gone) };
            let again = PodName { name: format!("{}-again", name.name), ..name };
            self.seen.pods.insert(again, Arc::new(facts));
        }
    }

    /// The reason of the condition.
    pub fn said(&self) -> String {
        let conditions = &self.seen.policies[0].status.as_ref().unwrap().conditions;
        let said = conditions.iter().find(|said| said.type_ == condition::kind::ESCALATING);
        said.map(|said| said.reason.clone()).unwrap_or_default()
    }
}

fn pod(name: &str, kind: &str, controller: &str) -> (PodName, PodFacts) {
    let facts = PodFacts {
        uid: format!("uid-{name}"),
        labels: [("app".to_owned(), "llm".to_owned()), ("of".to_owned(), controller.to_owned())].into(),
        controller: Some(Controller { kind: kind.into(), name: controller.into() }),
        created: Some(at(-1000).0),
        ready: true,
        ..PodFacts::default()
    };
    (PodName { namespace: "llm".into(), name: name.into() }, facts)
}

fn merge(into: &mut Value, from: &Value) {
    for (key, value) in from.as_object().unwrap() {
        into[key] = value.clone();
    }
}
