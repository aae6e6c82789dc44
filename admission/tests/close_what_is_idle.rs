//! A connection on which nothing comes is closed, so that those of API servers that are gone take no room; one that is
//! used, or on which an answer is owed, is not.

use std::time::Duration;

use hyper::StatusCode;
use powercap_admission::cluster::Cluster;
use serde_json::json;
use tokio::{
    io::AsyncWriteExt,
    time::{Instant, sleep, timeout},
};

use crate::served::{Served, read_all, review_of};

const IDLE: Duration = Duration::from_millis(400);
const PATIENCE: Duration = Duration::from_secs(5);

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
    let (mut client, closed) = served.http2_until_closed().await;
    let begun = Instant::now();
    while begun.elapsed() < 4 * IDLE {
        assert_eq!(client.post(review().into()).await.unwrap(), StatusCode::OK, "after {:?}", begun.elapsed());
        sleep(IDLE / 8).await;
    }
    assert!(!closed.is_finished());
    timeout(PATIENCE, closed).await.expect("it is closed").unwrap().unwrap();
}

#[tokio::test]
async fn one_on_which_an_answer_is_owed_stays() {
    let served = served().await;
    let mut stream = served.connect(b"http/1.1").await;
    let review = review();
    let (first, rest) = review.split_at(100);
    let length = review.len();
    let header =
        format!("POST /mutate HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nContent-Length: {length}");
    stream.write_all(format!("{header}\r\n\r\n{first}").as_bytes()).await.unwrap();
    sleep(5 * IDLE / 2).await;
    stream.write_all(rest.as_bytes()).await.unwrap();
    let answer = read_all(&mut stream, PATIENCE).await.expect("it is answered, and closed when it rests");
    assert!(answer.starts_with("HTTP/1.1 200") && answer.contains("\"allowed\":true"), "{answer}");
}
