//! CPU power by the kernel's powercap tree: energy counters of RAPL packages and their memory.
//!
//! What must hold: a counter that wraps gives no negative and no huge power; a package that cannot be
//! read makes the whole sum unknown, never smaller (see [`RaplCounters::max_power`]). `psys` is left out, since it contains the packages,
//! and so is the `-mmio` twin of a package.

use std::{
    fs::{self, File},
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use powercap_common::units::{Joules, Watts};

use super::DeviceError;

/// What a package counts for that does not tell its maximum: the largest that servers have.
const LARGEST_PACKAGE: Watts = Watts::new(500);

/// The energy counters that make up the power of the CPUs.
#[derive(Debug)]
pub struct RaplCounters {
    counters: Vec<Counter>,
    max_power: Watts,
}

#[derive(Debug)]
struct Counter {
    path: PathBuf,
    energy: Option<File>,
    wraps_at_microjoules: u64,
    last: Option<(Instant, u64)>,
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
        (!counters.is_empty()).then_some(Self { counters, max_power })
    }

    /// The most that the packages are made to draw: what they count for when they cannot be read.
    #[must_use]
    pub const fn max_power(&self) -> Watts {
        self.max_power
    }

    /// The mean power since the last call; `None` at the first.
    ///
    /// # Errors
    /// When a counter cannot be read: then the sum is unknown.
    pub fn read_power(&mut self, now: Instant) -> Result<Option<Watts>, DeviceError> {
        let mut sum = Some(Watts::ZERO);
        for counter in &mut self.counters {
            let power = counter.read_power(now)?;
            sum = sum.zip(power).map(|(sum, power)| sum + power);
        }
        Ok(sum)
    }
}

impl Counter {
    fn new(zone: &Path) -> Self {
        let wraps_at_microjoules = read_number(&zone.join("max_energy_range_uj")).unwrap_or(u64::MAX);
        Self { path: zone.join("energy_uj"), energy: None, wraps_at_microjoules, last: None }
    }

    fn read_power(&mut self, now: Instant) -> Result<Option<Watts>, DeviceError> {
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
        let last = self.last.replace((now, energy));
        Ok(last.and_then(|(then, before)| {
            power(before, energy, self.wraps_at_microjoules, now.saturating_duration_since(then))
        }))
    }
}

/// The mean power between two readings of a counter that wraps.
fn power(before: u64, after: u64, wraps_at_microjoules: u64, elapsed: Duration) -> Option<Watts> {
    let spent = match after.checked_sub(before) {
        Some(spent) => spent,
        None => wraps_at_microjoules.checked_sub(before)?.checked_add(after)?,
    };
    Joules::from_microjoules(spent).over_seconds(elapsed.as_secs_f64())
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
    use super::*;

    #[test]
    fn a_counter_that_wraps_gives_the_power_across_the_wrap() {
        let second = Duration::from_secs(1);
        assert_eq!(power(1_000_000, 3_000_000, 10_000_000, second), Some(Watts::new(2)));
        assert_eq!(power(9_500_000, 500_000, 10_000_000, second), Some(Watts::new(1)));
        assert_eq!(power(9_500_000, 500_000, 1, second), None, "a range below the counter is not believed");
        assert_eq!(power(1, 2, 10, Duration::ZERO), None);
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
