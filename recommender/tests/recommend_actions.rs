//! When clocks are not enough, who is to give way is named: as the policies permit, no more than is needed, the
//! same while nothing changes.

use std::{collections::BTreeSet, sync::Arc};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use powercap_common::{
    api::{Action, Escalated, PendingAction, PowerCappingPolicyStatus, PowerDomainStatus},
    target::Controller,
    units::{Megahertz, Watts},
};
use proptest::{collection::vec, option, prelude::*, sample::select};
use serde_json::{Value, json};

use crate::world::World;

/// A policy `llm/APP` whose clocks go no lower than half.
fn policy(world: &mut World, app: &str, cap: u32, mode: &str, rungs: &[&str]) {
    let rungs: Vec<Value> = ["Throttle"].iter().chain(rungs).map(|action| json!({"action": action})).collect();
    let spec = json!({"powerCapLimitWatts": cap, "mode": mode, "escalation": rungs,
        "performance": {"minFrequencyPercent": 50}, "selector": {"matchLabels": {"app": app}}});
    world.policy_of(app, spec);
}

/// Pods `APP-0`… of a Deployment, a board each that draws this.
fn deployment(world: &mut World, app: &str, node: &str, powers: &[u32]) {
    for (at, power) in powers.iter().enumerate() {
        let pod = world.pod(&format!("{app}-{at}"), app, node);
        world.gpu(&format!("GPU-{app}-{at}"), node, &[&pod], *power, 990);
        let facts = world.newest();
        facts.labels.insert("pod-template-hash".into(), "5f6d".into());
        facts.controller = Some(Controller { kind: "ReplicaSet".into(), name: format!("{app}-5f6d") });
    }
}

/// A policy on a Deployment of `chat`, whose boards draw this at the lowest clock that it allows.
fn chat(cap: u32, mode: &str, rungs: &[&str], powers: &[u32]) -> World {
    let mut world = World::of_nodes(1);
    policy(&mut world, "chat", cap, mode, rungs);
    deployment(&mut world, "chat", "n0", powers);
    settle(&mut world);
    world
}

/// What was ordered is carried out, and read back.
fn settle(world: &mut World) {
    world.settle();
    rounds(world, 2);
}

/// Rounds of five seconds, each read, decided and carried out; how many statuses were written.
fn rounds(world: &mut World, count: usize) -> usize {
    let round = |_| {
        world.read_again(5);
        let plan = world.turn();
        world.acknowledge_all();
        plan.policies.len() + plan.domains.len()
    };
    (0..count).map(round).sum()
}

fn draw(world: &mut World, board: &str, power: u32) {
    let gpu = world.observation.telemetry.gpus.get_mut(board).unwrap();
    gpu.power.as_mut().unwrap().value = Watts::new(power);
}

fn status<'w>(world: &'w World, policy: &str) -> &'w PowerCappingPolicyStatus {
    let mut policies = world.observation.policies.iter();
    let object = policies.find(|object| object.metadata.name.as_deref() == Some(policy)).unwrap();
    object.status.as_ref().unwrap()
}

fn rack(world: &World) -> &PowerDomainStatus {
    world.observation.domains[0].status.as_ref().unwrap()
}

/// The escalating actuator says how far it is.
fn escalated(world: &mut World, policy: &str, escalated: Option<Escalated>) {
    let mut policies = world.observation.policies.iter_mut();
    let object = policies.find(|object| object.metadata.name.as_deref() == Some(policy)).unwrap();
    Arc::make_mut(object).status.as_mut().unwrap().escalated = escalated;
}

/// `Action workload pod: watts` of each.
fn told(actions: &[PendingAction]) -> Vec<String> {
    let one = |pending: &PendingAction| {
        let PendingAction { action, workload, pod, frees_watts, .. } = pending;
        format!("{action:?} {workload} {}: {frees_watts}", pod.as_deref().unwrap_or("-"))
    };
    actions.iter().map(one).collect()
}

fn chat_told(world: &World) -> Vec<String> {
    told(&status(world, "chat").pending_actions)
}

#[test]
fn at_the_floor_and_above_the_cap_as_many_pods_are_named_as_free_the_excess() {
    let world = chat(500, "Enforce", &["Evict"], &[250, 200, 250, 150]);
    assert_eq!(chat_told(&world), ["Evict Deployment/chat chat-0: 250", "Evict Deployment/chat chat-2: 250"]);
    let pending = &status(&world, "chat").pending_actions[0];
    assert_eq!((&*pending.reason, &*pending.namespace), ("AboveOwnWatts", "llm"));
    assert_eq!(status(&world, "chat").pending_action_count, 2);
}

#[test]
fn nothing_is_named_while_clocks_may_go_lower_or_power_is_within_the_cap() {
    let mut world = World::of_nodes(1);
    policy(&mut world, "chat", 500, "Enforce", &["Freeze", "Evict"]);
    deployment(&mut world, "chat", "n0", &[100, 100]);
    settle(&mut world);
    assert!(chat_told(&world).is_empty());
    // The first decision above the cap only lowers clocks; a freeze waits for nothing.
    draw(&mut world, "GPU-chat-0", 600);
    world.read_again(5);
    world.turn();
    assert_eq!(chat_told(&world), ["Freeze Deployment/chat -: 0"]);
    draw(&mut world, "GPU-chat-0", 60);
    draw(&mut world, "GPU-chat-1", 60);
    rounds(&mut world, 40);
    assert!(chat_told(&world).is_empty(), "{:?}", chat_told(&world));
    assert_eq!(rounds(&mut world, 20), 0, "within the cap nothing is written");
}

#[test]
fn what_stands_stays_until_power_is_below_the_release_threshold_and_flickers_write_nothing() {
    let mut world = chat(500, "Enforce", &["Evict"], &[250, 200, 250, 150]);
    let (before, since) = (chat_told(&world), status(&world, "chat").pending_actions[0].since.clone());
    for power in [255, 246, 252, 258, 245] {
        draw(&mut world, "GPU-chat-1", power - 50);
        assert_eq!(rounds(&mut world, 2), 0, "{power}");
    }
    // Between the thresholds nobody is added, and nobody goes.
    for (board, power) in [("GPU-chat-0", 80), ("GPU-chat-1", 80)] {
        draw(&mut world, board, power);
    }
    draw(&mut world, "GPU-chat-3", 50);
    rounds(&mut world, 2);
    let named: Vec<_> =
        status(&world, "chat").pending_actions.iter().map(|action| action.pod.clone().unwrap()).collect();
    assert_eq!((named, before.len()), (vec!["chat-0".to_owned(), "chat-2".to_owned()], 2));
    assert_eq!(status(&world, "chat").pending_actions[0].since, since);
    draw(&mut world, "GPU-chat-2", 100);
    rounds(&mut world, 2);
    assert!(chat_told(&world).is_empty());
}

#[test]
fn silence_adds_nobody_and_lets_nobody_go_but_those_who_are_gone() {
    let mut world = chat(500, "Enforce", &["Freeze", "Evict"], &[250, 200, 250, 150]);
    let before = chat_told(&world);
    assert_eq!(before.len(), 3);
    world.pass(600);
    world.turn();
    assert_eq!(world.policy_says("chat", "DataFresh"), "False DataStale");
    assert_eq!(chat_told(&world), before);
    world.observation.pods.retain(|pod| pod.name.name != "chat-0");
    world.turn();
    assert_eq!(chat_told(&world), ["Freeze Deployment/chat -: 0", "Evict Deployment/chat chat-2: 250"]);
    let mut quiet = World::of_nodes(1);
    policy(&mut quiet, "chat", 500, "Enforce", &["Freeze", "Evict"]);
    deployment(&mut quiet, "chat", "n0", &[400, 400]);
    quiet.pass(600);
    quiet.settle();
    assert!(chat_told(&quiet).is_empty(), "nothing begins without readings");
}

#[test]
fn the_next_rung_is_that_after_the_last_that_is_exhausted_and_none_that_is_not_permitted() {
    let evict = ["Evict Deployment/chat chat-0: 250", "Evict Deployment/chat chat-1: 250"];
    let scale = ["Scale Deployment/chat -: 250"];
    let far = "2999-01-01T00:00:00Z".parse().map(Time).unwrap();
    for (exhausted, expected) in [
        (None, &scale[..]),
        (Some(Action::Throttle), &scale[..]),
        (Some(Action::Freeze), &scale[..]),
        (Some(Action::Scale), &evict[..]),
        // It is still needed, as the actuator must see.
        (Some(Action::Evict), &evict[..]),
        // It is said of a rung that the policy does not have.
        (Some(Action::Migrate), &scale[..]),
    ] {
        let mut world = chat(500, "Enforce", &["Scale", "Evict"], &[250, 250, 250, 250]);
        let nonsense = Escalated {
            rung: Action::Migrate,
            exhausted,
            exhausted_since: Some(far.clone()),
            without_effect: u32::MAX,
            last_action: Some(far.clone()),
            ..Escalated::default()
        };
        escalated(&mut world, "chat", Some(nonsense));
        rounds(&mut world, 2);
        assert_eq!(chat_told(&world), expected, "{exhausted:?}");
    }
    let world = chat(500, "Enforce", &[], &[250, 250, 250, 250]);
    assert!(chat_told(&world).is_empty(), "a throttle is all that it permits");
}

#[test]
fn a_rung_that_nobody_can_be_taken_to_is_passed_over() {
    // Devices alone count: a CPU limit frees nothing of that. A single pod cannot be scaled down.
    let world = chat(150, "Enforce", &["Resize", "Scale", "Evict"], &[250]);
    assert_eq!(chat_told(&world), ["Evict Deployment/chat chat-0: 250"]);
}

#[test]
fn cpu_power_is_what_a_resize_frees() {
    let mut world = World::of_nodes(1);
    policy(&mut world, "chat", 500, "Enforce", &["Resize"]);
    let mut spec = json!(world.observation.policies[0].spec);
    spec["powerScope"] = json!("DevicesAndHost");
    world.policy_of("chat", spec);
    deployment(&mut world, "chat", "n0", &[250, 250]);
    let pods: Vec<_> = world.observation.pods.iter().map(|pod| pod.name.clone()).collect();
    world.pod_cpu(&pods[0], 90);
    world.pod_cpu(&pods[1], 140);
    settle(&mut world);
    assert_eq!(chat_told(&world), ["Resize Deployment/chat chat-1: 140", "Resize Deployment/chat chat-0: 90"]);
}

#[test]
fn advice_names_those_that_lower_clocks_would_not_spare_and_off_names_nobody() {
    let mut world = World::of_nodes(1);
    // Its agent has told what the boards can do.
    world.rack(100_000);
    policy(&mut world, "chat", 500, "Advise", &["Evict"]);
    deployment(&mut world, "chat", "n0", &[690, 690, 690, 690]);
    for gpu in world.observation.telemetry.gpus.values_mut() {
        gpu.clock.as_mut().unwrap().value = Megahertz::new(1980);
    }
    settle(&mut world);
    // Half the clock leaves 198 W of each: 791 W for 500.
    assert_eq!(chat_told(&world), ["Evict Deployment/chat chat-0: 198", "Evict Deployment/chat chat-1: 198"]);
    assert!(rack(&world).pending_actions.is_empty());
    policy(&mut world, "chat", 500, "Off", &["Evict"]);
    world.turn();
    assert!(chat_told(&world).is_empty());
}

#[test]
fn the_ranks_of_a_job_go_together_or_not_at_all() {
    let mut world = World::of_nodes(2);
    policy(&mut world, "train", 500, "Enforce", &["Evict"]);
    deployment(&mut world, "train", "n0", &[250, 250]);
    deployment(&mut world, "lone", "n1", &[250]);
    for pod in world.observation.pods.iter_mut().map(Arc::make_mut) {
        pod.job = Some("Job/train".into());
        pod.controller = Some(Controller { kind: "Job".into(), name: "train".into() });
        pod.labels.insert("app".into(), "train".into());
    }
    settle(&mut world);
    assert_eq!(told(&status(&world, "train").pending_actions), ["Evict Job/train -: 750"]);
    // One rank is not the policy's: none is named.
    world.facts(2).labels.insert("app".into(), "lone".into());
    policy(&mut world, "train", 300, "Enforce", &["Evict"]);
    rounds(&mut world, 4);
    assert!(status(&world, "train").pending_actions.is_empty());
}

#[test]
fn nobody_is_evicted_whom_nothing_makes_anew_or_who_is_critical() {
    let by = |kind: &str| Some(Controller { kind: kind.into(), name: "chat".into() });
    for (controller, priority, named) in [
        (by("StatefulSet"), 0, 1),
        (None, 0, 0),
        (by("DaemonSet"), 0, 0),
        (by("Node"), 0, 0),
        (by("StatefulSet"), 2_000_000_000, 0),
    ] {
        let mut world = World::of_nodes(1);
        policy(&mut world, "chat", 150, "Enforce", &["Migrate", "Evict"]);
        deployment(&mut world, "chat", "n0", &[250]);
        let pod = world.facts(0);
        (pod.controller, pod.priority) = (controller.clone(), priority);
        settle(&mut world);
        assert_eq!(status(&world, "chat").pending_actions.len(), named, "{controller:?} {priority}");
    }
}

#[test]
fn of_policies_that_share_a_pod_the_first_permits() {
    let mut world = World::of_nodes(1);
    policy(&mut world, "chat", 300, "Enforce", &["Evict"]);
    deployment(&mut world, "chat", "n0", &[250, 250]);
    let mut first = json!(world.observation.policies[0].spec);
    (first["priority"], first["escalation"]) = (json!(9), json!([{"action": "Throttle"}]));
    world.policy_of("first", first);
    settle(&mut world);
    assert!(chat_told(&world).is_empty() && status(&world, "first").pending_actions.is_empty());
    let mut first = json!(world.observation.policies[1].spec);
    first["mode"] = json!("Advise");
    world.policy_of("first", first);
    rounds(&mut world, 3);
    assert_eq!(chat_told(&world).len(), 1, "advice forbids nothing");
}

/// A rack whose nodes draw more than its cap at their lowest.
fn overfull(cap: u32) -> World {
    let mut world = World::of_nodes(2);
    world.rack(cap);
    for node in ["n0", "n1"] {
        world.cpu(node, 100);
    }
    world
}

#[test]
fn a_domain_names_the_lowest_priority_first_and_never_what_no_policy_selects() {
    let mut world = overfull(300);
    for (app, priority) in [("low", 1), ("high", 5)] {
        policy(&mut world, app, 5000, "Enforce", &["Evict"]);
        let mut spec = json!(world.observation.policies.last().unwrap().spec);
        spec["priority"] = json!(priority);
        world.policy_of(app, spec);
        deployment(&mut world, app, "n0", &[150, 150]);
    }
    deployment(&mut world, "free", "n1", &[150, 150]);
    world.turn();
    settle(&mut world);
    let pods: Vec<_> = rack(&world).pending_actions.iter().filter_map(|pending| pending.pod.clone()).collect();
    assert_eq!(pods, ["low-0", "low-1", "high-0", "high-1"], "{:#?}", rack(&world));
    assert!(status(&world, "low").pending_actions.is_empty(), "the policy itself keeps its cap");
    // The brake is pulled in the meantime, as far as it goes.
    rounds(&mut world, 20);
    assert_eq!(rounds(&mut world, 10), 0);
    // Power falls below the release threshold: nothing is needed any more.
    for gpu in world.observation.telemetry.gpus.values_mut() {
        gpu.power.as_mut().unwrap().value = Watts::new(10);
    }
    rounds(&mut world, 2);
    assert!(rack(&world).pending_actions.is_empty());
}

#[test]
fn a_domain_at_its_cap_keeps_workloads_from_growing_whose_policy_lists_that() {
    let mut world = overfull(1000);
    policy(&mut world, "kept", 5000, "Enforce", &["Freeze"]);
    deployment(&mut world, "kept", "n0", &[300, 300]);
    policy(&mut world, "free", 5000, "Enforce", &["Evict"]);
    deployment(&mut world, "free", "n1", &[100, 100]);
    world.turn();
    settle(&mut world);
    let freezes = |world: &World| {
        let told = told(&rack(world).pending_actions);
        told.into_iter().filter(|told| told.starts_with("Freeze")).collect::<Vec<_>>()
    };
    assert_eq!(freezes(&world), ["Freeze Deployment/kept -: 0"], "{:#?}", rack(&world));
    for gpu in world.observation.telemetry.gpus.values_mut() {
        gpu.power.as_mut().unwrap().value = Watts::new(50);
    }
    rounds(&mut world, 2);
    assert_eq!(freezes(&world), [""; 0], "{:#?}", rack(&world));
}

#[test]
fn a_greedy_pods_own_policy_acts_on_it_before_an_innocent_of_lower_priority_elsewhere_is_touched() {
    let mut world = overfull(1100);
    policy(&mut world, "greedy", 300, "Enforce", &["Evict"]);
    let mut spec = json!(world.observation.policies[0].spec);
    spec["priority"] = json!(9);
    world.policy_of("greedy", spec);
    deployment(&mut world, "greedy", "n0", &[600]);
    policy(&mut world, "innocent", 5000, "Enforce", &["Evict"]);
    deployment(&mut world, "innocent", "n1", &[200, 200]);
    world.turn();
    settle(&mut world);
    // 1200 W of 1100 W, of which the greedy pod's own policy frees 600.
    assert_eq!(told(&status(&world, "greedy").pending_actions), ["Evict Deployment/greedy greedy-0: 600"]);
    assert!(rack(&world).pending_actions.is_empty(), "{:#?}", rack(&world).pending_actions);
}

#[test]
fn a_new_leader_names_the_same_since_the_same_time() {
    let mut world = chat(500, "Enforce", &["Freeze", "Evict"], &[250, 200, 250, 150]);
    let before = status(&world, "chat").pending_actions.clone();
    world.new_leader();
    world.pass(60);
    settle(&mut world);
    assert_eq!(status(&world, "chat").pending_actions, before);
}

#[test]
fn a_hundred_are_listed_and_all_are_counted() {
    let powers = vec![100; 230];
    let world = chat(3000, "Enforce", &["Evict"], &powers);
    let status = status(&world, "chat");
    assert_eq!((status.pending_actions.len(), status.pending_action_count), (100, 200));
    let pods: BTreeSet<_> = status.pending_actions.iter().filter_map(|pending| pending.pod.as_ref()).collect();
    assert_eq!(pods.len(), 100);
}

/// What people are told of the ladder in half a minute.
fn events(world: &mut World) -> Vec<String> {
    let mut told = Vec::new();
    for _ in 0..6 {
        world.read_again(5);
        told.extend(world.turn().notices.events.into_iter().map(|event| event.reason.to_string()));
        world.acknowledge_all();
    }
    told.retain(|reason| reason.starts_with("Escalation"));
    told
}

#[test]
fn people_are_told_once_when_something_is_pending_and_when_nothing_is_any_more() {
    let mut world = chat(500, "Enforce", &["Evict"], &[250, 200]);
    assert!(chat_told(&world).is_empty());
    draw(&mut world, "GPU-chat-1", 300);
    assert_eq!(events(&mut world), ["EscalationPending"]);
    draw(&mut world, "GPU-chat-1", 100);
    assert_eq!(events(&mut world), ["EscalationOver"]);
}

const RUNGS: [&str; 5] = ["Freeze", "Resize", "Scale", "Migrate", "Evict"];

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn whoever_is_listed_is_permitted_and_all_together_free_the_excess_or_are_all_there_are(
        powers in vec(200_u32..700, 1..12),
        cap in 200_u32..3000,
        rungs in Just(RUNGS.to_vec()).prop_shuffle(),
        length in 0_usize..=5,
        exhausted in option::of(select(vec![Action::Throttle, Action::Freeze, Action::Scale, Action::Migrate, Action::Evict])),
        order in any::<u64>(),
    ) {
        let rungs = &rungs[..length];
        let mut world = chat(cap, "Enforce", rungs, &powers);
        escalated(&mut world, "chat", Some(Escalated { exhausted, ..Escalated::default() }));
        rounds(&mut world, 3);
        let status = status(&world, "chat");
        let steps = || status.pending_actions.iter().filter(|pending| pending.action != Action::Freeze);
        for pending in &status.pending_actions {
            prop_assert!(rungs.contains(&&*format!("{:?}", pending.action)), "{pending:?} is not of {rungs:?}");
        }
        let excess = powers.iter().sum::<u32>().saturating_sub(cap);
        let freed: u32 = steps().map(|pending| pending.frees_watts).sum();
        let all = match steps().next().map(|pending| pending.action) {
            Some(Action::Scale) => 1,
            Some(_) => powers.len(),
            None => 0,
        };
        prop_assert!(freed >= excess || steps().count() == all, "{freed} W of {excess} W: {status:?}");
        prop_assert!(excess > 0 || steps().next().is_none(), "nothing is in excess: {status:?}");

        let plan = world.decide();
        let pods = &mut world.observation.pods;
        let turn = usize::try_from(order % 1000).unwrap() % pods.len();
        pods.rotate_left(turn);
        pods.reverse();
        prop_assert_eq!(plan, world.decide(), "the order of the pods decides nothing");
    }
}
