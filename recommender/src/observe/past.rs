//! Reads the past once, when leadership begins: six questions over the window, one after the other.
//!
//! From then on the past is what was seen. Must hold: nothing waits for an answer; whatever the size of the
//! cluster, each question has a bounded number of steps and a bounded time; what cannot be read is asked for
//! again, ever more rarely, and the history says so meanwhile.

use std::{sync::Arc, time::Duration};

use jiff::Timestamp;
use powercap_common::{policy::PolicyId, reason::Reason, units::Watts};
use tokio::sync::Notify;

use super::{
    answer::{SeriesLabels, Trace},
    kepler,
    names::Names,
    prometheus::{Prometheus, PrometheusError, Times},
    telemetry::{LatestTelemetry, in_full},
};
use crate::{
    metrics::Metrics,
    model::{
        history::{self, History, Past, PastOf},
        window::{STEPS, Span},
    },
    observation::Hold,
};

/// A question over a day and thousands of boards takes Prometheus some seconds.
const TIMEOUT: Duration = Duration::from_secs(30);
/// The first pause after a question that failed, and the longest.
const PAUSES: [Duration; 2] = [Duration::from_secs(15), Duration::from_secs(600)];

/// No board and no CPUs draw more; what claims to is no reading.
const MOST_PLAUSIBLE: Watts = Watts::new(20_000);

/// Labels of our own metrics of policies and domains.
pub(super) const OWN_LABELS: [&str; 4] = ["exported_namespace", "namespace", "policy", "domain"];

/// Who asks for the past.
pub struct PastReader {
    prometheus: Arc<Prometheus>,
    names: Names,
    latest: LatestTelemetry,
    metrics: Metrics,
    span: Span,
}

impl PastReader {
    /// Puts what `prometheus` knows of this span into the history of `latest`.
    #[must_use]
    pub fn new(
        prometheus: Arc<Prometheus>,
        names: Names,
        latest: LatestTelemetry,
        metrics: Metrics,
        span: Span,
    ) -> Self {
        latest.update(|telemetry| telemetry.history = Arc::new(History::over(span)));
        Self { prometheus, names, latest, metrics, span }
    }

    /// Reads the past whenever `leads` is notified, for ever.
    pub async fn follow(self, leads: Arc<Notify>) {
        loop {
            leads.notified().await;
            let mut pause = PAUSES[0];
            while !self.read(Timestamp::now()).await {
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(PAUSES[1]);
            }
        }
    }

    /// Reads it once, as of this time; says whether all of it was.
    pub async fn read(&self, now: Timestamp) -> bool {
        let queries = queries(&self.names, self.span.step_seconds);
        let times = times(self.span, now);
        let board = |labels: &SeriesLabels| {
            let uuid =
                [&self.names.dcgm.uuid, &self.names.agent.uuid].into_iter().find_map(|name| labels.get(name.as_str()));
            uuid.map(ToOwned::to_owned)
        };
        let pod = |labels: &SeriesLabels| kepler::pod_of(labels, &self.names);
        let read = async {
            let (peaks, means) = (
                self.past(&queries.board_peaks, times, MOST_PLAUSIBLE, board).await?,
                self.past(&queries.board_means, times, MOST_PLAUSIBLE, board).await?,
            );
            self.keep(|history| history::fill(&mut history.boards, peaks, means));
            let (peaks, means) = (
                self.past(&queries.pod_peaks, times, MOST_PLAUSIBLE, pod).await?,
                self.past(&queries.pod_means, times, MOST_PLAUSIBLE, pod).await?,
            );
            self.keep(|history| history::fill(&mut history.pods, peaks, means));
            let policies = self.past(&queries.policies, times, Watts::from_milliwatts(u64::MAX), policy).await?;
            let domains = self.past(&queries.domains, times, Watts::from_milliwatts(u64::MAX), domain).await?;
            self.keep(|history| {
                history::fill_windows(&mut history.policies, policies);
                history::fill_windows(&mut history.domains, domains);
            });
            Ok::<_, Hold>(())
        };
        let read = read.await;
        let all = read.is_ok();
        self.keep(|history| history.past = read.map_or_else(Past::Failed, |()| Past::Read));
        all
    }

    fn keep(&self, change: impl FnOnce(&mut History)) {
        self.latest.update(|telemetry| change(Arc::make_mut(&mut telemetry.history)));
    }

    async fn past<K: Ord>(
        &self,
        query: &str,
        times: Times,
        most: Watts,
        owner: impl Fn(&SeriesLabels) -> Option<K>,
    ) -> Result<Vec<PastOf<K>>, Hold> {
        let answer = self.prometheus.range(query, times, TIMEOUT).await;
        self.metrics.prometheus_query(answer.as_ref().map_or_else(PrometheusError::result, |_| "ok"));
        let traces = answer.map_err(|error| {
            tracing::warn!(query, error = &error as &dyn std::error::Error, "the past was not read");
            Hold::new(Reason::HistoryUnavailable, format!("Prometheus: {}", in_full(&error)))
        })?;
        let of_one =
            |trace: Trace| Some(PastOf { owner: owner(&trace.labels)?, steps: steps(&trace, self.span, most) });
        Ok(traces.into_iter().filter_map(of_one).collect())
    }
}

struct Queries {
    board_peaks: String,
    board_means: String,
    pod_peaks: String,
    pod_means: String,
    policies: String,
    domains: String,
}

/// One series for each owner, so that an answer is as small as can be.
fn queries(names: &Names, step: i64) -> Queries {
    let Names { dcgm, kepler, kepler_legacy: old, agent } = names;
    let boards = |over: &str| {
        format!(
            "max by ({}) ({over}({}[{step}s])) or max by ({}) ({over}({}[{step}s]))",
            dcgm.uuid, dcgm.power, agent.uuid, agent.gpu_watts
        )
    };
    let watts = kepler::running_pods(kepler);
    let pods = |over: &str| {
        format!(
            "sum by ({}, {}) ({over}({watts}[{step}s])) or sum by ({}, {}) (rate({}[{step}s]))",
            kepler.namespace, kepler.pod, old.namespace, old.pod, old.container_joules
        )
    };
    let [exported, namespace, policy, domain] = OWN_LABELS;
    Queries {
        board_peaks: boards("max_over_time"),
        board_means: boards("avg_over_time"),
        pod_peaks: pods("max_over_time"),
        pod_means: pods("avg_over_time"),
        policies: format!(
            "max by ({exported}, {namespace}, {policy}) (max_over_time(powercap_policy_power_watts[{step}s]))"
        ),
        domains: format!("max by ({domain}) (max_over_time(powercap_domain_power_watts[{step}s]))"),
    }
}

/// The ends of all steps of the window that are over.
fn times(span: Span, now: Timestamp) -> Times {
    let end = span.step(now);
    let step = span.step_seconds;
    Times { start: (end - STEPS + 2) * step, end: end * step, step }
}

/// What is evaluated at the end of a step is of that step.
fn steps(trace: &Trace, span: Span, most: Watts) -> Vec<(i64, Watts)> {
    let of_step = |(at, value): &(f64, f64)| {
        #[expect(clippy::cast_possible_truncation, reason = "a time of some day")]
        let end = (at.round() as i64).div_euclid(span.step_seconds);
        Some((end - 1, Watts::from_measurement(*value).filter(|watts| *watts <= most)?))
    };
    trace.points.iter().filter_map(of_step).collect()
}

fn policy(labels: &SeriesLabels) -> Option<PolicyId> {
    let [exported, namespace, policy, _] = OWN_LABELS;
    // Where the scrape does not honour labels, `namespace` is that of our own pod.
    let namespace = labels.get(exported).or_else(|| labels.get(namespace))?.to_owned();
    Some(PolicyId { namespace, name: labels.get(policy)?.to_owned() })
}

fn domain(labels: &SeriesLabels) -> Option<String> {
    labels.get(OWN_LABELS[3]).map(ToOwned::to_owned)
}
