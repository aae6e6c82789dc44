//! CPU clocks by the kernel's cpufreq: `/sys/devices/system/cpu/cpufreq/policyN`.
//!
//! What must hold: a write is whole kilohertz in the range of the hardware; the maximum is written
//! first, unless it would come to lie below the minimum, when the minimum goes down first; what counts
//! is what is read back, which the kernel applies late and rounds down.

use std::{
    fs,
    path::{Path, PathBuf},
};

use powercap_common::units::Megahertz;

use super::DeviceError;
use crate::hardware::CpuTraits;

/// The CPUs of one cpufreq policy.
#[derive(Clone, Debug)]
pub struct CpufreqPolicy {
    traits: CpuTraits,
    folder: PathBuf,
}

impl CpufreqPolicy {
    /// Every policy under `root`, by number; none when there is no cpufreq. A policy that cannot be
    /// understood is left out: it is never touched.
    #[must_use]
    pub fn all(root: &Path) -> Vec<Self> {
        let Ok(entries) = fs::read_dir(root) else { return Vec::new() };
        let mut policies: Vec<_> = entries.flatten().filter_map(|entry| Self::open(&entry.path())).collect();
        policies.sort_by_key(|policy| policy.traits.policy);
        policies
    }

    fn open(folder: &Path) -> Option<Self> {
        let policy = folder.file_name()?.to_str()?.strip_prefix("policy")?.parse().ok()?;
        let min = read_kilohertz(&folder.join("cpuinfo_min_freq"), "read cpuinfo_min_freq").ok()?;
        let max = read_kilohertz(&folder.join("cpuinfo_max_freq"), "read cpuinfo_max_freq").ok()?;
        (0 < min.get() && min <= max)
            .then(|| Self { traits: CpuTraits { policy, min, max }, folder: folder.to_owned() })
    }

    /// What it is and can do.
    #[must_use]
    pub const fn traits(&self) -> &CpuTraits {
        &self.traits
    }

    /// The ceiling in force.
    ///
    /// # Errors
    /// When `scaling_max_freq` cannot be read.
    pub fn read_ceiling(&self) -> Result<Megahertz, DeviceError> {
        read_kilohertz(&self.folder.join("scaling_max_freq"), "read scaling_max_freq")
    }

    /// The clock now.
    ///
    /// # Errors
    /// When `scaling_cur_freq` cannot be read.
    pub fn read_clock(&self) -> Result<Megahertz, DeviceError> {
        read_kilohertz(&self.folder.join("scaling_cur_freq"), "read scaling_cur_freq")
    }

    /// Sets the ceiling, clamped to the hardware's range. It holds when it is read back, which may
    /// take some milliseconds.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn write_ceiling(&self, ceiling: Megahertz) -> Result<(), DeviceError> {
        let ceiling = ceiling.clamp(self.traits.min, self.traits.max);
        let minimum = self.folder.join("scaling_min_freq");
        if read_kilohertz(&minimum, "read scaling_min_freq").is_ok_and(|minimum| ceiling < minimum) {
            write_kilohertz(&minimum, self.traits.min, "write scaling_min_freq")?;
        }
        write_kilohertz(&self.folder.join("scaling_max_freq"), ceiling, "write scaling_max_freq")
    }
}

fn read_kilohertz(path: &Path, action: &'static str) -> Result<Megahertz, DeviceError> {
    let text = fs::read_to_string(path).map_err(|error| DeviceError::from_io(action, &error))?;
    let kilohertz = text
        .trim()
        .parse()
        .map_err(|_| DeviceError::Failed { action, why: format!("{:?} is no number of kilohertz", text.trim()) })?;
    Ok(Megahertz::from_kilohertz(kilohertz))
}

fn write_kilohertz(path: &Path, clock: Megahertz, action: &'static str) -> Result<(), DeviceError> {
    // Not `fs::write`: it would create a file where there is no such control.
    let mut file = fs::OpenOptions::new()
        .write(true)
        .truncate(true)
        .open(path)
        .map_err(|error| DeviceError::from_io(action, &error))?;
    std::io::Write::write_all(&mut file, clock.as_kilohertz().to_string().as_bytes())
        .map_err(|error| DeviceError::from_io(action, &error))
}

#[cfg(test)]
mod tests {
    use powercap_simulated_hardware::{HostSpec, TreeFault, cpufreq::CpufreqTree, tree_fault::spoil};

    use super::*;

    fn tree(policies: &[(&str, &[(&str, &str)])]) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        for (policy, files) in policies {
            fs::create_dir(root.path().join(policy)).unwrap();
            for (name, text) in *files {
                fs::write(root.path().join(policy).join(name), text).unwrap();
            }
        }
        root
    }

    const WHOLE: &[(&str, &str)] = &[
        ("cpuinfo_min_freq", "800000\n"),
        ("cpuinfo_max_freq", "3800000\n"),
        ("scaling_min_freq", "1500000\n"),
        ("scaling_max_freq", "3800000\n"),
        ("scaling_cur_freq", "3412345\n"),
    ];

    #[test]
    fn policies_that_cannot_be_understood_are_left_out() {
        let root = tree(&[
            ("policy10", WHOLE),
            ("policy2", WHOLE),
            ("policyX", WHOLE),
            ("boost", &[]),
            ("policy3", &[("cpuinfo_min_freq", "800000"), ("cpuinfo_max_freq", "fast")]),
            ("policy4", &[("cpuinfo_min_freq", "900000"), ("cpuinfo_max_freq", "800000")]),
        ]);
        let found: Vec<_> = CpufreqPolicy::all(root.path()).iter().map(|policy| policy.traits.policy).collect();
        assert_eq!(found, [2, 10]);
        assert!(CpufreqPolicy::all(Path::new("/nowhere")).is_empty());
    }

    #[test]
    fn a_ceiling_below_the_minimum_takes_the_minimum_down_first() {
        let root = tree(&[("policy0", WHOLE)]);
        let policy = CpufreqPolicy::all(root.path()).remove(0);
        let file = |name: &str| fs::read_to_string(root.path().join("policy0").join(name)).unwrap();
        policy.write_ceiling(Megahertz::new(2000)).unwrap();
        assert_eq!((file("scaling_min_freq").as_str(), file("scaling_max_freq").as_str()), ("1500000\n", "2000000"));
        policy.write_ceiling(Megahertz::new(1200)).unwrap();
        assert_eq!((file("scaling_min_freq").as_str(), file("scaling_max_freq").as_str()), ("800000", "1200000"));
        assert_eq!(policy.read_ceiling().unwrap(), Megahertz::new(1200));
        assert_eq!(policy.read_clock().unwrap(), Megahertz::new(3412));
    }

    #[test]
    fn a_ceiling_stays_in_the_range_of_the_hardware() {
        let root = tree(&[("policy0", WHOLE)]);
        let policy = CpufreqPolicy::all(root.path()).remove(0);
        for (asked, written) in [(0, 800), (1, 800), (9999, 3800), (u32::MAX, 3800)] {
            policy.write_ceiling(Megahertz::new(asked)).unwrap();
            assert_eq!(policy.read_ceiling().unwrap(), Megahertz::new(written), "{asked}");
        }
    }

    #[test]
    fn a_control_that_the_kernel_locks_is_denied_to_root_too() {
        let root = tempfile::tempdir().unwrap();
        let _tree = CpufreqTree::create(root.path(), &HostSpec::default()).unwrap();
        let policy = CpufreqPolicy::all(root.path()).remove(0);
        spoil(&root.path().join("policy0/scaling_max_freq"), TreeFault::Locked).unwrap();
        let error = policy.write_ceiling(Megahertz::new(2000)).unwrap_err();
        assert!(matches!(error, DeviceError::Denied { .. }), "{error}");
    }

    #[test]
    fn a_missing_control_is_lacking_and_not_created() {
        let root = tree(&[("policy0", &[("cpuinfo_min_freq", "800000"), ("cpuinfo_max_freq", "3800000")])]);
        let policy = CpufreqPolicy::all(root.path()).remove(0);
        let error = policy.write_ceiling(Megahertz::new(2000)).unwrap_err();
        assert!(matches!(error, DeviceError::Unsupported { .. }), "{error}");
        assert!(!root.path().join("policy0/scaling_max_freq").exists());
    }
}
