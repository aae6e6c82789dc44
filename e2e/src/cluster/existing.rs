//! Which cluster a test may touch. Tests and demo cap, evict and delete: so it is the one that
//! `cluster run` made, or another only when `CLUSTER=existing` says so, and never an ambient
//! KUBECONFIG by itself.

use std::io::Write;
use std::path::{Path, PathBuf};

use kube::Config;
use kube::config::{InferConfigError, KubeConfigOptions, Kubeconfig, KubeconfigError};

use super::files::{FileError, error};

/// Set by `cluster run` to the run's directory.
pub const CLUSTER_DIR: &str = "POWERCAP_CLUSTER_DIR";
/// `existing` to use the ambient context.
pub const CLUSTER: &str = "CLUSTER";

/// The folders of the nodes' simulated hardware, in the order of the nodes' names. The cluster that
/// `cluster run` made alone has any.
///
/// # Errors
/// When this does not run under `cluster run`.
pub fn hardware_folders() -> Result<Vec<PathBuf>, Error> {
    let directory = std::env::var_os(CLUSTER_DIR).ok_or(Error::NoHardware)?;
    let nodes = Path::new(&directory).join("nodes");
    let entries = std::fs::read_dir(&nodes).map_err(error("list", &nodes))?;
    let mut folders: Vec<_> = entries.flatten().map(|entry| entry.path().join("hardware")).collect();
    folders.sort();
    Ok(folders)
}

/// Why there is no cluster to use.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Nobody asked for one.
    #[error(
        "no cluster: run this under `cargo run -p powercap-e2e --bin cluster -- run -- CMD`, or set \
         CLUSTER=existing to use the cluster of the current kubeconfig context (these tests cap and evict there)"
    )]
    None,
    /// Simulated boards are wanted.
    #[error("no simulated boards: they are in the cluster that `cluster run` makes, in no other; run this under it")]
    NoHardware,
    /// Its files cannot be read.
    #[error(transparent)]
    File(#[from] FileError),
    /// `CLUSTER` has a value without meaning.
    #[error("CLUSTER={0:?} means nothing; the one value is `existing`")]
    Unknown(String),
    /// The kubeconfig of `cluster run` is not usable.
    #[error("use the kubeconfig {path}")]
    Kubeconfig {
        /// The kubeconfig.
        path: PathBuf,
        /// Why.
        #[source]
        source: KubeconfigError,
    },
    /// The ambient context is not usable.
    #[error("use the current kubeconfig context, as CLUSTER=existing asks for")]
    Ambient(#[source] Box<InferConfigError>),
}

/// Which cluster was chosen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Choice {
    /// The one of `cluster run`, with its directory.
    OwnRun(PathBuf),
    /// The one of the ambient context.
    Existing,
}

/// Chooses from the values of `CLUSTER` and [`CLUSTER_DIR`].
///
/// # Errors
/// When neither chooses one.
pub fn choose(cluster: Option<&str>, own_run: Option<&str>) -> Result<Choice, Error> {
    match (cluster, own_run) {
        (Some("existing"), _) => Ok(Choice::Existing),
        (Some(other), _) if !other.is_empty() => Err(Error::Unknown(other.into())),
        (_, Some(directory)) if !directory.is_empty() => Ok(Choice::OwnRun(directory.into())),
        _ => Err(Error::None),
    }
}

/// The configuration of the cluster that may be touched. An existing one's context is shown first, on
/// standard error.
///
/// # Errors
/// When none was chosen or the chosen one's kubeconfig is not usable.
pub async fn config() -> Result<Config, Error> {
    let variable = |name| std::env::var(name).ok();
    match choose(variable(CLUSTER).as_deref(), variable(CLUSTER_DIR).as_deref())? {
        Choice::OwnRun(directory) => own(&directory.join("kubeconfig")).await,
        Choice::Existing => {
            let config = Config::infer().await.map_err(|source| Error::Ambient(Box::new(source)))?;
            let context = Kubeconfig::read()
                .ok()
                .and_then(|kubeconfig| kubeconfig.current_context)
                .unwrap_or_else(|| "of the service account".into());
            let mut out = std::io::stderr().lock();
            let _unseen = writeln!(out, "CLUSTER=existing: context {context}, {}", config.cluster_url);
            Ok(config)
        }
    }
}

async fn own(path: &Path) -> Result<Config, Error> {
    let unusable = |source| Error::Kubeconfig { path: path.into(), source };
    let kubeconfig = Kubeconfig::read_from(path).map_err(unusable)?;
    Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await.map_err(unusable)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_ambient_cluster_is_never_chosen_by_itself() {
        assert!(matches!(choose(None, None), Err(Error::None)));
        assert!(matches!(choose(Some(""), Some("")), Err(Error::None)));
        assert!(matches!(choose(Some("yes"), Some("/x")), Err(Error::Unknown(_))));
        assert_eq!(choose(None, Some("/x")).unwrap(), Choice::OwnRun("/x".into()));
        assert_eq!(choose(Some("existing"), Some("/x")).unwrap(), Choice::Existing);
    }
}
