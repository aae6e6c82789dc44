//! MIG: what a board is cut into, and what an instance answers.
//!
//! An instance has a handle, a UUID, a name and memory. It has no power, no limit and no clock of its
//! own: every call about those answers `NOT_SUPPORTED` on its handle, and concerns the whole board on
//! the board's. Partitions are made by `powercap-simulator hardware --mig` and do not change.

use std::ffi::c_uint;

use nvml_wrapper_sys::bindings::{
    nvmlDevice_t, nvmlReturn_enum_NVML_ERROR_INVALID_ARGUMENT as INVALID_ARGUMENT,
    nvmlReturn_enum_NVML_ERROR_NOT_FOUND as NOT_FOUND, nvmlReturn_enum_NVML_ERROR_NOT_SUPPORTED as NOT_SUPPORTED,
    nvmlReturn_t,
};
use powercap_simulated_hardware::call::Call;
use powercap_simulated_hardware::{Identity, MigLayout};

use crate::library::{instance_of, parent_of, with_any, with_identity};
use crate::memory::give;

/// As many as the smallest profile allows.
const MOST_INSTANCES: c_uint = 7;

pub(crate) fn is_partitioned(identity: &Identity) -> bool {
    identity.shares.iter().any(|share| share.profile.is_some())
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetMigMode(
    device: nvmlDevice_t,
    current: *mut c_uint,
    pending: *mut c_uint,
) -> nvmlReturn_t {
    with_identity(Call::GetMigMode, device, |identity| {
        if identity.spec.mig == MigLayout::None {
            return NOT_SUPPORTED;
        }
        let mode = c_uint::from(is_partitioned(identity));
        // SAFETY: NVML obliges the caller to pass valid pointers.
        unsafe { give(current, mode).max(give(pending, mode)) }
    })
}

/// The most that there can be, not how many there are; 0 on a board that is not partitioned.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetMaxMigDeviceCount(device: nvmlDevice_t, count: *mut c_uint) -> nvmlReturn_t {
    with_identity(Call::GetMaxMigDeviceCount, device, |identity| {
        // SAFETY: NVML obliges the caller to pass a valid pointer.
        unsafe { give(count, if is_partitioned(identity) { MOST_INSTANCES } else { 0 }) }
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetMigDeviceHandleByIndex(
    device: nvmlDevice_t,
    index: c_uint,
    instance: *mut nvmlDevice_t,
) -> nvmlReturn_t {
    with_identity(Call::GetMigDeviceHandleByIndex, device, |identity| match index {
        _ if !is_partitioned(identity) => NOT_SUPPORTED,
        index if index >= MOST_INSTANCES => INVALID_ARGUMENT,
        index if index as usize >= identity.shares.len() => NOT_FOUND,
        // SAFETY: NVML obliges the caller to pass a valid pointer.
        index => unsafe { give(instance, instance_of(device, index as usize)) },
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetDeviceHandleFromMigDeviceHandle(
    instance: nvmlDevice_t,
    device: *mut nvmlDevice_t,
) -> nvmlReturn_t {
    with_any(Call::GetDeviceHandleFromMigDeviceHandle, instance, |_, share| match share {
        // SAFETY: NVML obliges the caller to pass a valid pointer.
        Some(_) => unsafe { give(device, parent_of(instance)) },
        None => INVALID_ARGUMENT,
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceIsMigDeviceHandle(device: nvmlDevice_t, is_instance: *mut c_uint) -> nvmlReturn_t {
    // SAFETY: NVML obliges the caller to pass a valid pointer.
    with_any(Call::IsMigDeviceHandle, device, |_, share| unsafe { give(is_instance, c_uint::from(share.is_some())) })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetGpuInstanceId(device: nvmlDevice_t, id: *mut c_uint) -> nvmlReturn_t {
    with_any(Call::GetGpuInstanceId, device, |identity, share| {
        let place = share.and_then(|share| identity.shares.iter().position(|other| other.id == share.id));
        // SAFETY: NVML obliges the caller to pass a valid pointer.
        place.map_or(NOT_SUPPORTED, |place| unsafe { give(id, c_uint::try_from(place + 1).unwrap_or(0)) })
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetComputeInstanceId(device: nvmlDevice_t, id: *mut c_uint) -> nvmlReturn_t {
    // SAFETY: NVML obliges the caller to pass a valid pointer.
    with_any(Call::GetComputeInstanceId, device, |_, share| share.map_or(NOT_SUPPORTED, |_| unsafe { give(id, 0) }))
}
