//! What stands around a workload that is to be frozen, scaled or resized, asked for when it is.
//!
//! A kind that is not there answers 404: nothing of it is there then, and nothing is kept of that answer, since its
//! definition may be installed any time.

use std::time::Duration;

use k8s_openapi::api::core::v1::ConfigMap;
use kube::{
    Api, Client,
    api::{ApiResource, DynamicObject, GroupVersionKind, ListParams},
};
use powercap_common::target;
use serde_json::{Value, json};

use super::{
    bounds::{Site, copies_annotation},
    memory::Memory,
    stored::{Kind, Stored},
};
use crate::escalate::suspend;

const CALL_TIMEOUT: Duration = Duration::from_secs(5);
/// Lists are read in pages of so many.
const PAGE: u32 = 500;
/// Where KServe is.
const KSERVE: &str = "kserve";
/// What KServe makes of an InferenceService may transform and explain beside, and of an LLMInferenceService schedule.
const PREDICTS: &str = "component=predictor";
const INFERS: &str = "kserve.io/component=workload";

/// Why something could not be read.
#[derive(Debug, thiserror::Error)]
pub enum ObserveError {
    /// The API server refused, or could not be reached.
    #[error("read {0}")]
    Read(&'static str, #[source] Box<kube::Error>),
    /// It did not answer in time.
    #[error("no answer about {0}")]
    Late(&'static str),
}

/// A workload as a pending action names it, `Kind/name`, with what stands around it; none when it is not there, or
/// is of a kind without replicas.
///
/// # Errors
/// See [`ObserveError`]: nothing is known then, and nothing may be done.
pub async fn site(client: &Client, namespace: &str, workload: &str) -> Result<Option<Site>, ObserveError> {
    let Some((kind, name)) = workload.split_once('/') else { return Ok(None) };
    let Some(kind) = Kind::of_workload(kind) else { return Ok(None) };
    let Some(named) = get(client, kind, namespace, name).await? else { return Ok(None) };
    let object = match maker(&named) {
        Some((kind, name)) => get(client, kind, namespace, &name).await?.unwrap_or(named),
        None => named,
    };
    let all = |_: &Stored| true;
    let made = match labels_of_made(&object) {
        Some(labels) => list(client, Kind::Deployment, Some(namespace), &labels, all).await?,
        None => Vec::new(),
    };
    let mut autoscalers = list(client, Kind::ScaledObject, Some(namespace), "", all).await?;
    autoscalers.extend(list(client, Kind::HorizontalPodAutoscaler, Some(namespace), "", all).await?);
    let copied = object.kind == Kind::InferenceService && copies_annotation(kserve(client).await?.as_deref());
    Ok(Some(Site { object, made, autoscalers, copied }))
}

/// All objects that bound replicas with a ceiling of ours on them, and jobs that we suspended, but for Kubernetes' own:
/// what a new leader begins with.
///
/// # Errors
/// See [`ObserveError`].
pub async fn held(client: &Client) -> Result<Vec<Stored>, ObserveError> {
    let mut held = Vec::new();
    for kind in Kind::ALL {
        held.extend(list(client, kind, None, "", |object| Memory::on(object).is_some()).await?);
    }
    for kind in Kind::JOBS.into_iter().filter(|kind| *kind != Kind::Job) {
        held.extend(list(client, kind, None, "", suspend::is_marked).await?);
    }
    Ok(held)
}

/// One object; none when it, or its kind, is not there.
///
/// # Errors
/// See [`ObserveError`].
pub async fn get(client: &Client, kind: Kind, namespace: &str, name: &str) -> Result<Option<Stored>, ObserveError> {
    let objects = api(client, kind, namespace);
    Ok(answered(kind.names().2, objects.get(name)).await?.and_then(|object| stored(kind, object)))
}

/// What KServe's configuration says of InferenceServices.
async fn kserve(client: &Client) -> Result<Option<String>, ObserveError> {
    let configurations = Api::<ConfigMap>::namespaced(client.clone(), KSERVE);
    let found = answered("ConfigMap", configurations.get("inferenceservice-config")).await?;
    Ok(found.and_then(|found| found.data?.remove("inferenceService")))
}

/// VerticalPodAutoscalers of a namespace.
///
/// # Errors
/// See [`ObserveError`].
pub async fn vpas(client: &Client, namespace: &str) -> Result<Vec<Value>, ObserveError> {
    let resource = ApiResource::from_gvk(&GroupVersionKind::gvk("autoscaling.k8s.io", "v1", "VerticalPodAutoscaler"));
    let vpas: Api<DynamicObject> = Api::namespaced_with(client.clone(), namespace, &resource);
    let found = answered("VerticalPodAutoscaler", vpas.list(&ListParams::default())).await?;
    Ok(found.into_iter().flat_map(|list| list.items).map(|vpa| json!(vpa)).collect())
}

/// What KServe made the object from.
fn maker(object: &Stored) -> Option<(Kind, String)> {
    if !matches!(object.kind, Kind::Deployment | Kind::StatefulSet) {
        return None;
    }
    let labels = serde_json::from_value(object.at("/metadata/labels").clone()).ok()?;
    let service = target::served_by_kserve(&labels)?;
    Some((Kind::of_workload(&service.kind)?, service.name))
}

/// The labels of the Deployments that serve, where KServe made them of the object.
fn labels_of_made(object: &Stored) -> Option<String> {
    let serves = match object.kind {
        Kind::InferenceService => PREDICTS,
        Kind::LlmInferenceService => INFERS,
        _ => return None,
    };
    let labels = target::made_by_kserve(object.kind.names().2, object.name())?;
    let labels = labels.iter().map(|(key, value)| format!("{key}={value}"));
    Some(labels.chain([serves.to_owned()]).collect::<Vec<_>>().join(","))
}

/// Objects of a kind in a namespace.
pub fn api(client: &Client, kind: Kind, namespace: &str) -> Api<DynamicObject> {
    Api::namespaced_with(client.clone(), namespace, &resource(kind))
}

fn resource(kind: Kind) -> ApiResource {
    let (group, version, kind) = kind.names();
    ApiResource::from_gvk(&GroupVersionKind::gvk(group, version, kind))
}

/// Those of a kind that are kept: a page is forgotten before the next is read.
async fn list(
    client: &Client,
    kind: Kind,
    namespace: Option<&str>,
    labels: &str,
    keep: impl Fn(&Stored) -> bool,
) -> Result<Vec<Stored>, ObserveError> {
    let objects = match namespace {
        Some(namespace) => api(client, kind, namespace),
        None => Api::all_with(client.clone(), &resource(kind)),
    };
    let mut page = ListParams::default().labels(labels).limit(PAGE);
    let mut kept = Vec::new();
    while let Some(found) = answered(kind.names().2, objects.list(&page)).await? {
        kept.extend(found.items.into_iter().filter_map(|object| stored(kind, object)).filter(&keep));
        match found.metadata.continue_.filter(|next| !next.is_empty()) {
            Some(next) => page = page.continue_token(&next),
            None => break,
        }
    }
    Ok(kept)
}

/// None where there is no such object, or no such kind.
async fn answered<T>(
    what: &'static str,
    call: impl Future<Output = kube::Result<T>>,
) -> Result<Option<T>, ObserveError> {
    let late = |_| ObserveError::Late(what);
    match tokio::time::timeout(CALL_TIMEOUT, call).await.map_err(late)? {
        Ok(answer) => Ok(Some(answer)),
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(None),
        Err(error) => Err(ObserveError::Read(what, Box::new(error))),
    }
}

fn stored(kind: Kind, object: DynamicObject) -> Option<Stored> {
    Some(Stored { kind, value: serde_json::to_value(object).ok()? })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labelled(kind: Kind, labels: &Value) -> Stored {
        Stored { kind, value: json!({"metadata": {"namespace": "llm", "name": "chat", "labels": labels}}) }
    }

    #[test]
    fn what_kserve_made_leads_to_its_maker_and_back_to_what_serves() {
        let service = labelled(Kind::InferenceService, &json!({}));
        let of_service = "serving.kserve.io/inferenceservice=chat,component=predictor";
        assert_eq!(labels_of_made(&service).as_deref(), Some(of_service));
        let llm = labelled(Kind::LlmInferenceService, &json!({}));
        let of_llm = "app.kubernetes.io/name=chat,app.kubernetes.io/part-of=llminferenceservice,\
            kserve.io/component=workload";
        assert_eq!(labels_of_made(&llm).as_deref(), Some(of_llm));
        for (made, kind) in [(of_service, Kind::InferenceService), (of_llm, Kind::LlmInferenceService)] {
            let labels: Value = made.split(',').filter_map(|label| label.split_once('=')).collect();
            let found = maker(&labelled(Kind::Deployment, &labels));
            assert_eq!(found, Some((kind, "chat".to_owned())));
            assert_eq!(maker(&labelled(Kind::InferenceService, &labels)), None, "a label on the object itself");
        }
        let plain = labelled(Kind::Deployment, &json!({"app": "chat"}));
        assert_eq!((maker(&plain), labels_of_made(&plain)), (None, None));
    }
}
