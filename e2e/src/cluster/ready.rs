//! Waiting for the cluster: each function returns as soon as what it waits for is true.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Node, ServiceAccount};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Api, Client, Config};
use tokio::io::AsyncWriteExt;
use tokio::net::UdpSocket;
use tokio::process::Command;
use tokio::time;

use super::network::DNS_SERVICE;

const POLL: Duration = Duration::from_millis(100);
/// Whatever is waited for comes within seconds on an idle machine; a busy one gets this long.
pub const PATIENCE: Duration = Duration::from_secs(300);

/// Why the cluster did not become ready.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The kubeconfig cannot be used.
    #[error("use the kubeconfig {path}")]
    Kubeconfig {
        /// The kubeconfig.
        path: PathBuf,
        /// Why.
        #[source]
        source: kube::config::KubeconfigError,
    },
    /// No client could be made.
    #[error("make a client for the API server")]
    Client(#[source] Box<kube::Error>),
    /// Something took too long.
    #[error("{what} after {} s: {last}", PATIENCE.as_secs())]
    Late {
        /// What is not so.
        what: &'static str,
        /// What was seen last.
        last: String,
    },
    /// kubectl could not be run.
    #[error("run kubectl")]
    Kubectl(#[source] std::io::Error),
}

/// A client with the rights of the kubeconfig at `path`.
///
/// # Errors
/// When the kubeconfig is not usable.
pub async fn client(path: &Path) -> Result<Client, Error> {
    let unusable = |source| Error::Kubeconfig { path: path.into(), source };
    let kubeconfig = Kubeconfig::read_from(path).map_err(unusable)?;
    let mut config =
        Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await.map_err(unusable)?;
    config.connect_timeout = Some(Duration::from_secs(2));
    config.read_timeout = Some(Duration::from_secs(5));
    config.default_retry = false;
    Client::try_from(config).map_err(|source| Error::Client(Box::new(source)))
}

/// Polls until `check` has nothing to complain about.
async fn until<F: AsyncFnMut() -> Result<(), String>>(what: &'static str, mut check: F) -> Result<(), Error> {
    let deadline = time::Instant::now() + PATIENCE;
    loop {
        let Err(last) = check().await else {
            return Ok(());
        };
        if time::Instant::now() > deadline {
            return Err(Error::Late { what, last });
        }
        time::sleep(POLL).await;
    }
}

/// Waits for the API server.
///
/// # Errors
/// When it is not ready after five minutes.
pub async fn api_server(client: &Client) -> Result<(), Error> {
    until("the API server is not ready", async || {
        let request = http_get("/readyz")?;
        client.request_text(request).await.map(drop).map_err(|refused| refused.to_string())
    })
    .await
}

fn http_get(path: &str) -> Result<http::Request<Vec<u8>>, String> {
    http::Request::get(path).body(Vec::new()).map_err(|wrong| wrong.to_string())
}

/// Applies manifests, until the API server takes them all.
///
/// # Errors
/// When they are still refused after five minutes.
pub async fn apply(kubectl: &Path, kubeconfig: &Path, manifest: &str) -> Result<(), Error> {
    until("the cluster's own objects are refused", async || {
        let mut child = Command::new(kubectl)
            .env("KUBECONFIG", kubeconfig)
            .args(["apply", "--server-side", "--validate=false", "-f", "-"])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|refused| refused.to_string())?;
        if let Some(mut input) = child.stdin.take() {
            input.write_all(manifest.as_bytes()).await.map_err(|refused| refused.to_string())?;
        }
        let output = child.wait_with_output().await.map_err(|refused| refused.to_string())?;
        if output.status.success() {
            return Ok(());
        }
        Err(String::from_utf8_lossy(&output.stderr).trim().to_owned())
    })
    .await
}

/// Waits until pods can be made: the controller manager has made the default service account.
///
/// # Errors
/// When there is none after five minutes.
pub async fn service_account(client: &Client) -> Result<(), Error> {
    let accounts = Api::<ServiceAccount>::namespaced(client.clone(), "default");
    until("there is no default service account", async || {
        accounts.get("default").await.map(drop).map_err(|refused| refused.to_string())
    })
    .await
}

/// Waits until all nodes are Ready and take pods.
///
/// # Errors
/// When one is not after five minutes.
pub async fn nodes(client: &Client, names: &[&str]) -> Result<(), Error> {
    let nodes = Api::<Node>::all(client.clone());
    until("a node is not ready", async || {
        for name in names {
            let node = nodes.get(name).await.map_err(|refused| refused.to_string())?;
            if let Some(complaint) = unready(&node) {
                return Err(format!("{name}: {complaint}"));
            }
        }
        Ok(())
    })
    .await
}

fn unready(node: &Node) -> Option<String> {
    let taints = node.spec.as_ref().and_then(|spec| spec.taints.as_deref()).unwrap_or_default();
    if let Some(taint) = taints.first() {
        return Some(format!("has the taint {}", taint.key));
    }
    let conditions = node.status.as_ref().and_then(|status| status.conditions.as_deref());
    match conditions.unwrap_or_default().iter().find(|condition| condition.type_ == "Ready") {
        Some(ready) if ready.status == "True" => None,
        Some(ready) => ready.message.clone().or_else(|| Some("not Ready".into())),
        None => Some("has no Ready condition".into()),
    }
}

/// Waits until the API server's name is known at the DNS Service's address: that needs kube-proxy and
/// CoreDNS both.
///
/// # Errors
/// When there is no answer after five minutes.
pub async fn dns() -> Result<(), Error> {
    until("the DNS Service gives no answer", async || {
        let name = "kubernetes.default.svc.cluster.local";
        let asked = lookup(SocketAddr::from((DNS_SERVICE, 53)), name);
        match time::timeout(Duration::from_millis(500), asked).await {
            Ok(Ok(true)) => Ok(()),
            Ok(Ok(false)) => Err(format!("{name} is not known")),
            Ok(Err(refused)) => Err(refused.to_string()),
            Err(_) => Err("no answer".into()),
        }
    })
    .await
}

/// Asks for a name's IPv4 address; true if there is one.
async fn lookup(server: SocketAddr, name: &str) -> std::io::Result<bool> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).await?;
    socket.connect(server).await?;
    socket.send(&dns_question(name)).await?;
    let mut answer = [0; 512];
    let length = socket.recv(&mut answer).await?;
    Ok(is_dns_success(&answer[..length]))
}

/// A DNS question for an A record (RFC 1035, section 4.1).
fn dns_question(name: &str) -> Vec<u8> {
    let mut packet = vec![0x70, 0x63, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in name.split('.') {
        packet.push(u8::try_from(label.len()).unwrap_or(0));
        packet.extend_from_slice(label.as_bytes());
    }
    packet.extend_from_slice(&[0, 0, 1, 0, 1]);
    packet
}

/// Whether an answer has no error code and at least one record.
fn is_dns_success(answer: &[u8]) -> bool {
    matches!(answer, [0x70, 0x63, _, flags, _, _, high, low, ..] if flags & 0x0f == 0 && (*high, *low) != (0, 0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dns_question_has_labels() {
        let packet = dns_question("a.bc");
        assert_eq!(&packet[12..], [1, b'a', 2, b'b', b'c', 0, 0, 1, 0, 1]);
    }

    #[test]
    fn only_an_answer_with_records_counts() {
        assert!(is_dns_success(&[0x70, 0x63, 0x81, 0x80, 0, 1, 0, 1, 0, 0, 0, 0]));
        assert!(!is_dns_success(&[0x70, 0x63, 0x81, 0x83, 0, 1, 0, 0, 0, 0, 0, 0]));
        assert!(!is_dns_success(&[]));
    }
}
