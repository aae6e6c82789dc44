//! What NVML tells of a board beyond what the loop needs: for the conformance suite.
//!
//! What must hold: nothing here clamps or guesses; what was asked is what NVML is asked.

use nvml_wrapper::{Device, enum_wrappers::device::Clock, enums::device::GpuLockedClocksSetting};
use powercap_common::units::{Megahertz, Watts};

use super::{
    DeviceError,
    nvml::{failed, instant_power, milliwatts},
};
use crate::sys;

/// The product's name.
///
/// # Errors
/// When the board does not answer.
pub fn model(device: &Device<'_>) -> Result<String, DeviceError> {
    device.name().map_err(|error| failed("read the name", error))
}

/// NVML's UUID.
///
/// # Errors
/// When the board does not answer.
pub fn uuid(device: &Device<'_>) -> Result<String, DeviceError> {
    device.uuid().map_err(|error| failed("read the UUID", error))
}

/// The lowest and the highest power limit, as told.
///
/// # Errors
/// When the board does not answer.
pub fn limit_range(device: &Device<'_>) -> Result<(Watts, Watts), DeviceError> {
    let range = device.power_management_limit_constraints();
    let range = range.map_err(|error| failed("read the range of power limits", error))?;
    Ok((milliwatts(range.min_limit), milliwatts(range.max_limit)))
}

/// The power limit after boot.
///
/// # Errors
/// When the board does not answer.
pub fn limit_default(device: &Device<'_>) -> Result<Watts, DeviceError> {
    let limit = device.power_management_limit_default();
    limit.map(milliwatts).map_err(|error| failed("read the default power limit", error))
}

/// The power limit that was set.
///
/// # Errors
/// When the board does not answer.
pub fn limit_set(device: &Device<'_>) -> Result<Watts, DeviceError> {
    device.power_management_limit().map(milliwatts).map_err(|error| failed("read the power limit that was set", error))
}

/// The power limit in force.
///
/// # Errors
/// When the board does not answer.
pub fn limit_enforced(device: &Device<'_>) -> Result<Watts, DeviceError> {
    device.enforced_power_limit().map(milliwatts).map_err(|error| failed("read the power limit in force", error))
}

/// The graphics clocks at the highest memory clock, as listed.
///
/// # Errors
/// When the board does not answer.
pub fn clocks(device: &Device<'_>) -> Result<Vec<Megahertz>, DeviceError> {
    let memory_mhz = highest_memory_clock(device)?;
    let clocks = sys::supported_graphics_clocks(device, memory_mhz);
    let clocks = clocks.map_err(|error| failed("list the graphics clocks", error))?;
    Ok(clocks.into_iter().map(Megahertz::new).collect())
}

/// How many clocks the NVML wrapper's own call lists, and how many of them are zero.
#[must_use]
pub fn clocks_by_wrapper(device: &Device<'_>) -> Option<(usize, usize)> {
    let clocks = device.supported_graphics_clocks(highest_memory_clock(device).ok()?).ok()?;
    Some((clocks.len(), clocks.iter().filter(|clock| **clock == 0).count()))
}

fn highest_memory_clock(device: &Device<'_>) -> Result<u32, DeviceError> {
    let clocks = device.supported_memory_clocks().map_err(|error| failed("list the memory clocks", error))?;
    let none = || DeviceError::Failed { action: "list the memory clocks", why: "the list is empty".to_owned() };
    clocks.into_iter().max().ok_or_else(none)
}

/// The highest graphics clock, asked for by itself.
///
/// # Errors
/// When the board does not answer.
pub fn highest_clock(device: &Device<'_>) -> Result<Megahertz, DeviceError> {
    let clock = device.max_clock_info(Clock::Graphics);
    clock.map(Megahertz::new).map_err(|error| failed("read the highest graphics clock", error))
}

/// Power over the last milliseconds; `None` on a board without that sensor.
///
/// # Errors
/// When the board does not answer.
pub fn power_instant(device: &Device<'_>) -> Result<Option<Watts>, DeviceError> {
    instant_power(device).map_err(|error| failed("read instantaneous power", error))
}

/// Average power.
///
/// # Errors
/// When the board does not answer.
pub fn power_average(device: &Device<'_>) -> Result<Watts, DeviceError> {
    device.power_usage().map(milliwatts).map_err(|error| failed("read average power", error))
}

/// Energy since the driver was loaded, in millijoules.
///
/// # Errors
/// When the board does not answer.
pub fn energy_mj(device: &Device<'_>) -> Result<u64, DeviceError> {
    device.total_energy_consumption().map_err(|error| failed("read the energy counter", error))
}

/// Share of time with work, in percent.
///
/// # Errors
/// When the board does not answer.
pub fn busy_percent(device: &Device<'_>) -> Result<u32, DeviceError> {
    device.utilization_rates().map(|rates| rates.gpu).map_err(|error| failed("read the utilisation", error))
}

/// How many processes compute on it; in a container NVML may not show those of others.
///
/// # Errors
/// When the board does not answer.
pub fn processes(device: &Device<'_>) -> Result<u32, DeviceError> {
    device.running_compute_processes_count().map_err(|error| failed("count the processes", error))
}

/// Whether the board is partitioned.
///
/// # Errors
/// When the board does not answer, or cannot be partitioned.
pub fn partitioned(device: &Device<'_>) -> Result<bool, DeviceError> {
    device.mig_mode().map(|mode| mode.current == 1).map_err(|error| failed("read the MIG mode", error))
}

/// Whether the driver stays loaded without clients.
///
/// # Errors
/// When the board does not answer.
pub fn persistent(device: &Device<'_>) -> Result<bool, DeviceError> {
    device.is_in_persistent_mode().map_err(|error| failed("read the persistence mode", error))
}

/// What holds the clock down, as NVML's bits.
///
/// # Errors
/// When the board does not answer.
pub fn throttle_reasons(device: &Device<'_>) -> Result<u64, DeviceError> {
    let reasons = device.current_throttle_reasons();
    reasons.map(|reasons| reasons.bits()).map_err(|error| failed("read the throttle reasons", error))
}

/// Asks for a power limit without clamping it.
///
/// # Errors
/// When the board refuses.
pub fn ask_limit_mw(device: &mut Device<'_>, limit_mw: u32) -> Result<(), DeviceError> {
    device.set_power_management_limit(limit_mw).map_err(|error| failed("set the power limit", error))
}

/// Asks for a range of clocks without snapping it to the grid.
///
/// # Errors
/// When the board refuses.
pub fn ask_range(device: &mut Device<'_>, lowest: Megahertz, highest: Megahertz) -> Result<(), DeviceError> {
    let range = GpuLockedClocksSetting::Numeric { min_clock_mhz: lowest.get(), max_clock_mhz: highest.get() };
    device.set_gpu_locked_clocks(range).map_err(|error| failed("lock the graphics clocks", error))
}
