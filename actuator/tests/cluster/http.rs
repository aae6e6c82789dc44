//! Requests and answers.

use std::sync::atomic::Ordering;

use axum::{
    Json,
    extract::{Request, State},
    http::{Method, StatusCode},
    response::{IntoResponse, Response},
};
use serde_json::{Value, json};

use super::{Cluster, Fault};

/// Answers one request.
pub async fn answer(State(cluster): State<Cluster>, request: Request) -> Response {
    let (head, body) = request.into_parts();
    let body = axum::body::to_bytes(body, 1 << 20).await.unwrap();
    let body: Value = serde_json::from_slice(&body).unwrap_or_default();
    let path = head.uri.path().trim_matches('/').to_owned();
    if head.method == Method::GET {
        return respond(cluster.world().policy_named(path.rsplit('/').next().unwrap()));
    }
    if path.ends_with("/events") {
        if cluster.shared.events_hang.load(Ordering::Relaxed) {
            return std::future::pending().await;
        }
        cluster.events().push(body.clone());
        return respond(Ok(body));
    }
    let (fault, number) = {
        let mut fault = cluster.fault();
        fault.1 += 1;
        *fault
    };
    match fault {
        Fault::Before(at) if at == number => return silent(&cluster).await,
        Fault::Held(at) if at == number => {
            cluster.shared.struck.notify_one();
            cluster.shared.let_go.notified().await;
        }
        _ => {}
    }
    let result = write(&cluster, &path, &body);
    if fault == Fault::After(number) {
        return silent(&cluster).await;
    }
    respond(result)
}

async fn silent(cluster: &Cluster) -> Response {
    cluster.shared.struck.notify_one();
    std::future::pending().await
}

fn write(cluster: &Cluster, path: &str, body: &Value) -> Result<Value, u16> {
    let mut world = cluster.world();
    let words: Vec<_> = path.split('/').collect();
    match words[..] {
        [.., "pods", pod, "eviction"] => {
            let uid = body["deleteOptions"]["preconditions"]["uid"].as_str().ok_or(400_u16)?;
            world.evict(pod, uid).map(|()| json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "code": 201}))
        }
        [.., "powercappingpolicies", name, "status"] => world.apply(name, body),
        [.., "jobs", name] => world.patch_job(name, body),
        _ => Err(404),
    }
}

/// As an API server says it.
const SEVERAL_BUDGETS: &str =
    "This pod has more than one PodDisruptionBudget, which the eviction subresource does not support.";

fn respond(result: Result<Value, u16>) -> Response {
    match result {
        Ok(object) => Json(object).into_response(),
        Err(code) => {
            let message = if code == 500 { SEVERAL_BUDGETS } else { "" };
            let status = json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
                "code": code, "message": message, "reason": ""});
            (StatusCode::from_u16(code).unwrap(), Json(status)).into_response()
        }
    }
}
