//! Caches of our own kinds, which reviews, judgements and alerts share.

use std::sync::Arc;

use kube::{
    Api, Client,
    runtime::reflector::{Store, store::WriterDropped},
};
use powercap_common::api::{
    DeviceState, Escalated, NodeFrequencies, PowerCappingPolicy, PowerCappingPolicyStatus, PowerDomain,
};
use powercap_process::kubernetes::reflect;
use tokio::{sync::Notify, task::JoinSet};

use super::objects::{digest, slim_metadata, uid, version};

/// The caches; clones share them.
#[derive(Clone)]
pub struct Watched {
    /// Every policy.
    pub policies: Store<PowerCappingPolicy>,
    /// Every domain.
    pub domains: Store<PowerDomain>,
    /// What holds on each node.
    pub nodes: Store<NodeFrequencies>,
}

impl Watched {
    /// Starts the watches in `tasks`; `changed` is notified of what a review's answer may depend on.
    pub(super) fn start(client: &Client, changed: &Arc<Notify>, tasks: &mut JoinSet<()>) -> Self {
        let pages = super::in_pages;
        Self {
            policies: reflect(Api::all(client.clone()), pages(), slim_policy, version, changed, tasks),
            domains: reflect(Api::all(client.clone()), pages(), slim_metadata, uid, changed, tasks),
            nodes: reflect(Api::all(client.clone()), pages(), slim_node, boards, changed, tasks),
        }
    }

    /// Completes when every cache has its first list.
    ///
    /// # Errors
    /// When one ended before.
    pub async fn synced(&self) -> Result<(), WriterDropped> {
        self.policies.wait_until_ready().await?;
        self.domains.wait_until_ready().await?;
        self.nodes.wait_until_ready().await
    }
}

/// Whether nothing can be set on a device, so that it counts with the most that it can draw.
#[must_use]
pub fn is_lost(state: DeviceState) -> bool {
    matches!(state, DeviceState::Failed | DeviceState::Quarantined)
}

/// Lists of pods and containers are for others.
fn slim_policy(object: &mut PowerCappingPolicy) {
    slim_metadata(object);
    object.status = object.status.take().map(|status| PowerCappingPolicyStatus {
        capped: Vec::new(),
        violators: Vec::new(),
        watts_stale: Vec::new(),
        pending_actions: Vec::new(),
        escalated: status
            .escalated
            .map(|escalated| Escalated { migration: escalated.migration, ..Escalated::default() }),
        ..status
    });
}

/// A node's ceilings concern its agent, and of hundreds of CPUs those alone that failed concern anybody else.
fn slim_node(object: &mut NodeFrequencies) {
    slim_metadata(object);
    object.spec.gpu_frequencies = Vec::new();
    object.spec.cpu_frequencies = Vec::new();
    if let Some(status) = &mut object.status {
        status.cpus.retain(|cpu| is_lost(cpu.state));
    }
}

/// What a node's boards can draw and what it offers; its power, which changes all the time, no review asks for.
fn boards(object: &NodeFrequencies) -> u64 {
    let boards = object.status.iter().flat_map(|status| &status.gpus);
    let limits: Vec<_> = boards.map(|board| board.max_power_limit_watts).collect();
    digest((&object.metadata.uid, object.spec.offer_watts, limits))
}
