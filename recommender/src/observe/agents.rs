//! Which node agents are alive, by the series that Prometheus scrapes of them: sooner than by their
//! status, which they write only when something changes.

use std::collections::BTreeMap;

use jiff::Timestamp;

use super::{
    dcgm::{age, before},
    prometheus::Element,
};

/// The label that names the node; agents put it on all their series.
const NODE: &str = "node";

/// The query: when each agent's power was last scraped.
#[must_use]
pub fn query() -> String {
    "timestamp(powercap_agent_node_power_watts)".to_owned()
}

/// When each node's agent was last heard of, on our clock.
#[must_use]
pub fn heard(times: &[Element], asked_at: Timestamp) -> BTreeMap<String, Timestamp> {
    let heard = |element: &Element| Some((element.labels.get(NODE)?.clone(), before(asked_at, age(element)?)));
    times.iter().filter_map(heard).collect()
}
