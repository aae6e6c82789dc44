//! The control plane: the identities of its parts, and the command line of each.

use std::net::IpAddr;
use std::path::{Path, PathBuf};

use super::daemon::Daemon;
use super::kubeconfig::kubeconfig;
use super::layout::ClusterSpec;
use super::network::{API_SERVICE, POD_SUBNET, SERVICE_SUBNET};
use super::pki::{self, Authority};

/// Where metrics-server listens.
pub const METRICS_SERVER_PORT: u16 = 4443;

/// Names of the programs in the multi-call binary that get a link.
pub const PROGRAMS: [&str; 9] = [
    "coredns",
    "etcd",
    "kube-apiserver",
    "kube-controller-manager",
    "kube-proxy",
    "kube-scheduler",
    "kubectl",
    "kubelet",
    "metrics-server",
];

/// Why the control plane's files could not be made.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A certificate could not be made.
    #[error(transparent)]
    Pki(#[from] pki::Error),
    /// A file could not be written.
    #[error("write {path}")]
    Write {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
}

/// Writes all keys, certificates, kubeconfigs and configuration files.
///
/// # Errors
/// When a certificate cannot be made or a file cannot be written.
pub fn write_files(spec: &ClusterSpec) -> Result<(), Error> {
    let pki = spec.layout.pki();
    let authority = Authority::new("kube-powercap-test")?;
    let front_proxy = Authority::new("kube-powercap-test-front-proxy")?;
    authority.identity().write(&pki, "ca")?;
    front_proxy.identity().write(&pki, "front-proxy-ca")?;
    front_proxy.client("front-proxy-client", &[])?.write(&pki, "front-proxy-client")?;
    pki::write_token_keys(&pki, "service-account")?;

    let address = IpAddr::V4(spec.network.control_plane());
    let names = [
        "kubernetes",
        "kubernetes.default",
        "kubernetes.default.svc",
        "kubernetes.default.svc.cluster.local",
        "localhost",
    ];
    let addresses = [address, IpAddr::V4(API_SERVICE), IpAddr::from([127, 0, 0, 1])];
    authority.server("kube-apiserver", &names, &addresses)?.write(&pki, "apiserver")?;
    authority.client("kube-apiserver-kubelet-client", &["system:masters"])?.write(&pki, "apiserver-kubelet-client")?;
    let names = ["metrics-server.kube-system.svc"];
    authority.server("metrics-server", &names, &[address])?.write(&pki, "metrics-server")?;

    let certificate = authority.identity().certificate;
    let server = spec.network.api_server();
    let write_kubeconfig = |path: &Path, user: &str, groups: &[&str]| -> Result<(), Error> {
        let identity = authority.client(user, groups)?;
        write(path, &kubeconfig(&server, &certificate, user, &identity).to_string())
    };
    for user in ["kube-controller-manager", "kube-scheduler", "kube-proxy", "coredns", "metrics-server"] {
        write_kubeconfig(&spec.layout.kubeconfig_of(user), &format!("system:{user}"), &[])?;
    }
    write_kubeconfig(&spec.layout.kubeconfig(), "kubernetes-admin", &["system:masters"])?;
    for node in &spec.nodes {
        let user = format!("system:node:{}", node.name);
        write_kubeconfig(&spec.layout.kubeconfig_of(&node.name), &user, &["system:nodes"])?;
        authority.server(&node.name, &[&node.name], &[IpAddr::V4(node.address)])?.write(&pki, &node.name)?;
    }
    write(
        &spec.layout.config().join("Corefile"),
        &include_str!("manifests/Corefile")
            .replace("KUBECONFIG", &spec.layout.kubeconfig_of("coredns").display().to_string()),
    )?;
    write(&spec.layout.config().join("resolv.conf"), "")
}

/// The objects that the cluster itself needs: DNS, metrics and their permissions.
pub fn manifest(spec: &ClusterSpec, authority: &str) -> String {
    use base64::Engine as _;
    include_str!("manifests/system.yaml")
        .replace("CONTROL_PLANE", &spec.network.control_plane().to_string())
        .replace("METRICS_SERVER_PORT", &METRICS_SERVER_PORT.to_string())
        .replace("CA_BUNDLE", &base64::prelude::BASE64_STANDARD.encode(authority))
}

/// etcd, on loopback, its data in memory or at least never synced: it lives as long as this run.
pub fn etcd(spec: &ClusterSpec) -> Daemon {
    program(spec, "etcd")
        .flag("name", "default")
        .flag("data-dir", spec.layout.etcd().display())
        .flag("listen-client-urls", "http://127.0.0.1:2379")
        .flag("advertise-client-urls", "http://127.0.0.1:2379")
        .flag("listen-peer-urls", "http://127.0.0.1:2380")
        .flag("initial-advertise-peer-urls", "http://127.0.0.1:2380")
        .flag("initial-cluster", "default=http://127.0.0.1:2380")
        .flag("log-level", "warn")
        .args(["--unsafe-no-fsync"])
}

/// The API server.
pub fn api_server(spec: &ClusterSpec) -> Daemon {
    let pki = |file: &str| spec.layout.pki().join(file).display().to_string();
    program(spec, "kube-apiserver")
        .flag("etcd-servers", "http://127.0.0.1:2379")
        .flag("bind-address", "0.0.0.0")
        .flag("secure-port", 6443)
        .flag("advertise-address", spec.network.control_plane())
        .flag("service-cluster-ip-range", SERVICE_SUBNET)
        .flag("allow-privileged", true)
        .flag("authorization-mode", "Node,RBAC")
        .flag("enable-admission-plugins", "NodeRestriction")
        .flag("client-ca-file", pki("ca.crt"))
        .flag("tls-cert-file", pki("apiserver.crt"))
        .flag("tls-private-key-file", pki("apiserver.key"))
        .flag("kubelet-certificate-authority", pki("ca.crt"))
        .flag("kubelet-client-certificate", pki("apiserver-kubelet-client.crt"))
        .flag("kubelet-client-key", pki("apiserver-kubelet-client.key"))
        .flag("kubelet-preferred-address-types", "InternalIP")
        .flag("service-account-issuer", "https://kubernetes.default.svc.cluster.local")
        .flag("service-account-key-file", pki("service-account.pub"))
        .flag("service-account-signing-key-file", pki("service-account.key"))
        .flag("proxy-client-cert-file", pki("front-proxy-client.crt"))
        .flag("proxy-client-key-file", pki("front-proxy-client.key"))
        .flag("requestheader-client-ca-file", pki("front-proxy-ca.crt"))
        .flag("requestheader-allowed-names", "front-proxy-client")
        .flag("requestheader-extra-headers-prefix", "X-Remote-Extra-")
        .flag("requestheader-group-headers", "X-Remote-Group")
        .flag("requestheader-username-headers", "X-Remote-User")
        // Webhooks and aggregated APIs are dialled at their endpoints: that needs no kube-proxy.
        .flag("enable-aggregator-routing", true)
}

/// The controller manager.
pub fn controller_manager(spec: &ClusterSpec) -> Daemon {
    let pki = |file: &str| spec.layout.pki().join(file).display().to_string();
    let kubeconfig = spec.layout.kubeconfig_of("kube-controller-manager").display().to_string();
    program(spec, "kube-controller-manager")
        .flag("kubeconfig", &kubeconfig)
        .flag("authentication-kubeconfig", &kubeconfig)
        .flag("authorization-kubeconfig", &kubeconfig)
        .flag("bind-address", "127.0.0.1")
        .flag("leader-elect", false)
        .flag("use-service-account-credentials", true)
        .flag("service-account-private-key-file", pki("service-account.key"))
        .flag("root-ca-file", pki("ca.crt"))
        .flag("cluster-signing-cert-file", pki("ca.crt"))
        .flag("cluster-signing-key-file", pki("ca.key"))
        .flag("cluster-cidr", POD_SUBNET)
        .flag("service-cluster-ip-range", SERVICE_SUBNET)
        // Instead of fifteen, which tests would wait for again and again.
        .flag("horizontal-pod-autoscaler-sync-period", "5s")
}

/// The scheduler.
pub fn scheduler(spec: &ClusterSpec) -> Daemon {
    let kubeconfig = spec.layout.kubeconfig_of("kube-scheduler").display().to_string();
    program(spec, "kube-scheduler")
        .flag("kubeconfig", &kubeconfig)
        .flag("authentication-kubeconfig", &kubeconfig)
        .flag("authorization-kubeconfig", &kubeconfig)
        .flag("bind-address", "127.0.0.1")
        .flag("leader-elect", false)
}

/// One kube-proxy for all nodes, which share the cluster's network namespace. It leaves connection
/// tracking alone: those settings are the host's.
pub fn proxy(spec: &ClusterSpec) -> Daemon {
    let node = spec.nodes.first().map(|node| node.name.as_str()).unwrap_or_default();
    program(spec, "kube-proxy")
        .flag("kubeconfig", spec.layout.kubeconfig_of("kube-proxy").display())
        .flag("proxy-mode", "iptables")
        .flag("cluster-cidr", POD_SUBNET)
        .flag("hostname-override", node)
        .flag("conntrack-max-per-core", 0)
        .flag("conntrack-tcp-timeout-established", "0s")
        .flag("conntrack-tcp-timeout-close-wait", "0s")
        .flag("iptables-min-sync-period", "100ms")
        .flag("oom-score-adj", 0)
}

/// DNS, behind the Service kube-dns.
pub fn dns(spec: &ClusterSpec) -> Daemon {
    program(spec, "coredns").args(["-conf".to_owned(), spec.layout.config().join("Corefile").display().to_string()])
}

/// metrics-server, behind its APIService.
pub fn metrics_server(spec: &ClusterSpec) -> Daemon {
    let pki = |file: &str| spec.layout.pki().join(file).display().to_string();
    let kubeconfig = spec.layout.kubeconfig_of("metrics-server").display().to_string();
    program(spec, "metrics-server")
        .flag("kubeconfig", &kubeconfig)
        .flag("authentication-kubeconfig", &kubeconfig)
        .flag("authorization-kubeconfig", &kubeconfig)
        .flag("bind-address", spec.network.control_plane())
        .flag("secure-port", METRICS_SERVER_PORT)
        .flag("tls-cert-file", pki("metrics-server.crt"))
        .flag("tls-private-key-file", pki("metrics-server.key"))
        .flag("kubelet-certificate-authority", pki("ca.crt"))
        .flag("kubelet-preferred-address-types", "InternalIP")
        .flag("kubelet-use-node-status-port", true)
        .flag("metric-resolution", "10s")
        .flag("kubelet-request-timeout", "5s")
}

/// A program of the multi-call binary, by its link.
pub fn program(spec: &ClusterSpec, name: &str) -> Daemon {
    Daemon::new(name, spec.layout.bin().join(name)).env("TMPDIR", spec.layout.scratch().display().to_string())
}

fn write(path: &Path, text: &str) -> Result<(), Error> {
    std::fs::write(path, text).map_err(|source| Error::Write { path: path.into(), source })
}
