//! The page of metrics names what the escalating actuator exposes, and nothing else.

use std::collections::BTreeMap;

use powercap_actuator::escalate::metrics::Metrics;
use powercap_common::api::Action;
use prometheus_client::encoding::text::encode;
use serde_json::json;

use crate::ladder::{Site, condition};

/// A leader whose policy has stopped, with a victim that is never evicted.
fn site() -> Site {
    let mut site = Site::new();
    site.change_pod("chat-1", &json!({"critical": true}));
    let mut stopped = condition("Escalating", "True");
    stopped["reason"] = json!("StoppedWithoutEffect");
    let conditions = [condition("DataFresh", "True"), condition("WithinCap", "False"), stopped];
    site.status(&json!({"conditions": conditions}));
    site
}

/// The text after everything that is counted has happened once.
fn exposed(leads: bool) -> String {
    let (metrics, registry) = Metrics::register();
    let site = site();
    metrics.decided(&site.seen, &site.decide(0));
    metrics.stepped(Action::Evict, "done");
    metrics.leading(leads);
    let mut text = String::new();
    encode(&mut text, &registry).unwrap();
    text
}

/// Names and labels of the series.
fn series(text: &str) -> BTreeMap<String, Vec<String>> {
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    let one = |line: &str| {
        let (series, value) = line.rsplit_once(' ').unwrap();
        value.parse::<f64>().unwrap();
        let (name, labels) = series.split_once('{').unwrap_or((series, ""));
        let labels = labels.trim_end_matches('}').split(',').filter_map(|label| label.split_once('='));
        (name.to_owned(), labels.map(|(name, _)| name.to_owned()).collect())
    };
    lines.map(one).collect()
}

/// Of each row that speaks of these metrics: its name, type and labels.
fn documented() -> BTreeMap<String, (String, Vec<String>)> {
    let page = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/reference/metrics.md");
    let page = std::fs::read_to_string(page).unwrap();
    let rows = page.lines().filter(|line| line.starts_with("| `powercap_escalate_"));
    let one = |row: &str| {
        let cells: Vec<_> = row.trim_matches('|').split('|').map(|cell| cell.trim().to_owned()).collect();
        assert!(cells.len() == 5 && cells[4].ends_with('.'), "name, type, unit, labels and meaning: {row}");
        let labels = cells[3].split(", ").map(|label| label.trim_matches('`').to_owned());
        (cells[0].trim_matches('`').to_owned(), (cells[1].clone(), labels.filter(|label| !label.is_empty()).collect()))
    };
    rows.map(one).collect()
}

#[test]
fn each_metric_is_documented_with_its_type_and_labels_and_each_that_is_documented_exists() {
    let text = exposed(true);
    assert!(text.ends_with("# EOF\n"), "{text}");
    let (exposed, documented) = (series(&text), documented());
    assert_eq!(exposed.keys().collect::<Vec<_>>(), documented.keys().collect::<Vec<_>>());
    for (name, (kind, labels)) in &documented {
        assert_eq!(&exposed[name], labels, "the labels of {name}");
        assert!(text.contains(&format!("# TYPE {} {kind}\n", name.trim_end_matches("_total"))), "the type of {name}");
    }
}

#[test]
fn one_that_does_not_lead_says_nothing_of_policies() {
    let stopped = r#"powercap_escalate_stopped{namespace="llm",policy="all",reason="StoppedWithoutEffect"} 1"#;
    assert!(exposed(true).contains(stopped), "{}", exposed(true));
    let standby = exposed(false);
    assert!(
        !standby.contains("powercap_escalate_stopped{") && !standby.contains("powercap_escalate_held{"),
        "{standby}"
    );
}
