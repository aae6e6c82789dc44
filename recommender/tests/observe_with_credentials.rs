//! As whom Prometheus is asked: headers, our certificate, and whose certificate of its own is believed.

use std::{
    io::{Read, Write},
    net::TcpListener,
    path::Path,
    sync::Arc,
    thread,
    time::Duration,
};

use clap::Parser;
use powercap_process::CredentialsError;
use powercap_recommender::{
    flags::Flags,
    observe::{
        names::Names,
        prometheus::{Prometheus, PrometheusError},
    },
};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use rustls::{RootCertStore, ServerConfig, ServerConnection, StreamOwned, server::WebPkiClientVerifier};

const EMPTY: &[u8] = b"HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n\
    {\"status\":\"success\",\"data\":{\"resultType\":\"vector\",\"result\":[]}}";

/// An authority, and certificates that it signs.
struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    fn new(name: &str) -> Self {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    fn sign(&self, name: &str) -> (rcgen::Certificate, KeyPair) {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new([name.to_owned()]).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        (params.signed_by(&key, &self.0).unwrap(), key)
    }

    /// Writes a certificate and its key for a client.
    fn write_client(&self, name: &str, [certificate, key]: [&Path; 2]) {
        let (signed, its_key) = self.sign(name);
        std::fs::write(certificate, signed.pem()).unwrap();
        std::fs::write(key, its_key.serialize_pem()).unwrap();
    }
}

/// A server of `localhost` that lets in whom the authority has signed; gives the heads of requests away.
fn serve(authority: &Authority) -> (String, std::sync::mpsc::Receiver<String>) {
    let (certificate, key) = authority.sign("localhost");
    let mut trusted = RootCertStore::empty();
    trusted.add(authority.0.der().clone()).unwrap();
    let clients = WebPkiClientVerifier::builder(Arc::new(trusted)).build().unwrap();
    let config = ServerConfig::builder()
        .with_client_cert_verifier(clients)
        .with_single_cert(vec![certificate.der().clone()], key.serialize_der().try_into().unwrap())
        .unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("https://localhost:{}", listener.local_addr().unwrap().port());
    let (heads, seen) = std::sync::mpsc::channel();
    let config = Arc::new(config);
    thread::spawn(move || {
        for stream in listener.incoming() {
            let connection = ServerConnection::new(Arc::clone(&config)).unwrap();
            let mut stream = StreamOwned::new(connection, stream.unwrap());
            let mut request = vec![0; 4096];
            let Ok(length) = stream.read(&mut request) else { continue };
            if heads.send(String::from_utf8_lossy(&request[..length]).to_lowercase()).is_err() {
                return;
            }
            _ = stream.write_all(EMPTY);
            stream.conn.send_close_notify();
            _ = stream.flush();
        }
    });
    (url, seen)
}

fn flags(arguments: &[&str]) -> Flags {
    Flags::try_parse_from(["powercap-recommender"].iter().chain(arguments)).unwrap()
}

fn prometheus(flags: &Flags) -> Prometheus {
    Prometheus::new(flags.access(), Names::default().labels())
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn certificates_and_headers_are_as_the_flags_say_and_follow_their_files() {
    powercap_process::install_tls_provider();
    let folder = tempfile::tempdir().unwrap();
    let [ca, certificate, key] = ["ca.pem", "tls.crt", "tls.key"].map(|name| folder.path().join(name));
    let (ours, foreign) = (Authority::new("ours"), Authority::new("foreign"));
    let (url, seen) = serve(&ours);
    std::fs::write(&ca, ours.0.pem()).unwrap();
    foreign.write_client("recommender", [&certificate, &key]);
    let address = ["--prometheus-url", &url, "--prometheus-timeout-ms", "30000"];
    let files =
        ["--prometheus-client-certificate-file", text(&certificate), "--prometheus-client-key-file", text(&key)];
    let headers = ["--prometheus-header", "X-Scope-OrgID=team=a", "--prometheus-header", "X-Second=b"];
    let all = [&address[..], &files, &headers, &["--prometheus-ca-file", text(&ca)]].concat();

    let strict = prometheus(&flags(&all));
    assert!(strict.instant("up").await.is_err(), "a certificate of another authority is not let in");
    ours.write_client("recommender", [&certificate, &key]);
    strict.instant("up").await.unwrap();
    let head = seen.recv_timeout(Duration::from_secs(60)).unwrap();
    assert!(head.contains("x-scope-orgid: team=a\r\n") && head.contains("x-second: b\r\n"), "{head}");

    let unbelieving = prometheus(&flags(&[&address[..], &files].concat()));
    assert_eq!(unbelieving.instant("up").await.unwrap_err().result(), "unreachable", "nobody vouches for the server");
    std::fs::write(&key, "no key").unwrap();
    assert!(matches!(strict.instant("up").await, Err(PrometheusError::Credentials(CredentialsError::MakeClient(_)))));
}

#[test]
fn half_a_certificate_and_a_header_without_a_value_are_refused() {
    for wrong in [
        ["--prometheus-client-key-file", "tls.key"],
        ["--prometheus-client-certificate-file", "tls.crt"],
        ["--prometheus-header", "X-Scope-OrgID"],
        ["--prometheus-header", "two words=x"],
    ] {
        assert!(Flags::try_parse_from(["powercap-recommender"].iter().chain(&wrong)).is_err(), "{wrong:?}");
    }
}
