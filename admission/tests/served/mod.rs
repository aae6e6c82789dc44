//! The real server on loopback, certificates for it, and clients that behave as badly as they like.

use std::{
    net::SocketAddr,
    path::Path,
    sync::{Arc, Mutex},
    time::Duration,
};

use http_body_util::{BodyExt, Full};
use hyper::{
    Request, StatusCode,
    body::Bytes,
    client::conn::{http1, http2},
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use powercap_admission::{
    cluster::Cluster,
    metrics::Metrics,
    serve::{IDLE_TIMEOUT, router, serve},
};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::{
    ClientConfig, RootCertStore,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName},
    server::{ClientHello, ResolvesServerCert},
    sign::CertifiedKey,
};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::{oneshot, watch},
    task::JoinHandle,
    time::timeout,
};
use tokio_rustls::{TlsConnector, client::TlsStream};

const NAME: &str = "powercap-admission.powercap-system.svc";
const ASKS_FOR_BODY: &[u8; 25] = b"HTTP/1.1 100 Continue\r\n\r\n";
/// When a server is given up that is to close or to answer.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// An authority, and certificates of it.
pub struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    pub fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    /// Another certificate for the server.
    pub fn leaf(&self) -> Arc<CertifiedKey> {
        let key = KeyPair::generate().unwrap();
        let leaf = CertificateParams::new(vec![NAME.to_owned()]).unwrap().signed_by(&key, &self.0).unwrap();
        let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
        Arc::new(CertifiedKey::from_der(vec![leaf.der().clone()], key, &ring::default_provider()).unwrap())
    }

    /// Writes a certificate for the server, and its key, as cert-manager does.
    pub fn write(&self, folder: &Path) {
        let key = KeyPair::generate().unwrap();
        let leaf = CertificateParams::new(vec![NAME.to_owned()]).unwrap().signed_by(&key, &self.0).unwrap();
        std::fs::write(folder.join("tls.crt"), leaf.pem()).unwrap();
        std::fs::write(folder.join("tls.key"), key.serialize_pem()).unwrap();
    }

    fn certificate(&self) -> CertificateDer<'static> {
        self.0.der().clone()
    }
}

/// Shows whatever certificate was put here last.
#[derive(Debug)]
pub struct Shown(Mutex<Arc<CertifiedKey>>);

impl Shown {
    pub fn show(&self, leaf: Arc<CertifiedKey>) {
        *self.0.lock().unwrap() = leaf;
    }
}

impl ResolvesServerCert for Shown {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.0.lock().unwrap()))
    }
}

/// The server; it ends with this.
pub struct Served {
    pub address: SocketAddr,
    pub authority: Authority,
    pub shown: Arc<Shown>,
    stop: Option<oneshot::Sender<()>>,
    server: JoinHandle<()>,
}

impl Served {
    /// With what is known of the cluster.
    pub async fn with(cluster: Cluster) -> Self {
        Self::that_closes_after(IDLE_TIMEOUT, cluster).await
    }

    /// Likewise; connections may be idle for so long.
    pub async fn that_closes_after(idle: Duration, cluster: Cluster) -> Self {
        powercap_process::install_tls_provider();
        let authority = Authority::new();
        let shown = Arc::new(Shown(Mutex::new(authority.leaf())));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (metrics, _) = Metrics::register();
        let (_, cluster) = watch::channel(Arc::new(cluster));
        let router = router(cluster, metrics.clone(), Arc::new(|_: &str| {}));
        let (stop, stopped) = oneshot::channel();
        let certificates: Arc<dyn ResolvesServerCert> = Arc::clone(&shown) as _;
        let stopped = async { _ = stopped.await };
        let server = tokio::spawn(serve(listener, certificates, router, idle, metrics, stopped));
        Self { address, authority, shown, stop: Some(stop), server }
    }

    /// Tells it to end.
    pub fn stop(&mut self) {
        _ = self.stop.take().map(|stop| stop.send(()));
    }

    /// Completes when it has ended.
    pub async fn ended(self) {
        self.server.await.unwrap();
    }

    /// A connection that trusts its authority.
    pub async fn connect(&self, protocol: &[u8]) -> TlsStream<TcpStream> {
        connect(self.address, &self.authority, protocol).await.unwrap()
    }

    /// The answer to a body, with this content type, over HTTP/1.1.
    pub async fn post(&self, kind: &str, body: impl Into<Bytes>) -> (StatusCode, Value) {
        let stream = TokioIo::new(self.connect(b"http/1.1").await);
        let (mut sender, connection) = http1::handshake(stream).await.unwrap();
        tokio::spawn(connection);
        let request = Request::post("/mutate").header("Host", NAME).header("Content-Type", kind);
        let answer = sender.send_request(request.body(Full::new(body.into())).unwrap()).await.unwrap();
        let status = answer.status();
        let body = answer.into_body().collect().await.unwrap().to_bytes();
        let text = || Value::String(String::from_utf8_lossy(&body).into_owned());
        (status, serde_json::from_slice(&body).unwrap_or_else(|_| text()))
    }

    /// The answer to a review, and that it is one.
    pub async fn review(&self, review: &Value) -> Value {
        let (status, answer) = self.post("application/json", review.to_string()).await;
        assert_eq!(status, StatusCode::OK, "{answer}");
        assert_eq!(answer["response"]["uid"], review["request"]["uid"]);
        answer["response"].clone()
    }

    /// A sender of requests over HTTP/2.
    pub async fn http2(&self) -> Http2 {
        self.http2_until_closed().await.0
    }

    /// Likewise, and what completes when the connection is closed.
    pub async fn http2_until_closed(&self) -> (Http2, JoinHandle<hyper::Result<()>>) {
        let stream = TokioIo::new(self.connect(b"h2").await);
        let (sender, connection) = http2::handshake(TokioExecutor::new(), stream).await.unwrap();
        (Http2(sender), tokio::spawn(connection))
    }

    /// Writes this over TLS, reads until the server closes; `None`: it did not.
    pub async fn raw(&self, text: &[u8]) -> Option<String> {
        let mut stream = self.connect(b"http/1.1").await;
        stream.write_all(text).await.unwrap();
        read_all(&mut stream).await
    }
}

/// A sender of requests over HTTP/2; clones share the connection.
#[derive(Clone)]
pub struct Http2(http2::SendRequest<Full<Bytes>>);

impl Http2 {
    /// The status that a review is answered with.
    pub async fn post(&mut self, body: Bytes) -> hyper::Result<StatusCode> {
        let uri = format!("https://{NAME}/mutate");
        let request = Request::post(uri).header("Content-Type", "application/json").body(Full::new(body)).unwrap();
        let answer = self.0.send_request(request).await?;
        let status = answer.status();
        answer.into_body().collect().await?;
        Ok(status)
    }
}

/// A TLS connection that trusts this authority.
pub async fn connect(
    address: SocketAddr,
    trusts: &Authority,
    protocol: &[u8],
) -> std::io::Result<TlsStream<TcpStream>> {
    let mut roots = RootCertStore::empty();
    roots.add(trusts.certificate()).unwrap();
    let mut config = ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
    config.alpn_protocols = vec![protocol.to_vec()];
    let stream = TcpStream::connect(address).await?;
    TlsConnector::from(Arc::new(config)).connect(ServerName::try_from(NAME).unwrap(), stream).await
}

/// What a server with tight limits answers, at the first of five attempts at which this machine did not pause for
/// longer than they allow: then an attempt gives nothing, or 408.
pub async fn unhurried(attempt: impl AsyncFn() -> Option<String>) -> String {
    for _ in 0..5 {
        if let Some(answer) = attempt().await.filter(|answer| !answer.starts_with("HTTP/1.1 408")) {
            return answer;
        }
    }
    panic!("five times too late");
}

/// Begins to send a review: a header, which the server has read when it asks for the body, and a part of that. Gives
/// the rest, unless the connection was closed.
pub async fn begin(stream: &mut TlsStream<TcpStream>, connection: &str, review: &str) -> Option<String> {
    let header = format!(
        "POST /mutate HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nConnection: {connection}\r\n\
        Expect: 100-continue\r\nContent-Length: {}\r\n\r\n",
        review.len()
    );
    stream.write_all(header.as_bytes()).await.ok()?;
    let mut asks = [0; ASKS_FOR_BODY.len()];
    stream.read_exact(&mut asks).await.ok()?;
    assert_eq!(&asks, ASKS_FOR_BODY);
    let (first, rest) = review.split_at(100);
    stream.write_all(first.as_bytes()).await.ok()?;
    stream.flush().await.ok()?;
    Some(rest.to_owned())
}

/// All until the other side closes; `None` when it does not.
pub async fn read_all(stream: &mut (impl AsyncReadExt + Unpin)) -> Option<String> {
    let mut answer = Vec::new();
    // A connection that is cut in the middle of TLS is closed too.
    _ = timeout(PATIENCE, stream.read_to_end(&mut answer)).await.ok()?;
    Some(String::from_utf8_lossy(&answer).into_owned())
}

/// A review of a pod, as the API server sends it.
pub fn review_of(pod: &Value) -> Value {
    json!({
        "apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview",
        "request": {
            "uid": "705ab4f5-6393-11e8-b7cc-42010a800002", "kind": {"group": "", "version": "v1", "kind": "Pod"},
            "resource": {"group": "", "version": "v1", "resource": "pods"},
            "requestKind": {"group": "", "version": "v1", "kind": "Pod"},
            "requestResource": {"group": "", "version": "v1", "resource": "pods"},
            "name": "chat-0", "namespace": "llm", "operation": "CREATE",
            "userInfo": {"username": "system:serviceaccount:kube-system:replicaset-controller"}, "object": pod,
            "oldObject": null, "dryRun": false, "options": {"kind": "CreateOptions", "apiVersion": "meta.k8s.io/v1"},
        },
    })
}
