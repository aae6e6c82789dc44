//! The demo's figures: made from the judge's record alone, printed and written to demo.json.

use std::{fmt::Write as _, fs::File, io::BufReader, path::Path};

use anyhow::{Context, Result};
use powercap_simulator::judge::{
    record::{self, Sample},
    score::{Event, EventKind, Score},
};
use serde::Serialize;

/// One row of demo.json, in the shape of bench.json.
#[derive(Debug, PartialEq, Serialize)]
pub(crate) struct Figure {
    pub(crate) name: &'static str,
    /// `None`: what should have happened did not, which never holds.
    pub(crate) value: Option<f64>,
    pub(crate) unit: &'static str,
    pub(crate) goal: Option<String>,
    pub(crate) holds: bool,
}

/// Reads the judge's record.
pub(crate) fn read_record(path: &Path) -> Result<Vec<Sample>> {
    let file = File::open(path).with_context(|| format!("open the judge's record {}", path.display()))?;
    record::read(BufReader::new(file))
}

/// The rows, with their goals.
///
/// A figure of something that the script did not come to is left out: it neither holds nor fails.
pub(crate) fn figures(score: &Score, events: &[Event], ready_seconds: Option<f64>) -> Vec<Figure> {
    let at_most = |name, value: Option<f64>, unit, most: f64| Figure {
        name,
        value: value.map(hundredths),
        unit,
        goal: Some(if most == 0.0 { "= 0".to_owned() } else { format!("≤ {most}") }),
        holds: value.is_some_and(|value| value <= most),
    };
    let reported =
        |name, value: Option<f64>, unit| Figure { name, value: value.map(hundredths), unit, goal: None, holds: true };
    let mut rows = Vec::new();
    if edited_down(events) {
        rows.push(at_most("demo_under_cap_s", score.under_cap_s, "s", 3.0));
    }
    if events.iter().any(|event| event.kind == EventKind::LoadStep) {
        rows.push(at_most("demo_step_s", score.step_s, "s", 2.0));
    }
    rows.extend([
        at_most("demo_above_cap_s", score.above_cap_s, "s", 0.0),
        at_most("demo_unknown_s", Some(score.unknown_s), "s", 0.0),
        reported("demo_work_kept", score.work_kept, "ratio"),
        reported("demo_worst_above_cap", score.worst_above_watts, "W"),
        reported("demo_judged_s", Some(score.judged_s), "s"),
    ]);
    // Unknown where nobody said when the command began, or no cap was acknowledged; then it is left out.
    rows.extend(ready_seconds.map(|seconds| reported("demo_ready_s", Some(seconds), "s")));
    rows
}

fn edited_down(events: &[Event]) -> bool {
    let caps = events.iter().filter_map(|event| match event.kind {
        EventKind::CapChanged { cap_watts } => Some(cap_watts),
        _ => None,
    });
    caps.clone().zip(caps.skip(1)).any(|(before, after)| after < before)
}

/// The rows as a table for people.
pub(crate) fn table(figures: &[Figure]) -> String {
    let mut table = format!("{:<22} {:>10} {:<6} {:<6} holds\n", "figure", "value", "unit", "goal");
    for figure in figures {
        let value = figure.value.map_or_else(|| "never".to_owned(), |value| format!("{value:.2}"));
        let goal = figure.goal.as_deref().unwrap_or("–");
        let holds = if figure.goal.is_none() {
            "–"
        } else if figure.holds {
            "yes"
        } else {
            "NO"
        };
        let _ = writeln!(table, "{:<22} {value:>10} {:<6} {goal:<6} {holds}", figure.name, figure.unit);
    }
    table
}

fn hundredths(value: f64) -> f64 {
    (value * 100.0).round() / 100.0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn events(kinds: &[EventKind]) -> Vec<Event> {
        kinds.iter().map(|kind| Event { wall_us: 0, kind: kind.clone() }).collect()
    }

    #[test]
    fn what_should_have_happened_and_did_not_does_not_hold() {
        let cap = |cap_watts| EventKind::CapChanged { cap_watts };
        let played = events(&[cap(2.0), EventKind::LoadStep, cap(1.0)]);
        let rows = figures(&Score::default(), &played, None);
        let row = |name| rows.iter().find(|row| row.name == name).unwrap();
        assert!(!row("demo_under_cap_s").holds && !row("demo_step_s").holds && !row("demo_above_cap_s").holds);
        assert!(table(&rows).contains("never"));
        let good = Score { under_cap_s: Some(1.2), step_s: Some(0.0), above_cap_s: Some(0.0), ..Score::default() };
        assert!(figures(&good, &played, None).iter().all(|row| row.holds));
        let bad = Score { above_cap_s: Some(0.05), ..good };
        assert!(!figures(&bad, &played, None).iter().all(|row| row.holds));
    }

    #[test]
    fn what_the_script_did_not_come_to_is_not_judged() {
        let short = events(&[EventKind::CapChanged { cap_watts: 2.0 }]);
        let score = Score { above_cap_s: Some(0.0), ..Score::default() };
        assert!(figures(&score, &short, None).iter().all(|row| row.holds));
    }

    #[test]
    fn the_time_until_ready_is_there_where_it_is_known() {
        let (score, ready) =
            (Score { above_cap_s: Some(0.0), ..Score::default() }, |row: &Figure| row.name == "demo_ready_s");
        assert!(!figures(&score, &[], None).iter().any(ready));
        assert!(figures(&score, &[], Some(27.0)).iter().any(|row| ready(row) && row.value == Some(27.0)));
    }
}
