//! Power, energy, limits, and what holds a board back.

use std::ffi::{c_int, c_uint, c_ulonglong};

use nvml_wrapper_sys::bindings::{
    nvmlDevice_t, nvmlFieldValue_t, nvmlPerfPolicyType_t,
    nvmlReturn_enum_NVML_ERROR_INVALID_ARGUMENT as INVALID_ARGUMENT,
    nvmlReturn_enum_NVML_ERROR_NOT_SUPPORTED as NOT_SUPPORTED, nvmlReturn_enum_NVML_SUCCESS as SUCCESS, nvmlReturn_t,
    nvmlValue_t, nvmlViolationTime_t,
};
use powercap_simulated_hardware::call::Call;
use powercap_simulated_hardware::{Identity, State};

use crate::library::{ask, with_identity, with_request, with_state};
use crate::memory::give;

mod field {
    pub(super) const TOTAL_ENERGY: u32 = 83;
    pub(super) const POWER_AVERAGE: u32 = 185;
    pub(super) const POWER_INSTANT: u32 = 186;
    pub(super) const POWER_MIN_LIMIT: u32 = 187;
    pub(super) const POWER_MAX_LIMIT: u32 = 188;
    pub(super) const POWER_DEFAULT_LIMIT: u32 = 189;
    pub(super) const POWER_CURRENT_LIMIT: u32 = 190;
}
const UNSIGNED_INT: u32 = 1;
const UNSIGNED_LONG_LONG: u32 = 3;
const POLICY_POWER: nvmlPerfPolicyType_t = 0;
const POLICIES: nvmlPerfPolicyType_t = 12;

/// One second's mean, as on Ampere and newer.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetPowerUsage(device: nvmlDevice_t, milliwatts: *mut c_uint) -> nvmlReturn_t {
    // SAFETY: NVML obliges the caller to pass a valid pointer.
    with_state(Call::GetPowerUsage, device, |_, state| unsafe { give(milliwatts, state.average_mw) })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetTotalEnergyConsumption(
    device: nvmlDevice_t,
    millijoules: *mut c_ulonglong,
) -> nvmlReturn_t {
    // SAFETY: NVML obliges the caller to pass a valid pointer.
    with_state(Call::GetTotalEnergyConsumption, device, |_, state| unsafe { give(millijoules, state.energy_mj) })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetEnforcedPowerLimit(
    device: nvmlDevice_t,
    milliwatts: *mut c_uint,
) -> nvmlReturn_t {
    // SAFETY: NVML obliges the caller to pass a valid pointer.
    with_state(Call::GetEnforcedPowerLimit, device, |_, state| unsafe { give(milliwatts, state.limit_mw) })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetPowerManagementLimit(
    device: nvmlDevice_t,
    milliwatts: *mut c_uint,
) -> nvmlReturn_t {
    // SAFETY: NVML obliges the caller to pass a valid pointer.
    with_request(Call::GetPowerManagementLimit, device, |request| unsafe { give(milliwatts, request.limit_mw) })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetPowerManagementDefaultLimit(
    device: nvmlDevice_t,
    milliwatts: *mut c_uint,
) -> nvmlReturn_t {
    // SAFETY: NVML obliges the caller to pass a valid pointer.
    with_identity(Call::GetPowerManagementDefaultLimit, device, |identity| unsafe {
        give(milliwatts, milli(identity.spec.default_watts))
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetPowerManagementLimitConstraints(
    device: nvmlDevice_t,
    lowest: *mut c_uint,
    highest: *mut c_uint,
) -> nvmlReturn_t {
    with_identity(Call::GetPowerManagementLimitConstraints, device, |identity| {
        // SAFETY: NVML obliges the caller to pass valid pointers.
        unsafe { give(lowest, milli(identity.spec.min_watts)).max(give(highest, milli(identity.spec.max_watts))) }
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetPowerManagementMode(device: nvmlDevice_t, mode: *mut c_uint) -> nvmlReturn_t {
    // SAFETY: NVML obliges the caller to pass a valid pointer.
    with_identity(Call::GetPowerManagementMode, device, |_| unsafe { give(mode, 1) })
}

#[unsafe(no_mangle)]
pub extern "C" fn nvmlDeviceSetPowerManagementLimit(device: nvmlDevice_t, milliwatts: c_uint) -> nvmlReturn_t {
    ask(Call::SetPowerManagementLimit, device, |identity, request| {
        if !(milli(identity.spec.min_watts)..=milli(identity.spec.max_watts)).contains(&milliwatts) {
            return INVALID_ARGUMENT;
        }
        request.limit_mw = milliwatts;
        SUCCESS
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetCurrentClocksThrottleReasons(
    device: nvmlDevice_t,
    reasons: *mut c_ulonglong,
) -> nvmlReturn_t {
    // SAFETY: NVML obliges the caller to pass a valid pointer.
    with_state(Call::GetCurrentClocksThrottleReasons, device, |_, state| unsafe { give(reasons, state.reasons) })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetCurrentClocksEventReasons(
    device: nvmlDevice_t,
    reasons: *mut c_ulonglong,
) -> nvmlReturn_t {
    // SAFETY: NVML obliges the caller to pass a valid pointer.
    with_state(Call::GetCurrentClocksEventReasons, device, |_, state| unsafe { give(reasons, state.reasons) })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetSupportedClocksThrottleReasons(
    device: nvmlDevice_t,
    reasons: *mut c_ulonglong,
) -> nvmlReturn_t {
    // SAFETY: NVML obliges the caller to pass a valid pointer.
    with_identity(Call::GetSupportedClocksThrottleReasons, device, |_| unsafe { give(reasons, 0x1ff) })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetViolationStatus(
    device: nvmlDevice_t,
    policy: nvmlPerfPolicyType_t,
    time: *mut nvmlViolationTime_t,
) -> nvmlReturn_t {
    with_state(Call::GetViolationStatus, device, |_, state| {
        if policy >= POLICIES {
            return INVALID_ARGUMENT;
        }
        let violation = if policy == POLICY_POWER { state.power_violation_ns } else { 0 };
        // SAFETY: NVML obliges the caller to pass a valid pointer.
        unsafe { give(time, nvmlViolationTime_t { referenceTime: microseconds(state), violationTime: violation }) }
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetFieldValues(
    device: nvmlDevice_t,
    count: c_int,
    values: *mut nvmlFieldValue_t,
) -> nvmlReturn_t {
    with_state(Call::GetFieldValues, device, |identity, state| {
        let Ok(count) = usize::try_from(count) else {
            return INVALID_ARGUMENT;
        };
        if values.is_null() {
            return INVALID_ARGUMENT;
        }
        // SAFETY: not null, and NVML obliges the caller to pass `count` values whose fieldId is set.
        let values = unsafe { std::slice::from_raw_parts_mut(values, count) };
        for value in values {
            answer(value, identity, state);
        }
        SUCCESS
    })
}

fn answer(to: &mut nvmlFieldValue_t, identity: &Identity, state: &State) {
    to.timestamp = i64::try_from(microseconds(state)).unwrap_or(i64::MAX);
    to.latencyUsec = 0;
    to.nvmlReturn = SUCCESS;
    let milliwatts = match to.fieldId {
        field::TOTAL_ENERGY => {
            to.valueType = UNSIGNED_LONG_LONG;
            to.value = nvmlValue_t { ullVal: state.energy_mj };
            return;
        }
        field::POWER_AVERAGE => state.average_mw,
        field::POWER_INSTANT => state.instant_mw,
        field::POWER_MIN_LIMIT => milli(identity.spec.min_watts),
        field::POWER_MAX_LIMIT => milli(identity.spec.max_watts),
        field::POWER_DEFAULT_LIMIT => milli(identity.spec.default_watts),
        field::POWER_CURRENT_LIMIT => state.limit_mw,
        _ => {
            to.nvmlReturn = NOT_SUPPORTED;
            return;
        }
    };
    to.valueType = UNSIGNED_INT;
    to.value = nvmlValue_t { ullVal: u64::from(milliwatts) };
}

/// The board's own time: the library does not read the wall clock.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "seconds since boot")]
fn microseconds(state: &State) -> u64 {
    (state.uptime_seconds * 1e6) as u64
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "watts of one board")]
fn milli(watts: f64) -> u32 {
    (watts * 1000.0).round() as u32
}
