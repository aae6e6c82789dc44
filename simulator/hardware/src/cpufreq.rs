//! A cpufreq tree as `intel_pstate` in passive mode shows it: `policyN/scaling_max_freq` and the rest.
//!
//! A write is applied later: the daemon looks at the files, clamps and rounds down, and writes the
//! effective value back, as the kernel's freq-QoS does. What cannot be parsed is put back (the kernel
//! answers EINVAL at once; a file cannot). Values are kHz, one a line.
//!
//! What must hold: `scaling_max_freq` reads back at most what was asked, within the policy's range.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use crate::spec::HostSpec;

#[derive(Debug)]
struct Policy {
    min_file: Attribute,
    max_file: Attribute,
    current_file: Attribute,
    min_khz: u32,
    max_khz: u32,
    current_khz: u32,
}

/// A file with one line, held open: looking at it is one call.
#[derive(Debug)]
pub(crate) struct Attribute {
    file: File,
}

impl Attribute {
    /// Makes or rewrites the file in place: bind mounts of it stay valid.
    pub(crate) fn create(path: &Path, value: &str) -> io::Result<Self> {
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path)?;
        let attribute = Self { file };
        attribute.put(value)?;
        attribute.file.set_len(value.len() as u64 + 1)?;
        Ok(attribute)
    }

    /// Writes a line in place: no reader finds the file empty. A shorter value is followed by blank
    /// lines, which readers trim.
    pub(crate) fn put(&self, value: &str) -> io::Result<()> {
        let mut line = [b'\n'; MOST_BYTES];
        let length = value.len().min(MOST_BYTES - 1);
        line[..length].copy_from_slice(&value.as_bytes()[..length]);
        let shown = usize::try_from(self.file.metadata()?.len()).unwrap_or(0).clamp(length + 1, MOST_BYTES);
        self.file.write_all_at(&line[..shown], 0)?;
        if shown > length + 1 { self.file.set_len(length as u64 + 1) } else { Ok(()) }
    }

    /// The number in it: `None` when empty (between a shell's truncation and its write), `Some(None)`
    /// when it is no number.
    pub(crate) fn number(&self) -> io::Result<Option<Option<u64>>> {
        let mut bytes = [0; MOST_BYTES];
        let length = self.file.read_at(&mut bytes, 0)?;
        let text = std::str::from_utf8(&bytes[..length]).unwrap_or("?").trim();
        Ok(if text.is_empty() { None } else { Some(text.parse().ok()) })
    }
}

/// Longer than any value of the trees that changes.
const MOST_BYTES: usize = 32;

/// The tree of one node.
#[derive(Debug)]
pub struct CpufreqTree {
    policies: Vec<Policy>,
    spec: HostSpec,
}

impl CpufreqTree {
    /// Makes the tree in `folder`, as at boot.
    ///
    /// # Errors
    /// When files cannot be written there.
    pub fn create(folder: &Path, spec: &HostSpec) -> io::Result<Self> {
        let mut policies = Vec::new();
        for index in 0..spec.packages * spec.policies_per_package {
            let path = folder.join(format!("policy{}", index * spec.cpus_per_policy));
            fs::create_dir_all(&path)?;
            let first = index * spec.cpus_per_policy;
            let cpus: Vec<String> = (first..first + spec.cpus_per_policy).map(|cpu| cpu.to_string()).collect();
            let cpus = cpus.join(" ");
            let (low, high) = (spec.min_khz.to_string(), spec.max_khz.to_string());
            for (name, value) in [
                ("affected_cpus", cpus.as_str()),
                ("related_cpus", &cpus),
                ("cpuinfo_min_freq", &low),
                ("cpuinfo_max_freq", &high),
                ("cpuinfo_transition_latency", "20000"),
                ("scaling_driver", "intel_cpufreq"),
                ("scaling_governor", "schedutil"),
                ("scaling_available_governors", "conservative ondemand userspace powersave performance schedutil"),
            ] {
                put(&path.join(name), value)?;
            }
            policies.push(Policy {
                min_file: Attribute::create(&path.join("scaling_min_freq"), &low)?,
                max_file: Attribute::create(&path.join("scaling_max_freq"), &high)?,
                current_file: Attribute::create(&path.join("scaling_cur_freq"), &high)?,
                min_khz: spec.min_khz,
                max_khz: spec.max_khz,
                current_khz: spec.max_khz,
            });
        }
        Ok(Self { policies, spec: spec.clone() })
    }

    /// Looks for writes and applies them.
    ///
    /// # Errors
    /// When a file of the tree cannot be read or written.
    pub fn apply(&mut self) -> io::Result<()> {
        let (low, high, step) = (self.spec.min_khz, self.spec.max_khz, self.spec.step_khz);
        for policy in &mut self.policies {
            policy.max_khz = settle(&policy.max_file, policy.max_khz, |asked| (asked / step * step).clamp(low, high))?;
            let ceiling = policy.max_khz;
            policy.min_khz =
                settle(&policy.min_file, policy.min_khz, |asked| (asked / step * step).clamp(low, ceiling))?;
        }
        Ok(())
    }

    /// Writes the frequencies of the packages.
    ///
    /// # Errors
    /// When a file of the tree cannot be written.
    pub fn show(&mut self, package_khz: &[u32]) -> io::Result<()> {
        let each = self.spec.policies_per_package as usize;
        for (index, policy) in self.policies.iter_mut().enumerate() {
            let package = package_khz.get(index / each.max(1)).copied().unwrap_or(self.spec.max_khz);
            let now = package.clamp(self.spec.min_khz, policy.max_khz);
            if now != policy.current_khz {
                policy.current_khz = now;
                policy.current_file.put(&now.to_string())?;
            }
        }
        Ok(())
    }

    /// The mean ceiling of each package's policies.
    #[must_use]
    pub fn ceilings_khz(&self) -> Vec<u32> {
        let each = self.spec.policies_per_package.max(1);
        self.policies
            .chunks(each as usize)
            .map(|policies| policies.iter().map(|policy| policy.max_khz / each).sum())
            .collect()
    }
}

/// Reads a number that somebody may have written, and writes back what takes effect.
fn settle(file: &Attribute, in_force: u32, effect: impl Fn(u32) -> u32) -> io::Result<u32> {
    let Some(asked) = file.number()? else {
        return Ok(in_force);
    };
    let effective = effect(asked.map_or(in_force, |asked| u32::try_from(asked).unwrap_or(u32::MAX)));
    if asked != Some(u64::from(effective)) {
        file.put(&effective.to_string())?;
    }
    Ok(effective)
}

/// Writes a file that does not change.
pub(crate) fn put(path: &Path, value: &str) -> io::Result<()> {
    fs::write(path, format!("{value}\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_write_is_applied_later_clamped_and_rounded_down() {
        let folder = tempfile::tempdir().unwrap();
        let mut tree = CpufreqTree::create(folder.path(), &HostSpec::default()).unwrap();
        let path = folder.path().join("policy0/scaling_max_freq");
        for (asked, effective) in [
            ("2450001", 2_400_000),
            ("1", 800_000),
            ("99999999999", 3_800_000),
            ("2000000\n", 2_000_000),
            ("2000000", 2_000_000),
        ] {
            fs::write(&path, asked).unwrap();
            tree.apply().unwrap();
            assert_eq!(fs::read_to_string(&path).unwrap().trim(), effective.to_string(), "{asked}");
        }
        fs::write(&path, "fast").unwrap();
        tree.apply().unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "2000000\n");
        assert_eq!(tree.ceilings_khz(), [2_900_000, 3_800_000]);
    }

    #[test]
    fn the_minimum_never_exceeds_the_maximum() {
        let folder = tempfile::tempdir().unwrap();
        let mut tree = CpufreqTree::create(folder.path(), &HostSpec::default()).unwrap();
        fs::write(folder.path().join("policy28/scaling_min_freq"), "3000000").unwrap();
        tree.apply().unwrap();
        fs::write(folder.path().join("policy28/scaling_max_freq"), "2000000").unwrap();
        tree.apply().unwrap();
        assert_eq!(fs::read_to_string(folder.path().join("policy28/scaling_min_freq")).unwrap(), "2000000\n");
    }
}
