//! Killed after any write, asleep before any write: the same end, and no pod too many, with one victim at a time and
//! with several at once.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use powercap_actuator::escalate::{
    apply::Writer,
    decide::decide,
    metrics::Metrics,
    observation::{Limits, Memory},
};
use powercap_common::{api::Escalated, reason::Reason};
use powercap_process::leader::Leadership;
use serde_json::Value;

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
    limits: Limits,
}

impl Leader {
    fn new(cluster: &Cluster, at_once: usize) -> Self {
        let writer = Writer::new(cluster.client(), "test".into(), Metrics::default());
        let limits = Limits { for_a_policy: at_once, in_a_namespace: at_once.max(2), ..Limits::default() };
        Self { cluster: cluster.clone(), writer, memory: Memory::default(), limits }
    }

    /// Observes, decides and carries out.
    async fn turn(&mut self) {
        let (mut seen, now) = {
            let world = self.cluster.world();
            (world.observe(&self.memory), at(world.second).0)
        };
        seen.limits = self.limits;
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

/// All victims may be taken at once.
const ALL: usize = 4;

fn assert_same_end(cluster: &Cluster, at_once: usize, when: &str) {
    let done = done(cluster);
    assert_eq!(done.iter().collect::<BTreeSet<_>>().len(), done.len(), "{when}: something was done twice: {done:?}");
    assert_eq!(done, ["uid-chat-1", "Job/train", "uid-more-1"], "{when}");
    let world = cluster.world();
    assert_eq!(world.watts(), 700, "{when}");
    let apart = world.effects.windows(2).map(|pair| pair[1].1 - pair[0].1);
    let apart: Vec<_> = apart.collect();
    if at_once == 1 {
        assert!(apart.iter().all(|seconds| *seconds >= SETTLE), "{when}: steps {apart:?} seconds apart");
    } else {
        assert!(apart.iter().all(|seconds| *seconds <= TURN), "{when}: {apart:?} seconds apart, of one step");
    }
}

/// How many writes all of it takes.
async fn undisturbed(at_once: usize) -> usize {
    let cluster = Cluster::serve(World::new()).await;
    cluster.strike(Fault::None);
    Leader::new(&cluster, at_once).turns(TURNS).await;
    assert_same_end(&cluster, at_once, "undisturbed");
    cluster.writes()
}

/// Killed by this, and so many seconds until the next leads.
async fn killed(fault: Fault, at_once: usize, gap: i64) {
    let cluster = Cluster::serve(World::new()).await;
    cluster.strike(fault);
    let mut first = Leader::new(&cluster, at_once);
    tokio::select! {
        () = first.turns(TURNS) => unreachable!("{fault:?} did not strike"),
        () = cluster.struck() => {}
    }
    drop(first);
    cluster.world().pass(gap);
    Leader::new(&cluster, at_once).turns(TURNS).await;
    assert_same_end(&cluster, at_once, &format!("{fault:?}, {at_once} at once, {gap} s until the next"));
}

#[tokio::test]
async fn whoever_leads_after_a_death_at_any_write_comes_to_the_same_end_and_evicts_nobody_twice() {
    powercap_process::install_tls_provider();
    for (at_once, least) in [(1, 10), (ALL, 5)] {
        let writes = undisturbed(at_once).await;
        assert!(writes > least, "only {writes} writes");
        for number in 1..=writes {
            killed(Fault::After(number), at_once, 0).await;
            killed(Fault::Before(number), at_once, 0).await;
        }
    }
}

#[tokio::test]
async fn what_is_done_long_after_it_was_told_is_given_its_time_all_the_same() {
    powercap_process::install_tls_provider();
    for number in 1..=undisturbed(1).await {
        killed(Fault::After(number), 1, 4 * SETTLE).await;
        killed(Fault::Before(number), 1, 4 * SETTLE).await;
    }
}

#[tokio::test]
async fn a_leader_that_slept_before_any_write_wakes_up_to_no_second_effect() {
    powercap_process::install_tls_provider();
    for at_once in [1, ALL] {
        for number in 1..=undisturbed(at_once).await {
            for turns in [1, 4, TURNS] {
                slept(number, turns, at_once).await;
            }
        }
    }
}

/// The first leader falls asleep before this write, the second leads for so many turns, and the first wakes up in the
/// belief that it leads, for the rest of its turn.
async fn slept(number: usize, turns: usize, at_once: usize) {
    let cluster = Cluster::serve(World::new()).await;
    cluster.strike(Fault::Held(number));
    let mut first = Leader::new(&cluster, at_once);
    let sleeper = tokio::spawn(async move {
        first.turn().await;
        while first.cluster.writes() < number {
            first.cluster.world().pass(TURN);
            first.turn().await;
        }
    });
    cluster.struck().await;
    let mut second = Leader::new(&cluster, at_once);
    second.turns(turns).await;
    cluster.let_go();
    sleeper.await.unwrap();
    second.turns(TURNS).await;
    assert_same_end(&cluster, at_once, &format!("asleep before write {number}, for {turns} turns, {at_once} at once"));
}

/// The policy's `status.escalated`: the UIDs of what was last done.
fn told(cluster: &Cluster) -> Vec<String> {
    let escalated = cluster.world().policy["status"]["escalated"].clone();
    let escalated: Escalated = serde_json::from_value(escalated).unwrap();
    escalated.deeds().map(|deed| deed.uid.clone()).collect()
}

#[tokio::test]
async fn of_several_at_once_all_stand_in_status_before_the_first_is_done() {
    powercap_process::install_tls_provider();
    let cluster = Cluster::serve(World::new()).await;
    cluster.strike(Fault::Before(2));
    let mut leader = Leader::new(&cluster, ALL);
    tokio::select! {
        () = leader.turn() => unreachable!("it waits for the first eviction"),
        () = cluster.struck() => {}
    }
    assert_eq!((told(&cluster), done(&cluster)), (THREE.map(str::to_owned).to_vec(), vec![]));
}

const THREE: [&str; 3] = ["uid-chat-1", "uid-train", "uid-more-1"];

#[test]
fn of_several_at_once_each_has_its_own_reason() {
    let mut seen = World::new().observe(&Memory::default());
    (seen.limits.for_a_policy, seen.limits.in_a_namespace) = (ALL, ALL);
    let plan = decide(&seen, at(0).0);
    let reasons: Vec<_> = plan.steps[0].acts().map(|(_, what)| plan.steps[0].why(what)).collect();
    assert_eq!(reasons, [Reason::Evicted, Reason::JobSuspended, Reason::Evicted]);
}

#[tokio::test]
async fn what_was_refused_of_several_stands_in_status_no_more_and_the_others_are_done() {
    powercap_process::install_tls_provider();
    for (pod, code, stands, effects) in [
        ("chat-1", 403, vec![1, 2], vec!["Job/train", "uid-more-1"]),
        ("more-1", 500, vec![0, 1], vec!["uid-chat-1", "Job/train"]),
        // The server asks for patience: nothing else is begun.
        ("chat-1", 429, vec![], vec![]),
        ("more-1", 429, vec![0, 1], vec!["uid-chat-1", "Job/train"]),
        // Who is gone counts as done.
        ("chat-1", 404, vec![0, 1, 2], vec!["Job/train", "uid-more-1"]),
    ] {
        let cluster = Cluster::serve(World::new()).await;
        cluster.world().refused.insert(pod.into(), code);
        let mut leader = Leader::new(&cluster, ALL);
        leader.turn().await;
        let stands: Vec<_> = stands.into_iter().map(|at: usize| THREE[at]).collect();
        assert_eq!(told(&cluster), stands, "{pod}: {code}");
        assert_eq!(done(&cluster), effects, "{pod}: {code}");
    }
}

#[tokio::test]
async fn no_answer_ends_a_step_and_what_was_not_begun_is_next() {
    powercap_process::install_tls_provider();
    let cluster = Cluster::serve(World::new()).await;
    cluster.strike(Fault::Before(2));
    let mut leader = Leader::new(&cluster, ALL);
    leader.turn().await;
    assert_eq!((told(&cluster), cluster.writes()), (THREE.map(str::to_owned).to_vec(), 2));
    leader.turn().await;
    assert_eq!(done(&cluster), ["Job/train", "uid-more-1"], "the first is left alone for a while");
    assert_eq!(cluster.writes(), 4, "they stood in status since this second");
}

#[tokio::test]
async fn what_goes_in_one_step_is_told_of_on_each_object_and_on_the_policy_once_for_each_reason() {
    powercap_process::install_tls_provider();
    let cluster = Cluster::serve(World::new()).await;
    Leader::new(&cluster, ALL).turn().await;
    while cluster.events().len() < 5 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let told = |event: &Value| [text(&event["reason"]), text(&event["regarding"]["kind"]), text(&event["note"])];
    let mut told: Vec<_> = cluster.events().iter().map(told).collect();
    told.sort();
    let expected = [
        ["Evicted", "Pod", "Pod chat-1, 100 W"],
        ["Evicted", "Pod", "Pod more-1, 100 W"],
        ["Evicted", "PowerCappingPolicy", "Pod chat-1, Pod more-1, 200 W"],
        ["JobSuspended", "Job", "Job train, 200 W"],
        ["JobSuspended", "PowerCappingPolicy", "Job train, 200 W"],
    ];
    assert_eq!(told.len(), expected.len());
    for (told, [reason, kind, note]) in told.iter().zip(expected) {
        assert!(told[0] == reason && told[1] == kind && told[2].starts_with(note), "{told:?}");
    }
}

#[tokio::test]
async fn events_without_an_answer_hold_up_no_step() {
    powercap_process::install_tls_provider();
    let cluster = Cluster::serve(World::new()).await;
    cluster.hang_events();
    let began = Instant::now();
    Leader::new(&cluster, 1).turns(TURNS).await;
    assert_same_end(&cluster, 1, "without events");
    // Two events of each step would be waited for, a second each.
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
}
