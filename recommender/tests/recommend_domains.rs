//! What a domain grants, says and leaves alone.

use powercap_common::{
    api::{Brake, OnExpiry},
    reason::Reason,
};
use powercap_recommender::observation::Hold;
use serde_json::json;

use crate::world::World;

/// Two nodes of eight boards each, read just now, and a rack.
fn rack(cap: u32, power: u32) -> World {
    let mut world = World::of_nodes(2);
    for node in ["n0", "n1"] {
        (0..8).for_each(|board| world.gpu(&format!("GPU-{node}-{board}"), node, &[], power, 1980));
        world.cpu(node, 200);
    }
    world.domain("rack", self::cap(cap));
    world
}

fn cap(cap: u32) -> serde_json::Value {
    let overhead = json!({"staticWatts": 1200, "percent": 4});
    json!({"powerCapLimitWatts": cap, "unmanagedWatts": 500, "nodeOverhead": overhead,
        "nodeSelector": {"matchLabels": {"rack": "r1"}}})
}

#[test]
fn equal_shares_need_no_readings() {
    let mut world = World::of_nodes(3);
    world.rack(3000);
    world.turn();
    assert_eq!(world.grants(), [Some(1000), Some(1000), Some(1000)]);
    assert_eq!(world.domain_says("rack", "WithinCap"), "Unknown NoData");
    assert_eq!(world.domain_says("rack", "Ready"), "False AwaitingAcknowledgement");
}

#[test]
fn unmanaged_watts_are_kept_and_the_overhead_goes_to_the_agents() {
    let mut world = rack(10_500, 500);
    world.settle();
    assert_eq!(world.grants(), [Some(5000), Some(5000)]);
    let overhead = world.spec("n0").node_overhead;
    assert_eq!((overhead.static_watts, overhead.percent), (1200, 4));
    // 2 × ((8 × 500 + 200) × 1.04 + 1200) + 500
    let status = world.observation.domains[0].status.clone().unwrap();
    assert_eq!(status.current_power_watts, Some(11_636));
    assert_eq!((status.committed_watts, status.headroom_watts, status.nodes), (Some(10_000), Some(0), 2));
    for (kind, says) in [
        ("Ready", "True GrantsFit"),
        ("DataFresh", "True DataFresh"),
        ("WithinCap", "False PowerAboveCap"),
        ("Feasible", "True CapReachable"),
    ] {
        assert_eq!(world.domain_says("rack", kind), says);
    }
}

#[test]
fn watts_that_a_node_cannot_use_go_to_the_others() {
    let mut world = World::of_nodes(2);
    (0..8).for_each(|board| world.gpu(&format!("GPU-{board}"), "n0", &[], 500, 1980));
    world.rack(6000);
    world.settle();
    // n1 has CPUs alone, for which 1000 W are allowed.
    assert_eq!(world.grants(), [Some(5000), Some(1000)]);
}

#[test]
fn cpus_are_slowed_in_proportion_to_the_grant_and_not_below_their_floor() {
    // Each node can draw (8 × 700 + 1000) × 1.04 + 1200 = 8064 W.
    for (cap, clock) in [(500 + 2 * 6000, 2827), (500 + 2 * 3000, 2280), (500 + 2 * 9000, 0)] {
        let mut world = rack(cap, 300);
        world.settle();
        let ceilings = &world.spec("n0").cpu_frequencies;
        match clock {
            0 => assert!(ceilings.is_empty()),
            clock => {
                assert_eq!((ceilings[0].max_megahertz, ceilings[0].reason.as_str()), (clock, "DomainCap"));
                assert_eq!(ceilings[0].set_by, "powerdomain/rack");
            }
        }
    }
}

#[test]
fn a_manifest_that_nobody_understands_uncaps_nothing() {
    let mut world = rack(10_500, 500);
    world.settle();
    let before = world.spec("n0").clone();
    for spec in [
        json!({"powerCapLimitWatts": 5, "unmanagedWatts": 5, "nodeSelector": {"matchLabels": {"rack": "r1"}}}),
        json!({"powerCapLimitWatts": 5, "nodeSelector": {}}),
    ] {
        world.domain("rack", spec);
        world.settle();
        assert_eq!(world.spec("n0"), &before);
        assert_eq!(world.domain_says("rack", "Ready"), "False InvalidSpec");
    }
}

#[test]
fn a_deleted_domain_releases_its_nodes_in_so_many_words() {
    let mut world = rack(10_500, 500);
    world.settle();
    world.observation.domains.clear();
    world.settle();
    let spec = world.spec("n0");
    assert!(spec.release && spec.power_limit_watts.is_none() && spec.cpu_frequencies.is_empty());
    world.rack(9000);
    world.settle();
    assert!(!world.spec("n0").release && world.grants() == [Some(4500), Some(4500)]);
}

#[test]
fn a_release_by_a_person_is_left_to_them_and_counts_as_no_limit() {
    let mut world = rack(10_500, 500);
    world.settle();
    let mut spec = world.spec("n0").clone();
    spec.release = true;
    let mut object = (*world.observation.frequencies["n0"]).clone();
    object.spec = spec;
    world.observation.frequencies.insert("n0".into(), object.into());
    world.domain("rack", json!({"powerCapLimitWatts": 16_500, "nodeSelector": {"matchLabels": {"rack": "r1"}}}));
    let plan = world.turn();
    assert!(plan.nodes.iter().all(|write| write.release_is_a_persons == (write.name == "n0")));
    assert!(world.spec("n0").release);
    // Nobody knows what n0 draws now, so n1 is not raised.
    assert_eq!(world.spec("n1").power_limit_watts, Some(5000));
    assert_eq!(world.domain_says("rack", "Ready"), "False AwaitingAcknowledgement");
}

#[test]
fn missing_readings_change_no_grant_and_are_said() {
    let mut world = rack(10_500, 500);
    world.settle();
    let before = world.grants();
    for (problem, reason) in [
        (None, "DataStale"),
        (Some(Hold::new(Reason::PrometheusUnavailable, "Prometheus: away")), "PrometheusUnavailable"),
    ] {
        world.pass(20);
        world.observation.telemetry.gpu_problem = problem;
        world.settle();
        assert_eq!(world.grants(), before);
        assert_eq!(world.domain_says("rack", "DataFresh"), format!("False {reason}"));
        assert_eq!(world.domain_says("rack", "WithinCap"), format!("Unknown {reason}"));
        assert_eq!(world.domain_says("rack", "Ready"), "True GrantsFit");
    }
}

#[test]
fn a_board_that_its_agent_names_and_no_exporter_reads_makes_the_power_unknown() {
    let mut world = rack(10_500, 500);
    world.settle();
    world.observation.telemetry.gpus.remove("GPU-n1-3");
    world.turn();
    assert_eq!(world.domain_says("rack", "WithinCap"), "Unknown NoData");
}

#[test]
fn a_silent_agent_is_named_and_its_node_counts_with_what_it_was_promised() {
    let mut world = rack(10_500, 500);
    world.settle();
    let heard = world.now;
    world.observation.telemetry.agents = [("n0".to_owned(), heard), ("n1".to_owned(), heard)].into();
    world.pass(20);
    world.observation.telemetry.agents.insert("n0".into(), world.now);
    world.turn();
    assert_eq!(world.domain_says("rack", "Ready"), "False AgentSilent");
    assert_eq!(world.grants(), [Some(5000), Some(5000)]);
    // Without an answer nobody is called silent.
    world.observation.telemetry.agents_answered = false;
    world.turn();
    assert_eq!(world.domain_says("rack", "Ready"), "True GrantsFit");
}

#[test]
fn another_machine_under_a_nodes_name_is_a_new_node() {
    let mut world = rack(10_500, 500);
    world.settle();
    world.boot("n0");
    let mut object = (*world.observation.frequencies["n0"]).clone();
    object.metadata.owner_references = Some(vec![
        serde_json::from_value(json!({"apiVersion": "v1", "kind": "Node", "name": "n0", "uid": "an earlier one"}))
            .unwrap(),
    ]);
    world.observation.frequencies.insert("n0".into(), object.into());
    let plan = world.decide();
    let write = plan.nodes.iter().find(|write| write.name == "n0").unwrap();
    assert_eq!((write.spec.power_limit_watts, write.spec.committed_watts), (Some(5000), None));
    assert_eq!(write.node_uid, "uid-n0");
}

#[test]
fn a_domain_without_nodes_and_one_below_its_nodes_floor_say_so() {
    let mut world = rack(2500, 500);
    world.domain("empty", json!({"powerCapLimitWatts": 10, "nodeSelector": {"matchLabels": {"rack": "none"}}}));
    world.settle();
    assert_eq!(world.domain_says("empty", "Ready"), "False NoMatchingNodes");
    assert_eq!(world.domain_says("rack", "Feasible"), "False CapBelowFloor");
}

#[test]
fn terms_of_silence_carry_the_least_fallback_of_a_nodes_domains() {
    let mut world = rack(10_500, 500);
    let everything = json!({"matchExpressions": [{"key": "rack", "operator": "Exists"}]});
    let terms = |world: &World| world.spec("n0").lease.map(|lease| (lease.duration_seconds, lease.fallback_watts));
    world.settle();
    assert_eq!(terms(&world), None, "without a lease agents keep to it for ever");
    world.observation.agent_lease_seconds = Some(60);
    world.settle();
    assert_eq!(terms(&world), Some((60, None)));
    assert_eq!(world.spec("n0").lease.unwrap().on_expiry, OnExpiry::Hold);
    for (name, fallback) in [("row", 3000), ("hall", 2500)] {
        let defaults = json!({"fallbackWatts": fallback});
        world.domain(name, json!({"powerCapLimitWatts": 99_000, "nodeSelector": everything, "nodeDefaults": defaults}));
    }
    world.settle();
    assert_eq!(terms(&world), Some((60, Some(2500))));
    assert_eq!(world.spec("n0").lease.unwrap().on_expiry, OnExpiry::Fallback);
    // One that nobody understands just now leaves what stands.
    world.domain("hall", json!({"powerCapLimitWatts": 99_000, "nodeSelector": {}}));
    world.settle();
    assert_eq!(terms(&world), Some((60, Some(2500))));
}

/// Lets time pass, a new reading of everything each five seconds; says where the brake is after each.
fn brakes(world: &mut World, seconds: i64, power: u32) -> Vec<Brake> {
    (0..seconds / 5)
        .map(|_| {
            world.pass(5);
            for node in ["n0", "n1"] {
                (0..8).for_each(|board| world.gpu(&format!("GPU-{node}-{board}"), node, &[], power, 1980));
                world.cpu(node, 200);
            }
            world.turn();
            brake(world)
        })
        .collect()
}

fn brake(world: &World) -> Brake {
    let brake = world.observation.domains[0].status.clone().unwrap().brake;
    assert!(brake.as_ref().is_none_or(|brake| brake.reason == "PowerStaysAboveCap"));
    brake.map(|brake| brake.level).unwrap_or_default()
}

#[test]
fn power_that_stays_above_the_cap_with_nothing_left_to_lower_pulls_the_brake_and_harder() {
    let mut world = rack(10_500, 300);
    world.settle();
    use Brake::{Fallback, Minimum, None};
    assert_eq!(brakes(&mut world, 30, 300), [None; 6]);
    assert_eq!(brakes(&mut world, 30, 500), [None, None, Fallback, Fallback, Minimum, Minimum]);
    assert_eq!(world.domain_says("rack", "Braked"), "True PowerStaysAboveCap");
    // A leader without memory leaves it pulled, and lets it go after a minute below the cap.
    world.new_leader();
    let calm = brakes(&mut world, 70, 100);
    assert_eq!(calm.iter().filter(|level| **level == Minimum).count(), 12, "{calm:?}");
    assert_eq!(brake(&world), None);
    assert_eq!(world.domain_says("rack", "Braked"), "Unknown -");
}

#[test]
fn no_brake_is_pulled_while_something_is_still_to_be_lowered_or_on_readings_that_are_late() {
    let mut world = rack(16_500, 500);
    world.settle();
    // A cut that nobody has acknowledged.
    world.domain("rack", cap(10_500));
    assert_eq!(brakes(&mut world, 60, 500), [Brake::None; 12]);
    // Acknowledged, and only old readings: of before the cut took effect.
    world.acknowledge_all();
    for _ in 0..2 {
        world.pass(5);
        world.turn();
        assert_eq!(brake(&world), Brake::None);
    }
}

#[test]
fn silence_leaves_the_brake_as_it_is() {
    let mut world = rack(10_500, 500);
    world.settle();
    brakes(&mut world, 15, 500);
    assert_eq!(brake(&world), Brake::Fallback);
    for _ in 0..60 {
        world.pass(5);
        world.turn();
        assert_eq!(brake(&world), Brake::Fallback);
    }
    assert_eq!(world.domain_says("rack", "WithinCap"), "Unknown DataStale");
}
