//! Asks Prometheus once a cycle, beside the decisions: an event never waits for a query.
//!
//! Must hold: what is not answered keeps its last reading, with its age, until that reading is of no
//! use any more; it never becomes zero.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use futures::{FutureExt, future::join3};
use jiff::{SignedDuration, Timestamp};
use powercap_common::reason::Reason;
use tokio::{sync::Notify, time::MissedTickBehavior};

use super::{
    agents, dcgm, kepler,
    prometheus::{Element, Prometheus, PrometheusError},
};
use crate::{
    metrics::Metrics,
    observation::{Hold, Telemetry},
};

/// A reading older than this is forgotten: nobody knows any more whose device it was.
const FORGET_AFTER: SignedDuration = SignedDuration::from_mins(5);
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

    fn update(&self, change: impl FnOnce(&mut Telemetry)) {
        change(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner));
    }
}

/// Asks every `cycle`, for ever; `changed` is notified after each round.
pub async fn poll(
    prometheus: Prometheus,
    cycle: Duration,
    latest: LatestTelemetry,
    changed: Arc<Notify>,
    metrics: Metrics,
) {
    let mut ticks = tokio::time::interval(cycle);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        ask_all(&prometheus, &latest, &metrics).await;
        changed.notify_one();
    }
}

/// One round of all queries at once.
pub async fn ask_all(prometheus: &Prometheus, latest: &LatestTelemetry, metrics: &Metrics) {
    let asked_at = Timestamp::now();
    let (gpus, cpus, agents) = join3(
        ask(prometheus, dcgm::queries(), metrics).map(|answer| some("the DCGM exporter", answer)),
        ask(prometheus, kepler::queries(), metrics).map(|answer| some("Kepler", answer)),
        ask(prometheus, [agents::query()], metrics),
    )
    .await;
    latest.update(|telemetry| {
        match gpus {
            Ok([power, power_times, clock, clock_times]) => {
                telemetry.gpus.extend(dcgm::readings(&power, &power_times, &clock, &clock_times, asked_at));
                telemetry.gpu_problem = None;
            }
            Err(problem) => telemetry.gpu_problem = Some(problem),
        }
        match cpus {
            Ok([pods, pod_times, nodes, node_times]) => {
                telemetry.pod_cpu.extend(kepler::pods(&pods, &pod_times, asked_at));
                telemetry.node_cpu.extend(kepler::nodes(&nodes, &node_times, asked_at));
                telemetry.cpu_problem = None;
            }
            Err(problem) => telemetry.cpu_problem = Some(problem),
        }
        telemetry.agents_answered = agents.is_ok();
        if let Ok([times]) = agents {
            telemetry.agents.extend(agents::heard(&times, asked_at));
        }
        telemetry.forget_before(dcgm::before(asked_at, FORGET_AFTER));
    });
}

async fn ask<const N: usize>(
    prometheus: &Prometheus,
    queries: [String; N],
    metrics: &Metrics,
) -> Result<[Vec<Element>; N], Hold> {
    let answers = queries.each_ref().map(|query| async move { (query, prometheus.instant(query).await) });
    let mut vectors = [const { Vec::new() }; N];
    for (vector, (query, answer)) in vectors.iter_mut().zip(futures::future::join_all(answers).await) {
        metrics.prometheus_query(answer.as_ref().map_or_else(PrometheusError::result, |_| "ok"));
        *vector = answer.map_err(|error| {
            tracing::warn!(query, error = &error as &dyn std::error::Error, "a query failed");
            Hold::new(Reason::PrometheusUnavailable, format!("Prometheus: {}", in_full(&error)))
        })?;
    }
    Ok(vectors)
}

/// An exporter without any series is a problem of its own.
fn some<const N: usize>(exporter: &str, answer: Result<[Vec<Element>; N], Hold>) -> Result<[Vec<Element>; N], Hold> {
    let vectors = answer?;
    if vectors.first().is_some_and(|values| !values.is_empty()) {
        return Ok(vectors);
    }
    let message = format!("Prometheus has no series of {exporter}: is it running and scraped?");
    Err(Hold::new(Reason::NoData, message))
}

/// An error with what caused it.
fn in_full(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source());
    causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

impl Telemetry {
    fn forget_before(&mut self, oldest: Timestamp) {
        self.gpus.retain(|_, gpu| {
            gpu.power.is_some_and(|power| power.at >= oldest) || gpu.clock.is_some_and(|clock| clock.at >= oldest)
        });
        self.pod_cpu.retain(|_, sample| sample.at >= oldest);
        self.node_cpu.retain(|_, sample| sample.at >= oldest);
        let agents_since = dcgm::before(oldest, FORGET_AGENTS_AFTER - FORGET_AFTER);
        self.agents.retain(|_, heard| *heard >= agents_since);
    }
}
