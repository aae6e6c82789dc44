//! The page of metrics names what the webhook exposes, and nothing else.

use std::{collections::BTreeMap, time::Duration};

use powercap_admission::metrics::Metrics;
use powercap_common::reason::Reason;
use prometheus_client::encoding::text::encode;

/// Name and type of every metric after everything that is counted has happened once.
fn exposed() -> BTreeMap<String, String> {
    let (metrics, registry) = Metrics::register();
    metrics.reviewed(Reason::RequestsSet, Duration::from_micros(20));
    metrics.refused(400);
    metrics.waits();
    metrics.connected();
    metrics.disconnected("Closed");
    metrics.lease("Written");
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
    let section = page.lines().skip_while(|line| *line != "## Admission's reviews").skip(1);
    let section = section.take_while(|line| !line.starts_with("## "));
    let rows = section.filter(|line| line.starts_with("| `powercap_"));
    let name_and_type = |row: &str| {
        let mut cells = row.trim_matches('|').split('|').map(|cell| cell.trim().trim_matches('`').to_owned());
        (cells.next().unwrap(), cells.next().unwrap())
    };
    assert_eq!(exposed(), rows.map(name_and_type).collect());
}
