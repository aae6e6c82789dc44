//! The devices' threads and the loop's parts on the NVML stand-in, as on a node, but for the API server.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test")]

use std::{
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use powercap_actuator::{
    hardware::{BoardReading, ClockLock},
    node::{
        apply::apply,
        decide::{Plan, State, decide},
        metrics::Metrics,
        observation::GpuAccess,
        observe::{self, Devices, boards::Places},
        orders::Orders,
    },
};
use powercap_common::{
    api::{CpuCeiling, NodeFrequencies, NodeFrequenciesSpec, NodeOverhead},
    units::{Megahertz, Watts},
};
use powercap_simulated_hardware::{BoardSpec, Fault, Load, NodeSpec, Root, run_hardware};
use prometheus_client::{encoding::text::encode, registry::Registry};

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

fn orders(sequence: i64, grant: Option<u32>, release: bool) -> Orders {
    let mut spec = NodeFrequenciesSpec {
        node_name: "node-1".into(),
        power_limit_watts: grant,
        node_overhead: NodeOverhead { static_watts: 1248, percent: 4 },
        release,
        ..Default::default()
    };
    spec.epoch.sequence = sequence;
    if !release {
        let reason = "PolicyCap".to_owned();
        spec.cpu_frequencies =
            vec![CpuCeiling { cpufreq_policy: 0, max_megahertz: 2345, reason, set_by: String::new() }];
    }
    Orders::accept(&NodeFrequencies::new("node-1", spec), "node-1", None).unwrap()
}

/// The node's loop, without the API.
struct Node {
    devices: Devices,
    start: Instant,
    state: State,
}

impl Node {
    fn turn(&mut self, orders: Option<&Orders>) -> Plan {
        let seen = self.devices.observe(self.start);
        let plan = decide(&seen, orders, &self.state);
        let boards: Vec<_> = seen.boards.iter().map(|board| Arc::clone(&board.traits.uuid)).collect();
        apply(&plan, &boards, &self.devices);
        self.state = plan.state.clone();
        plan
    }

    /// Turns until it holds; says how many that took.
    fn until(&mut self, what: &str, orders: Option<&Orders>, mut holds: impl FnMut(&Self, &Plan) -> bool) -> u32 {
        let start = Instant::now();
        for turns in 1.. {
            let plan = self.turn(orders);
            if holds(self, &plan) {
                return turns;
            }
            assert!(start.elapsed() < Duration::from_secs(60), "{what} did not happen: {:#?}", plan.account);
            std::thread::sleep(Duration::from_millis(100));
        }
        unreachable!("it gives up before")
    }

    fn boards_power(&self) -> Watts {
        let seen = self.devices.observe(self.start);
        seen.boards.iter().filter_map(|board| board.fresh()).map(|reading| reading.power).sum()
    }
}

/// One test: the library is found through the environment, and holds one state a process.
#[test]
fn a_grant_is_held_and_a_release_restores() {
    let folder = tempfile::tempdir().unwrap();
    let root = Root::new(folder.path());
    let stop = Arc::new(AtomicBool::new(false));
    let (ready, is_ready) = std::sync::mpsc::channel();
    let daemon = std::thread::spawn({
        let (root, stop) = (root.clone(), Arc::clone(&stop));
        // A board with more than 128 clocks, in steps of 7.5 MHz.
        let spec = NodeSpec::new("node-1", 2, BoardSpec::b200());
        move || run_hardware(&root, &spec, || ready.send(()).unwrap(), || stop.load(Ordering::Relaxed)).unwrap()
    });
    is_ready.recv().unwrap();
    // SAFETY: no other thread of this test reads or writes the environment.
    #[expect(unsafe_code, reason = "the library is found through the environment")]
    unsafe {
        std::env::set_var("SIMULATED_HARDWARE_ROOT", folder.path());
    }
    let mut loads: Vec<_> = root.boards().unwrap().iter().map(|(_, board)| board.load().unwrap()).collect();
    let workload = std::thread::spawn({
        let stop = Arc::clone(&stop);
        move || {
            let mut beat = 0;
            while !stop.load(Ordering::Relaxed) {
                beat += 1;
                loads.iter_mut().for_each(|load| load.write(&Load::training(beat, 70_000)).unwrap());
                std::thread::sleep(Duration::from_millis(50));
            }
        }
    });

    // A BMC holds the first board lower than its driver was told to.
    let (held, _) = root.boards().unwrap().into_iter().find(|(identity, _)| identity.index == 0).unwrap();
    let outer = Fault { outer_limit_mw: 800_000, ..Fault::default() };
    root.board(&held.uuid).fault().unwrap().update(|fault| *fault = outer).unwrap();

    let mut registry = Registry::default();
    let metrics = Metrics::new(&mut registry);
    let mut node = Node { devices: Devices::default(), start: Instant::now(), state: State::default() };
    let period = Duration::from_millis(100);
    let places = Places { nvml: library().into(), pci: folder.path().join("pci") };
    observe::boards::start(node.devices.clone(), places, period, metrics.clone()).unwrap();
    observe::host::start(
        Arc::clone(&node.devices.host),
        &root.cpufreq_path(),
        &root.powercap_path(),
        period,
        metrics.clone(),
    )
    .unwrap();

    node.until("a board under load", None, |node, _| {
        let seen = node.devices.observe(node.start);
        seen.gpus == GpuAccess::Working && node.boards_power() > Watts::new(1500)
    });
    let seen = node.devices.observe(node.start);
    assert_eq!(seen.boards.len(), 2);
    assert_eq!(seen.boards[0].traits.clocks.as_ref().map(|grid| grid.len()), Some(247), "bug A");
    assert!(seen.packages.as_ref().and_then(|packages| packages.fresh()).is_some());

    // 3,200 W leave 1,876 W for the boards and CPUs.
    let granted = orders(1, Some(3200), false);
    let envelope = granted.overhead.envelope(Watts::new(3200));
    let turns = node.until("the acknowledgement", Some(&granted), |_, plan| plan.account.acknowledged.is_some());
    // Three seconds.
    assert!(turns <= 30, "{turns} turns");
    for _ in 0..20 {
        let plan = node.turn(Some(&granted));
        assert!(plan.account.devices_power <= envelope.percent(101), "{} of {envelope}", plan.account.devices_power);
        std::thread::sleep(period);
    }
    let seen = node.devices.observe(node.start);
    let limits: Watts = seen.boards.iter().filter_map(|board| board.fresh()?.limit).sum();
    assert!(limits < envelope, "{limits} of {envelope}");
    let policy = seen.cpus.iter().find(|cpu| cpu.traits.policy == 0).unwrap();
    assert_eq!(policy.reading.unwrap().ceiling, Megahertz::new(2300), "the driver rounds down");

    let release = orders(2, None, true);
    node.until("the release", Some(&release), |_, plan| {
        plan.account.acknowledged.is_some_and(|acknowledged| acknowledged.epoch.sequence == 2)
    });
    node.until("what stood before is read back", Some(&release), |node, _| {
        let seen = node.devices.observe(node.start);
        seen.boards.iter().zip([800, 1000]).all(|(board, in_force)| {
            let was = |reading: &BoardReading| (reading.lock, reading.limit);
            board.fresh().map(was) == Some((ClockLock::Off, Some(Watts::new(in_force))))
        })
    });
    for (_, board) in root.boards().unwrap() {
        let request = board.request().unwrap().read().unwrap();
        assert_eq!((request.lock_max_mhz, request.limit_mw), (0, 1_000_000));
    }
    let mut text = String::new();
    encode(&mut text, &registry).unwrap();
    assert!(text.contains(r#"powercap_agent_device_writes_total{kind="PowerLimit",result="Written"}"#), "{text}");

    stop.store(true, Ordering::Relaxed);
    workload.join().unwrap();
    daemon.join().unwrap();
}
