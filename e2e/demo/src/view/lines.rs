//! The view as lines, for a terminal that is none: a log, CI.

use std::fmt::Write as _;

use super::View;
use crate::watch::Change;

/// Where things stand, in one line.
pub(crate) fn status_line(view: &View) -> String {
    let mut line = format!("{:6.1} s ", view.elapsed);
    for domain in &view.domains {
        let verdict = if domain.true_watts <= f64::from(domain.cap_watts) { "≤" } else { "ABOVE" };
        let _ = write!(line, " {} {:.0} W {verdict} {} W ", domain.name, domain.true_watts, domain.cap_watts);
    }
    for node in &view.nodes {
        let (low, high) = node.clocks_mhz;
        let grant = node.grant_watts.map_or_else(|| "no grant".to_owned(), |watts| format!("of {watts} W"));
        let _ = write!(line, "| {} {:.0} W {grant}, {low}–{high} MHz ", node.name, node.true_watts);
    }
    for policy in &view.policies {
        let power = policy.power_watts.map_or_else(|| "?".to_owned(), |watts| watts.to_string());
        let _ = write!(line, "| {} {power} of {} W ", policy.name, policy.cap_watts);
    }
    let work: f64 = view.nodes.iter().map(|node| node.work).sum();
    let boards: usize = view.nodes.iter().map(|node| node.boards).sum();
    let _ = write!(line, "| work {work:.1} of {boards} boards");
    if let Some(requests) = view.requests {
        let _ = write!(line, ", {:.1} requests/s, p99 {:.0} ms", requests.per_second, requests.p99_ms);
    }
    line
}

/// What changed and why, in one line.
pub(crate) fn change_line(second: f64, change: &Change) -> String {
    format!("{second:6.1} s   → {}: {} ({})", change.object, change.what, change.reason)
}
