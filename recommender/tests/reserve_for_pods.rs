//! What running pods count with when watts are offered to new ones: what is not known of them is no watt that is
//! free.

use powercap_common::units::Watts;
use powercap_recommender::observation::PodName;

use crate::world::World;

/// The most that a board draws.
const BOARD: u32 = 700;
const HOUR: i64 = 3600;

/// A rack of one node, and a pod that asks for two boards and requests no watts.
fn scene() -> (World, PodName) {
    let mut world = World::of_nodes(1);
    world.rack(20_000);
    let pod = world.pod("chat-0", "chat", "n0");
    for board in ["GPU-0", "GPU-1"] {
        world.gpu(board, "n0", &[&pod], 300, 1980);
    }
    let now = world.now;
    let facts = world.facts(0);
    (facts.gpus, facts.started) = (2, Some(now));
    world.settle();
    (world, pod)
}

/// Readings come for an hour.
fn hour(world: &mut World) {
    for _ in 0..60 {
        world.read_again(HOUR / 60);
        world.turn();
    }
}

fn draw(world: &mut World, board: &str, watts: Option<u32>) {
    let gpu = world.observation.telemetry.gpus.get_mut(board).unwrap();
    match watts {
        Some(watts) => gpu.power.as_mut().unwrap().value = Watts::new(watts),
        None => gpu.power = None,
    }
}

fn reserved(world: &mut World) -> u32 {
    world.turn().figures.reserved["n0"].ceil()
}

#[test]
fn a_pod_without_a_request_counts_with_what_its_boards_are_expected_to_draw() {
    let (mut world, _) = scene();
    hour(&mut world);
    assert_eq!(reserved(&mut world), 600);
    draw(&mut world, "GPU-1", Some(500));
    hour(&mut world);
    assert_eq!(reserved(&mut world), 800);
}

#[test]
fn a_board_that_was_never_read_counts_with_the_most_that_it_can_draw() {
    let (mut world, _) = scene();
    draw(&mut world, "GPU-1", None);
    world.facts(0).started = Some(world.now);
    world.observation.telemetry.history = std::sync::Arc::default();
    hour(&mut world);
    assert_eq!(reserved(&mut world), 300 + BOARD);
}

#[test]
fn boards_that_nobody_names_count_with_the_largest_of_their_node() {
    let (mut world, _) = scene();
    hour(&mut world);
    let gpu = world.observation.telemetry.gpus.get_mut("GPU-1").unwrap();
    gpu.tenants.clear();
    assert_eq!(reserved(&mut world), 300 + BOARD);
}

#[test]
fn while_nothing_is_read_nothing_is_expected_to_fall_and_afterwards_it_does() {
    let (mut world, _) = scene();
    hour(&mut world);
    draw(&mut world, "GPU-1", Some(100));
    hour(&mut world);
    let before = reserved(&mut world);
    for _ in 0..48 {
        world.pass(HOUR);
        assert!(reserved(&mut world) >= before, "telemetry is silent");
    }
    for _ in 0..24 {
        hour(&mut world);
    }
    assert!(reserved(&mut world) < before, "a day of less");
}
