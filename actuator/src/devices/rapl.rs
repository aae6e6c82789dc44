//! CPU power by the kernel's powercap tree: energy counters of RAPL packages and their memory.
//!
//! What must hold: a counter that wraps gives no negative and no huge power; a package that cannot be
//! read makes the whole sum unknown, never smaller (see [`RaplCounters::max_power`]). `psys` is left out,
//! since it contains the packages, and so is the `-mmio` twin of a package.

mod steady;

use std::{
    fs::{self, File},
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    time::Instant,
};

use powercap_common::units::Watts;

use super::DeviceError;
use steady::SteadyPower;

/// What a package counts for that does not tell its maximum: the largest that servers have.
const LARGEST_PACKAGE: Watts = Watts::new(500);

/// The energy counters that make up the power of the CPUs.
#[derive(Debug)]
pub struct RaplCounters {
    counters: Vec<Counter>,
    max_power: Watts,
    power: SteadyPower,
}

#[derive(Debug)]
struct Counter {
    path: PathBuf,
    energy: Option<File>,
    wraps_at_microjoules: u64,
    last: Option<u64>,
    /// Since it was first read.
    spent_microjoules: u64,
}

impl RaplCounters {
    /// The counters under `root` (`/sys/class/powercap`); `None` when there are none.
    #[must_use]
    pub fn open(root: &Path) -> Option<Self> {
        let mut counters = Vec::new();
        let mut max_power = Watts::ZERO;
        for zone in fs::read_dir(root).ok()?.flatten().map(|entry| entry.path()) {
            let Some(name) = zone_name(&zone) else { continue };
            if name.starts_with("package-") {
                max_power = max_power + package_max_power(&zone).unwrap_or(LARGEST_PACKAGE);
            } else if name != "dram" {
                continue;
            }
            counters.push(Counter::new(&zone));
        }
        (!counters.is_empty()).then_some(Self { counters, max_power, power: SteadyPower::default() })
    }

    /// The most that the packages are made to draw: what they count for when they cannot be read.
    #[must_use]
    pub const fn max_power(&self) -> Watts {
        self.max_power
    }

    /// Their power by this and the readings of the last two seconds; `None` at the first.
    ///
    /// # Errors
    /// When a counter cannot be read: then the sum is unknown.
    pub fn read_power(&mut self, now: Instant) -> Result<Option<Watts>, DeviceError> {
        let mut spent_microjoules = 0_u64;
        for counter in &mut self.counters {
            spent_microjoules = spent_microjoules.saturating_add(counter.read()?);
        }
        Ok(self.power.after(now, spent_microjoules))
    }
}

impl Counter {
    fn new(zone: &Path) -> Self {
        let wraps_at_microjoules = read_number(&zone.join("max_energy_range_uj")).unwrap_or(u64::MAX);
        Self { path: zone.join("energy_uj"), energy: None, wraps_at_microjoules, last: None, spent_microjoules: 0 }
    }

    /// What was spent since the first reading.
    fn read(&mut self) -> Result<u64, DeviceError> {
        const ACTION: &str = "read a RAPL energy counter";
        let file = match self.energy.take() {
            Some(file) => file,
            None => File::open(&self.path).map_err(|error| DeviceError::from_io(ACTION, &error))?,
        };
        let mut bytes = [0_u8; 32];
        let length = file.read_at(&mut bytes, 0).map_err(|error| DeviceError::from_io(ACTION, &error))?;
        self.energy = Some(file);
        let energy = std::str::from_utf8(&bytes[..length])
            .ok()
            .and_then(|text| text.trim().parse().ok())
            .ok_or_else(|| DeviceError::Failed { action: ACTION, why: "no number of microjoules".to_owned() })?;
        if let Some(before) = self.last.replace(energy) {
            let spent = spent(before, energy, self.wraps_at_microjoules)
                .ok_or_else(|| DeviceError::Failed { action: ACTION, why: "it wrapped beyond its range".to_owned() })?;
            self.spent_microjoules = self.spent_microjoules.saturating_add(spent);
        }
        Ok(self.spent_microjoules)
    }
}

/// Microjoules between two readings of a counter that wraps.
fn spent(before: u64, after: u64, wraps_at_microjoules: u64) -> Option<u64> {
    match after.checked_sub(before) {
        Some(spent) => Some(spent),
        None => wraps_at_microjoules.checked_sub(before)?.checked_add(after),
    }
}

fn zone_name(zone: &Path) -> Option<String> {
    let file_name = zone.file_name()?.to_str()?;
    if !file_name.starts_with("intel-rapl:") {
        return None;
    }
    fs::read_to_string(zone.join("name")).ok().map(|name| name.trim().to_owned())
}

/// What the long-term constraint says that the package is made for, else its limit.
fn package_max_power(zone: &Path) -> Option<Watts> {
    let constraint = (0..4).find(|index| {
        fs::read_to_string(zone.join(format!("constraint_{index}_name"))).is_ok_and(|name| name.trim() == "long_term")
    })?;
    ["max_power_uw", "power_limit_uw"]
        .iter()
        .filter_map(|file| read_number(&zone.join(format!("constraint_{constraint}_{file}"))))
        .find(|microwatts| *microwatts > 0)
        .map(|microwatts| Watts::from_milliwatts(microwatts / 1000))
}

fn read_number(path: &Path) -> Option<u64> {
    fs::read_to_string(path).ok()?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_counter_that_wraps_gives_the_energy_across_the_wrap() {
        assert_eq!(spent(1_000_000, 3_000_000, 10_000_000), Some(2_000_000));
        assert_eq!(spent(9_500_000, 500_000, 10_000_000), Some(1_000_000));
        assert_eq!(spent(9_500_000, 500_000, 1), None, "a range below the counter is not believed");
    }

    #[test]
    fn packages_and_memory_count_and_the_platform_does_not() {
        let root = tempfile::tempdir().unwrap();
        let zone = |folder: &str, name: &str, energy: &str| {
            let zone = root.path().join(folder);
            fs::create_dir(&zone).unwrap();
            for (file, text) in [
                ("name", name),
                ("energy_uj", energy),
                ("max_energy_range_uj", "262143328850"),
                ("constraint_0_name", "long_term"),
                ("constraint_0_max_power_uw", "350000000"),
            ] {
                fs::write(zone.join(file), text).unwrap();
            }
        };
        zone("intel-rapl:0", "package-0\n", "1000000\n");
        zone("intel-rapl:0:0", "dram\n", "1000000\n");
        zone("intel-rapl:1", "psys\n", "1000000\n");
        zone("intel-rapl-mmio:0", "package-0\n", "1000000\n");
        let mut rapl = RaplCounters::open(root.path()).unwrap();
        assert_eq!(rapl.max_power(), Watts::new(350));
        let start = Instant::now();
        assert_eq!(rapl.read_power(start).unwrap(), None);
        fs::write(root.path().join("intel-rapl:0/energy_uj"), "101000000\n").unwrap();
        fs::write(root.path().join("intel-rapl:0:0/energy_uj"), "11000000\n").unwrap();
        assert_eq!(rapl.read_power(start + Duration::from_secs(1)).unwrap(), Some(Watts::new(110)));
        fs::write(root.path().join("intel-rapl:0/energy_uj"), "gone").unwrap();
        assert!(rapl.read_power(start + Duration::from_secs(2)).is_err());
    }

    #[test]
    fn a_machine_without_counters_has_none() {
        assert!(RaplCounters::open(Path::new("/nowhere")).is_none());
        assert!(RaplCounters::open(tempfile::tempdir().unwrap().path()).is_none());
    }
}
