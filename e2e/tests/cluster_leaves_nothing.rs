//! After a stop, by whatever cause, the machine is as before: no process, mount, cgroup, interface,
//! iptables rule, kernel setting or file of the cluster stays.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test")]

use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use powercap_e2e::cluster::layout::Layout;
use rustix::process::{Pid, Signal, kill_process};

/// Two cores: one cluster at a time.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

/// Directories in which something of a node could be left.
const WATCHED: [&str; 8] = ["/etc", "/opt", "/run", "/usr/libexec", "/var/lib", "/var/log", "/dev", "/sys/fs/cgroup"];
/// Kernel settings that a kubelet or kube-proxy would change.
const SETTINGS: [&str; 6] = [
    "/proc/sys/vm/overcommit_memory",
    "/proc/sys/kernel/panic",
    "/proc/sys/kernel/panic_on_oops",
    "/proc/sys/kernel/keys/root_maxkeys",
    "/proc/sys/net/ipv4/ip_forward",
    "/proc/sys/net/netfilter/nf_conntrack_max",
];

#[test]
fn a_command_that_ends_leaves_nothing_and_its_status_is_passed_on() {
    let place = Place::new("ended");
    let before = place.trace();
    let seen = place.cluster(&["run", "--nodes", "1"], &["sh", "-c", "kubectl get nodes; exit 7"]);
    let text = String::from_utf8_lossy(&seen.stdout);
    assert!(text.contains("node-1"), "{text}\n{}", String::from_utf8_lossy(&seen.stderr));
    assert_eq!(seen.status.code(), Some(7));
    // A command that failed has its logs kept, and nothing else.
    fs::remove_dir_all(place.layout.kept_logs()).expect("logs are kept after a failure");
    place.assert_as(&before);
}

#[test]
fn an_interrupt_leaves_nothing() {
    let place = Place::new("interrupted");
    let before = place.trace();
    let up = place.up();
    let inside = up.processes();
    assert!(inside.iter().any(|process| process.name == "pause"), "no pod: {inside:?}");
    // A live run is left alone.
    assert_eq!(place.cluster(&["sweep"], &[]).status.code(), Some(125));
    up.stop();
    assert_gone(&inside, Duration::ZERO);
    place.assert_as(&before);
}

#[test]
fn after_a_kill_no_process_survives_and_the_next_start_or_a_sweep_removes_the_rest() {
    let place = Place::new("killed");
    let before = place.trace();
    place.kill_when_up();
    assert_ne!(place.trace(), before, "the trace of a killed run is not seen");
    let cgroups = place.pod_cgroups();
    assert!(!cgroups.is_empty(), "the killed run's pod is not seen");

    // The pod's name is free again, or `up` would fail: the next start knows nothing of the first.
    let next = place.up();
    let left: Vec<_> = cgroups.intersection(&place.pod_cgroups()).cloned().collect();
    assert!(left.is_empty(), "the next start left of the killed run: {left:#?}");
    next.stop();
    place.assert_as(&before);

    place.kill_when_up();
    assert!(place.cluster(&["sweep"], &[]).status.success());
    place.assert_as(&before);
}

/// A run's directory, and what there is of the run on this machine.
struct Place {
    layout: Layout,
    _turn: MutexGuard<'static, ()>,
}

impl Place {
    fn new(name: &str) -> Self {
        let turn = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
        let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("cluster-{name}"));
        let place = Self { layout: Layout::new(&directory).unwrap(), _turn: turn };
        // What an earlier, failed test left must not pass for ours.
        assert!(place.cluster(&["sweep"], &[]).status.success());
        place
    }

    fn command(&self, subcommand: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_cluster"));
        command.args(subcommand).arg("--dir").arg(self.layout.root());
        command
    }

    fn cluster(&self, subcommand: &[&str], inside: &[&str]) -> Output {
        let mut command = self.command(subcommand);
        if !inside.is_empty() {
            command.arg("--").args(inside);
        }
        command.output().unwrap()
    }

    /// Starts a cluster with one pod, made from the host.
    fn up(&self) -> Up {
        let mut child =
            self.command(&["up", "--nodes", "1"]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let first = lines.next().and_then(Result::ok).unwrap_or_default();
        let Some(kubeconfig) = first.strip_prefix("export KUBECONFIG=") else {
            let seen = child.wait_with_output().unwrap();
            panic!("not up: {}", String::from_utf8_lossy(&seen.stderr));
        };
        let up = Up { child };
        let kubectl = |arguments: &[&str]| {
            let status = Command::new(self.layout.bin().join("kubectl"))
                .env("KUBECONFIG", kubeconfig)
                .args(arguments)
                .stdout(Stdio::null())
                .status()
                .unwrap();
            assert!(status.success(), "kubectl {arguments:?}: {status}");
        };
        kubectl(&["run", "pod", "--image=pause:dev", "--image-pull-policy=Never"]);
        kubectl(&["wait", "pod", "pod", "--for=condition=Ready", "--timeout=300s"]);
        up
    }

    /// Starts a cluster, and kills it without a chance to clean up.
    fn kill_when_up(&self) {
        let mut up = self.up();
        let inside = up.processes();
        up.signal(Signal::KILL);
        up.child.wait().unwrap();
        assert_gone(&inside, Duration::from_secs(60));
    }

    /// The cgroup directories of pods, which are named by the pods' UIDs: no two runs share one.
    fn pod_cgroups(&self) -> BTreeSet<PathBuf> {
        let mut found = BTreeSet::new();
        let mut open: Vec<_> = named(Path::new("/sys/fs/cgroup"), &self.layout.id()).collect();
        while let Some(directory) = open.pop() {
            let is_pod = directory.file_name().is_some_and(|name| name.to_string_lossy().starts_with("pod"));
            open.extend(entries(&directory).filter(|path| path.is_dir()));
            if is_pod {
                found.insert(directory);
            }
        }
        found
    }

    /// Everything that a run could leave, as lines.
    fn trace(&self) -> BTreeSet<String> {
        let id = self.layout.id();
        let mut trace = BTreeSet::new();
        // Beside this run there are others, with cgroups of their own.
        let is_a_runs =
            |path: &PathBuf| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("pcap-"));
        for directory in WATCHED {
            let files = entries(Path::new(directory)).filter(|path| !is_a_runs(path));
            trace.extend(files.map(|path| format!("file {}", path.display())));
        }
        trace.extend(named(Path::new("/sys/fs/cgroup"), &id).map(|path| format!("cgroup {}", path.display())));
        if self.layout.root().exists() {
            trace.insert(format!("file {}", self.layout.root().display()));
        }
        let lines = |path: &str| fs::read_to_string(path).unwrap();
        trace.extend(
            lines("/proc/self/mountinfo").lines().map(|line| format!("mount {}", line.split(' ').nth(4).unwrap())),
        );
        trace.extend(
            entries(Path::new("/sys/class/net"))
                .filter(|path| path.ends_with(&id))
                .map(|path| format!("interface {}", path.display())),
        );
        let rules = Command::new("iptables-save").output().unwrap();
        let rules = String::from_utf8(rules.stdout).unwrap();
        trace.extend(rules.lines().filter(|line| line.starts_with("-A")).map(|line| format!("rule {line}")));
        for setting in SETTINGS {
            let value = fs::read_to_string(setting).unwrap_or_default();
            trace.insert(format!("setting {setting} {}", value.trim()));
        }
        trace
    }

    fn assert_as(&self, before: &BTreeSet<String>) {
        let after = self.trace();
        let more: Vec<_> = after.difference(before).collect();
        let less: Vec<_> = before.difference(&after).collect();
        assert!(more.is_empty() && less.is_empty(), "left behind: {more:#?}, taken away: {less:#?}");
    }
}

/// A running `cluster up`. Killed when a test fails; what it leaves is swept by the next.
struct Up {
    child: Child,
}

impl Up {
    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// As by Ctrl-C.
    fn stop(mut self) {
        self.signal(Signal::INT);
        assert_eq!(self.child.wait().unwrap().code(), Some(0));
    }

    /// All processes of the cluster.
    fn processes(&self) -> Vec<Process> {
        let all: Vec<Process> = entries(Path::new("/proc")).filter_map(|path| Process::read(&path)).collect();
        let mut family = vec![self.child.id()];
        let mut known = 0;
        while known < family.len() {
            let parent = family[known];
            family.extend(all.iter().filter(|process| process.parent == parent).map(|process| process.id));
            known += 1;
        }
        all.into_iter().filter(|process| family.contains(&process.id)).collect()
    }
}

impl Drop for Up {
    fn drop(&mut self) {
        let _ended = self.child.kill();
        let _ended = self.child.wait();
    }
}

/// A process, told from a later one of the same id by when it began.
#[derive(Debug, PartialEq, Eq)]
struct Process {
    id: u32,
    parent: u32,
    name: String,
    began: String,
}

impl Process {
    fn read(path: &Path) -> Option<Self> {
        let id = path.file_name()?.to_str()?.parse().ok()?;
        let stat = fs::read_to_string(path.join("stat")).ok()?;
        // The name is in parentheses and may hold anything (proc(5)).
        let (start, rest) = stat.rsplit_once(')')?;
        let fields: Vec<&str> = rest.split_whitespace().collect();
        let name = start.split_once('(')?.1.to_owned();
        Some(Self { id, parent: fields.get(1)?.parse().ok()?, name, began: (*fields.get(19)?).to_owned() })
    }

    fn lives(&self) -> bool {
        Self::read(&PathBuf::from(format!("/proc/{}", self.id))).is_some_and(|now| now.began == self.began)
    }
}

fn assert_gone(processes: &[Process], within: Duration) {
    assert!(processes.len() > 10, "few processes: {processes:?}");
    let deadline = Instant::now() + within;
    loop {
        let alive: Vec<_> = processes.iter().filter(|process| process.lives()).collect();
        if alive.is_empty() {
            return;
        }
        assert!(Instant::now() < deadline, "alive: {alive:?}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn entries(directory: &Path) -> impl Iterator<Item = PathBuf> + use<> {
    fs::read_dir(directory).into_iter().flatten().flatten().map(|entry| entry.path())
}

/// The directories of this name in the hierarchies below `root`.
fn named(root: &Path, name: &str) -> impl Iterator<Item = PathBuf> {
    entries(root)
        .chain(std::iter::once(root.to_path_buf()))
        .map(move |hierarchy| hierarchy.join(name))
        .filter(|path| path.exists())
}
