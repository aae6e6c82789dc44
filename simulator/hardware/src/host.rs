//! CPU packages and the rest of a node: power follows frequency and load.
//!
//! P = idle + load × (peak − idle) × (f / fmax)^2.3: the exponent measured for compute-bound GPU work,
//! taken for CPUs too (assumed). The host's load is a baseline plus a part that follows the boards,
//! which a host feeds (assumed: up to 0.45 more when all boards are busy).
//!
//! What must hold: AC = (boards + packages + static) × loss; a package's power limit lowers its
//! frequency, never below the lowest.

use crate::spec::HostSpec;

const EXPONENT: f64 = 2.3;
const LOAD_FROM_BOARDS: f64 = 0.45;

/// One CPU package.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Package {
    /// Mean frequency in force.
    pub khz: u32,
    /// DC power now.
    pub watts: f64,
    /// DC energy since boot.
    pub joules: f64,
}

/// The host side of a node.
#[derive(Debug, Clone)]
pub struct Host {
    spec: HostSpec,
    packages: Vec<Package>,
    load: f64,
}

impl Host {
    /// A host at boot.
    #[must_use]
    pub fn new(spec: HostSpec) -> Self {
        let package = Package { khz: spec.max_khz, watts: spec.idle_watts, joules: 0.0 };
        Self { packages: vec![package; spec.packages as usize], load: spec.baseline_load, spec }
    }

    /// Lets time pass. `ceilings_khz` and `limits_watts` hold a value for each package.
    pub fn step(&mut self, seconds: f64, boards_utilisation: f64, ceilings_khz: &[u32], limits_watts: &[f64]) {
        let spec = &self.spec;
        self.load = (spec.baseline_load + LOAD_FROM_BOARDS * boards_utilisation.clamp(0.0, 1.0)).min(1.0);
        for (index, package) in self.packages.iter_mut().enumerate() {
            let ceiling = ceilings_khz.get(index).copied().unwrap_or(spec.max_khz).clamp(spec.min_khz, spec.max_khz);
            let limit = limits_watts.get(index).copied().unwrap_or(f64::INFINITY);
            let busy = self.load * (spec.peak_watts - spec.idle_watts);
            let wanted = f64::from(ceiling) / f64::from(spec.max_khz);
            let allowed = ((limit - spec.idle_watts).max(0.0) / busy).powf(1.0 / EXPONENT);
            let lowest = f64::from(spec.min_khz) / f64::from(spec.max_khz);
            let ratio = wanted.min(allowed).max(lowest);
            package.watts = spec.idle_watts + busy * ratio.powf(EXPONENT);
            package.joules += package.watts * seconds;
            package.khz = frequency(ratio, spec);
        }
    }

    /// The packages.
    #[must_use]
    pub fn packages(&self) -> &[Package] {
        &self.packages
    }

    /// Share of the CPUs in use, 0 to 1.
    #[must_use]
    pub fn load(&self) -> f64 {
        self.load
    }

    /// AC power of the node with that much flowing into its boards.
    #[must_use]
    pub fn ac_watts(&self, boards_watts: f64) -> f64 {
        let packages: f64 = self.packages.iter().map(|package| package.watts).sum();
        (boards_watts + packages + self.spec.static_watts) * self.spec.supply_factor
    }
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a ratio of a frequency in range")]
fn frequency(ratio: f64, spec: &HostSpec) -> u32 {
    let steps = (ratio * f64::from(spec.max_khz) / f64::from(spec.step_khz)).round();
    steps as u32 * spec.step_khz
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_idle_node_of_eight_draws_about_two_kilowatts() {
        let mut host = Host::new(HostSpec::default());
        host.step(0.005, 0.0, &[3_800_000; 2], &[350.0; 2]);
        let watts = host.ac_watts(8.0 * 70.0);
        assert!((2000.0..2400.0).contains(&watts), "{watts}");
    }

    #[test]
    fn a_lower_frequency_and_a_package_limit_both_lower_power() {
        let mut host = Host::new(HostSpec::default());
        host.step(0.005, 1.0, &[3_800_000; 2], &[350.0; 2]);
        let free = host.packages()[0].watts;
        host.step(0.005, 1.0, &[1_900_000, 3_800_000], &[350.0, 120.0]);
        assert!(host.packages()[0].watts < free - 80.0);
        assert_eq!(host.packages()[0].khz, 1_900_000);
        assert!((host.packages()[1].watts - 120.0).abs() < 1.0);
    }
}
