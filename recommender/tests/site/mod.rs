//! A site in memory: the world, agents that advertise watts, and a toy scheduler that places pods by what is
//! advertised, as kube-scheduler does. What each of them sees of the others may lag.

use std::sync::Arc;

use powercap_common::{api::NodeOverhead, units::Watts};
use powercap_recommender::{
    decide::{Plan, offers::Offer},
    observation::{ContainerFacts, PendingPod, PodFacts, PodName, Requests},
};
use serde_json::json;

use crate::world::World;

/// Boards of a node, and the most that one draws.
pub const BOARDS: u64 = 8;
pub const BOARD: u32 = 700;
/// What a node draws beside its devices.
pub const OVERHEAD: NodeOverhead = NodeOverhead { static_watts: 500, percent: 5 };

pub struct Pod {
    pub name: PodName,
    pub requests: Requests,
    pub node: Option<usize>,
}

pub struct Site {
    pub world: World,
    pub pods: Vec<Pod>,
    /// What each agent read last.
    held: Vec<Offer>,
    /// What each Node really advertises.
    pub advertised: Vec<Watts>,
    made: usize,
}

impl Site {
    /// Idle nodes of eight boards in one rack, whose agents have told what they are.
    pub fn of_nodes(count: usize, cap: u32) -> Self {
        let mut world = World::of_nodes(count);
        for at in 0..count {
            for board in 0..BOARDS {
                world.gpu(&format!("GPU-{at}-{board}"), &name(at), &[], 70, 1980);
            }
            let facts = world.observation.nodes.get_mut(&name(at)).unwrap();
            facts.allocatable =
                Requests { gpus: BOARDS, cpu_millis: 64_000, memory_bytes: 1 << 40, ..Requests::default() };
        }
        let mut site = Self {
            world,
            pods: Vec::new(),
            held: vec![Offer::default(); count],
            advertised: vec![Watts::ZERO; count],
            made: 0,
        };
        site.cap(cap);
        site.settle();
        site
    }

    /// The rack's cap is edited.
    pub fn cap(&mut self, cap: u32) {
        let rack = json!({"powerCapLimitWatts": cap, "nodeSelector": {"matchLabels": {"rack": "r1"}},
            "nodeOverhead": {"staticWatts": OVERHEAD.static_watts, "percent": OVERHEAD.percent}});
        self.world.domain("rack", rack);
    }

    /// Somebody creates a pod.
    pub fn create(&mut self, watts: u32, gpus: u64) -> PodName {
        let name = PodName { namespace: "llm".into(), name: format!("p{:03}", self.made) };
        self.made += 1;
        let requests = Requests { watts: Watts::new(watts), gpus, ..Requests::default() };
        self.pods.push(Pod { name: name.clone(), requests, node: None });
        name
    }

    /// Where a pod was placed.
    pub fn place_of(&self, pod: &PodName) -> Option<usize> {
        self.pods.iter().find(|known| known.name == *pod).and_then(|pod| pod.node)
    }

    /// What the pods of a node request.
    pub fn requested(&self, node: usize) -> Watts {
        self.pods.iter().filter(|pod| pod.node == Some(node)).map(|pod| pod.requests.watts).sum()
    }

    /// What a node offers by its spec.
    pub fn offered(&self, node: usize) -> Watts {
        self.spec(node).left(self.requested(node))
    }

    fn spec(&self, node: usize) -> Offer {
        let object = self.world.observation.frequencies.get(&name(node));
        object.and_then(|object| Offer::told(object)).unwrap_or_default()
    }

    /// The scheduler places what fits, on the node with most left, as it does by default.
    pub fn schedule(&mut self) {
        for at in 0..self.pods.len() {
            let wanted = self.pods[at].requests;
            if self.pods[at].node.is_some() {
                continue;
            }
            let gpus = |node: usize| -> u64 {
                self.pods.iter().filter(|pod| pod.node == Some(node)).map(|pod| pod.requests.gpus).sum()
            };
            let left = |node: usize| self.advertised[node].saturating_sub(self.requested(node));
            let fits = |node: &usize| left(*node) >= wanted.watts && gpus(*node) + wanted.gpus <= BOARDS;
            self.pods[at].node = (0..self.held.len()).filter(fits).max_by_key(|node| left(*node));
        }
    }

    /// A pod ends.
    pub fn finish(&mut self, pod: usize) {
        self.pods.remove(pod);
    }

    /// The agent advertises by the offer that it holds.
    pub fn advertise(&mut self, node: usize) {
        let (requested, held) = (self.requested(node), self.held[node]);
        let open = (requested + Watts::new(held.watts)).min(Watts::new(held.total()));
        self.advertised[node] = open.max(requested);
    }

    /// The agent reads its spec, advertises, and acknowledges; of that the Node is seen first.
    pub fn act(&mut self, node: usize) {
        self.held[node] = self.spec(node);
        self.advertise(node);
        self.see_node(node);
        self.world.acknowledge(&name(node));
    }

    /// The recommender's cache of a Node catches up.
    pub fn see_node(&mut self, node: usize) {
        let facts = self.world.observation.nodes.get_mut(&name(node)).unwrap();
        facts.advertised = Some(self.advertised[node]);
    }

    /// The recommender's cache of pods catches up.
    pub fn see_pods(&mut self) {
        let observation = &mut self.world.observation;
        (observation.pods, observation.pending) = (Vec::new(), Vec::new());
        for pod in &self.pods {
            let (pod_name, requests) = (pod.name.clone(), pod.requests);
            match pod.node {
                Some(node) => observation.pods.push(Arc::new(PodFacts {
                    name: pod_name,
                    node: name(node),
                    gpus: requests.gpus,
                    containers: vec![ContainerFacts {
                        name: "main".to_owned(),
                        gpus: requests.gpus,
                        watts: Some(requests.watts).filter(|watts| *watts > Watts::ZERO),
                        ..ContainerFacts::default()
                    }],
                    requests,
                    ..PodFacts::default()
                })),
                None => {
                    observation.pending.push(Arc::new(PendingPod {
                        name: pod_name,
                        requests,
                        ..PendingPod::default()
                    }));
                }
            }
        }
    }

    pub fn decide(&mut self) -> Plan {
        self.world.turn()
    }

    /// Everybody does what there is to do, once.
    pub fn step(&mut self) -> Plan {
        self.see_pods();
        let plan = self.decide();
        (0..self.held.len()).for_each(|node| self.act(node));
        self.schedule();
        (0..self.held.len()).for_each(|node| {
            self.advertise(node);
            self.see_node(node);
        });
        self.see_pods();
        plan
    }

    /// Until nothing is written any more, and nothing that was placed asks for it.
    pub fn settle(&mut self) {
        let mut quiet = 0;
        for _ in 0..40 {
            quiet = if self.step().nodes.is_empty() { quiet + 1 } else { 0 };
            if quiet == 2 {
                return;
            }
        }
        panic!("does not settle: {:#?}", self.world.decide().nodes);
    }

    /// What the rack may come to draw by what was told, is held or is advertised, or is requested already.
    pub fn committed(&self) -> Watts {
        let node = |node: usize| {
            let told = Watts::new(self.spec(node).total().max(self.held[node].total()));
            OVERHEAD.node_power(told.max(self.advertised[node]).max(self.requested(node)))
        };
        (0..self.held.len()).map(node).sum()
    }

    /// The spec of a node, to be changed by hand.
    pub fn edit(&mut self, node: usize, change: impl FnOnce(&mut powercap_common::api::NodeFrequencies)) {
        change(Arc::make_mut(self.world.observation.frequencies.get_mut(&name(node)).unwrap()));
    }
}

pub fn name(node: usize) -> String {
    format!("n{node}")
}
