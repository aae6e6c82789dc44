//! What a board, a host and a node are, and where their numbers come from.

use serde::{Deserialize, Serialize};

use crate::cpu_driver::CpufreqDriver;
use crate::curves::Family;
use crate::rapl::{AMD_ENERGY_RANGE_UJ, INTEL_ENERGY_RANGE_UJ, Rapl};
use crate::share::{MigLayout, Sharing};

/// A board model.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct BoardSpec {
    /// What NVML calls the board.
    pub name: String,
    /// Lowest graphics clock.
    pub min_mhz: u32,
    /// Highest graphics clock.
    pub max_mhz: u32,
    /// Distance of two graphics clocks.
    pub step_mhz: f64,
    /// The one memory clock.
    pub memory_mhz: u32,
    /// Power limit at boot.
    pub default_watts: f64,
    /// Lowest power limit.
    pub min_watts: f64,
    /// Highest power limit.
    pub max_watts: f64,
    /// Power without work.
    pub idle_watts: f64,
    /// The most that may flow for an instant.
    pub peak_watts: f64,
    /// Power of dense work at the highest clock, limits aside: what the curves are shares of.
    pub full_watts: f64,
    /// The curves of power and speed.
    pub curves: Family,
    /// Memory on board.
    pub memory_mib: u64,
    /// How it can be partitioned.
    pub mig: MigLayout,
    /// Where the numbers come from.
    pub provenance: String,
}

impl BoardSpec {
    /// Power when busy all the time at `ratio` of the highest clock, limits aside.
    #[must_use]
    pub fn busy_watts(&self, memory_share: f64, ratio: f64) -> f64 {
        self.curves.power(memory_share, ratio, self.idle_watts / self.full_watts) * self.full_watts
    }

    /// How many graphics clocks there are.
    #[must_use]
    pub fn clock_count(&self) -> u32 {
        let steps = f64::from(self.max_mhz.saturating_sub(self.min_mhz)) / self.step_mhz;
        whole(steps) + 1
    }

    /// The clock `index` steps above the lowest, in whole MHz as NVML reports it: where steps are of
    /// 7.5 MHz the half is cut off (120, 127, 135, …). That is assumed: lists of B200 seen so far give
    /// 1965, 1957, 1950. The physics runs at the clock that is reported.
    #[must_use]
    pub fn clock(&self, index: u32) -> u32 {
        let index = index.min(self.clock_count() - 1);
        whole(f64::from(self.min_mhz) + f64::from(index) * self.step_mhz)
    }

    /// The highest grid index whose clock is at most `megahertz`; 0 below the range.
    #[must_use]
    pub fn index_at_most(&self, megahertz: u32) -> u32 {
        let steps = (f64::from(megahertz) + 0.5 - f64::from(self.min_mhz)) / self.step_mhz;
        let mut index = whole(steps.max(0.0)).min(self.clock_count() - 1);
        while index > 0 && self.clock(index) > megahertz {
            index -= 1;
        }
        index
    }

    /// The lowest grid index whose clock is at least `megahertz`; the last above the range.
    #[must_use]
    pub fn index_at_least(&self, megahertz: u32) -> u32 {
        let below = self.index_at_most(megahertz);
        if self.clock(below) >= megahertz { below } else { (below + 1).min(self.clock_count() - 1) }
    }
}

/// A small positive number without its fraction.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "clamped to the range of u32")]
fn whole(value: f64) -> u32 {
    value.clamp(0.0, f64::from(u32::MAX)) as u32
}

/// The CPU side of a node.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct HostSpec {
    /// CPU packages.
    pub packages: u32,
    /// cpufreq policies in each package.
    pub policies_per_package: u32,
    /// CPUs in each cpufreq policy.
    pub cpus_per_policy: u32,
    /// Lowest CPU frequency.
    pub min_khz: u32,
    /// Highest CPU frequency.
    pub max_khz: u32,
    /// Frequencies are multiples of this.
    pub step_khz: u32,
    /// Highest frequency without turbo or boost.
    pub base_khz: u32,
    /// The only frequencies there are, rising; empty: all multiples of the step.
    pub table_khz: Vec<u32>,
    /// What drives the CPUs' clocks.
    pub cpufreq: CpufreqDriver,
    /// What RAPL offers.
    pub rapl: Rapl,
    /// Where the energy counters wrap.
    pub energy_range_uj: u64,
    /// A package without work.
    pub idle_watts: f64,
    /// A package with all work at the highest frequency.
    pub peak_watts: f64,
    /// Host load without any work on the boards, 0 to 1.
    pub baseline_load: f64,
    /// Fans, NICs, memory and the rest, DC.
    pub static_watts: f64,
    /// AC over DC: loss of the power supplies.
    pub supply_factor: f64,
}

impl Default for HostSpec {
    /// Two packages of the 350 W class. With 1,200 W static and 4 % loss a node idles at about 2.1 kW,
    /// where an 8×H200 node was measured at 2.37 kW.
    fn default() -> Self {
        Self {
            packages: 2,
            policies_per_package: 2,
            cpus_per_policy: 28,
            min_khz: 800_000,
            max_khz: 3_800_000,
            step_khz: 100_000,
            base_khz: 2_000_000,
            table_khz: Vec::new(),
            cpufreq: CpufreqDriver::default(),
            rapl: Rapl::default(),
            energy_range_uj: INTEL_ENERGY_RANGE_UJ,
            idle_watts: 85.0,
            peak_watts: 350.0,
            baseline_load: 0.08,
            static_watts: 1200.0,
            supply_factor: 1.04,
        }
    }
}

impl HostSpec {
    /// A host as this driver is found on. Frequencies of the AMD hosts are assumed.
    #[must_use]
    pub fn driven_by(cpufreq: CpufreqDriver) -> Self {
        let intel = Self { cpufreq, ..Self::default() };
        let amd = Self { rapl: Rapl::EnergyOnly, energy_range_uj: AMD_ENERGY_RANGE_UJ, ..intel.clone() };
        match cpufreq {
            CpufreqDriver::IntelPstate | CpufreqDriver::IntelCpufreq => intel,
            CpufreqDriver::AcpiCpufreq => Self {
                min_khz: 1_500_000,
                max_khz: 3_500_000,
                base_khz: 2_450_000,
                step_khz: 50_000,
                table_khz: vec![1_500_000, 2_000_000, 2_450_000, 3_500_000],
                ..amd
            },
            CpufreqDriver::AmdPstateEpp | CpufreqDriver::AmdPstate => {
                Self { min_khz: 400_000, max_khz: 3_700_000, base_khz: 2_400_000, step_khz: 25_000, ..amd }
            }
        }
    }

    /// The highest frequency there is that is at most `khz`; the lowest below the range.
    #[must_use]
    pub fn frequency_at_most(&self, khz: u32) -> u32 {
        let listed = self.table_khz.iter().rev().find(|listed| **listed <= khz).copied();
        let stepped = if self.table_khz.is_empty() { khz / self.step_khz * self.step_khz } else { self.min_khz };
        listed.unwrap_or(stepped).clamp(self.min_khz, self.max_khz)
    }
}

/// A node: its boards, its host and how its sensors err.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct NodeSpec {
    /// The node's name in Kubernetes.
    pub node: String,
    /// How many boards.
    pub boards: u32,
    /// Their model.
    pub board: BoardSpec,
    /// How each board is shared.
    pub sharing: Sharing,
    /// CPUs and the rest.
    pub host: HostSpec,
    /// Each board's power sensor errs by a constant within ± this.
    pub sensor_gain_percent: f64,
    /// Draws other gains and noise for the same boards.
    pub seed: u64,
    /// From a request to its effect.
    pub lock_latency_ms: f64,
}

impl NodeSpec {
    /// A node as the demo has it.
    #[must_use]
    pub fn new(node: &str, boards: u32, board: BoardSpec) -> Self {
        Self {
            node: node.to_owned(),
            boards,
            board,
            sharing: Sharing::Whole,
            host: HostSpec::default(),
            sensor_gain_percent: 5.0,
            seed: 0,
            lock_latency_ms: 30.0,
        }
    }

    /// The UUID of a board at boot: the same for the same node and index.
    #[must_use]
    pub fn uuid(&self, index: u32) -> String {
        self.uuid_after(index, 0)
    }

    /// The UUID of a board that came back under a new one that many times.
    #[must_use]
    pub fn uuid_after(&self, index: u32, returns: u32) -> String {
        let again = if returns == 0 { String::new() } else { format!("/{returns}") };
        let high = fingerprint(format!("{}/{index}{again}/high", self.node).as_bytes());
        let low = fingerprint(format!("{}/{index}{again}/low", self.node).as_bytes());
        format!(
            "GPU-{:08x}-{:04x}-{:04x}-{:04x}-{:012x}",
            high >> 32,
            (high >> 16) & 0xffff,
            high & 0xffff,
            low >> 48,
            low & 0xffff_ffff_ffff
        )
    }

    /// The PCI address of a board as NVML prints it.
    #[must_use]
    pub fn pci_bus_id(index: u32) -> String {
        format!("00000000:{:02X}:00.0", 0x10 + index * 0x10 % 0xf0 + index / 15)
    }

    /// The constant factor of a board's power sensor.
    #[must_use]
    pub fn sensor_gain(&self, uuid: &str) -> f64 {
        let draw = fingerprint(format!("{uuid}/{}/gain", self.seed).as_bytes()) >> 11;
        #[expect(clippy::cast_precision_loss, reason = "53 bits fit")]
        let unit = draw as f64 / (1u64 << 53) as f64;
        1.0 + (2.0 * unit - 1.0) * self.sensor_gain_percent / 100.0
    }
}

/// FNV-1a with a final mix: spreads names over 64 bits. Not for secrets.
#[must_use]
pub fn fingerprint(bytes: &[u8]) -> u64 {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    for byte in bytes {
        hash = (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
    }
    hash ^= hash >> 33;
    hash = hash.wrapping_mul(0xff51_afd7_ed55_8ccd);
    hash ^= hash >> 33;
    hash = hash.wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    hash ^ (hash >> 33)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_h100_has_110_clocks_and_a_b200_247() {
        let h100 = BoardSpec::h100_sxm();
        assert_eq!(h100.clock_count(), 110);
        assert_eq!((h100.clock(0), h100.clock(109)), (345, 1980));
        let b200 = BoardSpec::b200();
        assert_eq!(b200.clock_count(), 247);
        assert_eq!((b200.clock(0), b200.clock(1), b200.clock(246)), (120, 127, 1965));
    }

    #[test]
    fn every_clock_finds_its_own_index() {
        for spec in BoardSpec::MODELS.iter().filter_map(|model| BoardSpec::by_name(model)) {
            for index in 0..spec.clock_count() {
                assert_eq!(spec.index_at_most(spec.clock(index)), index);
                assert_eq!(spec.index_at_least(spec.clock(index)), index);
            }
            assert_eq!(spec.index_at_most(1), 0);
            assert_eq!(spec.index_at_most(9999), spec.clock_count() - 1);
        }
        let h100 = BoardSpec::h100_sxm();
        assert_eq!(h100.clock(h100.index_at_most(1004)), 990);
        assert_eq!(h100.clock(h100.index_at_least(1004)), 1005);
    }

    #[test]
    fn a_gain_is_constant_and_within_its_range() {
        let mut spec = NodeSpec::new("node-1", 8, BoardSpec::h100_sxm());
        let gains: Vec<f64> = (0..8).map(|index| spec.sensor_gain(&spec.uuid(index))).collect();
        assert!(gains.iter().all(|gain| (0.95..=1.05).contains(gain)), "{gains:?}");
        assert!(gains.windows(2).any(|pair| (pair[0] - pair[1]).abs() > 0.005), "{gains:?}");
        spec.sensor_gain_percent = 0.0;
        assert!((spec.sensor_gain(&spec.uuid(0)) - 1.0).abs() < f64::EPSILON);
    }

    #[test]
    fn uuids_and_addresses_differ() {
        let spec = NodeSpec::new("node-1", 16, BoardSpec::h100_sxm());
        let mut uuids: Vec<_> = (0..16).map(|index| spec.uuid(index)).collect();
        let mut addresses: Vec<_> = (0..16).map(NodeSpec::pci_bus_id).collect();
        uuids.sort();
        uuids.dedup();
        addresses.sort();
        addresses.dedup();
        assert_eq!((uuids.len(), addresses.len()), (16, 16));
        assert_eq!(uuids[0].len(), 40);
    }
}
