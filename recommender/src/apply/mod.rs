//! Writes a plan: server-side apply, and only what changed.
//!
//! Must hold: nothing is written after leadership ended; a write whose fate is unknown is told so, since
//! it may still arrive. Fields that somebody else owns are not taken away: the conflict is logged and
//! counted.

pub mod events;

use std::{fmt::Debug, time::Duration};

use futures::{FutureExt, StreamExt, TryFutureExt, future::Either, stream};
use k8s_openapi::api::core::v1::Node;
use kube::{
    Api, Client, Resource,
    api::{Patch, PatchParams},
};
use powercap_common::{
    api::{GROUP, NodeFrequencies, PowerCappingPolicy, PowerCappingPolicyStatus, PowerDomain},
    condition::kind,
    units::Watts,
};
use powercap_process::leader::Leadership;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::{
    decide::{NodeWrite, Plan, boot_taint::Initialized, promise::Fate},
    metrics::Metrics,
    observation::BootTaint,
};

/// Our name as a field manager.
pub const FIELD_MANAGER: &str = "powercap-recommender";
/// The API server is at its fastest with about this many writes at once.
const AT_ONCE: usize = 16;
const CALL_TIMEOUT: Duration = Duration::from_secs(3);

/// What became of the writes of a plan.
#[derive(Default)]
pub struct Outcome {
    /// What the API server answered.
    pub nodes: Vec<NodeFrequencies>,
    /// Likewise.
    pub policies: Vec<PowerCappingPolicy>,
    /// Likewise.
    pub domains: Vec<PowerDomain>,
    /// Each node that was written, with the grant in it, and what became of the write.
    pub fates: Vec<(String, Option<Watts>, Fate)>,
    /// Whether any write failed, so that the decision should be made again soon.
    pub failed: bool,
}

/// Why a write failed.
#[derive(Debug, thiserror::Error)]
pub enum ApplyError {
    /// The API server refused it.
    #[error("the API server refused the write")]
    Refused(#[source] Box<kube::Error>),
    /// It may have been carried out or not.
    #[error("the connection broke during the write")]
    Broken(#[source] Box<kube::Error>),
    /// It may be carried out yet.
    #[error("no answer within {} s", CALL_TIMEOUT.as_secs())]
    Timeout,
    /// Not sent.
    #[error("no longer leading")]
    NotLeading,
}

/// Writes to the API server.
#[derive(Clone)]
pub struct Writer {
    client: Client,
    metrics: Metrics,
}

impl Writer {
    /// A writer.
    #[must_use]
    pub fn new(client: Client, metrics: Metrics) -> Self {
        Self { client, metrics }
    }

    /// Writes the plan: first the grants and ceilings, then what people read.
    pub async fn apply(&self, plan: &Plan, leads: impl Fn() -> Option<Leadership>) -> Outcome {
        let mut outcome = Outcome::default();
        let leads = &leads;
        let nodes = stream::iter(&plan.nodes).map(|write| async move { (write, self.node(write, leads).await) });
        let mut nodes = nodes.buffer_unordered(AT_ONCE);
        while let Some((write, result)) = nodes.next().await {
            let (node, epoch) = (&write.name, write.spec.epoch);
            let fate = result.as_ref().map_or_else(ApplyError::fate, |_| Fate::Arrived);
            outcome.fates.push((node.clone(), write.spec.power_limit_watts.map(Watts::new), fate));
            match result {
                Ok(object) => {
                    let (grant, sequence) = (write.spec.power_limit_watts, epoch.sequence);
                    tracing::info!(node, grant, term = epoch.term, sequence, "wrote NodeFrequencies");
                    outcome.nodes.push(object);
                }
                Err(error) => {
                    outcome.failed = true;
                    tracing::warn!(node, error = &error as &dyn std::error::Error, "NodeFrequencies not written");
                }
            }
        }
        for initialized in &plan.initialized {
            let (node, patch) = (&initialized.node, taints_patch(initialized));
            let api: Api<Node> = Api::all(self.client.clone());
            let params = PatchParams { field_manager: Some(FIELD_MANAGER.into()), ..PatchParams::default() };
            match self.counted("Node", leads, api.patch_metadata(node, &params, &Patch::Merge(&patch))).await {
                Ok(_) => tracing::info!(node, "took the boot taint off"),
                Err(error) => {
                    outcome.failed = true;
                    tracing::warn!(node, error = &error as &dyn std::error::Error, "the boot taint stays for now");
                }
            }
        }
        self.statuses(plan, leads, &mut outcome).await;
        outcome
    }

    async fn node(
        &self,
        write: &NodeWrite,
        leads: impl Fn() -> Option<Leadership>,
    ) -> Result<NodeFrequencies, ApplyError> {
        let api: Api<NodeFrequencies> = Api::all(self.client.clone());
        let patch = node_patch(write);
        let params = PatchParams::apply(FIELD_MANAGER);
        self.counted("NodeFrequencies", leads, api.patch(&write.name, &params, &Patch::Apply(&patch))).await
    }

    async fn statuses(&self, plan: &Plan, leads: impl Fn() -> Option<Leadership>, outcome: &mut Outcome) {
        let leads = &leads;
        let policies = stream::iter(&plan.policies).map(|(id, status)| {
            let api: Api<PowerCappingPolicy> = Api::namespaced(self.client.clone(), &id.namespace);
            let status = json!(without_escalation(status));
            let write = async move { self.status(&api, "PowerCappingPolicy", &id.name, status, leads).await };
            write.map_ok(Either::Left).left_future()
        });
        let domains = stream::iter(&plan.domains).map(|(name, status)| {
            let api: Api<PowerDomain> = Api::all(self.client.clone());
            let status = json!(status);
            let write = async move { self.status(&api, "PowerDomain", name, status, leads).await };
            write.map_ok(Either::Right).right_future()
        });
        let mut results = policies.chain(domains).buffer_unordered(AT_ONCE);
        while let Some(result) = results.next().await {
            match result {
                Ok(Either::Left(object)) => outcome.policies.push(object),
                Ok(Either::Right(object)) => outcome.domains.push(object),
                Err(error) => {
                    outcome.failed = true;
                    tracing::warn!(error = &error as &dyn std::error::Error, "a status was not written");
                }
            }
        }
    }

    async fn status<K>(
        &self,
        api: &Api<K>,
        kind: &'static str,
        name: &str,
        status: Value,
        leads: impl Fn() -> Option<Leadership>,
    ) -> Result<K, ApplyError>
    where
        K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned,
    {
        let patch = json!({ "apiVersion": format!("{GROUP}/v1alpha1"), "kind": kind, "status": status });
        // Nobody else writes these fields: what stands there of another manager is of an older version of us.
        let params = PatchParams::apply(FIELD_MANAGER).force();
        self.counted(kind, leads, api.patch_status(name, &params, &Patch::Apply(&patch))).await
    }

    async fn counted<K>(
        &self,
        kind: &'static str,
        leads: impl Fn() -> Option<Leadership>,
        call: impl Future<Output = kube::Result<K>>,
    ) -> Result<K, ApplyError> {
        let result = match leads() {
            // Given up when leadership ends, if that is sooner.
            Some(leadership) => {
                let left = leadership.until.saturating_duration_since(std::time::Instant::now());
                match tokio::time::timeout(CALL_TIMEOUT.min(left), call).await {
                    Ok(answer) => answer.map_err(classified),
                    Err(_) => Err(ApplyError::Timeout),
                }
            }
            None => Err(ApplyError::NotLeading),
        };
        self.metrics.wrote(kind, result.as_ref().map_or_else(ApplyError::result, |_| "ok"));
        result
    }
}

/// A policy's status without what the escalating actuator writes there.
fn without_escalation(status: &PowerCappingPolicyStatus) -> PowerCappingPolicyStatus {
    let mut status = PowerCappingPolicyStatus { escalated: None, ..status.clone() };
    status.conditions.retain(|condition| condition.type_ != kind::ESCALATING);
    status
}

fn classified(error: kube::Error) -> ApplyError {
    match &error {
        // The API server answered; of its own errors (5xx) nobody knows how far it came.
        kube::Error::Api(status) if status.code < 500 => ApplyError::Refused(Box::new(error)),
        _ => ApplyError::Broken(Box::new(error)),
    }
}

impl ApplyError {
    fn fate(&self) -> Fate {
        match self {
            Self::Refused(_) | Self::NotLeading => Fate::Refused,
            Self::Broken(_) | Self::Timeout => Fate::Unknown,
        }
    }

    fn result(&self) -> &'static str {
        match self {
            Self::Refused(error) => match &**error {
                kube::Error::Api(status) if status.code == 409 => "conflict",
                _ => "refused",
            },
            Self::Broken(_) => "broken",
            Self::Timeout => "timeout",
            Self::NotLeading => "not_leading",
        }
    }
}

/// The node without the boot taint. A list is written as a whole: of the version that was seen alone, so
/// that no taint of anybody else is lost.
fn taints_patch(initialized: &Initialized) -> Value {
    let BootTaint { resource_version, others } = &initialized.taint;
    json!({ "metadata": { "resourceVersion": resource_version }, "spec": { "taints": others } })
}

/// The object as we apply it: exactly the fields that are ours.
fn node_patch(write: &NodeWrite) -> Value {
    let mut spec = json!(write.spec);
    if write.release_is_a_persons
        && let Some(spec) = spec.as_object_mut()
    {
        spec.remove("release");
    }
    let mut metadata = json!({
        "name": write.name,
        "ownerReferences": [{ "apiVersion": "v1", "kind": "Node", "name": write.name, "uid": write.node_uid }],
    });
    if let Some(version) = &write.resource_version {
        metadata["resourceVersion"] = json!(version);
    }
    json!({
        "apiVersion": format!("{GROUP}/v1alpha1"), "kind": "NodeFrequencies", "metadata": metadata, "spec": spec,
    })
}
