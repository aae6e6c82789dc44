//! Whatever is sent to the real server: a readable review of a pod is allowed, what is none gets a 4xx, and nobody
//! keeps others waiting.

use std::time::{Duration, Instant};

use hyper::StatusCode;
use serde_json::{Value, json};
use tokio::{io::AsyncWriteExt, net::TcpStream, time::timeout};

use crate::{
    served::{Authority, PATIENCE, Served, begin, connect, read_all, review_of, unhurried},
    world::{World, pod, watts},
};

const JSON: &str = "application/json";

async fn served() -> Served {
    Served::with(World::new().cluster()).await
}

#[tokio::test]
async fn a_review_is_answered_with_its_patch_over_http_1_and_2() {
    let served = served().await;
    let review = review_of(&pod(&json!({})));
    let response = served.review(&review).await;
    assert_eq!((&response["allowed"], &response["patchType"]), (&json!(true), &json!("JSONPatch")));
    let mut http2 = served.http2().await;
    assert_eq!(http2.post(review.to_string().into()).await.unwrap(), StatusCode::OK);
}

#[tokio::test]
async fn what_is_no_review_gets_a_4xx_that_says_why() {
    let served = served().await;
    let review = review_of(&pod(&json!({}))).to_string();
    let cut = review[..review.len() / 2].to_owned();
    let nested = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
    for (kind, body, status, says) in [
        (JSON, cut.into_bytes(), 400, "EOF"),
        (JSON, b"\xc3\x28".to_vec(), 400, "UTF-8"),
        (JSON, nested.clone().into_bytes(), 400, "no AdmissionReview"),
        (JSON, "[".repeat(1 << 20).into_bytes(), 400, "no AdmissionReview"),
        (JSON, review.replace("k8s.io/v1", "k8s.io/v2").into_bytes(), 400, "k8s.io/v2"),
        (JSON, review.replace("AdmissionReview", "Status").into_bytes(), 400, "Status"),
        (JSON, review.replace("\"uid\"", "\"id\"").into_bytes(), 400, "uid"),
        (JSON, vec![b' '; (4 << 20) as usize], 413, "3 MiB"),
        ("text/plain", review.clone().into_bytes(), 415, "Content-Type"),
        ("", review.into_bytes(), 415, "Content-Type"),
    ] {
        let (answered, text) = served.post(kind, body).await;
        assert_eq!(answered.as_u16(), status, "{text}");
        assert!(text.as_str().unwrap_or_default().contains(says), "{text}");
    }
}

#[tokio::test]
async fn a_readable_review_of_a_pod_is_always_allowed() {
    let served = served().await;
    let many = |count: usize| -> Value {
        let mut pod = pod(&json!({}));
        pod["spec"]["containers"] =
            (0..count).map(|at| json!({"name": format!("c{at}"), "resources": watts("1e309")})).collect();
        pod
    };
    let mut deep = pod(&json!({}));
    deep["spec"]["affinity"] = json!({"future": (0..100).fold(json!(1), |inner, _| json!([inner]))});
    let mut without_names = pod(&json!({}));
    without_names["spec"]["containers"] = json!([{}, {"resources": watts("-1")}]);
    for pod in [many(500), deep, without_names, json!({}), json!({"spec": "none"}), json!([]), Value::Null] {
        let response = served.review(&review_of(&pod)).await;
        assert_eq!(response["allowed"], true, "{pod}");
        let warnings = response["warnings"].as_array().cloned().unwrap_or_default();
        assert!(warnings.iter().all(|warning| warning.as_str().unwrap().len() <= 256));
    }
    for amount in ["1e309", "-1", "0.1m"] {
        assert_eq!(served.review(&review_of(&pod(&watts(amount)))).await["allowed"], true, "{amount}");
    }
}

#[tokio::test]
async fn depth_costs_no_stack() {
    let served = served().await;
    let review = review_of(&pod(&json!({}))).to_string();
    let nested = format!("\"spec\":{{\"future\":{}{},", "[".repeat(500_000), "]".repeat(500_000));
    let (status, answer) = served.post(JSON, review.replace("\"spec\":{", &nested)).await;
    assert_eq!((status, &answer["response"]["allowed"]), (StatusCode::OK, &json!(true)));
}

#[tokio::test]
async fn other_paths_and_methods_are_told_so() {
    let served = served().await;
    for (line, status) in [("GET /mutate", "405"), ("POST /", "404")] {
        let request = format!("{line} HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: 0\r\n\r\n");
        let answer = served.raw(request.as_bytes()).await.unwrap();
        assert!(answer.starts_with(&format!("HTTP/1.1 {status}")), "{answer}");
    }
}

#[tokio::test]
async fn plain_http_is_told_to_use_https() {
    let served = served().await;
    let mut stream = TcpStream::connect(served.address).await.unwrap();
    stream.write_all(b"POST /mutate HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
    let answer = read_all(&mut stream).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 400") && answer.contains("HTTPS"), "{answer}");
}

#[tokio::test]
async fn a_client_of_another_authority_hangs_up_and_others_are_served() {
    let served = served().await;
    let stranger = connect(served.address, &Authority::new(), b"h2").await;
    assert!(stranger.is_err());
    assert_eq!(served.review(&review_of(&pod(&json!({})))).await["allowed"], true);
}

#[tokio::test]
async fn who_is_slow_is_sent_away_and_others_are_served() {
    let served = served().await;
    let mut took = Vec::new();
    // A busy machine may be late, but not each time.
    while took.last().is_none_or(|(others, all)| *others >= Duration::from_secs(2) || *all >= Duration::from_secs(5)) {
        assert!(took.len() < 5, "others, and all of them: {took:?}");
        took.push(beside_who_is_slow(&served).await);
    }
}

/// How long others wait while some are slow, and how long it takes until all are answered or sent away.
async fn beside_who_is_slow(served: &Served) -> (Duration, Duration) {
    let begun = Instant::now();
    let body = b"POST /mutate HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n{";
    let silent = async {
        let mut stream = TcpStream::connect(served.address).await.unwrap();
        read_all(&mut stream).await
    };
    let others = async {
        for _ in 0..20 {
            assert_eq!(served.review(&review_of(&pod(&json!({})))).await["allowed"], true);
        }
        begun.elapsed()
    };
    let (silent, header, body, others) = tokio::join!(silent, served.raw(b"POST /mutate HT"), served.raw(body), others);
    assert!(silent.is_some(), "one that begins no handshake");
    assert!(header.is_some(), "one that does not end its header");
    assert!(body.unwrap().contains("408"), "one that does not end its body");
    (others, begun.elapsed())
}

#[tokio::test]
async fn more_large_bodies_than_there_is_room_for_give_their_room_back() {
    let served = served().await;
    let length = 3 << 20;
    let header =
        format!("POST /mutate HTTP/1.1\r\nHost: a\r\nContent-Type: {JSON}\r\nContent-Length: {length}\r\n\r\n");
    let text = header.into_bytes();
    for round in 0..2 {
        let large = futures::future::join_all((0..20).map(|_| served.raw(&text))).await;
        for answer in large {
            let answer = answer.unwrap();
            assert!(answer.contains("408"), "round {round}: {answer}");
        }
        assert_eq!(served.review(&review_of(&pod(&json!({})))).await["allowed"], true, "round {round}");
    }
}

#[tokio::test]
async fn what_was_begun_when_the_end_came_is_answered_and_nothing_new_is_begun() {
    let answer = unhurried(async || {
        let mut served = served().await;
        let mut stream = served.connect(b"http/1.1").await;
        let rest = begin(&mut stream, "keep-alive", &review_of(&pod(&json!({}))).to_string()).await?;
        served.stop();
        let nobody_listens = async { while TcpStream::connect(served.address).await.is_ok() {} };
        timeout(PATIENCE, nobody_listens).await.expect("nobody listens any more");
        stream.write_all(rest.as_bytes()).await.ok()?;
        let answer = read_all(&mut stream).await.expect("it is closed");
        timeout(PATIENCE, served.ended()).await.expect("the server ends");
        Some(answer)
    })
    .await;
    assert!(answer.starts_with("HTTP/1.1 200") && answer.contains("\"allowed\":true"), "{answer}");
}

#[tokio::test]
async fn a_hundred_rotations_under_load_fail_no_review() {
    let served = served().await;
    let review = review_of(&pod(&json!({}))).to_string();
    let mut standing = served.http2().await;
    for _ in 0..100 {
        served.shown.show(served.authority.leaf());
        let mut fresh = served.http2().await;
        for client in [&mut standing, &mut fresh] {
            assert_eq!(client.post(review.clone().into()).await.unwrap(), StatusCode::OK);
        }
    }
}
