//! What boards and CPUs are and what they say: plain data, shared by the device modules, which fill
//! it in, and by the decision, which reads it.

use std::{fmt, sync::Arc};

use powercap_common::{
    reason::Reason,
    units::{Megahertz, Watts},
};

/// The graphics clocks that a board can be held to, lowest first.
#[derive(Clone, PartialEq, Eq)]
pub struct ClockGrid(Vec<Megahertz>);

impl ClockGrid {
    /// The grid of these clocks in any order. `None` when fewer than two of them are usable: a board
    /// that cannot be held to a range cannot be held at all.
    #[must_use]
    pub fn new(clocks: impl IntoIterator<Item = Megahertz>) -> Option<Self> {
        let mut clocks: Vec<_> = clocks.into_iter().filter(|clock| clock.get() > 0).collect();
        clocks.sort_unstable();
        clocks.dedup();
        (clocks.len() >= 2).then_some(Self(clocks))
    }

    /// The board's lowest clock: the lower end of every range that it is held to.
    #[must_use]
    pub fn lowest(&self) -> Megahertz {
        self.0[0]
    }

    /// The lowest ceiling: one step above the lowest clock, since a range with equal ends would pin
    /// the clock instead of capping it.
    #[must_use]
    pub fn floor(&self) -> Megahertz {
        self.0[1]
    }

    /// The board's highest clock.
    #[must_use]
    pub fn highest(&self) -> Megahertz {
        self.0[self.0.len() - 1]
    }

    /// The highest permitted ceiling at or below `clock`, and the floor where there is none.
    #[must_use]
    pub fn snap_down(&self, clock: Megahertz) -> Megahertz {
        let above = self.0.partition_point(|step| *step <= clock);
        self.0[above.saturating_sub(1).max(1)]
    }

    /// The ceiling `steps` above the one at or below `clock`, at most the highest.
    #[must_use]
    pub fn above(&self, clock: Megahertz, steps: usize) -> Megahertz {
        let above = self.0.partition_point(|step| *step <= clock);
        self.0[(above.saturating_sub(1).max(1) + steps).min(self.0.len() - 1)]
    }

    /// How many clocks there are.
    #[must_use]
    #[expect(clippy::len_without_is_empty, reason = "a grid has two clocks at least")]
    pub fn len(&self) -> usize {
        self.0.len()
    }
}

impl fmt::Debug for ClockGrid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}..={} in {} clocks", self.lowest(), self.highest(), self.len())
    }
}

/// What a board is and can do; does not change while it runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BoardTraits {
    /// As NVML names it.
    pub uuid: Arc<str>,
    /// The product's name.
    pub model: String,
    /// Its clocks; `None` when it cannot be held to a range of clocks.
    pub clocks: Option<ClockGrid>,
    /// The lowest power limit that it takes.
    pub min_limit: Watts,
    /// The highest power limit that it takes, and the most it counts for when nothing is known.
    pub max_limit: Watts,
    /// The power limit that it has after boot.
    pub default_limit: Watts,
}

/// What a board shows of itself while it runs, for the status; no decision rests on it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Profile {
    /// Its power is read as it is now, not as a mean over a second.
    pub instant_power: bool,
    /// Its MIG instances by UUID, where it is split into such; `None`: it is whole.
    pub slices: Option<Vec<Arc<str>>>,
}

/// Whether a device takes a kind of write.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Knob {
    /// It does, or it has not been tried.
    #[default]
    Works,
    /// The device lacks the control: it is not tried again.
    Lacking,
    /// We may not: it is not tried again.
    Denied,
    /// The last write failed; it is tried again.
    Failed,
}

impl Knob {
    /// Whether a write makes sense.
    #[must_use]
    pub const fn usable(self) -> bool {
        matches!(self, Self::Works | Self::Failed)
    }

    /// What is wrong with it, if anything is.
    #[must_use]
    pub const fn reason(self) -> Option<Reason> {
        match self {
            Self::Works => None,
            Self::Lacking => Some(Reason::Unsupported),
            Self::Denied => Some(Reason::PermissionDenied),
            Self::Failed => Some(Reason::WriteFailed),
        }
    }
}

/// The range of clocks that a board is held to. NVML has no getter: this is what was last accepted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ClockLock {
    /// We have not written it in this process's life; a lock of an earlier one may stand.
    #[default]
    Unknown,
    /// We took it off.
    Off,
    /// From the lowest clock to this one.
    UpTo(Megahertz),
}

/// What a board said the last time it was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BoardReading {
    /// Its power: instantaneous where it has such a sensor.
    pub power: Watts,
    /// Its graphics clock.
    pub clock: Option<Megahertz>,
    /// The power limit in force: the most conservative of all who set one. `None`: it has none.
    pub limit: Option<Watts>,
    /// The power limit that was set through the driver before we set one, as far as it is told: where a BMC
    /// holds the board lower, the limit in force is not that.
    pub limit_found: Option<Watts>,
    /// The range of clocks last accepted.
    pub lock: ClockLock,
    /// Whether it takes clock ranges.
    pub clock_knob: Knob,
    /// Whether it takes power limits.
    pub limit_knob: Knob,
    /// Number of the last order that was carried out before this reading; 0 before the first.
    pub executed: u64,
}

/// What the CPUs of one cpufreq policy are and can do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CpuTraits {
    /// N of `policyN`.
    pub policy: u32,
    /// `cpuinfo_min_freq`.
    pub min: Megahertz,
    /// `cpuinfo_max_freq`.
    pub max: Megahertz,
}

/// What a cpufreq policy said the last time it was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CpuReading {
    /// `scaling_cur_freq`.
    pub clock: Option<Megahertz>,
    /// `scaling_max_freq`: the ceiling in force.
    pub ceiling: Megahertz,
    /// Whether it takes ceilings.
    pub knob: Knob,
    /// Number of the last order that was carried out before this reading; 0 before the first.
    pub executed: u64,
}

/// Why a device gives no reading.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// The documented word.
    pub reason: Reason,
    /// What failed, for people.
    pub message: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn grid(clocks: &[u32]) -> Option<ClockGrid> {
        ClockGrid::new(clocks.iter().copied().map(Megahertz::new))
    }

    #[test]
    fn a_ceiling_snaps_down_and_never_to_the_lowest_clock() {
        let grid = grid(&[1980, 345, 360, 375, 1965]).unwrap();
        for (asked, ceiling) in [(0, 360), (345, 360), (374, 360), (375, 375), (1979, 1965), (1980, 1980), (9999, 1980)]
        {
            assert_eq!(grid.snap_down(Megahertz::new(asked)), Megahertz::new(ceiling), "{asked}");
        }
        assert_eq!(grid.above(Megahertz::new(360), 1), Megahertz::new(375));
        assert_eq!(grid.above(Megahertz::new(1980), 3), Megahertz::new(1980));
        assert_eq!(grid.above(Megahertz::new(1), 0), Megahertz::new(360));
    }

    #[test]
    fn a_grid_of_zeros_is_no_grid() {
        assert_eq!(grid(&[0; 128]), None);
        assert_eq!(grid(&[345]), None);
    }
}
