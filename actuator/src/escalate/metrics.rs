//! Our own metrics, `powercap_escalate_*`.

use powercap_common::{
    alert::ESCALATION_STOPS,
    api::{Action, PowerCappingPolicy},
    condition::kind,
    reason::Reason,
};
use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::Registry,
};

use super::{decide::Plan, observation::Observation};

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct StepLabels {
    action: String,
    result: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct HeldLabels {
    action: String,
    reason: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct StoppedLabels {
    namespace: String,
    policy: String,
    reason: &'static str,
}

/// All metrics; clones share them.
#[derive(Clone, Default)]
pub struct Metrics {
    steps: Family<StepLabels, Counter>,
    held: Family<HeldLabels, Gauge>,
    stopped: Family<StoppedLabels, Gauge>,
    is_leader: Gauge,
}

impl Metrics {
    /// The metrics, and the registry that they are served from.
    #[must_use]
    pub fn register() -> (Self, Registry) {
        let metrics = Self::default();
        let mut registry = Registry::with_prefix("powercap_escalate");
        registry.register("steps", "Steps up and down the ladder", metrics.steps.clone());
        registry.register("held", "Pending actions that are not done now", metrics.held.clone());
        let help = "1 for a policy for which nothing is done although something stands to be";
        registry.register("stopped", help, metrics.stopped.clone());
        registry.register("is_leader", "1 while this process may act", metrics.is_leader.clone());
        (metrics, registry)
    }

    /// What a decision leaves undone, and why; `stopped` as the policies say it.
    pub fn decided(&self, seen: &Observation, plan: &Plan) {
        self.held.clear();
        self.stopped.clear();
        for (policy, reason) in seen.policies.iter().filter_map(|policy| Some((policy, stops(policy)?))) {
            let (namespace, policy) = (policy.metadata.namespace.clone(), policy.metadata.name.clone());
            let (namespace, policy) = (namespace.unwrap_or_default(), policy.unwrap_or_default());
            self.stopped.get_or_create(&StoppedLabels { namespace, policy, reason: reason.as_str() }).set(1);
        }
        for held in &plan.held {
            let labels = HeldLabels { action: format!("{:?}", held.action), reason: held.reason.as_str() };
            self.held.get_or_create(&labels).inc();
        }
    }

    /// What became of a step.
    pub fn stepped(&self, action: Action, result: &'static str) {
        self.steps.get_or_create(&StepLabels { action: format!("{action:?}"), result }).inc();
    }

    /// Whether this process leads; one that does not says nothing of what is not done.
    pub fn leading(&self, leads: bool) {
        self.is_leader.set(leads.into());
        if !leads {
            self.held.clear();
            self.stopped.clear();
        }
    }
}

fn stops(policy: &PowerCappingPolicy) -> Option<Reason> {
    let said = policy.status.as_ref()?.conditions.iter().find(|said| said.type_ == kind::ESCALATING)?;
    ESCALATION_STOPS.into_iter().find(|reason| said.reason == reason.as_str())
}
