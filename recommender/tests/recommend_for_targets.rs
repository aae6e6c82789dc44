//! A policy that names a workload caps that workload's pods, and goes on to while the workload is not to be found.

use std::sync::Arc;

use powercap_common::{
    api::{FoundTarget, PowerCappingPolicyStatus},
    reason::Reason,
    target::Controller,
};
use powercap_recommender::observation::{Hold, PodName, Target};
use serde_json::json;

use crate::world::World;

/// A policy `llm/chat` for the Deployment `chat`, of whose selector nothing is known yet; two pods with the
/// label `app: chat`, each with a board of its own: one of the Deployment, one of something else.
fn chat() -> World {
    let mut world = World::of_nodes(1);
    let target = json!({"apiVersion": "apps/v1", "kind": "Deployment", "name": "chat"});
    world.policy_of("chat", json!({"powerCapLimitWatts": 500, "mode": "Enforce", "targetRef": target}));
    for (name, uuid, owner) in [("own", "GPU-own", "chat-5f6d"), ("other", "GPU-other", "chat-canary-5f6d")] {
        let pod = world.pod(name, "chat", "n0");
        let facts = world.newest();
        facts.controller = Some(Controller { kind: "ReplicaSet".into(), name: owner.into() });
        facts.labels.insert("pod-template-hash".into(), "5f6d".into());
        world.gpu(uuid, "n0", &[&pod], 400, 1980);
    }
    world
}

/// What is known of the Deployment from now on.
fn told(world: &mut World, answer: Result<&str, Reason>) {
    told_of(world, answer, &[]);
}

/// Likewise, with ReplicaSets that it adopted.
fn told_of(world: &mut World, answer: Result<&str, Reason>, adopted: &[&str]) {
    let target_ref = world.observation.policies[0].spec.target_ref.clone().unwrap();
    let target = Target { namespace: "llm".into(), target_ref: target_ref.clone() };
    let adopted = adopted.iter().map(|&name| name.to_owned()).collect();
    let found = |selector: &str| FoundTarget { target_ref, selector: selector.to_owned(), adopted };
    let answer = answer.map(found).map_err(|reason| Hold::new(reason, "there is no Deployment chat"));
    world.observation.targets.insert(target, answer);
}

fn capped(world: &World) -> Vec<String> {
    let object = world.observation.frequencies.get("n0");
    object.map(|object| object.spec.gpu_frequencies.iter().map(|gpu| gpu.uuid.clone()).collect()).unwrap_or_default()
}

fn status(world: &World) -> &PowerCappingPolicyStatus {
    world.observation.policies[0].status.as_ref().unwrap()
}

#[test]
fn pods_with_the_labels_of_a_deployment_that_it_does_not_control_are_left_alone() {
    let mut world = chat();
    told(&mut world, Ok("app=chat"));
    world.settle();
    assert_eq!(capped(&world), ["GPU-own"]);
    assert_eq!((status(&world).matched_pods, status(&world).current_power_watts), (1, Some(400)));
    assert_eq!(status(&world).target.as_ref().unwrap().selector, "app=chat");
    assert_eq!(world.policy_says("chat", "Ready"), "True Enforcing");
}

#[test]
fn pods_of_a_replica_set_that_a_deployment_adopted_are_its_own_also_while_it_is_not_found() {
    let mut world = chat();
    told_of(&mut world, Ok("app=chat"), &["chat-canary-5f6d"]);
    world.settle();
    assert_eq!(capped(&world), ["GPU-other", "GPU-own"]);
    told(&mut world, Err(Reason::TargetNotFound));
    world.new_leader();
    world.settle();
    assert_eq!((capped(&world).len(), status(&world).matched_pods), (2, 2));
    told(&mut world, Ok("app=chat"));
    world.settle();
    assert_eq!(capped(&world), ["GPU-own"], "it has let it go");
}

#[test]
fn of_a_kind_that_nobody_knows_the_labels_decide() {
    let mut world = chat();
    let target = json!({"apiVersion": "example.com/v1", "kind": "Fleet", "name": "chat"});
    world.policy_of("chat", json!({"powerCapLimitWatts": 500, "mode": "Enforce", "targetRef": target}));
    told(&mut world, Ok("app in (chat)"));
    world.settle();
    assert_eq!(capped(&world), ["GPU-other", "GPU-own"]);
}

#[test]
fn of_an_inference_service_the_pods_with_kserves_label_are_its_own_but_for_a_bare_one() {
    let mut world = chat();
    for facts in world.observation.pods.iter_mut().map(Arc::make_mut) {
        facts.labels.insert("serving.kserve.io/inferenceservice".into(), "chat".into());
    }
    world.facts(1).controller = None;
    let target = json!({"apiVersion": "serving.kserve.io/v1beta1", "kind": "InferenceService", "name": "chat"});
    world.policy_of("chat", json!({"powerCapLimitWatts": 500, "mode": "Enforce", "targetRef": target}));
    told(&mut world, Ok("serving.kserve.io/inferenceservice=chat"));
    world.settle();
    assert_eq!(capped(&world), ["GPU-own"]);
    assert_eq!(world.policy_says("chat", "Ready"), "True Enforcing");
}

#[test]
fn what_was_selected_stays_capped_while_the_target_is_not_found_also_after_a_restart() {
    let mut world = chat();
    told(&mut world, Ok("app=chat"));
    world.settle();
    let before = world.ceilings("n0");
    for reason in [Reason::TargetUnknown, Reason::TargetNotFound, Reason::TargetWithoutSelector] {
        told(&mut world, Err(reason));
        world.new_leader();
        world.settle();
        assert_eq!(world.ceilings("n0"), before, "{reason}");
        assert_eq!(world.policy_says("chat", "Ready"), format!("False {reason}"));
        assert_eq!(status(&world).current_power_watts, Some(400), "it is measured as before");
    }
    world.observation.targets.clear();
    world.settle();
    assert_eq!(world.ceilings("n0"), before, "a recommender that has just started and asked nobody yet");
    assert_eq!(world.policy_says("chat", "Ready"), "True Enforcing", "and says nothing of that");
}

#[test]
fn a_target_of_which_nothing_was_ever_known_caps_nothing_and_uncaps_nothing() {
    let mut world = chat();
    assert_eq!(world.turn().notices.events, [], "nobody is told of a moment");
    world.settle();
    assert!(capped(&world).is_empty());
    assert_eq!(world.policy_says("chat", "Ready"), "False TargetPending");
    assert_eq!(status(&world).current_power_watts, None, "no data is never zero watts");

    told(&mut world, Ok("app=chat"));
    world.settle();
    told(&mut world, Err(Reason::TargetNotFound));
    Arc::make_mut(&mut world.observation.policies[0]).status = None;
    world.settle();
    assert_eq!(capped(&world), ["GPU-own"], "a status that was lost");
    assert_eq!(world.policy_says("chat", "Ready"), "False TargetNotFound");

    let stranger = PodName { namespace: "batch".into(), name: "train-0".into() };
    world.observation.pods.push(Arc::clone(&world.observation.pods[0]));
    world.newest().name = stranger.clone();
    world.gpu("GPU-own", "n0", &[&stranger], 400, 1980);
    world.settle();
    assert!(capped(&world).is_empty(), "the board is a pod's of another namespace by now");
}

#[test]
fn what_was_remembered_of_another_target_counts_for_nothing() {
    let mut world = chat();
    told(&mut world, Ok("app=chat"));
    world.settle();
    let target = json!({"apiVersion": "apps/v1", "kind": "StatefulSet", "name": "chat"});
    world.policy_of("chat", json!({"powerCapLimitWatts": 500, "mode": "Enforce", "targetRef": target}));
    world.settle();
    assert_eq!(world.policy_says("chat", "Ready"), "False TargetPending");
    assert_eq!(status(&world).target, None);
    assert_eq!(capped(&world), ["GPU-own"], "nobody knows whose it is now: what stands, stands");
    told(&mut world, Ok("app=chat"));
    world.settle();
    assert!(capped(&world).is_empty(), "no pod is the StatefulSet's");
    assert_eq!(world.policy_says("chat", "Ready"), "False NoMatchingPods");
}

#[test]
fn a_selector_that_nobody_can_read_selects_nothing() {
    let mut world = chat();
    told(&mut world, Ok("cores>4"));
    world.settle();
    assert!(capped(&world).is_empty());
}
