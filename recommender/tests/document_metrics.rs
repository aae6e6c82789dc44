//! The page of metrics names what the recommender exposes, and nothing else.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use powercap_common::{policy::PolicyId, units::Watts};
use powercap_recommender::{
    decide::{DomainFigures, Figures, Outlook, PolicyFigures},
    metrics::Metrics,
};
use prometheus_client::encoding::text::encode;
use serde_json::json;

/// Name and type of every metric after everything that is counted has happened once; a counter's series
/// end in `_total`.
fn exposed() -> BTreeMap<String, String> {
    let (metrics, registry) = Metrics::register();
    let watts = Watts::new(1);
    let policy = PolicyId { namespace: "llm".into(), name: "chat".into() };
    let outlook = Outlook { peak: Some(watts), forecast: Some(watts) };
    let domain =
        DomainFigures { cap: watts, power: Some(watts), committed: Some(watts), headroom: Some(watts), outlook };
    let figures = Figures {
        policies: [(
            policy,
            PolicyFigures { cap: watts, power: Some(watts), outlook, reserved: Some(watts), stale_pods: 1 },
        )]
        .into(),
        domains: [("rack".to_owned(), domain)].into(),
        grants: [("n0".to_owned(), watts)].into(),
        unattributed: [("n0".to_owned(), watts)].into(),
        offers: [("n0".to_owned(), watts)].into(),
        reserved: [("n0".to_owned(), watts)].into(),
        replicas: BTreeMap::new(),
    };
    metrics.decided(&figures, Duration::from_millis(1));
    let pending = json!([{"action": "Evict", "namespace": "llm", "workload": "Deployment/chat", "freesWatts": 1,
        "reason": "FloorReached", "since": "2026-01-01T00:00:00Z"}]);
    let condition = json!([{"type": "Ready", "status": "True", "reason": "GrantsFit", "message": "",
        "lastTransitionTime": "2026-01-01T00:00:00Z"}]);
    let policy = json!({"metadata": {"namespace": "llm", "name": "chat"}, "spec": {"powerCapLimitWatts": 1},
        "status": {"conditions": condition, "pendingActions": pending}});
    let domain = json!({"metadata": {"name": "rack"}, "spec": {"powerCapLimitWatts": 1, "nodeSelector": {}},
        "status": {"conditions": condition, "pendingActions": pending}});
    let (policy, domain) = (serde_json::from_value(policy).unwrap(), serde_json::from_value(domain).unwrap());
    metrics.standing(&[Arc::new(policy)], &[Arc::new(domain)]);
    metrics.wrote("NodeFrequencies", "ok");
    metrics.prometheus_query("ok");
    metrics.told("written", 1);
    metrics.data_age("dcgm", Some(1.0));
    metrics.leading(true);
    metrics.recorded("written");
    let mut text = String::new();
    encode(&mut text, &registry).unwrap();
    let types = text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split_once(' '));
    types
        .map(|(name, kind)| (format!("{name}{}", if kind == "counter" { "_total" } else { "" }), kind.to_owned()))
        .collect()
}

#[test]
fn each_metric_is_documented_and_each_that_is_documented_exists() {
    let page = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/reference/metrics.md");
    let page = std::fs::read_to_string(page).unwrap();
    let rows = page.lines().filter(|line| {
        line.starts_with("| `powercap_")
            && !line.contains("powercap_agent_")
            && !line.contains("powercap_admission_")
            && !line.contains("powercap_escalate_")
    });
    let name_and_type = |row: &str| {
        let mut cells = row.trim_matches('|').split('|').map(|cell| cell.trim().trim_matches('`').to_owned());
        (cells.next().unwrap(), cells.next().unwrap())
    };
    assert_eq!(exposed(), rows.map(name_and_type).collect());
}
