//! An answer: sentences and tables for people, the same as data for machines.

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use powercap_common::{condition::Truth, reason::Reason};
use serde::Serialize;

use crate::{
    mend::mend_word,
    pending::PendingRow,
    rows::{BoardRow, DomainRow, NodeRow, PolicyRow},
    table::{age, table},
    violators::ViolatorRow,
};

/// Why something runs as it does, and what a person can do about it.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Answer {
    /// What it is about, as `type/name`.
    pub subject: String,
    /// The answer in one sentence.
    pub summary: String,
    /// The domain, where it is about one.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub domains: Vec<DomainRow>,
    /// The policy, where it is about one.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub policies: Vec<PolicyRow>,
    /// Pods that draw more than their share of the policy's cap.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub violators: Vec<ViolatorRow>,
    /// What is to be done to workloads beyond lower clocks, in this order.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub pending: Vec<PendingRow>,
    /// Nodes that it concerns.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub nodes: Vec<NodeRow>,
    /// Boards that it concerns.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub boards: Vec<BoardRow>,
    /// Why it is so.
    pub why: Vec<Cause>,
    /// What a person can do.
    pub can_do: Vec<String>,
}

/// One cause.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Cause {
    /// The documented word.
    pub reason: String,
    /// What it concerns.
    pub of: String,
    /// What the word means, and the particulars.
    pub says: String,
    /// Since when, where that is known.
    pub since: Option<Timestamp>,
}

impl Cause {
    /// A reason in its documented words, and the particulars.
    #[must_use]
    pub fn new(reason: Reason, of: impl Into<String>, particulars: &str, since: Option<Timestamp>) -> Self {
        let says = format!("{} {particulars}", reason.explanation()).trim_end().to_owned();
        Self { reason: reason.to_string(), of: of.into(), says, since }
    }

    /// What a condition says.
    #[must_use]
    pub fn of_condition(of: &str, condition: &Condition) -> Self {
        let word = condition.reason.parse().map_or("", Reason::explanation).trim_end_matches('.');
        let says = if word.is_empty() { condition.message.clone() } else { format!("{word}: {}.", condition.message) };
        let Condition { type_, status, reason, .. } = condition;
        let truth = if status == Truth::Unknown.as_str() { " is unknown" } else { "" };
        let not = if status == Truth::False.as_str() { "not " } else { "" };
        Self {
            reason: reason.clone(),
            of: format!("{of}, {not}{type_}{truth}"),
            says,
            since: Some(condition.last_transition_time.0),
        }
    }
}

impl Answer {
    /// An answer in one sentence, so far.
    #[must_use]
    pub fn new(subject: String, summary: impl Into<String>) -> Self {
        Self { subject, summary: summary.into(), ..Self::default() }
    }

    /// Adds what mends these causes, each once.
    pub fn mend(&mut self) {
        for mend in self.why.iter().filter_map(|cause| mend_word(&cause.reason)) {
            let advice = sentence(mend);
            if !self.can_do.contains(&advice) {
                self.can_do.push(advice);
            }
        }
    }

    /// For people.
    #[must_use]
    pub fn text(&self, now: Timestamp) -> String {
        let mut text = format!("{}\n", self.summary);
        let mut paragraph = |part: String| {
            if !part.is_empty() {
                text.push('\n');
                text.push_str(&part);
            }
        };
        paragraph(table_of(&self.domains));
        paragraph(table_of(&self.policies));
        paragraph(table_of(&self.violators));
        paragraph(table_of(&self.pending));
        paragraph(table_of(&self.nodes));
        paragraph(table_of(&self.boards));
        let since = |at: Timestamp| format!(" Since {at:.0}, {} ago.", age(at, now));
        let why = self.why.iter().map(|cause| {
            format!("  {} ({}): {}{}\n", cause.reason, cause.of, cause.says, cause.since.map(since).unwrap_or_default())
        });
        paragraph(headed("Why:\n", why.collect()));
        paragraph(headed("What you can do:\n", self.can_do.iter().map(|advice| format!("  - {advice}\n")).collect()));
        text
    }
}

/// Words of [`mend_word`] as a sentence of their own.
fn sentence(words: &str) -> String {
    let mut letters = words.chars();
    let first = letters.next().map(|letter| letter.to_uppercase().to_string()).unwrap_or_default();
    format!("{first}{}.", letters.as_str())
}

fn table_of<R: crate::table::Row>(rows: &[R]) -> String {
    if rows.is_empty() { String::new() } else { table(rows) }
}

fn headed(heading: &str, lines: String) -> String {
    if lines.is_empty() { lines } else { format!("{heading}{lines}") }
}
