//! Killed after any write, asleep before any write: the same end, and no pod too many.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use powercap_actuator::escalate::{apply::Writer, decide::decide, metrics::Metrics, observation::Memory};
use powercap_process::leader::Leadership;

use crate::cluster::{Cluster, Fault, World, at};

/// Seconds from one turn to the next, and how many until all is over.
const TURN: i64 = 10;
const TURNS: usize = 40;
/// What a step is given to show its effect.
const SETTLE: i64 = 30;

/// One who leads, or believes so.
struct Leader {
    cluster: Cluster,
    writer: Writer,
    memory: Memory,
}

impl Leader {
    fn new(cluster: &Cluster) -> Self {
        let writer = Writer::new(cluster.client(), "test".into(), Metrics::default());
        Self { cluster: cluster.clone(), writer, memory: Memory::default() }
    }

    /// Observes, decides and carries out.
    async fn turn(&mut self) {
        let (seen, now) = {
            let world = self.cluster.world();
            (world.observe(&self.memory), at(world.second).0)
        };
        let plan = decide(&seen, now);
        let leads = || Some(Leadership { term: 1, until: Instant::now() + Duration::from_secs(60) });
        self.writer.carry_out(&plan, &mut self.memory, leads).await;
    }

    /// Turn after turn; time passes between them.
    async fn turns(&mut self, count: usize) {
        for _ in 0..count {
            self.turn().await;
            self.cluster.world().pass(TURN);
        }
    }
}

/// What was done: of pods by UID, of the Job by name.
fn done(cluster: &Cluster) -> Vec<String> {
    cluster.world().effects.iter().map(|(uid, _)| uid.clone()).collect()
}

fn assert_same_end(cluster: &Cluster, when: &str) {
    let done = done(cluster);
    assert_eq!(done.iter().collect::<BTreeSet<_>>().len(), done.len(), "{when}: something was done twice: {done:?}");
    assert_eq!(done, ["uid-chat-1", "Job/train", "uid-more-1"], "{when}");
    let world = cluster.world();
    assert_eq!(world.watts(), 700, "{when}");
    let apart = world.effects.windows(2).map(|pair| pair[1].1 - pair[0].1);
    let apart: Vec<_> = apart.collect();
    assert!(apart.iter().all(|seconds| *seconds >= SETTLE), "{when}: steps {apart:?} seconds apart");
}

/// How many writes all of it takes.
async fn undisturbed() -> usize {
    let cluster = Cluster::serve(World::new()).await;
    cluster.strike(Fault::None);
    Leader::new(&cluster).turns(TURNS).await;
    assert_same_end(&cluster, "undisturbed");
    cluster.writes()
}

async fn killed(fault: Fault) {
    let cluster = Cluster::serve(World::new()).await;
    cluster.strike(fault);
    let mut first = Leader::new(&cluster);
    tokio::select! {
        () = first.turns(TURNS) => unreachable!("{fault:?} did not strike"),
        () = cluster.struck() => {}
    }
    drop(first);
    Leader::new(&cluster).turns(TURNS).await;
    assert_same_end(&cluster, &format!("{fault:?}"));
}

#[tokio::test]
async fn whoever_leads_after_a_death_at_any_write_comes_to_the_same_end_and_evicts_nobody_twice() {
    powercap_process::install_tls_provider();
    let writes = undisturbed().await;
    assert!(writes > 10, "only {writes} writes");
    for number in 1..=writes {
        killed(Fault::After(number)).await;
        killed(Fault::Before(number)).await;
    }
}

#[tokio::test]
async fn a_leader_that_slept_before_any_write_wakes_up_to_no_second_effect() {
    powercap_process::install_tls_provider();
    let writes = undisturbed().await;
    for number in 1..=writes {
        for turns in [1, 4, TURNS] {
            slept(number, turns).await;
        }
    }
}

/// The first leader falls asleep before this write, the second leads for so many turns, and the first wakes up in the
/// belief that it leads, for the rest of its turn.
async fn slept(number: usize, turns: usize) {
    let cluster = Cluster::serve(World::new()).await;
    cluster.strike(Fault::Held(number));
    let mut first = Leader::new(&cluster);
    let sleeper = tokio::spawn(async move {
        first.turn().await;
        while first.cluster.writes() < number {
            first.cluster.world().pass(TURN);
            first.turn().await;
        }
    });
    cluster.struck().await;
    let mut second = Leader::new(&cluster);
    second.turns(turns).await;
    cluster.let_go();
    sleeper.await.unwrap();
    second.turns(TURNS).await;
    assert_same_end(&cluster, &format!("asleep before write {number}, for {turns} turns"));
}
