//! Decides recorded decisions anew, and tells whether the same comes out.
//!
//! Must hold: the comparison is of everything in the plan, to the last bit.

use std::{
    fmt::Write as _,
    fs::File,
    io::Write as _,
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::Context;
use serde_json::Value;

use crate::{decide::decide, record::Record};

/// The exit status when a decision came out differently.
const DIFFERENT: u8 = 1;
/// The exit status when a file could not be used.
const UNREADABLE: u8 = 2;
/// Lines of difference that are told of one decision.
const LINES: usize = 40;

/// Replays the decisions in these files, and says on standard output what came of each.
///
/// # Errors
/// When standard output is gone.
pub fn run(files: &[PathBuf]) -> anyhow::Result<ExitCode> {
    let (mut different, mut unreadable) = (0_usize, 0_usize);
    let mut out = std::io::stdout().lock();
    for file in files {
        let name = file.display();
        match replay(file) {
            Ok(Replayed { summary, difference }) if difference.is_empty() => {
                writeln!(out, "{name}: the same plan, {summary}")?;
            }
            Ok(Replayed { summary, difference }) => {
                different += 1;
                writeln!(out, "{name}: another plan, {summary}\n{}", told(&difference))?;
            }
            Err(error) => {
                unreadable += 1;
                writeln!(out, "{name}: {error:#}")?;
            }
        }
    }
    writeln!(out, "{} replayed, {different} differ, {unreadable} could not be read", files.len() - unreadable)?;
    Ok(match (unreadable, different) {
        (0, 0) => ExitCode::SUCCESS,
        (0, _) => DIFFERENT.into(),
        _ => UNREADABLE.into(),
    })
}

/// What came of one decision.
struct Replayed {
    summary: String,
    difference: Vec<Difference>,
}

fn replay(file: &Path) -> anyhow::Result<Replayed> {
    let record = Record::unpack(File::open(file).context("cannot open it")?)?;
    let plan = decide(&record.observation, record.now);
    let summary = format!(
        "by version {}: {} writes to nodes, {} to policies, {} to domains",
        record.version,
        plan.nodes.len(),
        plan.policies.len(),
        plan.domains.len()
    );
    let decided = serde_json::to_value(&plan).context("the new plan as JSON")?;
    Ok(Replayed { summary, difference: difference(&record.plan, &decided) })
}

/// A place at which two plans are not the same.
#[derive(Clone, Debug, PartialEq)]
pub struct Difference {
    /// Where, as in `.nodes[0].spec.powerLimitWatts`.
    pub at: String,
    /// What stands there in the record, if anything.
    pub recorded: Option<Value>,
    /// What was decided now, if anything.
    pub decided: Option<Value>,
}

/// Every place at which the two differ.
#[must_use]
pub fn difference(recorded: &Value, decided: &Value) -> Vec<Difference> {
    let mut found = Vec::new();
    compare(String::new(), Some(recorded), Some(decided), &mut found);
    found
}

fn compare(at: String, recorded: Option<&Value>, decided: Option<&Value>, found: &mut Vec<Difference>) {
    match (recorded, decided) {
        (Some(Value::Object(old)), Some(Value::Object(new))) => {
            let added = new.keys().filter(|key| !old.contains_key(*key));
            for key in old.keys().chain(added) {
                compare(format!("{at}.{key}"), old.get(key), new.get(key), found);
            }
        }
        (Some(Value::Array(old)), Some(Value::Array(new))) => {
            for index in 0..old.len().max(new.len()) {
                compare(format!("{at}[{index}]"), old.get(index), new.get(index), found);
            }
        }
        (recorded, decided) if recorded == decided => {}
        (recorded, decided) => {
            found.push(Difference { at, recorded: recorded.cloned(), decided: decided.cloned() });
        }
    }
}

/// A difference for people, a line for each place.
fn told(difference: &[Difference]) -> String {
    let mut text = String::new();
    let value = |value: &Option<Value>| value.as_ref().map_or_else(|| "nothing".to_owned(), Value::to_string);
    for Difference { at, recorded, decided } in difference.iter().take(LINES) {
        let _ = writeln!(text, "  {at}: recorded {}, decided {}", value(recorded), value(decided));
    }
    if difference.len() > LINES {
        let _ = writeln!(text, "  and {} more", difference.len() - LINES);
    }
    text.trim_end().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_difference_names_each_place_and_both_values() {
        let recorded = json!({"nodes": [{"name": "n0", "watts": 4000}], "domains": [], "steps": 1.5});
        assert_eq!(difference(&recorded, &recorded), []);
        let decided = json!({"nodes": [{"name": "n0", "watts": 4100}, {"name": "n1"}], "domains": [], "more": null});
        let text = told(&difference(&recorded, &decided));
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(
            lines,
            [
                "  .nodes[0].watts: recorded 4000, decided 4100",
                "  .nodes[1]: recorded nothing, decided {\"name\":\"n1\"}",
                "  .steps: recorded 1.5, decided nothing",
                "  .more: recorded nothing, decided null",
            ]
        );
    }
}
