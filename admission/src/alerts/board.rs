//! What every Alertmanager is to believe now: the newest state, bounded, and how it is written.

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};
use powercap_common::alert::{Alert, Severity};
use serde::Serialize;

use super::{
    flags::AlertFlags,
    standing::{Episode, Standing},
};

/// Alerts that are told of at most, those that fire and the gravest of them first.
const MOST: usize = 1000;

/// All that is to be told.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Board {
    /// What fires, the gravest first, then what was resolved.
    pub postings: Vec<Posting>,
    /// So many more found no room.
    pub left_out: usize,
}

/// One alert, as it is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Posting {
    /// What it is known by.
    pub labels: BTreeMap<String, String>,
    /// What changes.
    pub annotations: BTreeMap<&'static str, String>,
    /// How grave it is.
    pub severity: Severity,
    /// When it began.
    pub since: Timestamp,
    /// When it ended; `None`: it fires.
    pub until: Option<Timestamp>,
}

/// An alert in the words of Alertmanager's API v2.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Message<'a> {
    labels: &'a BTreeMap<String, String>,
    annotations: &'a BTreeMap<&'static str, String>,
    starts_at: Timestamp,
    ends_at: Timestamp,
}

impl Board {
    /// What stands, as the flags want it told.
    #[must_use]
    pub fn of(standing: &Standing, flags: &AlertFlags) -> Self {
        let posting = |(key, episode): (&super::Key, &Episode)| Posting::of(key.alert, &key.subject, episode, flags);
        let mut postings: Vec<_> = standing.episodes().map(posting).collect();
        // Stable: among those that fire the gravest stay first.
        postings.sort_by_key(|posting| posting.until.is_some());
        let left_out = postings.len().saturating_sub(MOST);
        postings.truncate(MOST);
        Self { postings, left_out }
    }

    /// Whether somebody who was told the other need not be told this at once: the same fires.
    #[must_use]
    pub fn tells_the_same(&self, other: &Self) -> bool {
        let what = |board: &Self| -> BTreeMap<_, _> {
            board.postings.iter().map(|posting| (posting.labels.clone(), (posting.since, posting.until))).collect()
        };
        what(self) == what(other)
    }
}

impl Posting {
    fn of(alert: &Alert, subject: &[String], episode: &Episode, flags: &AlertFlags) -> Self {
        let mut labels = alert.labels(subject);
        labels.extend(flags.alert_labels.iter().cloned());
        let annotations = [
            ("summary", alert.summary(subject)),
            ("description", episode.description.clone()),
            ("runbook_url", alert.runbook(&flags.runbooks_url)),
        ];
        Self {
            labels,
            annotations: annotations.into(),
            severity: alert.severity,
            since: episode.since,
            until: episode.until,
        }
    }

    /// As it is sent now; one that fires is believed for `believed` without another word.
    #[must_use]
    pub fn message(&self, now: Timestamp, believed: SignedDuration) -> Message<'_> {
        let ends_at = self.until.unwrap_or_else(|| now.saturating_add(believed).unwrap_or(Timestamp::MAX));
        Message { labels: &self.labels, annotations: &self.annotations, starts_at: self.since, ends_at }
    }
}
