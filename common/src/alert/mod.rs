//! What people are told of at once: one table, from which admission tells Alertmanager itself and from which the
//! same alerts are made as rules of Prometheus.
//!
//! Must hold: an alert is known by its name and the labels of its subject alone. What changes while it fires (watts,
//! how long) stands in its annotations; a label that changed would make it another alert, and page anew.

mod catalogue;
mod rules;

use std::{collections::BTreeMap, fmt};

pub use self::{
    catalogue::{
        ADMITTED_WITHOUT_HEADROOM, ADVISING_ABOVE_CAP, AGENT_SILENT, ALL, CERTIFICATE_NEAR_EXPIRY, DEAD_MANS_SWITCH,
        DEVICE_FAILED, DOMAIN_ABOVE_CAP, DOMAIN_BRAKED, DOMAIN_DATA_STALE, DOMAIN_FORECAST_ABOVE_CAP,
        DOMAIN_INFEASIBLE, DOMAIN_NEAR_CAP, POLICY_ABOVE_CAP, POLICY_DATA_STALE, POLICY_ESCALATION_STOPPED,
        POLICY_FORECAST_ABOVE_CAP, POLICY_INFEASIBLE, POLICY_NEAR_CAP, RECOMMENDER_SILENT,
    },
    rules::{prometheus_rule, table},
};

use crate::reason::Reason;

/// Where the pages stand that say what to do, unless a flag says otherwise.
pub const RUNBOOKS: &str = "https://github.com/kube-powercap/kube-powercap/blob/main/docs/runbooks";

/// Of a domain's cap, the percentage from which it is near.
pub const NEAR_PERCENT: u32 = 95;
/// A node agent that has not reported for so many seconds is silent, as for the recommender.
pub const AGENT_SILENT_SECONDS: u32 = 360;
/// A recommender whose Lease has not been renewed for so many seconds is silent.
pub const RECOMMENDER_SILENT_SECONDS: u32 = 30;
/// A pod that was admitted without headroom is told of for so many seconds.
pub const WITHOUT_HEADROOM_SECONDS: u32 = 600;
/// With these reasons the condition `Escalating` says that nothing is done although something stands to be.
pub const ESCALATION_STOPS: [Reason; 4] =
    [Reason::StoppedWithoutEffect, Reason::LeaseExpired, Reason::AdmissionSilent, Reason::DataStale];
/// A certificate of which less than this percentage of its life is left should have been renewed long ago.
pub const CERTIFICATE_LEFT_PERCENT: u32 = 20;

/// How grave it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// Wakes somebody.
    Critical,
    /// Somebody looks at it in working hours.
    Warning,
    /// Nobody needs to do anything now.
    Info,
}

impl fmt::Display for Severity {
    /// As it stands in the label.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Critical => "critical",
            Self::Warning => "warning",
            Self::Info => "info",
        })
    }
}

/// One kind of alert; the graver comes first in order.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Alert {
    /// The label `severity`.
    pub severity: Severity,
    /// The label `alertname`, and the name of its page among the runbooks.
    pub name: &'static str,
    /// The labels that say what it is about.
    pub subject: &'static [&'static str],
    /// It fires once it has been so for this long, in seconds.
    pub hold_seconds: u32,
    /// It ends once it has not been so for this long, in seconds.
    pub keep_seconds: u32,
    /// One sentence, with `{label}` where a label of the subject goes.
    pub summary: &'static str,
    /// PromQL that answers with a series for each subject, with its labels and no others.
    pub expression: &'static str,
    /// How the value of that series reads, with `{value}` where it goes: watts come with their prefix, `12.35k`.
    pub reading: &'static str,
}

impl Alert {
    /// All labels that it is known by; `subject` in the order of [`Alert::subject`].
    #[must_use]
    pub fn labels(&self, subject: &[impl AsRef<str>]) -> BTreeMap<String, String> {
        let fixed = [("alertname", self.name.to_owned()), ("severity", self.severity.to_string())];
        let subject = self.subject.iter().zip(subject).map(|(name, value)| (*name, value.as_ref().to_owned()));
        fixed.into_iter().chain(subject).map(|(name, value)| (name.to_owned(), value)).collect()
    }

    /// The summary of one that is about this subject.
    #[must_use]
    pub fn summary(&self, subject: &[impl AsRef<str>]) -> String {
        let values = self.subject.iter().zip(subject);
        values.fold(self.summary.to_owned(), |text, (name, value)| text.replace(&format!("{{{name}}}"), value.as_ref()))
    }

    /// The address of its page, among those in this place.
    #[must_use]
    pub fn runbook(&self, place: &str) -> String {
        format!("{}/{}.md", place.trim_end_matches('/'), self.name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{collections::BTreeSet, fs, path::Path};

    #[test]
    fn each_alert_has_a_page_that_says_what_it_means_and_what_to_do_and_each_page_an_alert() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/runbooks");
        let pages: BTreeSet<_> =
            fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        let names: BTreeSet<_> = ALL.iter().map(|alert| format!("{}.md", alert.name)).collect();
        assert_eq!(pages, names);
        for alert in ALL {
            let page = fs::read_to_string(folder.join(format!("{}.md", alert.name))).unwrap();
            assert!(page.starts_with(&format!("# {}\n", alert.name)), "{}", alert.name);
            for part in ["\n## What it means\n", "\n## What to look at\n", "\n## What to do\n"] {
                assert!(page.contains(part), "{} lacks {part}", alert.name);
            }
        }
    }

    #[test]
    fn names_are_unlike_and_labels_never_carry_what_changes() {
        let names: BTreeSet<_> = ALL.iter().map(|alert| alert.name).collect();
        assert_eq!(names.len(), ALL.len());
        for alert in ALL {
            let stable = ["domain", "namespace", "node", "policy"];
            assert!(alert.subject.iter().all(|label| stable.contains(label)), "{}", alert.name);
        }
    }

    #[test]
    fn a_summary_names_its_subject() {
        assert_eq!(
            POLICY_ABOVE_CAP.summary(&["llm", "chat"]),
            "The pods of policy llm/chat draw more than its cap, although it acts"
        );
        let labels = POLICY_ABOVE_CAP.labels(&["llm", "chat"]);
        let labels: Vec<_> = labels.iter().map(|(name, value)| format!("{name}={value}")).collect();
        assert_eq!(labels, ["alertname=PowerPolicyAboveCap", "namespace=llm", "policy=chat", "severity=warning"]);
    }
}
