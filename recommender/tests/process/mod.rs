//! The recommender as it is deployed: its own process, against an [`ApiServer`].

use std::{
    io::{BufRead, BufReader},
    path::PathBuf,
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use serde_json::json;

use super::apiserver::{ApiServer, Key, Write};

/// The nodes of the rack.
pub const NODES: u32 = 4;
/// Its cap, and half a dozen times the watts that a node needs.
pub const CAP: u32 = 24_000;

/// A recommender; ends with this.
pub struct Recommender {
    child: Child,
    log: Arc<Mutex<String>>,
    _folder: tempfile::TempDir,
}

impl Recommender {
    /// Runs with these arguments, or without Prometheus and with a decision a second.
    pub fn start(server: &ApiServer, arguments: &[&str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let kubeconfig = folder.path().join("kubeconfig");
        std::fs::write(&kubeconfig, server.kubeconfig()).unwrap();
        let given =
            |default: &&str| arguments.iter().any(|argument| argument.split('=').next() == default.split('=').next());
        let defaults = ["--cycle-seconds=1", "--prometheus-url=http://127.0.0.1:9"];
        let mut child = Command::new(program())
            .args(["--listen", "127.0.0.1:0"])
            .args(defaults.iter().filter(|default| !given(default)))
            .args(arguments)
            .env_clear()
            .env("KUBECONFIG", &kubeconfig)
            // As it is deployed.
            .envs([
                ("MALLOC_ARENA_MAX", "1"),
                ("MALLOC_TRIM_THRESHOLD_", "131072"),
                ("MALLOC_MMAP_THRESHOLD_", "131072"),
            ])
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let log = Arc::new(Mutex::new(String::new()));
        let (lines, kept) = (BufReader::new(child.stderr.take().unwrap()).lines(), Arc::clone(&log));
        std::thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                *kept.lock().unwrap_or_else(PoisonError::into_inner) += &(line + "\n");
            }
        });
        Self { child, log, _folder: folder }
    }

    /// What it has said since `from` bytes.
    pub fn said(&self, from: usize) -> String {
        self.log.lock().unwrap_or_else(PoisonError::into_inner)[from..].to_owned()
    }

    /// How much it has said, in bytes.
    pub fn said_so_far(&self) -> usize {
        self.said(0).len()
    }

    /// Whether it has not ended.
    pub fn runs(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    /// Its process.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Sends it a signal by name: KILL, STOP, CONT.
    pub fn signal(&self, name: &str) {
        let sent = Command::new("kill").args([&format!("-{name}"), &self.id().to_string()]).status().unwrap();
        assert!(sent.success());
    }
}

/// The binary that Cargo built for this test; for an example, the one beside the examples.
fn program() -> PathBuf {
    let beside = || std::env::current_exe().unwrap().ancestors().nth(2).unwrap().join("powercap-recommender");
    option_env!("CARGO_BIN_EXE_powercap-recommender").map_or_else(beside, PathBuf::from)
}

impl Drop for Recommender {
    fn drop(&mut self) {
        _ = self.child.kill();
        _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("the recommender said:\n{}", self.said(0));
        }
    }
}

/// Whether it is so, looked at again and again until `within`.
pub async fn eventually(within: Duration, mut so: impl FnMut() -> bool) -> bool {
    let until = Instant::now() + within;
    while !so() {
        if Instant::now() > until {
            return false;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    true
}

/// A node of a rack, with its kubelet.
pub fn node(server: &ApiServer, name: &str, rack: &str) {
    let object = json!({
        "apiVersion": "v1", "kind": "Node", "metadata": {"name": name, "labels": {"rack": rack}}, "spec": {},
        "status": {"nodeInfo": node_info(&format!("boot-of-{name}"))},
    });
    server.put(&Key::of("nodes", name), object);
}

fn node_info(boot_id: &str) -> serde_json::Value {
    let fields = [
        "architecture",
        "containerRuntimeVersion",
        "kernelVersion",
        "kubeProxyVersion",
        "kubeletVersion",
        "machineID",
        "operatingSystem",
        "osImage",
        "systemUUID",
    ];
    let mut info = json!({"bootID": boot_id});
    fields.iter().for_each(|field| info[field] = json!(""));
    info
}

/// A domain NAME of the nodes labelled `rack: NAME`.
pub fn domain(server: &ApiServer, name: &str, cap: u32) {
    let object = json!({
        "apiVersion": "powercapping.io/v1alpha1", "kind": "PowerDomain", "metadata": {"name": name},
        "spec": {"powerCapLimitWatts": cap, "nodeSelector": {"matchLabels": {"rack": name}}},
    });
    server.put(&Key::of("powerdomains", name), object);
}

/// A person edits a cap.
pub fn edit_cap(server: &ApiServer, name: &str, cap: u32) {
    server.edit(&Key::of("powerdomains", name), &json!({"spec": {"powerCapLimitWatts": cap}}));
}

/// The grants that stand, by node.
pub fn grants(server: &ApiServer) -> Vec<Option<u64>> {
    let state = server.state();
    let objects = state.store.after("nodefrequencies", None);
    objects.map(|(_, object)| object["spec"]["powerLimitWatts"].as_u64()).collect()
}

/// Whether every node has this grant, and its agent has acknowledged it.
pub fn all_hold(server: &ApiServer, grant: u64) -> bool {
    let state = server.state();
    let mut objects = state.store.after("nodefrequencies", None).map(|(_, object)| object).peekable();
    objects.peek().is_some()
        && objects.all(|object| {
            let (spec, acknowledged) = (&object["spec"], &object["status"]["acknowledged"]);
            spec["powerLimitWatts"].as_u64() == Some(grant) && acknowledged["epoch"] == spec["epoch"]
        })
}

/// An API server with a rack of nodes whose agents answer within 50 ms.
pub async fn rack() -> ApiServer {
    let server = ApiServer::start().await;
    server.state().agents_take = Some(Duration::from_millis(50));
    for at in 0..NODES {
        node(&server, &format!("n{at}"), "rack");
    }
    domain(&server, "rack", CAP);
    server
}

/// What every node of the rack gets of a cap.
pub fn share(cap: u32) -> u64 {
    u64::from(cap / NODES)
}

/// Writes after this moment.
pub fn writes_since(server: &ApiServer, since: Instant) -> Vec<Write> {
    server.state().writes.iter().filter(|write| write.at > since).cloned().collect()
}

/// Whether nothing was written for three cycles.
pub fn quiet(server: &ApiServer) -> bool {
    server.state().writes.last().is_none_or(|write| write.at.elapsed() > Duration::from_secs(3))
}

/// Waits until nothing was written for three cycles.
pub async fn silence(server: &ApiServer, within: Duration) -> bool {
    eventually(within, || quiet(server)).await
}
