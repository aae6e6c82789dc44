//! A node's kubelet, asked over its gRPC sockets: which pods hold which devices.
//!
//! The node agent asks it whose boards it slows; the simulator's exporters ask it for their labels.
//!
//! What must hold: no call waits for ever, and each makes its own connection, since a kubelet makes its
//! sockets anew at each start.
#![forbid(unsafe_code)]

pub mod messages;

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use hyper_util::rt::TokioIo;
use prost::Message;
use tonic::{
    codegen::http::uri::PathAndQuery,
    transport::{Channel, Endpoint, Uri},
};
use tonic_prost::ProstCodec;

use messages::{ListPodResourcesRequest, ListPodResourcesResponse};

/// Where a kubelet serves PodResources.
pub const POD_RESOURCES_SOCKET: &str = "/var/lib/kubelet/pod-resources/kubelet.sock";
const LIST: &str = "/v1.PodResourcesLister/List";

const CALL_TIMEOUT: Duration = Duration::from_secs(5);
/// The most that the kubelet's own client takes; tonic's default of 4 MiB is less.
const LARGEST_ANSWER_BYTES: usize = 16 << 20;

/// Talking to the kubelet failed.
#[derive(Debug, thiserror::Error)]
pub enum KubeletError {
    /// Nobody listens on its socket.
    #[error("connect to the kubelet at {socket}: {}", Causes(source))]
    Connect {
        /// Which socket.
        socket: PathBuf,
        /// Why.
        #[source]
        source: tonic::transport::Error,
    },
    /// It refused.
    #[error("call {call} of the kubelet: {}", source.message())]
    Call {
        /// Which method.
        call: &'static str,
        /// Why.
        #[source]
        source: Box<tonic::Status>,
    },
    /// It accepted the connection and did not answer.
    #[error("call {call} of the kubelet: no answer within 5 s")]
    TimedOut {
        /// Which method.
        call: &'static str,
    },
}

/// The devices of every pod on the node, by PodResources v1.
///
/// # Errors
/// When nobody listens, or the kubelet refuses or does not answer within 5 s.
pub async fn pod_resources(socket: &Path) -> Result<ListPodResourcesResponse, KubeletError> {
    call(socket, LIST, ListPodResourcesRequest {}).await
}

/// Calls one method on a unix socket.
///
/// # Errors
/// When nobody listens, or the kubelet refuses or does not answer within 5 s.
pub async fn call<Q, A>(socket: &Path, method: &'static str, request: Q) -> Result<A, KubeletError>
where
    Q: Message + Send + Sync + 'static,
    A: Message + Default + Send + Sync + 'static,
{
    let answer = tokio::time::timeout(CALL_TIMEOUT, ask(socket, method, request)).await;
    answer.unwrap_or(Err(KubeletError::TimedOut { call: method }))
}

async fn ask<Q, A>(socket: &Path, method: &'static str, request: Q) -> Result<A, KubeletError>
where
    Q: Message + Send + Sync + 'static,
    A: Message + Default + Send + Sync + 'static,
{
    let channel =
        connect(socket).await.map_err(|source| KubeletError::Connect { socket: socket.to_owned(), source })?;
    let failed = |source| KubeletError::Call { call: method, source: Box::new(source) };
    let mut client = tonic::client::Grpc::new(channel).max_decoding_message_size(LARGEST_ANSWER_BYTES);
    client.ready().await.map_err(|error| failed(tonic::Status::from_error(error.into())))?;
    let codec = ProstCodec::<Q, A>::default();
    let answer = client.unary(tonic::Request::new(request), PathAndQuery::from_static(method), codec).await;
    Ok(answer.map_err(failed)?.into_inner())
}

async fn connect(socket: &Path) -> Result<Channel, tonic::transport::Error> {
    let socket = socket.to_owned();
    Endpoint::from_static("http://localhost")
        .connect_with_connector(tower::service_fn(move |_: Uri| {
            let socket = socket.clone();
            async move { tokio::net::UnixStream::connect(socket).await.map(TokioIo::new) }
        }))
        .await
}

/// What lies beneath an error that says little itself.
struct Causes<'a>(&'a dyn std::error::Error);

impl std::fmt::Display for Causes<'_> {
    fn fmt(&self, to: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(to, "{}", self.0)?;
        let mut cause = self.0.source();
        while let Some(error) = cause {
            write!(to, ": {error}")?;
            cause = error.source();
        }
        Ok(())
    }
}
