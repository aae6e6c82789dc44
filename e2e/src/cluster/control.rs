//! The inner side of a run: starts everything, in the cluster's namespaces, and stays until its
//! standard input closes, which is how `cluster run` tells it to stop, and what happens if that dies.

use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader};
use tokio::process::ChildStdout;
use tokio::sync::mpsc;
use tokio::time;

use super::daemon::{self, Daemon, Exit, Supervisor};
use super::events::{Event, chain};
use super::files::FileError;
use super::layout::ClusterSpec;
use super::{cgroups, controlplane, mounts, network, ready};

/// It takes a tenth of a second on an idle machine.
const HARDWARE_WITHIN: Duration = Duration::from_secs(60);
/// So many daemons may end before the cluster is up.
const DEATHS_DURING_START: u32 = 10;

/// Why the cluster could not be started.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The run's description cannot be read.
    #[error("read {path}: {message}")]
    Spec {
        /// The description.
        path: PathBuf,
        /// Why.
        message: String,
    },
    /// The network could not be made.
    #[error(transparent)]
    Network(#[from] network::Error),
    /// A mount failed.
    #[error(transparent)]
    Mount(#[from] mounts::Error),
    /// A cgroup could not be made.
    #[error(transparent)]
    Cgroup(#[from] FileError),
    /// A daemon could not be started.
    #[error(transparent)]
    Daemon(#[from] daemon::Error),
    /// Something did not become ready.
    #[error(transparent)]
    Ready(#[from] ready::Error),
    /// A daemon died during the start.
    #[error("during the start {0}")]
    Died(Exit),
    /// A node reported that it failed.
    #[error("node {name}: {message}")]
    Node {
        /// The node.
        name: String,
        /// What it said.
        message: String,
    },
    /// The hardware command is not usable.
    #[error("the hardware command {0:?} is empty")]
    Hardware(String),
    /// The hardware command made no files.
    #[error("the hardware made no {cpufreq} within {within:?}: its log tells why")]
    NoCpufreq {
        /// How long it had.
        within: Duration,
        /// What it should have made.
        cpufreq: PathBuf,
    },
    /// A file could not be read.
    #[error("read {path}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
}

/// Reads a run's description.
///
/// # Errors
/// When it is not there or not understood.
pub fn read_spec(path: &Path) -> Result<ClusterSpec, Error> {
    let wrong = |message: String| Error::Spec { path: path.into(), message };
    let text = std::fs::read_to_string(path).map_err(|refused| wrong(refused.to_string()))?;
    serde_json::from_str(&text).map_err(|refused| wrong(refused.to_string()))
}

/// Starts the cluster and keeps it until standard input closes.
pub async fn run(spec: &ClusterSpec) {
    tokio::select! {
        () = stay(spec) => {}
        () = input_closed() => {}
    }
}

async fn stay(spec: &ClusterSpec) {
    let (supervisor, mut ends) = Supervisor::new(&spec.layout.logs(), Some(&spec.layout.pids()));
    // Some end by themselves where what they ask for is late: etcd's answer, a permission. Then they are started again.
    supervisor.keep_alive();
    let died_too_often = async {
        for _ in 0..DEATHS_DURING_START {
            if let Some(end) = ends.recv().await {
                Event::Note(format!("started again: {end}")).send();
            }
        }
        ends.recv().await
    };
    let started = tokio::select! {
        started = start(spec, &supervisor) => started,
        Some(end) = died_too_often => Err(Error::Died(end)),
    };
    match started {
        Ok(()) => Event::Ready.send(),
        // The namespaces stay until standard input closes: logs are gathered in them.
        Err(error) => {
            Event::Failed(chain(&error)).send();
            return std::future::pending().await;
        }
    }
    while let Some(end) = ends.recv().await {
        Event::Note(format!("started again: {end}")).send();
    }
    std::future::pending::<()>().await;
}

async fn input_closed() {
    let mut input = tokio::io::stdin();
    let mut buffer = [0; 64];
    while input.read(&mut buffer).await.is_ok_and(|read| read > 0) {}
}

async fn start(spec: &ClusterSpec, supervisor: &Supervisor) -> Result<(), Error> {
    network::remount_sysfs(&spec.layout.scratch())?;
    // For the lock of iptables, and whatever else daemons write there.
    mounts::fresh("tmpfs", "/run".as_ref())?;
    Event::LinkWanted.send();
    let addresses: Vec<_> = spec.nodes.iter().map(|node| node.address).collect();
    let names: Vec<&str> = spec.nodes.iter().map(|node| node.name.as_str()).collect();
    cgroups::create(&spec.layout.id(), &names)?;
    spec.network.link_from_inside(&addresses).await?;

    supervisor.start(controlplane::etcd(spec))?;
    supervisor.start(controlplane::api_server(spec))?;
    let (mut hardware_up, mut nodes_up) = (Vec::new(), Vec::new());
    for node in &spec.nodes {
        hardware_up.push(hardware(spec, &node.name, supervisor)?);
    }
    for up in hardware_up.into_iter().flatten() {
        up.await?;
    }
    for node in &spec.nodes {
        nodes_up.push((node.name.clone(), node_events(supervisor.start(node_process(spec, &node.name))?)));
    }
    Event::Step("containerd, etcd and the API server are started".into()).send();

    let client = ready::client(&spec.layout.kubeconfig()).await?;
    ready::api_server(&client).await?;
    Event::Step("the API server answers".into()).send();
    supervisor.start(controlplane::controller_manager(spec))?;
    supervisor.start(controlplane::scheduler(spec))?;
    let authority = spec.layout.pki().join("ca.crt");
    let authority = std::fs::read_to_string(&authority).map_err(|source| Error::Read { path: authority, source })?;
    let manifest = controlplane::manifest(spec, &authority);
    ready::apply(&spec.layout.bin().join("kubectl"), &spec.layout.kubeconfig(), &manifest).await?;
    supervisor.start(controlplane::dns(spec))?;
    supervisor.start(controlplane::metrics_server(spec))?;

    for (name, mut events) in nodes_up {
        loop {
            match events.recv().await {
                Some(Event::Ready) => break,
                Some(Event::Failed(message)) => return Err(Error::Node { name, message }),
                Some(event) => event.send(),
                None => {
                    return Err(Error::Node { name, message: "it ended".into() });
                }
            }
        }
        pass_on(name, events);
    }
    if names.is_empty() {
        return Ok(ready::service_account(&client).await?);
    }
    Event::Step("images are imported".into()).send();
    ready::nodes(&client, &names).await?;
    Event::Step(format!("nodes are ready: {}", names.join(", "))).send();
    supervisor.start(controlplane::proxy(spec))?;
    ready::service_account(&client).await?;
    ready::dns().await?;
    Event::Step("DNS answers at its Service".into()).send();
    Ok(())
}

/// Starts a node's hardware; the future ends when its files are there.
fn hardware(
    spec: &ClusterSpec,
    node: &str,
    supervisor: &Supervisor,
) -> Result<Option<impl Future<Output = Result<(), Error>>>, Error> {
    let Some(command) = &spec.hardware else {
        return Ok(None);
    };
    let root = spec.layout.node(node).hardware();
    let mut words = command
        .split_whitespace()
        .map(|word| word.replace("{root}", &root.display().to_string()).replace("{node}", node));
    let program = words.next().ok_or_else(|| Error::Hardware(command.clone()))?;
    supervisor.start(Daemon::new(&format!("{node}-hardware"), program).args(words))?;
    let cpufreq = root.join("cpufreq");
    Ok(Some(async move {
        let appeared = async {
            while !cpufreq.exists() {
                time::sleep(Duration::from_millis(20)).await;
            }
        };
        // A node that starts without would never see what comes later.
        time::timeout(HARDWARE_WITHIN, appeared)
            .await
            .map_err(|_| Error::NoCpufreq { within: HARDWARE_WITHIN, cpufreq })
    }))
}

/// A node, in a mount and a PID namespace of its own.
fn node_process(spec: &ClusterSpec, name: &str) -> Daemon {
    let me = "/proc/self/exe";
    let program = std::env::current_exe().unwrap_or_else(|_| me.into()).display().to_string();
    let mut daemon = Daemon::new(name, "unshare")
        .args(["--mount", "--pid", "--fork", "--mount-proc", "--kill-child", "--"])
        .args([program.as_str(), "inside", "init", "--", &program, "inside", "node"])
        .args(["--spec", &spec.layout.spec().display().to_string(), "--name", name]);
    daemon.talks = true;
    daemon
}

fn node_events(output: Option<ChildStdout>) -> mpsc::UnboundedReceiver<Event> {
    let (sender, receiver) = mpsc::unbounded_channel();
    if let Some(output) = output {
        tokio::spawn(async move {
            let mut lines = BufReader::new(output).lines();
            while let Ok(Some(line)) = lines.next_line().await {
                if sender.send(Event::parse(&line)).is_err() {
                    return;
                }
            }
        });
    }
    receiver
}

fn pass_on(name: String, mut events: mpsc::UnboundedReceiver<Event>) {
    tokio::spawn(async move {
        while let Some(event) = events.recv().await {
            if let Event::Note(note) = event {
                Event::Note(format!("{name}: {note}")).send();
            }
        }
    });
}
