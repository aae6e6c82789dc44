//! The demo's figures: made from the judge's record alone.

use std::{fs::File, io::BufReader, path::Path};

use anyhow::{Context, Result};
use powercap_e2e::figures::Figure;
use powercap_simulator::judge::{
    record::{self, Sample},
    score::{Event, EventKind, Score},
};

/// Reads the judge's record.
pub(crate) fn read_record(path: &Path) -> Result<Vec<Sample>> {
    let file = File::open(path).with_context(|| format!("open the judge's record {}", path.display()))?;
    record::read(BufReader::new(file))
}

/// The rows, with their goals.
///
/// A figure of something that the script did not come to is left out: it neither holds nor fails.
pub(crate) fn figures(
    score: &Score,
    events: &[Event],
    ready_seconds: Option<f64>,
    rungs_missed: Option<u32>,
) -> Vec<Figure> {
    let mut rows = Vec::new();
    if edited_down(events) {
        rows.push(Figure::at_most("demo_under_cap_s", score.under_cap_s, "s", 3.0));
    }
    if events.iter().any(|event| event.kind == EventKind::LoadStep) {
        rows.push(Figure::at_most("demo_step_s", score.step_s, "s", 2.0));
    }
    rows.extend([
        Figure::at_most("demo_above_cap_s", score.above_cap_s, "s", 0.0),
        Figure::at_most("demo_unknown_s", Some(score.unknown_s), "s", 0.0),
        Figure::reported("demo_work_kept", score.work_kept, "ratio"),
        Figure::reported("demo_worst_above_cap", score.worst_above_watts, "W"),
        Figure::reported("demo_judged_s", Some(score.judged_s), "s"),
    ]);
    // Unknown where nobody said when the command began, or no cap was acknowledged; then it is left out.
    rows.extend(ready_seconds.map(|seconds| Figure::reported("demo_ready_s", Some(seconds), "s")));
    let missed = |count| Figure::at_most("demo_rungs_missed", Some(f64::from(count)), "rungs", 0.0);
    rows.extend(rungs_missed.map(missed));
    rows
}

fn edited_down(events: &[Event]) -> bool {
    let caps = events.iter().filter_map(|event| match event.kind {
        EventKind::CapChanged { cap_watts } => Some(cap_watts),
        _ => None,
    });
    caps.clone().zip(caps.skip(1)).any(|(before, after)| after < before)
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
        let rows = figures(&Score::default(), &played, None, None);
        let row = |name| rows.iter().find(|row| row.name == name).unwrap();
        assert!(!row("demo_under_cap_s").holds && !row("demo_step_s").holds && !row("demo_above_cap_s").holds);
        let good = Score { under_cap_s: Some(1.2), step_s: Some(0.0), above_cap_s: Some(0.0), ..Score::default() };
        assert!(figures(&good, &played, None, None).iter().all(|row| row.holds));
        let bad = Score { above_cap_s: Some(0.05), ..good };
        assert!(!figures(&bad, &played, None, None).iter().all(|row| row.holds));
    }

    #[test]
    fn what_the_script_did_not_come_to_is_not_judged() {
        let short = events(&[EventKind::CapChanged { cap_watts: 2.0 }]);
        let score = Score { above_cap_s: Some(0.0), ..Score::default() };
        assert!(figures(&score, &short, None, None).iter().all(|row| row.holds));
    }

    #[test]
    fn the_time_until_ready_is_there_where_it_is_known() {
        let (score, ready) =
            (Score { above_cap_s: Some(0.0), ..Score::default() }, |row: &Figure| row.name == "demo_ready_s");
        assert!(!figures(&score, &[], None, None).iter().any(ready));
        assert!(figures(&score, &[], Some(27.0), None).iter().any(|row| ready(row) && row.value == Some(27.0)));
    }

    #[test]
    fn a_rung_that_was_not_seen_fails_a_play_that_went_to_its_end() {
        let score = Score { above_cap_s: Some(0.0), ..Score::default() };
        for (missed, holds) in [(None, true), (Some(0), true), (Some(1), false)] {
            assert_eq!(figures(&score, &[], None, missed).iter().all(|row| row.holds), holds);
        }
    }
}
