//! A policy's status names the pods that are held back, by how much and why; events tell of the turns, and
//! neither flutters.

use std::sync::Arc;

use powercap_common::{
    api::{GpuStatus, PowerCappingPolicyStatus},
    reason::Reason,
};
use powercap_recommender::{
    decide::{Plan, events::Notice},
    observation::Subject,
};

use crate::world::World;

/// Pods `chat-0`… of a policy that keeps them within 500 W each, all on `n0`, each with a board.
fn chat(pods: usize) -> World {
    let mut world = World::of_nodes(1);
    world.rack(100_000);
    let cap = 500 * u32::try_from(pods).unwrap();
    world.policy("chat", cap, "Enforce");
    for at in 0..pods {
        let pod = world.pod(&format!("chat-{at:03}"), "chat", "n0");
        world.newest().uid = format!("uid-{at}");
        world.gpu(&format!("GPU-{at:03}"), "n0", &[&pod], 400, 1980);
    }
    world.cpu("n0", 100);
    world.settle();
    world
}

/// The agent holds the first boards at these clocks and 500 W for this reason; the others run freely.
fn hold(world: &mut World, reason: &str, clocks: &[u32]) {
    let object = Arc::make_mut(world.observation.frequencies.get_mut("n0").unwrap());
    for (at, gpu) in object.status.as_mut().unwrap().gpus.iter_mut().enumerate() {
        let (reason, clock, limit) = match clocks.get(at) {
            Some(clock) => (reason, Some(*clock), Some(500)),
            None => ("Applied", None, Some(700)),
        };
        let held = GpuStatus { target_graphics_megahertz: clock, power_limit_watts: limit, ..gpu.clone() };
        *gpu = GpuStatus { reason: reason.to_owned(), ..held };
    }
}

fn status(world: &World) -> &PowerCappingPolicyStatus {
    world.observation.policies[0].status.as_ref().unwrap()
}

fn named(world: &World) -> Vec<&str> {
    status(world).capped.iter().map(|row| row.pod.as_str()).collect()
}

/// `SUBJECT Reason` of each event.
fn told(plan: &Plan) -> Vec<String> {
    let subject = |notice: &Notice| match &notice.subject {
        Subject::Policy(id) => format!("policy/{}", id.name),
        Subject::Pod(pod) => format!("pod/{}", pod.name),
    };
    plan.notices.events.iter().map(|notice| format!("{} {}", subject(notice), notice.reason)).collect()
}

#[test]
fn a_pod_is_named_with_its_ceiling_the_agents_reason_and_whose_cap_it_is() {
    let mut world = chat(2);
    hold(&mut world, "PolicyCap", &[1200]);
    world.turn();
    let row = &status(&world).capped[0];
    assert_eq!((row.pod.as_str(), row.devices, row.reason.as_str()), ("chat-000", 1, "PolicyCap"));
    assert_eq!((row.ceiling_megahertz, row.power_limit_watts), (Some(1200), Some(500)));
    assert_eq!(row.set_by.as_deref(), Some("powercappingpolicy/llm/chat"));
    assert_eq!(status(&world).capped_pods, 1);
    hold(&mut world, "EnvelopeReached", &[1200]);
    world.turn();
    assert_eq!(status(&world).capped[0].set_by.as_deref(), Some("powerdomain/rack"));
    hold(&mut world, "Quarantined", &[1200]);
    world.turn();
    assert_eq!(status(&world).capped_pods, 0, "a board that is broken is held back by no cap");
}

#[test]
fn of_several_boards_the_slowest_is_told() {
    let mut world = chat(2);
    let pod = world.observation.pods[0].name.clone();
    world.gpu("GPU-001", "n0", &[&pod], 400, 1980);
    hold(&mut world, "PolicyCap", &[1500, 900]);
    world.turn();
    assert_eq!(named(&world), ["chat-000"]);
    assert_eq!((status(&world).capped[0].devices, status(&world).capped[0].ceiling_megahertz), (2, Some(900)));
}

#[test]
fn the_sixteen_that_are_held_back_most_are_named_and_all_are_counted() {
    let mut world = chat(40);
    let clocks: Vec<_> = (0..40).map(|at| 1900 - 30 * at).collect();
    hold(&mut world, "PolicyCap", &clocks);
    world.turn();
    assert_eq!((status(&world).capped_pods, status(&world).capped.len()), (40, 16));
    let named = named(&world);
    assert!(named.contains(&"chat-039") && !named.contains(&"chat-000"), "{named:?}");
}

#[test]
fn numbers_that_move_little_are_written_nothing_and_rows_do_not_take_turns() {
    let mut world = chat(40);
    hold(&mut world, "EnvelopeReached", &[1200; 40]);
    world.turn();
    let before = status(&world).clone();
    for turn in 0..20 {
        let clocks: Vec<_> = (0..40).map(|at| 1185 + (turn * 7 + at * 3) % 30).collect();
        hold(&mut world, "EnvelopeReached", &clocks);
        assert!(world.turn().policies.is_empty(), "turn {turn}");
    }
    assert_eq!(*status(&world), before);
    let mut clocks = [1200; 40];
    clocks[39] = 600;
    hold(&mut world, "EnvelopeReached", &clocks);
    let plan = world.turn();
    assert_eq!(named(&world)[0], "chat-039", "one that is clearly held back more is named");
    assert_eq!(told(&plan), [""; 0], "and not told what may have been so before");
}

#[test]
fn a_pod_is_told_when_a_cap_takes_hold_of_it_and_when_it_lets_go() {
    let mut world = chat(2);
    assert!(world.turn().notices.events.is_empty());
    hold(&mut world, "PolicyCap", &[1200]);
    let plan = world.turn();
    assert_eq!(told(&plan), ["policy/chat PowerCapped", "pod/chat-000 PowerCapped"]);
    let of_pod = &plan.notices.events[1];
    assert_eq!(of_pod.uid, "uid-0");
    let says = "PolicyCap by powercappingpolicy/llm/chat: GPUs 1, at most 1200 MHz, at most 500 W each";
    assert_eq!((of_pod.note.as_str(), of_pod.warning), (says, false));
    assert!(world.turn().notices.events.is_empty(), "what is so already is no news");
    hold(&mut world, "PolicyCap", &[]);
    assert_eq!(told(&world.turn()), ["policy/chat PowerReleased", "pod/chat-000 PowerReleased"]);
}

#[test]
fn a_pod_that_ended_is_not_told_that_it_is_released() {
    let mut world = chat(2);
    hold(&mut world, "PolicyCap", &[1200]);
    world.turn();
    world.observation.pods.remove(0);
    let plan = world.turn();
    assert!(told(&plan).iter().all(|notice| !notice.starts_with("pod/")), "{plan:?}");
}

#[test]
fn of_a_hundred_pods_at_once_four_are_told_and_the_policy_says_how_many_more() {
    let mut world = chat(100);
    hold(&mut world, "PolicyCap", &[1200; 100]);
    let plan = world.turn();
    assert_eq!(plan.notices.events.len(), 5, "{:?}", told(&plan));
    assert!(plan.notices.events[0].note.ends_with(", and 96 more"), "{:?}", plan.notices.events[0]);
    for _ in 0..100 {
        world.pass(5);
        assert!(world.turn().notices.events.iter().all(|notice| notice.reason != Reason::PowerCapped));
    }
}

#[test]
fn caps_that_flutter_for_an_hour_stay_few_events() {
    let mut world = chat(20);
    let mut written = 0;
    let mut suppressed = 0;
    for turn in 0..720 {
        world.pass(5);
        hold(&mut world, "PolicyCap", if turn % 2 == 0 { &[1200; 20] } else { &[] });
        let plan = world.turn();
        written += plan.notices.events.len();
        suppressed += plan.notices.suppressed;
    }
    // Six times in an hour of a policy and of the pods that come first: capped, and released.
    assert!(written < 500, "{written}");
    assert!(suppressed > 2000, "{suppressed}");
}

#[test]
fn no_more_than_sixty_events_are_sent_in_five_minutes_and_those_of_policies_come_first() {
    let mut world = World::of_nodes(1);
    for policy in 0..50 {
        world.policy(&format!("p{policy:02}"), 1000, "Enforce");
        let pod = world.pod(&format!("pod-{policy}"), &format!("p{policy:02}"), "n0");
        world.gpu(&format!("GPU-{policy:02}"), "n0", &[&pod], 400, 1980);
    }
    let first = world.turn();
    assert_eq!(first.notices.events.len(), 50, "each policy says that it enforces: {:?}", told(&first));
    world.settle();
    hold(&mut world, "PolicyCap", &[1200; 50]);
    let plan = world.turn();
    assert_eq!((plan.notices.events.len(), plan.notices.suppressed), (10, 90));
    assert!(told(&plan).iter().all(|notice| notice.starts_with("policy/")));
    world.pass(301);
    hold(&mut world, "PolicyCap", &[]);
    assert_eq!(world.turn().notices.events.len(), 60);
}

#[test]
fn a_new_leader_tells_nothing_again() {
    let mut world = chat(2);
    hold(&mut world, "PolicyCap", &[1200]);
    world.turn();
    world.new_leader();
    world.observation.told = powercap_recommender::observation::Told::default();
    assert!(world.turn().notices.events.is_empty());
}

#[test]
fn a_policy_tells_when_capping_begins_and_ends_and_when_somebody_should_look() {
    let mut world = chat(1);
    let pod = world.observation.pods[0].name.clone();
    world.pass(5);
    world.gpu("GPU-000", "n0", &[&pod], 499, 1980);
    world.cpu("n0", 100);
    assert_eq!(told(&world.turn()), ["policy/chat ThresholdCrossed"]);
    world.pass(60);
    let plan = world.turn();
    let warnings: Vec<_> = plan.notices.events.iter().map(|notice| (notice.reason, notice.warning)).collect();
    assert_eq!(warnings, [(Reason::DataStale, true)], "the readings have stopped");
    world.gpu("GPU-000", "n0", &[&pod], 300, 1980);
    world.cpu("n0", 100);
    assert_eq!(told(&world.turn()), ["policy/chat DataFresh", "policy/chat BelowThreshold"]);
}
