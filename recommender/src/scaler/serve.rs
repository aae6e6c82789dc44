//! gRPC for KEDA: HTTP/2 on a port of its own, plain or over TLS.
//!
//! Must hold: whoever connects, and however many, memory is bounded; a peer that says nothing, or is gone without a
//! word, is left within seconds.

use std::{pin::pin, sync::Arc, time::Duration};

use hyper::server::conn::http2;
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use powercap_certs::{PerHandshake, Source, keep};
use rustls::{ServerConfig, server::ResolvesServerCert};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream},
    sync::{Notify, Semaphore},
    task::JoinSet,
    time::timeout,
};
use tokio_rustls::TlsAcceptor;
use tower::ServiceExt;

use super::service::Scaler;

/// KEDA's operator has one connection for each way of connecting that its ScaledObjects ask for.
const MOST_CONNECTIONS: usize = 64;
/// One for each ScaledObject with an `external-push` trigger, and those that ask at this moment.
const STREAMS_A_CONNECTION: u32 = 4096;
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(3);
/// A peer that does not answer a ping is gone.
const PING_EVERY: Duration = Duration::from_secs(20);
/// Whoever connects has something to ask; pings begin only once HTTP/2 is spoken.
const FIRST_REQUEST_WITHIN: Duration = Duration::from_secs(5);
const LARGEST_HEADERS: u32 = 16 << 10;
const AFTER_A_FAILURE: Duration = Duration::from_millis(100);

/// How to listen.
#[derive(Debug)]
pub struct Port {
    /// Where.
    pub listener: TcpListener,
    /// The folder of the certificate; none: plain text.
    pub certificates_from: Option<std::path::PathBuf>,
}

impl Port {
    /// Serves until it is dropped.
    pub async fn serve(self, scaler: Scaler) {
        let tls = match self.certificates_from {
            // Waits until the files are there.
            Some(folder) => Some(acceptor(Arc::new(PerHandshake::new(keep(Source::Files(folder)).await)))),
            None => None,
        };
        let slots = Arc::new(Semaphore::new(MOST_CONNECTIONS));
        let mut connections = JoinSet::new();
        while let Ok(slot) = Arc::clone(&slots).acquire_owned().await {
            match self.listener.accept().await {
                Ok((stream, _)) => {
                    let connection = connection(stream, tls.clone(), scaler.clone());
                    connections.spawn(async move {
                        connection.await;
                        drop(slot);
                    });
                }
                // Out of files, most likely: those that are open will be closed.
                Err(error) => {
                    tracing::warn!(%error, "an autoscaler's connection could not be accepted");
                    tokio::time::sleep(AFTER_A_FAILURE).await;
                }
            }
            while connections.try_join_next().is_some() {}
        }
    }
}

/// Who asks need not prove who it is: a budget tells no more than the policy's status.
fn acceptor(certificates: Arc<dyn ResolvesServerCert>) -> TlsAcceptor {
    let mut config = ServerConfig::builder().with_no_client_auth().with_cert_resolver(certificates);
    config.alpn_protocols = vec![b"h2".to_vec()];
    TlsAcceptor::from(Arc::new(config))
}

async fn connection(stream: TcpStream, tls: Option<TlsAcceptor>, scaler: Scaler) {
    _ = stream.set_nodelay(true);
    let Some(tls) = tls else { return requests(stream, scaler).await };
    match timeout(HANDSHAKE_TIMEOUT, tls.accept(stream)).await {
        Ok(Ok(stream)) => requests(stream, scaler).await,
        Ok(Err(error)) => tracing::debug!(%error, "no handshake with an autoscaler"),
        Err(_) => tracing::debug!("an autoscaler began a handshake and did not end it"),
    }
}

async fn requests(stream: impl AsyncRead + AsyncWrite + Unpin, scaler: Scaler) {
    let mut builder = http2::Builder::new(TokioExecutor::new());
    builder
        .timer(TokioTimer::new())
        .max_concurrent_streams(STREAMS_A_CONNECTION)
        .max_header_list_size(LARGEST_HEADERS)
        .keep_alive_interval(PING_EVERY)
        .keep_alive_timeout(HANDSHAKE_TIMEOUT);
    let begun = Arc::new(Notify::new());
    let asked = Arc::clone(&begun);
    let service = scaler.map_request(move |request| {
        asked.notify_one();
        request
    });
    let mut ended = pin!(builder.serve_connection(TokioIo::new(stream), TowerToHyperService::new(service)));
    let ended = tokio::select! {
        ended = ended.as_mut() => ended,
        asked = timeout(FIRST_REQUEST_WITHIN, begun.notified()) => match asked {
            Ok(()) => ended.await,
            Err(_) => return tracing::debug!("an autoscaler connected and asked nothing"),
        },
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "an autoscaler's connection broke");
    }
}
