//! A recommender that dies, or stops and wakes up, at any moment: the next one takes over, and at no moment is more
//! committed than a cap allows, whoever wrote it.

use std::time::{Duration, Instant};

use crate::{
    apiserver::{ApiServer, Key, Manner},
    process::{CAP, NODES, Recommender, all_hold, edit_cap, eventually, grants, rack, share, silence, writes_since},
};

/// From a leader's death until another one has lowered every node, and everything else that is waited for.
const TAKEOVER: Duration = Duration::from_secs(15);
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
    _ = eventually(Duration::from_secs(2), || server.state().writes_left == Some(0)).await;
    edit_cap(&server, "rack", 22_000);
    if !eventually(Duration::from_secs(10), || server.state().writes_left == Some(0)).await {
        failed.push(format!("only {:?} of {writes} writes were left", server.state().writes_left));
    }
    first.signal("KILL");
    // A write on its way would be the API server's to carry out under the cap of then: none is on its way any more.
    if !eventually(Duration::from_secs(10), || server.connections() == 0).await {
        failed.push(format!("{} connections of the killed one are open", server.connections()));
    }
    edit_cap(&server, "rack", 18_000);
    server.state().writes_left = None;
    let _second = Recommender::start(&server, &[]);
    failed.extend(ends_well(&server, 18_000).await);
    failed
}

/// Two recommenders, the leader first, and the term that it leads in.
async fn two(server: &ApiServer) -> (Recommender, Recommender) {
    let [a, b] = ["a", "b"].map(|name| (name, Recommender::start(server, &["--identity", name])));
    assert_eq!(ends_well(server, CAP).await, Vec::<String>::new());
    let holder = {
        let state = server.state();
        let key = Key { namespace: Some("powercap-system".into()), ..Key::of("leases", "powercap-recommender") };
        state.store.get(&key).unwrap()["spec"]["holderIdentity"].as_str().unwrap().to_owned()
    };
    if holder.starts_with("a_") { (a.1, b.1) } else { (b.1, a.1) }
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
    let lowered = eventually(TAKEOVER, || {
        let now = grants(&server);
        raised |= now.iter().zip(&before).any(|(now, before)| now.is_none() || now > before);
        now.iter().all(|grant| *grant == Some(share(16_000)))
    });
    assert!(lowered.await, "{:?} after {:?}", grants(&server), died.elapsed());
    eprintln!("taken over in {:.1} s", died.elapsed().as_secs_f64());
    assert!(!raised, "nothing is raised in between");
    assert_eq!(ends_well(&server, 16_000).await, Vec::<String>::new());
    assert!(other.runs());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_stops_and_wakes_up_later_changes_nothing() {
    let server = rack().await;
    let (mut leader, _other) = two(&server).await;
    // Its raises are on their way when it stops.
    server.behave(Manner::Holding);
    edit_cap(&server, "rack", 30_000);
    assert!(eventually(SETTLES, || server.state().held == NODES as usize).await);
    leader.signal("STOP");
    server.behave(Manner::Well);
    edit_cap(&server, "rack", 16_000);
    assert!(eventually(TAKEOVER, || all_hold(&server, share(16_000))).await, "{:?}", grants(&server));

    let (woken, refused) = (Instant::now(), server.state().requests.get("409").copied().unwrap_or_default());
    server.let_go();
    assert!(
        eventually(SETTLES, || server
            .state()
            .requests
            .get("409")
            .is_some_and(|now| *now == refused + u64::from(NODES)))
        .await
    );
    let said = leader.said_so_far();
    leader.signal("CONT");
    assert!(eventually(SETTLES, || leader.said(said).contains("no longer leading")).await);
    assert_eq!(ends_well(&server, 16_000).await, Vec::<String>::new());
    let late = writes_since(&server, woken);
    assert!(late.iter().all(|write| write.key.plural != "nodefrequencies"), "{late:?}");
    assert!(leader.runs());
}
