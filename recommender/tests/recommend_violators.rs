//! Who draws more than a share of a policy's cap is named, with what brings it down; nobody on the border
//! flaps.

use std::sync::Arc;

use jiff::SignedDuration;
use powercap_common::{
    api::{Action, PowerCappingPolicyStatus, Recommendation, Violator},
    units::Watts,
};
use serde_json::json;

use crate::world::World;

/// Pods `chat-0`… of a board each, which draw this since two days, under an advised cap of 350 W for each.
fn scene(powers: &[u32]) -> World {
    let mut world = World::of_nodes(1);
    world.policy("chat", 350 * u32::try_from(powers.len()).unwrap(), "Advise");
    for (at, power) in powers.iter().enumerate() {
        let pod = world.pod(&format!("chat-{at:02}"), "chat", "n0");
        world.gpu(&format!("GPU-{at:02}"), "n0", &[&pod], *power, 1980);
    }
    let started = world.now - SignedDuration::from_hours(48);
    world.observation.pods.iter_mut().map(Arc::make_mut).for_each(|pod| pod.started = Some(started));
    rounds(&mut world, 2);
    world
}

/// Readings of that many rounds of five seconds, each decided on; how often the policy's status was written.
fn rounds(world: &mut World, count: usize) -> usize {
    let round = |_| {
        world.read_again(5);
        usize::from(!world.turn().policies.is_empty())
    };
    (0..count).map(round).sum()
}

fn draw(world: &mut World, board: &str, power: u32) {
    let gpu = world.observation.telemetry.gpus.get_mut(board).unwrap();
    gpu.power.as_mut().unwrap().value = Watts::new(power);
}

fn status(world: &World) -> &PowerCappingPolicyStatus {
    world.observation.policies[0].status.as_ref().unwrap()
}

fn named(world: &World) -> Vec<&str> {
    status(world).violators.iter().map(|violator| violator.pod.as_str()).collect()
}

#[test]
fn a_pod_above_its_share_is_named_with_what_brings_it_down() {
    let mut world = scene(&[500, 300, 200]);
    assert_eq!(status(&world).violator_count, 1);
    let violator = Violator {
        pod: "chat-00".into(),
        power_watts: 500,
        share_watts: 350,
        window_percent: Some(100),
        recommendation: Recommendation {
            action: Action::Throttle,
            max_megahertz: status(&world).recommended_max_megahertz,
            device_watts: Some(350),
        },
    };
    assert_eq!(status(&world).violators, [violator]);
    draw(&mut world, "GPU-00", 300);
    rounds(&mut world, 24);
    assert!(named(&world).is_empty() && status(&world).violator_count == 0);
}

#[test]
fn a_pod_on_the_border_and_one_with_bursts_of_seconds_write_nothing() {
    let mut world = scene(&[350, 340]);
    let border: Vec<_> = [345, 360, 352, 362, 340, 366].into_iter().cycle().take(60).collect();
    for power in border {
        draw(&mut world, "GPU-00", power);
        rounds(&mut world, 1);
        assert!(named(&world).is_empty(), "{power}");
    }
    // 5 s in each half minute at full power, and little else.
    for round in 0..60 {
        draw(&mut world, "GPU-00", if round % 6 == 5 { 700 } else { 200 });
        rounds(&mut world, 1);
        assert!(named(&world).is_empty(), "{round}");
    }
    // Once it is one, it is one until it is clearly none.
    draw(&mut world, "GPU-00", 400);
    rounds(&mut world, 24);
    assert_eq!(named(&world), ["chat-00"]);
    for power in [345, 340, 355, 345, 350, 340] {
        draw(&mut world, "GPU-00", power);
        rounds(&mut world, 12);
        assert_eq!(named(&world), ["chat-00"], "{power}");
    }
    assert_eq!(rounds(&mut world, 100), 0, "nothing has changed, nothing is written");
}

#[test]
fn ten_are_listed_and_stay_so_and_the_others_are_counted() {
    let mut powers = vec![500; 14];
    powers.extend([100; 10]);
    let mut world = scene(&powers);
    let listed: Vec<_> = named(&world).into_iter().map(ToOwned::to_owned).collect();
    assert_eq!((listed.len(), status(&world).violator_count), (10, 14));
    // Another, worse than all of them, takes nobody's place.
    draw(&mut world, "GPU-20", 700);
    rounds(&mut world, 24);
    assert_eq!((named(&world), status(&world).violator_count), (listed.iter().map(String::as_str).collect(), 14));
    // One leaves, and the worst comes in.
    draw(&mut world, "GPU-00", 100);
    rounds(&mut world, 24);
    assert!(!named(&world).contains(&"chat-00") && named(&world).contains(&"chat-20"));
}

#[test]
fn the_time_above_counts_what_the_pod_itself_drew() {
    let mut world = scene(&[500, 300]);
    for hours in [6, 6] {
        for _ in 0..hours * 2 {
            world.read_again(1800);
            world.turn();
        }
        draw(&mut world, "GPU-00", 200);
    }
    // The mean of the last step is of the last reading alone.
    draw(&mut world, "GPU-00", 500);
    rounds(&mut world, 24);
    let percent = status(&world).violators[0].window_percent.unwrap();
    assert!((48..=60).contains(&percent), "{percent}");
    // A pod that took over its board just now is not told what the board did before.
    let fresh = world.now - SignedDuration::from_mins(1);
    world.facts(0).started = Some(fresh);
    world.facts(0).name.name = "chat-new".into();
    let name = world.observation.pods[0].name.clone();
    world.observation.telemetry.gpus.get_mut("GPU-00").unwrap().tenants = [name].into();
    rounds(&mut world, 1);
    assert_eq!((named(&world), status(&world).violators[0].window_percent), (vec!["chat-new"], None));
}

#[test]
fn without_readings_the_list_stays_and_pods_that_are_gone_leave_it() {
    let mut world = scene(&[500, 500, 100, 100]);
    assert_eq!(named(&world), ["chat-00", "chat-01"]);
    world.pass(600);
    world.turn();
    assert_eq!(world.policy_says("chat", "DataFresh"), "False DataStale");
    assert_eq!(named(&world), ["chat-00", "chat-01"]);
    world.observation.pods.remove(0);
    rounds(&mut world, 1);
    assert_eq!(named(&world), ["chat-01"]);
    world.policy("chat", 1400, "Off");
    world.turn();
    assert_eq!((named(&world).len(), status(&world).violator_count), (0, 0));
}

#[test]
fn cpu_use_counts_where_the_policy_counts_it() {
    let mut world = scene(&[300, 300]);
    let spec = json!({"powerCapLimitWatts": 1000, "powerScope": "DevicesAndHost", "mode": "Advise",
        "selector": {"matchLabels": {"app": "chat"}}});
    world.policy_of("chat", spec);
    let pods: Vec<_> = world.observation.pods.iter().map(|pod| pod.name.clone()).collect();
    world.pod_cpu(&pods[0], 400);
    world.pod_cpu(&pods[1], 20);
    rounds(&mut world, 24);
    assert_eq!(named(&world), ["chat-00"]);
    let violator = &status(&world).violators[0];
    // Limits are whole watts: half a watt of the equal share of 500 W is lost to that.
    assert_eq!((violator.power_watts, violator.share_watts), (700, 499));
}
