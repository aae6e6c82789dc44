//! Metrics of alerts, and what the rules of Prometheus need of admission.

use std::sync::atomic::AtomicU64;

use jiff::Timestamp;
use powercap_common::alert::Severity;
use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::{Registry, Unit},
};

use super::{
    board::Board,
    seen::{Seen, Validity},
};

type Seconds = Gauge<f64, AtomicU64>;

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct SeverityLabels {
    severity: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ResultLabels {
    result: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct NamespaceLabels {
    namespace: String,
}

/// Metrics of alerts; clones share them.
#[derive(Clone, Default)]
pub struct Metrics {
    firing: Family<SeverityLabels, Gauge>,
    left_out: Gauge,
    alertmanagers: Gauge,
    messages: Family<ResultLabels, Counter>,
    without_headroom: Family<NamespaceLabels, Seconds>,
    since: Seconds,
    until: Seconds,
}

impl Metrics {
    /// The metrics, in a registry whose prefix is `powercap_admission`.
    #[must_use]
    pub fn register(registry: &mut Registry) -> Self {
        let metrics = Self::default();
        registry.register("alerts_firing", "Alerts that fire", metrics.firing.clone());
        let help = "Alerts beyond those that are told of";
        registry.register("alerts_left_out", help, metrics.left_out.clone());
        let help = "Alertmanagers that are told";
        registry.register("alertmanagers", help, metrics.alertmanagers.clone());
        let help = "Messages to Alertmanagers";
        registry.register("alert_messages", help, metrics.messages.clone());
        let help = "When a pod was last admitted without headroom";
        let name = "without_headroom_timestamp";
        registry.register_with_unit(name, help, Unit::Seconds, metrics.without_headroom.clone());
        let help = "Since when the serving certificate is valid";
        let name = "certificate_since_timestamp";
        registry.register_with_unit(name, help, Unit::Seconds, metrics.since.clone());
        let help = "Until when the serving certificate is valid";
        let name = "certificate_until_timestamp";
        registry.register_with_unit(name, help, Unit::Seconds, metrics.until.clone());
        metrics.since.set(f64::NAN);
        metrics.until.set(f64::NAN);
        metrics
    }

    /// A look ended.
    pub fn looked(&self, seen: &Seen, board: &Board) {
        for severity in [Severity::Critical, Severity::Warning, Severity::Info] {
            let firing = board.postings.iter().filter(|posting| posting.until.is_none());
            let count = firing.filter(|posting| posting.severity == severity).count();
            let labels = SeverityLabels { severity: severity.to_string() };
            self.firing.get_or_create(&labels).set(i64::try_from(count).unwrap_or(i64::MAX));
        }
        self.left_out.set(i64::try_from(board.left_out).unwrap_or(i64::MAX));
        self.without_headroom.clear();
        for (namespace, at) in &seen.without_headroom {
            let labels = NamespaceLabels { namespace: namespace.clone() };
            self.without_headroom.get_or_create(&labels).set(at.as_duration().as_secs_f64());
        }
        let certificate = |moment: fn(Validity) -> Timestamp| {
            seen.certificate.map_or(f64::NAN, |validity| moment(validity).as_duration().as_secs_f64())
        };
        self.since.set(certificate(|validity| validity.since));
        self.until.set(certificate(|validity| validity.until));
    }

    /// A message to an Alertmanager ended.
    pub fn sent(&self, result: &'static str) {
        self.messages.get_or_create(&ResultLabels { result }).inc();
    }

    /// So many Alertmanagers are told.
    pub fn alertmanagers(&self, count: usize) {
        self.alertmanagers.set(i64::try_from(count).unwrap_or(i64::MAX));
    }
}
