//! Our own metrics, `powercap_*`.

use std::{
    hash::Hash,
    sync::{Arc, Mutex, PoisonError, atomic::AtomicU64},
    time::Duration,
};

use powercap_common::units::Watts;
use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram},
    registry::{Registry, Unit},
};

use crate::decide::Figures;

type FloatGauge = Gauge<f64, AtomicU64>;

/// Labels of a policy.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct PolicyLabels {
    namespace: String,
    policy: String,
}

/// Labels of a domain.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct DomainLabels {
    domain: String,
}

/// Labels of a node.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct NodeLabels {
    node: String,
}

/// Labels of a write.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct WriteLabels {
    kind: &'static str,
    result: &'static str,
}

/// Labels of a query or an event.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ResultLabels {
    result: &'static str,
}

/// Labels of a record.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RecordLabels {
    result: &'static str,
}

/// Labels of a reading's age.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct SourceLabels {
    source: &'static str,
}

/// All metrics; clones share them.
#[derive(Clone, Default)]
pub struct Metrics {
    policy_cap: Family<PolicyLabels, FloatGauge>,
    policy_power: Family<PolicyLabels, FloatGauge>,
    policy_peak: Family<PolicyLabels, FloatGauge>,
    policy_forecast: Family<PolicyLabels, FloatGauge>,
    domain_cap: Family<DomainLabels, FloatGauge>,
    domain_power: Family<DomainLabels, FloatGauge>,
    domain_committed: Family<DomainLabels, FloatGauge>,
    domain_headroom: Family<DomainLabels, FloatGauge>,
    domain_peak: Family<DomainLabels, FloatGauge>,
    domain_forecast: Family<DomainLabels, FloatGauge>,
    node_grant: Family<NodeLabels, FloatGauge>,
    node_unattributed: Family<NodeLabels, FloatGauge>,
    events: Family<ResultLabels, Counter>,
    decision: Arc<Mutex<Option<Histogram>>>,
    writes: Family<WriteLabels, Counter>,
    queries: Family<ResultLabels, Counter>,
    data_age: Family<SourceLabels, FloatGauge>,
    is_leader: Gauge,
    records: Family<RecordLabels, Counter>,
}

impl Metrics {
    /// The metrics, and the registry that they are served from.
    #[must_use]
    pub fn register() -> (Self, Registry) {
        let metrics = Self::default();
        let mut registry = Registry::with_prefix("powercap");
        let policy = "of the pods that a policy selects";
        let watts = || Unit::Other("watts".to_owned());
        registry.register_with_unit("policy_cap", format!("Cap {policy}"), watts(), metrics.policy_cap.clone());
        registry.register_with_unit("policy_power", format!("Power {policy}"), watts(), metrics.policy_power.clone());
        let (peak, forecast) = ("Highest power in the window of the past", "Peaks of the past, the older the less");
        registry.register_with_unit("policy_peak", format!("{peak} {policy}"), watts(), metrics.policy_peak.clone());
        let help = format!("{forecast}, {policy}");
        registry.register_with_unit("policy_forecast", help, watts(), metrics.policy_forecast.clone());
        registry.register_with_unit("domain_peak", format!("{peak} of a domain"), watts(), metrics.domain_peak.clone());
        let help = format!("{forecast}, of a domain");
        registry.register_with_unit("domain_forecast", help, watts(), metrics.domain_forecast.clone());
        registry.register_with_unit("domain_cap", "Cap of a domain at its meter", watts(), metrics.domain_cap.clone());
        registry.register_with_unit("domain_power", "Power of a domain", watts(), metrics.domain_power.clone());
        let help = "Watts that a domain's nodes may be drawing under what they were promised";
        registry.register_with_unit("domain_committed", help, watts(), metrics.domain_committed.clone());
        let help = "Watts of a domain's cap that are neither unmanaged nor committed";
        registry.register_with_unit("domain_headroom", help, watts(), metrics.domain_headroom.clone());
        registry.register_with_unit("node_grant", "Watts granted to a node", watts(), metrics.node_grant.clone());
        let help = "Watts of a node that no pod accounts for";
        registry.register_with_unit("node_unattributed", help, watts(), metrics.node_unattributed.clone());
        registry.register("recommender_events", "Events on policies and pods", metrics.events.clone());
        let buckets = [0.0001, 0.0003, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0];
        let decision = Histogram::new(buckets);
        registry.register_with_unit("decision_duration", "Time that a decision took", Unit::Seconds, decision.clone());
        *metrics.decision.lock().unwrap_or_else(PoisonError::into_inner) = Some(decision);
        registry.register("recommender_writes", "Writes to the API server", metrics.writes.clone());
        registry.register("prometheus_queries", "Queries to Prometheus", metrics.queries.clone());
        let help = "Age of the oldest reading of a source";
        registry.register_with_unit("data_age", help, Unit::Seconds, metrics.data_age.clone());
        registry.register("recommender_is_leader", "1 while this process may write", metrics.is_leader.clone());
        let help = "Decisions that were to be recorded";
        registry.register("recommender_records", help, metrics.records.clone());
        (metrics, registry)
    }

    /// What a decision found. What it no longer finds disappears: an old number looks like a new one.
    pub fn decided(&self, figures: &Figures, took: Duration) {
        if let Some(decision) = self.decision.lock().unwrap_or_else(PoisonError::into_inner).as_ref() {
            decision.observe(took.as_secs_f64());
        }
        self.forget();
        for (id, figures) in &figures.policies {
            let labels = PolicyLabels { namespace: id.namespace.clone(), policy: id.name.clone() };
            self.policy_cap.get_or_create(&labels).set(figures.cap.as_f64());
            let known = [
                (&self.policy_power, figures.power),
                (&self.policy_peak, figures.outlook.peak),
                (&self.policy_forecast, figures.outlook.forecast),
            ];
            set_known(known, &labels);
        }
        for (name, figures) in &figures.domains {
            let labels = DomainLabels { domain: name.clone() };
            self.domain_cap.get_or_create(&labels).set(figures.cap.as_f64());
            let known = [
                (&self.domain_power, figures.power),
                (&self.domain_committed, figures.committed),
                (&self.domain_headroom, figures.headroom),
                (&self.domain_peak, figures.outlook.peak),
                (&self.domain_forecast, figures.outlook.forecast),
            ];
            set_known(known, &labels);
        }
        for (node, grant) in &figures.grants {
            self.node_grant.get_or_create(&NodeLabels { node: node.clone() }).set(grant.as_f64());
        }
        for (node, watts) in &figures.unattributed {
            self.node_unattributed.get_or_create(&NodeLabels { node: node.clone() }).set(watts.as_f64());
        }
    }

    /// Drops what only a leader knows.
    pub fn forget(&self) {
        for family in [&self.policy_cap, &self.policy_power, &self.policy_peak, &self.policy_forecast] {
            family.clear();
        }
        for family in [&self.domain_cap, &self.domain_power, &self.domain_committed, &self.domain_headroom] {
            family.clear();
        }
        for family in [&self.domain_peak, &self.domain_forecast] {
            family.clear();
        }
        self.node_grant.clear();
        self.node_unattributed.clear();
    }

    /// A write ended.
    pub fn wrote(&self, kind: &'static str, result: &'static str) {
        self.writes.get_or_create(&WriteLabels { kind, result }).inc();
    }

    /// So many events were written, not written, or not sent since it was too much or too often.
    pub fn told(&self, result: &'static str, count: u64) {
        self.events.get_or_create(&ResultLabels { result }).inc_by(count);
    }

    /// A query ended.
    pub fn prometheus_query(&self, result: &'static str) {
        self.queries.get_or_create(&ResultLabels { result }).inc();
    }

    /// The age of the oldest reading of a source.
    pub fn data_age(&self, source: &'static str, seconds: Option<f64>) {
        let labels = SourceLabels { source };
        match seconds {
            Some(seconds) => _ = self.data_age.get_or_create(&labels).set(seconds),
            None => _ = self.data_age.remove(&labels),
        }
    }

    /// A decision was recorded, or not.
    pub fn recorded(&self, result: &'static str) {
        self.records.get_or_create(&RecordLabels { result }).inc();
    }

    /// Whether this process may write.
    pub fn leading(&self, leads: bool) {
        self.is_leader.set(i64::from(leads));
    }
}

/// What is not known has no series.
fn set_known<L: Clone + Eq + Hash, const N: usize>(known: [(&Family<L, FloatGauge>, Option<Watts>); N], labels: &L) {
    for (family, watts) in known {
        if let Some(watts) = watts {
            family.get_or_create(labels).set(watts.as_f64());
        }
    }
}
