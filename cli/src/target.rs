//! The cluster that is meant: as kubectl finds it, and said before anything is changed there.

use std::time::Duration;

use kube::{
    Client, Config,
    config::{KubeConfigOptions, Kubeconfig, KubeconfigError},
};

use crate::flags::TargetFlags;

/// There is no cluster to talk to.
#[derive(Debug, thiserror::Error)]
pub enum TargetError {
    /// The file named by a flag.
    #[error("cannot read the kubeconfig {path}; name another one with --kubeconfig")]
    ReadFile {
        /// Which file.
        path: String,
        /// Why.
        #[source]
        source: Box<KubeconfigError>,
    },
    /// KUBECONFIG or ~/.kube/config.
    #[error("cannot read a kubeconfig from KUBECONFIG or ~/.kube/config; name one with --kubeconfig")]
    ReadDefault(#[source] Box<KubeconfigError>),
    /// The context.
    #[error("cannot use the context {context:?}; `kubectl config get-contexts` lists what there is")]
    UseContext {
        /// Its name.
        context: String,
        /// Why.
        #[source]
        source: Box<KubeconfigError>,
    },
    /// The client.
    #[error("cannot make a client for {server}")]
    MakeClient {
        /// The API server.
        server: String,
        /// Why.
        #[source]
        source: Box<kube::Error>,
    },
}

/// A cluster.
pub struct Target {
    /// Talks to it.
    pub client: Client,
    /// Its context's name.
    pub context: String,
    /// Its API server's address.
    pub server: String,
}

impl Target {
    /// The cluster of the flags.
    ///
    /// # Errors
    /// When there is no usable kubeconfig or context.
    pub async fn find(flags: &TargetFlags) -> Result<Self, TargetError> {
        let kubeconfig = match &flags.kubeconfig {
            Some(path) => Kubeconfig::read_from(path).map_err(|source| TargetError::ReadFile {
                path: path.display().to_string(),
                source: Box::new(source),
            })?,
            None => Kubeconfig::read().map_err(|source| TargetError::ReadDefault(Box::new(source)))?,
        };
        let context = flags.context.clone().or_else(|| kubeconfig.current_context.clone()).unwrap_or_default();
        let options = KubeConfigOptions { context: Some(context.clone()), ..KubeConfigOptions::default() };
        let mut config = Config::from_custom_kubeconfig(kubeconfig, &options)
            .await
            .map_err(|source| TargetError::UseContext { context: context.clone(), source: Box::new(source) })?;
        config.connect_timeout = Some(Duration::from_secs(5));
        config.read_timeout = Some(Duration::from_secs(20));
        // A person waits: an error is told, not repeated for minutes.
        config.default_retry = false;
        let server = config.cluster_url.to_string();
        let client = Client::try_from(config)
            .map_err(|source| TargetError::MakeClient { server: server.clone(), source: Box::new(source) })?;
        Ok(Self { client, context, server })
    }
}
