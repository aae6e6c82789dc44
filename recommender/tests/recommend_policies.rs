//! What a policy asks for, says and leaves alone.

use jiff::SignedDuration;
use powercap_common::reason::Reason;
use powercap_recommender::observation::Hold;
use serde_json::json;

use crate::world::World;

/// Two boards of one pod of `chat` on n0, each at this power and clock, under a policy.
fn chat(cap: u32, mode: &str, power: u32, clock: u32) -> World {
    let mut world = World::of_nodes(2);
    world.policy("chat", cap, mode);
    let pod = world.pod("chat-0", "chat", "n0");
    world.gpu("GPU-a", "n0", &[&pod], power, clock);
    world.gpu("GPU-b", "n0", &[&pod], power, clock);
    world
}

/// New readings of the same boards, a cycle later.
fn read_again(world: &mut World, power: u32, clock: u32) {
    world.pass(5);
    let pod = world.observation.pods[0].name.clone();
    world.gpu("GPU-a", "n0", &[&pod], power, clock);
    world.gpu("GPU-b", "n0", &[&pod], power, clock);
}

#[test]
fn an_enforced_cap_stands_as_equal_power_limits_whatever_the_power() {
    let mut world = chat(901, "Enforce", 100, 1980);
    world.settle();
    assert_eq!(world.ceilings("n0"), [("GPU-a".into(), None, Some(450)), ("GPU-b".into(), None, Some(450))]);
    assert_eq!(world.policy_says("chat", "Ready"), "True Enforcing");
    assert_eq!(world.policy_says("chat", "CapTriggered"), "False BelowThreshold");
    assert_eq!(world.policy_says("chat", "WithinCap"), "True PowerBelowCap");
    // Nothing selects the other node, and nothing is written to it.
    assert!(!world.observation.frequencies.contains_key("n1"));
}

#[test]
fn a_limit_is_never_above_what_the_board_takes() {
    let mut world = chat(5000, "Enforce", 100, 1980);
    world.settle();
    assert_eq!(world.ceilings("n0")[0].2, Some(700));
}

#[test]
fn crossing_the_threshold_lowers_all_clocks_at_once_and_alike() {
    let mut world = chat(1000, "Enforce", 690, 1980);
    world.settle();
    let ceilings = world.ceilings("n0");
    assert_eq!(world.policy_says("chat", "CapTriggered"), "True ThresholdCrossed");
    assert_eq!(world.policy_says("chat", "WithinCap"), "False PowerAboveCap");
    // ((475 − 70) ÷ (690 − 70)) ^ (1 ÷ 2.3) × 1980 = 1645
    assert!(ceilings.iter().all(|(_, clock, watts)| (*clock, *watts) == (Some(1635), Some(500))), "{ceilings:?}");
}

#[test]
fn between_the_thresholds_the_ceiling_stays_and_below_it_is_relaxed_step_by_step_until_it_is_off() {
    let mut world = chat(1000, "Enforce", 690, 1980);
    world.settle();
    read_again(&mut world, 450, 1635);
    world.settle();
    assert_eq!(world.ceilings("n0")[0].1, Some(1635));
    assert_eq!(world.policy_says("chat", "CapTriggered"), "True ThresholdCrossed");

    let mut seen = vec![1635];
    while let Some(clock) = world.ceilings("n0")[0].1 {
        read_again(&mut world, 200, clock);
        world.settle();
        assert_eq!(world.policy_says("chat", "CapTriggered"), "False BelowThreshold");
        seen.push(world.ceilings("n0")[0].1.unwrap_or(1980));
    }
    assert_eq!(seen, [1635, 1725, 1815, 1905, 1980]);
}

/// A board of the demo's evaluation: its readings meet the middle of a step, or the pause between two of them.
#[test]
fn a_load_that_swings_keeps_its_ceiling_where_it_is_released_below_the_troughs_only() {
    let manifest = include_str!("../../manifests/overlays/demo/evaluation/policy.yaml");
    let manifest: serde_json::Value = serde_saphyr::from_str(manifest).unwrap();
    let swings = |spec: serde_json::Value| {
        let mut world = World::of_nodes(1);
        world.policy_of("evaluation", spec);
        let pod = world.pod("evaluation", "evaluation", "n0");
        let readings = [(690, 1980), (570, 1935), (660, 1935), (570, 1935), (670, 1935), (570, 1935)];
        let says = readings.map(|(power, clock)| {
            world.pass(5);
            world.gpu("GPU-a", "n0", &[&pod], power, clock);
            world.settle();
            (world.policy_says("evaluation", "CapTriggered"), world.ceilings("n0")[0].1.is_some())
        });
        says.windows(2).filter(|pair| pair[0] != pair[1]).count()
    };
    let mut default = manifest["spec"].clone();
    default["releaseThresholdPercent"] = json!(85);
    assert!(swings(default) >= 3, "with every trough");
    assert_eq!(swings(manifest["spec"].clone()), 0);
}

#[test]
fn one_reading_relaxes_one_step_however_often_it_is_decided_on() {
    let mut world = chat(1000, "Enforce", 690, 1980);
    world.settle();
    read_again(&mut world, 200, 1635);
    for _ in 0..5 {
        world.turn();
        world.now += SignedDuration::from_millis(100);
    }
    assert_eq!(world.ceilings("n0")[0].1, Some(1725));
}

#[test]
fn an_edit_of_the_cap_is_carried_out_on_the_last_readings() {
    let mut world = chat(1400, "Enforce", 600, 1980);
    world.settle();
    assert_eq!(world.ceilings("n0")[0].1, None);
    world.policy("chat", 800, "Enforce");
    let plan = world.turn();
    assert_eq!(plan.nodes.len(), 1);
    // ((380 − 70) ÷ (600 − 70)) ^ (1 ÷ 2.3) × 1980 = 1568
    assert_eq!(world.ceilings("n0")[0], ("GPU-a".into(), Some(1560), Some(400)));
    // Raised again, what fits is given back at once, without steps.
    read_again(&mut world, 330, 1560);
    world.policy("chat", 1400, "Enforce");
    world.turn();
    assert_eq!(world.ceilings("n0")[0], ("GPU-a".into(), None, Some(700)));
}

#[test]
fn a_raised_cap_is_given_at_once_to_pods_that_came_with_it() {
    let mut world = chat(800, "Enforce", 600, 1980);
    world.settle();
    let low = world.ceilings("n0")[0].1;
    assert!(low.is_some_and(|low| low < 1600), "{low:?}");
    // Raised, and a pod more, of which nobody tells anything for two cycles.
    world.policy("chat", 2100, "Enforce");
    world.pod("chat-1", "chat", "n0");
    for _ in 0..2 {
        read_again(&mut world, 330, low.unwrap());
        world.settle();
        assert_eq!(world.ceilings("n0")[0].1, low);
    }
    read_again(&mut world, 330, low.unwrap());
    let pod = world.observation.pods[1].name.clone();
    world.gpu("GPU-c", "n0", &[&pod], 330, low.unwrap());
    world.turn();
    assert!(world.ceilings("n0").iter().all(|(_, clock, _)| clock.is_none()), "{:?}", world.ceilings("n0"));
}

#[test]
fn advice_is_computed_and_reported_and_nothing_is_written_to_nodes() {
    let mut world = chat(1000, "Advise", 690, 1980);
    world.settle();
    assert!(world.observation.frequencies.is_empty());
    assert_eq!(world.policy_says("chat", "Ready"), "True Advising");
    assert_eq!(world.policy_says("chat", "CapTriggered"), "True ThresholdCrossed");
    let status = world.observation.policies[0].status.clone().unwrap();
    assert_eq!(status.recommended_device_watts, Some(500));
    assert!(status.recommended_max_megahertz.is_some());
    assert_eq!((status.current_power_watts, status.matched_pods, status.matched_devices), (Some(1380), 1, 2));
}

#[test]
fn switched_off_measures_nothing_and_gives_the_devices_back_in_so_many_words() {
    let mut world = chat(1000, "Enforce", 690, 1980);
    world.settle();
    world.policy("chat", 1000, "Off");
    world.settle();
    assert_eq!(world.policy_says("chat", "Ready"), "False SwitchedOff");
    assert_eq!(world.policy_says("chat", "WithinCap"), "Unknown SwitchedOff");
    assert!(world.spec("n0").release && world.ceilings("n0").is_empty());
    // Capped again, the release is taken back.
    world.policy("chat", 1000, "Enforce");
    world.settle();
    assert!(!world.spec("n0").release && world.ceilings("n0").len() == 2);
}

#[test]
fn without_recent_readings_every_ceiling_stays_and_the_conditions_say_why() {
    let away = Hold::new(Reason::PrometheusUnavailable, "Prometheus: no answer within 2000 ms");
    for (problem, forgotten, reason) in [
        (None, false, "DataStale"),
        (Some(away.clone()), false, "PrometheusUnavailable"),
        (None, true, "NoData"),
        (Some(away), true, "PrometheusUnavailable"),
    ] {
        let mut world = chat(1000, "Enforce", 690, 1980);
        world.settle();
        let before = world.ceilings("n0");
        world.pass(16);
        world.observation.telemetry.gpu_problem = problem;
        if forgotten {
            world.observation.telemetry.gpus.clear();
        }
        world.turn();
        assert_eq!(world.ceilings("n0"), before, "{reason}");
        assert_eq!(world.policy_says("chat", "DataFresh"), format!("False {reason}"));
        assert_eq!(world.policy_says("chat", "CapTriggered"), format!("True {reason}"));
        assert_eq!(world.policy_says("chat", "WithinCap"), format!("Unknown {reason}"));
        assert_eq!(world.observation.policies[0].status.as_ref().unwrap().current_power_watts, None);
        // Time alone writes nothing more.
        world.pass(60);
        assert!(world.decide().is_empty(), "{:#?}", world.decide());
    }
}

#[test]
fn a_manifest_that_nobody_understands_uncaps_nothing() {
    let mut world = chat(1000, "Enforce", 690, 1980);
    world.settle();
    let before = world.spec("n0").clone();
    for spec in [
        json!({"powerCapLimitWatts": 0, "mode": "Enforce", "selector": {"matchLabels": {"app": "chat"}}}),
        json!({"powerCapLimitWatts": 1000, "mode": "Enforce", "selector": {}}),
        json!({"powerCapLimitWatts": 9, "releaseThresholdPercent": 99, "selector": {"matchLabels": {"app": "chat"}}}),
    ] {
        world.policy_of("chat", spec);
        world.settle();
        assert_eq!(world.spec("n0"), &before);
        assert_eq!(world.policy_says("chat", "Ready"), "False InvalidSpec");
    }
}

#[test]
fn a_device_shared_with_other_pods_is_left_alone() {
    let mut world = chat(1000, "Enforce", 400, 1980);
    let (chat, other) = (world.observation.pods[0].name.clone(), world.pod("batch-0", "batch", "n0"));
    world.gpu("GPU-b", "n0", &[&chat, &other], 400, 1980);
    world.settle();
    // Half of GPU-b's 400 W is the policy's, so 800 W are left for its own device, which takes 700 W.
    assert_eq!(world.ceilings("n0"), [("GPU-a".into(), None, Some(700))]);
    assert_eq!(world.policy_says("chat", "Ready"), "False SharedDevice");
    assert_eq!(world.observation.policies[0].status.as_ref().unwrap().current_power_watts, Some(600));
}

#[test]
fn of_overlapping_policies_the_lowest_ceiling_wins_and_names_its_policy() {
    let mut world = chat(1000, "Enforce", 690, 1980);
    let both = json!({"powerCapLimitWatts": 700, "mode": "Enforce", "selector": {"matchLabels": {"app": "chat"}}});
    world.policy_of("strict", both);
    world.settle();
    let ceiling = &world.spec("n0").gpu_frequencies[0];
    assert_eq!((ceiling.set_by.as_str(), ceiling.power_limit_watts), ("powercappingpolicy/llm/strict", Some(350)));
    assert_eq!(ceiling.reason, "PolicyCap");
}

#[test]
fn with_the_host_in_scope_its_watts_are_taken_from_the_devices() {
    let mut world = chat(1000, "Enforce", 300, 1980);
    let pod = world.observation.pods[0].name.clone();
    let spec = json!({"powerCapLimitWatts": 1000, "mode": "Enforce", "powerScope": "DevicesAndHost",
        "selector": {"matchLabels": {"app": "chat"}}});
    world.policy_of("chat", spec);
    world.pod_cpu(&pod, 150);
    world.settle();
    assert_eq!(world.observation.policies[0].status.as_ref().unwrap().current_power_watts, Some(750));
    // 150 W and a step of 25 W are kept for the host.
    assert_eq!(world.ceilings("n0")[0].2, Some(412));
    // A flicker moves no limit; a real rise does.
    world.pod_cpu(&pod, 165);
    assert!(world.decide().nodes.is_empty());
    world.pod_cpu(&pod, 300);
    world.settle();
    assert_eq!(world.ceilings("n0")[0].2, Some(337));
}

#[test]
fn a_pod_of_which_no_device_is_read_makes_the_power_unknown_and_not_less() {
    let mut world = chat(1000, "Enforce", 300, 1980);
    world.pod("chat-1", "chat", "n1");
    world.settle();
    assert_eq!(world.policy_says("chat", "WithinCap"), "Unknown NoData");
    assert_eq!(world.observation.policies[0].status.as_ref().unwrap().current_power_watts, None);
}

#[test]
fn no_matching_pod_is_said_and_caps_nothing() {
    let mut world = World::of_nodes(1);
    world.policy("chat", 1000, "Enforce");
    world.settle();
    assert_eq!(world.policy_says("chat", "Ready"), "False NoMatchingPods");
    assert!(world.observation.frequencies.is_empty());
}

#[test]
fn a_cap_below_the_devices_floor_is_called_infeasible_and_kept_as_far_as_it_goes() {
    let mut world = chat(100, "Enforce", 400, 1980);
    world.settle();
    assert_eq!(world.policy_says("chat", "Feasible"), "False CapBelowFloor");
    assert_eq!(world.ceilings("n0")[0], ("GPU-a".into(), Some(345), Some(50)));
}

/// Group and order of shedding of every ceiling of a node.
fn groups(world: &World, node: &str) -> Vec<(String, Option<String>, u32)> {
    let ceilings = &world.spec(node).gpu_frequencies;
    ceilings.iter().map(|gpu| (gpu.uuid.clone(), gpu.group.clone(), gpu.shed_order)).collect()
}

#[test]
fn boards_of_one_pod_are_one_group_and_shed_by_their_policys_priority() {
    let mut world = World::of_nodes(1);
    let spec = json!({
        "powerCapLimitWatts": 3000, "mode": "Enforce", "priority": 7, "selector": {"matchLabels": {"app": "chat"}},
    });
    world.policy_of("chat", spec);
    let (chat, lone) = (world.pod("chat-0", "chat", "n0"), world.pod("chat-1", "chat", "n0"));
    world.gpu("GPU-a", "n0", &[&chat], 300, 1980);
    world.gpu("GPU-b", "n0", &[&chat], 300, 1980);
    world.gpu("GPU-c", "n0", &[&lone], 300, 1980);
    world.settle();
    let group = Some("llm/Pod/chat-0".to_owned());
    assert_eq!(
        groups(&world, "n0"),
        [("GPU-a".into(), group.clone(), 7), ("GPU-b".into(), group, 7), ("GPU-c".into(), None, 7)]
    );
}

#[test]
fn the_ranks_of_one_job_are_one_group_across_nodes() {
    let mut world = World::of_nodes(2);
    world.policy("chat", 3000, "Enforce");
    for (index, node) in ["n0", "n1"].into_iter().enumerate() {
        let rank = world.pod(&format!("train-{index}"), "chat", node);
        world.facts(index).job = Some("Job/train".into());
        world.gpu(&format!("GPU-{index}"), node, &[&rank], 300, 1980);
    }
    world.settle();
    for (index, node) in ["n0", "n1"].into_iter().enumerate() {
        assert_eq!(groups(&world, node), [(format!("GPU-{index}"), Some("llm/Job/train".into()), 0)]);
    }
}
