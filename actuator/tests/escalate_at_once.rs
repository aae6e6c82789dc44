//! Several victims of one policy go at once where that is permitted, and never more than that.

use powercap_actuator::escalate::decide::{Plan, Step, What};
use powercap_common::reason::Reason;
use serde_json::{Value, json};

use crate::ladder::{Site, reasons};

/// Four pods, of as many workloads, are listed, of 200 W each; power is 2,000 W above the cap.
fn site(at_once: usize) -> Site {
    let mut site = Site::new();
    site.seen.limits.for_a_policy = at_once;
    site.seen.limits.in_a_namespace = 8;
    site
}

fn taken(plan: &Plan) -> Vec<&str> {
    let acts = plan.steps.iter().flat_map(Step::acts);
    acts.map(|(_, what)| if let What::Evict(pod) = what { pod.name.as_str() } else { "" }).collect()
}

#[test]
fn one_is_taken_unless_more_are_permitted_and_all_stand_in_one_status() {
    let mut plain = Site::new();
    plain.seen.limits.in_a_namespace = 8;
    assert_eq!(taken(&plain.decide(0)), ["chat-1"]);
    let plan = site(3).decide(0);
    assert_eq!((taken(&plan), plan.steps.len()), (vec!["chat-1", "solo-1", "more-1"], 1));
    let told = plan.steps[0].before.as_ref().unwrap().escalated.as_ref().unwrap();
    let told: Vec<_> = told.deeds().map(|deed| deed.uid.as_str()).collect();
    assert_eq!(told, ["uid-chat-1", "uid-solo-1", "uid-more-1"]);
}

#[test]
fn each_counts_among_what_may_await_its_effect() {
    for (namespace, all, expected) in [(2, 8, 2), (8, 3, 3), (1, 8, 1), (8, 8, 4)] {
        let mut site = site(8);
        (site.seen.limits.in_a_namespace, site.seen.limits.in_all) = (namespace, all);
        assert_eq!(taken(&site.decide(0)).len(), expected, "{namespace} in a namespace, {all} in all");
    }
    // Those of a step before count too, while they have their time.
    let mut site = site(3);
    let plan = site.decide(0);
    site.apply_status(&plan);
    let mut other = json!(*site.seen.policies[0]);
    other["metadata"]["name"] = json!("other");
    other["status"]["escalated"] = json!(null);
    site.seen.policies.push(std::sync::Arc::new(serde_json::from_value(other).unwrap()));
    site.seen.limits.in_a_namespace = 4;
    for pod in ["chat-1", "solo-1", "more-1"] {
        site.change_pod(pod, &json!({"ending": true}));
    }
    site.seen.limits.in_all = 3;
    assert_eq!(taken(&site.decide(1)), Vec::<&str>::new());
    site.seen.limits.in_all = 4;
    assert_eq!(taken(&site.decide(1)), ["last-1"]);
}

#[test]
fn no_more_go_than_bring_power_under_the_cap_and_one_alone_where_power_is_not_known() {
    for (power, expected) in [(json!(1200), 1), (json!(1201), 2), (json!(1500), 3), (json!(null), 1), (json!(900), 1)] {
        let mut site = site(8);
        site.status(&json!({"currentPowerWatts": power}));
        assert_eq!(taken(&site.decide(0)).len(), expected, "{power} W");
    }
}

#[test]
fn of_a_workload_one_goes_and_who_may_not_go_is_passed_over() {
    let mut site = site(8);
    let listed = |workload: &str, pod: &str| {
        json!({"action": "Evict", "namespace": "llm", "workload": workload, "pod": pod,
        "freesWatts": 200, "reason": "PowerAboveCap", "since": crate::ladder::at(-100)})
    };
    let pending: Vec<Value> = [
        listed("Deployment/chat", "chat-1"),
        // Whatever the list calls it.
        listed("Deployment/other", "chat-2"),
        listed("Deployment/solo", "solo-1"),
        listed("Deployment/more", "more-1"),
        listed("Deployment/more", "more-2"),
        // A ReplicaSet of its own, while the Deployment is rolled out.
        listed("Deployment/more", "last-1"),
    ]
    .into();
    site.status(&json!({"pendingActions": pending}));
    site.change_pod("solo-1", &json!({"critical": true}));
    assert_eq!(taken(&site.decide(0)), ["chat-1", "more-1"]);
}

#[test]
fn after_a_death_all_of_them_are_next_and_no_other() {
    let mut site = site(3);
    let plan = site.decide(0);
    site.apply_status(&plan);
    let again = site.decide(1);
    assert_eq!(taken(&again), ["chat-1", "solo-1", "more-1"]);
    let told = again.steps[0].before.as_ref().unwrap().escalated.as_ref().unwrap();
    assert_eq!(
        (told.deeds().count(), &told.last_action),
        (3, &Some(crate::ladder::at(1))),
        "they have their time anew"
    );
    site.change_pod("chat-1", &json!({"ending": true}));
    assert_eq!(taken(&site.decide(2)), ["solo-1", "more-1"], "as if killed after the first");
    let refused = site.decide(2).steps[0].refused.clone().unwrap().escalated.unwrap();
    let stands: Vec<_> = refused.deeds().map(|deed| deed.uid.as_str()).collect();
    assert_eq!((stands, refused.last_action.is_some()), (vec!["uid-chat-1"], true), "which has its time all the same");
    for pod in ["solo-1", "more-1"] {
        site.change_pod(pod, &json!({"ending": true}));
    }
    let plan = site.decide(3);
    assert_eq!((taken(&plan), reasons(&plan)), (vec![], vec![Reason::AwaitingEffect]));
}

#[test]
fn between_the_cap_and_the_release_threshold_nothing_of_it_is_done_any_more() {
    let mut site = site(3);
    let plan = site.decide(0);
    site.apply_status(&plan);
    let within = [crate::ladder::condition("DataFresh", "True"), crate::ladder::condition("WithinCap", "True")];
    site.status(&json!({"conditions": within, "currentPowerWatts": 990}));
    assert_eq!(taken(&site.decide(1)), Vec::<&str>::new());
}

#[test]
fn who_could_not_be_evicted_after_all_is_not_expected_to_free_anything() {
    let mut site = site(3);
    let plan = site.decide(0);
    site.carry_out(&plan);
    // Of three, two are gone; the third was not begun, and may not go any more.
    site.change_pod("solo-1", &json!({"ending": true}));
    site.budgets("more", &[0]);
    site.status(&json!({"currentPowerWatts": 2890}));
    let plan = site.decide(1);
    let told = plan.reports[0].escalated.as_ref().unwrap();
    let told: Vec<_> = told.deeds().map(|deed| deed.uid.as_str()).collect();
    assert_eq!((told, reasons(&plan)), (vec!["uid-chat-1", "uid-solo-1"], vec![Reason::AwaitingEffect]));
}

#[test]
fn together_they_must_bring_down_what_each_was_to_free() {
    for (power, in_vain) in [(2851, 1), (2850, 0)] {
        let mut site = site(3);
        let plan = site.decide(0);
        site.carry_out(&plan);
        for pod in ["solo-1", "more-1"] {
            site.change_pod(pod, &json!({"critical": true}));
        }
        site.status(&json!({"currentPowerWatts": power, "pendingActions": [{"action": "Evict", "namespace": "llm",
            "workload": "Deployment/last", "pod": "last-1", "freesWatts": 200, "reason": "PowerAboveCap",
            "since": crate::ladder::at(-100)}]}));
        let plan = site.decide(60);
        let said = plan.steps.first().and_then(|step| step.before.as_ref()).expect("the next step");
        assert_eq!(said.escalated.as_ref().unwrap().without_effect, in_vain, "600 W were to go, now {power} W of 3000");
    }
}
