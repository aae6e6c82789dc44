//! Gathering what explains a failure, before the cluster goes: the daemons' and pods' logs, and what
//! the API server knows.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::process::Command;
use tokio::time;

use super::layout::ClusterSpec;

/// Why logs could not be gathered.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file could not be copied.
    #[error("keep logs in {path}")]
    Keep {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
}

/// What is asked of the API server: a file name, then kubectl's arguments.
const QUESTIONS: [(&str, &[&str]); 4] = [
    ("pods.txt", &["get", "pods", "-A", "-o", "wide"]),
    ("pods-described.txt", &["describe", "pods", "-A"]),
    ("nodes-described.txt", &["describe", "nodes"]),
    ("events.txt", &["get", "events", "-A", "--sort-by=.lastTimestamp"]),
];

/// Copies logs of daemons and pods to `target` and asks the API server, if it still answers, 10 s a
/// question at most. Logs of an earlier run in `target` are replaced, other files stay.
///
/// # Errors
/// When a file cannot be copied; an API server that does not answer is not an error.
pub async fn gather(spec: &ClusterSpec, target: &Path) -> Result<(), Error> {
    if target.join("cluster.log").exists() {
        std::fs::remove_dir_all(target).map_err(keep(target))?;
    }
    copy(&spec.layout.logs(), target)?;
    for node in &spec.nodes {
        let pods = spec.layout.node(&node.name).log().join("pods");
        if pods.exists() {
            copy(&pods, &target.join("pods").join(&node.name))?;
        }
    }
    for (name, question) in QUESTIONS {
        let path = target.join(name);
        let file = File::create(&path).map_err(keep(&path))?;
        let answer = Command::new(spec.layout.bin().join("kubectl"))
            .env("KUBECONFIG", spec.layout.kubeconfig())
            .arg("--request-timeout=5s")
            .args(question)
            .stderr(file.try_clone().map_err(keep(&path))?)
            .stdout(file)
            .kill_on_drop(true)
            .status();
        let _silent = time::timeout(Duration::from_secs(10), answer).await;
    }
    Ok(())
}

fn copy(from: &Path, to: &Path) -> Result<(), Error> {
    std::fs::create_dir_all(to).map_err(keep(to))?;
    for entry in std::fs::read_dir(from).map_err(keep(from))?.flatten() {
        let (path, target) = (entry.path(), to.join(entry.file_name()));
        match entry.file_type() {
            Ok(kind) if kind.is_dir() => copy(&path, &target)?,
            Ok(kind) if kind.is_file() => {
                std::fs::copy(&path, &target).map_err(keep(&target))?;
            }
            _ => {}
        }
    }
    Ok(())
}

fn keep(path: &Path) -> impl FnOnce(std::io::Error) -> Error {
    let path = path.to_path_buf();
    move |source| Error::Keep { path, source }
}
