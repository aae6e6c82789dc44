//! Where each kind says how many replicas there may be.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::stored::{Kind, Stored, count};

/// The fields that bound one set of replicas.
#[derive(Debug, PartialEq, Eq)]
pub struct Dial {
    /// What it is called in the annotation.
    pub name: &'static str,
    /// The most replicas, or of what no autoscaler scales, their number.
    pub maximum: &'static str,
    /// The fewest.
    pub minimum: Option<&'static str>,
    /// How many while there is no work: fewer than the fewest.
    pub idle: Option<&'static str>,
    /// What keeps it from growing by itself.
    pub pause: Option<&'static str>,
    /// What a maximum that nobody wrote amounts to, and such a minimum.
    unset: (u32, u32),
    /// Whether something scales it: else it does not grow, and needs no freeze.
    pub grows: bool,
}

/// A person's word to KEDA, and ours: no scale-up.
const PAUSED_SCALE_OUT: &str = "/metadata/annotations/autoscaling.keda.sh~1paused-scale-out";

const PLAIN: Dial = Dial {
    name: "replicas",
    maximum: "/spec/replicas",
    minimum: None,
    idle: None,
    pause: None,
    unset: (1, 0),
    grows: false,
};

const PREFILL: Dial = Dial { name: "prefill", maximum: "/spec/prefill/replicas", ..PLAIN };

const HORIZONTAL: Dial =
    Dial { maximum: "/spec/maxReplicas", minimum: Some("/spec/minReplicas"), unset: (1, 1), grows: true, ..PLAIN };

const KEDA: Dial = Dial {
    maximum: "/spec/maxReplicaCount",
    minimum: Some("/spec/minReplicaCount"),
    idle: Some("/spec/idleReplicaCount"),
    pause: Some(PAUSED_SCALE_OUT),
    unset: (100, 0),
    ..HORIZONTAL
};

const PREDICTOR: Dial =
    Dial { maximum: "/spec/predictor/maxReplicas", minimum: Some("/spec/predictor/minReplicas"), ..HORIZONTAL };

const SCALED: Dial =
    Dial { maximum: "/spec/scaling/maxReplicas", minimum: Some("/spec/scaling/minReplicas"), ..HORIZONTAL };

const SCALED_PREFILL: Dial = Dial {
    name: "prefill",
    maximum: "/spec/prefill/scaling/maxReplicas",
    minimum: Some("/spec/prefill/scaling/minReplicas"),
    ..HORIZONTAL
};

/// The dials of an object: two where an LLM server prefills apart.
#[must_use]
pub fn dials(object: &Stored) -> Vec<&'static Dial> {
    match object.kind {
        Kind::Deployment | Kind::StatefulSet => vec![&PLAIN],
        Kind::HorizontalPodAutoscaler => vec![&HORIZONTAL],
        Kind::ScaledObject => vec![&KEDA],
        Kind::InferenceService => vec![&PREDICTOR],
        Kind::Pod | Kind::Job | Kind::JobSet | Kind::PyTorchJob => Vec::new(),
        Kind::LlmInferenceService => {
            let is_scaled = |pointer: &str| object.at(pointer).is_object();
            let main = if is_scaled("/spec/scaling") { &SCALED } else { &PLAIN };
            let prefill = if is_scaled("/spec/prefill/scaling") { &SCALED_PREFILL } else { &PREFILL };
            let prefills = object.at("/spec/prefill").is_object();
            [main].into_iter().chain(prefills.then_some(prefill)).collect()
        }
    }
}

impl Dial {
    /// The fewest and the most replicas by these fields.
    #[must_use]
    pub fn range(&self, field: impl Fn(&str) -> Value) -> (u32, u32) {
        let fewest = self.minimum.and_then(|minimum| count(&field(minimum))).unwrap_or(self.unset.1);
        // KServe takes 0 for a maximum that nobody wrote; a Deployment of 0 replicas is one.
        let most = count(&field(self.maximum)).filter(|most| *most > 0 || !self.grows).unwrap_or(self.unset.0);
        (fewest, most.max(fewest))
    }

    /// What the fields must be for no more than `most` replicas, given what they are without us; none that may stay.
    #[must_use]
    pub fn bounded(&self, most: u32, field: impl Fn(&str) -> Value) -> BTreeMap<&'static str, Value> {
        let (fewest, before) = self.range(&field);
        let mut fields = BTreeMap::new();
        if most >= before {
            return fields;
        }
        fields.insert(self.maximum, json!(most));
        if let Some(minimum) = self.minimum.filter(|_| fewest > most) {
            fields.insert(minimum, json!(most));
        }
        if let Some(idle) = self.idle {
            let below = fewest.min(most);
            if count(&field(idle)).is_some_and(|idle| idle >= below) {
                fields.insert(idle, json!(below.saturating_sub(1)));
            }
        }
        fields
    }
}
