//! The telemetry is real: exporters in their true formats, scraped by a real Prometheus, alerts in a real
//! Alertmanager, usage from a real metrics-server.

use serde_json::Value;

use crate::rack::Rack;

/// A GET through the API server's proxy to a Service; null where there is no answer.
async fn get(rack: &Rack, namespace: &str, service: &str, path: &str) -> Value {
    let url = format!("/api/v1/namespaces/{namespace}/services/{service}/proxy{path}");
    let request = http::Request::get(url).body(Vec::new()).unwrap();
    let answer = rack.client.request_text(request).await.unwrap_or_default();
    serde_json::from_str(&answer).unwrap_or_default()
}

/// How many series it has; none where there is no answer.
async fn count(rack: &Rack, promql: &str) -> Option<usize> {
    let path = format!(
        "/api/v1/query?query={}",
        promql.replace('{', "%7B").replace('}', "%7D").replace('"', "%22").replace(' ', "%20")
    );
    let answer = get(rack, "monitoring", "prometheus:http", &path).await;
    answer["data"]["result"].as_array().map(Vec::len)
}

#[tokio::test]
async fn prometheus_scrapes_every_target_and_renames_labels_as_the_exporters_monitor_does() {
    let rack = Rack::ready().await;
    rack.eventually("16 boards, 16 of them with a workload's labels, none down", async |rack| {
        count(rack, "DCGM_FI_DEV_POWER_USAGE").await == Some(16)
            && count(rack, r#"DCGM_FI_DEV_POWER_USAGE{exported_namespace="demo"}"#).await == Some(16)
            && count(rack, r#"DCGM_FI_DEV_POWER_USAGE{namespace="simulated-hardware"}"#).await == Some(16)
            && count(rack, "kepler_pod_cpu_watts").await > Some(1)
            && count(rack, "powercap_domain_power_watts").await == Some(1)
            && count(rack, "up == 1").await == Some(2 + 2 + 2 + 1 + 8)
            && count(rack, "up == 0").await == Some(0)
    })
    .await;
}

#[tokio::test]
async fn metrics_server_tells_the_use_of_both_nodes() {
    let rack = Rack::ready().await;
    rack.eventually("metrics.k8s.io knows both nodes", async |rack| {
        let request = http::Request::get("/apis/metrics.k8s.io/v1beta1/nodes").body(Vec::new()).unwrap();
        let answer: Option<Value> =
            rack.client.request_text(request).await.ok().and_then(|text| serde_json::from_str(&text).ok());
        answer.is_some_and(|list| list["items"].as_array().is_some_and(|nodes| nodes.len() == 2))
    })
    .await;
}

#[tokio::test]
async fn alertmanager_is_there_and_prometheus_knows_it() {
    let rack = Rack::ready().await;
    rack.eventually("Prometheus sends alerts to Alertmanager, which answers", async |rack| {
        let known = get(rack, "monitoring", "prometheus:http", "/api/v1/alertmanagers").await;
        let status = get(rack, "monitoring", "alertmanager:http", "/api/v2/status").await;
        known["data"]["activeAlertmanagers"].as_array().is_some_and(|active| active.len() == 1)
            && status["versionInfo"]["version"].is_string()
    })
    .await;
}

#[tokio::test]
async fn the_domain_reports_what_the_meter_shows() {
    let rack = Rack::ready().await;
    rack.eventually("the domain's power is within 10 percent of the truth", async |rack| {
        let reported = rack.domain().await.status.and_then(|status| status.current_power_watts);
        reported.is_some_and(|watts| (f64::from(watts) / rack.true_watts() - 1.0).abs() < 0.10)
    })
    .await;
}
