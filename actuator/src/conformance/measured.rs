//! What was measured: plain data between the shell that measures and the functions that judge.

use std::time::Duration;

use powercap_common::units::{Megahertz, Watts};

use super::{finding::Answer, series::Series};

/// A board that works this share of the time is busy: only then locks and limits show an effect.
pub const BUSY_PERCENT: u32 = 10;

/// How long calls of one kind took.
#[derive(Debug)]
pub struct Calls {
    /// Which call.
    pub name: &'static str,
    /// Each call's time.
    pub durations: Vec<Duration>,
}

/// What a board said without being changed.
#[derive(Debug)]
pub struct BoardRead {
    /// Whether the agent's own way of opening it works.
    pub opened: Answer<()>,
    /// NVML's UUID.
    pub uuid: Answer<String>,
    /// The product's name.
    pub model: Answer<String>,
    /// Lowest and highest power limit.
    pub limit_range: Answer<(Watts, Watts)>,
    /// The limit after boot.
    pub limit_default: Answer<Watts>,
    /// The limit that was set.
    pub limit_set: Answer<Watts>,
    /// The limit in force.
    pub limit_enforced: Answer<Watts>,
    /// The clocks as NVML lists them.
    pub clocks: Answer<Vec<Megahertz>>,
    /// The highest graphics clock, asked for by itself.
    pub highest_clock: Answer<Megahertz>,
    /// Of the NVML wrapper's own list: how many clocks, and how many of them are zero.
    pub wrapper_clocks: Option<(usize, usize)>,
    /// The clock now.
    pub clock: Answer<Option<Megahertz>>,
    /// Whether it is partitioned.
    pub mig: Answer<bool>,
    /// Whether persistence mode is on.
    pub persistence: Answer<bool>,
    /// What holds the clock down, as NVML's bits.
    pub throttle_reasons: Answer<u64>,
    /// Its sensors over a few seconds.
    pub watched: Watched,
    /// How long calls took.
    pub calls: Vec<Calls>,
}

/// A board's sensors over a few seconds.
#[derive(Debug)]
pub struct Watched {
    /// Watts of the last milliseconds; `None` where there is no such sensor.
    pub instant: Answer<Option<Series>>,
    /// Watts of the last second or so.
    pub average: Answer<Series>,
    /// Joules.
    pub energy: Answer<Series>,
    /// Share of time with work.
    pub busy_percent: u32,
}

/// A range of clocks that was tried.
#[derive(Debug)]
pub struct LockTry {
    /// The ceiling.
    pub ceiling: Megahertz,
    /// Whether it was taken.
    pub taken: Answer<()>,
    /// The clock before.
    pub before: Option<Megahertz>,
    /// The clock at the end.
    pub after: Option<Megahertz>,
    /// When the clock was at or below the ceiling.
    pub reached: Option<Duration>,
}

/// A power limit that was tried.
#[derive(Debug)]
pub struct LimitTry {
    /// The limit.
    pub limit: Watts,
    /// Whether it was taken.
    pub taken: Answer<()>,
    /// When it was read back as the one in force.
    pub seen: Option<Duration>,
    /// What was in force at the end.
    pub enforced: Option<Watts>,
    /// Power before.
    pub power_before: Option<Watts>,
    /// When power was at or below it.
    pub power_below: Option<Duration>,
}

/// Something that the agent believes to be refused.
#[derive(Debug)]
pub struct RefusalTry {
    /// What was asked.
    pub what: String,
    /// The answer.
    pub answer: Answer<()>,
}

/// What came of writing to a board.
#[derive(Debug)]
pub struct BoardWritten {
    /// Share of time with work meanwhile.
    pub busy_percent: u32,
    /// Three ceilings, the highest first; empty when the board has no clocks to lock.
    pub locks: Vec<LockTry>,
    /// The reset after them, and when the clock was above the lowest ceiling again.
    pub reset: Option<(Answer<()>, Option<Duration>)>,
    /// A ceiling between two clocks: what was asked, the answer, the clock afterwards.
    pub off_grid: Option<(Megahertz, Answer<()>, Option<Megahertz>)>,
    /// A lower limit; `None` when the board is at its lowest already.
    pub limit: Option<LimitTry>,
    /// Limits out of range.
    pub refusals: Vec<RefusalTry>,
    /// The limit before and after everything.
    pub restored: Answer<(Watts, Watts)>,
}

/// Writing to several boards at once.
#[derive(Debug)]
pub struct ParallelWrites {
    /// How many boards.
    pub boards: usize,
    /// All of them, one after the other.
    pub in_turn: Duration,
    /// All of them at once.
    pub at_once: Duration,
}

/// What one cpufreq policy said.
#[derive(Debug)]
pub struct PolicyRead {
    /// N of `policyN`.
    pub policy: u32,
    /// `cpuinfo_min_freq`, `cpuinfo_max_freq`.
    pub range: Option<(Megahertz, Megahertz)>,
    /// `scaling_max_freq`.
    pub ceiling: Option<Megahertz>,
    /// `scaling_cur_freq`.
    pub clock: Option<Megahertz>,
    /// `scaling_driver`.
    pub driver: Option<String>,
    /// `scaling_governor`.
    pub governor: Option<String>,
    /// Whether `scaling_max_freq` can be opened for writing.
    pub writable: Answer<()>,
}

/// What came of writing a cpufreq ceiling.
#[derive(Debug)]
pub struct CeilingTry {
    /// Which policy.
    pub policy: u32,
    /// What was asked.
    pub asked: Megahertz,
    /// Whether it was taken.
    pub taken: Answer<()>,
    /// When a ceiling at or below it was read back.
    pub seen: Option<Duration>,
    /// The ceiling at the end.
    pub effective: Option<Megahertz>,
    /// `scaling_max_freq` before and after everything, as text.
    pub restored: Answer<(String, String)>,
}

/// What one RAPL zone said.
#[derive(Debug)]
pub struct ZoneRead {
    /// Its folder's name.
    pub zone: String,
    /// What it measures.
    pub name: String,
    /// Joules over time.
    pub energy: Answer<Series>,
    /// Where the counter begins again, in joules.
    pub wraps_at: Option<f64>,
    /// Its constraints: name, watts, and whether it can be opened for writing.
    pub constraints: Vec<(String, Option<f64>, bool)>,
}

/// What the process may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Privileges {
    /// The user in effect.
    pub user: u32,
    /// CAP_SYS_ADMIN in effect.
    pub sys_admin: bool,
}

/// A device that the kubelet gave to a pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holding {
    /// The device, by the name that its plugin gave it: mostly a board's UUID.
    pub id: String,
    /// Namespace and name of the pod.
    pub pod: String,
}
