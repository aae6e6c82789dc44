//! Reads the past once, when leadership begins: six questions over the window, one after the other, and two of what
//! containers use where a policy asks for that.
//!
//! From then on the past is what was seen. Must hold: nothing waits for an answer; whatever the size of the
//! cluster, each question has a bounded number of steps and a bounded time; what cannot be read is asked for
//! again, ever more rarely, and the history says so meanwhile.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use jiff::Timestamp;
use powercap_common::{
    policy::PolicyId,
    reason::Reason,
    units::{Bytes, Millicores, Watts},
};
use tokio::sync::Notify;

use super::{
    answer::{SeriesLabels, Trace},
    kepler,
    names::{ContainerNames, Name, Names},
    prometheus::{Prometheus, PrometheusError, Times},
    telemetry::{LatestTelemetry, in_full},
};
use crate::{
    metrics::Metrics,
    model::{
        history::{self, History, Past, PastOf},
        window::{STEPS, Span},
    },
    observation::{Hold, PodName},
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
    namespaces: Namespaces,
}

/// The namespaces of which the CPU and memory of containers are asked for, as they are when it is called.
pub type Namespaces = Box<dyn Fn() -> BTreeSet<String> + Send + Sync>;

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
        Self { prometheus, names, latest, metrics, span, namespaces: Box::new(BTreeSet::new) }
    }

    /// Reads what the containers in these namespaces used, too.
    #[must_use]
    pub fn with_containers_in(self, namespaces: Namespaces) -> Self {
        Self { namespaces, ..self }
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
            // One answer at a time: of 8,000 boards each has a few megabytes.
            let peaks = self.past(&queries.board_peaks, times, MOST_PLAUSIBLE, board).await?;
            self.keep(|history| history::fill_peaks(&mut history.boards, peaks));
            let means = self.past(&queries.board_means, times, MOST_PLAUSIBLE, board).await?;
            self.keep(|history| history::fill_means(&mut history.boards, means));
            let peaks = self.past(&queries.pod_peaks, times, MOST_PLAUSIBLE, pod).await?;
            self.keep(|history| history::fill_peaks(&mut history.pods, peaks));
            let means = self.past(&queries.pod_means, times, MOST_PLAUSIBLE, pod).await?;
            self.keep(|history| history::fill_means(&mut history.pods, means));
            let policies = self.past(&queries.policies, times, Watts::from_milliwatts(u64::MAX), policy).await?;
            self.keep(|history| history::fill_windows(&mut history.policies, policies));
            let domains = self.past(&queries.domains, times, Watts::from_milliwatts(u64::MAX), domain).await?;
            self.keep(|history| history::fill_windows(&mut history.domains, domains));
            self.read_containers(times).await
        };
        let read = read.await;
        let all = read.is_ok();
        self.keep(|history| history.past = read.map_or_else(Past::Failed, |()| Past::Read));
        all
    }

    async fn read_containers(&self, times: Times) -> Result<(), Hold> {
        let namespaces = (self.namespaces)();
        if namespaces.is_empty() {
            return Ok(());
        }
        let [cpu, memory] = container_queries(&self.names.containers, &namespaces, self.span.step_seconds);
        let (cpu, memory) = (self.traces(&cpu, times).await?, self.traces(&memory, times).await?);
        let owner = |trace: &Trace| container_of(&trace.labels, &self.names.containers);
        self.keep(|history| {
            history.containers.clear();
            for trace in &cpu {
                let Some(owner) = owner(trace) else { continue };
                history.containers.entry(owner).or_default().cpu =
                    steps(trace, self.span, Millicores::from_measurement);
            }
            for trace in &memory {
                let Some(owner) = owner(trace) else { continue };
                history.containers.entry(owner).or_default().memory = steps(trace, self.span, Bytes::from_measurement);
            }
        });
        Ok(())
    }

    fn keep(&self, change: impl FnOnce(&mut History)) {
        self.latest.update(|telemetry| change(Arc::make_mut(&mut telemetry.history)));
    }

    /// What was answered of each owner, put in form when it is asked for.
    async fn past<K: Ord>(
        &self,
        query: &str,
        times: Times,
        most: Watts,
        owner: impl Fn(&SeriesLabels) -> Option<K>,
    ) -> Result<impl Iterator<Item = PastOf<K>>, Hold> {
        let (span, traces) = (self.span, self.traces(query, times).await?);
        let watts = move |value| Watts::from_measurement(value).filter(|watts| *watts <= most);
        let of_one =
            move |trace: Trace| Some(PastOf { owner: owner(&trace.labels)?, steps: steps(&trace, span, watts) });
        Ok(traces.into_iter().filter_map(of_one))
    }

    async fn traces(&self, query: &str, times: Times) -> Result<Vec<Trace>, Hold> {
        let answer = self.prometheus.range(query, times, TIMEOUT).await;
        self.metrics.prometheus_query(answer.as_ref().map_or_else(PrometheusError::result, |_| "ok"));
        answer.map_err(|error| {
            tracing::warn!(query, error = &error as &dyn std::error::Error, "the past was not read");
            Hold::new(Reason::HistoryUnavailable, format!("Prometheus: {}", in_full(&error)))
        })
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
    let Names { dcgm, kepler, kepler_legacy: old, agent, .. } = names;
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

/// What the containers in these namespaces used: processor time on average, and their peaks of memory. Names of
/// namespaces hold nothing that means something in PromQL.
fn container_queries(names: &ContainerNames, namespaces: &BTreeSet<String>, step: i64) -> [String; 2] {
    let ContainerNames { cpu_seconds, memory_bytes, namespace, pod, container } = names;
    let any = namespaces.iter().map(String::as_str).collect::<Vec<_>>().join("|");
    let (by, of) = (format!("{namespace}, {pod}, {container}"), format!(r#"{{{container}!="",{namespace}=~"{any}"}}"#));
    [
        format!("sum by ({by}) (rate({cpu_seconds}{of}[{step}s]))"),
        format!("max by ({by}) (max_over_time({memory_bytes}{of}[{step}s]))"),
    ]
}

fn container_of(labels: &SeriesLabels, names: &ContainerNames) -> Option<(PodName, String)> {
    let of = |name: &Name| labels.get(name.as_str()).map(ToOwned::to_owned);
    Some((PodName { namespace: of(&names.namespace)?, name: of(&names.pod)? }, of(&names.container)?))
}

/// The ends of all steps of the window that are over.
fn times(span: Span, now: Timestamp) -> Times {
    let end = span.step(now);
    let step = span.step_seconds;
    Times { start: (end - STEPS + 2) * step, end: end * step, step }
}

/// What is evaluated at the end of a step is of that step.
fn steps<T>(trace: &Trace, span: Span, amount: impl Fn(f64) -> Option<T>) -> Vec<(i64, T)> {
    let of_step = |(at, value): &(f64, f64)| {
        #[expect(clippy::cast_possible_truncation, reason = "a time of some day")]
        let end = (at.round() as i64).div_euclid(span.step_seconds);
        Some((end - 1, amount(*value)?))
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
