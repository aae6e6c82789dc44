//! NVML's calls and return codes by name: what a fault can aim at, and what it can answer.
//!
//! What must hold: a call is stored as its number, which is its place here, so a record that names one
//! is read by programs of the same build alone (as all records are).

use crate::record::Word;

/// What a call is for: a fault may concern all of a kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// Starts, counts or finds.
    Find,
    /// Says what a board is.
    Identify,
    /// Reads a sensor, or what is in force.
    Read,
    /// Sets or resets.
    Write,
}

macro_rules! calls {
    ($($purpose:ident { $($name:ident = $symbol:literal),* $(,)? })*) => {
        /// A call of NVML.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum Call { $($(#[doc = concat!("`", $symbol, "`")] $name,)*)* }

        impl Call {
            /// All that the stand-in has and a fault can concern.
            pub const ALL: &'static [Self] = &[$($(Self::$name,)*)*];

            /// The symbol in the library.
            #[must_use]
            pub const fn symbol(self) -> &'static str {
                match self { $($(Self::$name => $symbol,)*)* }
            }

            /// What it is for.
            #[must_use]
            pub const fn purpose(self) -> Purpose {
                match self { $($(Self::$name => Purpose::$purpose,)*)* }
            }
        }
    };
}

calls! {
    Find {
        Init = "nvmlInit_v2",
        GetDriverVersion = "nvmlSystemGetDriverVersion",
        GetCount = "nvmlDeviceGetCount_v2",
        GetHandleByIndex = "nvmlDeviceGetHandleByIndex_v2",
        GetHandleByUuid = "nvmlDeviceGetHandleByUUID",
        GetHandleByPciBusId = "nvmlDeviceGetHandleByPciBusId_v2",
    }
    Identify {
        GetUuid = "nvmlDeviceGetUUID",
        GetName = "nvmlDeviceGetName",
        GetSerial = "nvmlDeviceGetSerial",
        GetIndex = "nvmlDeviceGetIndex",
        GetMinorNumber = "nvmlDeviceGetMinorNumber",
        GetPciInfo = "nvmlDeviceGetPciInfo_v3",
        GetCudaComputeCapability = "nvmlDeviceGetCudaComputeCapability",
        GetMaxClockInfo = "nvmlDeviceGetMaxClockInfo",
        GetSupportedMemoryClocks = "nvmlDeviceGetSupportedMemoryClocks",
        GetSupportedGraphicsClocks = "nvmlDeviceGetSupportedGraphicsClocks",
        GetSupportedClocksThrottleReasons = "nvmlDeviceGetSupportedClocksThrottleReasons",
        GetPowerManagementDefaultLimit = "nvmlDeviceGetPowerManagementDefaultLimit",
        GetPowerManagementLimitConstraints = "nvmlDeviceGetPowerManagementLimitConstraints",
        GetPowerManagementMode = "nvmlDeviceGetPowerManagementMode",
        GetMigMode = "nvmlDeviceGetMigMode",
        GetMaxMigDeviceCount = "nvmlDeviceGetMaxMigDeviceCount",
        GetMigDeviceHandleByIndex = "nvmlDeviceGetMigDeviceHandleByIndex",
        GetDeviceHandleFromMigDeviceHandle = "nvmlDeviceGetDeviceHandleFromMigDeviceHandle",
        IsMigDeviceHandle = "nvmlDeviceIsMigDeviceHandle",
        GetGpuInstanceId = "nvmlDeviceGetGpuInstanceId",
        GetComputeInstanceId = "nvmlDeviceGetComputeInstanceId",
    }
    Read {
        GetPowerUsage = "nvmlDeviceGetPowerUsage",
        GetTotalEnergyConsumption = "nvmlDeviceGetTotalEnergyConsumption",
        GetEnforcedPowerLimit = "nvmlDeviceGetEnforcedPowerLimit",
        GetPowerManagementLimit = "nvmlDeviceGetPowerManagementLimit",
        GetCurrentClocksThrottleReasons = "nvmlDeviceGetCurrentClocksThrottleReasons",
        GetCurrentClocksEventReasons = "nvmlDeviceGetCurrentClocksEventReasons",
        GetViolationStatus = "nvmlDeviceGetViolationStatus",
        GetFieldValues = "nvmlDeviceGetFieldValues",
        GetClockInfo = "nvmlDeviceGetClockInfo",
        GetMemoryInfo = "nvmlDeviceGetMemoryInfo",
        GetMemoryInfoV2 = "nvmlDeviceGetMemoryInfo_v2",
        GetUtilizationRates = "nvmlDeviceGetUtilizationRates",
        GetTemperature = "nvmlDeviceGetTemperature",
        GetPersistenceMode = "nvmlDeviceGetPersistenceMode",
        GetComputeRunningProcesses = "nvmlDeviceGetComputeRunningProcesses_v3",
    }
    Write {
        SetPowerManagementLimit = "nvmlDeviceSetPowerManagementLimit",
        SetGpuLockedClocks = "nvmlDeviceSetGpuLockedClocks",
        ResetGpuLockedClocks = "nvmlDeviceResetGpuLockedClocks",
        SetPersistenceMode = "nvmlDeviceSetPersistenceMode",
    }
}

impl Call {
    /// The call of that symbol; its version may be left out.
    #[must_use]
    pub fn by_symbol(symbol: &str) -> Option<Self> {
        let plain = |symbol: &'static str| symbol.rsplit_once("_v").map_or(symbol, |(plain, _)| plain);
        let exact = Self::ALL.iter().find(|call| call.symbol() == symbol);
        exact.or_else(|| Self::ALL.iter().find(|call| plain(call.symbol()) == symbol)).copied()
    }
}

/// As its place in [`Call::ALL`] plus one; 0 is none.
impl Word for Option<Call> {
    fn to_word(self) -> u64 {
        self.map_or(0, |call| call as u64 + 1)
    }
    fn from_word(word: u64) -> Self {
        let place = usize::try_from(word.checked_sub(1)?).ok()?;
        Call::ALL.get(place).copied()
    }
}

/// NVML's return codes with what `nvmlErrorString` says of them.
pub const RETURN_CODES: [(u32, &str, &std::ffi::CStr); 32] = [
    (0, "SUCCESS", c"Success"),
    (1, "UNINITIALIZED", c"Uninitialized"),
    (2, "INVALID_ARGUMENT", c"Invalid Argument"),
    (3, "NOT_SUPPORTED", c"Not Supported"),
    (4, "NO_PERMISSION", c"Insufficient Permissions"),
    (5, "ALREADY_INITIALIZED", c"Already Initialized"),
    (6, "NOT_FOUND", c"Not Found"),
    (7, "INSUFFICIENT_SIZE", c"Insufficient Size"),
    (8, "INSUFFICIENT_POWER", c"Insufficient External Power"),
    (9, "DRIVER_NOT_LOADED", c"Driver Not Loaded"),
    (10, "TIMEOUT", c"Timeout"),
    (11, "IRQ_ISSUE", c"Interrupt Request Issue"),
    (12, "LIBRARY_NOT_FOUND", c"NVML Shared Library Not Found"),
    (13, "FUNCTION_NOT_FOUND", c"Function Not Found"),
    (14, "CORRUPTED_INFOROM", c"Corrupted infoROM"),
    (15, "GPU_IS_LOST", c"GPU is lost"),
    (16, "RESET_REQUIRED", c"GPU requires reset"),
    (17, "OPERATING_SYSTEM", c"The operating system has blocked the request"),
    (18, "LIB_RM_VERSION_MISMATCH", c"RM has detected an NVML/RM version mismatch"),
    (19, "IN_USE", c"In use by another client"),
    (20, "MEMORY", c"Insufficient Memory"),
    (21, "NO_DATA", c"No data"),
    (22, "VGPU_ECC_NOT_SUPPORTED", c"vGPU ECC not supported"),
    (23, "INSUFFICIENT_RESOURCES", c"Insufficient Resources"),
    (24, "FREQ_NOT_SUPPORTED", c"Frequency not supported"),
    (25, "ARGUMENT_VERSION_MISMATCH", c"Argument version mismatch"),
    (26, "DEPRECATED", c"Deprecated"),
    (27, "NOT_READY", c"Not Ready"),
    (28, "GPU_NOT_FOUND", c"GPU Not Found"),
    (29, "INVALID_STATE", c"Invalid State"),
    (30, "RESET_TYPE_NOT_SUPPORTED", c"Reset type not supported"),
    (999, "UNKNOWN", c"Unknown Error"),
];

/// The return code of that number or name (`15`, `GPU_IS_LOST`).
#[must_use]
pub fn return_code(text: &str) -> Option<u32> {
    let number = text.parse().ok();
    RETURN_CODES.iter().find(|(code, name, _)| number == Some(*code) || *name == text).map(|(code, _, _)| *code)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_call_is_found_by_its_symbol_and_survives_a_record() {
        for call in Call::ALL {
            assert_eq!(Call::by_symbol(call.symbol()), Some(*call));
            assert_eq!(Option::<Call>::from_word(Some(*call).to_word()), Some(*call));
        }
        assert_eq!(Call::by_symbol("nvmlDeviceGetCount"), Some(Call::GetCount));
        assert_eq!(Call::by_symbol("nvmlDeviceGetMemoryInfo"), Some(Call::GetMemoryInfo));
        assert_eq!(Call::by_symbol("nvmlDeviceEject"), None);
        assert_eq!(Option::<Call>::from_word(0), None);
        assert_eq!(Option::<Call>::from_word(u64::MAX), None);
    }

    #[test]
    fn a_return_code_has_a_number_and_a_name() {
        assert_eq!(return_code("15"), Some(15));
        assert_eq!(return_code("GPU_IS_LOST"), Some(15));
        assert_eq!(return_code("UNKNOWN"), Some(999));
        assert_eq!(return_code("31"), None);
        assert!((0..=30).all(|code| return_code(&code.to_string()) == Some(code)));
    }
}
