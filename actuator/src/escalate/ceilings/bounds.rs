//! Which object bounds the replicas of a workload.
//!
//! ```text
//!   InferenceService, LLMInferenceService ─▶ itself: what KServe makes of it, it makes anew
//!   named by a ScaledObject ───────────────▶ that: the HPA is KEDA's
//!   named by an HPA ───────────────────────▶ that
//!   else ──────────────────────────────────▶ the workload's own spec.replicas
//! ```

use powercap_common::reason::Reason;

use serde_json::Value;

use super::{
    Hold,
    dial::Dial,
    memory::ANNOTATION,
    stored::{Kind, Stored},
};

/// A workload and what stands around it.
#[derive(Clone, Debug, PartialEq)]
pub struct Site {
    /// The workload; where KServe made it, KServe's object.
    pub object: Stored,
    /// What KServe made of it.
    pub made: Vec<Stored>,
    /// ScaledObjects and HPAs of the namespace.
    pub autoscalers: Vec<Stored>,
    /// KServe copies our annotation to the pods that it makes of the object.
    pub copied: bool,
}

/// What bounds replicas, and how many there are.
#[derive(Clone, Debug, PartialEq)]
pub struct Bound<'a> {
    /// The object with the bound.
    pub object: &'a Stored,
    /// What has the replicas.
    scaled: Vec<&'a Stored>,
}

const AUTOSCALER_CLASS: &str = "serving.kserve.io/autoscalerClass";
const DEPLOYMENT_MODE: &str = "serving.kserve.io/deploymentMode";
const ROLE: &str = "llm-d.ai/role";

impl<'a> Bound<'a> {
    /// An object of which it need not be known how many replicas there are.
    #[must_use]
    pub fn alone(object: &'a Stored) -> Self {
        Self { object, scaled: Vec::new() }
    }

    /// How many replicas the workload asks for now.
    #[must_use]
    pub fn current(&self, dial: &Dial) -> u32 {
        let prefill = |made: &&&Stored| (made.label(ROLE) == Some("prefill")) == (dial.name == "prefill");
        let asked: u32 = self.scaled.iter().filter(prefill).map(|made| made.replicas()).sum();
        let unknown = self.scaled.is_empty();
        if unknown { dial.range(|pointer| self.object.at(pointer).clone()).1 } else { asked }
    }
}

/// What bounds the workload's replicas.
///
/// # Errors
/// It must be left alone, and why.
pub fn bounding(site: &Site) -> Result<Bound<'_>, Hold> {
    let object = &site.object;
    match object.kind {
        Kind::InferenceService => {
            let class = object.annotation(AUTOSCALER_CLASS);
            standard(object)?;
            match site.made.first() {
                Some(made) if class == Some("external") => of_workload(made, &site.autoscalers),
                _ if site.copied => {
                    let message = format!("KServe copies {ANNOTATION} from InferenceService {} to pods", object.name());
                    Err(Hold::new(Reason::AnnotationsCopied, message))
                }
                _ => Ok(Bound { object, scaled: site.made.iter().collect() }),
            }
        }
        Kind::LlmInferenceService => Ok(Bound { object, scaled: site.made.iter().collect() }),
        _ => of_workload(object, &site.autoscalers),
    }
}

/// Whether KServe copies our annotation from an InferenceService to the template of its pods, so that each change makes
/// them anew: by what stands under `inferenceService` in its configuration.
#[must_use]
pub fn copies_annotation(configuration: Option<&str>) -> bool {
    let kept = |text: &str| -> Option<bool> {
        let configuration: Value = serde_json::from_str(text).ok()?;
        let kept = configuration.get("serviceAnnotationDisallowedList")?.as_array()?;
        Some(kept.iter().any(|name| name == ANNOTATION))
    };
    !configuration.and_then(kept).unwrap_or(false)
}

/// In Knative mode each change of a bound would be a new revision, with new pods.
fn standard(service: &Stored) -> Result<(), Hold> {
    let mode = service.annotation(DEPLOYMENT_MODE).or_else(|| service.text("/status/deploymentMode"));
    match mode {
        Some("Standard" | "RawDeployment") => Ok(()),
        mode => {
            let mode = mode.unwrap_or("no known");
            let message = format!("InferenceService {} runs in {mode} mode; only Standard is scaled", service.name());
            Err(Hold::new(Reason::KnativeMode, message))
        }
    }
}

fn of_workload<'a>(workload: &'a Stored, autoscalers: &'a [Stored]) -> Result<Bound<'a>, Hold> {
    let mut named: Vec<_> = autoscalers.iter().filter(|autoscaler| names(autoscaler, workload)).collect();
    named.sort_by_key(|autoscaler| (autoscaler.kind != Kind::ScaledObject, autoscaler.name()));
    let object = named.first().copied().unwrap_or(workload);
    if object.kind == Kind::ScaledObject && is_paused(object) {
        let message = format!("ScaledObject {} is paused; remove the annotation to have it scaled", object.name());
        return Err(Hold::new(Reason::PausedByPerson, message));
    }
    if object.kind == Kind::HorizontalPodAutoscaler && object.is_owned_by("ScaledObject") {
        let message = format!("KEDA owns HorizontalPodAutoscaler {}, and its ScaledObject is not seen", object.name());
        return Err(Hold::new(Reason::ScaledObjectMissing, message));
    }
    Ok(Bound { object, scaled: vec![workload] })
}

/// Whether an autoscaler is for the workload. KEDA takes a Deployment for granted.
fn names(autoscaler: &Stored, workload: &Stored) -> bool {
    let (group, _, kind) = workload.kind.names();
    let target = |field: &str| autoscaler.at("/spec/scaleTargetRef").get(field).and_then(Value::as_str);
    let of = target("apiVersion").map_or("apps", |version| version.split_once('/').map_or("", |(group, _)| group));
    let same = autoscaler.namespace() == workload.namespace() && target("name") == Some(workload.name());
    same && target("kind").unwrap_or("Deployment") == kind && of == group
}

/// As KEDA reads it: any word but a no.
fn is_paused(object: &Stored) -> bool {
    let paused = object.annotation("autoscaling.keda.sh/paused");
    let no = ["false", "False", "FALSE", "f", "F", "0"];
    object.annotation("autoscaling.keda.sh/paused-replicas").is_some() || paused.is_some_and(|word| !no.contains(&word))
}
