//! How many replicas there are watts for: by the cap, by what the domain has left, and by what a replica would draw
//! unhindered. What is not known is no number.

use std::sync::Arc;

use jiff::SignedDuration;
use powercap_common::{policy::PolicyId, reason::Reason, units::Watts};
use powercap_recommender::{
    decide::Replicas,
    observation::{Hold, Sample},
    scaler::budget::budget,
};
use proptest::prelude::{Just, Strategy, prop, prop_assert, prop_assume, proptest};
use serde_json::json;

use crate::world::World;

/// A rack of one node, and a policy of this many pods with a board each that draws so much.
fn scene(cap: u32, draws: &[u32]) -> World {
    let mut world = World::of_nodes(1);
    world.policy("chat", cap, "Advise");
    for (at, watts) in draws.iter().enumerate() {
        let pod = world.pod(&format!("chat-{at}"), "chat", "n0");
        world.gpu(&format!("GPU-{at}"), "n0", &[&pod], *watts, 1980);
    }
    world.cpu("n0", 200);
    world
}

fn replicas(world: &World) -> Result<Replicas, Hold> {
    let id = PolicyId { namespace: "llm".into(), name: "chat".into() };
    world.decide().figures.replicas.remove(&id).unwrap()
}

fn of_world(world: &World) -> Result<u32, Hold> {
    budget(&replicas(world))
}

/// As the recommender writes it into the policy's status.
fn recommend(world: &mut World, watts: u32) {
    let recommendation = json!({"containerRecommendations": [
        {"containerName": "server", "target": {"powercapping.io/watts": watts.to_string()}}]});
    let policy = std::sync::Arc::make_mut(&mut world.observation.policies[0]);
    policy.status.get_or_insert_default().recommendation = serde_json::from_value(recommendation).unwrap();
}

#[test]
fn the_budget_is_what_the_cap_is_enough_for_and_at_least_one() {
    for (cap, draws, expected) in [
        (2400, &[300, 300][..], 8),
        (2399, &[300, 300], 7),
        (700, &[300, 400], 2),
        (600, &[300, 300], 2),
        (599, &[300, 300], 1),
        (10, &[300, 300], 1),
    ] {
        assert_eq!(of_world(&scene(cap, draws)), Ok(expected), "{cap} W, {draws:?}");
    }
}

#[test]
fn a_replica_counts_with_what_it_is_expected_to_draw_where_that_is_more_than_what_it_draws_now() {
    let mut world = scene(2400, &[100, 100]);
    assert_eq!(of_world(&world), Ok(24));
    recommend(&mut world, 600);
    assert_eq!(of_world(&world), Ok(4));
    recommend(&mut world, 50);
    assert_eq!(of_world(&world), Ok(24));
}

#[test]
fn a_replica_that_drew_more_a_moment_ago_counts_with_that() {
    let mut world = scene(2400, &[600, 600]);
    let started = world.now - SignedDuration::from_mins(10);
    for pod in world.observation.pods.iter_mut().map(Arc::make_mut) {
        pod.started = Some(started);
    }
    world.turn();
    world.read_again(60);
    for gpu in world.observation.telemetry.gpus.values_mut() {
        gpu.power.as_mut().unwrap().value = Watts::new(100);
    }
    assert_eq!(of_world(&world), Ok(4));
}

#[test]
fn where_none_runs_the_recommendation_alone_counts() {
    let mut world = scene(2400, &[]);
    assert_eq!(of_world(&world).unwrap_err().reason, Reason::DataStale);
    recommend(&mut world, 600);
    assert_eq!(of_world(&world), Ok(4));
}

#[test]
fn a_domain_leaves_what_others_do_not_draw() {
    let mut world = scene(4800, &[300, 300]);
    let other = world.pod("train-0", "train", "n0");
    world.gpu("GPU-9", "n0", &[&other], 600, 1980);
    assert_eq!(of_world(&world), Ok(16));
    world.rack(2600);
    // 1,400 W are drawn: 600 by chat, 600 by train, 200 by the node's processors.
    let left = replicas(&world).unwrap();
    assert_eq!(left.available, Watts::new(600 + 2600 - 1400));
    assert_eq!(of_world(&world), Ok(6));
    world.rack(1000);
    assert_eq!(of_world(&world), Ok(1), "above its cap a domain takes back");
}

#[test]
fn a_pod_that_only_starts_does_not_make_the_others_look_small() {
    let mut world = scene(2400, &[600, 600, 10]);
    world.facts(2).started = Some(world.now);
    assert_eq!(of_world(&world), Ok(4));
}

#[test]
fn without_a_reading_there_is_no_budget() {
    let mut lost = scene(2400, &[300, 300]);
    lost.observation.telemetry.gpus.get_mut("GPU-0").unwrap().power = None::<Sample<Watts>>;
    let mut old = scene(2400, &[300, 300]);
    old.pass(600);
    let mut undevised = scene(2400, &[300, 300]);
    let pod = undevised.pod("chat-7", "chat", "n0");
    undevised.observation.pods.iter_mut().map(Arc::make_mut).find(|facts| facts.name == pod).unwrap().gpus = 1;
    for (what, world) in [("a reading is gone", lost), ("all are old", old), ("a pod has no device", undevised)] {
        assert!(of_world(&world).is_err(), "{what}");
    }
    let mut unmetered = scene(2400, &[300, 300]);
    unmetered.rack(5000);
    assert!(of_world(&unmetered).is_ok());
    unmetered.observation.telemetry.node_cpu.clear();
    let hold = of_world(&unmetered).unwrap_err();
    assert!(hold.message.contains("PowerDomain rack"), "{}", hold.message);
}

#[test]
fn a_policy_that_is_off_has_no_budget() {
    let mut world = scene(2400, &[300]);
    world.policy("chat", 2400, "Off");
    assert!(world.decide().figures.replicas.is_empty());
}

proptest! {
    #[test]
    fn the_budget_never_exceeds_what_the_cap_is_enough_for(
        cap in 1..100_000_u32,
        draws in prop::collection::vec(1..1000_u32, 0..8),
        expected in prop::option::of(1..1000_u32),
    ) {
        let mut world = scene(cap, &draws);
        if let Some(expected) = expected {
            recommend(&mut world, expected);
        }
        let Ok(budget) = of_world(&world) else { return Ok(()) };
        let each = replicas(&world).unwrap().each;
        prop_assert!(budget == 1 || u64::from(budget) * each.as_milliwatts() <= Watts::new(cap).as_milliwatts());
        let mean = u32::try_from(draws.iter().sum::<u32>() as usize / draws.len().max(1)).unwrap();
        prop_assert!(each >= Watts::new(mean.max(expected.unwrap_or_default())));
    }

    #[test]
    fn the_budget_never_rises_on_missing_data(
        (draws, missing) in prop::collection::vec(1..1000_u32, 1..8)
            .prop_flat_map(|draws| { let pods = draws.len(); (Just(draws), 0..pods) }),
        cap in 1..10_000_u32,
        rack in prop::option::of(1000..10_000_u32),
        cpus in prop::bool::ANY,
    ) {
        let mut world = scene(cap, &draws);
        if let Some(rack) = rack {
            world.rack(rack);
        }
        let known = of_world(&world);
        prop_assume!(known.is_ok());
        if cpus {
            world.observation.telemetry.node_cpu.clear();
        } else {
            world.observation.telemetry.gpus.get_mut(&format!("GPU-{missing}")).unwrap().power = None;
        }
        let then = of_world(&world);
        prop_assert!(then.as_ref().map_or(true, |then| *then <= *known.as_ref().unwrap()), "{then:?} after {known:?}");
    }
}
