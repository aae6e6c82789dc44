//! Where the files of a run lie, and what a run is: its nodes, its network, its images.

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

use ring::digest;
use serde::{Deserialize, Serialize};

use super::files::hex;

/// The directory of one run. Everything else that a run makes is named by its hash.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Layout {
    root: PathBuf,
}

impl Layout {
    /// The layout below `root`.
    ///
    /// # Errors
    /// When the current directory, to which a relative `root` refers, cannot be read.
    pub fn new(root: &Path) -> std::io::Result<Self> {
        Ok(Self { root: std::path::absolute(root)? })
    }

    /// The directory itself.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// A name of at most 15 characters (the limit for an interface) that is this run's alone.
    pub fn id(&self) -> String {
        let hash = digest::digest(&digest::SHA256, self.root.as_os_str().as_encoded_bytes());
        format!("pcap-{}", hex(&hash.as_ref()[..4]))
    }

    /// The file whose lock a live run holds. It also marks the directory as a run's.
    pub fn lock(&self) -> PathBuf {
        self.root.join(".kube-powercap-cluster")
    }

    /// The description of the run, for the processes inside.
    pub fn spec(&self) -> PathBuf {
        self.root.join("cluster.json")
    }

    /// Keys and certificates.
    pub fn pki(&self) -> PathBuf {
        self.root.join("pki")
    }

    /// Kubeconfigs of the cluster's own programs.
    pub fn kubeconfigs(&self) -> PathBuf {
        self.root.join("kubeconfigs")
    }

    /// The kubeconfig of one of the cluster's own programs.
    pub fn kubeconfig_of(&self, user: &str) -> PathBuf {
        self.kubeconfigs().join(user)
    }

    /// The administrator's kubeconfig, for people and tests.
    pub fn kubeconfig(&self) -> PathBuf {
        self.root.join("kubeconfig")
    }

    /// `kubectl` and the other programs, each a link to the one binary.
    pub fn bin(&self) -> PathBuf {
        self.root.join("bin")
    }

    /// What each daemon wrote.
    pub fn logs(&self) -> PathBuf {
        self.root.join("logs")
    }

    /// Process ids of the daemons, as seen inside the cluster.
    pub fn pids(&self) -> PathBuf {
        self.root.join("pids")
    }

    /// Configuration files of daemons.
    pub fn config(&self) -> PathBuf {
        self.root.join("config")
    }

    /// etcd's data.
    pub fn etcd(&self) -> PathBuf {
        self.root.join("etcd")
    }

    /// Scratch space of daemons.
    pub fn scratch(&self) -> PathBuf {
        self.root.join("tmp")
    }

    /// Where logs are kept when something failed, unless told otherwise.
    pub fn kept_logs(&self) -> PathBuf {
        let mut name = self.root.file_name().unwrap_or_default().to_os_string();
        name.push("-logs");
        self.root.with_file_name(name)
    }

    /// The files of one node.
    pub fn node(&self, name: &str) -> NodeLayout {
        NodeLayout { root: self.root.join("nodes").join(name) }
    }
}

/// The files of one node: what stands for the disk of a machine, and its hardware.
#[derive(Clone, Debug)]
pub struct NodeLayout {
    root: PathBuf,
}

impl NodeLayout {
    /// The simulated hardware's root, also seen from the host.
    pub fn hardware(&self) -> PathBuf {
        self.root.join("hardware")
    }

    /// The node's `/var/lib/kubelet`.
    pub fn kubelet(&self) -> PathBuf {
        self.root.join("kubelet")
    }

    /// The node's `/var/lib/cni`.
    pub fn cni(&self) -> PathBuf {
        self.root.join("cni")
    }

    /// The node's `/var/lib/powercap`, where a node agent keeps its journal.
    pub fn journal(&self) -> PathBuf {
        self.root.join("powercap")
    }

    /// For a moment of the node's start the host's `/var/lib`.
    pub fn hosts_folders(&self) -> PathBuf {
        self.root.join("host-var-lib")
    }

    /// The node's `/var/log`.
    pub fn log(&self) -> PathBuf {
        self.root.join("log")
    }

    /// containerd's images and containers.
    pub fn containerd(&self) -> PathBuf {
        self.root.join("containerd")
    }

    /// Configuration files of the node's daemons.
    pub fn config(&self) -> PathBuf {
        self.root.join("config")
    }

    /// Files that stand for kernel settings of the host, so that a kubelet need not change them.
    pub fn kernel(&self) -> PathBuf {
        self.root.join("kernel")
    }

    /// All directories that must be there before the node starts.
    pub fn directories(&self) -> [PathBuf; 9] {
        [
            self.hardware(),
            self.kubelet(),
            self.cni(),
            self.journal(),
            self.hosts_folders(),
            self.log(),
            self.containerd(),
            self.config(),
            self.kernel(),
        ]
    }
}

/// One node.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct NodeSpec {
    /// Its name in Kubernetes.
    pub name: String,
    /// Its own address, on which its kubelet listens.
    pub address: Ipv4Addr,
    /// The subnet of its pods.
    pub pod_subnet: String,
}

/// What a run is, written down for the processes inside.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ClusterSpec {
    /// Where its files lie.
    pub layout: Layout,
    /// Its addresses.
    pub network: crate::cluster::network::Network,
    /// Its nodes.
    pub nodes: Vec<NodeSpec>,
    /// The multi-call binary of Kubernetes programs.
    pub programs: PathBuf,
    /// The unpacked Debian packages.
    pub packages: PathBuf,
    /// Image archives to import on each node.
    pub images: Vec<PathBuf>,
    /// The command that is a node's hardware, with `{root}` and `{node}` to fill in.
    pub hardware: Option<String>,
}
