//! A partitioned board and a board with many clocks, through nvml-wrapper and through the library itself.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test")]

use std::path::PathBuf;

use nvml_wrapper::enum_wrappers::device::Clock;
use nvml_wrapper::enums::device::GpuLockedClocksSetting;
use nvml_wrapper::error::NvmlError;
use nvml_wrapper::{Device, Nvml};
use nvml_wrapper_sys::bindings::{
    nvmlReturn_enum_NVML_ERROR_INSUFFICIENT_SIZE as INSUFFICIENT_SIZE, nvmlReturn_enum_NVML_SUCCESS as SUCCESS,
};
use powercap_simulated_hardware::daemon::Hardware;
use powercap_simulated_hardware::{BoardSpec, NodeSpec, Root, Sharing};

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

/// Boots a node and opens the library on it, one after the other: it finds the node by the environment.
fn with_node(spec: &NodeSpec, run: impl FnOnce(&Nvml, &Root)) {
    let folder = tempfile::tempdir().unwrap();
    let root = Root::new(folder.path());
    let mut hardware = Hardware::boot(&root, spec).unwrap();
    hardware.step(0.005, 0).unwrap();
    // SAFETY: no other thread of this test reads or writes the environment.
    #[expect(unsafe_code, reason = "the library is found through the environment")]
    unsafe {
        std::env::set_var("SIMULATED_HARDWARE_ROOT", folder.path());
    }
    let nvml = Nvml::builder().lib_path(library().as_os_str()).init().unwrap();
    run(&nvml, &root);
}

/// One test: the library is found through the environment, and holds one state a process.
#[test]
fn instances_have_no_power_of_their_own_and_long_lists_arrive_whole() {
    let mut spec = NodeSpec::new("node-1", 1, BoardSpec::h100_sxm());
    spec.sharing = Sharing::Mig("3g.40gb".to_owned());
    with_node(&spec, instances_answer_for_themselves_alone);
    spec.sharing = Sharing::TimeSlices(4);
    with_node(&spec, |nvml, _| {
        let device = nvml.device_by_index(0).unwrap();
        assert_eq!(device.mig_mode().unwrap().current, 0, "NVML knows nothing of time slices");
        assert_eq!(device.mig_device_count().unwrap(), 0);
    });
    for (model, count) in [("l40s", 155), ("b200", 247), ("a100-pcie-80gb", 81)] {
        let spec = NodeSpec::new("node-1", 1, BoardSpec::by_name(model).unwrap());
        with_node(&spec, |nvml, _| a_list_that_does_not_fit_is_refused_with_its_length(nvml, count));
    }
}

fn instances_answer_for_themselves_alone(nvml: &Nvml, root: &Root) {
    let board = nvml.device_by_index(0).unwrap();
    let mode = board.mig_mode().unwrap();
    assert_eq!((mode.current, mode.pending, board.mig_device_count().unwrap()), (1, 1, 7));
    let instances: Vec<Device<'_>> = (0..7).map_while(|index| board.mig_device_by_index(index).ok()).collect();
    assert_eq!(instances.len(), 2);
    assert!(matches!(board.mig_device_by_index(2), Err(NvmlError::NotFound)));
    let (identity, _) = &root.boards().unwrap()[0];
    for (instance, share) in instances.iter().zip(&identity.shares) {
        assert_eq!(instance.uuid().unwrap(), share.id);
        assert!(instance.uuid().unwrap().starts_with("MIG-"));
        assert_eq!(instance.name().unwrap(), "NVIDIA H100 80GB HBM3 MIG 3g.40gb");
        assert!(instance.mig_is_mig_device_handle().unwrap());
        assert_eq!(instance.mig_parent_device().unwrap().uuid().unwrap(), identity.uuid);
        let found = nvml.device_by_uuid(share.id.as_str()).unwrap();
        assert_eq!(found.mig_parent_device().unwrap().uuid().unwrap(), identity.uuid);
    }
    let mut instance = board.mig_device_by_index(0).unwrap();
    let not_supported = [
        instance.power_usage().err(),
        instance.enforced_power_limit().err(),
        instance.power_management_limit_constraints().err(),
        instance.clock_info(Clock::SM).err(),
        instance.total_energy_consumption().err(),
        instance.set_power_management_limit(300_000).err(),
        instance
            .set_gpu_locked_clocks(GpuLockedClocksSetting::Numeric { min_clock_mhz: 345, max_clock_mhz: 990 })
            .err(),
        instance.reset_gpu_locked_clocks().err(),
        board.utilization_rates().err(),
    ];
    for (at, error) in not_supported.into_iter().enumerate() {
        assert!(matches!(error, Some(NvmlError::NotSupported)), "{at}: {error:?}");
    }
    let mut board = board;
    assert!(!board.mig_is_mig_device_handle().unwrap());
    board.set_power_management_limit(300_000).unwrap();
    assert!(board.power_usage().is_ok());
}

/// What the wrapper's bug A stumbles over: it has room for 128 and does not ask again.
fn a_list_that_does_not_fit_is_refused_with_its_length(nvml: &Nvml, expected: u32) {
    let device = nvml.device_by_index(0).unwrap();
    let memory_mhz = device.supported_memory_clocks().unwrap()[0];
    let call = *nvml.lib().nvmlDeviceGetSupportedGraphicsClocks.as_ref().unwrap();
    let ask = |room: u32| {
        let mut clocks = vec![7_u32; room as usize];
        let mut count = room;
        // SAFETY: the handle lives as long as `device`, and `clocks` has room for `count` values.
        #[expect(unsafe_code, reason = "the wrapper's own call is what is wrong")]
        let code = unsafe { call(device.handle(), memory_mhz, &raw mut count, clocks.as_mut_ptr()) };
        (code, count, clocks)
    };
    for room in [0, 1, expected - 1] {
        let (code, count, clocks) = ask(room);
        assert_eq!((code, count), (INSUFFICIENT_SIZE, expected), "room for {room}");
        assert!(clocks.iter().all(|clock| *clock == 7), "nothing is written");
    }
    for room in [expected, 512] {
        let (code, count, clocks) = ask(room);
        assert_eq!((code, count), (SUCCESS, expected));
        let clocks = &clocks[..expected as usize];
        assert!(clocks.windows(2).all(|pair| pair[0] > pair[1]), "highest first, none twice, no zeros");
        assert_eq!(clocks[0], device.max_clock_info(Clock::Graphics).unwrap());
    }
}
