//! A connection on which nothing comes is closed, so that those of API servers that are gone take no room; one that is
//! used, or on which an answer is owed, is not.

use std::time::Duration;

use hyper::StatusCode;
use powercap_admission::cluster::Cluster;
use serde_json::json;
use tokio::{
    io::AsyncWriteExt,
    task::JoinHandle,
    time::{Instant, sleep, timeout},
};

use crate::served::{PATIENCE, Served, begin, read_all, review_of, unhurried};

const IDLE: Duration = Duration::from_millis(400);

async fn served() -> Served {
    Served::that_closes_after(IDLE, Cluster::default()).await
}

fn review() -> String {
    review_of(&json!({"metadata": {"name": "a"}, "spec": {"containers": [{"name": "c"}]}})).to_string()
}

#[tokio::test]
async fn one_on_which_nothing_comes_is_closed_and_no_sooner() {
    let served = served().await;
    let begun = Instant::now();
    let (_client, closed) = served.http2_until_closed().await;
    timeout(PATIENCE, closed).await.expect("it is closed").unwrap().unwrap();
    assert!(begun.elapsed() >= IDLE, "after {:?}", begun.elapsed());
}

#[tokio::test]
async fn one_that_is_used_stays_until_it_rests() {
    let served = served().await;
    for _ in 0..5 {
        if let Some(closed) = used(&served).await {
            return timeout(PATIENCE, closed).await.expect("it is closed").unwrap().unwrap();
        }
    }
    panic!("five times the machine paused for as long as a connection may rest");
}

/// A connection that was used for four times as long as it may rest; none, if the machine paused in between.
async fn used(served: &Served) -> Option<JoinHandle<hyper::Result<()>>> {
    let begun = Instant::now();
    let mut last = begun;
    let (mut client, closed) = served.http2_until_closed().await;
    while begun.elapsed() < 4 * IDLE {
        let answer = client.post(review().into()).await;
        if last.elapsed() > IDLE / 2 {
            return None;
        }
        assert_eq!(answer.unwrap(), StatusCode::OK, "after {:?}", begun.elapsed());
        last = Instant::now();
        sleep(IDLE / 8).await;
    }
    Some(closed)
}

#[tokio::test]
async fn one_on_which_an_answer_is_owed_stays() {
    let served = served().await;
    let answer = unhurried(async || {
        let mut stream = served.connect(b"http/1.1").await;
        let rest = begin(&mut stream, "keep-alive", &review()).await?;
        sleep(5 * IDLE / 2).await;
        stream.write_all(rest.as_bytes()).await.ok()?;
        Some(read_all(&mut stream).await.expect("it is answered, and closed when it rests"))
    })
    .await;
    assert!(answer.starts_with("HTTP/1.1 200") && answer.contains("\"allowed\":true"), "{answer}");
}
