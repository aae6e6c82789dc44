//! What the rest of the cluster makes of the watts: a pod that came late, as admission and the scheduler treat it,
//! the alerts that people see, and the replicas that a workload has.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result};
use k8s_openapi::api::{
    apps::v1::Deployment,
    core::v1::{Node, Pod, PodCondition},
};
use kube::{Api, Client, ResourceExt, api::ListParams};
use serde::Deserialize;

use crate::{ladder::Serving, watch::Change};

/// The namespace and the name of the pod that comes late.
pub(crate) const LATE: &str = "evaluation";
/// Where places are held for pods that move, and what a node bears that they leave.
const PLACES: &str = "powercap-places";
const OVER_BUDGET: &str = "powercapping.io/over-budget";
const WATTS: &str = "powercapping.io/watts";
/// Where admission says what it set, and why.
const TOLD: &str = "powercapping.io/admission";
/// Alertmanager, through the API server.
const ALERTS: &str = "/api/v1/namespaces/monitoring/services/alertmanager:http/proxy/api/v2/alerts?active=true";
/// It always fires.
const DEAD_MANS_SWITCH: &str = "PowercapDeadMansSwitch";

/// All of it at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Surroundings {
    pub(crate) late: Option<LatePod>,
    /// Names of the alerts that fire, each with whom it is about.
    pub(crate) alerts: BTreeSet<String>,
    /// As many as the inference should have.
    pub(crate) replicas: Option<u32>,
    /// Its pods that are ready and stay.
    pub(crate) serving: Serving,
    /// Placeholders, each with the node that it holds a place on.
    pub(crate) places: BTreeMap<String, String>,
    /// Nodes that bear our taint.
    pub(crate) tainted: BTreeSet<String>,
}

/// The pod that comes late.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct LatePod {
    /// What it requests, and why.
    pub(crate) watts: Option<(String, String)>,
    /// Why it has no node.
    pub(crate) waits: Option<String>,
    pub(crate) node: Option<String>,
}

/// Looks at it. Where Alertmanager does not answer its alerts stay as they were.
pub(crate) async fn look(client: &Client, before: &Surroundings) -> Result<Surroundings> {
    let pods = Api::<Pod>::namespaced(client.clone(), LATE);
    let late = pods.get_opt(LATE).await.context("look for the evaluation's pod")?;
    let alerts = alerts(client).await.unwrap_or_else(|| before.alerts.clone());
    let deployments = Api::<Deployment>::namespaced(client.clone(), "demo");
    let inference = deployments.get_opt("inference").await.context("look for the inference")?;
    let replicas = inference.and_then(|inference| u32::try_from(inference.spec?.replicas?).ok());
    let of_inference = ListParams::default().labels("app=inference");
    let pods = Api::<Pod>::namespaced(client.clone(), "demo").list(&of_inference).await;
    let pods = pods.context("list the inference's pods")?;
    let serving = pods.items.iter().filter(|pod| is_ready(pod)).filter_map(placed).collect();
    let places = Api::<Pod>::namespaced(client.clone(), PLACES).list(&ListParams::default()).await;
    let places = places.context("list placeholders")?.items.iter().filter_map(placed).collect();
    let nodes = Api::<Node>::all(client.clone()).list(&ListParams::default()).await.context("list nodes")?;
    let tainted = nodes.items.iter().filter(|node| is_tainted(node)).map(ResourceExt::name_any).collect();
    Ok(Surroundings { late: late.as_ref().map(LatePod::of), alerts, replicas, serving, places, tainted })
}

/// A pod and its node, once it has one.
fn placed(pod: &Pod) -> Option<(String, String)> {
    Some((pod.name_any(), pod.spec.as_ref()?.node_name.clone()?))
}

fn is_ready(pod: &Pod) -> bool {
    let conditions = pod.status.iter().flat_map(|status| status.conditions.iter().flatten());
    let ready = conditions.into_iter().any(|of| of.type_ == "Ready" && of.status == "True");
    ready && pod.metadata.deletion_timestamp.is_none()
}

fn is_tainted(node: &Node) -> bool {
    node.spec.iter().flat_map(|spec| spec.taints.iter().flatten()).any(|taint| taint.key == OVER_BUDGET)
}

#[derive(Deserialize)]
struct Alert {
    labels: Labels,
}

#[derive(Deserialize)]
struct Labels {
    alertname: String,
    domain: Option<String>,
    namespace: Option<String>,
    policy: Option<String>,
    node: Option<String>,
}

async fn alerts(client: &Client) -> Option<BTreeSet<String>> {
    let request = http::Request::get(ALERTS).body(Vec::new()).ok()?;
    let alerts: Vec<Alert> = client.request(request).await.ok()?;
    let named = alerts.into_iter().filter(|alert| alert.labels.alertname.starts_with("Power"));
    let told = named.filter(|alert| alert.labels.alertname != DEAD_MANS_SWITCH).map(|Alert { labels }| {
        let about = [labels.domain, labels.namespace, labels.policy, labels.node];
        let about: Vec<_> = about.into_iter().flatten().collect();
        format!("{} ({})", labels.alertname, about.join("/"))
    });
    Some(told.collect())
}

impl LatePod {
    fn of(pod: &Pod) -> Self {
        let spec = pod.spec.as_ref();
        let containers = spec.map(|spec| spec.containers.as_slice()).unwrap_or_default();
        let requested = containers.iter().find_map(|one| one.resources.as_ref()?.requests.as_ref()?.get(WATTS));
        let reason = || {
            let told: serde_json::Value = serde_json::from_str(pod.annotations().get(TOLD)?).ok()?;
            told["changes"][0]["reason"].as_str().map(str::to_owned)
        };
        let conditions = pod.status.as_ref().and_then(|status| status.conditions.as_deref()).unwrap_or_default();
        let unplaced = |of: &&PodCondition| of.type_ == "PodScheduled" && of.status != "True";
        Self {
            watts: requested.map(|watts| (watts.0.clone(), reason().unwrap_or_default())),
            waits: conditions.iter().find(unplaced).and_then(|condition| condition.message.clone()),
            node: spec.and_then(|spec| spec.node_name.clone()),
        }
    }
}

/// What is different in `after`, in words.
pub(crate) fn changes(before: &Surroundings, after: &Surroundings) -> Vec<Change> {
    let mut changes = Vec::new();
    let mut say = |object: &str, what: String, reason: &str| {
        changes.push(Change { object: object.to_owned(), what, reason: reason.to_owned() });
    };
    if let Some(late) = &after.late {
        let was = before.late.clone().unwrap_or_default();
        let object = format!("pod {LATE}");
        if let Some((watts, reason)) = late.watts.as_ref().filter(|_| was.watts.is_none()) {
            say(&object, format!("requests {watts} W, set by admission"), reason);
        }
        if let Some(why) = late.waits.as_ref().filter(|why| was.waits.as_ref() != Some(why)) {
            say(&object, "waits".to_owned(), why);
        }
        if let Some(node) = late.node.as_ref().filter(|_| was.node.is_none()) {
            say(&object, format!("is placed on {node}"), "the scheduler found its watts");
        }
    }
    if let (Some(was), Some(is)) = (before.replicas, after.replicas.filter(|_| after.replicas != before.replicas)) {
        say("Deployment inference", format!("{was} → {is} replicas"), "as somebody scaled it");
    }
    for (place, node) in after.places.iter().filter(|(place, _)| !before.places.contains_key(*place)) {
        say("scheduler", format!("{place} holds a place on {node}"), "a pod is to move there");
    }
    for node in after.tainted.difference(&before.tainted) {
        say(&format!("node {node}"), format!("is tainted {OVER_BUDGET}"), "it draws too much to be given pods");
    }
    for (pod, node) in before.serving.iter().filter(|(pod, _)| !after.serving.contains_key(*pod)) {
        say(&format!("pod {pod}"), format!("leaves {node}"), "deleted or evicted");
    }
    // Where nobody served, all are new.
    let new = after.serving.iter().filter(|(pod, _)| !before.serving.is_empty() && !before.serving.contains_key(*pod));
    for (pod, node) in new {
        say(&format!("pod {pod}"), format!("is ready on {node}"), "made anew by its controller");
    }
    for node in before.tainted.difference(&after.tainted) {
        say(&format!("node {node}"), format!("is no longer tainted {OVER_BUDGET}"), "it takes pods again");
    }
    for alert in after.alerts.difference(&before.alerts) {
        say("Alertmanager", format!("{alert} fires"), "told by admission");
    }
    for alert in before.alerts.difference(&after.alerts) {
        say("Alertmanager", format!("{alert} is resolved"), "told by admission");
    }
    changes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_late_pod_is_followed_from_admission_to_its_node_and_an_alert_to_its_end() {
        let mut pod = LatePod { watts: Some(("700".into(), "RequestAbsent".into())), ..LatePod::default() };
        pod.waits = Some("0/2 nodes are available: 2 Insufficient powercapping.io/watts.".into());
        let nothing = Surroundings::default();
        let alerts = BTreeSet::from(["PowerDomainBraked (rack)".into()]);
        let waiting = Surroundings { late: Some(pod.clone()), alerts, replicas: Some(8), ..nothing.clone() };
        pod.node = Some("n2".into());
        pod.waits = None;
        let placed = Surroundings { late: Some(pod), replicas: Some(6), ..nothing.clone() };
        let told =
            |before: &Surroundings, after: &Surroundings| changes(before, after).into_iter().map(|change| change.what);
        let told: Vec<_> = told(&nothing, &waiting).chain(told(&waiting, &placed)).collect();
        assert_eq!(
            told,
            [
                "requests 700 W, set by admission",
                "waits",
                "PowerDomainBraked (rack) fires",
                "is placed on n2",
                "8 → 6 replicas",
                "PowerDomainBraked (rack) is resolved"
            ]
        );
        assert!(changes(&placed, &placed).is_empty());
    }
}
