//! What the machine is, and what this process may do on it.

use std::{fs, os::unix::net::UnixStream, path::Path};

use crate::conformance::{finding::Judgement, judge::node::privileges_of, measured::Privileges};

/// What this process may do; `None` when the kernel does not say.
#[must_use]
pub fn privileges() -> Option<Privileges> {
    privileges_of(&fs::read_to_string("/proc/self/status").ok()?)
}

/// Whether the kubelet's socket takes a connection.
#[must_use]
pub fn pod_resources(socket: &Path) -> Judgement {
    if !socket.exists() {
        let place = socket.display();
        return Judgement::skipped(format!("no {place}: not a node of Kubernetes, or not mounted into this container"));
    }
    match UnixStream::connect(socket) {
        Ok(_) => Judgement::pass(),
        Err(error) => Judgement::fail(format!("{}: {error}", socket.display())),
    }
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
