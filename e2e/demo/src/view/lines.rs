//! The view as lines, for a terminal that is none: a log, CI.

use std::fmt::Write as _;

use super::View;
use crate::watch::Change;

/// Where things stand, in one line.
pub(crate) fn status_line(view: &View) -> String {
    let mut line = format!("{:6.1} s ", view.elapsed);
    for domain in &view.domains {
        let (name, cap) = (&domain.name, domain.cap_watts);
        let _ = match domain.true_watts {
            Some(watts) if watts <= f64::from(cap) => write!(line, " {name} {watts:.0} W ≤ {cap} W "),
            Some(watts) => write!(line, " {name} {watts:.0} W ABOVE {cap} W "),
            None => write!(line, " {name} ? of {cap} W "),
        };
    }
    for (node, boards, watts) in
        view.nodes.iter().filter_map(|node| Some((node, node.boards.as_ref()?, node.true_watts?)))
    {
        let (low, high) = boards.clocks_mhz;
        let grant = node.grant_watts.map_or_else(|| "no grant".to_owned(), |watts| format!("of {watts} W"));
        let _ = write!(line, "| {} {watts:.0} W {grant}, {low}–{high} MHz ", node.name);
    }
    for policy in &view.policies {
        let power = policy.power_watts.map_or_else(|| "?".to_owned(), |watts| watts.to_string());
        let _ = write!(line, "| {} {power} of {} W", policy.name, policy.cap_watts);
        if let Some(boards) = &policy.boards {
            let _ = write!(line, ", work {:.1} of {}", boards.work, boards.count);
        }
        line.push(' ');
    }
    let of_nodes = || view.nodes.iter().filter_map(|node| node.boards.as_ref());
    let (work, boards) =
        (of_nodes().map(|boards| boards.work).sum::<f64>(), of_nodes().map(|boards| boards.count).sum::<usize>());
    if boards > 0 {
        let _ = write!(line, "| work {work:.1} of {boards} boards");
    }
    if let Some(requests) = view.requests {
        let _ = write!(line, ", {:.1} requests/s, p99 {:.0} ms", requests.per_second, requests.p99_ms);
    }
    line
}

/// What changed and why, in one line.
pub(crate) fn change_line(second: f64, change: &Change) -> String {
    format!("{second:6.1} s   → {}: {} ({})", change.object, change.what, change.reason)
}
