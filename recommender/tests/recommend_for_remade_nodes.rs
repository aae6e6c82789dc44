//! A Node that was deleted and made again while its machine ran on counts as before.

use std::sync::Arc;

use serde_json::json;

use crate::world::World;

/// Two nodes that have acknowledged their grants; the objects go when their Nodes go.
fn rack() -> World {
    let mut world = World::of_nodes(2);
    for node in ["n0", "n1"] {
        world.gpu(&format!("GPU-{node}"), node, &[], 400, 1980);
        world.cpu(node, 100);
    }
    world.rack(2000);
    world.settle();
    for node in ["n0", "n1"] {
        let uid = format!("uid-{node}");
        let object = Arc::make_mut(world.observation.frequencies.get_mut(node).unwrap());
        let owner = json!([{"apiVersion": "v1", "kind": "Node", "name": node, "uid": uid}]);
        object.metadata.owner_references = serde_json::from_value(owner).unwrap();
    }
    assert!(world.decide().is_empty());
    world
}

#[test]
fn under_the_same_boot_its_commitment_stands_and_its_object_becomes_the_new_nodes() {
    let mut world = rack();
    let before = world.grants();
    world.observation.nodes.get_mut("n0").unwrap().uid = "another".into();
    let plan = world.decide();
    let [write] = plan.nodes.as_slice() else { panic!("{plan:?}") };
    assert_eq!((write.name.as_str(), write.node_uid.as_str()), ("n0", "another"), "or it goes with the old Node");
    assert_eq!(write.spec.committed_watts, write.spec.power_limit_watts);
    world.settle();
    assert_eq!(world.grants(), before);
    assert_eq!(world.domain_says("rack", "Ready"), "True GrantsFit");
}
