//! What lower clocks cannot do is done to workloads: in order, by permission, one step in hand, and back.

use powercap_actuator::escalate::{
    ceilings::stored::Kind,
    decide::What,
    observation::{JobFacts, Question},
};
use powercap_common::{api::Action, reason::Reason};
use serde_json::json;

use crate::ladder::{Site, at, reasons};

#[test]
fn the_first_victim_of_the_list_is_evicted_and_stands_in_status_before() {
    let site = Site::new();
    let plan = site.decide(0);
    let [step] = plan.steps.as_slice() else { unreachable!("one step: {plan:?}") };
    assert!(matches!(&step.what, What::Evict(pod) if pod.name == "chat-1"));
    let before = step.before.as_ref().unwrap().escalated.as_ref().unwrap();
    assert_eq!(before.last.as_ref().unwrap().uid, "uid-chat-1");
    assert_eq!((before.rung, &before.last_action), (Action::Evict, &Some(at(0))));
}

#[test]
fn who_must_never_be_evicted_is_not_and_the_next_one_is() {
    for (what, change, reason) in [
        ("no controller", json!({"controller": null}), Reason::NeverEvicted),
        ("a DaemonSet's", json!({"controller": "DaemonSet"}), Reason::NeverEvicted),
        ("a static one", json!({"static": true}), Reason::NeverEvicted),
        ("a critical one", json!({"critical": true}), Reason::NeverEvicted),
        ("one that is not selected", json!({"app": "other"}), Reason::RungNotPermitted),
        ("one with data", json!({"data": true}), Reason::LocalStorage),
    ] {
        let mut site = Site::new();
        site.change_pod("chat-1", &change);
        let plan = site.decide(0);
        assert_eq!(crate::ladder::evicted(&plan), ["solo-1"], "{what}");
        assert_eq!(plan.held[0].reason, reason, "{what}");
    }
}

#[test]
fn a_workload_that_is_not_whole_loses_no_replica() {
    for (what, change, reason) in [
        ("one is not ready", json!({"ready": false}), Reason::ReplacementPending),
        ("one is ending", json!({"ending": true}), Reason::ReplacementPending),
        ("one began a moment ago", json!({"created": -10}), Reason::CoolingDown),
    ] {
        let mut site = Site::new();
        site.change_pod("chat-2", &change);
        let plan = site.decide(0);
        let held = plan.held.iter().map(|held| held.reason).collect::<Vec<_>>();
        assert_eq!(held.first(), Some(&reason), "{what}");
        assert!(!crate::ladder::evicted(&plan).contains(&"chat-1".to_owned()), "{what}");
    }
    let mut site = Site::new();
    site.seen.limits.minimum_replicas = 4;
    assert_eq!(site.decide(0).steps, []);
}

#[test]
fn budgets_are_asked_first() {
    for (allowed, reason) in [(vec![0], Reason::DisruptionForbidden), (vec![1, 1], Reason::SeveralBudgets)] {
        let mut site = Site::new();
        site.budgets("chat", &allowed);
        let plan = site.decide(0);
        assert_eq!(crate::ladder::evicted(&plan), ["solo-1"]);
        assert_eq!(plan.held[0].reason, reason);
    }
    let mut site = Site::new();
    site.budgets("chat", &[1]);
    assert_eq!(crate::ladder::evicted(&site.decide(0)), ["chat-1"]);
}

#[test]
fn only_a_policy_that_enforces_and_permits_is_carried_out() {
    for spec in [json!({"mode": "Advise"}), json!({"mode": "Off"}), json!({"escalation": [{"action": "Throttle"}]})] {
        let mut site = Site::new();
        site.spec(&spec);
        assert_eq!(site.decide(0).steps, [], "{spec}");
    }
}

#[test]
fn nothing_is_done_while_the_recommender_admission_or_the_readings_are_silent() {
    for reason in [Reason::LeaseExpired, Reason::AdmissionSilent] {
        let mut site = Site::new();
        site.seen.halted = Some(reason);
        let plan = site.decide(0);
        assert_eq!(plan.steps, []);
        assert_eq!(reasons(&plan), [reason]);
    }
    let mut site = Site::new();
    site.status(&json!({"conditions": [crate::ladder::condition("DataFresh", "False")]}));
    let plan = site.decide(0);
    assert_eq!((plan.steps.len(), reasons(&plan)), (0, vec![Reason::DataStale]));
}

#[test]
fn a_step_whose_fate_is_unknown_is_the_next_step_and_no_other() {
    let mut site = Site::new();
    let plan = site.decide(0);
    site.apply_status(&plan);
    assert_eq!(site.decide(0).steps[0].before, None, "it stands there");
    let again = site.decide(100);
    assert_eq!(crate::ladder::evicted(&again), ["chat-1"], "as if killed between the status and the eviction");
    let told = again.steps[0].before.as_ref().unwrap().escalated.as_ref().unwrap();
    let last = told.last.as_ref().map(|deed| deed.uid.as_str());
    assert_eq!((last, &told.last_action), (Some("uid-chat-1"), &Some(at(100))), "and is given its time from now on");
    site.change_pod("chat-1", &json!({"ending": true}));
    let plan = site.decide(2);
    assert_eq!((plan.steps.len(), reasons(&plan)), (0, vec![Reason::AwaitingEffect]), "as if killed after it");
}

#[test]
fn three_steps_in_vain_and_no_more_until_a_person_edits_or_the_need_ends() {
    let mut site = Site::new();
    let mut steps = Vec::new();
    for second in 0..2000 {
        let plan = site.decide(second);
        steps.extend(plan.steps.iter().map(|_| second));
        site.carry_out(&plan);
    }
    assert_eq!(steps, [0, 60, 180], "settled, then twice as long, then four times; after three none");
    assert_eq!(site.said(), "StoppedWithoutEffect");
    site.generation(2);
    assert_eq!(site.decide(2000).steps.len(), 1, "edited");
    let mut site_without_need = site;
    site_without_need.status(&json!({"pendingActions": []}));
    let plan = site_without_need.decide(2001);
    assert_eq!((plan.steps.len(), reasons(&plan)), (0, vec![Reason::NothingPending]));
    assert_eq!(plan.reports[0].escalated, None);
}

#[test]
fn steps_that_bring_power_down_follow_one_another() {
    let mut site = Site::new();
    let mut steps = Vec::new();
    for second in 0..200 {
        let plan = site.decide(second);
        steps.extend(plan.steps.iter().map(|_| second));
        let lower = 3000 - 300 * u32::try_from(steps.len()).unwrap();
        site.carry_out(&plan);
        site.status(&json!({"currentPowerWatts": lower}));
    }
    assert_eq!(steps[..3], [0, 30, 60]);
}

#[test]
fn a_clock_that_is_set_back_gives_the_last_step_its_time_once_more_and_no_longer() {
    let mut site = Site::new();
    let first = site.decide(1000);
    site.carry_out(&first);
    site.status(&json!({"currentPowerWatts": 2000}));
    let steps = (400..500).filter(|second| {
        let plan = site.decide(*second);
        site.carry_out(&plan);
        !plan.steps.is_empty()
    });
    assert_eq!((first.steps.len(), steps.take(1).collect::<Vec<_>>()), (1, vec![430]));
}

#[test]
fn two_policies_do_not_take_two_pods_of_one_workload_in_one_turn() {
    let mut site = Site::new();
    let mut other = json!(*site.seen.policies[0]);
    (other["metadata"]["name"], other["metadata"]["uid"]) = (json!("other"), json!("uid-other"));
    other["status"]["pendingActions"].as_array_mut().unwrap().truncate(1);
    other["status"]["pendingActions"][0]["pod"] = json!("chat-2");
    site.seen.policies.push(std::sync::Arc::new(serde_json::from_value(other).unwrap()));
    let plan = site.decide(0);
    assert_eq!(
        (crate::ladder::evicted(&plan), reasons(&plan)),
        (vec!["chat-1".to_owned()], vec![Reason::ReplacementPending])
    );
}

#[test]
fn a_rung_on_which_nothing_is_left_is_exhausted_since_then() {
    let mut site = Site::new();
    for pod in ["chat-1", "solo-1", "more-1", "last-1"] {
        site.change_pod(pod, &json!({"critical": true}));
    }
    let plan = site.decide(5);
    let said = plan.reports[0].escalated.clone().unwrap();
    assert_eq!((said.exhausted, said.exhausted_since), (Some(Action::Evict), Some(at(5))));
    site.apply_status(&plan);
    assert!(site.decide(50).reports.is_empty(), "said once, and since when it is so");
}

#[test]
fn no_more_than_so_much_is_in_hand_in_a_namespace() {
    let mut site = Site::new();
    site.seen.limits.in_a_namespace = 0;
    let plan = site.decide(0);
    assert_eq!((plan.steps.len(), plan.held[0].reason), (0, Reason::LimitReached));
}

#[test]
fn a_job_is_suspended_as_a_whole_unless_a_budget_selects_a_rank_and_resumed_when_there_are_watts() {
    for kind in Kind::JOBS {
        let mut site = Site::with_job(kind);
        let job = site.seen.jobs.keys().next().unwrap().clone();
        let plan = site.decide(0);
        assert!(matches!(&plan.steps[0].what, What::Suspend { job: this, .. } if *this == job), "{kind:?}");
        site.budgets("train", &[9]);
        assert_eq!(site.decide(0).steps, [], "{kind:?}");
        site.suspended();
        site.status(&json!({"pendingActions": [], "currentPowerWatts": 800}));
        assert_eq!(site.decide(100).steps, [], "800 W and the job's 200 W are above 850 W");
        site.status(&json!({"currentPowerWatts": 600}));
        let plan = site.decide(101);
        assert!(matches!(&plan.steps[0].what, What::Resume { job: this } if *this == job), "{kind:?}");
        assert!(plan.steps[0].deed.undone);
        site.seen.policies.clear();
        assert_eq!(site.decide(102).steps.len(), 1, "nobody asks for it any more");
    }
}

#[test]
fn a_job_of_a_kind_that_is_not_kubernetes_own_is_asked_for_before_it_is_suspended() {
    for kind in [Kind::JobSet, Kind::PyTorchJob] {
        let mut site = Site::with_job(kind);
        let (job, facts) = site.seen.jobs.pop_first().unwrap();
        let plan = site.decide(0);
        assert_eq!((plan.steps.len(), plan.questions), (0, vec![Question::Object(job.clone())]), "{kind:?}");
        site.seen.jobs.insert(job.clone(), JobFacts { controlled: true, ..facts });
        assert_eq!(site.decide(0).held[0].reason, Reason::NeverEvicted, "{kind:?} that another resumes");
        site.seen.jobs.clear();
        site.seen.pods.clear();
        assert!(site.decide(0).steps.is_empty(), "{kind:?} is gone with its ranks");
    }
}

#[test]
fn pods_with_stale_watts_are_made_anew_where_that_is_asked_for_and_nothing_else_is_to_do() {
    let mut site = Site::new();
    site.status(&json!({"pendingActions": [], "wattsStale": ["chat-1"], "wattsStalePods": 1}));
    assert_eq!(site.decide(0).steps, []);
    site.seen.limits.recreate_stale = true;
    let plan = site.decide(0);
    assert_eq!((crate::ladder::evicted(&plan), plan.steps[0].reason), (vec!["chat-1".to_owned()], Reason::WattsStale));
}

#[test]
fn a_rung_waits_for_its_own_seconds_since_the_rung_before_was_at_its_floor() {
    // The need stands since 100 s before the beginning.
    let ladder =
        |seconds: u32| json!({"escalation": [{"action": "Throttle"}, {"action": "Evict", "afterSeconds": seconds}]});
    let mut site = Site::new();
    site.spec(&ladder(130));
    let plan = site.decide(29);
    assert_eq!((plan.steps.len(), reasons(&plan)), (0, vec![Reason::RungNotDue]));
    assert_eq!(crate::ladder::evicted(&site.decide(30)), ["chat-1"]);

    let scale = |seconds: u32| {
        json!({"escalation": [{"action": "Throttle"}, {"action": "Scale", "afterSeconds": 10},
        {"action": "Evict", "afterSeconds": seconds}]})
    };
    site.spec(&scale(130));
    assert_eq!(site.decide(39).steps, [], "a rung that was passed over is waited for too");
    assert_eq!(crate::ladder::evicted(&site.decide(40)), ["chat-1"]);
    site.status(&json!({"escalated": {"exhausted": "Scale", "exhaustedSince": at(35)}}));
    assert_eq!(site.decide(164).steps, [], "since the rung before it had nothing left to do");
    assert_eq!(crate::ladder::evicted(&site.decide(165)), ["chat-1"]);
}

#[test]
fn what_stands_to_be_done_is_not_done_while_power_is_within_the_cap_or_not_known() {
    for within in ["True", "Unknown"] {
        let mut site = Site::new();
        site.status(
            &json!({"conditions": [crate::ladder::condition("DataFresh", "True"), crate::ladder::condition("WithinCap", within)]}),
        );
        let plan = site.decide(0);
        assert_eq!((plan.steps.len(), reasons(&plan)), (0, vec![Reason::PowerBelowCap]), "{within}");
    }
}
