//! Everything that one decision looks at, taken at one moment: plain data, so that a decision can be
//! replayed.

use std::{sync::Arc, time::Duration};

use powercap_common::{reason::Reason, units::Watts};

use crate::hardware::{BoardReading, BoardTraits, CpuReading, CpuTraits, Fault};

/// A reading older than this counts as missing, and a device without a reading counts with the most
/// that it may draw.
pub const STALE_AFTER: Duration = Duration::from_secs(1);

/// What the node's devices say at one moment.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Observation {
    /// Monotonic time since the agent started.
    pub now: Duration,
    /// Whether there are boards at all.
    pub gpus: GpuAccess,
    /// The boards, in NVML's order.
    pub boards: Vec<SeenBoard>,
    /// Boards that NVML counts and that could not be opened (yet): they may draw power all the same.
    pub unopened_boards: usize,
    /// The cpufreq policies, by number.
    pub cpus: Vec<SeenCpu>,
    /// Power of the CPU packages; `None` on a machine that does not measure it: there the node's
    /// overhead covers the CPUs.
    pub packages: Option<Packages>,
}

/// Whether boards can be reached.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum GpuAccess {
    /// Not known yet.
    #[default]
    Starting,
    /// There is no NVML library: the node counts as one without boards.
    NoLibrary,
    /// NVML works.
    Working,
    /// Boards are there and NVML does not work: they may draw power that nobody measures.
    Broken(String),
    /// Somebody wants the boards for themselves, and calls to so many of them have not returned: NVML is open yet.
    LettingGo(String, usize),
    /// We have closed NVML, because somebody wants the boards for themselves; why.
    LetGo(String),
}

/// A board and what it said last.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SeenBoard {
    /// What it is.
    pub traits: Arc<BoardTraits>,
    /// Its last reading, if there was one.
    pub reading: Option<BoardReading>,
    /// How old that is.
    pub age: Duration,
    /// Why there is no newer one.
    pub fault: Option<Fault>,
    /// How often it was opened: what was ordered before the last time may be lost.
    pub opened: u32,
}

impl SeenBoard {
    /// The reading, if it is recent.
    #[must_use]
    pub fn fresh(&self) -> Option<&BoardReading> {
        self.reading.as_ref().filter(|_| self.age <= STALE_AFTER && !self.out_of_reach())
    }

    /// The board was lost, or given up to somebody else: it takes no orders, and its limits may be gone.
    #[must_use]
    pub fn out_of_reach(&self) -> bool {
        let reason = self.fault.as_ref().map(|fault| fault.reason);
        matches!(reason, Some(Reason::Quarantined | Reason::DevicesLetGo))
    }
}

/// A cpufreq policy and what it said last.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SeenCpu {
    /// What it is.
    pub traits: CpuTraits,
    /// Its last reading, if there was one.
    pub reading: Option<CpuReading>,
    /// Why there is no newer one.
    pub fault: Option<Fault>,
}

/// The CPU packages together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Packages {
    /// Their power and that of their memory, if it could be measured.
    pub power: Option<Watts>,
    /// How old that is.
    pub age: Duration,
    /// The most that they are made to draw.
    pub max: Watts,
    /// Why there is no newer reading.
    pub fault: Option<Fault>,
}

impl Packages {
    /// Their power, if it is recent.
    #[must_use]
    pub fn fresh(&self) -> Option<Watts> {
        self.power.filter(|_| self.age <= STALE_AFTER)
    }
}
