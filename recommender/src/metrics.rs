//! Our own metrics, `powercap_*`.

use std::{
    hash::Hash,
    sync::{Arc, Mutex, PoisonError, atomic::AtomicU64},
    time::Duration,
};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::ResourceExt;
use powercap_common::{
    api::{Brake, PowerCappingPolicy, PowerDomain},
    condition::{self, Truth},
    units::Watts,
};
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

/// Labels of a policy's condition.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct PolicyConditionLabels {
    namespace: String,
    policy: String,
    condition: String,
    reason: String,
}

/// Labels of what is pending of a policy.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct PolicyActionLabels {
    namespace: String,
    policy: String,
    action: String,
}

/// Labels of what is pending of a domain.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct DomainActionLabels {
    domain: String,
    action: String,
}

/// Labels of a domain's condition.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct DomainConditionLabels {
    domain: String,
    condition: String,
    reason: String,
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
    policy_reserved: Family<PolicyLabels, FloatGauge>,
    policy_stale_pods: Family<PolicyLabels, Gauge>,
    policy_pending: Family<PolicyActionLabels, Gauge>,
    domain_pending: Family<DomainActionLabels, Gauge>,
    domain_cap: Family<DomainLabels, FloatGauge>,
    domain_power: Family<DomainLabels, FloatGauge>,
    domain_committed: Family<DomainLabels, FloatGauge>,
    domain_headroom: Family<DomainLabels, FloatGauge>,
    domain_peak: Family<DomainLabels, FloatGauge>,
    domain_forecast: Family<DomainLabels, FloatGauge>,
    policy_condition: Family<PolicyConditionLabels, FloatGauge>,
    domain_condition: Family<DomainConditionLabels, FloatGauge>,
    domain_brake: Family<DomainLabels, Gauge>,
    node_grant: Family<NodeLabels, FloatGauge>,
    node_unattributed: Family<NodeLabels, FloatGauge>,
    node_offer: Family<NodeLabels, FloatGauge>,
    node_reserved: Family<NodeLabels, FloatGauge>,
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
        let help = "Watts that the running pods of a policy count with when watts are offered to new ones";
        registry.register_with_unit("policy_reserved", help, watts(), metrics.policy_reserved.clone());
        let help = "Running pods of a policy whose watts request is absent or outside what is recommended";
        registry.register("policy_watts_stale_pods", help, metrics.policy_stale_pods.clone());
        registry.register_with_unit("domain_peak", format!("{peak} of a domain"), watts(), metrics.domain_peak.clone());
        let help = format!("{forecast}, of a domain");
        registry.register_with_unit("domain_forecast", help, watts(), metrics.domain_forecast.clone());
        registry.register_with_unit("domain_cap", "Cap of a domain at its meter", watts(), metrics.domain_cap.clone());
        registry.register_with_unit("domain_power", "Power of a domain", watts(), metrics.domain_power.clone());
        let help = "Watts that a domain's nodes may be drawing under what they were promised";
        registry.register_with_unit("domain_committed", help, watts(), metrics.domain_committed.clone());
        let help = "Watts of a domain's cap that are neither unmanaged nor committed";
        registry.register_with_unit("domain_headroom", help, watts(), metrics.domain_headroom.clone());
        let help = "Condition of a policy: 1 true, 0 false, NaN not known";
        registry.register("policy_condition", help, metrics.policy_condition.clone());
        let help = "Condition of a domain: 1 true, 0 false, NaN not known";
        registry.register("domain_condition", help, metrics.domain_condition.clone());
        let help = "What is to be done to workloads of a policy beyond lower clocks, as far as it is listed";
        registry.register("policy_pending_actions", help, metrics.policy_pending.clone());
        let help = "What is to be done to workloads of a domain beyond lower clocks, as far as it is listed";
        registry.register("domain_pending_actions", help, metrics.domain_pending.clone());
        let help = "Brake of a domain: 0 none, 1 fallback, 2 minimum";
        registry.register("domain_brake", help, metrics.domain_brake.clone());
        registry.register_with_unit("node_grant", "Watts granted to a node", watts(), metrics.node_grant.clone());
        let help = "Watts of a node that no pod accounts for";
        registry.register_with_unit("node_unattributed", help, watts(), metrics.node_unattributed.clone());
        let help = "Watts that a node offers to new pods, at its devices";
        registry.register_with_unit("node_offer", help, watts(), metrics.node_offer.clone());
        let help = "Watts that the pods of a node may draw, at its devices";
        registry.register_with_unit("node_reserved", help, watts(), metrics.node_reserved.clone());
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
                (&self.policy_reserved, figures.reserved),
            ];
            set_known(known, &labels);
            self.policy_stale_pods.get_or_create(&labels).set(figures.stale_pods.into());
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
        let of_nodes = [
            (&self.node_unattributed, &figures.unattributed),
            (&self.node_offer, &figures.offers),
            (&self.node_reserved, &figures.reserved),
        ];
        for (family, known) in of_nodes {
            for (node, watts) in known {
                family.get_or_create(&NodeLabels { node: node.clone() }).set(watts.as_f64());
            }
        }
    }

    /// What policies and domains are told to be, and which brakes are pulled.
    pub fn standing(&self, policies: &[Arc<PowerCappingPolicy>], domains: &[Arc<PowerDomain>]) {
        for object in policies {
            let (namespace, policy) = (object.namespace().unwrap_or_default(), object.name_any());
            for condition in object.status.iter().flat_map(|status| &status.conditions) {
                let labels = PolicyConditionLabels {
                    namespace: namespace.clone(),
                    policy: policy.clone(),
                    condition: condition.type_.clone(),
                    reason: condition.reason.clone(),
                };
                self.policy_condition.get_or_create(&labels).set(holds(condition));
            }
            for pending in object.status.iter().flat_map(|status| &status.pending_actions) {
                let (namespace, policy) = (namespace.clone(), policy.clone());
                let labels = PolicyActionLabels { namespace, policy, action: format!("{:?}", pending.action) };
                self.policy_pending.get_or_create(&labels).inc();
            }
        }
        for object in domains {
            let domain = object.name_any();
            for condition in object.status.iter().flat_map(|status| &status.conditions) {
                let labels = DomainConditionLabels {
                    domain: domain.clone(),
                    condition: condition.type_.clone(),
                    reason: condition.reason.clone(),
                };
                self.domain_condition.get_or_create(&labels).set(holds(condition));
            }
            for pending in object.status.iter().flat_map(|status| &status.pending_actions) {
                let labels = DomainActionLabels { domain: domain.clone(), action: format!("{:?}", pending.action) };
                self.domain_pending.get_or_create(&labels).inc();
            }
            let pulled = object.status.as_ref().and_then(|status| status.brake.as_ref());
            let brake = pulled.map_or(Brake::None, |brake| brake.level).max(object.spec.brake);
            let level = match brake {
                Brake::None => 0,
                Brake::Fallback => 1,
                Brake::Minimum => 2,
            };
            self.domain_brake.get_or_create(&DomainLabels { domain }).set(level);
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
        self.policy_condition.clear();
        self.domain_condition.clear();
        self.domain_brake.clear();
        self.policy_pending.clear();
        self.domain_pending.clear();
        self.policy_reserved.clear();
        self.policy_stale_pods.clear();
        self.node_grant.clear();
        for family in [&self.node_unattributed, &self.node_offer, &self.node_reserved] {
            family.clear();
        }
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

fn holds(condition: &Condition) -> f64 {
    match condition::truth(std::slice::from_ref(condition), &condition.type_) {
        Truth::True => 1.0,
        Truth::False => 0.0,
        Truth::Unknown => f64::NAN,
    }
}
