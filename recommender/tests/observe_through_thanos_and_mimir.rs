//! What a query must say so that Thanos answers once for all replicas, and wholly, and Mimir for the right tenant.

use std::{collections::BTreeMap, net::Ipv4Addr};

use axum::{
    Json, Router,
    http::{HeaderMap, Uri},
    routing::post,
};
use clap::Parser;
use powercap_recommender::{
    flags::Flags,
    observe::{
        names::Names,
        prometheus::{Prometheus, Times},
    },
};
use serde_json::json;
use tokio::{net::TcpListener, sync::mpsc};

/// One request: its path, the tenant, and its form.
type Asked = (String, String, BTreeMap<String, String>);

/// A server below a prefix, as gateways have them; gives away what it was asked.
async fn gateway() -> (String, mpsc::UnboundedReceiver<Asked>) {
    let (asked, all) = mpsc::unbounded_channel();
    let answer = move |uri: Uri, headers: HeaderMap, body: String| async move {
        let tenant = headers.get("x-scope-orgid").map_or("none", |tenant| tenant.to_str().unwrap()).to_owned();
        let fields = reqwest::Url::parse(&format!("http://form/?{body}")).unwrap();
        asked.send((uri.path().to_owned(), tenant, fields.query_pairs().into_owned().collect())).unwrap();
        let kind = if uri.path().ends_with("query_range") { "matrix" } else { "vector" };
        Json(json!({"status": "success", "data": {"resultType": kind, "result": []}}))
    };
    let routes = Router::new().route("/select/0/prometheus/api/v1/{endpoint}", post(answer));
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let url = format!("http://{}/select/0/prometheus/", listener.local_addr().unwrap());
    tokio::spawn(async { axum::serve(listener, routes).await });
    (url, all)
}

#[tokio::test]
async fn every_query_asks_for_one_whole_answer_of_the_right_tenant_below_the_prefix() {
    powercap_process::install_tls_provider();
    let (url, mut asked) = gateway().await;
    let arguments =
        ["--prometheus-url", &url, "--prometheus-header", "X-Scope-OrgID=gpus", "--prometheus-timeout-ms=30000"];
    let flags = Flags::try_parse_from(["powercap-recommender"].iter().chain(&arguments)).unwrap();
    let prometheus = Prometheus::new(flags.access(), Names::default().labels());
    prometheus.instant("up").await.unwrap();
    let times = Times { start: 1800, end: 5400, step: 1800 };
    prometheus.range("up", times, flags.access().timeout).await.unwrap();

    let always = [("query", "up"), ("timeout", "30s"), ("dedup", "true"), ("partial_response", "false")];
    let when = [("start", "1800"), ("end", "5400"), ("step", "1800")];
    for (endpoint, form) in [("query", always.to_vec()), ("query_range", [&always[..], &when].concat())] {
        let (path, tenant, fields) = asked.recv().await.unwrap();
        assert_eq!(path, format!("/select/0/prometheus/api/v1/{endpoint}"));
        assert_eq!(tenant, "gpus", "{endpoint}");
        let form = form.into_iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
        assert_eq!(fields, form, "{endpoint}");
    }
}
