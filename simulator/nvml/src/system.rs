//! Starting, stopping, and finding devices and what they are.

use std::ffi::{c_char, c_int, c_uint};

use nvml_wrapper_sys::bindings::{
    nvmlDevice_t, nvmlEnableState_t, nvmlMemory_t, nvmlMemory_v2_t, nvmlPciInfo_t, nvmlProcessInfo_t,
    nvmlReturn_enum_NVML_ERROR_INVALID_ARGUMENT as INVALID_ARGUMENT, nvmlReturn_enum_NVML_ERROR_NOT_FOUND as NOT_FOUND,
    nvmlReturn_enum_NVML_ERROR_NOT_SUPPORTED as NOT_SUPPORTED, nvmlReturn_enum_NVML_SUCCESS as SUCCESS, nvmlReturn_t,
    nvmlUtilization_t,
};

use powercap_simulated_hardware::call::{Call, RETURN_CODES};

use crate::library::{ask, close, instance_of, open, with_any, with_devices, with_identity, with_state};
use crate::memory::{give, give_list, give_text, text_of};
use crate::mig::is_partitioned;

const DRIVER_VERSION: &str = "570.124.06";
const NVML_VERSION: &str = "12.570.124.06";
const CUDA_DRIVER_VERSION: c_int = 12080;
const MIB: u64 = 1 << 20;

#[unsafe(no_mangle)]
pub extern "C" fn nvmlInit_v2() -> nvmlReturn_t {
    open()
}

#[unsafe(no_mangle)]
pub extern "C" fn nvmlInitWithFlags(_flags: c_uint) -> nvmlReturn_t {
    open()
}

#[unsafe(no_mangle)]
pub extern "C" fn nvmlShutdown() -> nvmlReturn_t {
    close()
}

#[unsafe(no_mangle)]
pub extern "C" fn nvmlErrorString(code: nvmlReturn_t) -> *const c_char {
    let known = RETURN_CODES.iter().find(|(known, _, _)| *known == code);
    known.map_or(c"Unknown Error", |(_, _, text)| text).as_ptr()
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlSystemGetDriverVersion(version: *mut c_char, length: c_uint) -> nvmlReturn_t {
    // SAFETY: NVML obliges the caller to pass a buffer of `length` bytes.
    with_devices(Call::GetDriverVersion, |_| unsafe { give_text(version, length, DRIVER_VERSION) })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlSystemGetNVMLVersion(version: *mut c_char, length: c_uint) -> nvmlReturn_t {
    // SAFETY: NVML obliges the caller to pass a buffer of `length` bytes.
    unsafe { give_text(version, length, NVML_VERSION) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlSystemGetCudaDriverVersion_v2(version: *mut c_int) -> nvmlReturn_t {
    // SAFETY: NVML obliges the caller to pass a valid pointer.
    unsafe { give(version, CUDA_DRIVER_VERSION) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetCount_v2(count: *mut c_uint) -> nvmlReturn_t {
    // SAFETY: NVML obliges the caller to pass a valid pointer.
    with_devices(Call::GetCount, |devices| unsafe { give(count, c_uint::try_from(devices.len()).unwrap_or(0)) })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetHandleByIndex_v2(index: c_uint, device: *mut nvmlDevice_t) -> nvmlReturn_t {
    with_devices(Call::GetHandleByIndex, |devices| {
        let Some((handle, _)) = devices.get(index as usize) else {
            return INVALID_ARGUMENT;
        };
        // SAFETY: NVML obliges the caller to pass a valid pointer.
        unsafe { give(device, *handle) }
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetHandleByUUID(uuid: *const c_char, device: *mut nvmlDevice_t) -> nvmlReturn_t {
    // SAFETY: NVML obliges the caller to end the text with zero.
    let Some(uuid) = (unsafe { text_of(uuid) }) else {
        return INVALID_ARGUMENT;
    };
    with_devices(Call::GetHandleByUuid, |devices| {
        let handle = devices.iter().find_map(|(handle, device)| {
            let instances = device.identity.shares.iter().position(|share| share.profile.is_some() && share.id == uuid);
            let instance = instances.map(|index| instance_of(*handle, index));
            if device.identity.uuid == uuid { Some(*handle) } else { instance }
        });
        // SAFETY: NVML obliges the caller to pass a valid pointer.
        handle.map_or(NOT_FOUND, |handle| unsafe { give(device, handle) })
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetHandleByPciBusId_v2(
    bus_id: *const c_char,
    device: *mut nvmlDevice_t,
) -> nvmlReturn_t {
    // SAFETY: NVML obliges the caller to end the text with zero.
    let Some(bus_id) = (unsafe { text_of(bus_id) }) else {
        return INVALID_ARGUMENT;
    };
    // Both `0000:10:00.0` and `00000000:10:00.0` name a device.
    let wanted = bus_id.to_ascii_uppercase();
    with_devices(Call::GetHandleByPciBusId, |devices| {
        let found = devices.iter().find(|(_, found)| {
            let address = &found.identity.pci_bus_id;
            *address == wanted || address[4..] == wanted
        });
        // SAFETY: NVML obliges the caller to pass a valid pointer.
        found.map_or(NOT_FOUND, |(handle, _)| unsafe { give(device, *handle) })
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetUUID(device: nvmlDevice_t, uuid: *mut c_char, length: c_uint) -> nvmlReturn_t {
    with_any(Call::GetUuid, device, |identity, share| {
        let known = share.map_or(&identity.uuid, |share| &share.id);
        // SAFETY: NVML obliges the caller to pass a buffer of `length` bytes.
        unsafe { give_text(uuid, length, known) }
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetName(device: nvmlDevice_t, name: *mut c_char, length: c_uint) -> nvmlReturn_t {
    with_any(Call::GetName, device, |identity, share| {
        let profile = share.and_then(|share| share.profile.as_deref());
        let known = profile
            .map_or_else(|| identity.spec.name.clone(), |profile| format!("{} MIG {profile}", identity.spec.name));
        // SAFETY: NVML obliges the caller to pass a buffer of `length` bytes.
        unsafe { give_text(name, length, &known) }
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetSerial(
    device: nvmlDevice_t,
    serial: *mut c_char,
    length: c_uint,
) -> nvmlReturn_t {
    // SAFETY: NVML obliges the caller to pass a buffer of `length` bytes.
    with_identity(Call::GetSerial, device, |identity| unsafe { give_text(serial, length, &identity.serial) })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetIndex(device: nvmlDevice_t, index: *mut c_uint) -> nvmlReturn_t {
    // The place among the devices seen here: a container with one board sees index 0.
    let met = with_identity(Call::GetIndex, device, |_| SUCCESS);
    if met != SUCCESS {
        return met;
    }
    with_devices(Call::GetIndex, |devices| {
        let place = devices.iter().position(|(handle, _)| *handle == device);
        // SAFETY: NVML obliges the caller to pass a valid pointer.
        place.map_or(NOT_FOUND, |place| unsafe { give(index, c_uint::try_from(place).unwrap_or(0)) })
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetMinorNumber(device: nvmlDevice_t, minor: *mut c_uint) -> nvmlReturn_t {
    // SAFETY: NVML obliges the caller to pass a valid pointer.
    with_identity(Call::GetMinorNumber, device, |identity| unsafe { give(minor, identity.index) })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetPciInfo_v3(device: nvmlDevice_t, pci: *mut nvmlPciInfo_t) -> nvmlReturn_t {
    with_identity(Call::GetPciInfo, device, |identity| {
        let bus = u32::from_str_radix(&identity.pci_bus_id[9..11], 16).unwrap_or(0);
        let info = nvmlPciInfo_t {
            busIdLegacy: characters(&identity.pci_bus_id[4..]),
            domain: 0,
            bus,
            device: 0,
            // H100 SXM5's device and vendor identifiers.
            pciDeviceId: 0x2330_10de,
            pciSubSystemId: 0x16c1_10de,
            busId: characters(&identity.pci_bus_id),
        };
        // SAFETY: NVML obliges the caller to pass a valid pointer.
        unsafe { give(pci, info) }
    })
}

fn characters<const LENGTH: usize>(text: &str) -> [c_char; LENGTH] {
    let mut to = [0; LENGTH];
    for (to, byte) in to.iter_mut().zip(text.bytes().take(LENGTH - 1)) {
        *to = c_char::from_ne_bytes([byte]);
    }
    to
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetMemoryInfo(device: nvmlDevice_t, memory: *mut nvmlMemory_t) -> nvmlReturn_t {
    with_state(Call::GetMemoryInfo, device, |identity, state| {
        let (total, used) = (identity.spec.memory_mib * MIB, state.memory_used_mib * MIB);
        // SAFETY: NVML obliges the caller to pass a valid pointer.
        unsafe { give(memory, nvmlMemory_t { total, free: total - used, used }) }
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetMemoryInfo_v2(
    device: nvmlDevice_t,
    memory: *mut nvmlMemory_v2_t,
) -> nvmlReturn_t {
    with_state(Call::GetMemoryInfoV2, device, |identity, state| {
        if memory.is_null() {
            return INVALID_ARGUMENT;
        }
        let (total, used) = (identity.spec.memory_mib * MIB, state.memory_used_mib * MIB);
        // SAFETY: not null, and NVML obliges the caller to set `version` in a valid structure.
        let version = unsafe { (*memory).version };
        let info = nvmlMemory_v2_t { version, total, reserved: 0, free: total - used, used };
        // SAFETY: as above.
        unsafe { give(memory, info) }
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetUtilizationRates(
    device: nvmlDevice_t,
    rates: *mut nvmlUtilization_t,
) -> nvmlReturn_t {
    with_state(Call::GetUtilizationRates, device, |identity, state| {
        if is_partitioned(identity) {
            return NOT_SUPPORTED;
        }
        let now = nvmlUtilization_t { gpu: state.utilisation_percent, memory: state.memory_utilisation_percent };
        // SAFETY: NVML obliges the caller to pass a valid pointer.
        unsafe { give(rates, now) }
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetTemperature(
    device: nvmlDevice_t,
    sensor: c_uint,
    celsius: *mut c_uint,
) -> nvmlReturn_t {
    with_state(Call::GetTemperature, device, |_, state| {
        if sensor != 0 {
            return INVALID_ARGUMENT;
        }
        // SAFETY: NVML obliges the caller to pass a valid pointer.
        unsafe { give(celsius, state.temperature_celsius) }
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetPersistenceMode(
    device: nvmlDevice_t,
    mode: *mut nvmlEnableState_t,
) -> nvmlReturn_t {
    // SAFETY: NVML obliges the caller to pass a valid pointer.
    with_state(Call::GetPersistenceMode, device, |_, state| unsafe { give(mode, u32::from(state.persistence)) })
}

#[unsafe(no_mangle)]
pub extern "C" fn nvmlDeviceSetPersistenceMode(device: nvmlDevice_t, mode: nvmlEnableState_t) -> nvmlReturn_t {
    if mode > 1 {
        return INVALID_ARGUMENT;
    }
    ask(Call::SetPersistenceMode, device, |_, request| {
        request.persistence = mode == 1;
        0
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetCudaComputeCapability(
    device: nvmlDevice_t,
    major: *mut c_int,
    minor: *mut c_int,
) -> nvmlReturn_t {
    with_identity(Call::GetCudaComputeCapability, device, |_| {
        // SAFETY: NVML obliges the caller to pass valid pointers.
        unsafe { give(major, 9).max(give(minor, 0)) }
    })
}

/// None: simulated work has no process on a GPU that NVML could name. Tenants come from PodResources.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetComputeRunningProcesses_v3(
    device: nvmlDevice_t,
    count: *mut c_uint,
    processes: *mut nvmlProcessInfo_t,
) -> nvmlReturn_t {
    // SAFETY: NVML obliges the caller to pass a valid count and that much room.
    with_identity(Call::GetComputeRunningProcesses, device, |_| unsafe { give_list(count, processes, &[]) })
}
