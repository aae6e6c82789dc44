//! What a domain permits policies on its nodes: whose, up to which mode and priority, and on which devices.

use powercap_recommender::observation::PodName;
use serde_json::{Value, json};

use crate::world::World;

/// Two racks of a node each, a pod of `llm/chat` with a board on both; the policy `chat` enforces with
/// priority 500.
fn chat() -> World {
    let mut world = World::of_nodes(1);
    world.node("n1", "r2");
    for (pod, uuid, node) in [("chat-0", "GPU-0", "n0"), ("chat-1", "GPU-1", "n1")] {
        let pod = world.pod(pod, "chat", node);
        world.gpu(uuid, node, &[&pod], 400, 1980);
        world.cpu(node, 100);
    }
    let labels = [("team".to_owned(), "llm".to_owned())].into();
    world.observation.namespaces.insert("llm".into(), labels);
    policy(&mut world, "Enforce");
    world
}

fn policy(world: &mut World, mode: &str) {
    let selector = json!({"matchLabels": {"app": "chat"}});
    world.policy_of("chat", json!({"powerCapLimitWatts": 1000, "mode": mode, "priority": 500, "selector": selector}));
}

fn domain(world: &mut World, name: &str, rack: &str, tenancy: Option<Value>) {
    let mut spec = json!({"powerCapLimitWatts": 10_000, "nodeSelector": {"matchLabels": {"rack": rack}}});
    if let Some(tenancy) = tenancy {
        spec["tenancy"] = tenancy;
    }
    world.domain(name, spec);
    world.settle();
}

fn capped(world: &World) -> Vec<String> {
    let all = world.observation.frequencies.values().flat_map(|object| &object.spec.gpu_frequencies);
    all.map(|gpu| format!("{} {}", gpu.uuid, gpu.shed_order)).collect()
}

fn message(world: &World) -> String {
    let status = world.observation.policies[0].status.as_ref().unwrap();
    let permitted = status.conditions.iter().find(|condition| condition.type_ == "Permitted");
    permitted.map(|condition| condition.message.clone()).unwrap_or_default()
}

#[test]
fn a_domain_without_tenancy_and_one_that_welcomes_the_namespace_permit_everything() {
    let mut world = chat();
    domain(&mut world, "one", "r1", None);
    domain(&mut world, "two", "r2", Some(json!({"namespaceSelector": {"matchLabels": {"team": "llm"}}})));
    assert_eq!(capped(&world), ["GPU-0 500", "GPU-1 500"]);
    assert_eq!(world.policy_says("chat", "Permitted"), "Unknown -");
}

#[test]
fn on_the_nodes_of_a_domain_that_does_not_welcome_it_a_policy_leaves_devices_alone_and_counts_them() {
    let mut world = chat();
    domain(&mut world, "one", "r1", None);
    domain(&mut world, "two", "r2", None);
    assert_eq!(world.ceilings("n0")[0].2, Some(500));
    domain(&mut world, "two", "r2", Some(json!({"namespaceSelector": {"matchLabels": {"team": "batch"}}})));
    assert_eq!(capped(&world), ["GPU-0 500"], "what it had set there is gone: the domain's cap holds without it");
    assert_eq!(world.ceilings("n0")[0].2, Some(600), "1,000 W less the 400 W that the other board draws");
    assert_eq!(world.policy_says("chat", "Permitted"), "False NotPermitted");
    assert_eq!(message(&world), "powerdomain/two permits no policy of namespace llm on its nodes: n1");
    assert_eq!(world.policy_says("chat", "Ready"), "True Enforcing", "it acts where it may");
    let status = world.observation.policies[0].status.as_ref().unwrap();
    assert_eq!((status.matched_devices, status.current_power_watts), (2, Some(800)));
}

#[test]
fn a_policy_that_is_permitted_nowhere_is_as_if_it_were_switched_off() {
    let mut world = chat();
    for (name, rack) in [("one", "r1"), ("two", "r2")] {
        domain(&mut world, name, rack, None);
    }
    assert_eq!(capped(&world).len(), 2);
    for (name, rack) in [("one", "r1"), ("two", "r2")] {
        domain(&mut world, name, rack, Some(json!({"maxMode": "Off"})));
    }
    assert!(capped(&world).is_empty());
    assert_eq!(world.policy_says("chat", "Ready"), "False NotPermitted");
    assert_eq!(world.policy_says("chat", "WithinCap"), "Unknown NotPermitted");
    assert_eq!(world.grants(), [Some(1700), Some(1700)], "the domains' caps hold as before");
}

#[test]
fn a_namespace_that_nobody_knows_is_not_welcome() {
    let mut world = chat();
    world.observation.namespaces.clear();
    domain(&mut world, "one", "r1", Some(json!({"namespaceSelector": {"matchLabels": {"team": "llm"}}})));
    assert_eq!(capped(&world), ["GPU-1 500"]);
}

#[test]
fn a_mode_beyond_the_most_that_is_permitted_everywhere_advises() {
    let mut world = chat();
    for (name, rack) in [("one", "r1"), ("two", "r2")] {
        domain(&mut world, name, rack, Some(json!({"maxMode": "Advise"})));
    }
    assert!(capped(&world).is_empty());
    assert_eq!(world.policy_says("chat", "Ready"), "True BoundedByDomain");
    assert_eq!(message(&world), "powerdomain/one permits mode Advise at most on its nodes: n0");
    let status = world.observation.policies[0].status.as_ref().unwrap();
    assert_eq!(status.recommended_device_watts, Some(500), "it recommends as in mode Advise");
    policy(&mut world, "Advise");
    world.settle();
    assert_eq!(world.policy_says("chat", "Permitted"), "Unknown -", "it asks for no more than is permitted");
}

#[test]
fn a_priority_counts_as_far_as_it_is_permitted() {
    let mut world = chat();
    domain(&mut world, "one", "r1", Some(json!({"maxPriority": 100})));
    assert_eq!(capped(&world), ["GPU-0 100", "GPU-1 500"]);
    assert_eq!(world.policy_says("chat", "Permitted"), "False BoundedByDomain");
    assert_eq!(message(&world), "powerdomain/one permits priority 100 at most on its nodes: n0");
}

#[test]
fn a_priority_beyond_what_is_permitted_puts_no_policy_before_another() {
    for (permitted, first) in [(1000, "chat"), (100, "batch")] {
        let mut world = chat();
        domain(&mut world, "one", "r1", Some(json!({"maxPriority": permitted})));
        let selector = json!({"matchLabels": {"app": "chat"}});
        let spec = json!({"powerCapLimitWatts": 900, "mode": "Enforce", "priority": 200, "selector": selector});
        world.policy_of("batch", spec);
        domain(&mut world, "one", "r1", Some(json!({"maxPriority": permitted})));
        let says = |name: &str| world.policy_says(name, "Overlapped").starts_with("True");
        assert_eq!((says("chat"), says("batch")), (first == "batch", first == "chat"), "at most {permitted}");
    }
}

#[test]
fn of_domains_within_each_other_the_strictest_counts() {
    let mut world = chat();
    world.domain(
        "row",
        json!({"powerCapLimitWatts": 20_000, "nodeSelector": {"matchLabels": {"row": "none"}},
            "tenancy": {"maxMode": "Advise", "maxPriority": 900}}),
    );
    world.domain(
        "one",
        json!({"powerCapLimitWatts": 10_000, "nodeSelector": {"matchLabels": {"rack": "r1"}},
            "parentRef": {"name": "row"}, "tenancy": {"maxPriority": 100}}),
    );
    world.settle();
    assert_eq!(capped(&world), ["GPU-1 500"]);
    assert_eq!(message(&world), "powerdomain/row permits mode Advise at most on its nodes: n0");
}

#[test]
fn a_domain_that_is_not_understood_forbids_nothing_that_it_permitted() {
    let mut world = chat();
    domain(&mut world, "one", "r1", Some(json!({"maxPriority": 1000})));
    domain(&mut world, "one", "r1", Some(json!({"maxMode": "Off", "namespaceSelector": {}})));
    assert_eq!(world.domain_says("one", "Ready"), "False InvalidSpec");
    assert_eq!(capped(&world), ["GPU-0 500", "GPU-1 500"]);
}

/// A second policy whose pod shares the board of `chat-0`.
fn shared(world: &mut World) {
    let batch = world.pod("batch-0", "batch", "n0");
    let chat = PodName { namespace: "llm".into(), name: "chat-0".into() };
    world.gpu("GPU-0", "n0", &[&chat, &batch], 400, 1980);
    world.policy("batch", 300, "Enforce");
}

#[test]
fn a_shared_device_is_left_alone_unless_every_domain_that_says_anything_allows_it() {
    for (row, rack, is_capped) in [
        (None, None, false),
        (None, Some("Refuse"), false),
        (None, Some("Allow"), true),
        (Some("Allow"), None, true),
        (Some("Allow"), Some("Allow"), true),
        (Some("Refuse"), Some("Allow"), false),
        (Some("Allow"), Some("Refuse"), false),
    ] {
        let mut world = chat();
        shared(&mut world);
        let mut spec = |name: &str, labels: Value, parent: Option<&str>, says: Option<&str>| {
            let mut spec = json!({"powerCapLimitWatts": 10_000, "nodeSelector": {"matchLabels": labels}});
            if let Some(says) = says {
                spec["tenancy"] = json!({"sharedDevices": says});
            }
            if let Some(parent) = parent {
                spec["parentRef"] = json!({"name": parent});
            }
            world.domain(name, spec);
        };
        spec("row", json!({"row": "none"}), None, row);
        spec("one", json!({"rack": "r1"}), Some("row"), rack);
        world.settle();
        let is_so = !world.spec("n0").gpu_frequencies.is_empty();
        assert_eq!(is_so, is_capped, "row {row:?}, rack {rack:?}");
    }
}

#[test]
fn the_lowest_cap_of_those_that_share_a_device_holds() {
    let mut world = chat();
    shared(&mut world);
    domain(&mut world, "one", "r1", Some(json!({"sharedDevices": "Allow"})));
    let ceiling = &world.spec("n0").gpu_frequencies[0];
    assert_eq!(ceiling.power_limit_watts, Some(300));
    assert_eq!(ceiling.set_by, "powercappingpolicy/llm/batch");
    assert_eq!(world.policy_says("batch", "WithinCap"), "False PowerAboveCap", "all of the board counts: 400 W");
}
