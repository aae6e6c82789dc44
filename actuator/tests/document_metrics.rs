//! The page of metrics names what the node agent exposes, and nothing else.
#![allow(clippy::unwrap_used, reason = "a test")]

use std::collections::BTreeMap;

use powercap_actuator::node::metrics::Metrics;
use prometheus_client::{encoding::text::encode, registry::Registry};

/// Name and type of every metric that is registered; a counter's series end in `_total`.
fn registered() -> BTreeMap<String, String> {
    let mut registry = Registry::default();
    let _metrics = Metrics::new(&mut registry);
    let mut text = String::new();
    encode(&mut text, &registry).unwrap();
    let types = text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split_once(' '));
    types
        .map(|(name, kind)| (format!("{name}{}", if kind == "counter" { "_total" } else { "" }), kind.to_owned()))
        .collect()
}

/// Rows of the page that speak of these metrics: name, and the other cells.
fn documented() -> BTreeMap<String, Vec<String>> {
    let page = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/reference/metrics.md");
    let page = std::fs::read_to_string(page).unwrap();
    let rows = page.lines().filter(|line| line.starts_with("| `powercap_agent_"));
    let cells = |row: &str| row.trim_matches('|').split(" | ").map(|cell| cell.trim().to_owned()).collect::<Vec<_>>();
    rows.map(cells).map(|cells| (cells[0].trim_matches('`').to_owned(), cells[1..].to_vec())).collect()
}

#[test]
fn each_metric_is_documented_and_each_that_is_documented_exists() {
    let (registered, documented) = (registered(), documented());
    assert!(registered.len() > 20, "{registered:?}");
    assert_eq!(registered.keys().collect::<Vec<_>>(), documented.keys().collect::<Vec<_>>());
    for (name, cells) in &documented {
        assert_eq!(&cells[0], &registered[name], "the type of {name}");
        assert_eq!(cells.len(), 4, "type, unit, labels and meaning of {name}");
        for (unit, suffix) in [("W", "_watts"), ("MHz", "_megahertz"), ("s", "_seconds")] {
            let is = cells[1].split(',').next() == Some(unit);
            assert_eq!(is, name.ends_with(suffix), "the unit of {name}");
        }
        assert!(cells[3].ends_with('.'), "the meaning of {name}");
    }
}
