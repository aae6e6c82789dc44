//! Writes ceilings: each call once, within seconds, and only on what was decided on.

use std::time::Duration;

use kube::{
    Api, Client,
    api::{DynamicObject, Patch, PatchParams},
};
use serde_json::{Value, json};

use super::{
    Change,
    observe::api,
    resize::{PodChange, Step},
    stored::Stored,
};
use crate::escalate::apply::FIELD_MANAGER;

const CALL_TIMEOUT: Duration = Duration::from_secs(5);
/// Why something was not written. Nothing of it was, but for a pod's first step.
#[derive(Debug, thiserror::Error)]
pub enum ApplyError {
    /// The object was changed, or is gone, since it was read: look again.
    #[error("{0} is no longer as it was decided on")]
    Stale(String),
    /// The API server asks for patience.
    #[error("the API server puts the change of {0} off")]
    Busy(String),
    /// The API server refuses the change itself, or us.
    #[error("the API server refuses the change of {0}: {1}")]
    Refused(String, String),
    /// Nobody knows whether it was written: look again.
    #[error("no answer to the change of {0}")]
    NoAnswer(String, #[source] Option<Box<kube::Error>>),
}

/// Writes a change of what bounds replicas.
///
/// # Errors
/// See [`ApplyError`].
pub async fn write(client: &Client, object: &Stored, change: &Change) -> Result<(), ApplyError> {
    let objects = api(client, object.kind, object.namespace());
    let patch = Patch::Merge(&change.patch);
    answered(object, objects.patch(object.name(), &parameters(), &patch)).await.map(|_| ())
}

/// Writes a change of a pod.
///
/// # Errors
/// See [`ApplyError`]. When the second step fails, the pod's annotation tells more than was done, which the next look
/// takes for another's revert.
pub async fn write_pod(client: &Client, pod: &Stored, change: &PodChange) -> Result<(), ApplyError> {
    let pods: Api<DynamicObject> = api(client, pod.kind, pod.namespace());
    let mut version = pod.at("/metadata/resourceVersion").clone();
    for step in &change.steps {
        let written = match step {
            Step::Remember(patch) => {
                let patch = Patch::Merge(on(pod, &version, patch));
                answered(pod, pods.patch(pod.name(), &parameters(), &patch)).await?
            }
            Step::Resize(patch) => {
                let patch = Patch::Strategic(on(pod, &version, patch));
                answered(pod, pods.patch_subresource("resize", pod.name(), &parameters(), &patch)).await?
            }
        };
        version = json!(written.metadata.resource_version);
    }
    Ok(())
}

/// The patch, for this pod at this version alone.
fn on(pod: &Stored, version: &Value, patch: &Value) -> Value {
    let mut patch = patch.clone();
    super::stored::put(&mut patch, "/metadata/uid", pod.at("/metadata/uid").clone());
    super::stored::put(&mut patch, "/metadata/resourceVersion", version.clone());
    patch
}

fn parameters() -> PatchParams {
    PatchParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PatchParams::default() }
}

async fn answered<T>(object: &Stored, call: impl Future<Output = kube::Result<T>>) -> Result<T, ApplyError> {
    let (_, _, kind) = object.kind.names();
    let named = format!("{kind} {}/{}", object.namespace(), object.name());
    match tokio::time::timeout(CALL_TIMEOUT, call).await {
        Ok(Ok(written)) => Ok(written),
        Ok(Err(kube::Error::Api(status))) => Err(match status.code {
            404 | 409 => ApplyError::Stale(named),
            429 => ApplyError::Busy(named),
            400..500 => ApplyError::Refused(named, status.message),
            _ => ApplyError::NoAnswer(named, Some(Box::new(kube::Error::Api(status)))),
        }),
        Ok(Err(error)) => Err(ApplyError::NoAnswer(named, Some(Box::new(error)))),
        Err(_) => Err(ApplyError::NoAnswer(named, None)),
    }
}
