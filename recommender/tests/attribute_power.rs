//! What of a domain's power no pod accounts for: everything is counted, and nothing twice.

use powercap_common::units::Watts;
use powercap_recommender::observation::PodName;
use serde_json::json;

use crate::world::World;

/// A rack of one node: 100 W unmanaged, 200 W beside its devices; a board of `chat-0` at 400 W, an idle
/// one at 70 W, CPUs at 150 W.
fn rack() -> (World, PodName) {
    let mut world = World::of_nodes(1);
    let chat = world.pod("chat-0", "chat", "n0");
    world.gpu("GPU-busy", "n0", &[&chat], 400, 1980);
    world.gpu("GPU-idle", "n0", &[], 70, 345);
    world.cpu("n0", 150);
    let selector = json!({"matchLabels": {"rack": "r1"}});
    let overhead = json!({"staticWatts": 200});
    world.domain(
        "rack",
        json!({"powerCapLimitWatts": 9000, "unmanagedWatts": 100, "nodeSelector": selector, "nodeOverhead": overhead}),
    );
    world.settle();
    (world, chat)
}

/// Power of the domain, and what of it is nobody's.
fn told(world: &mut World) -> (Option<u32>, Option<u32>) {
    world.settle();
    let status = world.observation.domains[0].status.as_ref().unwrap();
    (status.current_power_watts, status.unattributed_watts)
}

#[test]
fn overhead_idle_boards_and_what_is_unmanaged_are_nobodys() {
    let (mut world, _) = rack();
    assert_eq!(told(&mut world), (Some(920), Some(100 + 200 + 70 + 150)));
}

#[test]
fn a_board_that_pods_share_or_hold_parts_of_counts_once() {
    let (mut world, chat) = rack();
    let second = world.pod("chat-1", "chat", "n0");
    world.gpu("GPU-busy", "n0", &[&chat, &second], 400, 1980);
    assert_eq!(told(&mut world), (Some(920), Some(520)));
}

#[test]
fn cpu_power_is_the_pods_by_their_own_series_and_never_more_than_the_nodes() {
    let (mut world, chat) = rack();
    world.pod_cpu(&chat, 60);
    assert_eq!(told(&mut world), (Some(920), Some(460)));
    let second = world.pod("chat-1", "chat", "n0");
    world.pod_cpu(&second, 5000);
    assert_eq!(told(&mut world), (Some(920), Some(370)));
    let plan = world.decide();
    assert_eq!(plan.figures.unattributed["n0"], Watts::new(270), "a node's part has nothing unmanaged in it");
}

#[test]
fn a_pod_that_ended_accounts_for_nothing_and_neither_does_one_on_another_node() {
    let (mut world, chat) = rack();
    world.pod_cpu(&chat, 60);
    world.observation.pods.clear();
    assert_eq!(told(&mut world), (Some(920), Some(920)));
}

#[test]
fn what_no_recent_reading_tells_is_unknown_and_never_zero() {
    let (mut world, chat) = rack();
    world.pod_cpu(&chat, 60);
    world.pass(60);
    assert_eq!(told(&mut world), (None, None));
    assert!(world.decide().figures.unattributed.is_empty());
    world.gpu("GPU-busy", "n0", &[&chat], 400, 1980);
    world.gpu("GPU-idle", "n0", &[], 70, 345);
    world.cpu("n0", 150);
    assert_eq!(told(&mut world), (Some(920), Some(520)), "the pod's CPU power is old");
}
