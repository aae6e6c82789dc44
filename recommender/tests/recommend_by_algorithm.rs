//! What the algorithm, the performance and the precedence that people choose do to nodes and boards.

use std::sync::Arc;

use jiff::SignedDuration;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use powercap_common::{api::DeviceState, units::Watts};
use powercap_recommender::observation::{Apart, PodName, Source};
use serde_json::{Value, json};

use crate::world::World;

/// A policy `llm/NAME` on pods with `app: APP`.
fn policy(world: &mut World, name: &str, app: &str, cap: u32, more: Value) {
    let mut spec = json!({"powerCapLimitWatts": cap, "mode": "Enforce", "selector": {"matchLabels": {"app": app}}});
    spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    world.policy_of(name, spec);
}

/// Boards `GPU-0`, `GPU-1`… of a pod each of `chat` on n0, drawing this much, whose agent has told what they are.
fn boards(world: &mut World, power: &[u32]) -> Vec<PodName> {
    let pods: Vec<_> = (0..power.len()).map(|at| world.pod(&format!("chat-{at}"), "chat", "n0")).collect();
    read(world, &pods, power, 1980);
    world.rack(90_000);
    world.settle();
    world.observation.domains.clear();
    world.settle();
    pods
}

fn read(world: &mut World, pods: &[PodName], power: &[u32], clock: u32) {
    world.pass(5);
    for (at, (pod, power)) in pods.iter().zip(power).enumerate() {
        world.gpu(&format!("GPU-{at}"), "n0", &[pod], *power, clock);
    }
}

fn limits(world: &World) -> Vec<u32> {
    world.ceilings("n0").into_iter().map(|(_, _, watts)| watts.unwrap()).collect()
}

fn clocks(world: &World) -> Vec<Option<u32>> {
    world.ceilings("n0").into_iter().map(|(_, clock, _)| clock).collect()
}

/// The message of a policy's condition.
fn message(world: &World, name: &str, kind: &str) -> Option<String> {
    let policies = world.observation.policies.iter();
    let object = policies.clone().find(|object| object.metadata.name.as_deref() == Some(name)).unwrap();
    let conditions = &object.status.as_ref().unwrap().conditions;
    conditions.iter().find(|condition| condition.type_ == kind).map(|condition| condition.message.clone())
}

fn born(world: &mut World, name: &str, at: &str) {
    let policies = world.observation.policies.iter_mut();
    let object = policies.into_iter().find(|object| object.metadata.name.as_deref() == Some(name)).unwrap();
    Arc::make_mut(object).metadata.creation_timestamp = Some(Time(at.parse().unwrap()));
}

#[test]
fn a_policy_by_proportion_gives_the_hungry_board_more_and_a_raise_moves_with_the_load() {
    let mut world = World::of_nodes(1);
    let pods = boards(&mut world, &[600, 250]);
    policy(&mut world, "chat", "chat", 900, json!({"algorithm": {"name": "proportional"}}));
    world.settle();
    // They want 700 and 300 W, 600 W above their leasts, of which 500 W are there.
    assert_eq!(limits(&world), [616, 283]);
    read(&mut world, &pods, &[250, 600], 1980);
    world.settle();
    assert_eq!(limits(&world), [283, 616]);
}

#[test]
fn a_policy_by_priority_limits_and_slows_the_pods_of_a_lower_priority_class_first() {
    let mut world = World::of_nodes(1);
    boards(&mut world, &[690, 690]);
    world.facts(1).priority = 1000;
    policy(&mut world, "chat", "chat", 1100, json!({"algorithm": {"name": "priority"}}));
    world.settle();
    assert_eq!(limits(&world), [400, 700]);
    // 1045 W at the threshold: 700 W for the first in order, 345 W for the other:
    // ((345 − 70) ÷ (690 − 70)) ^ (1 ÷ 2.3) × 1980 = 1390
    assert_eq!(clocks(&world), [Some(1380), None]);
    assert_eq!(world.policy_says("chat", "CapTriggered"), "True ThresholdCrossed");
}

#[test]
fn a_pod_that_comes_first_rises_at_once_where_another_had_its_watts() {
    let mut world = World::of_nodes(1);
    let pods = boards(&mut world, &[690, 690]);
    policy(&mut world, "chat", "chat", 1100, json!({"algorithm": {"name": "priority"}}));
    world.settle();
    assert_eq!((limits(&world), clocks(&world)), (vec![550; 2], vec![Some(1725); 2]));
    world.facts(1).priority = 1000;
    let mut seen = Vec::new();
    for power in [[500, 500], [500, 560], [345, 620]] {
        world.pass(5);
        for (at, (clock, power)) in clocks(&world).into_iter().zip(power).enumerate() {
            world.gpu(&format!("GPU-{at}"), "n0", &[&pods[at]], power, clock.unwrap());
        }
        world.settle();
        seen.push(clocks(&world));
    }
    // Between the thresholds the first rises; when that crosses the threshold the other makes room.
    assert_eq!(seen, [[Some(1725), Some(1815)], [Some(1410), Some(1905)], [Some(1410), None]]);
    assert_eq!(limits(&world), [400, 700]);
}

#[test]
fn before_the_agents_have_told_shares_are_equal() {
    let mut world = World::of_nodes(1);
    for at in 0..2 {
        let pod = world.pod(&format!("chat-{at}"), "chat", "n0");
        world.gpu(&format!("GPU-{at}"), "n0", &[&pod], 690, 1980);
    }
    world.facts(1).priority = 1000;
    policy(&mut world, "chat", "chat", 1100, json!({"algorithm": {"name": "priority"}}));
    world.turn();
    assert_eq!(limits(&world), [550, 550]);
}

#[test]
fn each_boards_own_ceiling_stays_between_the_thresholds_and_is_relaxed_below_them() {
    let mut world = World::of_nodes(1);
    let pods = boards(&mut world, &[690, 690]);
    world.facts(1).priority = 1000;
    policy(&mut world, "chat", "chat", 1100, json!({"algorithm": {"name": "priority"}}));
    world.settle();
    for power in [[300, 690], [330, 690], [310, 700]] {
        read(&mut world, &pods, &power, 1380);
        world.settle();
        assert_eq!(clocks(&world), [Some(1380), None], "{power:?}");
        assert_eq!(world.policy_says("chat", "CapTriggered"), "True ThresholdCrossed");
    }
    let mut seen = Vec::new();
    while let Some(clock) = clocks(&world)[0] {
        seen.push(clock);
        read(&mut world, &pods, &[200, 600], clock);
        world.settle();
    }
    assert_eq!(seen, [1380, 1470, 1560, 1650, 1740, 1830, 1920]);
}

#[test]
fn ranks_of_one_job_on_two_nodes_have_one_limit_and_one_clock_by_any_algorithm() {
    for algorithm in ["uniform", "proportional", "priority"] {
        let mut world = World::of_nodes(2);
        for (index, (node, power)) in [("n0", 690), ("n1", 500)].into_iter().enumerate() {
            let rank = world.pod(&format!("train-{index}"), "chat", node);
            world.facts(index).job = Some("Job/train".into());
            world.gpu(&format!("GPU-{index}"), node, &[&rank], power, 1980);
        }
        let other = world.pod("other", "chat", "n1");
        world.gpu("GPU-2", "n1", &[&other], 300, 1980);
        policy(&mut world, "chat", "chat", 1300, json!({"algorithm": {"name": algorithm}}));
        world.settle();
        let ranks = |world: &World| {
            let of = |node: &str| world.ceilings(node).into_iter().find(|(uuid, ..)| uuid != "GPU-2").unwrap();
            [of("n0"), of("n1")].map(|(_, clock, watts)| (clock, watts))
        };
        let [one, other] = ranks(&world);
        assert!(one == other && one.0.is_some(), "{algorithm}: {one:?} {other:?}");
    }
}

#[test]
fn noise_of_the_readings_writes_nothing_whatever_the_algorithm() {
    for algorithm in ["uniform", "proportional", "priority"] {
        let mut world = World::of_nodes(4);
        let mut pods = Vec::new();
        for at in 0..16 {
            pods.push(world.pod(&format!("chat-{at}"), "chat", &format!("n{}", at / 4)));
        }
        policy(&mut world, "chat", "chat", 7000, json!({"algorithm": {"name": algorithm}}));
        let of_rack = json!({"powerCapLimitWatts": 9000, "algorithm": {"name": algorithm},
            "nodeSelector": {"matchLabels": {"rack": "r1"}}});
        world.domain("rack", of_rack);
        let mut writes = 0;
        for cycle in 0..100_u32 {
            world.pass(5);
            for (at, pod) in (0_u32..).zip(&pods) {
                // 250 or 450 W, some of them 3 % more or less.
                let noise = 97 + (cycle * 5 + at * 11 + cycle * at) % 7;
                let power = [250, 450][usize::try_from(at % 2).unwrap()] * noise / 100;
                world.gpu(&format!("GPU-{at}"), &format!("n{}", at / 4), &[pod], power, 1980);
            }
            (0..4).for_each(|node| world.cpu(&format!("n{node}"), 200 + cycle % 5));
            let plan = world.turn();
            world.acknowledge_all();
            // The first cycles bring everything up.
            writes += if cycle < 10 { 0 } else { plan.nodes.len() };
        }
        // At most 0.01 a node a cycle.
        assert!(writes <= 3, "{algorithm}: {writes} writes to 4 nodes in 90 cycles");
    }
}

#[test]
fn a_policy_that_is_slowed_settles_within_its_cap_and_then_writes_next_to_nothing() {
    for algorithm in ["uniform", "proportional", "priority"] {
        let mut world = World::of_nodes(2);
        let pods: Vec<_> = (0..8).map(|at| world.pod(&format!("chat-{at}"), "chat", &format!("n{}", at / 4))).collect();
        world.facts(0).priority = 1000;
        policy(&mut world, "chat", "chat", 3300, json!({"algorithm": {"name": algorithm}}));
        let (mut writes, mut above) = (0, 0);
        for cycle in 0..150_u32 {
            world.pass(5);
            let mut sum = 0;
            for (at, pod) in (0_u32..).zip(&pods) {
                let node = format!("n{}", at / 4);
                let standing = world.observation.frequencies.get(&node).map(|object| &object.spec.gpu_frequencies);
                let standing = standing.into_iter().flatten().find(|gpu| gpu.uuid == format!("GPU-{at}"));
                let clock = standing.and_then(|gpu| gpu.max_graphics_megahertz).unwrap_or(1980);
                let limit = standing.and_then(|gpu| gpu.power_limit_watts).unwrap_or(700);
                // 650 or 400 W at the highest clock, some of them 2 % more or less.
                let demand = [650.0, 400.0][usize::try_from(at % 2).unwrap()] - 70.0;
                let noise = f64::from(98 + (cycle * 5 + at * 11 + cycle * at) % 5) / 100.0;
                let power =
                    Watts::new(70) + Watts::new(1).scaled(demand * (f64::from(clock) / 1980.0).powf(2.3) * noise);
                let power = power.floor().min(limit);
                sum += power;
                world.gpu(&format!("GPU-{at}"), &node, &[pod], power, clock);
            }
            let plan = world.turn();
            world.acknowledge_all();
            // The first two minutes bring everything to its place.
            if cycle >= 24 {
                writes += plan.nodes.len();
                above += usize::from(sum > 3300);
            }
        }
        // At most 0.01 a node a cycle.
        assert!(
            writes <= 2 && above == 0,
            "{algorithm}: {writes} writes to 2 nodes in 126 cycles, {above} above the cap"
        );
    }
}

#[test]
fn a_domain_by_proportion_gives_the_hungry_node_more_and_by_priority_the_node_of_the_first() {
    let rack = |algorithm: Value| {
        let mut world = World::of_nodes(2);
        for (node, power) in [("n0", 600), ("n1", 150)] {
            let pod = world.pod(&format!("on-{node}"), node, node);
            (0..8).for_each(|board| world.gpu(&format!("GPU-{node}-{board}"), node, &[&pod], power, 1980));
            world.cpu(node, 200);
        }
        policy(&mut world, "n1", "n1", 90_000, json!({"priority": 9}));
        let spec = json!({"powerCapLimitWatts": 8000, "algorithm": algorithm,
            "nodeSelector": {"matchLabels": {"rack": "r1"}}});
        world.domain("rack", spec);
        world.settle();
        assert_eq!(world.domain_says("rack", "Ready"), "True GrantsFit");
        world.grants().into_iter().flatten().collect::<Vec<_>>()
    };
    assert_eq!(rack(json!({"name": "uniform"})), [4000, 4000]);
    // 6000 and 1680 W are wanted, and the 320 W that are left go to the one that wants less.
    assert_eq!(rack(json!({"name": "proportional"})), [6000, 2000]);
    // n1 can use 6600 W.
    assert_eq!(rack(json!({"name": "priority"})), [1400, 6600]);
    let reserved = json!({"name": "priority", "parameters": {"reservedPercent": 100}});
    assert_eq!(rack(reserved), [4000, 4000]);
}

#[test]
fn a_node_whose_power_is_not_known_keeps_its_grant() {
    let mut world = World::of_nodes(2);
    for (node, power) in [("n0", 600), ("n1", 150)] {
        (0..8).for_each(|board| world.gpu(&format!("GPU-{node}-{board}"), node, &[], power, 1980));
        world.cpu(node, 200);
    }
    let spec = json!({"powerCapLimitWatts": 8000, "algorithm": {"name": "proportional"},
        "nodeSelector": {"matchLabels": {"rack": "r1"}}});
    world.domain("rack", spec);
    world.settle();
    assert_eq!(world.grants(), [Some(6000), Some(2000)]);
    for board in 0..8 {
        world.gpu(&format!("GPU-n0-{board}"), "n0", &[], 150, 1980);
    }
    world.observation.telemetry.gpus.get_mut("GPU-n1-3").unwrap().power = None;
    world.settle();
    assert_eq!(world.grants(), [Some(6000), Some(2000)]);
}

#[test]
fn silence_and_disagreement_raise_no_limit_that_follows_power() {
    for (silent, apart) in [(true, false), (false, true)] {
        let mut world = World::of_nodes(1);
        let pods = boards(&mut world, &[600, 250]);
        policy(&mut world, "chat", "chat", 900, json!({"algorithm": {"name": "proportional"}}));
        world.settle();
        read(&mut world, &pods, &[300, 600], 1980);
        let telemetry = &mut world.observation.telemetry;
        if silent {
            telemetry.gpus.get_mut("GPU-1").unwrap().power = None;
        }
        if apart {
            let exporters = telemetry.gpus["GPU-1"].clone();
            telemetry.agent_gpus.insert("GPU-1".into(), exporters);
            let since = world.now - SignedDuration::from_mins(1);
            let apart = Apart { higher: Source::DcgmExporter, lower: Source::Agent, since };
            telemetry.apart.insert("GPU-1".into(), apart);
        }
        world.settle();
        assert_eq!(limits(&world), [616, 283], "{silent} {apart}");
    }
}

#[test]
fn an_algorithm_that_there_is_none_of_is_told_and_changes_nothing() {
    let mut world = World::of_nodes(1);
    boards(&mut world, &[690, 690]);
    world.cpu("n0", 200);
    policy(&mut world, "chat", "chat", 1000, json!({}));
    world.rack(3000);
    world.settle();
    let before = world.spec("n0").clone();
    for (algorithm, says) in [
        (json!({"name": "best"}), "spec.algorithm.name is \"best\"; write uniform or proportional or priority"),
        (
            json!({"name": "proportional", "parameters": {"headroomPercent": 900}}),
            "spec.algorithm.parameters.headroomPercent is 900; write a whole number from 0 to 100",
        ),
    ] {
        policy(&mut world, "chat", "chat", 9000, json!({"algorithm": algorithm}));
        let spec = json!({"powerCapLimitWatts": 9000, "algorithm": algorithm,
            "nodeSelector": {"matchLabels": {"rack": "r1"}}});
        world.domain("rack", spec);
        world.settle();
        assert_eq!(world.spec("n0"), &before);
        assert_eq!(world.policy_says("chat", "Ready"), "False InvalidSpec");
        assert_eq!(world.domain_says("rack", "Ready"), "False InvalidSpec");
        assert!(message(&world, "chat", "Ready").unwrap().starts_with(says), "{:?}", message(&world, "chat", "Ready"));
    }
}

#[test]
fn a_floor_on_the_clock_bounds_the_policys_clocks_and_limits_and_its_cap_gives_way() {
    for (performance, field) in [
        (json!({"minFrequencyPercent": 80}), "spec.performance.minFrequencyPercent (80)"),
        (json!({"maxSlowdownPercent": 20}), "spec.performance.maxSlowdownPercent (20)"),
        (json!({"minFrequencyPercent": 50, "maxSlowdownPercent": 20}), "spec.performance.maxSlowdownPercent (20)"),
    ] {
        let mut world = World::of_nodes(1);
        boards(&mut world, &[690, 690]);
        policy(&mut world, "chat", "chat", 600, json!({"performance": performance}));
        world.settle();
        // 80 % of 1980 MHz on the grid, and what a board draws there: 70 + 630 × (1590 ÷ 1980) ^ 2.3 W.
        assert_eq!((clocks(&world), limits(&world)), (vec![Some(1590); 2], vec![451; 2]));
        assert_eq!(world.policy_says("chat", "Feasible"), "False CapBelowPerformance");
        assert!(message(&world, "chat", "Feasible").unwrap().starts_with(field));
        // A cap that can be kept above the floor is kept as ever.
        policy(&mut world, "chat", "chat", 1200, json!({"performance": performance}));
        world.settle();
        assert_eq!((limits(&world), world.policy_says("chat", "Feasible")), (vec![600; 2], "True CapReachable".into()));
    }
}

#[test]
fn a_domains_cap_goes_below_a_policys_floor() {
    let mut world = World::of_nodes(1);
    boards(&mut world, &[690, 690]);
    world.cpu("n0", 200);
    policy(&mut world, "chat", "chat", 1200, json!({"performance": {"minFrequencyPercent": 100}}));
    world.rack(900);
    world.settle();
    assert_eq!(world.grants(), [Some(900)]);
    assert_eq!(limits(&world), [700, 700], "the policy itself asks for no less than its floor");
}

#[test]
fn a_floor_is_not_raised_to_while_nobody_tells_what_is_drawn() {
    let mut world = World::of_nodes(1);
    boards(&mut world, &[690, 690]);
    policy(&mut world, "chat", "chat", 600, json!({}));
    world.settle();
    let before = clocks(&world);
    world.pass(60);
    policy(&mut world, "chat", "chat", 600, json!({"performance": {"minFrequencyPercent": 90}}));
    world.turn();
    assert_eq!(clocks(&world), before);
}

#[test]
fn what_binds_a_cap_is_named() {
    let mut world = World::of_nodes(1);
    let pods = boards(&mut world, &[400, 400]);
    policy(&mut world, "chat", "chat", 400, json!({"powerScope": "DevicesAndHost"}));
    pods.iter().for_each(|pod| world.pod_cpu(pod, 120));
    world.settle();
    assert_eq!(world.policy_says("chat", "Feasible"), "False CapBelowFloor");
    assert_eq!(
        message(&world, "chat", "Feasible").unwrap(),
        "the devices draw about 163 W at their lowest clock, more than the 135 W that are left of 400 W, after 265 W for CPUs"
    );
}

#[test]
fn what_binds_a_domains_cap_is_named_boards_that_nothing_holds_included() {
    let mut world = World::of_nodes(1);
    (0..2).for_each(|board| world.gpu(&format!("GPU-{board}"), "n0", &[], 300, 1980));
    let spec = |cap: u32| {
        json!({"powerCapLimitWatts": cap, "unmanagedWatts": 500, "nodeOverhead": {"staticWatts": 1000, "percent": 10},
            "nodeSelector": {"matchLabels": {"rack": "r1"}}})
    };
    world.domain("rack", spec(1700));
    world.settle();
    // 2 × 81.3 W at the lowest clock, with a tenth more and 1000 W beside them: 1179 W fit into 1200 W.
    assert_eq!(world.domain_says("rack", "Feasible"), "True CapReachable");
    let node = world.observation.frequencies.get_mut("n0").unwrap();
    Arc::make_mut(node).status.as_mut().unwrap().gpus[0].state = DeviceState::Quarantined;
    let plan = world.turn();
    let status = &plan.domains[0].1;
    let feasible = status.conditions.iter().find(|condition| condition.type_ == "Feasible").unwrap();
    assert_eq!(feasible.reason, "CapBelowFloor");
    assert_eq!(
        feasible.message,
        "the nodes draw about 1860 W at their lowest settings (782 W by their devices, with 1 that nothing holds at their most, 1079 W beside them), more than the 1200 W that 500 W unmanaged leave of the cap of 1700 W"
    );
}

#[test]
fn of_policies_on_one_pod_the_highest_priority_comes_first_and_the_other_says_so() {
    let mut world = World::of_nodes(1);
    boards(&mut world, &[600, 300]);
    policy(&mut world, "first", "chat", 900, json!({"priority": 5, "algorithm": {"name": "proportional"}}));
    policy(&mut world, "chat", "chat", 1000, json!({"priority": 2}));
    world.settle();
    assert_eq!(world.policy_says("chat", "Overlapped"), "True Overlapped");
    let says = message(&world, "chat", "Overlapped").unwrap();
    assert!(says.starts_with("powercappingpolicy/llm/first comes first on GPU-0, GPU-1, by its priority"), "{says}");
    assert_eq!(message(&world, "first", "Overlapped"), None);
    // The shares of the first; the other would have given 500 W to each.
    assert_eq!(limits(&world), [578, 321]);
    let ceiling = &world.spec("n0").gpu_frequencies[0];
    assert_eq!((ceiling.shed_order, ceiling.set_by.as_str()), (5, "powercappingpolicy/llm/first"));

    // Switched off it overlaps nothing.
    policy(&mut world, "first", "chat", 900, json!({"mode": "Off"}));
    world.settle();
    assert_eq!((message(&world, "chat", "Overlapped"), limits(&world)), (None, vec![500, 500]));
}

#[test]
fn among_equal_priorities_the_oldest_comes_first_then_the_name() {
    for (ages, loser) in [
        ([Some("2026-01-02T00:00:00Z"), Some("2026-01-01T00:00:00Z")], "a"),
        ([Some("2026-01-01T00:00:00Z"), Some("2026-01-02T00:00:00Z")], "b"),
        ([Some("2026-01-01T00:00:00Z"), Some("2026-01-01T00:00:00Z")], "b"),
        ([None, Some("2026-01-01T00:00:00Z")], "a"),
        ([None, None], "b"),
    ] {
        let mut world = World::of_nodes(1);
        boards(&mut world, &[300]);
        for (name, age) in ["a", "b"].into_iter().zip(ages) {
            policy(&mut world, name, "chat", 600, json!({}));
            age.into_iter().for_each(|age| born(&mut world, name, age));
        }
        world.settle();
        let overlapped = ["a", "b"].into_iter().filter(|name| message(&world, name, "Overlapped").is_some());
        assert_eq!(overlapped.collect::<Vec<_>>(), [loser], "{ages:?}");
    }
}

#[test]
fn both_caps_hold_under_an_overlap_and_the_watts_that_the_first_leaves_go_to_the_others() {
    let mut world = World::of_nodes(1);
    let pods = boards(&mut world, &[300, 300]);
    let both = world.pod("both", "both", "n0");
    world.gpu("GPU-2", "n0", &[&both], 300, 1980);
    policy(&mut world, "first", "both", 250, json!({"priority": 5}));
    let spec = json!({"powerCapLimitWatts": 900, "mode": "Enforce",
        "selector": {"matchExpressions": [{"key": "app", "operator": "Exists"}]}});
    world.policy_of("all", spec);
    world.settle();
    assert_eq!(limits(&world), [325, 325, 250]);
    assert!(message(&world, "all", "Overlapped").unwrap().contains("on GPU-2,"));
    drop(pods);
}

#[test]
fn on_a_board_of_two_policies_the_floor_of_the_first_counts() {
    let floor = json!({"minFrequencyPercent": 80});
    for (first, second, watts, feasible) in [
        (json!({}), floor.clone(), 150, "True CapReachable"),
        (floor.clone(), json!({}), 451, "False CapBelowPerformance"),
        (floor.clone(), floor.clone(), 451, "False CapBelowPerformance"),
    ] {
        let mut world = World::of_nodes(1);
        boards(&mut world, &[300, 300]);
        policy(&mut world, "first", "chat", 1400, json!({"priority": 5, "performance": first}));
        policy(&mut world, "second", "chat", 300, json!({"performance": second}));
        world.settle();
        assert_eq!(limits(&world), [watts; 2], "{first} {second}");
        assert_eq!(world.policy_says("second", "Feasible"), feasible, "{first} {second}");
        let says = message(&world, "second", "Feasible").unwrap();
        assert_eq!(says.contains("of a policy that comes first"), watts == 451, "{says}");
    }
}

#[test]
fn advice_by_an_algorithm_that_follows_power_is_as_steady_as_power() {
    let mut world = World::of_nodes(1);
    let pods = boards(&mut world, &[500, 300]);
    policy(&mut world, "chat", "chat", 1000, json!({"mode": "Advise", "algorithm": {"name": "proportional"}}));
    world.settle();
    for noise in 0..6 {
        read(&mut world, &pods, &[500 + noise, 300 - noise], 1980);
        assert!(world.decide().policies.is_empty(), "{noise}");
    }
    assert!(world.ceilings("n0").is_empty());
}
