//! One of the two servers as a process: started, asked, looked at from outside.

use std::{
    net::{SocketAddr, TcpListener},
    path::Path,
    process::{Child, Command, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};

use http_body_util::Full;
use hyper::{body::Bytes, client::conn::http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::{ClientConfig, RootCertStore, pki_types::ServerName};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::load::ask;

const PATIENCE: Duration = Duration::from_secs(60);

/// A server; it ends with this.
pub struct Server {
    child: Child,
    address: SocketAddr,
    config: Arc<ClientConfig>,
    started: Instant,
}

impl Server {
    /// powercap-admission.
    pub fn ours(program: &Path, folder: &Path) -> Self {
        Self::start(folder, |port, path| {
            let mut command = Command::new(program);
            command.args([format!("--webhook-listen=127.0.0.1:{port}"), format!("--listen=127.0.0.1:{}", free_port())]);
            command.args([format!("--certificates-from={path}"), "--namespace=default".to_owned()]);
            // As it is deployed.
            command.envs([
                ("MALLOC_ARENA_MAX", "1"),
                ("MALLOC_TRIM_THRESHOLD_", "131072"),
                ("MALLOC_MMAP_THRESHOLD_", "131072"),
            ]);
            command
        })
    }

    /// The Vertical Pod Autoscaler's admission-controller.
    pub fn vpa(program: &Path, folder: &Path) -> Self {
        Self::start(folder, |port, path| {
            let mut command = Command::new(program);
            command.args([format!("--port={port}"), format!("--address=127.0.0.1:{}", free_port())]);
            command.args([format!("--tls-cert-file={path}/tls.crt"), format!("--tls-private-key={path}/tls.key")]);
            command.args([format!("--client-ca-file={path}/ca.crt"), "--register-webhook=false".to_owned()]);
            command.arg(format!("--kubeconfig={}", std::env::var("KUBECONFIG").unwrap()));
            command
        })
    }

    fn start(folder: &Path, command: impl FnOnce(u16, &str) -> Command) -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let authority = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let key = KeyPair::generate().unwrap();
        let leaf = CertificateParams::new(vec!["localhost".to_owned()]).unwrap().signed_by(&key, &authority).unwrap();
        for (name, text) in [("tls.crt", leaf.pem()), ("tls.key", key.serialize_pem()), ("ca.crt", authority.pem())] {
            std::fs::write(folder.join(name), text).unwrap();
        }
        let mut roots = RootCertStore::empty();
        roots.add(authority.der().clone()).unwrap();
        let mut config = ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
        config.alpn_protocols = vec![b"h2".to_vec()];
        let port = free_port();
        let mut command = command(port, folder.to_str().unwrap());
        let log = std::fs::File::create(folder.join("log")).unwrap();
        let started = Instant::now();
        let child = command.stdout(Stdio::null()).stderr(log).spawn().unwrap();
        Self { child, address: ([127, 0, 0, 1], port).into(), config: Arc::new(config), started }
    }

    /// How long after its start a pod first got its requests, and the connection by which it did.
    pub async fn first_answer(&self, path: &str, review: &Bytes) -> (Duration, http2::SendRequest<Full<Bytes>>) {
        loop {
            if let Some(mut connection) = self.connect().await
                && ask(&mut connection, path, review.clone()).await
            {
                return (self.started.elapsed(), connection);
            }
            assert!(self.started.elapsed() < PATIENCE, "no answer");
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }

    async fn connect(&self) -> Option<http2::SendRequest<Full<Bytes>>> {
        let stream = TcpStream::connect(self.address).await.ok()?;
        stream.set_nodelay(true).ok()?;
        let name = ServerName::try_from("localhost").unwrap();
        let stream = TlsConnector::from(Arc::clone(&self.config)).connect(name, stream).await.ok()?;
        let (sender, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.ok()?;
        tokio::spawn(connection);
        Some(sender)
    }

    /// Memory that is or was resident.
    pub fn resident_mib(&self, line: &str) -> f64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let kibibytes = status.lines().find_map(|text| text.strip_prefix(line)).unwrap();
        kibibytes.trim().strip_suffix("kB").unwrap().trim().parse::<f64>().unwrap() / 1024.0
    }

    /// Processor time of all its threads.
    pub fn processor(&self) -> Duration {
        let threads = std::fs::read_dir(format!("/proc/{}/task", self.child.id())).unwrap().flatten();
        let on_processor = threads.filter_map(|thread| std::fs::read_to_string(thread.path().join("schedstat")).ok());
        let nanoseconds = on_processor.map(|text| text.split_whitespace().next().unwrap().parse::<u64>().unwrap());
        Duration::from_nanos(nanoseconds.sum())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        _ = self.child.kill();
        _ = self.child.wait();
    }
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}
