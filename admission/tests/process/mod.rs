//! Admission as it is deployed: its own process.

use std::{
    io::{Read, Write},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    path::Path,
    process::{Child, Command, ExitStatus, Stdio},
    time::{Duration, Instant},
};

use tempfile::TempDir;

const PATIENCE: Duration = Duration::from_secs(60);

/// The process; it is killed with this.
pub struct Admission {
    child: Child,
    health: SocketAddr,
    /// Where it answers reviews.
    pub webhook: SocketAddr,
    _folder: TempDir,
}

impl Admission {
    /// With this kubeconfig. It serves its health.
    pub fn start(kubeconfig: &str, arguments: &[String]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("kubeconfig");
        std::fs::write(&file, kubeconfig).unwrap();
        let (health, webhook) = (free(), free());
        let child = Command::new(env!("CARGO_BIN_EXE_powercap-admission"))
            .args([format!("--listen={health}"), format!("--webhook-listen={webhook}")])
            .args(arguments)
            .env_clear()
            .env("KUBECONFIG", &file)
            // As it is deployed.
            .envs([
                ("MALLOC_ARENA_MAX", "1"),
                ("MALLOC_TRIM_THRESHOLD_", "131072"),
                ("MALLOC_MMAP_THRESHOLD_", "131072"),
            ])
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let admission = Self { child, health, webhook, _folder: folder };
        admission.until("it serves its health", || admission.get("/livez").is_some());
        admission
    }

    /// Likewise, showing the certificate in this folder, and ready.
    pub fn ready(kubeconfig: &str, certificates: &Path, arguments: &[String]) -> Self {
        let mut all = vec![format!("--certificates-from={}", certificates.display())];
        all.extend_from_slice(arguments);
        let admission = Self::start(kubeconfig, &all);
        admission.until("it is ready", || admission.get("/readyz").is_some_and(|answer| answer.contains(" 200 ")));
        admission
    }

    /// The answer to a request of its health.
    pub fn get(&self, path: &str) -> Option<String> {
        let mut stream = TcpStream::connect(self.health).ok()?;
        write!(stream, "GET {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok()?;
        Some(answer)
    }

    /// Tells it to end.
    pub fn terminate(&self) {
        let sent = Command::new("kill").args(["-TERM", &self.child.id().to_string()]).status().unwrap();
        assert!(sent.success());
    }

    /// How it ended, once it has.
    pub fn ended(&mut self) -> ExitStatus {
        let begun = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(begun.elapsed() < PATIENCE, "it has not ended");
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// The most memory that was ever resident, in MiB.
    pub fn most_mib(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let most = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
        most.trim().strip_suffix(" kB").unwrap().parse::<u64>().unwrap() >> 10
    }

    /// Looks again and again until it is so.
    pub fn until(&self, what: &str, so: impl Fn() -> bool) {
        let begun = Instant::now();
        while !so() {
            assert!(begun.elapsed() < PATIENCE, "{what}: not within {PATIENCE:?}");
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Drop for Admission {
    fn drop(&mut self) {
        _ = self.child.kill();
        _ = self.child.wait();
    }
}

/// An address where nobody listens. All of 127.0.0.0/8 is this machine: at an address by our own number no other process
/// takes a port that we have found free.
pub fn free() -> SocketAddr {
    let [_, a, b, c] = std::process::id().to_be_bytes();
    TcpListener::bind((Ipv4Addr::new(127, a, b, c), 0)).unwrap().local_addr().unwrap()
}
