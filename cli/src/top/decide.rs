//! Which rows stand in which order: pure.
//!
//! What must hold: what is tightest stands first, and what is not known last, never as if it were zero.

use std::cmp::Reverse;

use jiff::Timestamp;
use serde::Serialize;

use crate::{
    caps::Caps,
    flags::What,
    rows::{BoardRow, DomainRow, NodeRow, PolicyRow},
    table::{Row, table},
};

/// The tables that were asked for.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct View {
    /// The least headroom first.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub domains: Option<Vec<DomainRow>>,
    /// The least headroom first.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub nodes: Option<Vec<NodeRow>>,
    /// The nearest to its cap first.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub policies: Option<Vec<PolicyRow>>,
    /// The most power first.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub boards: Option<Vec<BoardRow>>,
    /// What could not be read.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub unread: Vec<String>,
}

/// The tables of `what`; of everything but boards when nothing is named.
#[must_use]
pub fn view(caps: &Caps, what: Option<What>, now: Timestamp) -> View {
    let asked = |table: What| what.is_none_or(|what| what == table);
    let read = |kind: &str| !caps.unread.iter().any(|unread| unread == kind);
    View {
        domains: (asked(What::Domains) && read("powerdomains")).then(|| domains(caps)),
        nodes: asked(What::Nodes).then(|| nodes(caps, now)),
        policies: (asked(What::Policies) && read("powercappingpolicies")).then(|| policies(caps)),
        boards: (what == Some(What::Boards)).then(|| boards(caps)),
        unread: caps.unread.clone(),
    }
}

impl View {
    /// For people.
    #[must_use]
    pub fn text(&self) -> String {
        let tables = [
            section(self.domains.as_deref(), "no PowerDomain"),
            section(self.nodes.as_deref(), "no node is capped"),
            section(self.policies.as_deref(), "no PowerCappingPolicy"),
            section(self.boards.as_deref(), "no agent reports a board"),
            (!self.unread.is_empty()).then(|| format!("you may not list {}\n", self.unread.join(", "))),
        ];
        tables.into_iter().flatten().collect::<Vec<_>>().join("\n")
    }
}

fn section<R: Row>(rows: Option<&[R]>, none: &str) -> Option<String> {
    rows.map(|rows| if rows.is_empty() { format!("{none}\n") } else { table(rows) })
}

fn domains(caps: &Caps) -> Vec<DomainRow> {
    let mut rows: Vec<_> = caps.domains.iter().map(DomainRow::from).collect();
    rows.sort_by_key(|row| (unknown_last(row.headroom_watts), row.name.clone()));
    rows
}

fn nodes(caps: &Caps, now: Timestamp) -> Vec<NodeRow> {
    let mut rows: Vec<_> = caps.nodes.iter().map(|node| NodeRow::of(node, now)).collect();
    rows.sort_by_key(|row| (unknown_last(row.headroom_watts), row.name.clone()));
    rows
}

fn policies(caps: &Caps) -> Vec<PolicyRow> {
    let mut rows: Vec<_> = caps.policies.iter().map(PolicyRow::from).collect();
    let left = |row: &PolicyRow| row.power_watts.map(|power| i64::from(row.cap_watts) - i64::from(power));
    rows.sort_by_key(|row| (unknown_last(left(row)), row.namespace.clone(), row.name.clone()));
    rows
}

fn boards(caps: &Caps) -> Vec<BoardRow> {
    let gpus = caps.nodes.iter().flat_map(|node| node.status.iter().map(move |status| (node, &status.gpus)));
    let mut rows: Vec<_> = gpus.flat_map(|(node, gpus)| gpus.iter().map(move |gpu| BoardRow::of(node, gpu))).collect();
    rows.sort_by_key(|row| (unknown_last(row.power_watts.map(Reverse)), row.node.clone(), row.uuid.clone()));
    BoardRow::shorten(&mut rows);
    rows
}

/// `None` sorts behind every value.
fn unknown_last<T>(value: Option<T>) -> (bool, Option<T>) {
    (value.is_none(), value)
}
