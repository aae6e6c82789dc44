//! Clocks: what a board can do, does, and is locked to.

use std::ffi::c_uint;

use nvml_wrapper_sys::bindings::{
    nvmlClockId_t, nvmlClockType_t, nvmlDevice_t, nvmlReturn_enum_NVML_ERROR_INVALID_ARGUMENT as INVALID_ARGUMENT,
    nvmlReturn_enum_NVML_ERROR_NOT_FOUND as NOT_FOUND, nvmlReturn_enum_NVML_ERROR_NOT_SUPPORTED as NOT_SUPPORTED,
    nvmlReturn_enum_NVML_SUCCESS as SUCCESS, nvmlReturn_t,
};

use powercap_simulated_hardware::call::Call;

use crate::library::{ask, with_fault, with_identity, with_state};
use crate::memory::{give, give_list};

const GRAPHICS: nvmlClockType_t = 0;
const SM: nvmlClockType_t = 1;
const MEMORY: nvmlClockType_t = 2;
const VIDEO: nvmlClockType_t = 3;
const CLOCK_CURRENT: nvmlClockId_t = 0;

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetClockInfo(
    device: nvmlDevice_t,
    kind: nvmlClockType_t,
    megahertz: *mut c_uint,
) -> nvmlReturn_t {
    with_state(Call::GetClockInfo, device, |_, state| {
        let clock = match kind {
            GRAPHICS | SM | VIDEO => state.clock_mhz,
            MEMORY => state.memory_mhz,
            _ => return INVALID_ARGUMENT,
        };
        // SAFETY: NVML obliges the caller to pass a valid pointer.
        unsafe { give(megahertz, clock) }
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetClock(
    device: nvmlDevice_t,
    kind: nvmlClockType_t,
    id: nvmlClockId_t,
    megahertz: *mut c_uint,
) -> nvmlReturn_t {
    if id != CLOCK_CURRENT {
        return NOT_SUPPORTED;
    }
    // SAFETY: passed on under the same contract.
    unsafe { nvmlDeviceGetClockInfo(device, kind, megahertz) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetMaxClockInfo(
    device: nvmlDevice_t,
    kind: nvmlClockType_t,
    megahertz: *mut c_uint,
) -> nvmlReturn_t {
    with_identity(Call::GetMaxClockInfo, device, |identity| {
        let clock = match kind {
            GRAPHICS | SM | VIDEO => identity.spec.max_mhz,
            MEMORY => identity.spec.memory_mhz,
            _ => return INVALID_ARGUMENT,
        };
        // SAFETY: NVML obliges the caller to pass a valid pointer.
        unsafe { give(megahertz, clock) }
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetSupportedMemoryClocks(
    device: nvmlDevice_t,
    count: *mut c_uint,
    clocks: *mut c_uint,
) -> nvmlReturn_t {
    // SAFETY: NVML obliges the caller to pass a valid count and that much room.
    with_identity(Call::GetSupportedMemoryClocks, device, |identity| unsafe {
        give_list(count, clocks, &[identity.spec.memory_mhz])
    })
}

/// Highest first, as the real library lists them.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetSupportedGraphicsClocks(
    device: nvmlDevice_t,
    memory_megahertz: c_uint,
    count: *mut c_uint,
    clocks: *mut c_uint,
) -> nvmlReturn_t {
    with_fault(Call::GetSupportedGraphicsClocks, device, |identity, fault| {
        let spec = &identity.spec;
        if memory_megahertz != spec.memory_mhz {
            return NOT_FOUND;
        }
        let clock = |index| if fault.zero_clocks { 0 } else { spec.clock(index) };
        let all: Vec<c_uint> = (0..spec.clock_count()).rev().map(clock).collect();
        // SAFETY: NVML obliges the caller to pass a valid count and that much room.
        unsafe { give_list(count, clocks, &all) }
    })
}

/// Accepted at once; the board clamps, snaps to its grid, and follows later.
#[unsafe(no_mangle)]
pub extern "C" fn nvmlDeviceSetGpuLockedClocks(device: nvmlDevice_t, lowest: c_uint, highest: c_uint) -> nvmlReturn_t {
    ask(Call::SetGpuLockedClocks, device, |identity, request| {
        if lowest > highest {
            return INVALID_ARGUMENT;
        }
        request.lock_min_mhz = lowest.clamp(identity.spec.min_mhz, identity.spec.max_mhz);
        request.lock_max_mhz = highest.clamp(identity.spec.min_mhz, identity.spec.max_mhz);
        SUCCESS
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn nvmlDeviceResetGpuLockedClocks(device: nvmlDevice_t) -> nvmlReturn_t {
    ask(Call::ResetGpuLockedClocks, device, |_, request| {
        (request.lock_min_mhz, request.lock_max_mhz) = (0, 0);
        SUCCESS
    })
}
