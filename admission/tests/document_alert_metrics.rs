//! The page of metrics names what alerts expose.

use std::{collections::BTreeMap, sync::Arc};

use jiff::Timestamp;
use powercap_admission::alerts::{Board, Metrics, Seen};
use prometheus_client::{encoding::text::encode, registry::Registry};

#[test]
fn each_metric_of_alerts_is_documented() {
    let mut registry = Registry::with_prefix("powercap_admission");
    let metrics = Metrics::register(&mut registry);
    let seen = Seen {
        policies: Vec::new(),
        domains: Vec::new(),
        nodes: Vec::<Arc<_>>::new(),
        recommender_heard: Timestamp::UNIX_EPOCH,
        without_headroom: [("llm".to_owned(), Timestamp::UNIX_EPOCH)].into(),
        certificate: None,
    };
    metrics.looked(&seen, &Board::default());
    metrics.sent("ok");
    metrics.alertmanagers(1);
    let mut text = String::new();
    encode(&mut text, &registry).unwrap();
    let types = text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split_once(' '));
    let exposed: BTreeMap<_, _> =
        types.map(|(name, kind)| (format!("{name}{}", if kind == "counter" { "_total" } else { "" }), kind)).collect();
    assert_eq!(exposed.len(), 7, "{exposed:?}");
    let page = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/reference/metrics.md");
    let page = std::fs::read_to_string(page).unwrap();
    for (name, kind) in exposed {
        assert!(page.contains(&format!("| `{name}` | {kind} |")), "{name} is not on the page as a {kind}");
    }
}
