//! The conformance suite, as the command that people run, against simulated boards and CPUs: it passes
//! on good ones, and it can fail.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test")]

use std::{
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc::Sender,
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use powercap_simulated_hardware::{
    Board, BoardSpec, Load, NodeSpec, Request, Root, board::Traits, daemon::Hardware, record::RecordFile, run_hardware,
};
use serde_json::Value;

/// Cargo puts the library beside this test, or one folder above.
fn library() -> PathBuf {
    let mut folder = std::env::current_exe().unwrap();
    while folder.pop() {
        let library = folder.join("libnvidia_ml.so");
        if library.exists() {
            return library;
        }
    }
    panic!("libnvidia_ml.so was not built");
}

/// A node with a load on its boards.
struct Node {
    root: Root,
    folder: tempfile::TempDir,
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Node {
    /// Boots it as an administrator leaves it: in persistence mode.
    fn boot(spec: NodeSpec, loaded: bool) -> Self {
        Self::boot_by(loaded, move |root, ready, stop| {
            run_hardware(root, &spec, || ready.send(()).unwrap(), || stop.load(Ordering::Relaxed)).unwrap();
        })
    }

    /// Boots it with another daemon.
    fn boot_by(loaded: bool, run: impl FnOnce(&Root, Sender<()>, &AtomicBool) + Send + 'static) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let root = Root::new(folder.path().join("hardware"));
        let stop = Arc::new(AtomicBool::new(false));
        let (ready, is_ready) = std::sync::mpsc::channel();
        let daemon = std::thread::spawn({
            let (root, stop) = (root.clone(), Arc::clone(&stop));
            move || run(&root, ready, &stop)
        });
        is_ready.recv().unwrap();
        for (_, board) in root.boards().unwrap() {
            let persist = |request: &mut Request| (request.generation, request.persistence) = (1, true);
            board.request().unwrap().update(persist).unwrap();
            let mut state = board.state().unwrap();
            while !state.read().unwrap().persistence {
                std::thread::sleep(Duration::from_millis(5));
            }
        }
        let mut node = Self { root, folder, stop, threads: vec![daemon] };
        if loaded {
            node.load();
        }
        node
    }

    fn load(&mut self) {
        let mut loads: Vec<_> = self.root.boards().unwrap().iter().map(|(_, board)| board.load().unwrap()).collect();
        let stop = Arc::clone(&self.stop);
        self.threads.push(std::thread::spawn(move || {
            let mut beat = 0;
            while !stop.load(Ordering::Relaxed) {
                beat += 1;
                loads.iter_mut().for_each(|load| load.write(&Load::training(beat, 70_000)).unwrap());
                std::thread::sleep(Duration::from_millis(50));
            }
        }));
        // The sensors' averages have filled then.
        self.pass(1.5);
    }

    /// Waits until so much time has passed for the boards, however busy this machine is.
    fn pass(&self, seconds: f64) {
        let boards = self.root.boards().unwrap();
        let uptime = || boards.iter().map(|(_, board)| board.state().unwrap().read().unwrap().uptime_seconds);
        let until: Vec<f64> = uptime().map(|uptime| uptime + seconds).collect();
        while uptime().zip(&until).any(|(uptime, until)| uptime < *until) {
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    fn command(&self, more: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_powercap-actuator"));
        command
            .arg("conformance")
            .args([Path::new("--nvml-library"), &library()])
            .args([Path::new("--cpufreq-root"), &self.root.cpufreq_path()])
            .args([Path::new("--powercap-root"), &self.root.powercap_path()])
            .args([Path::new("--journal"), &self.folder.path().join("journal")])
            .args([Path::new("--pod-resources-socket"), &self.socket()])
            .args([Path::new("--output"), &self.report_path()])
            .args(more)
            .env("SIMULATED_HARDWARE_ROOT", self.root.path());
        command
    }

    fn run(&self, more: &[&str]) -> (Output, Value) {
        let output = self.command(more).output().unwrap();
        let report = std::fs::read(self.report_path()).unwrap_or_default();
        (output, serde_json::from_slice(&report).unwrap_or_default())
    }

    fn report_path(&self) -> PathBuf {
        self.folder.path().join("report.json")
    }

    fn lock(&self) -> PathBuf {
        self.folder.path().join("journal.lock")
    }

    fn socket(&self) -> PathBuf {
        self.folder.path().join("kubelet.sock")
    }

    /// What stands in hardware: locks, limits, ceilings.
    fn settings(&self) -> Vec<String> {
        self.pass(0.2);
        let mut settings = Vec::new();
        for (_, board) in self.root.boards().unwrap() {
            let state = board.state().unwrap().read().unwrap();
            settings.push(format!("{} {} {}", state.lock_min_mhz, state.lock_max_mhz, state.limit_mw));
        }
        for policy in std::fs::read_dir(self.root.cpufreq_path()).unwrap() {
            for file in ["scaling_min_freq", "scaling_max_freq"] {
                let text = std::fs::read_to_string(policy.as_ref().unwrap().path().join(file)).unwrap();
                settings.push(text.trim().to_owned());
            }
        }
        settings
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            thread.join().unwrap();
        }
    }
}

/// The verdicts of a check, with what was said about them.
fn verdicts(report: &Value, check: &str) -> Vec<String> {
    let findings = report["findings"].as_array().unwrap_or_else(|| panic!("no report: {report}"));
    let of_check = findings.iter().filter(|finding| finding["check"] == check);
    of_check.map(|finding| format!("{} {}", finding["verdict"].as_str().unwrap(), finding["message"])).collect()
}

fn failures(report: &Value) -> Vec<String> {
    let findings = report["findings"].as_array().unwrap_or_else(|| panic!("no report: {report}"));
    let failed = findings.iter().filter(|finding| finding["verdict"] == "Fail");
    failed.map(|finding| format!("{} {}", finding["check"].as_str().unwrap(), finding["message"])).collect()
}

fn all_verdicts_start(report: &Value, check: &str, word: &str) {
    let verdicts = verdicts(report, check);
    assert!(!verdicts.is_empty() && verdicts.iter().all(|verdict| verdict.starts_with(word)), "{check}: {verdicts:?}");
}

#[test]
fn every_simulated_model_passes_every_check_and_is_left_as_it_was() {
    // Two at once: the machine is not slowed by their number, and the test ends sooner.
    for pair in BoardSpec::MODELS.chunks(2) {
        std::thread::scope(|scope| pair.iter().for_each(|model| drop(scope.spawn(|| passes_every_check(model)))));
    }
}

fn passes_every_check(model: &str) {
    let node = Node::boot(NodeSpec::new("node-1", 2, BoardSpec::by_name(model).unwrap()), true);
    let before = node.settings();
    let (mut output, mut report) = node.run(&["--write", "--force"]);
    // Where this machine is busy with other work, calls are slow through no fault of the board: that check
    // alone may be made again.
    for _ in 0..3 {
        if failures(&report).is_empty()
            || !failures(&report).iter().all(|failure| failure.starts_with("call-durations"))
        {
            break;
        }
        (output, report) = node.run(&["--write", "--force"]);
    }
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!(failures(&report), [""; 0], "{model}: {text}");
    assert_eq!(output.status.code(), Some(0), "{model}: {text}");
    for check in ["clock-grid", "power-instant", "power-average", "energy", "lock-clocks", "lock-reset", "limit-set"] {
        all_verdicts_start(&report, check, "Pass");
    }
    for check in ["refusals", "parallel-writes", "cpufreq-ceiling", "restored", "rapl-energy", "cpufreq-files"] {
        all_verdicts_start(&report, check, "Pass");
    }
    assert_eq!(node.settings(), before, "{model}");
}

#[test]
fn a_board_that_ignores_locks_fails() {
    let node = Node::boot(NodeSpec::new("node-1", 1, BoardSpec::h100_sxm()), true);
    let (_, board) = node.root.boards().unwrap().remove(0);
    board.fault().unwrap().update(|fault| fault.ignores_writes = true).unwrap();
    let (output, report) = node.run(&["--write", "--force"]);
    assert_eq!(output.status.code(), Some(1));
    all_verdicts_start(&report, "lock-clocks", "Fail \"the board took a ceiling of");
    all_verdicts_start(&report, "limit-set", "Fail \"the board took a limit of");
    all_verdicts_start(&report, "restored", "Pass");
}

#[test]
fn a_board_whose_power_is_stuck_fails() {
    let spec = NodeSpec::new("node-1", 1, BoardSpec::h100_sxm());
    let node = Node::boot_by(true, move |root, ready, stop| stuck_at(123_456, root, &spec, &ready, stop));
    let (output, report) = node.run(&[]);
    assert_eq!(output.status.code(), Some(1));
    all_verdicts_start(&report, "power-instant", "Fail \"stuck at 123.5 W while the board works 100 %");
    all_verdicts_start(&report, "energy", "Fail");
    all_verdicts_start(&report, "clock-grid", "Pass");
}

/// A node with one board, whose power sensor always says the same.
fn stuck_at(power_mw: u32, root: &Root, spec: &NodeSpec, ready: &Sender<()>, stop: &AtomicBool) {
    let _files = Hardware::boot(root, spec).unwrap();
    let (identity, folder) = root.boards().unwrap().remove(0);
    let mut board = Board::new(identity.spec.clone(), Traits::EXACT);
    let mut state = RecordFile::open_writable(&folder.path().join("state")).unwrap();
    let (mut requested, mut load) = (folder.requested().unwrap(), folder.load().unwrap());
    ready.send(()).unwrap();
    let mut last = Instant::now();
    while !stop.load(Ordering::Relaxed) {
        std::thread::sleep(Duration::from_millis(5));
        let seconds = last.elapsed().as_secs_f64();
        last = Instant::now();
        let mut shown = board.step(seconds, &requested.read().unwrap(), &load.read().unwrap());
        (shown.instant_mw, shown.average_mw) = (power_mw, power_mw);
        state.write(&shown).unwrap();
    }
}

#[test]
fn a_board_whose_clocks_are_zeros_fails() {
    let spec = BoardSpec { min_mhz: 0, max_mhz: 1, step_mhz: 1.0 / 127.0, ..BoardSpec::h100_sxm() };
    let node = Node::boot(NodeSpec::new("node-1", 1, spec), false);
    let (output, report) = node.run(&[]);
    assert_eq!(output.status.code(), Some(1));
    all_verdicts_start(&report, "clock-grid", "Fail \"128 clocks of which 127 are zero");
}

#[test]
fn without_write_nothing_is_touched() {
    let node = Node::boot(NodeSpec::new("node-1", 2, BoardSpec::h100_sxm()), true);
    let generations = |node: &Node| -> Vec<u64> {
        let boards = node.root.boards().unwrap();
        boards.iter().map(|(_, board)| board.requested().unwrap().read().unwrap().generation).collect()
    };
    let before = (node.settings(), generations(&node));
    let (output, report) = node.run(&[]);
    assert_eq!(output.status.code(), Some(0), "{:?}", failures(&report));
    assert_eq!((node.settings(), generations(&node)), before);
    assert_eq!(verdicts(&report, "lock-clocks"), [""; 0]);
    let text = report.to_string();
    for (identity, _) in node.root.boards().unwrap() {
        assert!(!text.contains(&identity.uuid) && !text.contains(&identity.serial), "{text}");
    }
    assert_eq!(report["machine"]["driver"], "570.124.06");
}

#[test]
fn writing_is_refused_while_an_agent_runs_or_a_board_is_in_use() {
    let node = Node::boot(NodeSpec::new("node-1", 1, BoardSpec::h100_sxm()), true);
    let (output, _) = node.run(&["--write"]);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert!(said.contains("board 0 is in use") && said.contains("--force"), "{said}");

    let agent = std::fs::File::create(node.lock()).unwrap();
    agent.lock().unwrap();
    let (output, _) = node.run(&["--write", "--force"]);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert!(said.contains("an agent holds"), "{said}");
}

#[test]
fn an_interrupt_puts_everything_back() {
    let node = Node::boot(NodeSpec::new("node-1", 2, BoardSpec::h100_sxm()), true);
    let before = node.settings();
    let running = node.command(&["--write", "--force"]).stdout(Stdio::null()).spawn().unwrap();
    let (_, board) = node.root.boards().unwrap().remove(0);
    let mut requested = board.requested().unwrap();
    while requested.read().unwrap().lock_max_mhz == 0 {
        std::thread::sleep(Duration::from_millis(5));
    }
    let interrupted = Command::new("kill").args(["-INT", &running.id().to_string()]).status().unwrap();
    assert!(interrupted.success());
    let status = running.wait_with_output().unwrap().status;
    assert_eq!(status.code(), Some(2), "an interrupted run is no passed run");
    assert_eq!(node.settings(), before);
}

#[test]
fn an_idle_board_proves_nothing_about_locks() {
    let node = Node::boot(NodeSpec::new("node-1", 1, BoardSpec::h100_sxm()), false);
    let (output, report) = node.run(&["--write"]);
    assert_eq!(output.status.code(), Some(0), "{:?}", failures(&report));
    all_verdicts_start(&report, "lock-clocks", "Skipped \"the board is idle, or its clock");
    all_verdicts_start(&report, "power-instant", "Skipped \"the board is idle");
}

#[test]
fn a_machine_without_boards_and_without_cpufreq_is_told_so_and_does_not_fail_for_it() {
    let folder = tempfile::tempdir().unwrap();
    let report = folder.path().join("report.json");
    let output = Command::new(env!("CARGO_BIN_EXE_powercap-actuator"))
        .args(["conformance", "--nvml-library", "/nowhere/libnvidia-ml.so.1"])
        .args([Path::new("--cpufreq-root"), folder.path()])
        .args([Path::new("--powercap-root"), folder.path()])
        .args([Path::new("--output"), &report])
        .output()
        .unwrap();
    let report: Value = serde_json::from_slice(&std::fs::read(report).unwrap()).unwrap();
    all_verdicts_start(&report, "nvml-loads", "NotSupported");
    all_verdicts_start(&report, "cpufreq-files", "NotSupported");
    all_verdicts_start(&report, "rapl-energy", "NotSupported");
    assert_eq!(output.status.code(), Some(0), "{:?}", failures(&report));
}
