//! A powercap tree as `intel_rapl` shows it: `intel-rapl:N/energy_uj` that wraps, and constraints.
//!
//! What must hold: `energy_uj` counts the package's true energy modulo `max_energy_range_uj`; a
//! `long_term` limit that was written takes effect, within 1 W and the package's highest power.

use std::fs;
use std::io;
use std::path::Path;

use crate::cpufreq::{Attribute, put};
use crate::spec::HostSpec;

/// As Xeons have it: the counter wraps every 262 kJ.
pub const ENERGY_RANGE_UJ: u64 = 262_143_328_850;

#[derive(Debug)]
struct Zone {
    energy_file: Attribute,
    limit_file: Attribute,
    limit_uw: u64,
    start_uj: u64,
}

/// The tree of one node.
#[derive(Debug)]
pub struct RaplTree {
    zones: Vec<Zone>,
    most_uw: u64,
}

impl RaplTree {
    /// Makes the tree in `folder`, as at boot. The counters begin anywhere, as real ones do.
    ///
    /// # Errors
    /// When files cannot be written there.
    pub fn create(folder: &Path, spec: &HostSpec, seed: u64) -> io::Result<Self> {
        let most_uw = micro(spec.peak_watts);
        let mut zones = Vec::new();
        for package in 0..spec.packages {
            let path = folder.join(format!("intel-rapl:{package}"));
            fs::create_dir_all(&path)?;
            let most = most_uw.to_string();
            let start_uj = crate::spec::fingerprint(&[seed.to_le_bytes(), u64::from(package).to_le_bytes()].concat())
                % ENERGY_RANGE_UJ;
            for (name, value) in [
                ("name", format!("package-{package}")),
                ("enabled", "1".to_owned()),
                ("max_energy_range_uj", ENERGY_RANGE_UJ.to_string()),
                ("constraint_0_name", "long_term".to_owned()),
                ("constraint_0_max_power_uw", most.clone()),
                ("constraint_0_time_window_us", "999424".to_owned()),
                ("constraint_1_name", "short_term".to_owned()),
                ("constraint_1_power_limit_uw", micro(spec.peak_watts * 1.2).to_string()),
                ("constraint_1_max_power_uw", micro(spec.peak_watts * 1.2).to_string()),
                ("constraint_1_time_window_us", "1952".to_owned()),
            ] {
                put(&path.join(name), &value)?;
            }
            zones.push(Zone {
                energy_file: Attribute::create(&path.join("energy_uj"), &start_uj.to_string())?,
                limit_file: Attribute::create(&path.join("constraint_0_power_limit_uw"), &most)?,
                limit_uw: most_uw,
                start_uj,
            });
        }
        Ok(Self { zones, most_uw })
    }

    /// Looks for limits that were written and applies them.
    ///
    /// # Errors
    /// When a file of the tree cannot be read or written.
    pub fn apply(&mut self) -> io::Result<()> {
        for zone in &mut self.zones {
            let Some(asked) = zone.limit_file.number()? else {
                continue;
            };
            zone.limit_uw = asked.unwrap_or(zone.limit_uw).clamp(1_000_000, self.most_uw);
            if asked != Some(zone.limit_uw) {
                zone.limit_file.put(&zone.limit_uw.to_string())?;
            }
        }
        Ok(())
    }

    /// Writes the counters.
    ///
    /// # Errors
    /// When a file of the tree cannot be written.
    pub fn show(&self, package_joules: &[f64]) -> io::Result<()> {
        for (zone, joules) in self.zones.iter().zip(package_joules) {
            let counter = (zone.start_uj + micro(*joules)) % ENERGY_RANGE_UJ;
            zone.energy_file.put(&counter.to_string())?;
        }
        Ok(())
    }

    /// The limit of each package.
    #[must_use]
    pub fn limits_watts(&self) -> Vec<f64> {
        #[expect(clippy::cast_precision_loss, reason = "microwatts of one package")]
        self.zones.iter().map(|zone| zone.limit_uw as f64 / 1e6).collect()
    }
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "positive, and far below 2^64")]
fn micro(value: f64) -> u64 {
    (value.max(0.0) * 1e6) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_counter_wraps_at_its_range() {
        let folder = tempfile::tempdir().unwrap();
        let tree = RaplTree::create(folder.path(), &HostSpec::default(), 1).unwrap();
        let read = || -> u64 {
            fs::read_to_string(folder.path().join("intel-rapl:0/energy_uj")).unwrap().trim().parse().unwrap()
        };
        let start = read();
        tree.show(&[100_000.0, 0.0]).unwrap();
        assert_eq!((read() + ENERGY_RANGE_UJ - start) % ENERGY_RANGE_UJ, 100_000_000_000);
        tree.show(&[1e9, 0.0]).unwrap();
        assert!(read() < ENERGY_RANGE_UJ);
    }

    #[test]
    fn a_limit_is_clamped_and_read_back() {
        let folder = tempfile::tempdir().unwrap();
        let mut tree = RaplTree::create(folder.path(), &HostSpec::default(), 1).unwrap();
        let path = folder.path().join("intel-rapl:1/constraint_0_power_limit_uw");
        fs::write(&path, "200000000").unwrap();
        tree.apply().unwrap();
        assert_eq!(tree.limits_watts(), [350.0, 200.0]);
        fs::write(&path, "999000000000").unwrap();
        tree.apply().unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap().trim(), "350000000");
    }
}
