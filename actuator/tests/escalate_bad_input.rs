//! What clusters do while somebody escalates: namespaces go, workloads shrink, replacements never come, others write.

use std::time::{Duration, Instant};

use powercap_actuator::escalate::{
    apply::Writer,
    ceilings::stored::Kind,
    decide::{Plan, Step, decide},
    metrics::Metrics,
    observation::Memory,
};
use powercap_common::{api::Action, reason::Reason};
use powercap_process::leader::Leadership;
use serde_json::{Value, json};

use crate::{
    cluster::{Cluster, World, at},
    ladder::{Site, evicted, reasons},
};

/// A cluster, and the first step that is decided there.
async fn decided() -> (Cluster, Step) {
    powercap_process::install_tls_provider();
    let cluster = Cluster::serve(World::new()).await;
    let plan = decide(&cluster.world().observe(&Memory::default()), at(0).0);
    (cluster, plan.steps[0].clone())
}

/// Takes the step; what is remembered, and whether anything is known to stand in status.
async fn take(cluster: &Cluster, step: &Step) -> (Memory, bool) {
    let writer = Writer::new(cluster.client(), "test".into(), Metrics::default());
    let mut memory = Memory::default();
    let leads = || Some(Leadership { term: 1, until: Instant::now() + Duration::from_secs(60) });
    let plan = Plan { steps: vec![step.clone()], ..Plan::default() };
    let written = writer.carry_out(&plan, &mut memory, leads).await;
    (memory, !written.is_empty())
}

#[tokio::test]
async fn nothing_is_evicted_in_a_namespace_that_went_away_with_its_policy() {
    let (cluster, step) = decided().await;
    cluster.world().policy = Value::Null;
    let (memory, written) = take(&cluster, &step).await;
    assert!(!written && memory.done.is_empty() && cluster.world().effects.is_empty());
    let plan = decide(&cluster.world().observe(&memory), at(1).0);
    assert!(plan.steps.is_empty() && plan.reports.is_empty(), "{plan:?}");
}

#[tokio::test]
async fn nothing_is_evicted_for_a_policy_that_a_person_has_edited_since() {
    let (cluster, step) = decided().await;
    {
        let mut world = cluster.world();
        (world.policy["spec"]["mode"], world.policy["metadata"]["generation"]) = (json!("Off"), json!(2));
        world.pass(1);
    }
    let (memory, written) = take(&cluster, &step).await;
    assert!(!written && memory.done.is_empty() && cluster.world().effects.is_empty());
}

#[test]
fn pods_that_end_with_their_namespace_are_no_victims_and_a_job_that_ends_is_not_resumed() {
    let mut site = Site::new();
    for workload in ["chat", "solo", "more", "last"] {
        (1..=3).for_each(|pod| site.change_pod(&format!("{workload}-{pod}"), &json!({"ending": true})));
    }
    assert_eq!(site.decide(0).steps, []);
    let mut site = Site::with_job(Kind::Job);
    site.suspended();
    site.seen.policies.clear();
    assert_eq!(site.decide(0).steps.len(), 1, "it would be resumed");
    site.seen.jobs.values_mut().for_each(|job| job.ended = true);
    assert_eq!(site.decide(0).steps, []);
}

#[tokio::test]
async fn a_workload_that_shrinks_itself_just_before_its_eviction_costs_no_second_pod_before_power_is_seen_again() {
    let (cluster, step) = decided().await;
    cluster.world().pods.remove("chat-1");
    let (memory, written) = take(&cluster, &step).await;
    assert!(written && memory.done.contains("uid-chat-1"), "it stands in status, and is gone: {memory:?}");
    cluster.world().pass(1);
    for (second, steps) in [(1, 0), (29, 0), (31, 1)] {
        let plan = decide(&cluster.world().observe(&memory), at(second).0);
        assert_eq!(plan.steps.len(), steps, "after {second} s: {:?}", reasons(&plan));
    }
}

#[test]
fn a_workload_that_shrank_below_its_minimum_loses_no_more() {
    let mut site = Site::new();
    site.seen.pods.retain(|name, _| !["chat-2", "chat-3"].contains(&name.name.as_str()));
    let plan = site.decide(0);
    assert_eq!((evicted(&plan), plan.held[0].reason), (vec!["solo-1".to_owned()], Reason::TooFewReplicas));
}

#[test]
fn a_replacement_that_never_becomes_ready_holds_its_workload_for_ten_minutes_and_the_ladder_no_longer() {
    let mut site = Site::new();
    for workload in ["chat", "solo", "more", "last"] {
        site.change_pod(&format!("{workload}-2"), &json!({"ready": false}));
    }
    let plan = site.decide(589);
    assert_eq!((plan.steps.len(), reasons(&plan)), (0, vec![Reason::ReplacementPending]));
    let plan = site.decide(590);
    assert_eq!((plan.steps.len(), reasons(&plan)), (0, vec![Reason::ReplacementStuck]));
    let said = plan.reports[0].escalated.clone().unwrap();
    assert_eq!(said.exhausted, Some(Action::Evict), "the rung after it may begin");
}

#[test]
fn a_replacement_that_never_becomes_ready_does_not_keep_another_workload_from_its_turn() {
    let mut site = Site::new();
    site.change_pod("chat-2", &json!({"ready": false}));
    for (second, reason) in [(0, Reason::ReplacementPending), (590, Reason::ReplacementStuck)] {
        let plan = site.decide(second);
        assert_eq!((evicted(&plan), plan.held[0].reason), (vec!["solo-1".to_owned()], reason), "after {second} s");
    }
}

#[tokio::test]
async fn a_conflict_with_the_recommender_is_no_obstacle_and_one_with_another_leader_ends_the_step() {
    let (cluster, step) = decided().await;
    cluster.world().pass(5);
    let (memory, written) = take(&cluster, &step).await;
    assert!(written && memory.done.contains("uid-chat-1"), "the recommender wrote meanwhile: {memory:?}");

    let (cluster, step) = decided().await;
    cluster.world().policy["status"]["escalated"] = json!({"rung": "Evict", "lastAction": at(1)});
    cluster.world().pass(5);
    let (memory, written) = take(&cluster, &step).await;
    assert!(!written && memory.done.is_empty(), "another leader took a step meanwhile: {memory:?}");
    assert_eq!(cluster.world().effects, []);
}

#[tokio::test]
async fn nothing_is_done_that_was_withdrawn_since_it_was_decided_on() {
    for (what, withdraw) in [
        ("nothing is to be done any more", (|pending| *pending = json!([])) as fn(&mut Value)),
        ("another pod is to go", |pending| pending[0]["pod"] = json!("chat-2")),
        ("another rung is due", |pending| pending[0]["action"] = json!("Scale")),
    ] {
        let (cluster, step) = decided().await;
        cluster.world().pass(5);
        withdraw(&mut cluster.world().policy["status"]["pendingActions"]);
        let (memory, written) = take(&cluster, &step).await;
        assert!(!written && memory.done.is_empty(), "{what}: {memory:?}");
        assert_eq!(cluster.world().effects, [], "{what}");
    }
}

#[tokio::test]
async fn a_pod_of_the_same_name_that_took_the_victims_place_is_not_evicted() {
    let (cluster, step) = decided().await;
    cluster.world().pods.get_mut("chat-1").unwrap()["metadata"]["uid"] = json!("another");
    let (memory, _) = take(&cluster, &step).await;
    assert!(memory.done.contains("uid-chat-1"), "a conflict says that it is gone: {memory:?}");
    assert_eq!(cluster.world().effects, []);
}
