//! Asks the meters of domains, beside everything else: a slow query of one costs nobody else a reading.
//!
//! A domain has one query, which a person wrote; it must answer with one series. Its value and its time are
//! asked for. Of a query that is more than the name of a series, a sum say, Prometheus tells the time of the
//! question; what is no longer scraped is then missing for as long as its staleness marks say, or five
//! minutes old at most.
//!
//! Must hold: however many domains there are, and whatever their queries cost, a round is bounded in number
//! and time; an answer that is not one plausible number is none, and never zero.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use futures::{StreamExt, future::join, stream};
use jiff::Timestamp;
use powercap_common::{reason::Reason, units::Watts};
use tokio::{sync::Notify, time::MissedTickBehavior};

use super::{
    answer::Element,
    dcgm::{age, before},
    prometheus::{Prometheus, PrometheusError},
    telemetry::{LatestTelemetry, in_full},
};
use crate::{
    metrics::Metrics,
    observation::{Hold, MeterReading, Sample, Source},
};

/// Meters beyond these are not asked.
const MOST: usize = 256;
/// Of them at once.
const AT_ONCE: usize = 8;

/// Who asks the meters, and where the answers go.
pub struct Meters {
    prometheus: Arc<Prometheus>,
    latest: LatestTelemetry,
    metrics: Metrics,
}

impl Meters {
    /// Puts what `prometheus` answers into `latest`.
    #[must_use]
    pub fn new(prometheus: Arc<Prometheus>, latest: LatestTelemetry, metrics: Metrics) -> Self {
        Self { prometheus, latest, metrics }
    }

    /// Asks every `cycle`, for ever, what `queries` are then, by domain; `changed` is notified after each round
    /// that asked any.
    pub async fn poll(self, cycle: Duration, queries: impl Fn() -> BTreeMap<String, String>, changed: Arc<Notify>) {
        let mut ticks = tokio::time::interval(cycle);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            let queries = queries();
            let any = !queries.is_empty();
            self.ask(queries, Timestamp::now()).await;
            if any {
                changed.notify_one();
            }
        }
    }

    /// One round, at this time of our clock. A meter that nobody names any more is forgotten.
    pub async fn ask(&self, mut queries: BTreeMap<String, String>, asked_at: Timestamp) {
        let too_many = || Hold::new(Reason::MeterUnavailable, format!("only {MOST} meters are asked"));
        let beyond = queries.keys().nth(MOST).cloned().map(|first| queries.split_off(&first)).unwrap_or_default();
        let others = beyond.into_keys().map(|domain| (domain, Err(too_many())));
        let answers =
            stream::iter(queries).map(|(domain, query)| async move { (domain, self.read(&query, asked_at).await) });
        let asked: BTreeMap<_, _> = answers.buffer_unordered(AT_ONCE).collect().await;
        self.latest.update(|telemetry| {
            let mut known = std::mem::take(&mut telemetry.meters);
            let kept = |(domain, answer): (String, Result<_, Hold>)| {
                let before = known.remove(&domain).unwrap_or_default().power;
                let reading = match answer {
                    Ok(power) => MeterReading { power: Some(power), problem: None },
                    Err(problem) => MeterReading { power: before, problem: Some(problem) },
                };
                (domain, reading)
            };
            telemetry.meters = asked.into_iter().chain(others).map(kept).collect();
        });
    }

    async fn read(&self, query: &str, asked_at: Timestamp) -> Result<Sample<Watts>, Hold> {
        let times = format!("timestamp({query})");
        let (values, times) = join(self.prometheus.instant(query), self.prometheus.instant(&times)).await;
        let unavailable = |says: String| Hold::new(Reason::MeterUnavailable, says);
        let answered = |answer: Result<Vec<Element>, PrometheusError>| {
            self.metrics.prometheus_query(answer.as_ref().map_or_else(PrometheusError::result, |_| "ok"));
            answer.map_err(|error| unavailable(format!("the meter: {}", in_full(&error))))
        };
        let one = |elements: Vec<Element>| {
            <[Element; 1]>::try_from(elements).map_err(|elements| match elements.len() {
                0 => unavailable("the meter's query answers with no series".to_owned()),
                _ => unavailable("the meter's query answers with several series; let it add them up".to_owned()),
            })
        };
        let (values, times) = (answered(values), answered(times));
        let ([value], [time]) = (one(values?)?, one(times?)?);
        let power = Watts::from_measurement(value.value);
        let power = power.ok_or_else(|| unavailable("what the meter tells is no power".to_owned()))?;
        let age = age(&time)
            .ok_or_else(|| unavailable("the meter's reading has no time, or one of the future".to_owned()))?;
        Ok(Sample { value: power, at: before(asked_at, age), source: Source::Meter })
    }
}
