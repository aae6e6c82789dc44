//! HTTPS for the API server: as many connections as there is memory for, each within its time, and none cut off
//! when the process is to end.
//!
//! ```text
//!   accept ─▶ TLS within 3 s ─▶ requests ─▶ idle for 2 min, or the end: what was begun is finished ─▶ closed
//!                │ plain HTTP: told so
//! ```

mod reviews;

use std::{
    io,
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use axum::{
    Router,
    extract::Request,
    middleware::{self, Next},
};
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::conn::auto,
    service::TowerToHyperService,
};
use rustls::{ServerConfig, server::ResolvesServerCert};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore, watch},
    task::JoinSet,
    time::timeout,
};
use tokio_rustls::TlsAcceptor;

pub use self::reviews::{BODY_LIMIT, router};
use crate::metrics::Metrics;

/// An API server has one connection or two; a cluster has a few API servers.
const MOST_CONNECTIONS: usize = 256;
const STREAMS_A_CONNECTION: u32 = 128;
/// What a connection may have sent before anybody reads it: all of them together are a quarter of the memory that the
/// manifest allows. hyper alone would take a megabyte each.
const UNREAD_A_CONNECTION: u32 = 256 << 10;
const UNREAD_A_STREAM: u32 = 128 << 10;
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(3);
const HEADER_TIMEOUT: Duration = Duration::from_secs(3);
/// For who has no reason to wait for another time.
pub const IDLE_TIMEOUT: Duration = Duration::from_secs(120);
/// A peer that is gone without a word is noticed by a ping.
const PING_EVERY: Duration = Duration::from_secs(30);
/// What was begun when the end came takes less.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(5);
/// The first byte of a TLS connection: a handshake.
const TLS_HANDSHAKE: u8 = 0x16;
const TOLD_OVER_PLAIN_HTTP: &[u8] = b"HTTP/1.1 400 Bad Request\r\nContent-Type: text/plain\r\nContent-Length: 39\r\n\
    Connection: close\r\n\r\nthis port speaks HTTPS; use https://...";

/// Serves until `stop` completes, then finishes what was begun. A connection on which nothing came for `idle` is
/// closed, at the latest when as much has passed once more.
pub async fn serve(
    listener: TcpListener,
    certificates: Arc<dyn ResolvesServerCert>,
    router: Router,
    idle: Duration,
    metrics: Metrics,
    stop: impl Future<Output = ()>,
) {
    let acceptor = TlsAcceptor::from(Arc::new(tls(certificates)));
    let slots = Arc::new(Semaphore::new(MOST_CONNECTIONS));
    let (closing, closed) = watch::channel(());
    let mut connections = JoinSet::new();
    let mut stop = pin!(stop);
    loop {
        let next = async { (Arc::clone(&slots).acquire_owned().await, listener.accept().await) };
        let (slot, accepted) = tokio::select! {
            next = next => next,
            () = &mut stop => break,
        };
        match (slot, accepted) {
            (Ok(slot), Ok((stream, _))) => {
                let (acceptor, router, closed) = (acceptor.clone(), router.clone(), closed.clone());
                let connection = Connection { acceptor, router, idle, closed };
                connections.spawn(connection.serve(stream, slot, metrics.clone()));
            }
            // Out of files, most likely: those that are open will be closed.
            (_, Err(error)) => {
                tracing::warn!(%error, "a connection could not be accepted");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
            (Err(_), _) => break,
        }
        while connections.try_join_next().is_some() {}
    }
    drop(listener);
    drop(closing);
    let drained = timeout(DRAIN_TIMEOUT, async { while connections.join_next().await.is_some() {} }).await;
    if drained.is_err() {
        tracing::warn!(connections = connections.len(), "closed before all was answered");
    }
}

/// TLS 1.2 and 1.3, HTTP/2 preferred. Who asks need not prove who it is: what a review tells of a policy, who can
/// reach this port could learn by creating a pod.
fn tls(certificates: Arc<dyn ResolvesServerCert>) -> ServerConfig {
    let mut config = ServerConfig::builder().with_no_client_auth().with_cert_resolver(certificates);
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    config
}

struct Connection {
    acceptor: TlsAcceptor,
    router: Router,
    idle: Duration,
    /// Its sender is dropped when the end has come.
    closed: watch::Receiver<()>,
}

impl Connection {
    async fn serve(self, stream: TcpStream, _slot: OwnedSemaphorePermit, metrics: Metrics) {
        metrics.connected();
        metrics.disconnected(self.ended(stream).await);
    }

    /// How it ended.
    async fn ended(self, mut stream: TcpStream) -> &'static str {
        // Without, an answer may wait for the acknowledgement of the last.
        _ = stream.set_nodelay(true);
        let handshake = async {
            let mut first = [0];
            if stream.peek(&mut first).await? == 1 && first[0] != TLS_HANDSHAKE {
                tell_in_plain(&mut stream).await?;
                return Ok(None);
            }
            self.acceptor.accept(stream).await.map(Some)
        };
        let stream = match timeout(HANDSHAKE_TIMEOUT, handshake).await {
            Ok(Ok(Some(stream))) => stream,
            Ok(Ok(None)) => return "PlainHttp",
            Ok(Err(error)) => {
                let error: io::Error = error;
                tracing::debug!(%error, "no handshake");
                return "NoHandshake";
            }
            Err(_) => return "SlowHandshake",
        };
        let activity = Arc::new(Activity::default());
        let router = self.router.layer(middleware::from_fn({
            let activity = Arc::clone(&activity);
            move |request: Request, next: Next| {
                let begun = Begun::on(&activity);
                async move {
                    let answer = next.run(request).await;
                    drop(begun);
                    answer
                }
            }
        }));
        let builder = builder();
        let mut connection = pin!(builder.serve_connection(TokioIo::new(stream), TowerToHyperService::new(router)));
        let mut closed = self.closed;
        let how = tokio::select! {
            ended = connection.as_mut() => return if ended.is_ok() { "Closed" } else { "Failed" },
            () = activity.rests_for(self.idle) => "Idle",
            _ = closed.changed() => "Drained",
        };
        connection.as_mut().graceful_shutdown();
        // One that does not take its last answer is not waited for.
        match timeout(DRAIN_TIMEOUT, connection).await {
            Ok(Ok(())) => how,
            Ok(Err(_)) => "Failed",
            Err(_) => "Cut",
        }
    }
}

fn builder() -> auto::Builder<TokioExecutor> {
    let mut builder = auto::Builder::new(TokioExecutor::new());
    let mut http1 = builder.http1();
    http1.timer(TokioTimer::new()).header_read_timeout(HEADER_TIMEOUT).keep_alive(true);
    http1.max_buf_size(UNREAD_A_STREAM as usize);
    let mut http2 = builder.http2();
    http2.timer(TokioTimer::new()).max_concurrent_streams(STREAMS_A_CONNECTION).max_header_list_size(64 << 10);
    http2.initial_connection_window_size(UNREAD_A_CONNECTION).initial_stream_window_size(UNREAD_A_STREAM);
    http2.keep_alive_interval(PING_EVERY).keep_alive_timeout(HANDSHAKE_TIMEOUT);
    builder
}

/// What it wrote is read first: to close on it would take the answer away again.
async fn tell_in_plain(stream: &mut TcpStream) -> io::Result<()> {
    let mut ignored = [0; 4096];
    _ = stream.read(&mut ignored).await?;
    stream.write_all(TOLD_OVER_PLAIN_HTTP).await?;
    stream.shutdown().await
}

/// Whether a connection is used.
#[derive(Default)]
struct Activity {
    open: AtomicUsize,
    begun: AtomicUsize,
}

impl Activity {
    /// Completes when no request was open or came for this long.
    async fn rests_for(&self, idle: Duration) {
        let mut seen = self.begun.load(Ordering::Relaxed);
        loop {
            tokio::time::sleep(idle).await;
            let begun = self.begun.load(Ordering::Relaxed);
            if self.open.load(Ordering::Relaxed) == 0 && seen == begun {
                return;
            }
            seen = begun;
        }
    }
}

/// A request that is open as long as this.
struct Begun(Arc<Activity>);

impl Begun {
    fn on(activity: &Arc<Activity>) -> Self {
        activity.open.fetch_add(1, Ordering::Relaxed);
        activity.begun.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(activity))
    }
}

impl Drop for Begun {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::Relaxed);
    }
}
