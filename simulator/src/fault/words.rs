//! The words of a fault: flags on the command line, keys in a script.

use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use powercap_simulated_hardware::call::{Call, return_code};
use powercap_simulated_hardware::{Fault, TreeFault};
use serde::Deserialize;

/// A return code of NVML.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Code(pub u32);

impl FromStr for Code {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong =
            || format!("{text:?} is no return code of NVML: give 1 to 30 or 999, or a name such as GPU_IS_LOST");
        return_code(text).map(Self).ok_or_else(wrong)
    }
}

impl<'de> Deserialize<'de> for Code {
    fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Spelling {
            Number(u32),
            Name(String),
        }
        let text = match Spelling::deserialize(from)? {
            Spelling::Number(number) => number.to_string(),
            Spelling::Name(name) => name,
        };
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// A call of NVML by its symbol.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Symbol(pub Call);

impl FromStr for Symbol {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("{text:?} is no call that can fail here: give one such as nvmlDeviceGetPowerUsage");
        Call::by_symbol(text).map(Self).ok_or_else(wrong)
    }
}

impl<'de> Deserialize<'de> for Symbol {
    fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        String::deserialize(from)?.parse().map_err(serde::de::Error::custom)
    }
}

/// What misbehaves, and how.
#[derive(Debug, Clone, PartialEq, Default, clap::Args, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct Words {
    /// When, counted from the script's start.
    #[arg(skip)]
    pub(super) at_seconds: f64,
    /// Which board, by its UUID
    #[arg(long)]
    uuid: Option<String>,
    /// Which board, by its place in the node: the same after it came back with another UUID
    #[arg(long)]
    board: Option<u32>,
    /// The NVML library as a whole: `call` names what fails, e.g. nvmlInit or nvmlDeviceGetCount
    #[arg(long)]
    library: bool,
    /// A control of the cpufreq or powercap tree by its path there, e.g. policy0/scaling_max_freq or
    /// intel-rapl:0/constraint_0_power_limit_uw; takes --control-fault alone
    #[arg(long, value_name = "PATH")]
    control: Option<PathBuf>,
    /// How that control misbehaves, until it is well again
    #[arg(long, value_enum, requires = "control")]
    control_fault: Option<ControlFault>,
    /// NVML's answer to every reading of a sensor, by number or name (15 or GPU_IS_LOST); 0 reads
    #[arg(long, default_value = "0", hide_default_value = true, value_name = "CODE")]
    read_code: Code,
    /// NVML's answer to every setter (4 or NO_PERMISSION); 0 sets
    #[arg(long, default_value = "0", hide_default_value = true, value_name = "CODE")]
    write_code: Code,
    /// One call, for --call-code or --hang
    #[arg(long, value_name = "SYMBOL")]
    call: Option<Symbol>,
    /// NVML's answer to that call
    #[arg(long, default_value = "0", hide_default_value = true, value_name = "CODE")]
    call_code: Code,
    /// Setters answer success and change nothing
    #[arg(long)]
    ignore_writes: bool,
    /// Clock locks alone answer success and change nothing
    #[arg(long)]
    ignore_locks: bool,
    /// Power limits alone answer success and change nothing
    #[arg(long)]
    ignore_limits: bool,
    /// Every call takes that long
    #[arg(long, default_value_t = 0, hide_default_value = true)]
    delay_ms: u32,
    /// Calls do not return until the fault is lifted
    #[arg(long)]
    hang: bool,
    /// The board falls off its bus: it is counted no more, and lost to who holds it
    #[arg(long)]
    gone: bool,
    /// A board that was gone comes back with a new UUID
    #[arg(long)]
    return_renamed: bool,
    /// Another writer sets its own limit and lock that often
    #[arg(long, default_value_t = 0, hide_default_value = true)]
    rival_period_ms: u32,
    /// The other writer's power limit
    #[arg(long, default_value_t = 0, hide_default_value = true)]
    rival_limit_watts: u32,
    /// The other writer's highest clock
    #[arg(long, default_value_t = 0, hide_default_value = true)]
    rival_lock_mhz: u32,
    /// A power limit that a BMC set: of it and the driver's the lower is in force
    #[arg(long, default_value_t = 0, hide_default_value = true)]
    outer_limit_watts: u32,
    /// The power sensor repeats its last reading
    #[arg(long)]
    stuck_sensor: bool,
    /// Supported clocks are listed as zeros
    #[arg(long)]
    zero_clocks: bool,
    /// Lifted after so many calls that it changed
    #[arg(long, default_value_t = 0, hide_default_value = true)]
    for_calls: u32,
    /// Lifted after that time
    #[arg(long)]
    for_seconds: Option<f64>,
}

/// How a control misbehaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ControlFault {
    /// Writes give EACCES, to who may not override permissions
    Denied,
    /// Writes give EACCES, to root too; what is read means nothing
    Locked,
    /// Writes give EINVAL
    Invalid,
    /// ENOENT
    Absent,
    /// EISDIR
    Directory,
    /// Reads and writes do not return until it is mended
    Hangs,
    /// Writes are read back and have no effect
    Ignored,
}

impl From<ControlFault> for TreeFault {
    fn from(fault: ControlFault) -> Self {
        match fault {
            ControlFault::Denied => Self::Denied,
            ControlFault::Locked => Self::Locked,
            ControlFault::Invalid => Self::Invalid,
            ControlFault::Absent => Self::Absent,
            ControlFault::Directory => Self::Directory,
            ControlFault::Hangs => Self::Hangs,
            ControlFault::Ignored => Self::Ignored,
        }
    }
}

/// What misbehaves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// A board by its UUID.
    Uuid(String),
    /// A board by its place.
    Board(u32),
    /// The NVML library.
    Library,
    /// A control of the CPUs, by its path in its tree.
    Control(PathBuf),
}

/// The words do not say one thing.
#[derive(Debug, thiserror::Error)]
#[error("say what misbehaves: one of uuid, board, library and control")]
pub struct NoTarget;

impl Words {
    /// What misbehaves.
    ///
    /// # Errors
    /// When it is none or several.
    pub fn target(&self) -> Result<Target, NoTarget> {
        let Self { uuid, board, library, control, .. } = self;
        match (uuid, *board, *library, control) {
            (Some(uuid), None, false, None) => Ok(Target::Uuid(uuid.clone())),
            (None, Some(index), false, None) => Ok(Target::Board(index)),
            (None, None, true, None) => Ok(Target::Library),
            (None, None, false, Some(path)) => Ok(Target::Control(path.clone())),
            _ => Err(NoTarget),
        }
    }

    /// How it misbehaves; without an end in time.
    #[must_use]
    pub fn fault(&self) -> Fault {
        Fault {
            read_code: self.read_code.0,
            write_code: self.write_code.0,
            call: self.call.map(|symbol| symbol.0),
            call_code: self.call_code.0,
            ignores_writes: self.ignore_writes,
            ignores_locks: self.ignore_locks,
            ignores_limits: self.ignore_limits,
            delay_ms: self.delay_ms,
            hangs: self.hang,
            gone: self.gone,
            returns_renamed: self.return_renamed,
            rival_period_ms: self.rival_period_ms,
            rival_limit_mw: self.rival_limit_watts.saturating_mul(1000),
            rival_lock_mhz: self.rival_lock_mhz,
            outer_limit_mw: self.outer_limit_watts.saturating_mul(1000),
            stuck_sensor: self.stuck_sensor,
            zero_clocks: self.zero_clocks,
            calls: self.for_calls,
            ends_at_seconds: 0.0,
        }
    }

    /// How a control misbehaves; none: it does not.
    #[must_use]
    pub fn control_fault(&self) -> Option<TreeFault> {
        self.control_fault.map(TreeFault::from)
    }

    /// How long.
    #[must_use]
    pub fn for_seconds(&self) -> Option<Duration> {
        self.for_seconds.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok())
    }
}
