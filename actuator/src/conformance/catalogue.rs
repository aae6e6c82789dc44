//! The checks as data: what each looks at, and why it matters to somebody who runs a rack.
//!
//! What must hold: a name never changes its meaning, since reports of different times are compared by it.

use serde::Serialize;

/// Whether a check only looks, or changes something and puts it back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum Part {
    /// It reads.
    Read,
    /// It writes, and restores what was there.
    Write,
}

/// One thing that the agent relies on.
#[derive(Debug, PartialEq, Eq)]
pub struct Check {
    /// Its name in reports.
    pub name: &'static str,
    /// Whether it writes.
    pub part: Part,
    /// What is looked at.
    pub looks_at: &'static str,
    /// What goes wrong where it does not hold.
    pub matters: &'static str,
}

macro_rules! checks {
    ($($constant:ident $name:literal $part:ident $looks_at:literal, $matters:literal;)+) => {
        $(
            #[doc = $looks_at]
            pub const $constant: &Check =
                &Check { name: $name, part: Part::$part, looks_at: $looks_at, matters: $matters };
        )+

        /// Every check there is, in the order in which they are reported.
        pub const CATALOGUE: &[&Check] = &[$($constant,)+];
    };
}

checks! {
    PRIVILEGES "privileges" Read
        "user 0, and CAP_SYS_ADMIN in effect",
        "boards and cpufreq refuse ceilings from anybody else";
    POD_RESOURCES "pod-resources" Read
        "the kubelet tells over its PodResources socket which pods hold which devices",
        "without it nobody knows which pod holds which device";
    NVML_LOADS "nvml-loads" Read
        "the NVML library loads, starts and counts boards",
        "a node whose boards cannot be reached counts with the most that they can draw";
    BOARD_OPENS "board-opens" Read
        "the board tells its UUID, its name and its range of limits",
        "a board that cannot be opened cannot be held";
    UUIDS_UNIQUE "uuids-unique" Read
        "no two boards have the same UUID",
        "ceilings are addressed by UUID";
    LIMIT_RANGE "limit-range" Read
        "lowest power limit above zero, lowest ≤ default ≤ highest",
        "the backstops of all boards are budgeted within this range";
    LIMIT_IN_FORCE "limit-in-force" Read
        "the limit in force lies in the range and is at most the one that was set",
        "it is how the agent sees that a limit holds";
    CLOCK_GRID "clock-grid" Read
        "the list of graphics clocks is complete: no zeros, in order, without holes, up to the highest clock",
        "a ceiling between two clocks is refused by some boards, and a list cut at 128 hides the low clocks";
    CLOCK_READING "clock-reading" Read
        "the graphics clock can be read and lies on the grid's range",
        "it shows whether a lock holds, since NVML does not tell locks";
    POWER_INSTANT "power-instant" Read
        "instantaneous power is there, plausible, and changes at least once a second under load",
        "the loop decides by it ten times a second";
    POWER_AVERAGE "power-average" Read
        "average power is there, and over how long it averages",
        "it is what the loop falls back to, and what exporters show";
    ENERGY "energy" Read
        "the energy counter never falls and agrees with power within 10 %",
        "two sensors that disagree mean that one of them cannot be budgeted by";
    CALL_DURATIONS "call-durations" Read
        "one sample of the loop (limit, clock, power) takes at most a tenth of a second, 99 times in 100",
        "a slower board is decided about by old readings";
    THROTTLE_REASONS "throttle-reasons" Read
        "the board tells what holds its clock down",
        "it tells a power limit from heat";
    MIG_MODE "mig-mode" Read
        "whether the board is partitioned",
        "parts have no limits of their own: their tenants are capped together";
    PERSISTENCE "persistence" Read
        "persistence mode is on",
        "without it the driver unloads with its last client, and every limit is lost while the agent restarts";
    CPUFREQ_FILES "cpufreq-files" Read
        "every cpufreq policy tells its range, its ceiling and its clock, and all of them lie in the range",
        "a policy that does not is never touched, and its CPUs are not capped";
    CPUFREQ_DRIVER "cpufreq-driver" Read
        "which drivers and governors are in use",
        "drivers differ in how they round and how late they apply a ceiling";
    CPUFREQ_WRITABLE "cpufreq-writable" Read
        "scaling_max_freq can be opened for writing (nothing is written)",
        "a read-only /sys or a missing mount leaves the CPUs uncapped";
    RAPL_ENERGY "rapl-energy" Read
        "every package's energy counter can be read, grows, stays below its range, and gives a plausible power",
        "without it the CPUs count as part of the node's overhead";
    RAPL_CONSTRAINTS "rapl-constraints" Read
        "each package's constraints: names, limits, and whether they could be written",
        "the long-term limit is what a package counts for when it cannot be read";
    LOCK_CLOCKS "lock-clocks" Write
        "a range of clocks [lowest, ceiling] is taken at three ceilings, and the clock comes to lie at or below each",
        "it is the first thing that keeps a node in its envelope";
    LOCK_RESET "lock-reset" Write
        "a reset is taken, and the clock rises again",
        "a release must give everything back";
    LIMIT_SET "limit-set" Write
        "a lower power limit is taken, is read back as the one in force, and power falls below it",
        "it is the backstop when load jumps between two samples";
    REFUSALS "refusals" Write
        "limits of zero, above the highest and below the lowest are refused, and a ceiling between two clocks never raises the clock above it",
        "the agent clamps before it writes, and relies on the driver for nothing else";
    PARALLEL_WRITES "parallel-writes" Write
        "limits of all boards, written at once, take at most a tenth of a second, or no longer than one after the other would",
        "a cut of the grant must reach every board within one turn of the loop";
    CPUFREQ_CEILING "cpufreq-ceiling" Write
        "a ceiling is read back at or below what was asked, within half a second",
        "cpufreq applies ceilings late and rounds them";
    RESTORED "restored" Write
        "every limit and ceiling reads as before",
        "the suite must leave nothing behind";
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn names_are_unique_and_reading_comes_before_writing() {
        let names: BTreeSet<_> = CATALOGUE.iter().map(|check| check.name).collect();
        assert_eq!(names.len(), CATALOGUE.len());
        assert!(CATALOGUE.is_sorted_by_key(|check| check.part == Part::Write));
    }
}
