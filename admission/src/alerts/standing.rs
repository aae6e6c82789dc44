//! From looks to alerts: one fires when it has been so for a while, and ends when it has not been so for a while, so
//! that none flutters.
//!
//! ```text
//!            so for `hold`                 not so for `keep`
//!   quiet ─────────────────▶ firing ─────────────────────────▶ resolved ──(10 min)──▶ quiet
//! ```
//!
//! Must hold: while nobody can tell, what fires goes on firing and what does not does not begin.

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};
use powercap_common::alert::{ADMITTED_WITHOUT_HEADROOM, Alert};

use super::decide::{Findings, Key, Look};

/// A resolved alert is told of for this long, to those who were away.
const RESOLVED_FOR: SignedDuration = SignedDuration::from_mins(10);

/// What fires, and what did a moment ago.
#[derive(Clone, Debug, Default)]
pub struct Standing(BTreeMap<Key, Entry>);

#[derive(Clone, Debug, Default)]
struct Entry {
    /// Since when it has been so without a break; `None`: it is not so.
    so_since: Option<Timestamp>,
    /// When it was so last.
    so_last: Option<Timestamp>,
    episode: Option<Episode>,
}

/// From when to when an alert fired.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Episode {
    /// When it began.
    pub since: Timestamp,
    /// When it ended; `None`: it fires.
    pub until: Option<Timestamp>,
    /// In words.
    pub description: String,
}

impl Standing {
    /// Takes in what a look found.
    pub fn step(&mut self, findings: Findings, now: Timestamp) {
        for (key, entry) in &mut self.0 {
            if !findings.contains_key(key) {
                entry.not_so(key.alert, now);
            }
        }
        for (key, look) in findings {
            match look {
                Look::So(description) => {
                    let alert = key.alert;
                    self.0.entry(key).or_default().so(alert, description, now);
                }
                // The time in which nobody can tell counts for neither side.
                Look::Unknown => _ = self.0.get_mut(&key).map(|entry| entry.unknown(now)),
            }
        }
        self.0.retain(|_, entry| entry.so_since.is_some() || entry.episode.is_some());
    }

    /// What is to be told, the gravest first: what fires, and what fired until lately.
    pub fn episodes(&self) -> impl Iterator<Item = (&Key, &Episode)> {
        self.0.iter().filter_map(|(key, entry)| Some((key, entry.episode.as_ref()?)))
    }
}

impl Entry {
    fn so(&mut self, alert: &Alert, description: String, now: Timestamp) {
        let since = *self.so_since.get_or_insert(now);
        self.so_last = Some(now);
        match &mut self.episode {
            Some(episode) if episode.until.is_none() => episode.description = description,
            _ if now.duration_since(since) >= seconds(alert.hold_seconds) => {
                self.episode = Some(Episode { since: now, until: None, description });
            }
            _ => {}
        }
    }

    fn not_so(&mut self, alert: &Alert, now: Timestamp) {
        self.so_since = None;
        let quiet = self.so_last.map_or(SignedDuration::MAX, |last| now.duration_since(last));
        let Some(episode) = &mut self.episode else { return };
        match episode.until {
            None if quiet < seconds(alert.keep_seconds) => {}
            None if is_known_to_one_replica(alert) => self.episode = None,
            None => episode.until = Some(now),
            Some(until) if now.duration_since(until) > RESOLVED_FOR => self.episode = None,
            Some(_) => {}
        }
    }

    fn unknown(&mut self, now: Timestamp) {
        match &self.episode {
            Some(Episode { until: None, .. }) => self.so_last = Some(now),
            Some(Episode { until: Some(until), .. }) if now.duration_since(*until) > RESOLVED_FOR => {
                self.episode = None;
            }
            _ => {}
        }
        if self.episode.as_ref().is_none_or(|episode| episode.until.is_some()) {
            self.so_since = None;
        }
    }
}

/// Whether another replica may know better: then the end is not told in so many words, which would end what the
/// other tells; the alert lapses where nobody sends it any more.
fn is_known_to_one_replica(alert: &Alert) -> bool {
    *alert == ADMITTED_WITHOUT_HEADROOM
}

fn seconds(seconds: u32) -> SignedDuration {
    SignedDuration::from_secs(seconds.into())
}
