//! Domains within domains: every cap holds, and what one cannot use goes to the others.

use powercap_common::{api::Acknowledged, units::Watts};
use proptest::prelude::{ProptestConfig, prop, proptest};
use serde_json::json;

use crate::world::World;

/// Racks `r0`, `r1`… of two nodes of eight boards each: node `n3` stands in `r1`.
fn racks(caps: &[u32]) -> World {
    let mut world = World::of_nodes(2 * caps.len());
    for (rack, cap) in caps.iter().enumerate() {
        for node in [2 * rack, 2 * rack + 1].map(|node| format!("n{node}")) {
            world.node(&node, &format!("r{rack}"));
            (0..8).for_each(|board| world.gpu(&format!("GPU-{node}-{board}"), &node, &[], 300, 1980));
            world.cpu(&node, 200);
        }
        domain(&mut world, &format!("r{rack}"), *cap, Some("row"), 0);
    }
    world
}

/// A domain of the nodes with its name as their `rack`.
fn domain(world: &mut World, name: &str, cap: u32, parent: Option<&str>, unmanaged: u32) {
    let mut spec = json!({"powerCapLimitWatts": cap, "unmanagedWatts": unmanaged,
        "nodeSelector": {"matchLabels": {"rack": name}}});
    if let Some(parent) = parent {
        spec["parentRef"] = json!({ "name": parent });
    }
    world.domain(name, spec);
}

fn granted(world: &World) -> Vec<u32> {
    world.grants().into_iter().map(Option::unwrap).collect()
}

fn place(world: &World, name: &str) -> (String, String) {
    let object = world.observation.domains.iter().find(|object| object.metadata.name.as_deref() == Some(name)).unwrap();
    let conditions = &object.status.as_ref().unwrap().conditions;
    let placed = conditions.iter().find(|condition| condition.type_ == "Placed").unwrap();
    (world.domain_says(name, "Placed"), placed.message.clone())
}

#[test]
fn a_child_cannot_loosen_its_parents_cap_and_the_parent_counts_every_node_below() {
    let mut world = racks(&[9000, 9000]);
    domain(&mut world, "row", 8000, None, 0);
    world.settle();
    assert_eq!(granted(&world), [2000; 4]);
    assert_eq!(world.spec("n0").domains, ["r0", "row"]);
    let row = world.observation.domains.iter().find(|object| object.metadata.name.as_deref() == Some("row")).unwrap();
    let status = row.status.as_ref().unwrap();
    assert_eq!((status.nodes, status.committed_watts, status.headroom_watts), (4, Some(8000), Some(0)));
    // 4 × (8 × 300 + 200)
    assert_eq!(status.current_power_watts, Some(10_400));
    assert_eq!(world.domain_says("row", "WithinCap"), "False PowerAboveCap");
    assert_eq!(place(&world, "row"), ("True PlaceClear".into(), "within no other domain".into()));
    assert_eq!(place(&world, "r0"), ("True PlaceClear".into(), "within row, whose caps hold too".into()));
}

#[test]
fn what_one_rack_cannot_use_goes_to_the_others() {
    let mut world = racks(&[2000, 20_000, 20_000]);
    domain(&mut world, "row", 18_000, None, 0);
    world.settle();
    assert_eq!(granted(&world), [1000, 1000, 4000, 4000, 4000, 4000]);
}

#[test]
fn unmanaged_watts_of_a_child_count_in_its_parents() {
    let mut world = racks(&[]);
    for name in ["n0", "n1"] {
        world.node(name, "rack");
    }
    domain(&mut world, "hall", 10_000, None, 1000);
    domain(&mut world, "row", 9_500, Some("hall"), 1000);
    domain(&mut world, "rack", 9_000, Some("row"), 2000);
    world.settle();
    // CPUs alone draw 1000 W at most: two nodes fit everywhere.
    assert_eq!(granted(&world), [1000, 1000]);
    let headroom = |name: &str| {
        let of =
            |object: &&std::sync::Arc<powercap_common::api::PowerDomain>| object.metadata.name.as_deref() == Some(name);
        world.observation.domains.iter().find(of).unwrap().status.clone().unwrap().headroom_watts
    };
    assert_eq!([headroom("rack"), headroom("row"), headroom("hall")], [Some(5000), Some(4500), Some(4000)]);
}

#[test]
fn a_cut_of_the_parent_is_written_at_once_and_a_raise_waits_for_all_of_its_nodes() {
    let mut world = racks(&[9000, 9000]);
    domain(&mut world, "row", 16_000, None, 0);
    world.settle();
    domain(&mut world, "row", 8000, None, 0);
    world.turn();
    assert_eq!(granted(&world), [2000; 4]);
    for node in ["n0", "n1", "n2"] {
        world.acknowledge(node);
    }
    domain(&mut world, "row", 12_000, None, 0);
    world.turn();
    // n3 may still be drawing 4000 W, so that the others have 8000 W, of which 2000 W are new.
    assert_eq!(granted(&world).iter().sum::<u32>(), 2000 * 3 + 3000 + 2000);
    world.settle();
    assert_eq!(granted(&world), [3000; 4]);
}

#[test]
fn a_domain_whose_parent_does_not_exist_is_lowered_and_never_raised() {
    let mut world = racks(&[8000]);
    domain(&mut world, "row", 6000, None, 0);
    world.settle();
    assert_eq!(granted(&world), [3000, 3000]);
    world.observation.domains.retain(|object| object.metadata.name.as_deref() != Some("row"));
    world.settle();
    assert_eq!(granted(&world), [3000, 3000]);
    let (says, message) = place(&world, "r0");
    assert_eq!(says, "False ParentMissing");
    assert!(message.starts_with("spec.parentRef names row, which does not exist; create it, or take parentRef away"));
    domain(&mut world, "r0", 4000, Some("row"), 0);
    world.settle();
    assert_eq!(granted(&world), [2000, 2000]);
    domain(&mut world, "r0", 8000, None, 0);
    world.settle();
    assert_eq!(granted(&world), [4000, 4000]);
    assert_eq!(place(&world, "r0").0, "True PlaceClear");
}

#[test]
fn parents_that_go_round_are_named_and_the_strictest_cap_of_them_holds() {
    let mut world = racks(&[8000, 8000]);
    domain(&mut world, "row", 8000, Some("hall"), 0);
    domain(&mut world, "hall", 20_000, None, 0);
    world.settle();
    domain(&mut world, "hall", 7000, Some("row"), 0);
    world.settle();
    assert_eq!(granted(&world), [1750; 4]);
    assert_eq!(place(&world, "row").0, "False ParentLoop");
    assert!(place(&world, "hall").1.contains("row, hall; take spec.parentRef out of one of them"));
    assert_eq!(place(&world, "r0").0, "True PlaceClear");
    domain(&mut world, "hall", 20_000, Some("row"), 0);
    domain(&mut world, "row", 16_000, Some("hall"), 0);
    world.settle();
    assert_eq!(granted(&world), [1750; 4]);
}

#[test]
fn a_node_in_two_domains_that_know_nothing_of_each_other_is_named_and_both_caps_hold() {
    let mut world = racks(&[8000]);
    domain(&mut world, "r0", 8000, None, 0);
    world.domain("all", json!({"powerCapLimitWatts": 5000, "nodeSelector": {"matchExpressions": [{"key": "rack", "operator": "Exists"}]}}));
    world.settle();
    assert_eq!(granted(&world), [2500, 2500]);
    for (name, other) in [("r0", "all"), ("all", "r0")] {
        let (says, message) = place(&world, name);
        assert_eq!(says, "False DomainsOverlap");
        assert!(message.starts_with(&format!("n0 stands in {other} too")), "{message}");
    }
    // A selector that covers what is below it is no conflict.
    domain(&mut world, "r0", 8000, Some("all"), 0);
    world.settle();
    assert_eq!(place(&world, "all").0, "True PlaceClear");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    /// Whatever the tree (forests, loops, orphans), every domain keeps to its cap less what is unmanaged in it,
    /// and once everybody has acknowledged, no cap that is raised lets another be exceeded.
    #[test]
    fn in_any_tree_no_cap_is_exceeded(
        parents in prop::collection::vec(0_usize..7, 5),
        caps in prop::collection::vec((2000_u32..20_000, 0_u32..500), 5),
        edits in prop::collection::vec((0_usize..5, 2000_u32..20_000), 0..6),
        silent in 0_usize..10,
    ) {
        let mut world = racks(&[9000; 5]);
        let name = |at: usize| format!("r{at}");
        let plant = |world: &mut World, at: usize, (cap, unmanaged): (u32, u32)| {
            let parent = Some(parents[at]).filter(|parent| *parent != at && *parent != 6).map(name);
            domain(world, &name(at), cap, parent.as_deref(), unmanaged);
        };
        (0..5).for_each(|at| plant(&mut world, at, caps[at]));
        world.settle();
        let mut caps = caps.clone();
        for (at, cap) in edits {
            caps[at].0 = cap;
            plant(&mut world, at, caps[at]);
            let before: Vec<_> = (0..5).map(|at| committed(&world, &parents, &caps, at)).collect();
            world.turn();
            for at in 0..5 {
                let after = committed(&world, &parents, &caps, at);
                assert!(after <= before[at].max(caps[at].0), "{}: {after} W after {before:?} of {caps:?}", name(at));
            }
            let nodes = (0..10).filter(|node| *node != silent);
            nodes.for_each(|node| world.acknowledge(&format!("n{node}")));
        }
        world.settle();
        for at in 0..5 {
            let after = committed(&world, &parents, &caps, at);
            assert!(after <= caps[at].0, "{}: {after} W of {caps:?} in {parents:?}", name(at));
        }
    }
}

/// What the nodes of a domain and of all within it are promised, by their objects alone, and the unmanaged.
fn committed(world: &World, parents: &[usize], caps: &[(u32, u32)], domain: usize) -> u32 {
    let within = |rack: usize| {
        let mut chain = vec![rack];
        while let Some(parent) = chain.last().map(|at| parents[*at]).filter(|at| *at < 5 && !chain.contains(at)) {
            chain.push(parent);
        }
        chain.contains(&domain)
    };
    let promised = |node: usize| {
        let object = &world.observation.frequencies[&format!("n{node}")];
        let told = Acknowledged { epoch: object.spec.epoch, power_limit_watts: object.spec.power_limit_watts };
        let acknowledged = object.status.as_ref().and_then(|status| status.acknowledged) == Some(told);
        let (granted, committed) = (object.spec.power_limit_watts.unwrap(), object.spec.committed_watts);
        Watts::new(if acknowledged { granted } else { committed.unwrap_or(granted).max(granted) }).ceil()
    };
    (0..5).filter(|rack| within(*rack)).map(|rack| promised(2 * rack) + promised(2 * rack + 1) + caps[rack].1).sum()
}
