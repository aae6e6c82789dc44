//! Our own metrics, `powercap_admission_*`; docs/reference/metrics.md names them all.

use std::time::Duration;

use powercap_common::reason::Reason;
use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{
        counter::Counter,
        family::Family,
        gauge::Gauge,
        histogram::{Histogram, exponential_buckets},
    },
    registry::{Registry, Unit},
};

/// Labels of a review.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OutcomeLabels {
    outcome: &'static str,
}

/// Labels of a request that was refused.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct StatusLabels {
    status: u16,
}

/// Labels of a connection's end, and of a renewal.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ResultLabels {
    result: &'static str,
}

/// All metrics; clones share them.
#[derive(Clone, Debug)]
pub struct Metrics {
    reviews: Family<OutcomeLabels, Counter>,
    durations: Histogram,
    refused: Family<StatusLabels, Counter>,
    connections: Gauge,
    connections_ended: Family<ResultLabels, Counter>,
    waiting: Counter,
    lease_writes: Family<ResultLabels, Counter>,
}

impl Metrics {
    /// The metrics, and the registry that they are served from.
    #[must_use]
    pub fn register() -> (Self, Registry) {
        let metrics = Self {
            reviews: Family::default(),
            // From 10 µs to 0.3 s.
            durations: Histogram::new(exponential_buckets(0.000_01, 2.0, 16)),
            refused: Family::default(),
            connections: Gauge::default(),
            connections_ended: Family::default(),
            waiting: Counter::default(),
            lease_writes: Family::default(),
        };
        let mut registry = Registry::with_prefix("powercap_admission");
        registry.register("reviews", "Reviews of pods by what became of them", metrics.reviews.clone());
        let help = "Time from the whole of a review's body to its answer";
        registry.register_with_unit("review", help, Unit::Seconds, metrics.durations.clone());
        registry.register("refused_requests", "Requests that were no review, by HTTP status", metrics.refused.clone());
        registry.register("connections", "Connections now", metrics.connections.clone());
        let help = "Connections by how they ended";
        registry.register("ended_connections", help, metrics.connections_ended.clone());
        let help = "Pods that were admitted although no node offered their watts then";
        registry.register("waiting_pods", help, metrics.waiting.clone());
        registry.register("lease_writes", "Renewals of the Lease", metrics.lease_writes.clone());
        (metrics, registry)
    }

    /// A review was answered.
    pub fn reviewed(&self, outcome: Reason, took: Duration) {
        self.reviews.get_or_create(&OutcomeLabels { outcome: outcome.as_str() }).inc();
        self.durations.observe(took.as_secs_f64());
    }

    /// A request was no review.
    pub fn refused(&self, status: u16) {
        self.refused.get_or_create(&StatusLabels { status }).inc();
    }

    /// A connection began.
    pub fn connected(&self) {
        self.connections.inc();
    }

    /// A connection ended, so.
    pub fn disconnected(&self, how: &'static str) {
        self.connections.dec();
        self.connections_ended.get_or_create(&ResultLabels { result: how }).inc();
    }

    /// A pod was admitted whose watts no node offers now.
    pub fn waits(&self) {
        self.waiting.inc();
    }

    /// The Lease was renewed, or not.
    pub fn lease(&self, result: &'static str) {
        self.lease_writes.get_or_create(&ResultLabels { result }).inc();
    }
}
