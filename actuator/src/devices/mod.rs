//! The devices that can be capped, each behind a small interface, so that other vendors fit in.
//!
//! Nothing here decides anything. Reads and writes block, without a timeout: each board has a thread
//! of its own ([`crate::node::observe`]), and a call that hangs stops that board's thread alone.

pub mod cpufreq;
pub mod nvml;
pub mod nvml_facts;
pub mod pci;
pub mod rapl;

use powercap_common::units::{Megahertz, Watts};

use crate::hardware::{BoardTraits, Knob, Profile};

/// A board that can be read and held.
pub trait Board {
    /// What it is and can do.
    fn traits(&self) -> &BoardTraits;

    /// What it shows of itself now. On a split board this takes two calls for each instance.
    fn profile(&self) -> Profile;

    /// Its power now.
    ///
    /// # Errors
    /// When the board does not answer, or answers with something that is no power.
    fn read_power(&mut self) -> Result<Watts, DeviceError>;

    /// Its graphics clock now; `None` when it has no such reading.
    ///
    /// # Errors
    /// When the board does not answer.
    fn read_clock(&mut self) -> Result<Option<Megahertz>, DeviceError>;

    /// The power limit in force, the most conservative of all; `None` when it has none.
    ///
    /// # Errors
    /// When the board does not answer.
    fn read_limit(&mut self) -> Result<Option<Watts>, DeviceError>;

    /// The power limit that was set through the driver: a BMC may hold the board lower. `None`: not told.
    ///
    /// # Errors
    /// When the board does not answer.
    fn read_limit_set(&mut self) -> Result<Option<Watts>, DeviceError>;

    /// Holds its clock between its lowest and `ceiling`, which must be on its grid.
    ///
    /// # Errors
    /// When the board refuses.
    fn lock_clocks(&mut self, ceiling: Megahertz) -> Result<(), DeviceError>;

    /// Lets its clock run free.
    ///
    /// # Errors
    /// When the board refuses.
    fn unlock_clocks(&mut self) -> Result<(), DeviceError>;

    /// Sets its power limit, which must be within its range.
    ///
    /// # Errors
    /// When the board refuses.
    fn set_limit(&mut self, limit: Watts) -> Result<(), DeviceError>;
}

/// A device could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum DeviceError {
    /// The device lacks it.
    #[error("{action}: not supported by this device")]
    Unsupported {
        /// What was tried.
        action: &'static str,
    },
    /// Not allowed.
    #[error("{action}: not permitted (it needs root, and CAP_SYS_ADMIN for boards)")]
    Denied {
        /// What was tried.
        action: &'static str,
    },
    /// It is not there any more, or needs a reset first.
    #[error("{action}: the device is lost")]
    Lost {
        /// What was tried.
        action: &'static str,
    },
    /// Anything else; trying again may help.
    #[error("{action}: {why}")]
    Failed {
        /// What was tried.
        action: &'static str,
        /// What the device or the kernel said.
        why: String,
    },
}

impl DeviceError {
    /// What this error of a write means for the next one.
    #[must_use]
    pub const fn knob(&self) -> Knob {
        match self {
            Self::Unsupported { .. } => Knob::Lacking,
            Self::Denied { .. } => Knob::Denied,
            Self::Lost { .. } | Self::Failed { .. } => Knob::Failed,
        }
    }

    pub(crate) fn from_io(action: &'static str, error: &std::io::Error) -> Self {
        match error.kind() {
            std::io::ErrorKind::PermissionDenied | std::io::ErrorKind::ReadOnlyFilesystem => Self::Denied { action },
            std::io::ErrorKind::NotFound => Self::Unsupported { action },
            _ => Self::Failed { action, why: error.to_string() },
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;

    #[test]
    fn what_is_busy_is_tried_again_and_what_is_denied_or_missing_is_not() {
        // EPERM, ENOENT, EIO, EACCES, EBUSY, EINVAL, EROFS by Linux's numbers.
        for (code, knob) in [
            (1, Knob::Denied),
            (2, Knob::Lacking),
            (5, Knob::Failed),
            (13, Knob::Denied),
            (16, Knob::Failed),
            (22, Knob::Failed),
            (30, Knob::Denied),
        ] {
            let error = io::Error::from_raw_os_error(code);
            assert_eq!(DeviceError::from_io("write scaling_max_freq", &error).knob(), knob, "{error}");
        }
    }
}
