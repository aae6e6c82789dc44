//! What the machine is, and what this process may do on it.

use std::{fs, path::Path};

use powercap_kubelet::KubeletError;

use crate::{
    conformance::{
        finding::Answer,
        judge::node::privileges_of,
        measured::{Holding, Privileges},
    },
    devices::DeviceError,
};

/// What this process may do; `None` when the kernel does not say.
#[must_use]
pub fn privileges() -> Option<Privileges> {
    privileges_of(&fs::read_to_string("/proc/self/status").ok()?)
}

/// Which pods hold which devices; `None` where there is no kubelet to be asked.
pub async fn holdings(socket: &Path) -> Option<Answer<Vec<Holding>>> {
    if !socket.exists() {
        return None;
    }
    let answer = powercap_kubelet::pod_resources(socket).await;
    let failed = |error: KubeletError| DeviceError::Failed { action: "ask the kubelet", why: error.to_string() };
    Some(answer.map_err(failed).map(|answer| {
        let mut holdings = Vec::new();
        for pod in answer.pod_resources {
            let devices = pod.containers.into_iter().flat_map(|container| container.devices);
            for id in devices.flat_map(|devices| devices.device_ids) {
                holdings.push(Holding { id, pod: format!("{}/{}", pod.namespace, pod.name) });
            }
        }
        holdings
    }))
}

/// The kernel's release.
#[must_use]
pub fn kernel() -> String {
    fs::read_to_string("/proc/sys/kernel/osrelease")
        .map_or_else(|_| "unknown".to_owned(), |text| text.trim().to_owned())
}

/// The processor's name.
#[must_use]
pub fn processor() -> String {
    let text = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = text.lines().find_map(|line| line.strip_prefix("model name")).and_then(|line| line.split_once(':'));
    model.map_or_else(|| "unknown".to_owned(), |(_, name)| name.trim().to_owned())
}
