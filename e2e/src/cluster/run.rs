//! The outer side of a run: takes the place, starts the namespaces, runs a command in them, stops all.

use std::ffi::OsString;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal};
use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::signal::unix::{SignalKind, signal};
use tokio::time;

use super::controlplane::{self, PROGRAMS};
use super::events::Event;
use super::existing::CLUSTER_DIR;
use super::files::{FileError, error};
use super::layout::{ClusterSpec, Layout, NodeSpec};
use super::network::{self, Network};
use super::sweep::{self, Claim};

/// How long a command may take to end after a signal.
const GRACE: Duration = Duration::from_secs(10);
/// How long the cluster may take to end after its input closed.
const END: Duration = Duration::from_secs(60);

/// Why a cluster could not be run.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The place could not be taken or cleaned.
    #[error(transparent)]
    Place(#[from] sweep::Error),
    /// The network could not be made.
    #[error(transparent)]
    Network(#[from] network::Error),
    /// Keys or configuration could not be written.
    #[error(transparent)]
    Files(#[from] controlplane::Error),
    /// A file or directory could not be made, read, moved or removed.
    #[error(transparent)]
    File(#[from] FileError),
    /// Namespaces need root.
    #[error("a cluster needs root, for namespaces, cgroups and mounts: run this by sudo")]
    NotRoot,
    /// A process could not be started or waited for.
    #[error("run {0}")]
    Process(String, #[source] std::io::Error),
    /// The cluster failed during its start.
    #[error("the cluster did not start: {0}")]
    Start(String),
    /// The cluster ended by itself.
    #[error("the cluster's processes ended ({0}); its log is cluster.log")]
    Ended(String),
    /// A signal asked to stop during the start.
    #[error("stopped by a signal")]
    Interrupted,
}

/// What to run.
#[derive(Clone, Debug)]
pub struct Options {
    /// The run's directory.
    pub directory: PathBuf,
    /// How many nodes, 0 to 200; 0 is a control plane alone.
    pub nodes: u8,
    /// The multi-call binary.
    pub programs: PathBuf,
    /// The unpacked Debian packages.
    pub packages: PathBuf,
    /// Image archives, the pause image's first.
    pub images: Vec<PathBuf>,
    /// The command that is a node's hardware.
    pub hardware: Option<String>,
    /// Where to keep logs in any case; without it they are kept after a failure alone.
    pub keep_logs: Option<PathBuf>,
}

/// Tells a person what happens.
pub trait Progress {
    /// A step is done, or something is worth knowing.
    fn say(&mut self, text: &str);
}

/// A cluster that runs.
pub struct Cluster {
    claim: Claim,
    spec: ClusterSpec,
    keep_logs: Option<PathBuf>,
    namespaces: Child,
    input: Option<ChildStdin>,
    events: Lines<BufReader<ChildStdout>>,
}

impl Cluster {
    /// Sweeps what an earlier run left and starts the processes; [`Cluster::ready`] waits for them.
    ///
    /// # Errors
    /// When we are not root, the place is in use, or files cannot be made.
    pub async fn start(options: Options, progress: &mut impl Progress) -> Result<Self, Error> {
        if !rustix::process::geteuid().is_root() {
            return Err(Error::NotRoot);
        }
        let layout = Layout::new(&options.directory).map_err(error("find the directory", &options.directory))?;
        let (claim, swept) = Claim::take(&layout).await?;
        if swept {
            progress.say("removed what an earlier run left");
        }
        let keep_logs = options.keep_logs.clone();
        let started = match prepare(layout, options).await {
            Ok(spec) => namespaces(&spec).map(|parts| (spec, parts)),
            Err(refused) => Err(refused),
        };
        match started {
            Ok((spec, (namespaces, input, events))) => Ok(Self { claim, spec, keep_logs, namespaces, input, events }),
            Err(refused) => {
                claim.release().await?;
                Err(refused)
            }
        }
    }

    /// Where the administrator's kubeconfig is.
    pub fn kubeconfig(&self) -> PathBuf {
        self.spec.layout.kubeconfig()
    }

    /// Where `kubectl` is.
    pub fn bin(&self) -> PathBuf {
        self.spec.layout.bin()
    }

    /// Makes the link to the host when the cluster asks for it and waits until all is up.
    ///
    /// # Errors
    /// When the start fails or a signal comes.
    pub async fn ready(&mut self, progress: &mut impl Progress) -> Result<(), Error> {
        let mut signals = Signals::new()?;
        loop {
            let event = tokio::select! {
                event = next(&mut self.events) => event,
                _ = signals.next() => return Err(Error::Interrupted),
            };
            match event {
                Some(Event::LinkWanted) => {
                    let pid = self.namespaces.id().unwrap_or_default();
                    self.spec.network.link_from_host(pid).await?;
                }
                Some(Event::Step(text) | Event::Note(text)) => progress.say(&text),
                Some(Event::Ready) => return Ok(()),
                Some(Event::Failed(message)) => return Err(Error::Start(message)),
                None => return Err(self.ended().await),
            }
        }
    }

    /// Stays until a signal comes.
    ///
    /// # Errors
    /// When the cluster ends by itself.
    pub async fn stay(&mut self, progress: &mut impl Progress) -> Result<(), Error> {
        let mut signals = Signals::new()?;
        loop {
            tokio::select! {
                _ = signals.next() => return Ok(()),
                event = next(&mut self.events) => match event {
                    Some(Event::Step(text) | Event::Note(text) | Event::Failed(text)) => progress.say(&text),
                    Some(_) => {}
                    None => return Err(self.ended().await),
                },
            }
        }
    }

    /// Runs a command in the cluster's namespaces. Returns its exit status, 128 and the number if a
    /// signal ended it. When a signal comes, it gets 10 s to end.
    ///
    /// # Errors
    /// When it cannot be started, or the cluster ends by itself.
    pub async fn run(&mut self, command: &[OsString], progress: &mut impl Progress) -> Result<i32, Error> {
        let mut signals = Signals::new()?;
        let shown = command.first().map(|word| word.to_string_lossy().into_owned()).unwrap_or_default();
        let failed = |source| Error::Process(shown.clone(), source);
        let mut child = self.inside(command)?.spawn().map_err(failed)?;
        let mut deadline = None;
        loop {
            let late = async {
                match deadline {
                    Some(deadline) => time::sleep_until(deadline).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                status = child.wait() => return status.map(exit_code).map_err(failed),
                () = late => return Ok(130),
                kind = signals.next() => {
                    if deadline.is_some() {
                        return Ok(130);
                    }
                    deadline = Some(time::Instant::now() + GRACE);
                    // A terminal has sent SIGINT to the command too.
                    if kind == SignalKind::terminate() {
                        forward_to_children(&child, Signal::TERM);
                    }
                }
                event = next(&mut self.events) => match event {
                    Some(Event::Step(text) | Event::Note(text) | Event::Failed(text)) => progress.say(&text),
                    Some(_) => {}
                    None => return Err(self.ended().await),
                },
            }
        }
    }

    /// Stops everything and removes it. Logs are kept if `failed`, or if options said so; the folder is
    /// returned.
    ///
    /// # Errors
    /// When something cannot be removed.
    pub async fn stop(mut self, failed: bool, progress: &mut impl Progress) -> Result<(), Error> {
        let began = Instant::now();
        let kept = match (&self.keep_logs, failed) {
            (Some(folder), _) => Some(folder.clone()),
            (None, true) => Some(self.spec.layout.kept_logs()),
            (None, false) => None,
        };
        if let Some(folder) = kept {
            match self.gather(&folder).await {
                Ok(()) => progress.say(&format!("logs are in {}", folder.display())),
                Err(refused) => progress.say(&format!("logs could not be kept: {refused}")),
            }
        }
        // The inner side ends when its input closes, its init with it, and all processes with that.
        self.input.take();
        if time::timeout(END, self.namespaces.wait()).await.is_err() {
            let _gone = self.namespaces.kill().await;
        }
        self.claim.release().await?;
        progress.say(&format!("stopped, nothing is left (in {:.1} s)", began.elapsed().as_secs_f32()));
        Ok(())
    }

    async fn gather(&self, folder: &Path) -> Result<(), Error> {
        super::logs::gather(&self.spec, folder).await.map_err(|refused| Error::Start(super::events::chain(&refused)))
    }

    /// A command in the cluster's network, mount and PID namespaces, in our current directory.
    fn inside(&self, command: &[OsString]) -> Result<Command, Error> {
        let here = std::env::current_dir().map_err(error("find", Path::new(".")))?;
        let pid = self.namespaces.id().unwrap_or_default();
        let path = std::env::var_os("PATH").unwrap_or_default();
        let with_kubectl = std::iter::once(self.spec.layout.bin()).chain(std::env::split_paths(&path));
        let path = std::env::join_paths(with_kubectl).unwrap_or(path);
        let mut inside = Command::new("nsenter");
        inside
            .arg(format!("--net=/proc/{pid}/ns/net"))
            .arg(format!("--mount=/proc/{pid}/ns/mnt"))
            .arg(format!("--pid=/proc/{pid}/ns/pid_for_children"))
            .arg("--")
            // Entering a mount namespace leaves us in its root.
            .args(["env".as_ref(), "--chdir".as_ref(), here.as_os_str()])
            .args(command)
            .env("PATH", path)
            .env("KUBECONFIG", self.spec.layout.kubeconfig())
            .env(CLUSTER_DIR, self.spec.layout.root());
        Ok(inside)
    }

    async fn ended(&mut self) -> Error {
        match self.namespaces.wait().await {
            Ok(status) => Error::Ended(status.to_string()),
            Err(refused) => Error::Ended(refused.to_string()),
        }
    }
}

/// Writes all files of the run.
async fn prepare(layout: Layout, options: Options) -> Result<ClusterSpec, Error> {
    let network = Network::choose(&layout.id()).await?;
    let nodes: Vec<NodeSpec> = (0..options.nodes)
        .map(|index| NodeSpec {
            name: format!("node-{}", index + 1),
            address: network.node(index),
            pod_subnet: format!("10.244.{}.0/24", index + 1),
        })
        .collect();
    let absolute = |path: &Path| std::path::absolute(path).map_err(error("find", path));
    let images: Result<Vec<PathBuf>, FileError> = options.images.iter().map(|path| absolute(path)).collect();
    let spec = ClusterSpec {
        network,
        nodes,
        programs: absolute(&options.programs)?,
        packages: absolute(&options.packages)?,
        images: images?,
        hardware: options.hardware,
        layout,
    };
    let layout = &spec.layout;
    let directories = [
        layout.pki(),
        layout.kubeconfigs(),
        layout.bin(),
        layout.logs(),
        layout.pids(),
        layout.config(),
        layout.scratch(),
    ];
    let of_nodes = spec.nodes.iter().flat_map(|node| layout.node(&node.name).directories());
    for directory in directories.into_iter().chain(of_nodes) {
        std::fs::create_dir_all(&directory).map_err(error("create", &directory))?;
    }
    for program in PROGRAMS {
        let link = layout.bin().join(program);
        std::os::unix::fs::symlink(&spec.programs, &link).map_err(error("link", &link))?;
    }
    controlplane::write_files(&spec)?;
    let text = serde_json::to_string(&spec).unwrap_or_default();
    std::fs::write(layout.spec(), text).map_err(error("write", &layout.spec()))?;
    Ok(spec)
}

type Namespaces = (Child, Option<ChildStdin>, Lines<BufReader<ChildStdout>>);

/// Starts the inner side as process 1 of new namespaces. `setpriv` has the kernel kill `unshare` when
/// we die, `--kill-child` has it kill the inner side when `unshare` dies.
fn namespaces(spec: &ClusterSpec) -> Result<Namespaces, Error> {
    let me = std::env::current_exe().map_err(error("find", Path::new("/proc/self/exe")))?;
    let log = spec.layout.logs().join("cluster.log");
    let log = std::fs::File::create(&log).map_err(error("create", &log))?;
    let mut child = Command::new("setpriv")
        .args(["--pdeathsig", "KILL", "unshare", "--net", "--mount", "--pid", "--fork", "--mount-proc"])
        .args(["--kill-child", "--"])
        .arg(&me)
        .args(["inside", "init", "--"])
        .arg(&me)
        .args(["inside", "control", "--spec"])
        .arg(spec.layout.spec())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(log)
        .process_group(0)
        .kill_on_drop(true)
        .spawn()
        .map_err(|source| Error::Process("setpriv, unshare".into(), source))?;
    let input = child.stdin.take();
    let output = child.stdout.take().ok_or_else(|| Error::Ended("without output".into()))?;
    Ok((child, input, BufReader::new(output).lines()))
}

async fn next(events: &mut Lines<BufReader<ChildStdout>>) -> Option<Event> {
    let line = events.next_line().await.ok().flatten()?;
    Some(Event::parse(&line))
}

fn exit_code(status: ExitStatus) -> i32 {
    status.code().or_else(|| status.signal().map(|signal| 128 + signal)).unwrap_or(1)
}

/// Sends a signal to the children of `nsenter`, which itself ignores it.
fn forward_to_children(parent: &Child, what: Signal) {
    let Some(pid) = parent.id() else { return };
    let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"));
    for child in children.unwrap_or_default().split_whitespace() {
        if let Some(child) = child.parse().ok().and_then(Pid::from_raw) {
            let _gone = rustix::process::kill_process(child, what);
        }
    }
}

/// SIGINT, SIGTERM and SIGHUP.
struct Signals {
    interrupt: tokio::signal::unix::Signal,
    terminate: tokio::signal::unix::Signal,
    hangup: tokio::signal::unix::Signal,
}

impl Signals {
    fn new() -> Result<Self, Error> {
        let listen = |kind| signal(kind).map_err(|source| Error::Process("signal handlers".into(), source));
        Ok(Self {
            interrupt: listen(SignalKind::interrupt())?,
            terminate: listen(SignalKind::terminate())?,
            hangup: listen(SignalKind::hangup())?,
        })
    }

    async fn next(&mut self) -> SignalKind {
        tokio::select! {
            _ = self.interrupt.recv() => SignalKind::interrupt(),
            _ = self.terminate.recv() => SignalKind::terminate(),
            _ = self.hangup.recv() => SignalKind::hangup(),
        }
    }
}
