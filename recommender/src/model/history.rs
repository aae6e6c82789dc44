//! The past of everything, as decisions found it: of boards, of pods' CPU use, of policies and of domains, and
//! what containers use.
//!
//! Must hold: what was seen is never overwritten by what is read of the past; what is gone for a whole window
//! is forgotten, so that it stays as small as the cluster.

use std::collections::BTreeMap;

use jiff::Timestamp;
use powercap_common::{
    policy::PolicyId,
    units::{Bytes, Millicores, Watts},
};
use serde::{Deserialize, Serialize};

use super::{
    course::Course,
    demand::Demand,
    window::{Span, Window},
};
use crate::{
    decide::{Figures, News},
    observation::{Hold, PodName, pairs},
};

/// Whether the past was read from Prometheus.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub enum Past {
    /// Not yet.
    #[default]
    Awaited,
    /// As far as there was any.
    Read,
    /// It could not be.
    Failed(Hold),
}

/// What is remembered.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct History {
    /// How far back.
    pub span: Span,
    /// Whether more than was seen is known.
    pub past: Past,
    /// Of boards, by UUID.
    pub boards: BTreeMap<String, Course>,
    /// Of the CPU use of pods.
    #[serde(with = "pairs")]
    pub pods: BTreeMap<PodName, Course>,
    /// The highest power of policies in each step.
    #[serde(with = "pairs")]
    pub policies: BTreeMap<PolicyId, Window>,
    /// Of domains, by name.
    pub domains: BTreeMap<String, Window>,
    /// What the pods of policies use.
    #[serde(with = "pairs")]
    pub demand: BTreeMap<PolicyId, Demand>,
    /// What containers used before we looked, by pod and name: until a decision has taken it in.
    #[serde(with = "pairs")]
    pub containers: BTreeMap<(PodName, String), PastUse>,
}

/// What was read of the past use of one container: each step's, in the order of time.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct PastUse {
    /// Processor time: the mean of a step.
    pub cpu: Vec<(i64, Millicores)>,
    /// Memory: the peak of a step.
    pub memory: Vec<(i64, Bytes)>,
}

/// What was read of the past of something.
#[derive(Clone, Debug, PartialEq)]
pub struct PastOf<K> {
    /// Of what.
    pub owner: K,
    /// Watts by step.
    pub steps: Vec<(i64, Watts)>,
}

impl History {
    /// Of nothing yet, over this span.
    #[must_use]
    pub fn over(span: Span) -> Self {
        Self { span, ..Self::default() }
    }

    /// Takes note of what a decision saw, and of what it found that policies and domains draw.
    pub fn note(&mut self, news: &News, figures: &Figures, now: Timestamp) {
        let span = self.span;
        for (uuid, power) in &news.boards {
            self.boards.entry(uuid.clone()).or_default().note(power.value, power.at, span);
        }
        for (pod, power) in &news.pods {
            self.pods.entry(pod.clone()).or_default().note(power.value, power.at, span);
        }
        for samples in &news.samples {
            self.demand.entry(samples.policy.clone()).or_default().note(samples);
        }
        // Of a policy that comes later, what is seen from then on counts.
        if news.samples.iter().any(|samples| samples.past) {
            self.containers.clear();
        }
        self.demand.retain(|_, demand| demand.reaches(now));
        let now = span.step(now);
        for (id, power) in figures.policies.iter().filter_map(|(id, figures)| Some((id, figures.power?))) {
            self.policies.entry(id.clone()).or_default().raise(now, power);
        }
        for (name, power) in figures.domains.iter().filter_map(|(name, figures)| Some((name, figures.power?))) {
            self.domains.entry(name.clone()).or_default().raise(now, power);
        }
        self.boards.retain(|_, course| course.peaks.reaches(now));
        self.pods.retain(|_, course| course.peaks.reaches(now));
        self.policies.retain(|_, window| window.reaches(now));
        self.domains.retain(|_, window| window.reaches(now));
    }
}

/// Puts peaks of the past where nothing better is known.
pub fn fill_peaks<K: Ord>(courses: &mut BTreeMap<K, Course>, peaks: impl IntoIterator<Item = PastOf<K>>) {
    for PastOf { owner, steps } in peaks {
        let known = &mut courses.entry(owner).or_default().peaks;
        steps.into_iter().for_each(|(step, watts)| known.raise(step, watts));
    }
}

/// Likewise means.
pub fn fill_means<K: Ord>(courses: &mut BTreeMap<K, Course>, means: impl IntoIterator<Item = PastOf<K>>) {
    for PastOf { owner, steps } in means {
        let known = &mut courses.entry(owner).or_default().means;
        for (step, watts) in steps {
            if known.at(step).is_none() {
                known.set(step, watts);
            }
        }
    }
}

/// Likewise of windows of peaks.
pub fn fill_windows<K: Ord>(windows: &mut BTreeMap<K, Window>, peaks: impl IntoIterator<Item = PastOf<K>>) {
    for PastOf { owner, steps } in peaks {
        let known = windows.entry(owner).or_default();
        steps.into_iter().for_each(|(step, watts)| known.raise(step, watts));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        decide::{DomainFigures, PolicyFigures},
        observation::{Sample, Source},
    };
    use jiff::SignedDuration;

    #[test]
    fn what_was_seen_is_not_overwritten_by_what_is_read() {
        let (mut history, board) = (History::default(), "GPU-a".to_owned());
        let now = Timestamp::from_second(1_800_000).unwrap();
        let power = Sample { value: Watts::new(500), at: now, source: Source::Agent };
        let news = News { boards: vec![(board.clone(), power)], ..News::default() };
        history.note(&news, &Figures::default(), now);
        let past = |watts| {
            let steps = vec![(999, Watts::new(300)), (1000, Watts::new(watts))];
            vec![PastOf { owner: board.clone(), steps }]
        };
        fill_peaks(&mut history.boards, past(400));
        fill_means(&mut history.boards, past(100));
        let known = |window: &Window| window.known(1000).map(|(_, watts)| watts.ceil()).collect::<Vec<_>>();
        let course = &history.boards[&board];
        assert_eq!((known(&course.peaks), known(&course.means)), (vec![300, 500], vec![300, 500]));
    }

    #[test]
    fn what_is_gone_for_a_window_is_forgotten() {
        let id = PolicyId { namespace: "a".into(), name: "b".into() };
        let (mut history, domain) = (History::default(), "r".to_owned());
        let now = Timestamp::from_second(1_800_000).unwrap();
        let found = |history: &mut History, power: Option<Watts>, now| {
            let mut figures = Figures::default();
            figures.policies.insert(id.clone(), PolicyFigures { power, ..PolicyFigures::default() });
            figures.domains.insert(domain.clone(), DomainFigures { power, ..DomainFigures::default() });
            history.note(&News::default(), &figures, now);
        };
        found(&mut history, Some(Watts::new(5)), now);
        found(&mut history, None, now + SignedDuration::from_hours(23));
        assert_eq!((history.policies.len(), history.domains.len()), (1, 1));
        found(&mut history, None, now + SignedDuration::from_hours(25));
        assert_eq!((history.policies.len(), history.domains.len()), (0, 0));
    }
}
