//! A powercap tree as `intel_rapl` shows it: `intel-rapl:N/energy_uj` that wraps, and constraints.
//!
//! What must hold: `energy_uj` counts the package's true energy modulo `max_energy_range_uj`; a
//! `long_term` limit that was written takes effect, within 1 W and the package's highest power.

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::cpufreq::{Attribute, put};
use crate::spec::HostSpec;

/// As Xeons have it: the counter wraps every 262 kJ.
pub const INTEL_ENERGY_RANGE_UJ: u64 = 262_143_328_850;
/// As EPYCs have it: every 66 kJ.
pub const AMD_ENERGY_RANGE_UJ: u64 = 65_532_610_987;

/// What RAPL offers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum Rapl {
    /// Energy, and limits that can be set.
    #[default]
    Writable,
    /// Energy, and limits that the firmware locked: writing gives EACCES. The file is read-only, which
    /// does not stop who may override permissions; what such a one writes is put back.
    Locked,
    /// Energy alone, as on AMD.
    EnergyOnly,
}

#[derive(Debug)]
struct Zone {
    energy_file: Attribute,
    limit_file: Option<Attribute>,
    limit_uw: u64,
    start_uj: u64,
}

/// The tree of one node.
#[derive(Debug)]
pub struct RaplTree {
    zones: Vec<Zone>,
    most_uw: u64,
    range_uj: u64,
    rapl: Rapl,
}

impl RaplTree {
    /// Makes the tree in `folder`, as at boot. The counters begin anywhere, as real ones do.
    ///
    /// # Errors
    /// When files cannot be written there.
    pub fn create(folder: &Path, spec: &HostSpec, seed: u64) -> io::Result<Self> {
        let most_uw = micro(spec.peak_watts);
        let range_uj = spec.energy_range_uj.max(1);
        let mut zones = Vec::new();
        for package in 0..spec.packages {
            let path = folder.join(format!("intel-rapl:{package}"));
            if path.exists() {
                remove_limits(&path)?;
            }
            fs::create_dir_all(&path)?;
            let most = most_uw.to_string();
            let start_uj =
                crate::spec::fingerprint(&[seed.to_le_bytes(), u64::from(package).to_le_bytes()].concat()) % range_uj;
            for (name, value) in [
                ("name", format!("package-{package}")),
                ("enabled", "1".to_owned()),
                ("max_energy_range_uj", range_uj.to_string()),
            ] {
                put(&path.join(name), &value)?;
            }
            for (name, value) in [
                ("constraint_0_name", "long_term".to_owned()),
                ("constraint_0_max_power_uw", most.clone()),
                ("constraint_0_time_window_us", "999424".to_owned()),
                ("constraint_1_name", "short_term".to_owned()),
                ("constraint_1_power_limit_uw", micro(spec.peak_watts * 1.2).to_string()),
                ("constraint_1_max_power_uw", micro(spec.peak_watts * 1.2).to_string()),
                ("constraint_1_time_window_us", "1952".to_owned()),
            ] {
                if spec.rapl != Rapl::EnergyOnly {
                    put(&path.join(name), &value)?;
                }
            }
            zones.push(Zone {
                energy_file: Attribute::create(&path.join("energy_uj"), &start_uj.to_string())?,
                limit_file: limit_file(&path.join("constraint_0_power_limit_uw"), &most, spec.rapl)?,
                limit_uw: most_uw,
                start_uj,
            });
        }
        Ok(Self { zones, most_uw, range_uj, rapl: spec.rapl })
    }

    /// Looks for limits that were written and applies them.
    ///
    /// # Errors
    /// When a file of the tree cannot be read or written.
    pub fn apply(&mut self) -> io::Result<()> {
        for zone in &mut self.zones {
            let Some(file) = &zone.limit_file else { continue };
            let Some(asked) = file.number()? else { continue };
            if self.rapl == Rapl::Writable {
                zone.limit_uw = asked.unwrap_or(zone.limit_uw).clamp(1_000_000, self.most_uw);
            }
            if asked != Some(zone.limit_uw) {
                file.put(&zone.limit_uw.to_string())?;
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
            let counter = (zone.start_uj + micro(*joules)) % self.range_uj;
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

fn limit_file(path: &Path, value: &str, rapl: Rapl) -> io::Result<Option<Attribute>> {
    if rapl == Rapl::EnergyOnly {
        return Ok(None);
    }
    let file = Attribute::create(path, value)?;
    let mode = if rapl == Rapl::Locked { 0o444 } else { 0o644 };
    fs::set_permissions(path, fs::Permissions::from_mode(mode))?;
    Ok(Some(file))
}

/// What an earlier life with other limits left.
fn remove_limits(zone: &Path) -> io::Result<()> {
    for entry in fs::read_dir(zone)? {
        let entry = entry?;
        if entry.file_name().to_string_lossy().starts_with("constraint_") {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
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
        assert_eq!((read() + INTEL_ENERGY_RANGE_UJ - start) % INTEL_ENERGY_RANGE_UJ, 100_000_000_000);
        tree.show(&[1e9, 0.0]).unwrap();
        assert!(read() < INTEL_ENERGY_RANGE_UJ);
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

    #[test]
    fn a_small_range_wraps_within_a_test() {
        let folder = tempfile::tempdir().unwrap();
        let spec = HostSpec { energy_range_uj: 50_000_000, ..HostSpec::default() };
        let tree = RaplTree::create(folder.path(), &spec, 1).unwrap();
        let read = |file: &str| -> u64 {
            fs::read_to_string(folder.path().join("intel-rapl:0").join(file)).unwrap().trim().parse().unwrap()
        };
        assert_eq!(read("max_energy_range_uj"), 50_000_000);
        let mut wraps = 0;
        let mut last = read("energy_uj");
        for second in 1..=10 {
            tree.show(&[f64::from(second) * 30.0, 0.0]).unwrap();
            let now = read("energy_uj");
            assert!(now < 50_000_000);
            assert_eq!((now + 50_000_000 - last) % 50_000_000, 30_000_000);
            wraps += u32::from(now < last);
            last = now;
        }
        assert_eq!(wraps, 6);
    }

    #[test]
    fn a_locked_limit_is_read_only_and_what_root_writes_is_put_back() {
        let folder = tempfile::tempdir().unwrap();
        let spec = HostSpec { rapl: Rapl::Locked, ..HostSpec::default() };
        let mut tree = RaplTree::create(folder.path(), &spec, 1).unwrap();
        let path = folder.path().join("intel-rapl:0/constraint_0_power_limit_uw");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o444);
        // Fails where the test may not override permissions, which is as good.
        let _ = fs::write(&path, "100000000");
        tree.apply().unwrap();
        assert_eq!(tree.limits_watts(), [350.0, 350.0]);
        assert_eq!(fs::read_to_string(&path).unwrap().trim(), "350000000");
    }

    #[test]
    fn amd_counts_energy_and_has_no_limits() {
        let folder = tempfile::tempdir().unwrap();
        RaplTree::create(folder.path(), &HostSpec::default(), 1).unwrap();
        // The same folder again: nothing of the other machine may be left.
        let spec = HostSpec::driven_by(crate::cpu_driver::CpufreqDriver::AmdPstateEpp);
        let mut tree = RaplTree::create(folder.path(), &spec, 1).unwrap();
        let mut files: Vec<_> =
            fs::read_dir(folder.path().join("intel-rapl:0")).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        files.sort();
        assert_eq!(files, ["enabled", "energy_uj", "max_energy_range_uj", "name"]);
        tree.apply().unwrap();
        assert_eq!(tree.limits_watts(), [350.0, 350.0]);
    }
}
