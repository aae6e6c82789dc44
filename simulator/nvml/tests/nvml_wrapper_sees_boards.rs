//! nvml-wrapper, unchanged, loads the stand-in and finds boards that behave.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test")]

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use nvml_wrapper::Nvml;
use nvml_wrapper::bitmasks::device::ThrottleReasons;
use nvml_wrapper::enum_wrappers::device::{Clock, PerformancePolicy, TemperatureSensor};
use nvml_wrapper::enums::device::{GpuLockedClocksSetting, SampleValue};
use nvml_wrapper::error::NvmlError;
use nvml_wrapper::structs::device::FieldId;
use powercap_simulated_hardware::{BoardSpec, Fault, Load, NodeSpec, Root, run_hardware};

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

/// One test: the library is found through the environment, and holds one state a process.
#[test]
fn what_is_set_is_read_back_late_and_clamped() {
    let folder = tempfile::tempdir().unwrap();
    let root = Root::new(folder.path());
    let stop = Arc::new(AtomicBool::new(false));
    let (ready, is_ready) = std::sync::mpsc::channel();
    let daemon = std::thread::spawn({
        let (root, stop) = (root.clone(), Arc::clone(&stop));
        let mut spec = NodeSpec::new("node-1", 2, BoardSpec::h100_sxm());
        spec.sensor_gain_percent = 0.0;
        move || {
            run_hardware(&root, &spec, || ready.send(()).unwrap(), || stop.load(Ordering::Relaxed)).unwrap();
        }
    });
    is_ready.recv().unwrap();
    // SAFETY: no other thread of this test reads or writes the environment.
    #[expect(unsafe_code, reason = "the library is found through the environment")]
    unsafe {
        std::env::set_var("SIMULATED_HARDWARE_ROOT", folder.path());
    }

    let (_, board) = &root.boards().unwrap()[0];
    let mut load = board.load().unwrap();
    let working = Arc::new(AtomicBool::new(true));
    let workload = std::thread::spawn({
        let working = Arc::clone(&working);
        move || {
            let mut beat = 0;
            while working.load(Ordering::Relaxed) {
                beat += 1;
                load.write(&Load::training(beat, 70_000)).unwrap();
                std::thread::sleep(Duration::from_millis(50));
            }
        }
    });

    let nvml = Nvml::builder().lib_path(library().as_os_str()).init().unwrap();
    assert_eq!(nvml.device_count().unwrap(), 2);
    assert_eq!(nvml.sys_driver_version().unwrap(), "570.124.06");
    let mut device = nvml.device_by_index(0).unwrap();
    let uuid = device.uuid().unwrap();
    assert!(uuid.starts_with("GPU-"));
    assert_eq!(nvml.device_by_uuid(uuid.as_str()).unwrap().minor_number().unwrap(), 0);
    assert!(matches!(nvml.device_by_uuid("GPU-none"), Err(NvmlError::NotFound)));
    let pci = device.pci_info().unwrap();
    assert_eq!(nvml.device_by_pci_bus_id(pci.bus_id.as_str()).unwrap().uuid().unwrap(), uuid);
    assert_eq!(device.name().unwrap(), "NVIDIA H100 80GB HBM3");
    assert!(!device.serial().unwrap().is_empty());
    let mig = device.mig_mode().unwrap();
    assert_eq!((mig.current, mig.pending), (0, 0), "an H100 can be partitioned, and is not");
    assert_eq!(device.memory_info().unwrap().total, 81559 << 20);

    let memory = device.supported_memory_clocks().unwrap();
    let clocks = device.supported_graphics_clocks(memory[0]).unwrap();
    assert_eq!((clocks.len(), clocks[0], clocks[109]), (110, 1980, 345));
    assert_eq!(device.max_clock_info(Clock::Graphics).unwrap(), 1980);
    let constraints = device.power_management_limit_constraints().unwrap();
    assert_eq!((constraints.min_limit, constraints.max_limit), (200_000, 700_000));
    assert_eq!(device.power_management_limit_default().unwrap(), 700_000);

    until("load shows", || device.power_usage().unwrap() > 600_000);
    assert!(device.utilization_rates().unwrap().gpu == 100);
    let violated = device.violation_status(PerformancePolicy::Power).unwrap().violation_time;
    let energy = device.total_energy_consumption().unwrap();

    // A lock: accepted at once, reached late, snapped down to the grid.
    let set = Instant::now();
    device.set_gpu_locked_clocks(GpuLockedClocksSetting::Numeric { min_clock_mhz: 0, max_clock_mhz: 1204 }).unwrap();
    let at_first = device.clock_info(Clock::SM).unwrap();
    assert!(at_first == 1980 || set.elapsed() >= Duration::from_millis(15), "{at_first} MHz");
    until("the lock holds", || device.clock_info(Clock::SM).unwrap() == 1200);
    assert!(set.elapsed() >= Duration::from_millis(15), "{:?}", set.elapsed());
    until("power falls", || instant_mw(&device) < 300_000);
    assert!(device.current_throttle_reasons().unwrap().contains(ThrottleReasons::APPLICATIONS_CLOCKS_SETTING));
    until("the average follows", || device.power_usage().unwrap() < 300_000);

    // A power limit: refused out of range, and seen in the enforced limit.
    assert!(matches!(device.set_power_management_limit(100_000), Err(NvmlError::InvalidArg)));
    assert!(matches!(device.set_power_management_limit(900_000), Err(NvmlError::InvalidArg)));
    device.reset_gpu_locked_clocks().unwrap();
    device.set_power_management_limit(400_000).unwrap();
    until("the limit is enforced", || device.enforced_power_limit().unwrap() == 400_000);
    until("power holds the clock", || {
        device.current_throttle_reasons().unwrap().contains(ThrottleReasons::SW_POWER_CAP)
    });
    until("power is limited", || (350_000..=402_000).contains(&device.power_usage().unwrap()));
    assert!(device.violation_status(PerformancePolicy::Power).unwrap().violation_time > violated);
    assert!(device.total_energy_consumption().unwrap() > energy);
    assert!(device.temperature(TemperatureSensor::Gpu).unwrap() > 30);
    device.set_persistent(true).unwrap();
    until("persistence is on", || device.is_in_persistent_mode().unwrap());

    assert!(device.running_compute_processes().unwrap().is_empty());

    // A board that misbehaves: writes that do nothing, writes refused, the board lost, and well again.
    let mut fault = board.fault().unwrap();
    fault.write(&Fault { ignores_writes: true, ..Fault::default() }).unwrap();
    device.set_power_management_limit(300_000).unwrap();
    std::thread::sleep(Duration::from_millis(100));
    assert_eq!(device.power_management_limit().unwrap(), 400_000);
    fault.write(&Fault { write_code: 4, ..Fault::default() }).unwrap();
    assert!(matches!(device.set_power_management_limit(300_000), Err(NvmlError::NoPermission)));
    fault.write(&Fault { read_code: 15, ..Fault::default() }).unwrap();
    assert!(matches!(device.power_usage(), Err(NvmlError::GpuLost)));
    fault.write(&Fault::default()).unwrap();
    assert!(device.power_usage().is_ok());

    working.store(false, Ordering::Relaxed);
    workload.join().unwrap();
    until("a dead workload fades", || instant_mw(&device) < 75_000);
    drop(nvml);
    stop.store(true, Ordering::Relaxed);
    daemon.join().unwrap();
}

fn instant_mw(device: &nvml_wrapper::Device<'_>) -> u32 {
    let samples = device.field_values_for(&[FieldId(185), FieldId(186), FieldId(9999)]).unwrap();
    assert!(samples[2].is_err() || samples[2].as_ref().is_ok_and(|sample| sample.value.is_err()));
    match samples[1].as_ref().unwrap().value.as_ref().unwrap() {
        SampleValue::U32(milliwatts) => *milliwatts,
        other => panic!("{other:?}"),
    }
}
