//! When the taint of nodes without limits is taken off.

use std::sync::Arc;

use k8s_openapi::api::core::v1::{Node, Taint};
use powercap_recommender::{
    observation::{BOOT_TAINT, BootTaint},
    observe::workloads::{node_facts, slim_node},
};
use serde_json::json;

use crate::world::World;

const BOOT: &str = "b1";

/// One node of a rack, tainted, in the boot [`BOOT`].
fn tainted() -> World {
    let mut world = World::of_nodes(1);
    world.rack(3000);
    let facts = world.observation.nodes.get_mut("n0").unwrap();
    facts.boot_id = BOOT.into();
    facts.boot_taint = Some(BootTaint { resource_version: "7".into(), others: vec![other()] });
    world
}

fn other() -> Taint {
    Taint { key: "example.com/other".into(), effect: "NoSchedule".into(), ..Taint::default() }
}

fn agent_says(world: &mut World, boot: &str) {
    world.acknowledge("n0");
    let object = Arc::make_mut(world.observation.frequencies.get_mut("n0").unwrap());
    object.status.as_mut().unwrap().boot_id = Some(boot.into());
}

fn initialized(world: &World) -> Vec<String> {
    world.decide().initialized.into_iter().map(|initialized| initialized.node).collect()
}

#[test]
fn a_node_is_initialized_when_its_agent_has_acknowledged_under_this_boot() {
    let mut world = tainted();
    assert_eq!(initialized(&world), [""; 0], "nothing was said to it yet");
    world.turn();
    assert_eq!(initialized(&world), [""; 0], "its agent has not answered");
    agent_says(&mut world, BOOT);
    assert_eq!(initialized(&world), ["n0"]);
    let plan = world.decide();
    assert_eq!(plan.initialized[0].taint.others, [other()], "what else is on the node stays");
    assert!(!plan.is_empty(), "there is something to write");
    world.observation.nodes.get_mut("n0").unwrap().boot_taint = None;
    assert_eq!(initialized(&world), [""; 0], "once is enough");
}

#[test]
fn an_acknowledgement_of_an_earlier_boot_does_not_count() {
    let mut world = tainted();
    world.turn();
    agent_says(&mut world, "b0");
    assert_eq!(initialized(&world), [""; 0]);
    // Nor does one where nobody knows the boot.
    agent_says(&mut world, "");
    world.observation.nodes.get_mut("n0").unwrap().boot_id = String::new();
    assert_eq!(initialized(&world), [""; 0]);
}

#[test]
fn a_node_that_nothing_caps_keeps_its_taint() {
    let mut world = tainted();
    world.observation.domains.clear();
    world.turn();
    assert_eq!(initialized(&world), [""; 0]);
}

#[test]
fn boot_and_taint_are_read_from_the_node() {
    let node = |taints| -> Node {
        serde_json::from_value(json!({
            "metadata": {"name": "n0", "resourceVersion": "7"},
            "spec": {"podCIDR": "10.0.0.0/24", "taints": taints},
            "status": {"nodeInfo": {"bootID": BOOT, "architecture": "amd64", "containerRuntimeVersion": "",
                "kernelVersion": "", "kubeProxyVersion": "", "kubeletVersion": "", "machineID": "",
                "operatingSystem": "linux", "osImage": "", "systemUUID": ""}},
        }))
        .unwrap()
    };
    let ours = json!({"key": BOOT_TAINT, "effect": "NoSchedule"});
    let mut both = node(json!([ours, {"key": "example.com/other", "effect": "NoSchedule"}]));
    slim_node(&mut both);
    let (_, facts) = node_facts(&both);
    assert_eq!(facts.boot_id, BOOT);
    assert_eq!(facts.boot_taint, Some(BootTaint { resource_version: "7".into(), others: vec![other()] }));
    let (_, facts) = node_facts(&node(json!([{"key": "example.com/other", "effect": "NoSchedule"}])));
    assert_eq!(facts.boot_taint, None);
}
