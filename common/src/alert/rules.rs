//! The alerts as Prometheus takes them, and as a table for people.

use std::fmt::Write as _;

use serde_json::{Value, json};

use super::{ALL, Alert, RUNBOOKS};

/// A PrometheusRule of the Prometheus Operator; its `spec` is a file of rules as Prometheus itself reads it.
#[must_use]
pub fn prometheus_rule() -> Value {
    let rules: Vec<_> = ALL.iter().map(|alert| rule(alert)).collect();
    json!({
        "apiVersion": "monitoring.coreos.com/v1",
        "kind": "PrometheusRule",
        "metadata": {"name": "powercap", "namespace": "powercap-system"},
        "spec": {"groups": [{"name": "powercap", "rules": rules}]},
    })
}

fn rule(alert: &Alert) -> Value {
    let mut rule = json!({
        "alert": alert.name,
        "expr": alert.expression,
        "labels": {"severity": alert.severity.to_string()},
        "annotations": {
            "summary": summary(alert),
            "description": alert.reading.replace("{value}", "{{ $value | humanize }}"),
            "runbook_url": alert.runbook(RUNBOOKS),
        },
    });
    for (key, seconds) in [("for", alert.hold_seconds), ("keep_firing_for", alert.keep_seconds)] {
        if seconds > 0 {
            rule[key] = json!(format!("{seconds}s"));
        }
    }
    rule
}

/// The summary, with Prometheus's own way to write a label.
fn summary(alert: &Alert) -> String {
    let written: Vec<_> = alert.subject.iter().map(|label| format!("{{{{ $labels.{label} }}}}")).collect();
    alert.summary(&written)
}

/// A table of all alerts in Markdown; `runbooks` is where their pages stand.
#[must_use]
pub fn table(runbooks: &str) -> String {
    let mut table =
        "| alert | severity | labels | fires after | ends after | says |\n|---|---|---|---|---|---|\n".to_owned();
    for alert in ALL {
        let labels: Vec<_> = alert.subject.iter().map(|label| format!("`{label}`")).collect();
        let _ = writeln!(
            table,
            "| [`{}`]({}) | {} | {} | {} s | {} s | {} |",
            alert.name,
            alert.runbook(runbooks),
            alert.severity,
            labels.join(", "),
            alert.hold_seconds,
            alert.keep_seconds,
            alert.summary,
        );
    }
    table
}
