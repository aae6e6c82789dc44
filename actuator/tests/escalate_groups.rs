//! Groups of a LeaderWorkerSet: they go as one, by their leader, or not at all.

use std::sync::Arc;

use powercap_actuator::escalate::observation::{PodFacts, PodName};
use powercap_common::{reason::Reason, target::Controller};
use serde_json::{Value, json};

use crate::ladder::{Site, at, evicted};

/// Two groups of a leader and two workers; the second is listed.
fn site(victim: &Value) -> Site {
    let mut site = Site::new();
    site.seen.pods.clear();
    for group in ["0", "1"] {
        let leader = format!("serve-{group}");
        add(&mut site, &leader, "serve", (group, "0"));
        for place in ["1", "2"] {
            add(&mut site, &format!("{leader}-{place}"), &leader, (group, place));
        }
    }
    list(&mut site, "Evict", victim);
    site
}

fn list(site: &mut Site, action: &str, victim: &Value) {
    site.status(&json!({"pendingActions": [{"action": action, "namespace": "llm", "workload": "LeaderWorkerSet/serve",
        "pod": victim, "freesWatts": 900, "reason": "PowerAboveCap", "since": at(-100)}]}));
}

fn add(site: &mut Site, name: &str, controller: &str, (group, place): (&str, &str)) {
    let labels = [
        ("app", "llm"),
        ("of", name),
        ("leaderworkerset.sigs.k8s.io/name", "serve"),
        ("leaderworkerset.sigs.k8s.io/group-index", group),
        ("leaderworkerset.sigs.k8s.io/worker-index", place),
    ];
    let facts = PodFacts {
        uid: format!("uid-{name}"),
        labels: labels.map(|(key, value)| (key.to_owned(), value.to_owned())).into(),
        controller: Some(Controller { kind: "StatefulSet".into(), name: controller.into() }),
        created: Some(at(-1000).0),
        ready: true,
        ..PodFacts::default()
    };
    site.seen.pods.insert(PodName { namespace: "llm".into(), name: name.into() }, Arc::new(facts));
}

#[test]
fn a_whole_group_goes_by_the_eviction_of_its_leader_and_of_no_other_pod() {
    let mut site = site(&json!("serve-1"));
    let plan = site.decide(0);
    assert_eq!(evicted(&plan), ["serve-1"]);
    assert_eq!(plan.steps[0].deed.uid, "uid-serve-1");
    site.apply_status(&plan);
    site.change_pod("serve-1", &json!({"ending": true}));
    assert_eq!(evicted(&site.decide(31)), Vec::<String>::new(), "it ends, with its workers");
}

#[test]
fn a_group_stays_whole_where_not_all_of_it_may_go() {
    type Change = fn(&mut Site);
    let cases: [(&str, Value, Change, Reason); 9] = [
        ("a worker is no victim", json!("serve-1-1"), |_| {}, Reason::NeverEvicted),
        ("nor is a set", json!(null), |_| {}, Reason::NeverEvicted),
        ("a budget of a worker", json!("serve-1"), |site| site.budgets("serve-1-2", &[5]), Reason::DisruptionForbidden),
        (
            "a worker with data",
            json!("serve-1"),
            |site| site.change_pod("serve-1-1", &json!({"data": 1})),
            Reason::LocalStorage,
        ),
        (
            "a critical worker",
            json!("serve-1"),
            |site| site.change_pod("serve-1-1", &json!({"critical": 1})),
            Reason::NeverEvicted,
        ),
        (
            "a worker of others",
            json!("serve-1"),
            |site| site.change_pod("serve-1-1", &json!({"app": 1})),
            Reason::RungNotPermitted,
        ),
        (
            "a worker that is not ready",
            json!("serve-1"),
            |site| site.change_pod("serve-1-2", &json!({"ready": 0})),
            Reason::ReplacementPending,
        ),
        (
            "a worker elsewhere that ends",
            json!("serve-1"),
            |site| site.change_pod("serve-0-2", &json!({"ending": 1})),
            Reason::ReplacementPending,
        ),
        (
            "a leader elsewhere that is not ready",
            json!("serve-1"),
            |site| site.change_pod("serve-0", &json!({"ready": 0})),
            Reason::ReplacementPending,
        ),
    ];
    for (case, victim, change, reason) in cases {
        let mut site = site(&victim);
        change(&mut site);
        let plan = site.decide(0);
        assert_eq!(evicted(&plan), Vec::<String>::new(), "{case}");
        assert_eq!(plan.held.first().map(|held| held.reason), Some(reason), "{case}");
    }
}

#[test]
fn a_worker_that_never_becomes_ready_does_not_hold_the_ladder_for_ever() {
    let mut site = site(&json!("serve-1"));
    site.change_pod("serve-0-1", &json!({"ready": false}));
    let held = |second| site.decide(second).held[0].reason;
    assert_eq!((held(589), held(590)), (Reason::ReplacementPending, Reason::ReplacementStuck));
}

#[test]
fn no_place_elsewhere_is_held_for_the_leader_of_a_group() {
    let mut site = site(&json!("serve-1"));
    site.spec(&json!({"escalation": [{"action": "Throttle"}, {"action": "Migrate"}]}));
    list(&mut site, "Migrate", &json!("serve-1"));
    assert_eq!(site.decide(0).steps, []);
}
