//! One node, from inside its own mount and PID namespace: its view of the file system, containerd,
//! images, the kubelet.
//!
//! Each node has its own `/var/lib/kubelet`, `/var/lib/cni`, `/var/lib/powercap`, `/var/log`, `/run`, and
//! its simulated hardware at `/run/simulated-hardware` and `/sys/devices/system/cpu/cpufreq`, so that
//! manifests with host paths need no change.

use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::mount::UnmountFlags;
use serde_json::{Value, json};
use tokio::process::Command;
use tokio::time;

use super::controlplane::program;
use super::daemon::{self, Daemon, Exit, Supervisor};
use super::events::Event;
use super::images::PAUSE_IMAGE;
use super::layout::{ClusterSpec, NodeLayout, NodeSpec};
use super::mounts;
use super::network::DNS_SERVICE;
use super::ready::PATIENCE;

const CONTAINERD_SOCKET: &str = "/run/containerd/containerd.sock";
/// Where pods of a node find its hardware.
pub const HARDWARE_MOUNT: &str = "/run/simulated-hardware";
const CPUFREQ: &str = "/sys/devices/system/cpu/cpufreq";

/// What the kubelet wants of the kernel. Files with these values are laid over the settings, so that
/// the kubelet finds them as it wants and leaves the host's alone.
const KERNEL_SETTINGS: [(&str, &str); 6] = [
    ("/proc/sys/vm/overcommit_memory", "1"),
    ("/proc/sys/vm/panic_on_oom", "0"),
    ("/proc/sys/kernel/panic", "10"),
    ("/proc/sys/kernel/panic_on_oops", "1"),
    ("/proc/sys/kernel/keys/root_maxkeys", "1000000"),
    ("/proc/sys/kernel/keys/root_maxbytes", "25000000"),
];

/// Why a node could not start.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The run has no such node.
    #[error("the run has no node {0}")]
    Unknown(String),
    /// A mount failed.
    #[error(transparent)]
    Mount(#[from] mounts::Error),
    /// A daemon could not be started.
    #[error(transparent)]
    Daemon(#[from] daemon::Error),
    /// A daemon died during the start.
    #[error("during the start {0}")]
    Died(Exit),
    /// A folder could not be read.
    #[error("read {path}")]
    Read {
        /// The folder.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// A file could not be written.
    #[error("write {path}")]
    Write {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// containerd does not answer.
    #[error("containerd does not answer after {} s", PATIENCE.as_secs())]
    Containerd,
    /// An image could not be imported.
    #[error("import {archive}: {message}")]
    Import {
        /// The archive.
        archive: PathBuf,
        /// What ctr said.
        message: String,
    },
}

/// Runs the node until it is killed.
///
/// # Errors
/// When something fails before the node is up.
pub async fn run(spec: &ClusterSpec, name: &str) -> Result<(), Error> {
    let node = spec.nodes.iter().find(|node| node.name == name).ok_or_else(|| Error::Unknown(name.to_owned()))?;
    let files = spec.layout.node(name);
    mount(&files)?;
    write_config(spec, node, &files)?;
    let (supervisor, mut ends) = Supervisor::new(&spec.layout.logs(), None);
    tokio::select! {
        started = start(spec, &files, name, &supervisor) => started?,
        Some(end) = ends.recv() => return Err(Error::Died(end)),
    }
    supervisor.keep_alive();
    Event::Ready.send();
    while let Some(end) = ends.recv().await {
        Event::Note(format!("started again: {end}")).send();
    }
    Ok(())
}

async fn start(spec: &ClusterSpec, files: &NodeLayout, name: &str, supervisor: &Supervisor) -> Result<(), Error> {
    supervisor.start(containerd(spec, files, name))?;
    answer(spec).await?;
    // The sandbox image first: without it the kubelet cannot start a pod.
    let mut images = spec.images.iter();
    if let Some(pause) = images.next() {
        import(spec, pause).await?;
    }
    supervisor.start(kubelet(spec, files, name))?;
    for archive in images {
        import(spec, archive).await?;
    }
    Ok(())
}

fn mount(files: &NodeLayout) -> Result<(), Error> {
    own_folders("/var/lib".as_ref(), &files.hosts_folders())?;
    for (folder, at) in
        [(files.kubelet(), "/var/lib/kubelet"), (files.cni(), "/var/lib/cni"), (files.journal(), "/var/lib/powercap")]
    {
        mounts::directory(at.as_ref())?;
        mounts::bind(&folder, at.as_ref())?;
    }
    mounts::share("/var/lib/kubelet".as_ref())?;
    mounts::bind(&files.log(), "/var/log".as_ref())?;
    mounts::fresh("tmpfs", "/run".as_ref())?;
    mounts::directory(HARDWARE_MOUNT.as_ref())?;
    mounts::bind(&files.hardware(), HARDWARE_MOUNT.as_ref())?;
    let cpufreq = files.hardware().join("cpufreq");
    if cpufreq.exists() {
        if Path::new(CPUFREQ).exists() {
            mounts::bind(&cpufreq, CPUFREQ.as_ref())?;
        } else {
            Event::Note(format!("this machine has no {CPUFREQ}: pods find none")).send();
        }
    }
    for (setting, value) in KERNEL_SETTINGS {
        let stand_in = files.kernel().join(setting.trim_start_matches('/').replace('/', "."));
        write(&stand_in, value)?;
        if Path::new(setting).exists() {
            mounts::bind(&stand_in, setting.as_ref())?;
        }
    }
    Ok(())
}

/// Lets folders be made in `parent` that the host does not see, beside the host's own.
///
/// A mount point that were made on the host would have to be removed from it, and with it goes what other runs have
/// mounted there.
fn own_folders(parent: &Path, aside: &Path) -> Result<(), Error> {
    mounts::bind(parent, aside)?;
    mounts::fresh("tmpfs", parent)?;
    let hosts = std::fs::read_dir(aside).map_err(|source| Error::Read { path: parent.into(), source })?;
    for folder in hosts.flatten().filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())) {
        let at = parent.join(folder.file_name());
        mounts::directory(&at)?;
        mounts::bind(&folder.path(), &at)?;
    }
    Ok(mounts::unmount(aside, UnmountFlags::DETACH)?)
}

fn containerd(spec: &ClusterSpec, files: &NodeLayout, name: &str) -> Daemon {
    Daemon::new(&format!("{name}-containerd"), spec.packages.join("usr/bin/containerd"))
        .args(["--config", &files.config().join("containerd.toml").display().to_string()])
        .env("PATH", path(spec))
        .env("TMPDIR", spec.layout.scratch().display().to_string())
}

fn kubelet(spec: &ClusterSpec, files: &NodeLayout, name: &str) -> Daemon {
    let mut daemon = program(spec, "kubelet")
        .flag("kubeconfig", spec.layout.kubeconfig_of(name).display())
        .flag("config", files.config().join("kubelet.json").display())
        .flag("hostname-override", name)
        .env("PATH", path(spec));
    if let Some(node) = spec.nodes.iter().find(|node| node.name == name) {
        daemon = daemon.flag("node-ip", node.address);
    }
    daemon.name = format!("{name}-kubelet");
    daemon
}

fn path(spec: &ClusterSpec) -> String {
    let unpacked = |folder: &str| spec.packages.join(folder).display().to_string();
    let inherited = std::env::var("PATH").unwrap_or_default();
    format!("{}:{}:{inherited}", unpacked("usr/bin"), unpacked("usr/sbin"))
}

fn write_config(spec: &ClusterSpec, node: &NodeSpec, files: &NodeLayout) -> Result<(), Error> {
    let config = files.config();
    write(&config.join("containerd.toml"), &containerd_config(spec, files))?;
    write(&config.join("kubelet.json"), &kubelet_config(spec, node).to_string())?;
    let network = config.join("cni");
    mounts::directory(&network)?;
    write(&network.join("10-pods.conflist"), &network_config(node).to_string())
}

fn containerd_config(spec: &ClusterSpec, files: &NodeLayout) -> String {
    let quote = |path: PathBuf| format!("{:?}", path.display().to_string());
    include_str!("manifests/containerd.toml")
        .replace("ROOT", &quote(files.containerd().join("root")))
        .replace("OPT", &quote(files.containerd().join("opt")))
        .replace("SOCKET", &format!("{CONTAINERD_SOCKET:?}"))
        .replace("PAUSE", &format!("{PAUSE_IMAGE:?}"))
        .replace("CNI_PROGRAMS", &quote(spec.packages.join("usr/lib/cni")))
        .replace("CNI_CONFIG", &quote(files.config().join("cni")))
        .replace("RUNC", &quote(spec.packages.join("usr/sbin/runc")))
}

fn network_config(node: &NodeSpec) -> Value {
    json!({
        "cniVersion": "1.0.0",
        "name": "pods",
        "plugins": [{
            "type": "ptp",
            "mtu": 1500,
            "ipam": {
                "type": "host-local",
                "ranges": [[{"subnet": node.pod_subnet}]],
                "routes": [{"dst": "0.0.0.0/0"}],
            },
        }],
    })
}

fn kubelet_config(spec: &ClusterSpec, node: &NodeSpec) -> Value {
    let pki = |file: &str| spec.layout.pki().join(file).display().to_string();
    json!({
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "address": node.address,
        "healthzBindAddress": node.address,
        "authentication": {
            "anonymous": {"enabled": false},
            "webhook": {"enabled": true},
            "x509": {"clientCAFile": pki("ca.crt")},
        },
        "authorization": {"mode": "Webhook"},
        "tlsCertFile": pki(&format!("{}.crt", node.name)),
        "tlsPrivateKeyFile": pki(&format!("{}.key", node.name)),
        "containerRuntimeEndpoint": format!("unix://{CONTAINERD_SOCKET}"),
        "cgroupDriver": "cgroupfs",
        "cgroupRoot": format!("/{}/{}", spec.layout.id(), node.name),
        "failCgroupV1": false,
        "failSwapOn": false,
        "enforceNodeAllocatable": [],
        "evictionHard": {},
        "imageGCHighThresholdPercent": 100,
        "clusterDNS": [DNS_SERVICE],
        "clusterDomain": "cluster.local",
        "resolvConf": spec.layout.config().join("resolv.conf"),
        "volumePluginDir": "/var/lib/kubelet/volume-plugins",
        "makeIPTablesUtilChains": false,
        "oomScoreAdj": 0,
    })
}

fn ctr(spec: &ClusterSpec) -> Command {
    let mut command = Command::new(spec.packages.join("usr/bin/ctr"));
    command.args(["--address", CONTAINERD_SOCKET, "--namespace", "k8s.io"]);
    command
}

async fn answer(spec: &ClusterSpec) -> Result<(), Error> {
    let answers = async {
        loop {
            if Path::new(CONTAINERD_SOCKET).exists()
                && ctr(spec).args(["version"]).output().await.is_ok_and(|output| output.status.success())
            {
                return;
            }
            time::sleep(Duration::from_millis(50)).await;
        }
    };
    time::timeout(PATIENCE, answers).await.map_err(|_| Error::Containerd)
}

async fn import(spec: &ClusterSpec, archive: &Path) -> Result<(), Error> {
    let output = ctr(spec).args(["images", "import"]).arg(archive).output().await;
    let message = match output {
        Ok(output) if output.status.success() => return Ok(()),
        Ok(output) => String::from_utf8_lossy(&output.stderr).trim().to_owned(),
        Err(refused) => refused.to_string(),
    };
    Err(Error::Import { archive: archive.into(), message })
}

fn write(path: &Path, text: &str) -> Result<(), Error> {
    std::fs::write(path, text).map_err(|source| Error::Write { path: path.into(), source })
}
