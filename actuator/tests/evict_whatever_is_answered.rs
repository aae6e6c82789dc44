//! Whatever the API server answers to an eviction, or does not: what becomes of it is known, and soon.

use std::{
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use axum::{
    Json, Router,
    extract::{Request, State},
    http::{Method, StatusCode},
    response::{IntoResponse, Response},
};
use powercap_actuator::escalate::{apply::Writer, metrics::Metrics, observation::Memory};
use powercap_common::reason::Reason;
use powercap_process::leader::Leadership;
use serde_json::{Value, json};

use crate::ladder::Site;

/// What is answered to an eviction; 0 is nothing at all.
#[derive(Clone)]
struct Server {
    code: u16,
    body: Value,
    asked: Arc<Mutex<Vec<(String, Value)>>>,
}

async fn answer(State(server): State<Server>, request: Request) -> Response {
    let (head, body) = request.into_parts();
    let body = axum::body::to_bytes(body, 1 << 20).await.unwrap();
    let body: Value = serde_json::from_slice(&body).unwrap_or_default();
    let path = head.uri.path().to_owned();
    server.asked.lock().unwrap().push((format!("{} {path}", head.method), body.clone()));
    if path.ends_with("/eviction") {
        if server.code == 0 {
            return std::future::pending().await;
        }
        return (StatusCode::from_u16(server.code).unwrap(), Json(server.body)).into_response();
    }
    let answer = if head.method == Method::POST { body } else { json!(*Site::new().seen.policies[0]) };
    Json(answer).into_response()
}

/// A step takes less, whatever is answered.
const MOST: Duration = Duration::from_secs(5);

/// As an API server says it.
const SEVERAL_BUDGETS: &str =
    "This pod has more than one PodDisruptionBudget, which the eviction subresource does not support.";

/// What is remembered of the victim after the step, and what was asked.
async fn step(code: u16, cause: Option<&str>, message: &str) -> (Memory, Vec<(String, Value)>) {
    let mut took = Vec::new();
    // A busy machine may be late, but not each time.
    while took.len() < 3 {
        let (memory, asked, time) = timed_step(code, cause, message).await;
        if time < MOST {
            return (memory, asked);
        }
        took.push(time);
    }
    panic!("{code} took {took:?}");
}

/// Likewise, and how long it took.
async fn timed_step(code: u16, cause: Option<&str>, message: &str) -> (Memory, Vec<(String, Value)>, Duration) {
    let causes: Vec<_> = cause.map(|reason| json!({"reason": reason, "message": ""})).into_iter().collect();
    let body = json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "code": code, "message": message, "reason": "",
        "status": if code < 300 { "Success" } else { "Failure" }, "details": {"causes": causes}});
    let server = Server { code, body, asked: Arc::default() };
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let router = Router::new().fallback(answer).with_state(server.clone());
    let serving = tokio::spawn(async move { axum::serve(listener, router).await });
    let mut config = kube::Config::new(format!("http://{address}").parse().unwrap());
    config.default_retry = false;
    let writer = Writer::new(kube::Client::try_from(config).unwrap(), "test".into(), Metrics::default());
    let plan = Site::new().decide(0);
    let mut memory = Memory::default();
    let begun = Instant::now();
    let leads = || Some(Leadership { term: 1, until: Instant::now() + Duration::from_secs(60) });
    assert_eq!(writer.carry_out(&plan, &mut memory, leads).await.len(), 1, "the policy's status is written");
    let took = begun.elapsed();
    serving.abort();
    let asked = server.asked.lock().unwrap().clone();
    (memory, asked, took)
}

#[tokio::test]
async fn an_eviction_is_asked_for_once_by_uid_and_stands_in_status_before() {
    powercap_process::install_tls_provider();
    let (memory, asked) = step(201, None, "").await;
    assert!(memory.done.contains("uid-chat-1"));
    let at = |what: &str| asked.iter().position(|(asked, _)| asked.ends_with(what)).unwrap();
    let evictions: Vec<_> = asked.iter().filter(|(asked, _)| asked.ends_with("/eviction")).collect();
    assert_eq!(evictions.len(), 1);
    assert_eq!(evictions[0].1["deleteOptions"]["preconditions"]["uid"], "uid-chat-1");
    let status = at("powercappingpolicies/all/status");
    assert!(status < at("/eviction"));
    assert_eq!(asked[status].1["status"]["escalated"]["last"]["uid"], "uid-chat-1");
}

#[tokio::test]
async fn each_answer_is_understood() {
    powercap_process::install_tls_provider();
    for (code, cause, message, left_alone) in [
        (404, None, "", None),
        (409, None, "", None),
        (429, Some("DisruptionBudget"), "", Some(Reason::DisruptionForbidden)),
        (500, None, SEVERAL_BUDGETS, Some(Reason::SeveralBudgets)),
        (403, None, "", Some(Reason::RefusedForNow)),
        (500, None, "etcdserver: request timed out", Some(Reason::RefusedForNow)),
        (503, None, "", Some(Reason::RefusedForNow)),
    ] {
        let (memory, asked) = step(code, cause, message).await;
        assert_eq!(memory.left_alone.get("uid-chat-1").map(|(_, reason)| *reason), left_alone, "{code}");
        assert_eq!(memory.done.contains("uid-chat-1"), left_alone.is_none(), "{code}");
        assert_eq!(asked.iter().filter(|(asked, _)| asked.ends_with("/eviction")).count(), 1, "{code}: never twice");
    }
    let (memory, _) = step(429, None, "").await;
    assert!(memory.patience_until.is_some() && memory.left_alone.is_empty());
}

#[tokio::test]
async fn what_an_error_of_the_server_may_have_done_stands_in_status() {
    powercap_process::install_tls_provider();
    for (code, message, statuses) in [(500, "etcdserver: request timed out", 1), (500, SEVERAL_BUDGETS, 2)] {
        let (_, asked) = step(code, None, message).await;
        assert_eq!(asked.iter().filter(|(asked, _)| asked.starts_with("PATCH")).count(), statuses, "{message}");
    }
}

#[tokio::test]
async fn no_answer_is_waited_for_less_than_five_seconds_and_looked_at_again() {
    powercap_process::install_tls_provider();
    let (memory, asked) = step(0, None, "").await;
    assert!(memory.left_alone.contains_key("uid-chat-1") && !memory.done.contains("uid-chat-1"));
    let statuses = asked.iter().filter(|(asked, _)| asked.starts_with("PATCH"));
    assert_eq!(statuses.count(), 1, "what may have been done stands in status");
}
