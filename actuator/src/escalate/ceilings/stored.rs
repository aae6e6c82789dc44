//! Objects as the API server stores them: what is not known here stays as it is.

use serde_json::{Map, Value};

/// Kinds that bound replicas, or have them, and those that are suspended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// A Deployment.
    Deployment,
    /// A StatefulSet.
    StatefulSet,
    /// Kubernetes' own autoscaler.
    HorizontalPodAutoscaler,
    /// KEDA's.
    ScaledObject,
    /// KServe's model server.
    InferenceService,
    /// KServe's LLM server, which may prefill and decode apart.
    LlmInferenceService,
    /// One pod, whose CPU limits are its own.
    Pod,
    /// Kubernetes' own Job.
    Job,
    /// Jobs that begin and end together.
    JobSet,
    /// Kubeflow's job of PyTorch.
    PyTorchJob,
}

impl Kind {
    /// All that bound replicas.
    pub const ALL: [Self; 6] = [
        Self::Deployment,
        Self::StatefulSet,
        Self::HorizontalPodAutoscaler,
        Self::ScaledObject,
        Self::InferenceService,
        Self::LlmInferenceService,
    ];

    /// All whose pods are ranks of one job, and that a `suspend` of theirs stops.
    pub const JOBS: [Self; 3] = [Self::Job, Self::JobSet, Self::PyTorchJob];

    /// Group, version and kind.
    #[must_use]
    pub const fn names(self) -> (&'static str, &'static str, &'static str) {
        match self {
            Self::Deployment => ("apps", "v1", "Deployment"),
            Self::StatefulSet => ("apps", "v1", "StatefulSet"),
            Self::HorizontalPodAutoscaler => ("autoscaling", "v2", "HorizontalPodAutoscaler"),
            Self::ScaledObject => ("keda.sh", "v1alpha1", "ScaledObject"),
            Self::InferenceService => ("serving.kserve.io", "v1beta1", "InferenceService"),
            Self::LlmInferenceService => ("serving.kserve.io", "v1alpha2", "LLMInferenceService"),
            Self::Pod => ("", "v1", "Pod"),
            Self::Job => ("batch", "v1", "Job"),
            Self::JobSet => ("jobset.x-k8s.io", "v1alpha2", "JobSet"),
            Self::PyTorchJob => ("kubeflow.org", "v1", "PyTorchJob"),
        }
    }

    /// The kind of a workload, as pending actions name it; none of one without replicas of its own.
    #[must_use]
    pub fn of_workload(kind: &str) -> Option<Self> {
        let scaled = |known: &Self| !matches!(known, Self::HorizontalPodAutoscaler | Self::ScaledObject);
        Self::ALL.into_iter().filter(scaled).find(|known| known.names().2 == kind)
    }

    /// The kind of a job, as pending actions name it; none of what is none.
    #[must_use]
    pub fn of_job(kind: &str) -> Option<Self> {
        Self::JOBS.into_iter().find(|known| known.names().2 == kind)
    }
}

/// An object.
#[derive(Clone, Debug, PartialEq)]
pub struct Stored {
    /// What it is.
    pub kind: Kind,
    /// All that the API server tells of it.
    pub value: Value,
}

impl Stored {
    /// What stands at a JSON pointer; null where nothing does.
    #[must_use]
    pub fn at(&self, pointer: &str) -> &Value {
        self.value.pointer(pointer).unwrap_or(&Value::Null)
    }

    /// A text at a JSON pointer.
    #[must_use]
    pub fn text(&self, pointer: &str) -> Option<&str> {
        self.at(pointer).as_str()
    }

    /// A number of replicas at a JSON pointer.
    #[must_use]
    pub fn count(&self, pointer: &str) -> Option<u32> {
        count(self.at(pointer))
    }

    /// Its namespace.
    #[must_use]
    pub fn namespace(&self) -> &str {
        self.text("/metadata/namespace").unwrap_or_default()
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        self.text("/metadata/name").unwrap_or_default()
    }

    /// Which object of its name it is.
    #[must_use]
    pub fn uid(&self) -> &str {
        self.text("/metadata/uid").unwrap_or_default()
    }

    /// An annotation.
    #[must_use]
    pub fn annotation(&self, key: &str) -> Option<&str> {
        self.at("/metadata/annotations").get(key)?.as_str()
    }

    /// A label.
    #[must_use]
    pub fn label(&self, key: &str) -> Option<&str> {
        self.at("/metadata/labels").get(key)?.as_str()
    }

    /// Whether an object of this kind is among its owners.
    #[must_use]
    pub fn is_owned_by(&self, kind: &str) -> bool {
        let owners = self.at("/metadata/ownerReferences").as_array();
        owners.into_iter().flatten().any(|owner| owner.get("kind").and_then(Value::as_str) == Some(kind))
    }

    /// How many replicas it asks for: a Deployment and its like.
    #[must_use]
    pub fn replicas(&self) -> u32 {
        self.count("/spec/replicas").unwrap_or(1)
    }

    /// A patch of this very object: refused when it was changed, or deleted and made anew.
    #[must_use]
    pub fn precondition(&self) -> Value {
        let mut patch = Value::Null;
        for pointer in ["/metadata/uid", "/metadata/resourceVersion"] {
            put(&mut patch, pointer, self.at(pointer).clone());
        }
        patch
    }
}

/// A number of replicas.
#[must_use]
pub fn count(value: &Value) -> Option<u32> {
    u32::try_from(value.as_u64()?).ok()
}

/// Puts a value at a JSON pointer, and makes the objects on the way.
pub fn put(into: &mut Value, pointer: &str, value: Value) {
    let mut place = into;
    for key in pointer.split('/').skip(1) {
        if !place.is_object() {
            *place = Value::Object(Map::new());
        }
        place = &mut place[key.replace("~1", "/").replace("~0", "~")];
    }
    *place = value;
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_value_is_put_where_its_pointer_says() {
        let mut patch = json!({"metadata": {"uid": "u"}});
        put(&mut patch, "/metadata/annotations/autoscaling.keda.sh~1paused", json!("true"));
        put(&mut patch, "/spec/maxReplicas", json!(3));
        let expected = json!({
            "metadata": {"uid": "u", "annotations": {"autoscaling.keda.sh/paused": "true"}}, "spec": {"maxReplicas": 3}
        });
        assert_eq!(patch, expected);
        let pointer = "/metadata/annotations/autoscaling.keda.sh~1paused";
        assert_eq!(patch.pointer(pointer), Some(&json!("true")), "as it is read");
    }

    #[test]
    fn a_workload_is_of_a_kind_that_has_replicas() {
        assert_eq!(Kind::of_workload("LLMInferenceService"), Some(Kind::LlmInferenceService));
        for without in ["Job", "DaemonSet", "Pod", "ScaledObject", "deployment", ""] {
            assert_eq!(Kind::of_workload(without), None, "{without}");
        }
    }
}
