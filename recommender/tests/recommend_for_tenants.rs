//! Whose a device is: what the kubelet told its node's agent counts more than the labels of a series.

use std::sync::Arc;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use powercap_common::api::Tenant;
use powercap_recommender::{observation::PodName, observe::tenants::attribute};

use crate::world::World;

/// Two boards on `n0` whose series say that `llm/chat-0` (selected by the policy `chat`) holds both.
fn chat() -> (World, PodName, PodName) {
    let mut world = World::of_nodes(2);
    world.policy("chat", 1000, "Enforce");
    let (chat, other) = (world.pod("chat-0", "chat", "n0"), world.pod("batch-0", "batch", "n0"));
    for uuid in ["GPU-a", "GPU-b"] {
        world.gpu(uuid, "n0", &[&chat], 400, 1980);
    }
    world.rack(20_000);
    world.settle();
    (world, chat, other)
}

/// The agent of a node tells whose its boards are.
fn tell(world: &mut World, node: &str, boards: &[(&str, Option<&[&PodName]>)]) {
    let now = world.now;
    let object = Arc::make_mut(world.observation.frequencies.get_mut(node).unwrap());
    let status = object.status.as_mut().unwrap();
    status.heartbeat_time = Some(Time(now));
    for (uuid, tenants) in boards {
        if !status.gpus.iter().any(|gpu| gpu.uuid == *uuid) {
            let mut gpu = status.gpus.first().cloned().unwrap_or_default();
            gpu.uuid = (*uuid).to_owned();
            status.gpus.push(gpu);
        }
        let gpu = status.gpus.iter_mut().find(|gpu| gpu.uuid == *uuid).unwrap();
        let tenant = |pod: &&PodName| Tenant { namespace: pod.namespace.clone(), name: pod.name.clone() };
        gpu.tenants = tenants.map(|tenants| tenants.iter().map(tenant).collect());
    }
}

/// The ceilings on `n0` after agents were believed and the next decision carried out.
fn capped(world: &mut World) -> Vec<String> {
    let now = world.now;
    attribute(&mut world.observation, now);
    world.turn();
    world.spec("n0").gpu_frequencies.iter().map(|gpu| gpu.uuid.clone()).collect()
}

#[test]
fn a_series_that_lies_about_a_board_misleads_nobody() {
    let (mut world, chat, other) = chat();
    assert_eq!(world.spec("n0").gpu_frequencies.len(), 2);
    tell(&mut world, "n0", &[("GPU-a", Some(&[&chat])), ("GPU-b", Some(&[&other]))]);
    assert_eq!(capped(&mut world), ["GPU-a"]);
    assert_eq!(world.observation.policies[0].status.as_ref().unwrap().current_power_watts, Some(400));
}

#[test]
fn a_board_with_several_tenants_is_shared_unless_one_policy_selects_them_all() {
    let (mut world, chat, other) = chat();
    let second = world.pod("chat-1", "chat", "n0");
    tell(&mut world, "n0", &[("GPU-a", Some(&[&chat, &second])), ("GPU-b", Some(&[&chat, &other]))]);
    assert_eq!(capped(&mut world), ["GPU-a"]);
    assert_eq!(world.policy_says("chat", "Ready"), "False SharedDevice");
}

#[test]
fn an_agent_that_does_not_know_or_is_silent_leaves_it_to_the_labels() {
    let (mut world, _, other) = chat();
    tell(&mut world, "n0", &[("GPU-a", None), ("GPU-b", None)]);
    assert_eq!(capped(&mut world), ["GPU-a", "GPU-b"]);
    tell(&mut world, "n0", &[("GPU-b", Some(&[&other]))]);
    let heard = world.now;
    world.pass(16);
    for uuid in ["GPU-a", "GPU-b"] {
        world.gpu(uuid, "n0", &[&PodName { namespace: "llm".into(), name: "chat-0".into() }], 400, 1980);
    }
    world.observation.telemetry.agents.insert("n0".into(), heard);
    assert_eq!(capped(&mut world), ["GPU-a", "GPU-b"], "an agent that was not heard of for 16 s");
    let now = world.now;
    world.observation.telemetry.agents.insert("n0".into(), now);
    assert_eq!(capped(&mut world), ["GPU-a"], "heard of again");
}

#[test]
fn a_board_that_nobody_holds_is_no_part_of_a_policys_power() {
    let (mut world, chat, _) = chat();
    tell(&mut world, "n0", &[("GPU-a", Some(&[&chat])), ("GPU-b", Some(&[]))]);
    capped(&mut world);
    assert_eq!(world.observation.policies[0].status.as_ref().unwrap().current_power_watts, Some(400));
}

#[test]
fn a_board_without_readings_makes_its_policys_power_unknown_and_raises_no_share() {
    let (mut world, chat, _) = chat();
    tell(&mut world, "n0", &[("GPU-a", Some(&[&chat])), ("GPU-b", Some(&[&chat]))]);
    let before = world.ceilings("n0");
    world.observation.telemetry.gpus.remove("GPU-b");
    capped(&mut world);
    assert_eq!(world.ceilings("n0"), before);
    assert_eq!(world.policy_says("chat", "WithinCap"), "Unknown NoData");
}

#[test]
fn an_agent_tells_nothing_of_pods_on_other_nodes() {
    let (mut world, chat, _) = chat();
    tell(&mut world, "n0", &[("GPU-a", Some(&[&chat])), ("GPU-b", Some(&[&chat]))]);
    tell(&mut world, "n1", &[("GPU-z", Some(&[&chat]))]);
    assert_eq!(capped(&mut world), ["GPU-a", "GPU-b"]);
    assert!(world.spec("n1").gpu_frequencies.is_empty());
}
