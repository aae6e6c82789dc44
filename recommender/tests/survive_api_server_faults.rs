//! Whatever the API server does: no panic, nothing raised above a cap, the reason is said within 30 s, what was
//! asked for meanwhile is done once it is well again, and then nothing is written any more.

use std::time::{Duration, Instant};

use crate::{
    apiserver::{ApiServer, Link, Manner},
    process::{CAP, Recommender, all_hold, edit_cap, eventually, rack, share, silence},
};

/// What is waited for and is no claim about time.
const SETTLES: Duration = Duration::from_secs(60);

/// A fault, how long it lasts, what is said of it, and how soon after it all is as it should be.
struct Fault {
    name: &'static str,
    begin: fn(&ApiServer),
    lasts: u64,
    says: &'static str,
    heals_within: u64,
}

const WELL: fn(&ApiServer) = |server| {
    server.behave(Manner::Well);
    server.wire(Link::Up);
};

const FAULTS: [Fault; 9] = [
    Fault {
        name: "away",
        begin: |server| server.wire(Link::Cut),
        lasts: 60,
        says: "the lease is not to be had",
        heals_within: 20,
    },
    Fault {
        name: "a black hole",
        begin: |server| server.wire(Link::Silent),
        lasts: 45,
        says: "no answer within 2 s",
        heals_within: 40,
    },
    Fault {
        name: "overloaded",
        begin: |server| server.behave(Manner::Status(429)),
        lasts: 60,
        says: "try again",
        heals_within: 20,
    },
    Fault {
        name: "its own errors",
        begin: |server| server.behave(Manner::Status(500)),
        lasts: 30,
        says: "try again",
        heals_within: 20,
    },
    Fault {
        name: "unavailable",
        begin: |server| server.behave(Manner::Status(503)),
        lasts: 30,
        says: "try again",
        heals_within: 20,
    },
    Fault {
        name: "a conflict at each write",
        begin: |server| server.behave(Manner::Conflicting),
        lasts: 15,
        says: "the API server refused the write",
        heals_within: 10,
    },
    Fault {
        name: "slow",
        begin: |server| server.behave(Manner::Slow(Duration::from_secs(4))),
        lasts: 20,
        says: "no answer within 2 s",
        heals_within: 20,
    },
    Fault {
        name: "watches that are gone",
        begin: |server| server.behave(Manner::Gone),
        lasts: 20,
        says: "a watch broke; trying again",
        heals_within: 40,
    },
    Fault {
        name: "open connections hang",
        begin: |server| server.wire(Link::OldSilent),
        lasts: 0,
        // The Lease is waited for 2 s, a write 3 s; either may meet with them first.
        says: "no answer within",
        heals_within: 40,
    },
];

/// Of one recommender at the most while all fail, with a decision a second: a write for each of four nodes and a
/// status; else a Lease and, seldom, five watches.
const REQUESTS_A_SECOND: u64 = 6;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_fault_of_the_api_server_is_survived() {
    let outcomes = futures::future::join_all(FAULTS.iter().map(survive)).await;
    let failed: Vec<_> = outcomes.into_iter().flatten().collect();
    assert!(failed.is_empty(), "{failed:#?}");
}

/// What of the claims does not hold under this fault.
async fn survive(fault: &Fault) -> Vec<String> {
    let mut failed = Vec::new();
    let mut claim = |holds: bool, what: &str| {
        if !holds {
            failed.push(format!("{}: {what}", fault.name));
        }
    };
    let server = rack().await;
    let mut recommender = Recommender::start(&server, &[]);
    let settled = eventually(SETTLES, || all_hold(&server, share(CAP))).await;
    claim(settled, "the rack settles at first");
    claim(silence(&server, SETTLES).await, "and is silent");

    let (began, said) = (Instant::now(), recommender.said_so_far());
    (fault.begin)(&server);
    edit_cap(&server, "rack", 16_000);
    let told = eventually(Duration::from_secs(30), || recommender.said(said).contains(fault.says)).await;
    claim(told, &format!("the reason is said: {}", recommender.said(said)));
    tokio::time::sleep(Duration::from_secs(fault.lasts).saturating_sub(began.elapsed())).await;
    let asked: u64 = server.state().requests.iter().filter(|(word, _)| *word != "200").map(|(_, count)| count).sum();
    let most = REQUESTS_A_SECOND * began.elapsed().as_secs().max(1);
    claim(asked <= most, &format!("{asked} requests were refused, {most} at the most"));

    let healed = Instant::now();
    WELL(&server);
    let done = eventually(Duration::from_secs(fault.heals_within), || all_hold(&server, share(16_000))).await;
    claim(done, "what was asked for meanwhile is done");
    eprintln!(
        "{}: healed in {:.1} s, {asked} requests refused in {} s",
        fault.name,
        healed.elapsed().as_secs_f64(),
        (healed - began).as_secs()
    );
    claim(silence(&server, SETTLES).await, "it falls silent");
    let violations = server.state().store.ledger.violations.clone();
    claim(violations.is_empty(), &format!("conservation: {violations:?}"));
    claim(recommender.runs() && !recommender.said(0).contains("panicked"), "it runs on");
    failed
}
