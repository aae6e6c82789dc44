//! The process while the API server is away: alive, not ready, asked for nothing that it could not answer, and it ends
//! when it is told to.

use std::{
    net::TcpStream,
    time::{Duration, Instant},
};

use serde_json::json;

use crate::process::{Admission, free};

/// With an API server that is not there.
fn start() -> Admission {
    let config = json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "test",
        "clusters": [{"name": "test", "cluster": {"server": format!("http://{}", free())}}],
        "users": [{"name": "test", "user": {"token": "test"}}],
        "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test"}}],
    });
    Admission::start(&config.to_string(), &[])
}

#[test]
fn it_is_alive_says_what_it_waits_for_and_takes_no_reviews() {
    let admission = start();
    assert!(admission.get("/livez").unwrap().starts_with("HTTP/1.1 200"));
    let ready = admission.get("/readyz").unwrap();
    assert!(ready.starts_with("HTTP/1.1 503"), "{ready}");
    assert!(ready.contains("caches: the first lists") && ready.contains("webhook: a certificate"), "{ready}");
    assert!(TcpStream::connect(admission.webhook).is_err(), "what is refused at once lets a pod through at once");
}

#[test]
fn it_ends_at_once_when_it_is_told_to() {
    let mut took = Vec::new();
    // A busy machine may be late, but not each time.
    while took.last().is_none_or(|took| *took >= Duration::from_secs(3)) {
        assert!(took.len() < 5, "{took:?}");
        let mut admission = start();
        let begun = Instant::now();
        admission.terminate();
        assert!(admission.ended().success());
        took.push(begun.elapsed());
    }
}
