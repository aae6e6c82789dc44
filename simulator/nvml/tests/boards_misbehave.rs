//! Scripted faults through nvml-wrapper, unchanged: what a program sees of a board that misbehaves.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test")]

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nvml_wrapper::enum_wrappers::device::Clock;
use nvml_wrapper::enums::device::GpuLockedClocksSetting;
use nvml_wrapper::error::NvmlError;
use nvml_wrapper::{Device, Nvml};
use powercap_simulated_hardware::call::Call;
use powercap_simulated_hardware::{BoardSpec, Fault, NodeSpec, Root, run_hardware};

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

fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let start = Instant::now();
    while !holds() {
        assert!(start.elapsed() < Duration::from_secs(60), "{what} did not happen");
        std::thread::sleep(Duration::from_millis(2));
    }
}

struct Node {
    root: Root,
    stop: Arc<AtomicBool>,
    daemon: Option<JoinHandle<()>>,
    _folder: tempfile::TempDir,
}

impl Node {
    fn start(spec: NodeSpec) -> Self {
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
        Self { root, stop, daemon: Some(daemon), _folder: folder }
    }

    fn uuid(&self, index: u32) -> String {
        let boards = self.root.boards().unwrap();
        boards.iter().find(|(identity, _)| identity.index == index).unwrap().0.uuid.clone()
    }

    fn misbehave(&self, index: u32, fault: Fault) {
        let mut record = self.root.board(&self.uuid(index)).fault().unwrap();
        record.update(|present| *present = fault).unwrap();
    }

    fn mend(&self, index: u32) {
        self.misbehave(index, Fault::default());
    }

    /// Waits until the hardware has gone through a whole step that began after this.
    fn step(&self) {
        for _ in 0..2 {
            let before = self.uptime(1);
            until("a step", || self.uptime(1) > before);
        }
    }

    fn uptime(&self, index: u32) -> f64 {
        self.root.board(&self.uuid(index)).state().unwrap().read().unwrap().uptime_seconds
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let ended = self.daemon.take().map(JoinHandle::join);
        assert!(std::thread::panicking() || matches!(ended, Some(Ok(()))));
    }
}

fn up_to(max_clock_mhz: u32) -> GpuLockedClocksSetting {
    GpuLockedClocksSetting::Numeric { min_clock_mhz: 345, max_clock_mhz }
}

/// One test: the library is found through the environment, and holds one state a process.
#[test]
fn a_program_sees_each_fault_and_its_end() {
    let node = Node::start(NodeSpec::new("node-1", 2, BoardSpec::h100_sxm()));
    assert_eq!(node.root.nvml_clients(), 0);
    let nvml = Nvml::builder().lib_path(library().as_os_str()).init().unwrap();
    assert_eq!(node.root.nvml_clients(), 1, "an open library leaves a mark");
    let mut device = nvml.device_by_index(0).unwrap();

    every_code_arrives(&node, &mut device);
    faults_end_by_calls_and_by_time(&node, &mut device);
    slow_boards_are_slow_alone(&node, &nvml);
    a_board_that_hangs_goes_on_when_the_fault_is_lifted(&node, &nvml);
    another_writer_undoes_what_was_set(&node, &mut device);
    a_limit_set_out_of_band_is_in_force_and_is_not_what_was_set(&node, &mut device);
    a_lost_board_is_not_counted_and_comes_back(&node, &nvml, &mut device);
    the_library_as_a_whole_fails(&node, &nvml);

    node.misbehave(0, Fault { zero_clocks: true, ..Fault::default() });
    let clocks = device.supported_graphics_clocks(2619).unwrap();
    assert_eq!(clocks, vec![0; 110]);
    drop(nvml);
    assert_eq!(node.root.nvml_clients(), 0, "nvmlShutdown is seen");
}

fn every_code_arrives(node: &Node, device: &mut Device<'_>) {
    for code in (1..=30).chain([999]) {
        node.misbehave(0, Fault { read_code: code, ..Fault::default() });
        let error = device.power_usage().unwrap_err();
        // The wrapper's bug B: it does not know the newer codes.
        let unknown = matches!(error, NvmlError::UnexpectedVariant(seen) if seen == code);
        assert_eq!(unknown, (23..=30).contains(&code), "{code}: {error:?}");
        assert!(device.name().is_ok(), "who the board is, is no reading");
        assert!(device.set_power_management_limit(600_000).is_ok());
        node.misbehave(0, Fault { write_code: code, ..Fault::default() });
        assert!(device.set_gpu_locked_clocks(up_to(1200)).is_err());
        assert!(device.reset_gpu_locked_clocks().is_err());
        assert!(device.power_usage().is_ok());
    }
    let call = Some(Call::SetGpuLockedClocks);
    node.misbehave(0, Fault { call, call_code: 24, ..Fault::default() });
    assert!(matches!(device.set_gpu_locked_clocks(up_to(1200)), Err(NvmlError::UnexpectedVariant(24))));
    assert!(device.set_power_management_limit(700_000).is_ok());
    node.mend(0);
}

fn faults_end_by_calls_and_by_time(node: &Node, device: &mut Device<'_>) {
    node.misbehave(0, Fault { write_code: 999, calls: 2, ..Fault::default() });
    assert!(device.power_usage().is_ok(), "a call that the fault does not concern is not counted");
    assert!(matches!(device.set_power_management_limit(600_000), Err(NvmlError::Unknown)));
    assert!(matches!(device.set_power_management_limit(600_000), Err(NvmlError::Unknown)));
    assert!(device.set_power_management_limit(700_000).is_ok());
    let ends = node.uptime(0) + 0.2;
    node.misbehave(0, Fault { read_code: 15, ..Fault::default() }.lasting(0.2, node.uptime(0)));
    let lost = matches!(device.power_usage(), Err(NvmlError::GpuLost));
    assert!(lost || node.uptime(0) >= ends);
    until("the fault ends", || device.power_usage().is_ok());
}

fn slow_boards_are_slow_alone(node: &Node, nvml: &Nvml) {
    node.misbehave(0, Fault { delay_ms: 400, ..Fault::default() });
    let (slow, quick) = (nvml.device_by_index(0).unwrap(), nvml.device_by_index(1).unwrap());
    let beside_it = |_| {
        std::thread::scope(|scope| {
            let slow = scope.spawn(|| {
                let start = Instant::now();
                slow.power_usage().unwrap();
                start.elapsed()
            });
            let start = Instant::now();
            for _ in 0..10 {
                quick.power_usage().unwrap();
            }
            let took = start.elapsed();
            assert!(slow.join().unwrap() >= Duration::from_millis(400));
            took
        })
    };
    // A busy machine only adds to it.
    let quickest = (0..3).map(beside_it).min().unwrap();
    assert!(quickest < Duration::from_millis(300), "{quickest:?}");
    node.mend(0);
}

fn a_board_that_hangs_goes_on_when_the_fault_is_lifted(node: &Node, nvml: &Nvml) {
    let (hung, well) = (nvml.device_by_index(0).unwrap(), nvml.device_by_index(1).unwrap());
    node.misbehave(0, Fault { hangs: true, ..Fault::default() });
    std::thread::scope(|scope| {
        let waiting = scope.spawn(move || hung.power_usage());
        std::thread::sleep(Duration::from_millis(100));
        assert!(!waiting.is_finished());
        assert!(well.power_usage().is_ok(), "the others answer");
        assert_eq!(nvml.device_count().unwrap(), 2, "and it is counted");
        node.mend(0);
        assert!(waiting.join().unwrap().is_ok());
    });
}

fn another_writer_undoes_what_was_set(node: &Node, device: &mut Device<'_>) {
    let rival = Fault { rival_period_ms: 50, rival_limit_mw: 700_000, rival_lock_mhz: 1980, ..Fault::default() };
    node.misbehave(0, rival);
    device.set_power_management_limit(300_000).unwrap();
    device.set_gpu_locked_clocks(up_to(600)).unwrap();
    until("the other writer undoes both", || {
        let request = node.root.board(&node.uuid(0)).requested().unwrap().read().unwrap();
        request.limit_mw == 700_000 && request.lock_max_mhz == 1980
    });
    until("it is read back", || device.enforced_power_limit().unwrap() == 700_000);
    node.mend(0);
    node.step();
    device.set_power_management_limit(300_000).unwrap();
    let several_periods_on = node.uptime(0) + 0.2;
    until("time passes", || node.uptime(0) > several_periods_on);
    assert_eq!(device.enforced_power_limit().unwrap(), 300_000, "it gave up");
}

fn a_limit_set_out_of_band_is_in_force_and_is_not_what_was_set(node: &Node, device: &mut Device<'_>) {
    device.set_power_management_limit(500_000).unwrap();
    node.misbehave(0, Fault { outer_limit_mw: 400_000, ..Fault::default() });
    until("the lower one is in force", || device.enforced_power_limit().unwrap() == 400_000);
    assert_eq!(device.power_management_limit().unwrap(), 500_000);
    node.mend(0);
    until("the driver's is in force again", || device.enforced_power_limit().unwrap() == 500_000);
}

fn a_lost_board_is_not_counted_and_comes_back<'a>(node: &Node, nvml: &'a Nvml, device: &mut Device<'a>) {
    let old = node.uuid(0);
    node.misbehave(0, Fault { gone: true, ..Fault::default() });
    assert_eq!(nvml.device_count().unwrap(), 1);
    assert_eq!(nvml.device_by_index(0).unwrap().uuid().unwrap(), node.uuid(1), "the next one takes its index");
    assert!(matches!(nvml.device_by_uuid(old.as_str()), Err(NvmlError::NotFound)));
    assert!(matches!(device.power_usage(), Err(NvmlError::GpuLost)));
    assert!(matches!(device.uuid(), Err(NvmlError::GpuLost)));
    assert!(matches!(device.set_power_management_limit(300_000), Err(NvmlError::GpuLost)));
    node.step();
    node.mend(0);
    assert_eq!(nvml.device_count().unwrap(), 2);
    until("what was set is lost", || device.enforced_power_limit().is_ok_and(|limit| limit == 700_000));

    let away = Fault { gone: true, returns_renamed: true, ..Fault::default() };
    node.misbehave(0, away.lasting(0.1, node.uptime(0)));
    until("a board with another UUID is there", || node.uuid(0) != old);
    until("it is counted", || nvml.device_count().unwrap() == 2);
    let new = nvml.device_by_index(0).unwrap();
    assert_eq!(new.uuid().unwrap(), node.uuid(0));
    assert!(new.power_usage().is_ok());
    assert!(matches!(device.power_usage(), Err(NvmlError::GpuLost)), "the old handle stays lost");
    // From here on the handle is that of the new board.
    *device = new;
}

fn the_library_as_a_whole_fails(node: &Node, nvml: &Nvml) {
    let set = |fault: Fault| node.root.library_fault().unwrap().update(|present| *present = fault).unwrap();
    set(Fault { call: Some(Call::GetCount), call_code: 999, calls: 1, ..Fault::default() });
    assert!(matches!(nvml.device_count(), Err(NvmlError::Unknown)));
    assert_eq!(nvml.device_count().unwrap(), 2);
    set(Fault { call: Some(Call::Init), call_code: 18, ..Fault::default() });
    let second = Nvml::builder().lib_path(library().as_os_str()).init();
    assert!(matches!(second, Err(NvmlError::LibRmVersionMismatch)));
    set(Fault { call: Some(Call::GetCount), hangs: true, ..Fault::default() });
    std::thread::scope(|scope| {
        let counting = scope.spawn(|| nvml.device_count());
        std::thread::sleep(Duration::from_millis(50));
        assert!(!counting.is_finished());
        let board = node.root.board(&node.uuid(1));
        assert!(board.state().is_ok());
        set(Fault::default());
        assert_eq!(counting.join().unwrap().unwrap(), 2);
    });
    assert_eq!(nvml.device_by_index(1).unwrap().max_clock_info(Clock::Graphics).unwrap(), 1980);
}
