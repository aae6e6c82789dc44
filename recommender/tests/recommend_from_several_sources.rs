//! Which reading counts where exporters and node agents tell of the same devices, and what is said of it.

use jiff::SignedDuration;
use powercap_common::units::{Megahertz, Watts};
use powercap_recommender::observation::{Apart, GpuReading, Sample, Source};

use crate::world::World;

/// A board of a pod of `chat` on n0 in a rack, at 690 W: more than its policy's cap lets it draw.
fn chat() -> World {
    let mut world = World::of_nodes(1);
    world.rack(3000);
    world.policy("chat", 500, "Enforce");
    let pod = world.pod("chat-0", "chat", "n0");
    world.gpu("GPU-a", "n0", &[&pod], 690, 1980);
    world.cpu("n0", 200);
    world.settle();
    world
}

/// A later reading by the exporter.
fn exporter_reads(world: &mut World, watts: u32) {
    let (clock, pod) = (clock(world), world.observation.pods[0].name.clone());
    world.gpu("GPU-a", "n0", &[&pod], watts, clock);
    world.cpu("n0", 200);
}

/// A reading of now by the agent.
fn agent_reads(world: &mut World, watts: u32) {
    let (at, source) = (world.now, Source::Agent);
    let reading = GpuReading {
        node: Some("n0".to_owned()),
        power: Some(Sample { value: Watts::new(watts), at, source }),
        clock: Some(Sample { value: Megahertz::new(clock(world)), at, source }),
        ..GpuReading::default()
    };
    world.observation.telemetry.agent_gpus.insert("GPU-a".to_owned(), reading);
}

fn clock(world: &World) -> u32 {
    world.ceilings("n0")[0].1.unwrap_or(1980)
}

fn power(world: &World) -> Option<u32> {
    world.observation.policies[0].status.as_ref().unwrap().current_power_watts
}

/// What the policy says of its sources, in full.
fn disagreement(world: &World) -> Option<String> {
    let conditions = &world.observation.policies[0].status.as_ref().unwrap().conditions;
    conditions.iter().find(|condition| condition.type_ == "SourcesAgree").map(|condition| condition.message.clone())
}

#[test]
fn a_board_whose_labels_name_another_node_counts_where_its_agent_is_and_raises_nothing() {
    let labelled = |world: &mut World, node: &str| {
        world.observation.telemetry.gpus.get_mut("GPU-a").unwrap().node = Some(node.to_owned());
    };
    let mut world = chat();
    world.node("n1", "r1");
    world.settle();
    let low = clock(&world);
    for _ in 0..3 {
        world.pass(5);
        exporter_reads(&mut world, 100);
        world.cpu("n1", 200);
        labelled(&mut world, "n1");
        world.turn();
    }
    let says = disagreement(&world).unwrap();
    for word in ["the DCGM exporter", "GPU-a", "n1 as its node's name", "the agent of n0", "correct the relabelling"] {
        assert!(says.contains(word), "{says}");
    }
    assert_eq!(world.domain_says("rack", "SourcesAgree"), "False NodesDiffer");
    assert_eq!((clock(&world), power(&world)), (low, Some(100)), "it counts, and relaxes nothing");
    // A name that no node has is the exporter's own, and a silent agent may tell of a board that was moved.
    for (node, heard) in [("exporter-x7f", 0), ("n1", 60)] {
        world.observation.telemetry.agents.insert("n0".into(), world.now - SignedDuration::from_secs(heard));
        labelled(&mut world, node);
        world.turn();
        assert_eq!(disagreement(&world), None, "{node}");
    }
    world.observation.telemetry.agents.clear();
    for _ in 0..3 {
        world.pass(5);
        exporter_reads(&mut world, 100);
        world.cpu("n1", 200);
        world.turn();
    }
    assert!(clock(&world) > low, "with the label put right it rises");
}

#[test]
fn where_the_exporter_has_no_usable_reading_the_agents_counts() {
    let absurd = |world: &mut World| exporter_reads(world, 5000);
    let none = |world: &mut World| world.observation.telemetry.gpus.get_mut("GPU-a").unwrap().power = None;
    let old = |_: &mut World| {};
    for (what, spoil) in [("absurd", &absurd as &dyn Fn(&mut World)), ("none", &none), ("old", &old)] {
        let mut world = chat();
        world.pass(30);
        world.cpu("n0", 200);
        spoil(&mut world);
        world.turn();
        assert_ne!(world.policy_says("chat", "DataFresh"), "True DataFresh", "{what}");
        agent_reads(&mut world, 440);
        world.settle();
        assert_eq!(world.policy_says("chat", "DataFresh"), "True DataFresh", "{what}");
        assert_eq!(world.domain_says("rack", "DataFresh"), "True DataFresh", "{what}");
        assert_eq!(power(&world), Some(440), "{what}");
    }
}

#[test]
fn an_agent_counts_for_cpus_that_kepler_does_not_tell() {
    let mut world = chat();
    world.observation.telemetry.node_cpu.clear();
    world.turn();
    assert_eq!(world.domain_says("rack", "DataFresh"), "False NoData");
    let sample = Sample { value: Watts::new(200), at: world.now, source: Source::Agent };
    world.observation.telemetry.agent_cpu.insert("n0".to_owned(), sample);
    world.turn();
    assert_eq!(world.domain_says("rack", "DataFresh"), "True DataFresh");
}

#[test]
fn while_sources_lie_apart_the_higher_counts_and_nothing_is_relaxed() {
    let mut world = chat();
    let since = world.now;
    let apart = Apart { higher: Source::Agent, lower: Source::DcgmExporter, since };
    world.observation.telemetry.apart.insert("GPU-a".to_owned(), apart);
    for _ in 0..6 {
        world.pass(5);
        exporter_reads(&mut world, 100);
        agent_reads(&mut world, 430);
        world.turn();
        let lasted = world.now.duration_since(since) > SignedDuration::from_secs(15);
        let (says, watts) = if lasted { ("False SourcesDiffer", 430) } else { ("Unknown -", 100) };
        assert_eq!(world.policy_says("chat", "SourcesAgree"), says);
        assert_eq!(world.domain_says("rack", "SourcesAgree"), says);
        assert_eq!(power(&world), Some(watts));
    }
    // 100 W by both is below the threshold at which a ceiling is relaxed, and so it would be.
    let doubted = clock(&world);
    world.pass(5);
    exporter_reads(&mut world, 100);
    agent_reads(&mut world, 110);
    world.turn();
    assert_eq!(clock(&world), doubted, "still in doubt");
    world.observation.telemetry.apart.clear();
    world.turn();
    assert!(clock(&world) > doubted);
    assert_eq!(world.policy_says("chat", "SourcesAgree"), "Unknown -");
    assert_eq!(world.domain_says("rack", "SourcesAgree"), "Unknown -");
    assert!(world.decide().is_empty());
}
