//! Figures with goals: the rows that the demo and the bench print and write, so that one reader
//! understands both.

use std::{borrow::Cow, fmt::Write as _, path::Path};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

/// One row of demo.json or bench.json.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Figure {
    /// What was measured, its unit last.
    pub name: Cow<'static, str>,
    /// `None`: what should have happened did not, which never holds.
    pub value: Option<f64>,
    /// The unit.
    pub unit: Cow<'static, str>,
    /// What it should be; `None`: it is only reported.
    pub goal: Option<String>,
    /// Whether it is so.
    pub holds: bool,
}

impl Figure {
    /// A value that should be at most this.
    #[must_use]
    pub fn at_most(name: &'static str, value: Option<f64>, unit: &'static str, most: f64) -> Self {
        Self {
            name: name.into(),
            value: value.map(hundredths),
            unit: unit.into(),
            goal: Some(if most == 0.0 { "= 0".to_owned() } else { format!("≤ {most}") }),
            holds: value.is_some_and(|value| value <= most),
        }
    }

    /// A value without a goal.
    #[must_use]
    pub fn reported(name: &'static str, value: Option<f64>, unit: &'static str) -> Self {
        Self { name: name.into(), value: value.map(hundredths), unit: unit.into(), goal: None, holds: true }
    }
}

/// The rows as a table for people.
#[must_use]
pub fn table(figures: &[Figure]) -> String {
    let width = figures.iter().map(|figure| figure.name.len()).max().unwrap_or_default().max(22);
    let mut table = format!("{:<width$} {:>10} {:<7} {:<6} holds\n", "figure", "value", "unit", "goal");
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
        let _ = writeln!(table, "{:<width$} {value:>10} {:<7} {goal:<6} {holds}", figure.name, figure.unit);
    }
    table
}

/// Writes the rows as JSON.
///
/// # Errors
/// When the file cannot be written.
pub fn write(path: &Path, rows: &[Figure]) -> Result<()> {
    let text = serde_json::to_string_pretty(rows).context("write the figures as JSON")?;
    std::fs::write(path, text + "\n").with_context(|| format!("write {}", path.display()))
}

/// Reads rows that were written before.
///
/// # Errors
/// When the file cannot be read or holds something else.
pub fn read(path: &Path) -> Result<Vec<Figure>> {
    let text = std::fs::read_to_string(path).with_context(|| format!("read {}", path.display()))?;
    serde_json::from_str(&text).with_context(|| format!("understand the figures in {}", path.display()))
}

fn hundredths(value: f64) -> f64 {
    (value * 100.0).round() / 100.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_written_is_read_again() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("figures.json");
        let rows = [Figure::at_most("a_s", Some(1.234), "s", 1.0), Figure::reported("b_w", None, "W")];
        write(&path, &rows).unwrap();
        assert_eq!(read(&path).unwrap(), rows);
        std::fs::write(&path, "{}").unwrap();
        assert!(read(&path).is_err());
    }

    #[test]
    fn what_never_happened_does_not_hold_and_is_said() {
        let rows = [Figure::at_most("a_s", None, "s", 1.0), Figure::at_most("b_s", Some(1.0), "s", 1.0)];
        assert_eq!(rows.each_ref().map(|row| row.holds), [false, true]);
        let table = table(&rows);
        assert!(table.contains("never") && table.contains("NO") && table.contains("yes"), "{table}");
    }
}
