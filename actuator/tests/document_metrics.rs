//! The page of metrics names what the node agent exposes, and nothing else.

use std::collections::BTreeMap;

use powercap_actuator::node::{
    decide::{State, decide},
    metrics::{Announced, Metrics, Step, WriteKind},
    orders::CpuCeiling,
    tenants::Tenancy,
};
use powercap_common::{reason::Reason, units::Megahertz};
use prometheus_client::{encoding::text::encode, registry::Registry};

use crate::rack::{BUSY, Rack, TICK, granted};

/// Metrics after everything that the agent counts has happened once: series without a value are not shown.
fn busy() -> Registry {
    let mut registry = Registry::default();
    let metrics = Metrics::new(&mut registry);
    let mut rack = Rack::new(2, 0.0, 0.0, BUSY);
    let mut orders = granted(1, 2400);
    let reason = Reason::PolicyCap;
    orders.cpus.insert(0, CpuCeiling { clock: Megahertz::new(2300), reason });
    for _ in 0..5 {
        let seen = rack.observe();
        let plan = rack.tick(Some(&orders));
        metrics.decided(&seen, Some(&orders), &plan, &Tenancy::default(), TICK);
    }
    metrics.wrote(WriteKind::PowerLimit, &Ok(()));
    metrics.reported(true);
    metrics.advertised(None);
    metrics.wrote_advertisement(true);
    metrics.asked_for_tenants(false);
    metrics.announced(Announced::Suppressed, 3);
    metrics.stepped(Step::Decide, TICK);
    metrics.lease_seen(TICK);
    registry
}

/// Name and type of every metric; a counter's series end in `_total`.
fn exposed() -> BTreeMap<String, String> {
    let mut text = String::new();
    encode(&mut text, &busy()).unwrap();
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
    let cells = |row: &str| row.trim_matches('|').split('|').map(|cell| cell.trim().to_owned()).collect::<Vec<_>>();
    rows.map(cells).map(|cells| (cells[0].trim_matches('`').to_owned(), cells[1..].to_vec())).collect()
}

#[test]
fn each_metric_is_documented_and_each_that_is_documented_exists() {
    let (exposed, documented) = (exposed(), documented());
    assert_eq!(exposed.keys().collect::<Vec<_>>(), documented.keys().collect::<Vec<_>>());
    for (name, cells) in &documented {
        assert_eq!(&cells[0], &exposed[name], "the type of {name}");
        assert_eq!(cells.len(), 4, "type, unit, labels and meaning of {name}");
        for (unit, suffix) in [("W", "_watts"), ("MHz", "_megahertz"), ("s", "_seconds")] {
            let is = cells[1].split(',').next() == Some(unit);
            assert_eq!(is, name.ends_with(suffix), "the unit of {name}");
        }
        assert!(cells[3].ends_with('.'), "the meaning of {name}");
    }
}

#[test]
fn a_board_that_has_gone_leaves_no_series_behind() {
    let mut registry = Registry::default();
    let metrics = Metrics::new(&mut registry);
    let mut seen = Rack::new(2, 0.0, 0.0, BUSY).observe();
    let mut shown = |boards: usize| {
        seen.boards.truncate(boards);
        let plan = decide(&seen, None, &State::default());
        metrics.decided(&seen, None, &plan, &Tenancy::default(), TICK);
        let mut text = String::new();
        encode(&mut text, &registry).unwrap();
        ["GPU-0", "GPU-1"].map(|uuid| text.contains(&format!("uuid=\"{uuid}\"")))
    };
    assert_eq!(shown(2), [true, true]);
    assert_eq!(shown(1), [true, false]);
}
