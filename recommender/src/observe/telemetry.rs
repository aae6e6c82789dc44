//! Asks Prometheus once a cycle, beside the decisions: an event never waits for a query.
//!
//! Must hold: what is not answered keeps its last reading, with its age, until that reading is of no
//! use any more; it never becomes zero.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use futures::future::join3;
use jiff::{SignedDuration, Timestamp};
use powercap_common::{reason::Reason, units::Watts};
use tokio::{sync::Notify, time::MissedTickBehavior};

use super::{
    agents,
    answer::Element,
    dcgm,
    differences::{Differences, OF_BOARDS, OF_CPUS},
    kepler,
    names::{Name, Names},
    prometheus::{Prometheus, PrometheusError},
};
use crate::{
    metrics::Metrics,
    observation::{GpuReading, Hold, Sample, Telemetry, stale_after},
};

/// A reading older than this is forgotten: nobody knows any more whose device it was.
const FORGET_AFTER: SignedDuration = SignedDuration::from_mins(5);
/// A reading further ahead of our clock than this is of before that clock was set back: it would never be replaced.
const AHEAD: SignedDuration = SignedDuration::from_secs(1);
/// An agent that was not heard of for this long is known to be silent by its heartbeat.
const FORGET_AGENTS_AFTER: SignedDuration = SignedDuration::from_mins(15);

/// The latest readings; clones share them.
#[derive(Clone, Default)]
pub struct LatestTelemetry(Arc<Mutex<Telemetry>>);

impl LatestTelemetry {
    /// As of now.
    #[must_use]
    pub fn get(&self) -> Telemetry {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Changes them.
    pub fn update(&self, change: impl FnOnce(&mut Telemetry)) {
        change(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner));
    }
}

/// Who asks, and where the answers go.
pub struct Inquiry {
    prometheus: Arc<Prometheus>,
    names: Names,
    collection_interval: SignedDuration,
    latest: LatestTelemetry,
    metrics: Metrics,
    boards: Differences,
    cpus: Differences,
    /// Of which of [`ASKED`] the last answer is missing: one word of it in the log is enough.
    unanswered: [bool; 3],
}

/// What is asked about.
const ASKED: [&str; 3] = ["GPUs", "CPUs", "node agents"];

impl Inquiry {
    /// Puts what `prometheus` answers for these names into `latest`.
    #[must_use]
    pub fn new(
        prometheus: impl Into<Arc<Prometheus>>,
        names: Names,
        collection_interval: SignedDuration,
        latest: LatestTelemetry,
        metrics: Metrics,
    ) -> Self {
        let (boards, cpus) = (Differences::default(), Differences::default());
        let (prometheus, unanswered) = (prometheus.into(), [false; 3]);
        Self { prometheus, names, collection_interval, latest, metrics, boards, cpus, unanswered }
    }

    /// Asks every `cycle`, for ever; `changed` is notified after each round.
    pub async fn poll(mut self, cycle: Duration, changed: Arc<Notify>) {
        let mut ticks = tokio::time::interval(cycle);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            self.ask_all(Timestamp::now()).await;
            changed.notify_one();
        }
    }

    /// One round of all queries at once, at this time of our clock.
    pub async fn ask_all(&mut self, asked_at: Timestamp) {
        let Self { names, prometheus, metrics, .. } = self;
        let (gpus, cpus, agents) = join3(
            ask(prometheus, dcgm::queries(&names.dcgm), metrics),
            ask(prometheus, kepler::queries(names, self.collection_interval), metrics),
            ask(prometheus, agents::queries(&names.agent), metrics),
        )
        .await;
        let problems = [gpus.as_ref().err(), cpus.as_ref().err(), agents.as_ref().err()];
        for ((about, unanswered), problem) in ASKED.iter().zip(&mut self.unanswered).zip(problems) {
            match problem {
                Some(problem) if !*unanswered => {
                    tracing::warn!(about, problem = problem.message, "a question has no answer; asking on");
                }
                None if *unanswered => tracing::info!(about, "answers come again"),
                _ => {}
            }
            *unanswered = problem.is_some();
        }
        self.latest.update(|telemetry| {
            telemetry.forget_after(dcgm::before(asked_at, -AHEAD));
            telemetry.of_boards(gpus, names, asked_at);
            telemetry.of_cpus(cpus, names, asked_at);
            telemetry.of_agents(agents, names, asked_at);
            telemetry.forget_before(dcgm::before(asked_at, FORGET_AFTER));
            let stale_after = stale_after(self.collection_interval);
            let boards = telemetry.gpus.iter().filter_map(|(uuid, gpu)| {
                let power = |gpu: &GpuReading| gpu.power;
                Some((uuid, [power(gpu)?, telemetry.agent_gpus.get(uuid).and_then(power)?]))
            });
            let mut apart = self.boards.compare(boards, OF_BOARDS, stale_after, asked_at);
            let cpus = telemetry.node_cpu.iter();
            let cpus = cpus.filter_map(|(node, sample)| Some((node, [*sample, *telemetry.agent_cpu.get(node)?])));
            apart.extend(self.cpus.compare(cpus, OF_CPUS, stale_after, asked_at));
            telemetry.apart = apart;
        });
    }
}

/// What is missing this time, or of an earlier time than what is known, leaves what is known to grow old.
fn later<T>(known: Option<Sample<T>>, new: Option<Sample<T>>) -> Option<Sample<T>> {
    known.into_iter().chain(new).max_by_key(|sample| sample.at)
}

type Answers<const N: usize> = Result<[Vec<Element>; N], Hold>;

async fn ask<const N: usize>(prometheus: &Prometheus, queries: [String; N], metrics: &Metrics) -> Answers<N> {
    let answers = queries.each_ref().map(|query| async move { (query, prometheus.instant(query).await) });
    let mut vectors = [const { Vec::new() }; N];
    for (vector, (query, answer)) in vectors.iter_mut().zip(futures::future::join_all(answers).await) {
        metrics.prometheus_query(answer.as_ref().map_or_else(PrometheusError::result, |_| "ok"));
        *vector = answer.map_err(|error| {
            tracing::debug!(query, error = &error as &dyn std::error::Error, "a query failed");
            Hold::new(Reason::PrometheusUnavailable, format!("Prometheus: {}", in_full(&error)))
        })?;
    }
    Ok(vectors)
}

/// A metric without any series is a problem of its own.
fn missing(exporter: &str, metrics: [(&Name, &[Element]); 2]) -> Option<Hold> {
    let (metric, _) = metrics.into_iter().find(|(_, values)| values.is_empty())?;
    let message = format!("Prometheus has no series {metric} of {exporter}: is it running and scraped?");
    Some(Hold::new(Reason::NoData, message))
}

/// An error with what caused it.
pub(super) fn in_full(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source());
    causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

impl Telemetry {
    fn of_boards(&mut self, answers: Answers<4>, names: &Names, asked_at: Timestamp) {
        self.gpu_rejected.clear();
        match answers {
            Ok([power, power_times, clock, clock_times]) => {
                let readings = dcgm::readings(&power, &power_times, &clock, &clock_times, asked_at, &names.dcgm);
                for (uuid, new) in readings {
                    let known = self.gpus.entry(uuid).or_default();
                    let (power, clock) = (later(known.power, new.power), later(known.clock, new.clock));
                    *known = GpuReading { power, clock, ..new };
                }
                self.gpu_rejected = dcgm::rejected(&power, &power_times, &names.dcgm);
                self.gpu_problem =
                    missing("the DCGM exporter", [(&names.dcgm.power, &power), (&names.dcgm.clock, &clock)]);
            }
            Err(problem) => self.gpu_problem = Some(problem),
        }
    }

    fn of_cpus(&mut self, answers: Answers<4>, names: &Names, asked_at: Timestamp) {
        self.cpu_rejected.clear();
        match answers {
            Ok([pods, pod_times, nodes, node_times]) => {
                self.pod_cpu.extend(kepler::pods(&pods, &pod_times, asked_at, names));
                self.node_cpu.extend(kepler::nodes(&nodes, &node_times, asked_at, names));
                self.cpu_rejected = kepler::rejected(&nodes, &pods, names);
                let metrics = [(&names.kepler.node_watts, &*nodes), (&names.kepler.pod_watts, &*pods)];
                self.cpu_problem = missing("Kepler", metrics);
            }
            Err(problem) => self.cpu_problem = Some(problem),
        }
    }

    fn of_agents(&mut self, answers: Answers<4>, names: &Names, asked_at: Timestamp) {
        self.agents_answered = answers.is_ok();
        let Ok([times, power, clock, cpus]) = answers else { return };
        self.agents.extend(agents::heard(&times, asked_at, &names.agent));
        for (uuid, new) in agents::gpus(&times, &power, &clock, asked_at, &names.agent) {
            let known = self.agent_gpus.entry(uuid).or_default();
            let (power, clock) = (later(known.power, new.power), later(known.clock, new.clock));
            *known = GpuReading { node: new.node.or(known.node.take()), power, clock, ..new };
        }
        self.agent_cpu.extend(agents::cpus(&times, &cpus, asked_at, &names.agent));
    }

    fn forget_after(&mut self, latest: Timestamp) {
        for gpu in self.gpus.values_mut().chain(self.agent_gpus.values_mut()) {
            gpu.power = gpu.power.filter(|power| power.at <= latest);
            gpu.clock = gpu.clock.filter(|clock| clock.at <= latest);
        }
        self.pod_cpu.retain(|_, sample| sample.at <= latest);
        for cpus in [&mut self.node_cpu, &mut self.agent_cpu] {
            cpus.retain(|_, sample: &mut Sample<Watts>| sample.at <= latest);
        }
        self.agents.retain(|_, heard| *heard <= latest);
    }

    fn forget_before(&mut self, oldest: Timestamp) {
        for gpus in [&mut self.gpus, &mut self.agent_gpus] {
            gpus.retain(|_, gpu| {
                gpu.power.is_some_and(|power| power.at >= oldest) || gpu.clock.is_some_and(|clock| clock.at >= oldest)
            });
        }
        self.pod_cpu.retain(|_, sample| sample.at >= oldest);
        for cpus in [&mut self.node_cpu, &mut self.agent_cpu] {
            cpus.retain(|_, sample: &mut Sample<Watts>| sample.at >= oldest);
        }
        let agents_since = dcgm::before(oldest, FORGET_AGENTS_AFTER - FORGET_AFTER);
        self.agents.retain(|_, heard| *heard >= agents_since);
    }
}
