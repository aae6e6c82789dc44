//! Whether somebody wants the boards for themselves, by what this node's Node says: while any program
//! has NVML open, a driver cannot be unloaded, nor a board be reset or split.
//!
//! What must hold: an API server that is away changes nothing; a Node that vanishes changes nothing.

use std::{collections::BTreeMap, time::Duration};

use futures::StreamExt;
use k8s_openapi::api::core::v1::Node;
use kube::{
    Api, Client, ResourceExt,
    core::PartialObjectMeta,
    runtime::{
        WatchStreamExt,
        watcher::{self, Event},
    },
};

use super::Devices;

/// By annotation or label, set by a person.
const BY_A_PERSON: &str = "powercapping.io/release-devices";
/// By the GPU operator's upgrade controller, while it empties the node of the driver's users and
/// replaces the driver. Before these states nothing is done yet; after them the new driver is there.
const DRIVER_UPGRADE: &str = "nvidia.com/gpu-driver-upgrade-state";
const UPGRADING: [&str; 5] = [
    "pod-deletion-required",
    "drain-required",
    "node-maintenance-required",
    "post-maintenance-required",
    "pod-restart-required",
];
/// By NVIDIA's MIG manager, while it splits or joins boards.
const MIG: &str = "nvidia.com/mig.config.state";
const SPLITTING: [&str; 2] = ["pending", "rebooting"];

/// A watch ends and begins anew at least this often, so that a black-holed one is noticed.
const WATCH_SECONDS: u32 = 30;

/// Whether the boards are ours to hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum DevicesWanted {
    /// They are.
    #[default]
    Wanted,
    /// Somebody else needs them: what the Node says.
    LetGo(String),
}

impl DevicesWanted {
    /// What a Node with these labels and annotations asks for.
    #[must_use]
    pub fn of(labels: &BTreeMap<String, String>, annotations: &BTreeMap<String, String>) -> Self {
        let says = |key: &str, among: &[&str]| {
            let values = labels.get(key).into_iter().chain(annotations.get(key).filter(|_| key == BY_A_PERSON));
            values.map(String::as_str).find(|value| among.contains(value)).map(|value| format!("{key}={value}"))
        };
        let why =
            says(BY_A_PERSON, &["true"]).or_else(|| says(DRIVER_UPGRADE, &UPGRADING)).or_else(|| says(MIG, &SPLITTING));
        why.map_or(Self::Wanted, Self::LetGo)
    }
}

/// Watches this node's Node for ever, and tells the devices.
pub async fn watch(client: Client, node: String, devices: Devices) {
    let api: Api<PartialObjectMeta<Node>> = Api::all(client);
    let config = watcher::Config::default().fields(&format!("metadata.name={node}")).timeout(WATCH_SECONDS);
    let mut events = std::pin::pin!(kube::runtime::watcher(api, config).default_backoff());
    let mut last = DevicesWanted::default();
    while let Some(event) = events.next().await {
        match event {
            Ok(Event::InitApply(node) | Event::Apply(node)) => {
                let wanted = DevicesWanted::of(node.labels(), node.annotations());
                if wanted != last {
                    devices.want(wanted.clone());
                    last = wanted;
                }
            }
            Ok(Event::Init | Event::InitDone | Event::Delete(_)) => {}
            Err(error) => tracing::warn!(%error, "this Node cannot be watched; the boards stay as they are"),
        }
    }
    tracing::error!("the watch of this Node ended");
    tokio::time::sleep(Duration::from_secs(u64::MAX / 4)).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(entry: Option<(&str, &str)>) -> BTreeMap<String, String> {
        entry.into_iter().map(|(key, value)| (key.to_owned(), value.to_owned())).collect()
    }

    #[test]
    fn boards_are_let_go_while_a_person_a_driver_upgrade_or_mig_needs_them() {
        for (key, value, lets_go) in [
            (BY_A_PERSON, "true", true),
            (BY_A_PERSON, "false", false),
            (DRIVER_UPGRADE, "upgrade-required", false),
            (DRIVER_UPGRADE, "cordon-required", false),
            (DRIVER_UPGRADE, "wait-for-jobs-required", false),
            (DRIVER_UPGRADE, "pod-deletion-required", true),
            (DRIVER_UPGRADE, "drain-required", true),
            (DRIVER_UPGRADE, "pod-restart-required", true),
            (DRIVER_UPGRADE, "validation-required", false),
            (DRIVER_UPGRADE, "upgrade-done", false),
            (DRIVER_UPGRADE, "upgrade-failed", false),
            (MIG, "pending", true),
            (MIG, "rebooting", true),
            (MIG, "success", false),
            (MIG, "failed", false),
            ("example.com/other", "true", false),
        ] {
            let wanted = DevicesWanted::of(&map(Some((key, value))), &map(None));
            assert_eq!(wanted != DevicesWanted::Wanted, lets_go, "{key}={value}: {wanted:?}");
        }
        let annotated = DevicesWanted::of(&map(None), &map(Some((BY_A_PERSON, "true"))));
        assert_eq!(annotated, DevicesWanted::LetGo("powercapping.io/release-devices=true".to_owned()));
        let operators_words = DevicesWanted::of(&map(None), &map(Some((MIG, "pending"))));
        assert_eq!(operators_words, DevicesWanted::Wanted, "the operator speaks by labels");
    }
}
