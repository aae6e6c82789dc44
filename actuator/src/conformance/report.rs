//! What the suite says: a table for people, and a report that can be sent to us.
//!
//! What must hold: the report holds no serial number, no name of a node or person, and no UUID unless
//! it was asked for.

use std::io::{self, Write};

use serde::Serialize;

use super::{
    catalogue::{CATALOGUE, Part},
    finding::{Figure, Finding, Value, Verdict},
};

/// Changes when a field changes its meaning.
const SCHEMA: &str = "powercap-conformance/1";

/// Everything that was found on a machine.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    schema: &'static str,
    /// Version of this agent.
    agent: &'static str,
    /// The machine.
    machine: Machine,
    /// The boards.
    boards: Vec<BoardEntry>,
    /// Whether it wrote.
    wrote: bool,
    /// Whether it was ended before its end.
    interrupted: bool,
    /// How many checks came out how.
    summary: Summary,
    findings: Vec<FindingEntry>,
}

/// The machine, without its name.
#[derive(Clone, Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Machine {
    /// The kernel's release.
    pub kernel: String,
    /// As Rust names it.
    pub architecture: &'static str,
    /// The processor's name.
    pub processor: String,
    /// The NVIDIA driver's version.
    pub driver: Option<String>,
    /// NVML's version.
    pub nvml: Option<String>,
}

/// A board.
#[derive(Clone, Debug, Serialize)]
pub struct BoardEntry {
    /// NVML's index.
    pub index: u32,
    /// Its UUID or a hash of it.
    pub uuid: String,
    /// The product's name.
    pub model: String,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
struct Summary {
    passed: usize,
    failed: usize,
    skipped: usize,
    not_supported: usize,
}

#[derive(Debug, Serialize)]
struct FindingEntry {
    check: &'static str,
    part: Part,
    subject: String,
    verdict: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    message: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    figures: Vec<Figure>,
}

/// A hash by which boards of one report can be told apart and known again, and no more. UUIDs are
/// random enough that nobody can try them all.
#[must_use]
pub fn hashed(uuid: &str) -> String {
    let digest = ring::digest::digest(&ring::digest::SHA256, uuid.as_bytes());
    let digits: String = digest.as_ref().iter().take(8).map(|byte| format!("{byte:02x}")).collect();
    format!("sha256:{digits}")
}

impl Report {
    /// Puts it together.
    #[must_use]
    pub fn new(
        machine: Machine,
        boards: Vec<BoardEntry>,
        findings: Vec<Finding>,
        wrote: bool,
        interrupted: bool,
    ) -> Self {
        let mut summary = Summary::default();
        let entries = findings.into_iter().map(|finding| {
            let verdict = finding.judgement.verdict;
            *match verdict {
                Verdict::Pass => &mut summary.passed,
                Verdict::Fail(_) => &mut summary.failed,
                Verdict::Skipped(_) => &mut summary.skipped,
                Verdict::NotSupported(_) => &mut summary.not_supported,
            } += 1;
            FindingEntry {
                check: finding.check.name,
                part: finding.check.part,
                subject: finding.subject,
                verdict: verdict.word(),
                message: verdict.message().map(str::to_owned),
                figures: finding.judgement.figures,
            }
        });
        let findings = entries.collect();
        let agent = env!("CARGO_PKG_VERSION");
        Self { schema: SCHEMA, agent, machine, boards, wrote, interrupted, summary, findings }
    }

    /// Whether nothing failed.
    #[must_use]
    pub const fn passed(&self) -> bool {
        self.summary.failed == 0
    }

    /// Whether it was ended before its end.
    #[must_use]
    pub const fn interrupted(&self) -> bool {
        self.interrupted
    }

    /// Writes the table.
    ///
    /// # Errors
    /// When `to` takes no text.
    pub fn print(&self, to: &mut dyn Write) -> io::Result<()> {
        let Machine { kernel, architecture, processor, driver, nvml } = &self.machine;
        writeln!(to, "powercap-actuator {}, Linux {kernel} on {architecture}, {processor}", self.agent)?;
        if let Some(driver) = driver {
            writeln!(to, "NVIDIA driver {driver}, NVML {}", nvml.as_deref().unwrap_or("unknown"))?;
        }
        for board in &self.boards {
            writeln!(to, "board {}: {}, {}", board.index, board.model, board.uuid)?;
        }
        let mut subject = "";
        for finding in &self.findings {
            if finding.subject != subject {
                subject = &finding.subject;
                writeln!(to, "\n{subject}")?;
            }
            let figures: Vec<_> = finding.figures.iter().map(text).collect();
            writeln!(to, "  {:<12} {:<17} {}", finding.verdict, finding.check, figures.join(", "))?;
            if let Some(message) = &finding.message {
                writeln!(to, "  {:<12} {message}", "")?;
            }
            if finding.verdict == "Fail"
                && let Some(check) = CATALOGUE.iter().find(|check| check.name == finding.check)
            {
                writeln!(to, "  {:<12} it matters because {}", "", check.matters)?;
            }
        }
        let Summary { passed, failed, skipped, not_supported } = self.summary;
        writeln!(to, "\n{passed} passed, {failed} failed, {skipped} skipped, {not_supported} not supported")
    }
}

/// Writes what there is to check.
///
/// # Errors
/// When `to` takes no text.
pub fn list(to: &mut dyn Write) -> io::Result<()> {
    for check in CATALOGUE {
        let part = if check.part == Part::Write { " (with --write)" } else { "" };
        writeln!(to, "{}{part}\n  {}\n  because {}", check.name, check.looks_at, check.matters)?;
    }
    Ok(())
}

fn text(figure: &Figure) -> String {
    let Figure { name, value, unit } = figure;
    match value {
        Value::Number(value) if unit.is_empty() => format!("{name} {value}"),
        Value::Number(value) if value.abs() < 1.0 => format!("{name} {value:.3} {unit}"),
        Value::Number(value) => format!("{name} {value:.1} {unit}"),
        Value::Text(value) => format!("{name} {value}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::conformance::{catalogue, finding::Judgement};

    fn report() -> Report {
        let findings = vec![
            Finding::new(catalogue::PRIVILEGES, "node", Judgement::pass().number("user", 0.0, "")),
            Finding::new(catalogue::CLOCK_GRID, "board 0", Judgement::fail("128 of 128 clocks are zero")),
            Finding::new(catalogue::RAPL_ENERGY, "cpus", Judgement::not_supported("no RAPL zone")),
        ];
        let board = BoardEntry { index: 0, uuid: hashed("GPU-1"), model: "NVIDIA H100".into() };
        Report::new(Machine::default(), vec![board], findings, false, false)
    }

    #[test]
    fn a_failure_says_why_it_matters() {
        let mut text = Vec::new();
        report().print(&mut text).unwrap();
        let text = String::from_utf8(text).unwrap();
        for words in
            ["128 of 128 clocks are zero", "it matters because a ceiling", "1 passed, 1 failed, 0 skipped, 1 not"]
        {
            assert!(text.contains(words), "{text}");
        }
        assert!(!report().passed());
    }

    #[test]
    fn a_report_has_hashes_and_figures() {
        let json = serde_json::to_value(report()).unwrap();
        assert_eq!(json["schema"], "powercap-conformance/1");
        assert_eq!(json["findings"][0]["figures"][0]["value"], 0.0);
        let uuid = json["boards"][0]["uuid"].as_str().unwrap();
        assert!(uuid.starts_with("sha256:") && uuid.len() == 23 && !json.to_string().contains("GPU-1"));
        assert_ne!(hashed("GPU-1"), hashed("GPU-2"));
    }
}
