//! The library's state: the boards it found at `nvmlInit`, behind one lock.
//!
//! A device handle is its index plus one, never dereferenced.

use std::sync::{Mutex, MutexGuard, PoisonError};

use nvml_wrapper_sys::bindings::{
    nvmlDevice_t, nvmlReturn_enum_NVML_ERROR_DRIVER_NOT_LOADED as DRIVER_NOT_LOADED,
    nvmlReturn_enum_NVML_ERROR_GPU_IS_LOST as GPU_IS_LOST,
    nvmlReturn_enum_NVML_ERROR_INVALID_ARGUMENT as INVALID_ARGUMENT,
    nvmlReturn_enum_NVML_ERROR_NO_PERMISSION as NO_PERMISSION,
    nvmlReturn_enum_NVML_ERROR_UNINITIALIZED as UNINITIALIZED, nvmlReturn_enum_NVML_SUCCESS as SUCCESS, nvmlReturn_t,
};
use powercap_simulated_hardware::folder::{DEFAULT_ROOT, ROOT_VARIABLE};
use powercap_simulated_hardware::record::RecordFile;
use powercap_simulated_hardware::{BoardFolder, Fault, Identity, Request, Root, State};
use rustix::thread::CapabilitySet;

pub(crate) struct Device {
    pub(crate) identity: Identity,
    folder: BoardFolder,
    state: RecordFile<State>,
    fault: RecordFile<Fault>,
}

impl Device {
    /// How the device misbehaves now: a test may change that at any time.
    fn fault(&mut self) -> Fault {
        self.fault.read().unwrap_or_default()
    }
}

struct Library {
    devices: Vec<Device>,
    opened: u32,
}

static LIBRARY: Mutex<Option<Library>> = Mutex::new(None);

fn library() -> MutexGuard<'static, Option<Library>> {
    LIBRARY.lock().unwrap_or_else(PoisonError::into_inner)
}

pub(crate) fn open() -> nvmlReturn_t {
    let mut library = library();
    if let Some(library) = library.as_mut() {
        library.opened += 1;
        return SUCCESS;
    }
    let root = std::env::var_os(ROOT_VARIABLE).unwrap_or_else(|| DEFAULT_ROOT.into());
    let Ok(boards) = Root::new(root).boards() else {
        return DRIVER_NOT_LOADED;
    };
    let mut devices = Vec::new();
    for (identity, folder) in boards {
        let (Ok(state), Ok(fault)) = (folder.state(), folder.present_fault()) else {
            return DRIVER_NOT_LOADED;
        };
        devices.push(Device { identity, folder, state, fault });
    }
    *library = Some(Library { devices, opened: 1 });
    SUCCESS
}

pub(crate) fn close() -> nvmlReturn_t {
    let mut library = library();
    let Some(open) = library.as_mut() else {
        return UNINITIALIZED;
    };
    open.opened -= 1;
    if open.opened == 0 {
        *library = None;
    }
    SUCCESS
}

/// Runs with all devices.
pub(crate) fn with_devices(run: impl FnOnce(&[Device]) -> nvmlReturn_t) -> nvmlReturn_t {
    library().as_ref().map_or(UNINITIALIZED, |library| run(&library.devices))
}

/// Runs with the device behind a handle.
pub(crate) fn with_device(handle: nvmlDevice_t, run: impl FnOnce(&mut Device) -> nvmlReturn_t) -> nvmlReturn_t {
    let mut library = library();
    let Some(library) = library.as_mut() else {
        return UNINITIALIZED;
    };
    let index = (handle as usize).wrapping_sub(1);
    library.devices.get_mut(index).map_or(INVALID_ARGUMENT, run)
}

/// Runs with what the device's sensors say now.
pub(crate) fn with_state(handle: nvmlDevice_t, run: impl FnOnce(&Identity, &State) -> nvmlReturn_t) -> nvmlReturn_t {
    with_device(handle, |device| match (device.fault().read_code, device.state.read()) {
        (SUCCESS, Ok(state)) => run(&device.identity, &state),
        (SUCCESS, Err(_)) => GPU_IS_LOST,
        (code, _) => code,
    })
}

/// Runs with what the device is.
pub(crate) fn with_identity(handle: nvmlDevice_t, run: impl FnOnce(&Identity) -> nvmlReturn_t) -> nvmlReturn_t {
    with_device(handle, |device| run(&device.identity))
}

/// Asks something of a device; needs root with CAP_SYS_ADMIN, as the driver does.
pub(crate) fn ask(handle: nvmlDevice_t, change: impl FnOnce(&Identity, &mut Request) -> nvmlReturn_t) -> nvmlReturn_t {
    with_device(handle, |device| {
        if !is_administrator() {
            return NO_PERMISSION;
        }
        let fault = device.fault();
        if fault.write_code != SUCCESS {
            return fault.write_code;
        }
        let mut answer = SUCCESS;
        let updated = device.folder.request().and_then(|mut record| {
            record.update(|request| {
                let before = *request;
                answer = change(&device.identity, request);
                if answer == SUCCESS && !fault.ignores_writes {
                    request.generation = before.generation + 1;
                } else {
                    *request = before;
                }
            })
        });
        if updated.is_err() { NO_PERMISSION } else { answer }
    })
}

fn is_administrator() -> bool {
    let held = rustix::thread::capabilities(None).map(|sets| sets.effective);
    rustix::process::geteuid().is_root() && held.is_ok_and(|held| held.contains(CapabilitySet::SYS_ADMIN))
}

pub(crate) fn handle(index: usize) -> nvmlDevice_t {
    std::ptr::without_provenance_mut(index + 1)
}
