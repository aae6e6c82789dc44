//! Σ committed + unmanaged never rises above a domain's cap, whatever is late, lost or cut.

use std::collections::{BTreeMap, BTreeSet};

use powercap_common::{api::Acknowledged, units::Watts};
use powercap_recommender::decide::{NodeWrite, grants::NO_LIMIT};
use proptest::prelude::{Just, ProptestConfig, Strategy, prop, prop_oneof, proptest};

use crate::world::World;

const NODES: usize = 4;
/// Eight boards of 700 W, and 1000 W for the CPUs.
const NAMEPLATE: u32 = 6600;

/// What may happen.
#[derive(Clone, Debug)]
enum Event {
    /// The leader decides, and its writes arrive; of those to the nodes named in the mask nobody hears:
    /// they may arrive later, or never.
    Decide { unheard: u8 },
    /// An agent reads its spec and begins to carry it out.
    Read(usize),
    /// An agent acknowledges what it read last.
    Acknowledge(usize),
    /// A write of which nobody heard arrives after all.
    Arrive(usize),
    /// A node boots, and its kubelet says so: its limits are lost.
    Boot(usize),
    /// The cap is edited.
    Cap(u32),
    /// The algorithm is edited.
    Algorithm(&'static str),
    /// The boards of a node draw this much from now on; nobody tells, where it is 0.
    Load(usize, u32),
    /// A node joins or leaves the domain.
    Move(usize),
    /// Another leader, without memory.
    NewLeader,
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        5 => prop_oneof![3 => Just(0_u8), 1 => Just(1), 1 => Just(15), 1 => 0_u8..16].prop_map(|unheard| Event::Decide { unheard }),
        4 => (0..NODES).prop_map(Event::Read),
        4 => (0..NODES).prop_map(Event::Acknowledge),
        1 => (0..NODES).prop_map(Event::Arrive),
        1 => (0..NODES).prop_map(Event::Boot),
        2 => prop_oneof![2 => Just(4000_u32), 2 => Just(6000), 2 => Just(8000), 1 => 400_u32..30_000].prop_map(Event::Cap),
        1 => (0..NODES).prop_map(Event::Move),
        2 => Just(Event::NewLeader),
    ]
}

/// The same, under algorithms that follow what is drawn and who comes first.
fn event_of_any_algorithm() -> impl Strategy<Value = Event> {
    prop_oneof![
        6 => event(),
        1 => prop_oneof![Just("uniform"), Just("proportional"), Just("priority")].prop_map(Event::Algorithm),
        1 => (0..NODES, prop_oneof![Just(0_u32), 80_u32..700]).prop_map(|(node, power)| Event::Load(node, power)),
    ]
}

/// The truth beside the world: what each node may really be drawing.
struct Model {
    world: World,
    cap: u32,
    algorithm: &'static str,
    /// What each agent read last, and so may be carrying out.
    reading: BTreeMap<usize, Option<Acknowledged>>,
    /// Grants that arrived since the acknowledged one, that one included; `None` is no limit.
    promised: BTreeMap<usize, Vec<(i64, i64, Option<u32>)>>,
    on_their_way: Vec<NodeWrite>,
    /// Nodes that booted and have acknowledged nothing since.
    booted: BTreeSet<usize>,
}

impl Model {
    fn new() -> Self {
        let mut world = World::of_nodes(NODES);
        for node in (0..NODES).map(name) {
            (0..8).for_each(|board| world.gpu(&format!("GPU-{node}-{board}"), &node, &[], 100, 1980));
        }
        world.rack(8000);
        // Before anything was promised a node draws what it likes.
        let promised = (0..NODES).map(|node| (node, vec![(0, 0, None)])).collect();
        Self {
            world,
            cap: 8000,
            algorithm: "uniform",
            reading: BTreeMap::new(),
            promised,
            on_their_way: Vec::new(),
            booted: BTreeSet::new(),
        }
    }

    fn is_member(&self, node: usize) -> bool {
        self.world.observation.nodes[&name(node)].labels["rack"] == "r1"
    }

    /// The most that the domain's nodes may be told to draw; `None` when one was told no limit.
    fn committed(&self) -> Option<u64> {
        (0..NODES)
            .filter(|node| self.is_member(*node))
            .map(|node| {
                let arrived = self.promised.get(&node).into_iter().flatten().map(|(_, _, grant)| *grant);
                let coming =
                    self.on_their_way.iter().filter(|write| write.name == name(node) && self.can_arrive(write));
                let booted = self.booted.contains(&node).then_some(Some(NAMEPLATE));
                let all: Vec<_> =
                    arrived.chain(coming.map(|write| write.spec.power_limit_watts)).chain(booted).collect();
                all.into_iter().map(|grant| grant.map(u64::from)).max_by_key(|grant| grant.unwrap_or(u64::MAX))?
            })
            .sum()
    }

    fn can_arrive(&self, write: &NodeWrite) -> bool {
        let object = self.world.observation.frequencies.get(&write.name);
        object.and_then(|object| object.metadata.resource_version.clone()) == write.resource_version
            && object.is_none_or(|object| object.spec.epoch <= write.spec.epoch)
    }

    fn arrive(&mut self, write: &NodeWrite) {
        if self.world.write(write).is_ok() {
            let node: usize = write.name[1..].parse().unwrap();
            let epoch = write.spec.epoch;
            self.promised.entry(node).or_default().push((epoch.term, epoch.sequence, write.spec.power_limit_watts));
        }
    }

    fn happen(&mut self, event: &Event) {
        match event {
            Event::Decide { unheard } => self.decide(*unheard),
            Event::Boot(node) => {
                self.world.boot(&name(*node));
                self.reading.remove(node);
                self.booted.insert(*node);
            }
            Event::Read(node) => {
                self.world.report_boot(&name(*node));
                let spec = self.world.observation.frequencies.get(&name(*node)).map(|object| &object.spec);
                let reading =
                    spec.map(|spec| Acknowledged { epoch: spec.epoch, power_limit_watts: spec.power_limit_watts });
                self.reading.insert(*node, reading);
            }
            Event::Acknowledge(node) => {
                let Some(Some(read)) = self.reading.get(node).copied() else { return };
                self.world.acknowledge_as(&name(*node), read);
                self.booted.remove(node);
                let since = (read.epoch.term, read.epoch.sequence);
                self.promised.entry(*node).or_default().retain(|(term, sequence, _)| (*term, *sequence) >= since);
            }
            Event::Arrive(which) => {
                if !self.on_their_way.is_empty() {
                    let write = self.on_their_way.remove(which % self.on_their_way.len());
                    self.arrive(&write);
                }
            }
            Event::Cap(cap) => {
                self.cap = *cap;
                self.edit();
            }
            Event::Algorithm(algorithm) => {
                self.algorithm = algorithm;
                self.edit();
            }
            Event::Load(node, power) => {
                let node = name(*node);
                self.world.cpu(&node, 200);
                for board in 0..8 {
                    let uuid = format!("GPU-{node}-{board}");
                    self.world.gpu(&uuid, &node, &[], *power, 1980);
                    if *power == 0 {
                        self.world.observation.telemetry.gpus.get_mut(&uuid).unwrap().power = None;
                    }
                }
            }
            Event::Move(node) => {
                let rack = if self.is_member(*node) { "elsewhere" } else { "r1" };
                self.world.node(&name(*node), rack);
            }
            Event::NewLeader => self.world.new_leader(),
        }
    }

    fn edit(&mut self) {
        let rack = serde_json::json!({"powerCapLimitWatts": self.cap, "algorithm": {"name": self.algorithm},
            "nodeSelector": {"matchLabels": {"rack": "r1"}}});
        self.world.domain("rack", rack);
    }

    /// Everything is heard, read and acknowledged.
    fn settle(&mut self) {
        for _ in 0..4 {
            self.happen(&Event::Decide { unheard: 0 });
            for node in 0..NODES {
                self.happen(&Event::Read(node));
                self.happen(&Event::Acknowledge(node));
            }
        }
    }

    fn decide(&mut self, unheard: u8) {
        let before = self.committed();
        let grants: BTreeMap<_, _> = self
            .world
            .observation
            .frequencies
            .iter()
            .map(|(name, object)| (name.clone(), object.spec.power_limit_watts))
            .collect();
        let plan = self.world.decide();
        for write in &plan.nodes {
            let node: usize = write.name[1..].parse().unwrap();
            if unheard & (1 << node) == 0 {
                self.arrive(write);
                self.world.observation.uncertain.remove(&write.name);
            } else {
                let grant = write.spec.power_limit_watts.map_or(NO_LIMIT, Watts::new);
                let most = self.world.observation.uncertain.entry(write.name.clone()).or_default();
                *most = (*most).max(grant);
                self.on_their_way.push(write.clone());
            }
            // Above the cap, or with a node that nobody knows of, nothing is raised.
            let fits = before.is_some_and(|before| before <= u64::from(self.cap));
            let old = grants.get(&write.name).copied().flatten();
            if !fits
                && self.is_member(node)
                && let Some((old, new)) = old.zip(write.spec.power_limit_watts)
            {
                assert!(
                    new <= old,
                    "raised {} from {old} to {new} with {before:?} committed of {}",
                    write.name,
                    self.cap
                );
            }
        }
        self.world.write_statuses(&plan);
        let after = self.committed();
        let bound = before.map(|before| before.max(u64::from(self.cap)));
        if let Some(bound) = bound {
            assert!(after.is_some_and(|after| after <= bound), "{after:?} committed after {before:?} of {}", self.cap);
        }
    }
}

fn name(node: usize) -> String {
    format!("n{node}")
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, ..ProptestConfig::default() })]

    #[test]
    fn no_sequence_of_events_promises_more_than_the_cap(
        settled in prop::bool::ANY,
        events in prop::collection::vec(event(), 1..60),
    ) {
        let mut model = Model::new();
        if settled {
            model.happen(&Event::Cap(4000));
            model.settle();
        }
        for event in &events {
            model.happen(event);
        }
    }

    #[test]
    fn no_sequence_of_events_promises_more_than_the_cap_whatever_the_algorithm(
        algorithm in prop_oneof![Just("proportional"), Just("priority")],
        events in prop::collection::vec(event_of_any_algorithm(), 1..60),
    ) {
        let mut model = Model::new();
        model.happen(&Event::Algorithm(algorithm));
        model.settle();
        for event in &events {
            model.happen(event);
        }
    }

    #[test]
    fn once_all_is_heard_and_acknowledged_the_grants_are_the_equal_shares_and_nothing_more_is_written(
        events in prop::collection::vec(event(), 1..60),
    ) {
        let mut model = Model::new();
        for event in &events {
            model.happen(event);
        }
        model.world.observation.uncertain.clear();
        model.world.settle();
        let members = (0..NODES).filter(|node| model.is_member(*node)).count();
        for node in (0..NODES).filter(|node| model.is_member(*node)) {
            let share = model.cap / u32::try_from(members).unwrap();
            assert_eq!(model.world.spec(&name(node)).power_limit_watts, Some(share.min(NAMEPLATE)));
        }
    }
}

#[test]
fn a_cut_is_written_at_once_and_a_raise_waits_for_those_who_must_make_room() {
    let mut world = two_nodes_of_eight();
    world.rack(10_000);
    world.settle();
    assert_eq!(world.grants(), [Some(5000), Some(5000)]);

    world.rack(6000);
    world.turn();
    assert_eq!(world.grants(), [Some(3000), Some(3000)]);
    // Edited back before anybody acknowledged: both are still committed for 5000 W, so both may have them.
    world.rack(10_000);
    world.turn();
    assert_eq!(world.grants(), [Some(5000), Some(5000)]);

    world.rack(6000);
    world.turn();
    world.acknowledge("n0");
    world.rack(9000);
    world.turn();
    // n1 may still be drawing 5000 W of the 9000 W, so that its 4500 W raise nothing; 4000 W are left.
    assert_eq!(world.grants(), [Some(4000), Some(4500)]);
    world.acknowledge_all();
    world.settle();
    assert_eq!(world.grants(), [Some(4500), Some(4500)]);
}

#[test]
fn a_node_that_joins_is_granted_its_share_at_once_and_raises_nobody_until_it_acknowledged() {
    let mut world = World::of_nodes(2);
    for node in ["n0", "n1", "n2"] {
        (0..8).for_each(|board| world.gpu(&format!("GPU-{node}-{board}"), node, &[], 100, 1980));
    }
    world.rack(9000);
    world.settle();
    world.node("n2", "r1");
    world.turn();
    assert_eq!(world.grants(), [Some(3000), Some(3000), Some(3000)]);
    world.acknowledge("n0");
    world.acknowledge("n1");
    world.rack(12_000);
    world.turn();
    assert_eq!(world.grants(), [Some(3000), Some(3000), Some(3000)]);
    assert_eq!(world.domain_says("rack", "Ready"), "False AwaitingAcknowledgement");
    world.settle();
    assert_eq!(world.grants(), [Some(4000), Some(4000), Some(4000)]);
}

#[test]
fn a_new_leader_rewrites_every_node_in_its_term_before_it_raises_one() {
    let mut world = two_nodes_of_eight();
    world.rack(6000);
    world.settle();
    world.new_leader();
    world.rack(8000);
    let plan = world.turn();
    assert_eq!(plan.nodes.len(), 2);
    assert_eq!(world.grants(), [Some(3000), Some(3000)]);
    assert!(plan.nodes.iter().all(|write| write.spec.epoch.term == 2));
    world.turn();
    assert_eq!(world.grants(), [Some(4000), Some(4000)]);
}

#[test]
fn a_grant_of_which_nobody_knows_whether_it_arrived_counts_as_a_commitment() {
    let mut world = two_nodes_of_eight();
    world.rack(6000);
    world.settle();
    world.rack(8000);
    world.observation.uncertain.insert("n0".into(), Watts::new(4500));
    world.turn();
    // n0 may have been told 4500 W, so that 3500 W are left for n1.
    assert_eq!(world.grants(), [Some(4000), Some(3500)]);
}

#[test]
fn a_release_of_which_nobody_knows_whether_it_arrived_raises_nobody() {
    let mut world = World::of_nodes(3);
    for node in ["n0", "n1", "n2"] {
        (0..8).for_each(|board| world.gpu(&format!("GPU-{node}-{board}"), node, &[], 100, 1980));
    }
    world.rack(6000);
    world.settle();
    world.observation.uncertain.insert("n2".into(), NO_LIMIT);
    world.rack(9000);
    world.turn();
    assert_eq!(world.grants(), [Some(2000), Some(2000), Some(2000)]);
}

#[test]
fn a_node_of_two_domains_gets_the_lesser_share() {
    let mut world = World::of_nodes(2);
    world.node("n2", "r2");
    world.rack(1200);
    let everything = serde_json::json!({"matchExpressions": [{"key": "rack", "operator": "Exists"}]});
    world.domain("row", serde_json::json!({"powerCapLimitWatts": 2700, "nodeSelector": everything}));
    world.settle();
    assert_eq!(world.grants(), [Some(600), Some(600), Some(900)]);
    assert_eq!(world.spec("n0").domains, ["rack", "row"]);
}

#[test]
fn a_node_that_booted_counts_with_its_nameplate_until_it_acknowledges() {
    let mut world = two_nodes_of_eight();
    world.rack(8000);
    world.settle();
    // The kubelet speaks first, then the agent: neither makes it count with what it was promised.
    world.boot("n0");
    for report in [false, true] {
        if report {
            world.report_boot("n0");
        }
        world.rack(9000);
        world.turn();
        assert_eq!(world.grants(), [Some(4000), Some(4000)]);
        assert_eq!(world.domain_says("rack", "Ready"), "False AwaitingAcknowledgement");
        let status = world.observation.domains[0].status.clone().unwrap();
        assert_eq!(status.committed_watts, Some(NAMEPLATE + 4000));
    }
    // A leader without memory knows it too.
    world.new_leader();
    world.turn();
    assert_eq!(world.grants(), [Some(4000), Some(4000)]);
    world.settle();
    assert_eq!(world.grants(), [Some(4500), Some(4500)]);
}

#[test]
fn a_node_that_booted_in_a_domain_with_room_for_its_nameplate_keeps_nobody_down() {
    let mut world = two_nodes_of_eight();
    world.rack(8000);
    world.settle();
    world.boot("n0");
    world.rack(12_000);
    world.turn();
    // 5400 W are left beside the nameplate of n0, and n0 is promised no more than it may draw anyway.
    assert_eq!(world.grants(), [Some(6000), Some(5400)]);
}

/// Two nodes of eight idle boards.
fn two_nodes_of_eight() -> World {
    let mut world = World::of_nodes(2);
    for node in ["n0", "n1"] {
        (0..8).for_each(|board| world.gpu(&format!("GPU-{node}-{board}"), node, &[], 100, 1980));
    }
    world
}
