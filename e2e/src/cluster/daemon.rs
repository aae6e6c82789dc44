//! A long-running process of the cluster: its log, its process id, and its restart when it dies, as
//! systemd would.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use tokio::process::{Child, Command};
use tokio::sync::{mpsc, watch};

/// How long a daemon that died stays down.
const RESTART_DELAY: Duration = Duration::from_millis(500);

/// Why a daemon could not be started.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Its log could not be opened.
    #[error("open the log {path}")]
    Log {
        /// The log.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// It could not be started.
    #[error("start {name} ({program})")]
    Start {
        /// The daemon.
        name: String,
        /// Its program.
        program: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
}

/// A daemon that is to be started.
#[derive(Clone, Debug)]
pub struct Daemon {
    /// The name of its log and of its process id file.
    pub name: String,
    /// The program.
    pub program: PathBuf,
    /// Its arguments.
    pub arguments: Vec<String>,
    /// Its environment, on top of ours.
    pub environment: Vec<(String, String)>,
    /// Passes its standard output on instead of logging it.
    pub talks: bool,
}

impl Daemon {
    /// A daemon without arguments.
    pub fn new(name: &str, program: impl Into<PathBuf>) -> Self {
        Self {
            name: name.to_owned(),
            program: program.into(),
            arguments: Vec::new(),
            environment: Vec::new(),
            talks: false,
        }
    }

    /// Adds arguments.
    #[must_use]
    pub fn args<I: IntoIterator<Item = S>, S: Into<String>>(mut self, arguments: I) -> Self {
        self.arguments.extend(arguments.into_iter().map(Into::into));
        self
    }

    /// Adds a flag `--name=value`.
    #[must_use]
    pub fn flag(mut self, name: &str, value: impl std::fmt::Display) -> Self {
        self.arguments.push(format!("--{name}={value}"));
        self
    }

    /// Adds an environment variable.
    #[must_use]
    pub fn env(mut self, name: &str, value: impl Into<String>) -> Self {
        self.environment.push((name.to_owned(), value.into()));
        self
    }
}

/// A daemon's end.
#[derive(Debug)]
pub struct Exit {
    /// Which daemon.
    pub name: String,
    /// How it ended.
    pub status: Option<ExitStatus>,
    /// The line of its log that most likely says why.
    pub last_words: String,
}

impl std::fmt::Display for Exit {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "{} ended", self.name)?;
        if let Some(status) = self.status {
            write!(out, " ({status})")?;
        }
        if !self.last_words.is_empty() {
            write!(out, ", its last words: {}", self.last_words)?;
        }
        Ok(())
    }
}

/// Starts daemons, reports each end, and from [`Supervisor::keep_alive`] on restarts them.
pub struct Supervisor {
    logs: PathBuf,
    pids: Option<PathBuf>,
    ends: mpsc::UnboundedSender<Exit>,
    restart: watch::Sender<bool>,
}

impl Supervisor {
    /// A supervisor that keeps logs and process ids in these directories, and where it tells of ends.
    pub fn new(logs: &Path, pids: Option<&Path>) -> (Self, mpsc::UnboundedReceiver<Exit>) {
        let (ends, receiver) = mpsc::unbounded_channel();
        let supervisor =
            Self { logs: logs.into(), pids: pids.map(Into::into), ends, restart: watch::Sender::new(false) };
        (supervisor, receiver)
    }

    /// From now on a daemon that ends is started again.
    pub fn keep_alive(&self) {
        self.restart.send_replace(true);
    }

    /// Starts a daemon. Returns its standard output if it talks.
    ///
    /// # Errors
    /// When its log or its program cannot be opened.
    pub fn start(&self, daemon: Daemon) -> Result<Option<tokio::process::ChildStdout>, Error> {
        let log = self.logs.join(format!("{}.log", daemon.name));
        let pid = self.pids.as_ref().map(|pids| pids.join(&daemon.name));
        let mut child = spawn(&daemon, &log, pid.as_deref())?;
        let output = child.stdout.take();
        let (ends, restart) = (self.ends.clone(), self.restart.subscribe());
        tokio::spawn(async move {
            loop {
                let status = child.wait().await.ok();
                let (name, last_words) = (daemon.name.clone(), last_line(&log));
                let exit = Exit { name, status, last_words };
                if ends.send(exit).is_err() {
                    return;
                }
                if !*restart.borrow() || daemon.talks {
                    return;
                }
                tokio::time::sleep(RESTART_DELAY).await;
                match spawn(&daemon, &log, pid.as_deref()) {
                    Ok(again) => child = again,
                    Err(_) => return,
                }
            }
        });
        Ok(output)
    }
}

/// The last line of a file's last 4 KiB that speaks of an error, or else its last line; 200 characters
/// of it at most.
fn last_line(path: &Path) -> String {
    let read = || -> std::io::Result<String> {
        let mut file = File::open(path)?;
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(length.saturating_sub(4096)))?;
        let mut tail = Vec::new();
        file.read_to_end(&mut tail)?;
        Ok(String::from_utf8_lossy(&tail).into_owned())
    };
    let text = read().unwrap_or_default();
    let lines = || text.lines().rev().map(str::trim).filter(|line| !line.is_empty());
    let line = lines().find(|line| line.to_lowercase().contains("error")).or_else(|| lines().next());
    line.unwrap_or_default().chars().take(200).collect()
}

fn spawn(daemon: &Daemon, log: &Path, pid: Option<&Path>) -> Result<Child, Error> {
    let open = |source| Error::Log { path: log.into(), source };
    let file = File::options().create(true).append(true).open(log).map_err(open)?;
    let output = if daemon.talks { Stdio::piped() } else { file.try_clone().map_err(open)?.into() };
    let start = |source| Error::Start { name: daemon.name.clone(), program: daemon.program.clone(), source };
    let child = Command::new(&daemon.program)
        .args(&daemon.arguments)
        .envs(daemon.environment.iter().cloned())
        .stdin(Stdio::null())
        .stdout(output)
        .stderr(file)
        .process_group(0)
        .spawn()
        .map_err(start)?;
    if let (Some(path), Some(id)) = (pid, child.id()) {
        std::fs::write(path, id.to_string()).map_err(start)?;
    }
    Ok(child)
}
