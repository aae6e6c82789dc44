//! A recommender that dies, or stops and wakes up, at any moment: the next one takes over, and at no moment is more
//! committed than a cap allows, whoever wrote it.

use std::time::{Duration, Instant};

use serde_json::Value;

use crate::{
    apiserver::{ApiServer, Key, Manner},
    process::{
        CAP, NODES, Recommender, all_hold, edit_cap, eventually, grants, quiet, rack, share, silence, writes_since,
    },
};

/// From a leader's death until another one has lowered every node that one looks so often at the Lease. It is fifteen
/// seconds by its own clock: nine until it leads, with a look a second, and then a look in two seconds.
const TAKEOVER_LOOKS: usize = 12;
/// Everything that is waited for.
const SETTLES: Duration = Duration::from_secs(60);

/// What of the claims about an end of the story does not hold.
async fn ends_well(server: &ApiServer, cap: u32) -> Vec<String> {
    let mut failed = Vec::new();
    if !eventually(SETTLES, || all_hold(server, share(cap))).await {
        failed.push(format!("every node holds its share of {cap} W: {:?}", grants(server)));
    }
    if !silence(server, SETTLES).await {
        failed.push("nothing is written any more".to_owned());
    }
    failed.extend(server.state().store.ledger.violations.clone());
    failed
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_after_any_write_it_leaves_nothing_that_breaks_a_cap() {
    // A raise of every node, the domain's statuses, and what comes after.
    let stories = (1..=9).map(|writes| async move {
        let failed = killed_after(writes).await;
        (!failed.is_empty()).then(|| format!("killed after write {writes}: {failed:?}"))
    });
    let failed: Vec<_> = futures::future::join_all(stories).await.into_iter().flatten().collect();
    assert!(failed.is_empty(), "{failed:#?}");
}

async fn killed_after(writes: usize) -> Vec<String> {
    let server = rack().await;
    let first = Recommender::start(&server, &[]);
    let mut failed = ends_well(&server, CAP).await;
    server.state().writes_left = Some(writes);
    // Written are a raise of each node and statuses, and then, as far as it comes, a cut.
    edit_cap(&server, "rack", 30_000);
    let raised = || all_hold(&server, share(30_000)) && quiet(&server);
    _ = eventually(SETTLES, || server.state().writes_left == Some(0) || raised()).await;
    edit_cap(&server, "rack", 22_000);
    if !eventually(SETTLES, || server.state().writes_left == Some(0)).await {
        failed.push(format!("only {:?} of {writes} writes were left", server.state().writes_left));
    }
    first.signal("KILL");
    // A write on its way would be the API server's to carry out under the cap of then: none is on its way any more.
    if !eventually(SETTLES, || server.connections() == 0).await {
        failed.push(format!("{} connections of the killed one are open", server.connections()));
    }
    edit_cap(&server, "rack", 18_000);
    server.state().writes_left = None;
    let _second = Recommender::start(&server, &[]);
    failed.extend(ends_well(&server, 18_000).await);
    failed
}

/// What the Lease says.
fn lease(server: &ApiServer) -> Value {
    let key = Key { namespace: Some("powercap-system".into()), ..Key::of("leases", "powercap-recommender") };
    server.state().store.get(&key).unwrap()["spec"].clone()
}

/// Two recommenders, the leader first.
async fn two(server: &ApiServer) -> (Recommender, Recommender) {
    let [a, b] = ["a", "b"].map(|name| Recommender::start(server, &["--identity", name]));
    assert_eq!(ends_well(server, CAP).await, Vec::<String>::new());
    if lease(server)["holderIdentity"].as_str().unwrap().starts_with("a_") { (a, b) } else { (b, a) }
}

/// How often the Lease was looked at from a moment until the last grant was written.
fn looks_until_lowered(server: &ApiServer, since: Instant) -> usize {
    let grants = writes_since(server, since).into_iter().filter(|write| write.key.plural == "nodefrequencies");
    let lowered = grants.map(|write| write.at).max().unwrap();
    server.state().looks.iter().filter(|look| (since..lowered).contains(*look)).count()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn when_the_leader_dies_the_other_lowers_what_was_cut_within_fifteen_seconds() {
    let server = rack().await;
    let (leader, mut other) = two(&server).await;
    let died = Instant::now();
    leader.signal("KILL");
    edit_cap(&server, "rack", 16_000);
    let before = grants(&server);
    let mut raised = false;
    let lowered = eventually(SETTLES, || {
        let now = grants(&server);
        raised |= now.iter().zip(&before).any(|(now, before)| now.is_none() || now > before);
        now.iter().all(|grant| *grant == Some(share(16_000)))
    });
    assert!(lowered.await, "{:?} after {:?}", grants(&server), died.elapsed());
    let looks = looks_until_lowered(&server, died);
    eprintln!("taken over in {:.1} s, with {looks} looks at the Lease", died.elapsed().as_secs_f64());
    assert!(looks <= TAKEOVER_LOOKS, "{looks} looks at the Lease");
    assert!(!raised, "nothing is raised in between");
    assert_eq!(ends_well(&server, 16_000).await, Vec::<String>::new());
    assert!(other.runs());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_stops_and_wakes_up_later_changes_nothing() {
    let server = rack().await;
    let (mut leader, _other) = two(&server).await;
    // Its raises are on their way when it stops; those that it has just given up are not.
    server.behave(Manner::Holding(i64::MAX));
    edit_cap(&server, "rack", 30_000);
    loop {
        assert!(eventually(SETTLES, || server.held() == NODES as usize).await);
        leader.signal("STOP");
        if server.held() == NODES as usize {
            break;
        }
        leader.signal("CONT");
    }
    let stopped = Instant::now();
    server.behave(Manner::Holding(lease(&server)["leaseTransitions"].as_i64().unwrap()));
    edit_cap(&server, "rack", 16_000);
    assert!(eventually(SETTLES, || all_hold(&server, share(16_000))).await, "{:?}", grants(&server));
    let looks = looks_until_lowered(&server, stopped);
    assert!(looks <= TAKEOVER_LOOKS, "{looks} looks at the Lease");

    let refusals = || server.state().requests.get("409").copied().unwrap_or_default();
    let (woken, refused) = (Instant::now(), refusals());
    server.let_go();
    assert!(eventually(SETTLES, || refusals() >= refused + u64::from(NODES)).await);
    let said = leader.said_so_far();
    leader.signal("CONT");
    assert!(eventually(SETTLES, || leader.said(said).contains("no longer leading")).await);
    assert_eq!(ends_well(&server, 16_000).await, Vec::<String>::new());
    let late = writes_since(&server, woken);
    assert!(late.iter().all(|write| write.key.plural != "nodefrequencies"), "{late:?}");
    assert!(leader.runs());
}
