//! The kubelet's gRPC interfaces over unix sockets: device plugins and PodResources.
//!
//! Message types are written by hand to the wire format (field numbers of the Kubernetes APIs
//! `deviceplugin/v1beta1` and `podresources/v1`), with the few fields that are used: protobuf skips the rest.

use std::path::{Path, PathBuf};

use hyper_util::rt::TokioIo;
use prost::Message;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::transport::{Channel, Endpoint, Uri};
use tonic_prost::ProstCodec;

pub mod device_plugin;
pub mod messages;
pub mod pod_resources;

/// Talking to the kubelet failed.
#[derive(Debug, thiserror::Error)]
pub enum KubeletError {
    /// Nobody listens on its socket.
    #[error("connect to the kubelet at {socket}")]
    Connect {
        /// Which socket.
        socket: PathBuf,
        /// Why.
        #[source]
        source: tonic::transport::Error,
    },
    /// It refused.
    #[error("call {call} of the kubelet")]
    Call {
        /// Which method.
        call: &'static str,
        /// Why.
        #[source]
        source: Box<tonic::Status>,
    },
}

/// Calls one method on a unix socket.
async fn call<Q, A>(socket: &Path, method: &'static str, request: Q) -> Result<A, KubeletError>
where
    Q: Message + Send + Sync + 'static,
    A: Message + Default + Send + Sync + 'static,
{
    let channel =
        connect(socket).await.map_err(|source| KubeletError::Connect { socket: socket.to_owned(), source })?;
    let failed = |source| KubeletError::Call { call: method, source: Box::new(source) };
    let mut client = tonic::client::Grpc::new(channel);
    client.ready().await.map_err(|error| failed(tonic::Status::from_error(error.into())))?;
    let codec = ProstCodec::<Q, A>::default();
    let answer = client.unary(tonic::Request::new(request), PathAndQuery::from_static(method), codec).await;
    Ok(answer.map_err(failed)?.into_inner())
}

async fn connect(socket: &Path) -> Result<Channel, tonic::transport::Error> {
    let socket = socket.to_owned();
    Endpoint::from_static("http://localhost")
        .timeout(std::time::Duration::from_secs(5))
        .connect_with_connector(tower::service_fn(move |_: Uri| {
            let socket = socket.clone();
            async move { tokio::net::UnixStream::connect(socket).await.map(TokioIo::new) }
        }))
        .await
}
