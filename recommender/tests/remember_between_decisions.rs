//! What a leader remembers of a decision once some of its writes failed, and a new leader of a policy that was
//! edited meanwhile.

use powercap_common::{policy::PolicyId, units::Watts};
use powercap_recommender::{
    apply::Outcome,
    decide::{Plan, promise::Fate},
    memory::Memory,
    observation::Throttled,
};

use crate::world::World;

/// `chat` on n0 and `code` on n1, both far above their caps.
fn two_policies() -> World {
    let mut world = World::of_nodes(2);
    for (name, node, uuid) in [("chat", "n0", "GPU-a"), ("code", "n1", "GPU-b")] {
        world.policy(name, 500, "Enforce");
        let pod = world.pod(&format!("{name}-0"), name, node);
        world.gpu(uuid, node, &[&pod], 690, 1980);
    }
    world
}

/// What became of the writes to n0 and n1.
fn outcome(plan: &Plan, fates: [Fate; 2], failed: bool) -> Outcome {
    let nodes: Vec<_> = plan.nodes.iter().map(|write| write.name.as_str()).collect();
    assert_eq!(nodes, ["n0", "n1"]);
    let fates = nodes.into_iter().zip(fates).map(|(node, fate)| (node.to_owned(), None, fate)).collect();
    Outcome { fates, failed, ..Outcome::default() }
}

fn remembered(world: &World, name: &str) -> Throttled {
    world.observation.throttled[&PolicyId { namespace: "llm".into(), name: name.into() }]
}

#[test]
fn a_node_that_cannot_be_written_holds_up_its_own_policies_alone() {
    for fate in [Fate::Refused, Fate::Unknown] {
        let mut world = two_policies();
        let mut memory = Memory::of_term(1, &[], world.now);
        memory.put_into(&mut world.observation);
        let plan = world.decide();
        memory.decided(&plan);
        memory.carried_out(&plan, &outcome(&plan, [fate, Fate::Arrived], true));
        memory.put_into(&mut world.observation);
        assert!(!world.observation.throttled.contains_key(&PolicyId { namespace: "llm".into(), name: "chat".into() }));
        let code = Throttled { changed_at: Some(world.now), threshold: Some(Watts::new(475)) };
        assert_eq!(remembered(&world, "code"), code);

        // Where something was remembered before, it is still.
        let before = world.now;
        world.pass(5);
        let mut memory = Memory::of_term(2, &world.observation.policies, before);
        world.pass(5);
        memory.carried_out(&plan, &outcome(&plan, [fate, Fate::Arrived], true));
        memory.put_into(&mut world.observation);
        assert_eq!(remembered(&world, "chat"), Throttled { changed_at: Some(before), threshold: None });
    }
}

#[test]
fn a_status_that_cannot_be_written_holds_nothing_up() {
    let mut world = two_policies();
    let mut memory = Memory::of_term(1, &world.observation.policies, world.now);
    world.read_again(5);
    memory.put_into(&mut world.observation);
    let plan = world.decide();
    memory.carried_out(&plan, &outcome(&plan, [Fate::Arrived; 2], true));
    memory.put_into(&mut world.observation);
    for name in ["chat", "code"] {
        assert_eq!(remembered(&world, name).changed_at, Some(world.now));
    }
    assert_eq!(memory.failures, 1, "but it is tried again");
}

#[test]
fn an_edit_of_the_cap_while_nobody_led_is_carried_out_on_the_last_readings() {
    let mut world = two_policies();
    world.policy("chat", 800, "Enforce");
    world.settle();
    let ceiling = |world: &World| world.ceilings("n0")[0].1;
    assert_eq!(ceiling(&world), None);
    world.policy("chat", 500, "Enforce");
    world.new_leader();
    world.turn();
    assert!(ceiling(&world).is_some(), "{:?}", world.ceilings("n0"));
}

#[test]
fn a_new_leader_relaxes_nothing_on_readings_from_before_it_led() {
    let mut world = two_policies();
    world.settle();
    let ceiling = |world: &World| world.ceilings("n0")[0].1;
    let low = ceiling(&world).unwrap();
    world.read_again(5);
    let pod = world.observation.pods[0].name.clone();
    world.gpu("GPU-a", "n0", &[&pod], 200, low);
    world.policy("chat", 1400, "Enforce");
    world.new_leader();
    world.turn();
    assert_eq!(ceiling(&world), Some(low));
    world.read_again(5);
    world.turn();
    assert!(ceiling(&world).is_none_or(|ceiling| ceiling > low), "{:?}", world.ceilings("n0"));
}

#[test]
fn a_policy_that_is_not_understood_for_a_while_keeps_what_is_remembered_of_it() {
    let mut world = two_policies();
    world.settle();
    let before = remembered(&world, "chat");
    assert!(before.changed_at.is_some());
    world.policy_of("chat", serde_json::json!({"powerCapLimitWatts": 0}));
    world.turn();
    assert_eq!(remembered(&world, "chat"), before);
    assert_eq!(world.policy_says("chat", "Ready"), "False InvalidSpec");
}
