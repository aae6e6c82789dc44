//! A cluster where neither KEDA, nor KServe, nor the Vertical Pod Autoscaler is installed, or KEDA is no more.

use axum::{
    Json, Router,
    extract::{Request, State},
    http::StatusCode,
    response::{IntoResponse, Response},
};
use powercap_actuator::escalate::ceilings::{
    bounds::{Site, bounding},
    observe::{held, site, vpas},
    stored::Kind,
};
use powercap_common::reason::Reason;
use serde_json::{Value, json};

/// Whoever made the HPA there.
type Maker = Option<&'static str>;

/// An API server that knows Kubernetes' own kinds alone, with a Deployment and an HPA that names it.
async fn answer(State(maker): State<Maker>, request: Request) -> Response {
    let path = request.uri().path();
    if ["keda.sh", "serving.kserve.io", "autoscaling.k8s.io"].iter().any(|group| path.contains(group)) {
        // As the API server answers where there is no such kind.
        return (StatusCode::NOT_FOUND, "404 page not found\n").into_response();
    }
    let metadata = json!({"namespace": "llm", "name": "chat", "uid": "uid-chat", "resourceVersion": "1"});
    let list = |items: Value| json!({"metadata": {}, "items": items});
    let answer = match path.rsplit('/').next() {
        Some("chat") => json!({"metadata": metadata, "spec": {"replicas": 4}}),
        Some("horizontalpodautoscalers") => {
            let owners = maker.map(|kind| {
                json!([{"apiVersion": "v1", "kind": kind, "name": "chat", "uid": "u",
                "controller": true}])
            });
            let mut metadata = metadata;
            metadata["ownerReferences"] = json!(owners.unwrap_or_else(|| json!([])));
            list(json!([{"metadata": metadata, "spec": {"minReplicas": 1, "maxReplicas": 8,
                "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "chat"}}}]))
        }
        _ => list(json!([])),
    };
    Json(answer).into_response()
}

async fn cluster(maker: Maker) -> kube::Client {
    powercap_process::install_tls_provider();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let router = Router::new().fallback(answer).with_state(maker);
    tokio::spawn(async move { axum::serve(listener, router).await });
    let mut config = kube::Config::new(url.parse().unwrap());
    config.default_retry = false;
    kube::Client::try_from(config).unwrap()
}

async fn chat(client: &kube::Client) -> Site {
    site(client, "llm", "Deployment/chat").await.unwrap().unwrap()
}

#[tokio::test]
async fn kinds_that_are_not_installed_keep_nobody_from_bounding_those_that_are() {
    let client = cluster(None).await;
    assert_eq!(bounding(&chat(&client).await).unwrap().object.kind, Kind::HorizontalPodAutoscaler);
    assert_eq!(held(&client).await.unwrap(), []);
    assert_eq!(vpas(&client, "llm").await.unwrap(), Vec::<Value>::new());
    for workload in ["InferenceService/chat", "LLMInferenceService/chat"] {
        assert_eq!(site(&client, "llm", workload).await.unwrap(), None, "{workload}");
    }
}

#[tokio::test]
async fn an_hpa_that_keda_left_behind_is_not_touched() {
    let client = cluster(Some("ScaledObject")).await;
    let refused = bounding(&chat(&client).await).err().map(|hold| hold.reason);
    assert_eq!(refused, Some(Reason::ScaledObjectMissing));
}
