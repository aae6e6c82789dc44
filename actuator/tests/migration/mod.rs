//! Four nodes in two rows, of which one is above its cap, and a toy of what the cluster does: a scheduler, a controller,
//! kubelets and the agents' watts.

use std::{collections::BTreeMap, sync::Arc};

use k8s_openapi::{api::core::v1::Taint, apimachinery::pkg::apis::meta::v1::Time, jiff::Timestamp};
use powercap_actuator::escalate::{
    apply::Fate,
    decide::{Plan, Report, What, decide},
    migrate::{
        apply::remember,
        facts::{Amounts, Move, NodeFacts, OVER_BUDGET, PlaceFacts, Wants},
    },
    observation::{Budget, Memory, Observation, PodFacts, PodName},
};
use powercap_common::{
    api::{PowerCappingPolicy, PowerDomain, WATTS},
    condition,
    target::Controller,
};
use serde_json::{Value, json};

/// A time, in seconds after the beginning.
pub fn at(second: i64) -> Time {
    Time(Timestamp::from_second(1_000_000 + second).unwrap())
}

fn condition(kind: &str, status: &str) -> Value {
    json!({"type": kind, "status": status, "reason": kind, "message": "", "lastTransitionTime": at(0)})
}

pub struct Site {
    pub seen: Observation,
    /// Nodes on which no placeholder comes to run.
    pub full: Vec<String>,
    /// So many times somebody else takes a place that was given up.
    pub thieves: u32,
    pub never_ready: bool,
    /// The source's watts stay as they are when its pod is gone.
    pub advertises_for_ever: bool,
    /// Every reason that was said so far.
    pub told: Vec<String>,
    places: BTreeMap<String, String>,
    /// Writes until the leader dies.
    writes_left: Option<u32>,
}

impl Site {
    /// One pod of two is to leave n1.
    pub fn new() -> Self {
        let mut site = Self {
            seen: Observation::default(),
            full: Vec::new(),
            thieves: 0,
            never_ready: false,
            advertises_for_ever: false,
            told: Vec::new(),
            places: BTreeMap::new(),
            writes_left: None,
        };
        for (name, row, watts) in [("n1", "a", 1000), ("n2", "b", 5000), ("n3", "b", 4000), ("n4", "b", 3000)] {
            let facts = NodeFacts {
                uid: format!("uid-{name}"),
                labels: [("row".to_owned(), row.to_owned())].into(),
                allocatable: amounts(8, watts),
                ..NodeFacts::default()
            };
            site.seen.nodes.insert(name.to_owned(), Arc::new(facts));
        }
        for number in 1..=2 {
            site.pod(&format!("chat-{number}"), "n1", -1000);
        }
        let pending = json!([{"action": "Migrate", "namespace": "llm", "workload": "Deployment/chat", "pod": "chat-1",
            "freesWatts": 100, "reason": "PowerAboveCap", "since": at(-100)}]);
        site.seen.domains = vec![
            domain(
                "a",
                &json!({"currentPowerWatts": 12_000, "pendingActions": pending,
                "conditions": [condition("DataFresh", "True"), condition("WithinCap", "False")]}),
            ),
            domain("b", &json!({"currentPowerWatts": 1000, "conditions": [condition("DataFresh", "True")]})),
        ];
        let policy = json!({
            "apiVersion": "powercapping.io/v1alpha1", "kind": "PowerCappingPolicy",
            "metadata": {"namespace": "llm", "name": "all", "uid": "uid-all", "generation": 1},
            "spec": {"powerCapLimitWatts": 9000, "mode": "Enforce", "selector": {"matchLabels": {"app": "llm"}},
                "escalation": [{"action": "Throttle"}, {"action": "Migrate"}]},
            "status": {"currentPowerWatts": 3000, "conditions": [condition("DataFresh", "True")]},
        });
        site.seen.policies = vec![Arc::new(serde_json::from_value(policy).unwrap())];
        site
    }

    fn pod(&mut self, name: &str, node: &str, created: i64) {
        let facts = PodFacts {
            uid: format!("uid-{name}"),
            labels: [("app".to_owned(), "llm".to_owned())].into(),
            controller: Some(Controller { kind: "ReplicaSet".into(), name: "chat".into() }),
            created: Some(at(created).0),
            ready: true,
            node: Some(node.to_owned()),
            wants: Arc::new(Wants { requests: amounts(1, 100), ..Wants::default() }),
            ..PodFacts::default()
        };
        self.seen.pods.insert(pod_name(name), Arc::new(facts));
    }

    pub fn decide(&self, second: i64) -> Plan {
        decide(&self.seen, at(second).0)
    }

    /// The leader dies after so many more writes, once; the next one knows what is in the API server.
    pub fn dies_after(&mut self, writes: u32) {
        self.writes_left = Some(writes);
    }

    /// Turn by turn, second by second; what was done.
    pub fn run(&mut self, from: i64, to: i64, mut meanwhile: impl FnMut(&mut Self, i64)) -> Vec<String> {
        let mut moves = Vec::new();
        for second in from..to {
            meanwhile(self, second);
            let plan = self.decide(second);
            self.carry_out(&plan, second, &mut moves);
            self.cluster(second);
        }
        moves
    }

    fn writes(&mut self) -> bool {
        match &mut self.writes_left {
            Some(0) => {
                self.writes_left = None;
                self.seen.memory = Memory::default();
                false
            }
            Some(left) => {
                *left -= 1;
                true
            }
            None => true,
        }
    }

    fn carry_out(&mut self, plan: &Plan, second: i64, moves: &mut Vec<String>) {
        for report in &plan.reports {
            if !self.writes() {
                return;
            }
            self.report(report);
        }
        for step in &plan.steps {
            if let Some(before) = &step.before {
                if !self.writes() {
                    return;
                }
                self.report(before);
            }
            if !self.writes() {
                return;
            }
            let uid = step.deed.uid.as_str();
            match &step.what {
                What::Evict(name) => {
                    self.evict(name, uid, second);
                    Fate::Done.remember(&mut self.seen.memory, uid, at(second).0);
                    moves.push(format!("evict {}", name.name));
                }
                What::Migrate(made) => {
                    moves.push(self.make(made));
                    remember(made, Fate::Done, &mut self.seen.memory, uid, at(second).0);
                }
                other => unreachable!("{other:?}"),
            }
        }
    }

    fn make(&mut self, made: &Move) -> String {
        match made {
            Move::Hold(place, _) => {
                let facts = PlaceFacts { uid: format!("uid-{}", place.name), ..PlaceFacts::default() };
                self.seen.places.entry(place.name.clone()).or_insert(facts);
                self.places.insert(place.name.clone(), place.node.clone());
                format!("hold {} on {}", place.name, place.node)
            }
            Move::Taint(name, mark) => {
                self.taint(name, OVER_BUDGET, "NoSchedule");
                self.node(name, |node| node.mark = Some(mark.clone()));
                format!("taint {name}")
            }
            Move::Untaint(name) => {
                self.node(name, |node| (node.mark, node.taints) = (None, Vec::new()));
                format!("untaint {name}")
            }
            Move::GiveUp(name) | Move::Abandon(name) => {
                self.seen.places.remove(name);
                let word = if matches!(made, Move::GiveUp(_)) { "give up" } else { "abandon" };
                format!("{word} {name}")
            }
        }
    }

    fn evict(&mut self, name: &PodName, uid: &str, second: i64) {
        let gone = self.seen.pods.remove(name).unwrap();
        assert_eq!(gone.uid, uid, "the pod that was judged");
        let mut again = PodFacts { uid: format!("{uid}-again"), node: None, ready: false, ..PodFacts::clone(&gone) };
        again.created = Some(at(second).0);
        self.seen.pods.insert(pod_name(&format!("{}-again", name.name)), Arc::new(again));
        if !self.advertises_for_ever {
            self.node("n1", |node| node.allocatable = amounts(8, 100));
        }
    }

    /// What the rest of the cluster does in a second.
    fn cluster(&mut self, _second: i64) {
        self.seen.places.retain(|_, place| !place.ended);
        for (name, place) in &mut self.seen.places {
            place.held = !self.full.contains(&self.places[name]);
        }
        let waits = |pod: &PodFacts| pod.node.is_none();
        let Some(name) = self.seen.pods.iter().find(|(_, pod)| waits(pod)).map(|(name, _)| name.clone()) else {
            for pod in self.seen.pods.values_mut().filter(|pod| !pod.ready && !self.never_ready) {
                Arc::make_mut(pod).ready = true;
            }
            return;
        };
        let node = if self.seen.nodes["n1"].taints.is_empty() {
            Some("n1".to_owned())
        } else if !self.seen.places.is_empty() {
            // Everything else is full, but for the place.
            None
        } else if self.thieves > 0 {
            None
        } else {
            self.places.values().next_back().cloned()
        };
        if let Some(pod) = self.seen.pods.get_mut(&name) {
            Arc::make_mut(pod).node = node;
        }
    }

    fn report(&mut self, report: &Report) {
        self.told.push(report.reason.to_string());
        let Some(object) = self.seen.policies.first() else { return };
        let mut policy = PowerCappingPolicy::clone(object);
        let status = policy.status.get_or_insert_default();
        status.escalated.clone_from(&report.escalated);
        let (truth, reason, message) = (report.truth, report.reason, report.message.as_str());
        let kind = condition::kind::ESCALATING;
        condition::set(&mut status.conditions, kind, truth, reason, message, report.generation, at(0));
        self.seen.policies = vec![Arc::new(policy)];
        // The step may have been the last that was needed.
        if report.reason == powercap_common::reason::Reason::Migrated {
            self.content();
        }
    }

    /// The reason of the condition.
    pub fn said(&self) -> String {
        let conditions = &self.seen.policies[0].status.as_ref().unwrap().conditions;
        let said = conditions.iter().find(|said| said.type_ == condition::kind::ESCALATING);
        said.map(|said| said.reason.clone()).unwrap_or_default()
    }

    pub fn migrates(&self) -> bool {
        let escalated =
            |policy: &Arc<PowerCappingPolicy>| policy.status.as_ref()?.escalated.as_ref()?.migration.clone();
        self.seen.policies.iter().any(|policy| escalated(policy).is_some())
    }

    /// Placeholders, taints and migrations that are still there.
    pub fn left(&self) -> String {
        let places = self.seen.places.keys().cloned();
        let taints = self.seen.nodes.iter().filter(|(_, node)| !node.taints.is_empty()).map(|(name, _)| name.clone());
        let migration = self.migrates().then(|| "migration".to_owned());
        places.chain(taints).chain(migration).collect::<Vec<_>>().join(" ")
    }

    pub fn node_of(&self, pod: &str) -> Option<&str> {
        self.seen.pods.get(&pod_name(pod))?.node.as_deref()
    }

    pub fn node(&mut self, name: &str, change: impl FnOnce(&mut NodeFacts)) {
        change(Arc::make_mut(self.seen.nodes.get_mut(name).unwrap()));
    }

    pub fn taint(&mut self, name: &str, key: &str, effect: &str) {
        let taint = Taint { key: key.into(), effect: effect.into(), ..Taint::default() };
        self.node(name, |node| node.taints.push(taint));
    }

    pub fn label(&mut self, name: &str, label: &str, value: &str) {
        self.node(name, |node| drop(node.labels.insert(label.into(), value.into())));
    }

    pub fn occupy(&mut self, node: &str, boards: u64) {
        self.pod("other", node, -1000);
        let other = Arc::make_mut(self.seen.pods.get_mut(&pod_name("other")).unwrap());
        (other.controller, other.wants) =
            (None, Arc::new(Wants { requests: amounts(boards, 100), ..Wants::default() }));
    }

    pub fn domain(&mut self, name: &str, status: &Value) {
        self.edit_domain(name, |object| merge(&mut object["status"], status));
    }

    /// The domain above its cap stands around all.
    pub fn domain_around(&mut self, name: &str, label: &str) {
        self.edit_domain(name, |object| {
            object["spec"]["nodeSelector"] = json!({"matchExpressions": [{"key": label, "operator": "DoesNotExist"}]});
        });
    }

    fn edit_domain(&mut self, name: &str, edit: impl FnOnce(&mut Value)) {
        let object = self.seen.domains.iter_mut().find(|object| object.metadata.name.as_deref() == Some(name)).unwrap();
        let mut value = json!(**object);
        edit(&mut value);
        *object = Arc::new(serde_json::from_value(value).unwrap());
    }

    fn edit_policy(&mut self, edit: impl FnOnce(&mut Value)) {
        let mut value = json!(*self.seen.policies[0]);
        edit(&mut value);
        self.seen.policies = vec![Arc::new(serde_json::from_value(value).unwrap())];
    }

    /// The same need, of the policy's own cap.
    pub fn for_own_cap(&mut self) {
        let pending = json!(self.seen.domains[0].status.as_ref().unwrap().pending_actions);
        self.content();
        self.edit_policy(|object| {
            object["status"]["pendingActions"] = pending;
            object["status"]["conditions"] = json!([condition("DataFresh", "True"), condition("WithinCap", "False")]);
        });
    }

    pub fn content(&mut self) {
        self.domain(
            "a",
            &json!({"currentPowerWatts": 8000, "pendingActions": [],
            "conditions": [condition("DataFresh", "True"), condition("WithinCap", "True")]}),
        );
    }

    pub fn throttle_only(&mut self) {
        self.edit_policy(|object| object["spec"]["escalation"] = json!([{"action": "Throttle"}]));
    }

    pub fn no_policy(&mut self) {
        self.seen.policies.clear();
    }

    pub fn forbid(&mut self) {
        self.seen.budgets.insert("llm".into(), vec![Budget { selector: None, allowed: 0 }]);
    }

    /// Whether something was made in the place of the pod.
    pub fn replaced(&self) -> bool {
        self.seen.pods.contains_key(&pod_name("chat-1-again"))
    }

    /// Another ReplicaSet of the Deployment has the replacement's place, and needs it as that did.
    pub fn roll_out(&mut self, second: i64) {
        let old = self.seen.pods.remove(&pod_name("chat-1-again")).unwrap();
        let mut new = PodFacts { uid: "uid-chat-1-new".into(), created: Some(at(second).0), ..PodFacts::clone(&old) };
        new.controller = Some(Controller { kind: "ReplicaSet".into(), name: "chat-new".into() });
        new.labels.insert("pod-template-hash".into(), "new".into());
        self.seen.pods.insert(pod_name("chat-1-new"), Arc::new(new));
    }

    /// Something more urgent has the node of a placeholder.
    pub fn preempt(&mut self, place: &str) {
        self.seen.places.get_mut(place).unwrap().ended = true;
    }

    pub fn pod_goes(&mut self) {
        self.seen.pods.remove(&pod_name("chat-1"));
        self.content();
    }
}

fn amounts(boards: u64, watts: u64) -> Amounts {
    [("nvidia.com/gpu", boards * 1000), (WATTS, watts * 1000)].into_iter().collect()
}

fn domain(name: &str, status: &Value) -> Arc<PowerDomain> {
    let object = json!({
        "apiVersion": "powercapping.io/v1alpha1", "kind": "PowerDomain", "metadata": {"name": name},
        "spec": {"powerCapLimitWatts": 10_000, "nodeSelector": {"matchLabels": {"row": name}}}, "status": status,
    });
    Arc::new(serde_json::from_value(object).unwrap())
}

fn pod_name(name: &str) -> PodName {
    PodName { namespace: "llm".into(), name: name.into() }
}

fn merge(into: &mut Value, from: &Value) {
    for (key, value) in from.as_object().unwrap() {
        into[key] = value.clone();
    }
}
