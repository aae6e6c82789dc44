//! Which pod holds which board, from the kubelet's PodResources v1.
//!
//! What must hold: a failed look keeps the last known owners (an exporter that loses its socket does
//! not forget at once), and says so in the log.

use std::collections::BTreeMap;
use std::path::PathBuf;

use super::device_plugin::{MIG_RESOURCE, RESOURCE};
use super::messages::{ListPodResourcesRequest, ListPodResourcesResponse};
use super::{KubeletError, call};

/// Where the kubelet serves it.
pub const SOCKET: &str = "/var/lib/kubelet/pod-resources/kubelet.sock";
const LIST: &str = "/v1.PodResourcesLister/List";

/// A container that holds a board.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Owner {
    /// Namespace of its pod.
    pub namespace: String,
    /// Its pod.
    pub pod: String,
    /// Its name.
    pub container: String,
}

/// The owners of boards, looked up again and again.
#[derive(Debug)]
pub struct Owners {
    socket: PathBuf,
    by_uuid: BTreeMap<String, Owner>,
    pods: Vec<Owner>,
    failing: bool,
}

impl Owners {
    /// None known yet.
    #[must_use]
    pub fn new(socket: PathBuf) -> Self {
        Self { socket, by_uuid: BTreeMap::new(), pods: Vec::new(), failing: false }
    }

    /// Asks the kubelet.
    pub async fn refresh(&mut self) {
        match list(&self.socket).await {
            Ok(answer) => {
                (self.by_uuid, self.pods) = owners(&answer);
                if self.failing {
                    tracing::info!(socket = %self.socket.display(), "pod resources are read again");
                }
                self.failing = false;
            }
            Err(error) => {
                if !self.failing {
                    tracing::warn!(error = %Chain(&error), "pod resources cannot be read: keeping the last known owners");
                }
                self.failing = true;
            }
        }
    }

    /// Who holds a board.
    #[must_use]
    pub fn of(&self, uuid: &str) -> Option<&Owner> {
        self.by_uuid.get(uuid)
    }

    /// Whether a container holds any board.
    #[must_use]
    pub fn holds(&self, owner: &Owner) -> bool {
        self.by_uuid.values().any(|holder| holder == owner)
    }

    /// All containers of the node.
    #[must_use]
    pub fn containers(&self) -> &[Owner] {
        &self.pods
    }
}

struct Chain<'a>(&'a dyn std::error::Error);

impl std::fmt::Display for Chain<'_> {
    fn fmt(&self, to: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(to, "{}", self.0)?;
        let mut source = self.0.source();
        while let Some(error) = source {
            write!(to, ": {error}")?;
            source = error.source();
        }
        Ok(())
    }
}

async fn list(socket: &std::path::Path) -> Result<ListPodResourcesResponse, KubeletError> {
    call(socket, LIST, ListPodResourcesRequest {}).await
}

fn is_ours(resource: &str) -> bool {
    resource == RESOURCE || resource.starts_with(MIG_RESOURCE)
}

fn owners(answer: &ListPodResourcesResponse) -> (BTreeMap<String, Owner>, Vec<Owner>) {
    let (mut by_uuid, mut all) = (BTreeMap::new(), Vec::new());
    for pod in &answer.pod_resources {
        for container in &pod.containers {
            let owner =
                Owner { namespace: pod.namespace.clone(), pod: pod.name.clone(), container: container.name.clone() };
            for devices in container.devices.iter().filter(|devices| is_ours(&devices.resource_name)) {
                by_uuid.extend(devices.device_ids.iter().map(|uuid| (uuid.clone(), owner.clone())));
            }
            all.push(owner);
        }
    }
    all.sort();
    (by_uuid, all)
}
