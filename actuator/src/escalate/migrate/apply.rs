//! Carries out the moves of a migration.
//!
//! Must hold: each may be done again; a placeholder that is there already is the one that was wanted; of a node nothing
//! changes but our taint and its mark, and only as it was read.

use k8s_openapi::jiff::{SignedDuration, Timestamp};
use kube::{
    Api, Client,
    api::{ApiResource, DeleteParams, DynamicObject, GroupVersionKind, Patch, PatchParams, PostParams},
};
use powercap_common::reason::Reason;
use serde_json::json;

use super::{
    facts::{Mark, Move, NAMESPACE, OVER_BUDGET, Place},
    placeholder::placeholder,
};
use crate::escalate::{
    apply::{FIELD_MANAGER, Fate},
    observation::Memory,
};

/// A pod that could not be moved is left where it is for so long.
const ABANDONED_FOR: SignedDuration = SignedDuration::from_secs(600);

/// Does it. `own_pod` is the name of the pod that this runs in.
///
/// # Errors
/// When the API server refuses, or does not answer.
pub async fn make(client: &Client, own_pod: &str, made: &Move) -> kube::Result<()> {
    match made {
        Move::Hold(place, _) => hold(client, own_pod, place).await,
        Move::Taint(node, mark) => taint(client, node, Some(mark)).await,
        Move::Untaint(node) => taint(client, node, None).await,
        Move::GiveUp(name) | Move::Abandon(name) => {
            let places: Api<DynamicObject> = Api::namespaced_with(client.clone(), NAMESPACE, &of_core("Pod"));
            places.delete(name, &DeleteParams::default().grace_period(0)).await.map(drop)
        }
    }
}

/// Remembers what became of it: unlike an eviction, a move is not done for good.
pub fn remember(made: &Move, fate: Fate, memory: &mut Memory, uid: &str, now: Timestamp) {
    match fate {
        Fate::Done | Fate::Gone if matches!(made, Move::Abandon(_)) => {
            let until = now.saturating_add(ABANDONED_FOR).unwrap_or(now);
            memory.left_alone.insert(uid.to_owned(), (until, Reason::MigrationFailed));
        }
        Fate::Done | Fate::Gone => {}
        _ => fate.remember(memory, uid, now),
    }
}

/// By our own image, which node agents have brought to every node, and without any right.
async fn hold(client: &Client, own_pod: &str, place: &Place) -> kube::Result<()> {
    let pods = of_core("Pod");
    let own = Api::<DynamicObject>::default_namespaced_with(client.clone(), &pods).get(own_pod).await?;
    let like = Api::<DynamicObject>::namespaced_with(client.clone(), &place.like.namespace, &pods);
    let like = like.get(&place.like.name).await?;
    let pod = placeholder(place, &like.data["spec"], &own.data["spec"]).and_then(serde_json::from_value);
    let params = PostParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PostParams::default() };
    let places: Api<DynamicObject> = Api::namespaced_with(client.clone(), NAMESPACE, &pods);
    places.create(&params, &pod.map_err(kube::Error::SerdeError)?).await.map(drop)
}

/// The version in the patch makes the API server refuse when somebody else changed the taints meanwhile.
async fn taint(client: &Client, name: &str, mark: Option<&Mark>) -> kube::Result<()> {
    let nodes: Api<DynamicObject> = Api::all_with(client.clone(), &of_core("Node"));
    let node = nodes.get(name).await?;
    let mut taints = node.data["spec"]["taints"].as_array().cloned().unwrap_or_default();
    taints.retain(|taint| taint["key"] != OVER_BUDGET);
    if mark.is_some() {
        taints.push(json!({"key": OVER_BUDGET, "effect": "NoSchedule"}));
    }
    let mark = mark.map(serde_json::to_string).transpose().map_err(kube::Error::SerdeError)?;
    let patch = json!({
        "metadata": {"resourceVersion": node.metadata.resource_version, "annotations": {OVER_BUDGET: mark}},
        "spec": {"taints": taints},
    });
    let params = PatchParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PatchParams::default() };
    nodes.patch(name, &params, &Patch::Merge(&patch)).await.map(drop)
}

/// As JSON: to read these by their types would cost each binary a megabyte.
fn of_core(kind: &str) -> ApiResource {
    ApiResource::from_gvk(&GroupVersionKind::gvk("", "v1", kind))
}
