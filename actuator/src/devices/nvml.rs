//! NVIDIA boards by NVML.
//!
//! What must hold: a range of clocks is locked, never a single one; a limit is set within the board's
//! range; what a board lacks is told apart from what failed. NVML's return codes 23 to 30 reach us as
//! `UnexpectedVariant`.

use std::{ffi::OsStr, sync::Arc};

use nvml_wrapper::{
    Device, Nvml,
    enum_wrappers::device::Clock,
    enums::device::{GpuLockedClocksSetting, SampleValue},
    error::NvmlError,
    structs::device::FieldId,
    sys_exports::field_id::NVML_FI_DEV_POWER_INSTANT,
};
use powercap_common::units::{Megahertz, Watts};

use super::{Board, DeviceError};
use crate::{
    hardware::{BoardTraits, ClockGrid, Profile},
    sys,
};

/// `NVML_ERROR_FREQ_NOT_SUPPORTED`, which the wrapper does not know.
const FREQ_NOT_SUPPORTED: u32 = 24;

/// `NVML_DEVICE_MIG_ENABLE`.
const MIG_ENABLED: u32 = 1;

/// NVML could not be used.
#[derive(Debug, thiserror::Error)]
pub enum NvmlUnavailable {
    /// There is no such library: a node without NVIDIA boards, or without their driver in the container.
    #[error("no NVML library could be loaded: {0}")]
    NoLibrary(String),
    /// The library is there and does not work.
    #[error("NVML does not start: {0}")]
    Start(NvmlError),
    /// The library works and does not count its boards.
    #[error("NVML does not tell how many boards there are: {0}")]
    CountBoards(NvmlError),
}

/// Loads NVML and counts its boards.
///
/// # Errors
/// When there is no library, or it does not work.
pub fn load(library: &OsStr) -> Result<(Arc<Nvml>, u32), NvmlUnavailable> {
    let nvml = Nvml::builder().lib_path(library).init().map_err(|error| match error {
        NvmlError::LibloadingError(error) => NvmlUnavailable::NoLibrary(error.to_string()),
        error => NvmlUnavailable::Start(error),
    })?;
    let boards = nvml.device_count().map_err(NvmlUnavailable::CountBoards)?;
    Ok((Arc::new(nvml), boards))
}

/// One board by NVML.
pub struct NvmlBoard<'nvml> {
    device: Device<'nvml>,
    traits: BoardTraits,
    instant_power: bool,
}

impl<'nvml> NvmlBoard<'nvml> {
    /// Opens the board with this index and asks what it is.
    ///
    /// # Errors
    /// When the board does not say what it is or what power limits it takes.
    pub fn open(nvml: &'nvml Nvml, index: u32) -> Result<Self, DeviceError> {
        let device = nvml.device_by_index(index).map_err(|error| failed("open the board", error))?;
        let uuid = device.uuid().map_err(|error| failed("read the UUID", error))?;
        let (min_limit, max_limit) = match device.power_management_limit_constraints() {
            Ok(range) => (milliwatts(range.min_limit), milliwatts(range.max_limit)),
            Err(error) => return Err(failed("read the range of power limits", error)),
        };
        let default_limit = device.power_management_limit_default().map_or(max_limit, milliwatts);
        let traits = BoardTraits {
            uuid: uuid.into(),
            model: device.name().unwrap_or_else(|_| "unknown".to_owned()),
            clocks: clocks(&device),
            min_limit: min_limit.min(max_limit),
            max_limit,
            default_limit: default_limit.clamp(min_limit.min(max_limit), max_limit),
        };
        Ok(Self { device, traits, instant_power: true })
    }
}

impl Board for NvmlBoard<'_> {
    fn traits(&self) -> &BoardTraits {
        &self.traits
    }

    fn profile(&self) -> Profile {
        Profile { instant_power: self.instant_power, slices: slices(&self.device) }
    }

    fn read_power(&mut self) -> Result<Watts, DeviceError> {
        if self.instant_power {
            match instant_power(&self.device) {
                Ok(Some(power)) => return Ok(power),
                Ok(None) => self.instant_power = false,
                Err(error) => return Err(failed("read instantaneous power", error)),
            }
        }
        self.device.power_usage().map(milliwatts).map_err(|error| failed("read power", error))
    }

    fn read_clock(&mut self) -> Result<Option<Megahertz>, DeviceError> {
        optional(self.device.clock_info(Clock::Graphics), "read the graphics clock")
            .map(|clock| clock.map(Megahertz::new))
    }

    fn read_limit(&mut self) -> Result<Option<Watts>, DeviceError> {
        optional(self.device.enforced_power_limit(), "read the power limit").map(|limit| limit.map(milliwatts))
    }

    fn read_limit_set(&mut self) -> Result<Option<Watts>, DeviceError> {
        optional(self.device.power_management_limit(), "read the power limit that was set")
            .map(|limit| limit.map(milliwatts))
    }

    fn lock_clocks(&mut self, ceiling: Megahertz) -> Result<(), DeviceError> {
        const ACTION: &str = "lock the graphics clocks";
        let Some(grid) = &self.traits.clocks else { return Err(DeviceError::Unsupported { action: ACTION }) };
        let range = GpuLockedClocksSetting::Numeric {
            min_clock_mhz: grid.lowest().get(),
            max_clock_mhz: grid.snap_down(ceiling).get(),
        };
        self.device.set_gpu_locked_clocks(range).map_err(|error| failed(ACTION, error))
    }

    fn unlock_clocks(&mut self) -> Result<(), DeviceError> {
        self.device.reset_gpu_locked_clocks().map_err(|error| failed("reset the graphics clocks", error))
    }

    fn set_limit(&mut self, limit: Watts) -> Result<(), DeviceError> {
        let limit = limit.clamp(self.traits.min_limit, self.traits.max_limit);
        let limit_mw = u32::try_from(limit.as_milliwatts()).unwrap_or(u32::MAX);
        self.device.set_power_management_limit(limit_mw).map_err(|error| failed("set the power limit", error))
    }
}

/// The power over the last few milliseconds; `None` on a board without that sensor.
pub(super) fn instant_power(device: &Device<'_>) -> Result<Option<Watts>, NvmlError> {
    let lacking = |error: &NvmlError| {
        matches!(error, NvmlError::NotSupported | NvmlError::InvalidArg | NvmlError::FailedToLoadSymbol(_))
    };
    let sample = device
        .field_values_for(&[FieldId(NVML_FI_DEV_POWER_INSTANT)])
        .and_then(|fields| fields.into_iter().next().ok_or(NvmlError::NoData)?.and_then(|sample| sample.value));
    match sample {
        Ok(SampleValue::U32(power_mw)) => Ok(Some(milliwatts(power_mw))),
        Ok(SampleValue::U64(power_mw)) => Ok(Some(Watts::from_milliwatts(power_mw))),
        Ok(SampleValue::F64(_) | SampleValue::I64(_)) => Ok(None),
        Err(error) if lacking(&error) => Ok(None),
        Err(error) => Err(error),
    }
}

/// The board's MIG instances; `None` where it is not split. NVML numbers places, of which some are empty.
fn slices(device: &Device<'_>) -> Option<Vec<Arc<str>>> {
    device.mig_mode().ok().filter(|mode| mode.current == MIG_ENABLED)?;
    let places = device.mig_device_count().unwrap_or(0);
    let instances = (0..places).filter_map(|place| device.mig_device_by_index(place).ok());
    Some(instances.filter_map(|instance| instance.uuid().ok()).map(Arc::from).collect())
}

/// The clocks at the highest memory clock: what an unlocked memory clock allows.
fn clocks(device: &Device<'_>) -> Option<ClockGrid> {
    let memory_mhz = device
        .supported_memory_clocks()
        .ok()
        .and_then(|clocks| clocks.into_iter().max())
        .or_else(|| device.max_clock_info(Clock::Memory).ok())?;
    let clocks = sys::supported_graphics_clocks(device, memory_mhz).ok()?;
    ClockGrid::new(clocks.into_iter().map(Megahertz::new))
}

pub(super) const fn milliwatts(power_mw: u32) -> Watts {
    Watts::from_milliwatts(power_mw as u64)
}

fn optional<T>(result: Result<T, NvmlError>, action: &'static str) -> Result<Option<T>, DeviceError> {
    match result.map_err(|error| failed(action, error)) {
        Ok(value) => Ok(Some(value)),
        Err(DeviceError::Unsupported { .. }) => Ok(None),
        Err(error) => Err(error),
    }
}

pub(super) fn failed(action: &'static str, error: NvmlError) -> DeviceError {
    match error {
        NvmlError::NotSupported | NvmlError::FailedToLoadSymbol(_) | NvmlError::FunctionNotFound => {
            DeviceError::Unsupported { action }
        }
        NvmlError::UnexpectedVariant(FREQ_NOT_SUPPORTED) => {
            DeviceError::Failed { action, why: "the board does not take this clock".to_owned() }
        }
        NvmlError::NoPermission => DeviceError::Denied { action },
        NvmlError::GpuLost | NvmlError::ResetRequired => DeviceError::Lost { action },
        error => DeviceError::Failed { action, why: error.to_string() },
    }
}
