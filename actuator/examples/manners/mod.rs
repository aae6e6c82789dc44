//! The longest that an eviction takes, whatever an API server on a real socket does with it.

use std::time::{Duration, Instant};

use axum::{
    Json, Router,
    body::{Body, Bytes},
    extract::{Request, State},
    http::{Method, StatusCode, header},
    response::{IntoResponse, Response},
};
use futures::{StreamExt, future, stream};
use powercap_actuator::escalate::{
    apply::Writer,
    decide::decide,
    metrics::Metrics,
    observation::{Memory, Observation},
};
use powercap_process::leader::Leadership;
use serde_json::{Value, json};

/// What is done with a request to evict.
#[derive(Clone, Copy, Debug)]
enum Manner {
    /// An answer of this status.
    Answer(u16),
    /// No word.
    Silence,
    /// Headers, half of the body, and then nothing.
    HalfABody,
    /// A byte now and then, for ever.
    Trickle,
    /// The connection ends.
    Hangup,
}

const MANNERS: [Manner; 12] = [
    Manner::Answer(201),
    Manner::Answer(403),
    Manner::Answer(404),
    Manner::Answer(409),
    Manner::Answer(422),
    Manner::Answer(429),
    Manner::Answer(500),
    Manner::Answer(503),
    Manner::Silence,
    Manner::HalfABody,
    Manner::Trickle,
    Manner::Hangup,
];
/// `{"kind":` and so on, of which this much arrives.
const BEGINNING: &str = r#"{"kind":"Status","#;

/// Of all manners.
pub async fn longest_call() -> Duration {
    let calls = MANNERS.map(|manner| async move {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let router = Router::new().fallback(answer).with_state(manner);
        tokio::spawn(async move { axum::serve(listener, router).await });
        let mut config = kube::Config::new(format!("http://{address}").parse().unwrap());
        config.default_retry = false;
        call(kube::Client::try_from(config).unwrap()).await
    });
    future::join_all(calls).await.into_iter().max().unwrap_or_default()
}

/// One step: the status before it, the eviction, and what follows.
async fn call(client: kube::Client) -> Duration {
    let mut seen: Observation = super::cluster_of(1);
    seen.budgets.clear();
    let plan = decide(&seen, super::now());
    let writer = Writer::new(client, "bench".into(), Metrics::default());
    let leads = || Some(Leadership { term: 1, until: Instant::now() + Duration::from_secs(60) });
    let began = Instant::now();
    writer.carry_out(&plan, &mut Memory::default(), leads).await;
    began.elapsed()
}

async fn answer(State(manner): State<Manner>, request: Request) -> Response {
    let (head, body) = request.into_parts();
    let body = axum::body::to_bytes(body, 1 << 20).await.unwrap();
    if head.uri.path().ends_with("/eviction") {
        return badly(manner).await;
    }
    let body: Value = serde_json::from_slice(&body).unwrap_or_default();
    if head.method == Method::POST {
        return Json(body).into_response();
    }
    Json(json!(*super::cluster_of(1).policies[0])).into_response()
}

async fn badly(manner: Manner) -> Response {
    let body = match manner {
        Manner::Answer(code) => {
            let status = json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "code": code, "message": "",
                "reason": "", "status": if code < 300 { "Success" } else { "Failure" }});
            return (StatusCode::from_u16(code).unwrap(), Json(status)).into_response();
        }
        Manner::Silence => return future::pending().await,
        Manner::HalfABody => Body::from_stream(first().chain(stream::pending())),
        Manner::Trickle => Body::from_stream(first().chain(trickle())),
        Manner::Hangup => {
            Body::from_stream(first().chain(stream::once(future::ready(Err(std::io::Error::other("cut"))))))
        }
    };
    ([(header::CONTENT_TYPE, "application/json")], body).into_response()
}

fn first() -> impl stream::Stream<Item = std::io::Result<Bytes>> + use<> {
    stream::once(future::ready(Ok(Bytes::from_static(BEGINNING.as_bytes()))))
}

fn trickle() -> impl stream::Stream<Item = std::io::Result<Bytes>> + use<> {
    stream::unfold((), |()| async {
        tokio::time::sleep(Duration::from_millis(200)).await;
        Some((Ok(Bytes::from_static(b" ")), ()))
    })
}
