//! The one place with `unsafe`: a call of NVML that `nvml-wrapper` gets wrong.
//!
//! `Device::supported_graphics_clocks` asks with room for 128 clocks and, when the board has more,
//! returns 128 zeros (seen with L40S 155, B200 247, GB200 260). Here the size is asked for first.
#![allow(unsafe_code)]

use nvml_wrapper::{Device, error::NvmlError};
use nvml_wrapper_sys::bindings::{
    nvmlReturn_enum_NVML_ERROR_INSUFFICIENT_SIZE as INSUFFICIENT_SIZE, nvmlReturn_enum_NVML_SUCCESS as SUCCESS,
};

/// More than any board has; a larger count is not believed.
const MOST_CLOCKS: u32 = 4096;

/// The graphics clocks in megahertz that a board supports at a memory clock.
///
/// # Errors
/// When the library lacks the function, or the board refuses or contradicts itself.
pub fn supported_graphics_clocks(device: &Device<'_>, memory_mhz: u32) -> Result<Vec<u32>, NvmlError> {
    let call = match &device.nvml().lib().nvmlDeviceGetSupportedGraphicsClocks {
        Ok(call) => *call,
        Err(error) => return Err(NvmlError::FailedToLoadSymbol(error.to_string())),
    };
    let mut room: u32 = 512;
    for _ in 0..3 {
        let mut clocks = vec![0_u32; room as usize];
        let mut count = room;
        // SAFETY: the handle lives as long as `device`, `clocks` has room for `count` values as NVML
        // requires, and both outlive the call; NVML writes at most `count` values and then the count.
        let code = unsafe { call(device.handle(), memory_mhz, &raw mut count, clocks.as_mut_ptr()) };
        match code {
            SUCCESS => {
                clocks.truncate(count.min(room) as usize);
                return Ok(clocks);
            }
            INSUFFICIENT_SIZE if count > room && count <= MOST_CLOCKS => room = count,
            INSUFFICIENT_SIZE => return Err(NvmlError::InsufficientSize(Some(count as usize))),
            code => return Err(code.into()),
        }
    }
    Err(NvmlError::InsufficientSize(None))
}
