//! Freeze, Resize and Scale on the ladder: up rung by rung, and all the way down, whoever else writes or leads.

use std::sync::Arc;

use powercap_actuator::escalate::{
    ceilings::{
        bounds,
        memory::{ANNOTATION, Memory},
        resize::Step as PodStep,
        stored::{Kind, Stored},
    },
    decide::{Plan, What, ceilings::Lowering},
    observation::{ObjectName, Question},
};
use powercap_common::{api::Action, reason::Reason};
use serde_json::{Value, json};

use crate::{
    ladder::{Site, reasons},
    store::Store,
};

const WATTS: u32 = 100;

/// The namespace of [`Site`], in which a Deployment of eight pods of 100 W is scaled by an HPA.
struct World {
    site: Site,
    replicas: u32,
    autoscaler: Store,
}

impl World {
    /// Under a cap of 500 W, with this ladder after Throttle.
    fn new(ladder: &[&str]) -> Self {
        let target = json!({"apiVersion": "apps/v1", "kind": "Deployment", "name": "chat"});
        let autoscaler = json!({
            "metadata": {"namespace": "llm", "name": "chat"},
            "spec": {"scaleTargetRef": target, "minReplicas": 8, "maxReplicas": 12},
        });
        let autoscaler = Store::new(Stored { kind: Kind::HorizontalPodAutoscaler, value: autoscaler });
        let mut world = Self { site: Site::new(), replicas: 8, autoscaler };
        let rungs = ["Throttle"].iter().chain(ladder).map(|action| json!({"action": action}));
        let rungs: Vec<_> = rungs.collect();
        world.site.spec(&json!({"powerCapLimitWatts": 500, "escalation": rungs}));
        world.pending(ladder);
        world.look();
        world
    }

    /// What stands to be done to the Deployment.
    fn pending(&mut self, actions: &[&str]) {
        let pending = |action: &&str| {
            let frees = if *action == "Freeze" { 0 } else { WATTS };
            json!({"action": action, "namespace": "llm", "workload": "Deployment/chat", "freesWatts": frees,
                "reason": "FloorReached", "since": crate::ladder::at(-100)})
        };
        let pending: Vec<_> = actions.iter().map(pending).collect();
        self.site.status(&json!({"pendingActions": pending}));
    }

    /// As the cluster does: the HPA keeps to its bounds, and so many pods draw power; and as it is seen then.
    fn look(&mut self) {
        let bound = |field: &str| self.autoscaler.object.count(field).unwrap();
        self.replicas = self.replicas.clamp(bound("/spec/minReplicas"), bound("/spec/maxReplicas"));
        let deployment = json!({
            "metadata": {"namespace": "llm", "name": "chat", "uid": "u-chat"}, "spec": {"replicas": self.replicas},
        });
        let object = Stored { kind: Kind::Deployment, value: deployment };
        let autoscaler = self.autoscaler.object.clone();
        let ceilings = &mut self.site.seen.ceilings;
        ceilings.objects.clear();
        if Memory::on(&autoscaler).is_some() {
            ceilings.objects.insert(ObjectName::of(&autoscaler), Arc::new(autoscaler.clone()));
        }
        let site = bounds::Site { object, made: Vec::new(), autoscalers: vec![autoscaler], copied: false };
        let name = ("llm".to_owned(), "Deployment/chat".to_owned());
        ceilings.sites = [(name, Some(Arc::new(site)))].into();
        let (power, cap) = (self.replicas * WATTS, self.site.seen.policies[0].spec.power_cap_limit_watts);
        let within = if power > cap { "False" } else { "True" };
        let conditions = [crate::ladder::condition("DataFresh", "True"), crate::ladder::condition("WithinCap", within)];
        let said = self.site.seen.policies[0].status.clone().unwrap_or_default().conditions;
        let said = said.into_iter().filter(|said| said.type_ == "Escalating").map(|said| json!(said));
        let conditions: Vec<_> = conditions.into_iter().chain(said).collect();
        self.site.status(&json!({"currentPowerWatts": power, "conditions": conditions}));
    }

    /// Decides, writes what is decided, and looks; what was said of each change.
    fn turn(&mut self, second: i64) -> Vec<String> {
        let plan = self.site.decide(second);
        self.site.apply_status(&plan);
        for step in &plan.steps {
            if let What::Ceiling(ceiling) = &step.what {
                let Lowering::Replicas(change) = &ceiling.change else { panic!("replicas: {plan:?}") };
                assert!(self.autoscaler.patch(change), "nobody else wrote");
            }
        }
        self.look();
        says(&plan)
    }

    fn cap(&mut self, watts: u32) {
        self.site.spec(&json!({"powerCapLimitWatts": watts}));
        self.look();
    }

    /// Another puts the HPA back.
    fn revert(&mut self) {
        for (field, value) in [("/spec/maxReplicas", 12), ("/spec/minReplicas", 8)] {
            self.autoscaler.edit(field, json!(value));
        }
        self.look();
    }

    /// A policy beside the first, that asks for this.
    fn beside(&mut self, name: &str, pending: &Value) {
        let mut other = json!(*self.site.seen.policies[0]);
        other["metadata"]["name"] = json!(name);
        other["metadata"]["uid"] = json!(format!("uid-{name}"));
        other["status"]["pendingActions"] = pending.clone();
        other["status"]["escalated"] = Value::Null;
        self.site.seen.policies.push(Arc::new(serde_json::from_value(other).unwrap()));
    }

    fn without_version(&self) -> Value {
        let mut value = self.autoscaler.object.value.clone();
        value["metadata"]["resourceVersion"] = Value::Null;
        value
    }
}

fn says(plan: &Plan) -> Vec<String> {
    plan.steps.iter().map(|step| step.what.says().unwrap_or("no ceiling").to_owned()).collect()
}

#[test]
fn a_workload_is_frozen_then_gets_as_few_replicas_as_the_cap_allows_and_is_at_last_what_it_was() {
    let mut world = World::new(&["Freeze", "Scale"]);
    let before = world.without_version();
    assert_eq!(world.turn(0), ["maxReplicas 12 → 8"], "it waits for nothing");
    assert_eq!(world.turn(1), ["maxReplicas 8 → 5, minReplicas 8 → 5"], "800 W are 300 W above the cap");
    for second in 2..100 {
        assert_eq!(world.turn(second), [""; 0], "five stay");
    }
    // Below the release threshold of 425 W, and no room for 100 W more.
    world.pending(&["Freeze"]);
    world.autoscaler.object.value["spec"]["minReplicas"] = json!(5);
    assert_eq!(world.turn(100), [""; 0]);
    assert_eq!(world.site.said(), "AwaitingEffect");

    world.cap(2000);
    assert_eq!(world.turn(101), ["maxReplicas 5 → 8, minReplicas 5 → 8"], "as many as there are watts for");
    assert_eq!(world.turn(131), [""; 0]);
    assert_eq!((world.site.said(), world.replicas), ("Frozen".to_owned(), 8), "the freeze goes last");
    let escalated = world.site.seen.policies[0].status.clone().unwrap().escalated.unwrap();
    assert_eq!(escalated.rung, Action::Freeze);
    world.pending(&[]);
    assert_eq!(world.turn(132), ["maxReplicas 8 → 12"]);
    assert_eq!(world.without_version(), before);
    world.turn(200);
    assert_eq!(world.site.said(), "NothingPending");
}

#[test]
fn replicas_return_only_as_far_as_there_are_watts() {
    let mut world = World::new(&["Scale"]);
    world.turn(0);
    world.pending(&[]);
    world.cap(900);
    assert_eq!(world.turn(100), ["maxReplicas 5 → 7, minReplicas 5 → 7"], "up to the release threshold of 765 W");
    assert_eq!(world.turn(110), [""; 0], "given time");
    world.cap(1000);
    assert_eq!(world.turn(131), ["maxReplicas 7 → 12, minReplicas 7 → 8"]);
    assert_eq!(world.autoscaler.object.annotation(ANNOTATION), None);
}

#[test]
fn what_was_not_seen_is_asked_and_neither_done_nor_told_of() {
    for ladder in [["Freeze"], ["Scale"]] {
        let mut world = World::new(&ladder);
        world.site.seen.ceilings.sites.clear();
        let plan = world.site.decide(0);
        assert_eq!((says(&plan).len(), reasons(&plan)), (0, vec![]), "{ladder:?}");
        let question = Question::Site { namespace: "llm".into(), workload: "Deployment/chat".into() };
        assert_eq!(plan.questions, [question], "{ladder:?}");
        assert_eq!(plan.held[0].reason, Reason::NotSeenYet, "{ladder:?}");
    }
}

#[test]
fn a_freeze_neither_delays_the_next_rung_nor_counts_as_a_step_in_vain() {
    let mut world = World::new(&["Freeze", "Scale"]);
    world.turn(0);
    let escalated = world.site.seen.policies[0].status.clone().unwrap().escalated.unwrap();
    assert_eq!((escalated.last_action, escalated.without_effect), (None, 0));
    assert_eq!(escalated.last.unwrap().action, Action::Freeze, "it stands in status before it is done");
    // The freeze that stands there and was not carried out is carried out.
    let mut killed = World::new(&["Freeze", "Scale"]);
    let plan = killed.site.decide(0);
    killed.site.apply_status(&plan);
    assert_eq!(killed.turn(1), ["maxReplicas 12 → 8"]);
    assert_eq!(killed.turn(2), ["maxReplicas 8 → 5, minReplicas 8 → 5"]);
}

#[test]
fn a_step_that_was_carried_out_before_its_leader_died_is_not_taken_once_more() {
    let mut world = World::new(&["Scale"]);
    let plan = world.site.decide(0);
    world.site.apply_status(&plan);
    assert_eq!(world.turn(2), ["maxReplicas 12 → 5, minReplicas 8 → 5"], "as if killed before the change");
    // As if killed after it, and with readings from before it.
    world.site.status(&json!({"currentPowerWatts": 800, "conditions": [
        crate::ladder::condition("DataFresh", "True"), crate::ladder::condition("WithinCap", "False")]}));
    let plan = world.site.decide(3);
    assert_eq!((says(&plan).len(), reasons(&plan)), (0, vec![Reason::AwaitingEffect]));
}

#[test]
fn another_who_reverts_is_answered_at_once_three_times_and_then_the_next_rung_is_due() {
    let mut world = World::new(&["Scale", "Evict"]);
    assert_eq!(world.turn(0).len(), 1);
    for second in [5, 10] {
        world.revert();
        world.pending(&["Scale"]);
        assert_eq!(world.turn(second), ["maxReplicas 12 → 5, minReplicas 8 → 5"], "{second}");
    }
    let mut second = 10;
    let exhausted = |world: &World| {
        let status = world.site.seen.policies[0].status.clone().unwrap();
        status.escalated.unwrap_or_default().exhausted
    };
    while exhausted(&world).is_none() && second < 100 {
        world.revert();
        second += 5;
        assert_eq!(world.turn(second), [""; 0], "{second}");
    }
    assert_eq!((exhausted(&world), second), (Some(Action::Scale), 30), "once settled, and not held to be in vain");
    assert_eq!(world.site.said(), "Contested");
}

#[test]
fn what_must_be_left_alone_is_and_the_next_rung_is_due() {
    let mut world = World::new(&["Scale", "Evict"]);
    let mut paused = world.autoscaler.object.clone();
    paused.kind = Kind::ScaledObject;
    paused.value["metadata"]["annotations"] = json!({"autoscaling.keda.sh/paused": "true"});
    let site = world.site.seen.ceilings.sites.values_mut().next().unwrap();
    let seen = bounds::Site::clone(site.as_ref().unwrap());
    *site = Some(Arc::new(bounds::Site { autoscalers: vec![paused], ..seen }));
    let plan = world.site.decide(0);
    assert_eq!((says(&plan).len(), reasons(&plan)), (0, vec![Reason::PausedByPerson]));
    assert_eq!(plan.reports[0].escalated.as_ref().unwrap().exhausted, Some(Action::Scale));
}

#[test]
fn of_two_policies_on_one_workload_the_stricter_counts_until_neither_asks() {
    let mut world = World::new(&["Scale"]);
    world.turn(0);
    let asks = json!([{"action": "Scale", "namespace": "llm", "workload": "Deployment/chat", "freesWatts": WATTS,
        "reason": "FloorReached", "since": crate::ladder::at(-100)}]);
    world.pending(&[]);
    world.cap(5000);
    world.beside("other", &asks);
    assert_eq!(world.site.decide(100).steps, [], "the other asks for it still");
    world.site.seen.policies.pop();
    world.beside("other", &json!([]));
    let plan = world.site.decide(100);
    assert_eq!(says(&plan), ["maxReplicas 5 → 12, minReplicas 5 → 8"], "once, by the policy that it was done for");
    assert!(plan.steps[0].deed.undone);
}

#[test]
fn what_nobody_asks_for_any_more_is_put_back_at_once() {
    let whole = "maxReplicas 5 → 12, minReplicas 5 → 8";
    for (what, spec, expected) in [
        ("does not enforce", json!({"mode": "Advise"}), whole),
        ("does not permit", json!({"escalation": [{"action": "Throttle"}]}), whole),
        (
            "permits a freeze",
            json!({"escalation": [{"action": "Throttle"}, {"action": "Freeze"}]}),
            "maxReplicas 5 → 8, minReplicas 5 → 8",
        ),
    ] {
        let mut world = World::new(&["Freeze", "Scale"]);
        world.turn(0);
        world.turn(1);
        world.site.spec(&spec);
        world.pending(&[]);
        world.site.status(&json!({"currentPowerWatts": 5000}));
        let plan = world.site.decide(2);
        assert_eq!(says(&plan), [expected], "{what}");
    }
    let mut world = World::new(&["Scale"]);
    world.turn(0);
    world.site.seen.policies.clear();
    world.site.seen.halted = Some(Reason::LeaseExpired);
    assert_eq!(world.site.decide(1).steps, [], "nothing is done while the recommender is silent");
    world.site.seen.halted = None;
    let plan = world.site.decide(1);
    assert_eq!(
        (says(&plan), plan.steps[0].before.is_none()),
        (vec!["maxReplicas 5 → 12, minReplicas 5 → 8".to_owned()], true)
    );
}

#[test]
fn while_not_all_is_seen_nobody_says_that_nothing_is_left() {
    let mut world = World::new(&["Scale"]);
    world.turn(0);
    world.pending(&[]);
    world.site.seen.ceilings.objects.clear();
    world.site.seen.ceilings.partial = true;
    assert_eq!(world.site.decide(100).reports, []);
    world.site.seen.ceilings.partial = false;
    assert_eq!(reasons(&world.site.decide(100)), [Reason::NothingPending]);
}

#[test]
fn a_copy_of_the_annotation_on_what_is_made_of_the_object_is_not_taken_for_ours() {
    let mut world = World::new(&["Scale"]);
    world.turn(0);
    let mut copy = world.autoscaler.object.clone();
    copy.value["metadata"]["uid"] = json!("u-2");
    assert!(Memory::on(&world.autoscaler.object).is_some() && Memory::on(&copy).is_none());
}

#[test]
fn a_pods_cpu_limit_is_lowered_and_put_back_when_there_are_watts() {
    let mut site = Site::new();
    let resources = json!({"limits": {"cpu": "4"}, "requests": {"cpu": "1"}});
    let pod = json!({"metadata": {"namespace": "llm", "name": "chat-1", "uid": "uid-chat-1"},
        "spec": {"containers": [{"name": "serve", "resources": resources}]}});
    let mut pod = Stored { kind: Kind::Pod, value: pod };
    site.spec(&json!({"powerScope": "DevicesAndHost", "escalation": [{"action": "Throttle"}, {"action": "Resize"}]}));
    site.status(&json!({"pendingActions": [{"action": "Resize", "namespace": "llm", "workload": "ReplicaSet/chat",
        "pod": "chat-1", "freesWatts": 100, "reason": "FloorReached", "since": crate::ladder::at(-100)}]}));
    let plan = site.decide(0);
    assert_eq!(plan.questions, [Question::Vpas("llm".into()), Question::Object(ObjectName::of(&pod))]);
    assert_eq!(plan.steps, []);

    let ceilings = &mut site.seen.ceilings;
    ceilings.vpas.insert("llm".into(), Arc::default());
    ceilings.objects.insert(ObjectName::of(&pod), Arc::new(pod.clone()));
    let plan = site.decide(0);
    assert_eq!(says(&plan), ["cpu limit 4 → 1001m"]);
    site.apply_status(&plan);
    let What::Ceiling(ceiling) = &plan.steps[0].what else { panic!("{plan:?}") };
    let Lowering::Cpu(change) = &ceiling.change else { panic!("{plan:?}") };
    let PodStep::Remember(patch) = &change.steps[0] else { panic!("{plan:?}") };
    pod.value["metadata"]["annotations"] = patch["metadata"]["annotations"].clone();
    pod.value["spec"]["containers"][0]["resources"]["limits"]["cpu"] = json!("1001m");
    site.seen.ceilings.objects.insert(ObjectName::of(&pod), Arc::new(pod));
    assert_eq!((site.decide(1).steps.len(), reasons(&site.decide(1))), (0, vec![Reason::AwaitingEffect]), "done");

    site.status(&json!({"pendingActions": [], "currentPowerWatts": 800}));
    assert_eq!(site.decide(100).steps, [], "800 W and 100 W are above 850 W");
    site.status(&json!({"currentPowerWatts": 700}));
    let plan = site.decide(100);
    assert_eq!((says(&plan), plan.steps[0].reason), (vec!["cpu limit 1001m → 4".to_owned()], Reason::CeilingRestored));
}
