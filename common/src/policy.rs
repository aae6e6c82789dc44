//! A [`PowerCappingPolicy`] after validation: what a decision may rely on.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::{
    algorithm::{self, AlgorithmError},
    api::{Action, FoundTarget, Mode, Performance, PowerCappingPolicy, PowerScope, Rung, TargetRef},
    selector::{Labels, Selector, SelectorError},
    target::Controller,
    units::Watts,
};

/// A cap for the pods that it selects.
#[derive(Clone, Debug, PartialEq)]
pub struct Policy {
    /// Which one it is.
    pub id: PolicyId,
    /// The most that the selected pods may draw together.
    pub cap: Watts,
    /// What counts against the cap.
    pub scope: PowerScope,
    /// The pods, in the policy's namespace.
    pub chosen: Chosen,
    /// Capping begins at this power.
    pub capping_threshold: Watts,
    /// Ceilings are raised again below this power; always less than the capping threshold.
    pub release_threshold: Watts,
    /// Whether it acts.
    pub mode: Mode,
    /// Devices of a policy with a lower priority give up their watts first.
    pub priority: u32,
    /// How far it may slow its devices; `None`: as far as they go.
    pub clock_floor: Option<ClockFloor>,
    /// How it shares its watts out.
    pub algorithm: algorithm::Choice,
    /// What may be done beyond lower clocks, in this order. Nothing that is not in it.
    pub ladder: Vec<Rung>,
}

/// The lowest clock that a policy asks of a device, and the field that says so.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClockFloor {
    /// Of the highest clock that the device reaches.
    pub percent: u32,
    /// What a person wrote, as `field value`: the stricter of the two.
    pub field: BindingField,
}

/// A field of `spec.performance` with its value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BindingField {
    /// `minFrequencyPercent`.
    MinFrequency(u32),
    /// `maxSlowdownPercent`.
    MaxSlowdown(u32),
}

impl fmt::Display for BindingField {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::MinFrequency(percent) => write!(f, "spec.performance.minFrequencyPercent ({percent})"),
            Self::MaxSlowdown(percent) => write!(f, "spec.performance.maxSlowdownPercent ({percent})"),
        }
    }
}

impl ClockFloor {
    /// The stricter of the two bounds. Work counts as proportional to the clock.
    fn of(performance: Performance) -> Result<Option<Self>, PolicyError> {
        let Performance { min_frequency_percent, max_slowdown_percent } = performance;
        if let Some(percent) = min_frequency_percent.filter(|percent| !(1..=100).contains(percent)) {
            return Err(PolicyError::MinFrequency(percent));
        }
        if let Some(percent) = max_slowdown_percent.filter(|percent| *percent > 99) {
            return Err(PolicyError::MaxSlowdown(percent));
        }
        let frequency =
            min_frequency_percent.map(|percent| Self { percent, field: BindingField::MinFrequency(percent) });
        let slowdown = max_slowdown_percent
            .map(|percent| Self { percent: 100 - percent, field: BindingField::MaxSlowdown(percent) });
        Ok(frequency.into_iter().chain(slowdown).max_by_key(|floor| floor.percent))
    }
}

/// How a policy names its pods.
#[derive(Clone, Debug, PartialEq)]
pub enum Chosen {
    /// By their labels.
    Labels(Selector),
    /// By the workload that they are of.
    Target(TargetRef),
}

/// A policy's namespace and name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct PolicyId {
    /// Its namespace, which is also that of the pods.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

impl fmt::Display for PolicyId {
    /// As it stands in `setBy`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "powercappingpolicy/{}/{}", self.namespace, self.name)
    }
}

/// Whether a policy is for a pod of its namespace, as far as its spec and what its target last led to tell.
#[must_use]
pub fn selects(object: &PowerCappingPolicy, labels: &Labels, controller: Option<&Controller>) -> bool {
    match (&object.spec.selector, &object.spec.target_ref) {
        (Some(selector), None) => Selector::try_from(selector).is_ok_and(|selector| selector.matches(labels)),
        (None, Some(target)) => {
            let found = object.status.as_ref().and_then(|status| status.target.as_ref());
            let found = found.filter(|found| found.target_ref == *target);
            let selected =
                |found: &FoundTarget| found.selector.parse::<Selector>().is_ok_and(|selector| selector.matches(labels));
            found.is_some_and(|found| selected(found) && found.owns(controller, labels))
        }
        _ => false,
    }
}

impl Policy {
    /// As [`selects`], with labels that are read already. `object` is this policy's.
    #[must_use]
    pub fn selects(&self, object: &PowerCappingPolicy, labels: &Labels, controller: Option<&Controller>) -> bool {
        match &self.chosen {
            Chosen::Labels(selector) => selector.matches(labels),
            Chosen::Target(_) => selects(object, labels, controller),
        }
    }
}

/// Why a policy cannot be acted on. The API server refuses nearly all of these; what was stored by an
/// older version is refused here.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PolicyError {
    /// The object has no namespace or no name.
    #[error("metadata.{0} is missing")]
    Unnamed(&'static str),
    /// A cap of nothing.
    #[error("spec.powerCapLimitWatts is 0; write at least 1, or set mode to Off")]
    NoCap,
    /// Thresholds that would switch at every reading.
    #[error(
        "spec.releaseThresholdPercent ({release}) must be below spec.cappingThresholdPercent ({capping}), which is at most 100"
    )]
    Thresholds {
        /// As written.
        capping: u32,
        /// As written.
        release: u32,
    },
    /// A bound on the clock that no clock can meet.
    #[error("spec.performance.minFrequencyPercent is {0}; write 1 to 100")]
    MinFrequency(u32),
    /// A slow-down to nothing.
    #[error("spec.performance.maxSlowdownPercent is {0}; write 0 to 99")]
    MaxSlowdown(u32),
    /// An algorithm, or a parameter of it, that there is none of.
    #[error(transparent)]
    Algorithm(#[from] AlgorithmError),
    /// A ladder that does not begin with the rung that is reversible.
    #[error("spec.escalation must begin with Throttle; write - action: Throttle before the others")]
    Ladder,
    /// A rung that stands twice.
    #[error("spec.escalation names {0:?} twice; write each action once")]
    RungTwice(Action),
    /// Both or neither of the ways to name pods.
    #[error("write exactly one of spec.selector and spec.targetRef")]
    Chosen,
    /// A selector that cannot be used.
    #[error("spec.selector: {0}")]
    Selector(#[from] SelectorError),
}

impl TryFrom<&PowerCappingPolicy> for Policy {
    type Error = PolicyError;

    fn try_from(object: &PowerCappingPolicy) -> Result<Self, PolicyError> {
        let spec = &object.spec;
        let algorithm = algorithm::Choice::try_from(&spec.algorithm)?;
        let (capping, release) = (spec.capping_threshold_percent, spec.release_threshold_percent);
        if spec.power_cap_limit_watts == 0 {
            return Err(PolicyError::NoCap);
        }
        if release >= capping || capping > 100 {
            return Err(PolicyError::Thresholds { capping, release });
        }
        let chosen = match (&spec.selector, &spec.target_ref) {
            (Some(selector), None) => Chosen::Labels(Selector::try_from(selector)?),
            (None, Some(target)) => Chosen::Target(target.clone()),
            _ => return Err(PolicyError::Chosen),
        };
        let cap = Watts::new(spec.power_cap_limit_watts);
        Ok(Self {
            id: PolicyId {
                namespace: object.metadata.namespace.clone().ok_or(PolicyError::Unnamed("namespace"))?,
                name: object.metadata.name.clone().ok_or(PolicyError::Unnamed("name"))?,
            },
            cap,
            scope: spec.power_scope,
            chosen,
            capping_threshold: cap.percent(capping),
            release_threshold: cap.percent(release),
            mode: spec.mode,
            priority: spec.priority,
            clock_floor: ClockFloor::of(spec.performance)?,
            algorithm,
            ladder: ladder(&spec.escalation)?,
        })
    }
}

/// The rungs after the throttle.
fn ladder(rungs: &[Rung]) -> Result<Vec<Rung>, PolicyError> {
    let [Rung { action: Action::Throttle, .. }, higher @ ..] = rungs else { return Err(PolicyError::Ladder) };
    let twice = |at: usize| rungs[..=at].iter().any(|rung| rung.action == higher[at].action);
    match (0..higher.len()).find(|at| twice(*at)) {
        Some(at) => Err(PolicyError::RungTwice(higher[at].action)),
        None => Ok(higher.to_vec()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn policy(spec: &serde_json::Value) -> Result<Policy, PolicyError> {
        let object: PowerCappingPolicy = serde_json::from_value(json!({
            "apiVersion": "powercapping.io/v1alpha1", "kind": "PowerCappingPolicy",
            "metadata": {"namespace": "llm", "name": "chat"}, "spec": spec,
        }))
        .unwrap();
        Policy::try_from(&object)
    }

    #[test]
    fn defaults_advise_at_95_and_release_at_85_percent() {
        let policy =
            policy(&json!({"powerCapLimitWatts": 1000, "selector": {"matchLabels": {"app": "chat"}}})).unwrap();
        assert_eq!((policy.mode, policy.scope), (Mode::Advise, PowerScope::Devices));
        assert_eq!((policy.capping_threshold, policy.release_threshold), (Watts::new(950), Watts::new(850)));
        assert_eq!(policy.id.to_string(), "powercappingpolicy/llm/chat");
    }

    #[test]
    fn contradictions_are_refused_with_the_field_and_the_mend() {
        let labels = json!({"matchLabels": {"app": "chat"}});
        for (spec, says) in [
            (json!({"powerCapLimitWatts": 0, "selector": labels}), "powerCapLimitWatts is 0"),
            (json!({"powerCapLimitWatts": 9, "selector": {}}), "spec.selector: names no label"),
            (json!({"powerCapLimitWatts": 9}), "exactly one of spec.selector and spec.targetRef"),
            (
                json!({"powerCapLimitWatts": 9, "selector": labels,
                    "targetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "chat"}}),
                "exactly one of spec.selector and spec.targetRef",
            ),
            (
                json!({"powerCapLimitWatts": 9, "selector": labels, "cappingThresholdPercent": 80}),
                "releaseThresholdPercent (85) must be below spec.cappingThresholdPercent (80)",
            ),
            (json!({"powerCapLimitWatts": 9, "selector": labels, "cappingThresholdPercent": 101}), "at most 100"),
            (
                json!({"powerCapLimitWatts": 9, "selector": labels, "performance": {"minFrequencyPercent": 101}}),
                "minFrequencyPercent is 101; write 1 to 100",
            ),
            (
                json!({"powerCapLimitWatts": 9, "selector": labels, "escalation": [{"action": "Evict"}]}),
                "spec.escalation must begin with Throttle",
            ),
            (
                json!({"powerCapLimitWatts": 9, "selector": labels,
                    "escalation": [{"action": "Throttle"}, {"action": "Scale"}, {"action": "Scale", "afterSeconds": 9}]}),
                "spec.escalation names Scale twice",
            ),
            (
                json!({"powerCapLimitWatts": 9, "selector": labels, "performance": {"maxSlowdownPercent": 100}}),
                "maxSlowdownPercent is 100; write 0 to 99",
            ),
        ] {
            let error = policy(&spec).unwrap_err().to_string();
            assert!(error.contains(says), "{error}");
        }
    }
    #[test]
    fn of_two_bounds_on_the_clock_the_stricter_counts_and_is_named() {
        for (performance, says) in [
            (json!({}), None),
            (json!({"minFrequencyPercent": 60}), Some((60, "minFrequencyPercent (60)"))),
            (json!({"maxSlowdownPercent": 20}), Some((80, "maxSlowdownPercent (20)"))),
            (json!({"minFrequencyPercent": 60, "maxSlowdownPercent": 20}), Some((80, "maxSlowdownPercent (20)"))),
            (json!({"minFrequencyPercent": 90, "maxSlowdownPercent": 20}), Some((90, "minFrequencyPercent (90)"))),
        ] {
            let spec = json!({"powerCapLimitWatts": 9, "selector": {"matchLabels": {"app": "chat"}}, "performance": performance});
            let floor = policy(&spec).unwrap().clock_floor;
            let said = floor.map(|floor| (floor.percent, floor.field.to_string()));
            assert_eq!(said, says.map(|(percent, field)| (percent, format!("spec.performance.{field}"))));
        }
    }

    #[test]
    fn a_pod_is_a_policys_by_its_labels_or_by_the_workload_that_was_found() {
        let object = |spec: serde_json::Value, found: &str| -> PowerCappingPolicy {
            let found = json!({"targetRef": {"apiVersion": "apps/v1", "kind": "StatefulSet", "name": found}, "selector": "app=chat"});
            serde_json::from_value(json!({
                "apiVersion": "powercapping.io/v1alpha1", "kind": "PowerCappingPolicy",
                "metadata": {"namespace": "llm", "name": "chat"}, "spec": spec, "status": {"target": found},
            }))
            .unwrap()
        };
        let by_labels = json!({"powerCapLimitWatts": 9, "selector": {"matchLabels": {"app": "chat"}}});
        let target = json!({"apiVersion": "apps/v1", "kind": "StatefulSet", "name": "chat"});
        let by_target = json!({"powerCapLimitWatts": 9, "targetRef": target});
        let labels = Labels::from([("app".to_owned(), "chat".to_owned())]);
        let own = Controller { kind: "StatefulSet".into(), name: "chat".into() };
        for (spec, found, controller, selected) in [
            (&by_labels, "chat", None, true),
            (&by_target, "chat", Some(&own), true),
            (&by_target, "chat", None, false),
            (&by_target, "an-earlier-one", Some(&own), false),
            (&json!({"powerCapLimitWatts": 9}), "chat", Some(&own), false),
        ] {
            let object = object(spec.clone(), found);
            assert_eq!(selects(&object, &labels, controller), selected, "{spec} {found}");
            assert!(!selects(&object, &Labels::new(), controller), "a pod without labels");
        }
    }
}
