//! A simulated machine with the NVML stand-in, and the agent's threads and loop on it, without the API.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test")]

use std::{
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use powercap_actuator::node::{
    apply::apply,
    decide::{Plan, State, decide},
    metrics::Metrics,
    observation::{Observation, SeenBoard},
    observe::{self, Devices, boards::Places},
    orders::Orders,
    status::{self, Particulars, Problems, Verdict},
    tenants::Tenancy,
};
use powercap_simulated_hardware::{Fault, Load, NodeSpec, Root, run_hardware};
use prometheus_client::registry::Registry;

pub const PERIOD: Duration = Duration::from_millis(100);

/// Cargo puts the library beside this test, or one folder above.
pub fn library() -> PathBuf {
    let mut folder = std::env::current_exe().unwrap();
    while folder.pop() {
        let library = folder.join("libnvidia_ml.so");
        if library.exists() {
            return library;
        }
    }
    panic!("libnvidia_ml.so was not built");
}

pub struct Machine {
    pub root: Root,
    pub devices: Devices,
    start: Instant,
    state: State,
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
    _folder: tempfile::TempDir,
}

impl Machine {
    /// Boots it, under full load, and starts the agent's threads. One a process: the library finds the
    /// machine through the environment.
    pub fn boot(spec: NodeSpec) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let root = Root::new(folder.path());
        let stop = Arc::new(AtomicBool::new(false));
        let (ready, is_ready) = std::sync::mpsc::channel();
        let daemon = std::thread::spawn({
            let (root, stop) = (root.clone(), Arc::clone(&stop));
            move || run_hardware(&root, &spec, || ready.send(()).unwrap(), || stop.load(Ordering::Relaxed)).unwrap()
        });
        is_ready.recv().unwrap();
        // SAFETY: no other thread of this test reads or writes the environment.
        #[expect(unsafe_code, reason = "the library is found through the environment")]
        unsafe {
            std::env::set_var("SIMULATED_HARDWARE_ROOT", folder.path());
        }
        let workload = std::thread::spawn({
            let (root, stop) = (root.clone(), Arc::clone(&stop));
            move || {
                let mut beat = 0;
                while !stop.load(Ordering::Relaxed) {
                    beat += 1;
                    // A board that comes back under another name is loaded too.
                    for (_, board) in root.boards().unwrap_or_default() {
                        let load = board.load().and_then(|mut load| load.write(&Load::training(beat, 70_000)));
                        drop(load);
                    }
                    std::thread::sleep(Duration::from_millis(50));
                }
            }
        });
        let mut registry = Registry::default();
        let metrics = Metrics::new(&mut registry);
        let devices = Devices::default();
        let places = Places { nvml: library().into(), pci: folder.path().join("pci") };
        observe::boards::start(devices.clone(), places, PERIOD, metrics.clone()).unwrap();
        let host = Arc::clone(&devices.host);
        observe::host::start(host, &root.cpufreq_path(), &root.powercap_path(), PERIOD, metrics).unwrap();
        let threads = vec![daemon, workload];
        Self { root, devices, start: Instant::now(), state: State::default(), stop, threads, _folder: folder }
    }

    pub fn seen(&self) -> Observation {
        self.devices.observe(self.start)
    }

    /// One turn of the loop.
    pub fn turn(&mut self, orders: Option<&Orders>) -> Plan {
        let seen = self.seen();
        let plan = decide(&seen, orders, &self.state);
        let boards: Vec<_> = seen.boards.iter().map(|board| Arc::clone(&board.traits.uuid)).collect();
        apply(&plan, &boards, &self.devices);
        self.state = plan.state.clone();
        plan
    }

    /// Turns until it holds; says how many that took.
    pub fn until(
        &mut self,
        what: &str,
        orders: Option<&Orders>,
        mut holds: impl FnMut(&Observation, &Plan) -> bool,
    ) -> u32 {
        let start = Instant::now();
        for turns in 1.. {
            let plan = self.turn(orders);
            if holds(&self.seen(), &plan) {
                return turns;
            }
            assert!(start.elapsed() < Duration::from_secs(60), "{what} did not happen: {:#?}", plan.account);
            std::thread::sleep(PERIOD);
        }
        unreachable!("it gives up before")
    }

    /// What the condition Ready says after this plan.
    pub fn says(&self, orders: Option<&Orders>, plan: &Plan) -> Verdict {
        let (profiles, tenancy) = (self.devices.profiles(), Tenancy::default());
        let particulars = Particulars { profiles: &profiles, tenancy: &tenancy };
        status::state(&self.seen(), orders, &plan.account, &Problems::default(), 1, "b", particulars).ready
    }

    /// How the board with this UUID misbehaves from now on.
    pub fn misbehave(&self, uuid: &str, fault: Fault) {
        self.root.board(uuid).fault().unwrap().update(|present| *present = fault).unwrap();
    }
}

/// The board with this UUID.
pub fn board<'a>(seen: &'a Observation, uuid: &str) -> &'a SeenBoard {
    seen.boards.iter().find(|board| &*board.traits.uuid == uuid).unwrap()
}

impl Drop for Machine {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let ended = thread.join();
            assert!(std::thread::panicking() || ended.is_ok());
        }
    }
}
