//! A cpufreq tree as the kernel shows it: `policyN/scaling_max_freq` and the rest (see [`crate::cpu_driver`]).
//!
//! A write is applied later: the daemon looks at the files, clamps and rounds down, and writes the
//! effective value back, as the kernel's freq-QoS does. What cannot be parsed is put back (the kernel
//! answers EINVAL at once; a file cannot). So is an energy preference under the governor `performance`
//! of an active driver, which the kernel refuses with EBUSY. Governors and preferences are taken and
//! shown, and change nothing else. Values are kHz, one a line.
//!
//! What must hold: `scaling_max_freq` reads back at most what was asked, within the policy's range.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use crate::cpu_driver::{CpufreqDriver, Machine};
use crate::spec::HostSpec;
use crate::tree_fault;

#[derive(Debug)]
struct Policy {
    min_file: Attribute,
    max_file: Attribute,
    current_file: Attribute,
    governor: Choice,
    /// Of active drivers alone.
    preference: Option<Choice>,
    min_khz: u32,
    max_khz: u32,
    /// What was asked for last: it comes back when turbo does.
    asked_khz: u32,
    current_khz: u32,
    folder: PathBuf,
}

/// A word out of a few.
#[derive(Debug)]
struct Choice {
    file: Attribute,
    value: &'static str,
}

impl Choice {
    fn create(path: &Path, value: &'static str) -> io::Result<Self> {
        Ok(Self { file: Attribute::create(path, value)?, value })
    }

    /// Takes what was written if it is one of `of`; else it is put back.
    fn settle(&mut self, of: &[&'static str]) -> io::Result<&'static str> {
        let Some(text) = self.file.text()? else { return Ok(self.value) };
        if text != self.value {
            match of.iter().find(|word| **word == text) {
                Some(word) => self.value = word,
                None => self.file.put(self.value)?,
            }
        }
        Ok(self.value)
    }

    fn force(&mut self, value: &'static str) -> io::Result<()> {
        self.value = value;
        if self.file.text()?.as_deref() == Some(value) { Ok(()) } else { self.file.put(value) }
    }
}

const PREFERENCES: [&str; 5] = ["default", "performance", "balance_performance", "balance_power", "power"];

/// A file with one line, held open: looking at it is one call.
#[derive(Debug)]
pub(crate) struct Attribute {
    file: File,
}

impl Attribute {
    /// Makes or rewrites the file in place: bind mounts of it stay valid.
    pub(crate) fn create(path: &Path, value: &str) -> io::Result<Self> {
        tree_fault::mend(path)?;
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

    /// What is in it; `None` when empty.
    pub(crate) fn text(&self) -> io::Result<Option<String>> {
        let mut bytes = [0; MOST_BYTES];
        let length = self.file.read_at(&mut bytes, 0)?;
        let text = std::str::from_utf8(&bytes[..length]).unwrap_or("?").trim();
        Ok((!text.is_empty()).then(|| text.to_owned()))
    }

    /// The number in it: `None` when empty (between a shell's truncation and its write), `Some(None)`
    /// when it is no number.
    pub(crate) fn number(&self) -> io::Result<Option<Option<u64>>> {
        Ok(self.text()?.map(|text| text.parse().ok()))
    }
}

/// Longer than any value of the trees that changes.
const MOST_BYTES: usize = 32;

/// The tree of one node.
#[derive(Debug)]
pub struct CpufreqTree {
    policies: Vec<Policy>,
    machine: Machine,
    spec: HostSpec,
}

impl CpufreqTree {
    /// Makes the tree in `folder`, as at boot.
    ///
    /// # Errors
    /// When files cannot be written there.
    pub fn create(folder: &Path, spec: &HostSpec) -> io::Result<Self> {
        let policies = (0..spec.packages * spec.policies_per_package).map(|index| Policy::create(folder, index, spec));
        Ok(Self { policies: policies.collect::<Result<_, _>>()?, machine: Machine::of(spec), spec: spec.clone() })
    }

    /// Follows the knobs of the whole machine. A driver that is registered anew begins anew.
    ///
    /// # Errors
    /// When a file of the tree cannot be written.
    pub fn follow(&mut self, machine: Machine) -> io::Result<()> {
        if machine.driver != self.machine.driver {
            for policy in &mut self.policies {
                policy.register(machine.driver, &self.spec)?;
            }
        }
        self.machine = machine;
        Ok(())
    }

    /// Looks for writes and applies them.
    ///
    /// # Errors
    /// When a file of the tree cannot be read or written.
    pub fn apply(&mut self) -> io::Result<()> {
        for policy in &mut self.policies {
            policy.apply(&self.machine, &self.spec)?;
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
            let now = package.min(policy.max_khz).max(self.spec.min_khz);
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
            .map(|policies| policies.iter().map(|policy| policy.max_khz.min(self.machine.perf_khz) / each).sum())
            .collect()
    }
}

impl Policy {
    fn create(folder: &Path, index: u32, spec: &HostSpec) -> io::Result<Self> {
        let first = index * spec.cpus_per_policy;
        let folder = folder.join(format!("policy{first}"));
        fs::create_dir_all(&folder)?;
        let cpus: Vec<String> = (first..first + spec.cpus_per_policy).map(|cpu| cpu.to_string()).collect();
        let cpus = cpus.join(" ");
        let (low, high) = (spec.min_khz.to_string(), spec.max_khz.to_string());
        for (name, value) in [
            ("affected_cpus", cpus.as_str()),
            ("related_cpus", &cpus),
            ("cpuinfo_min_freq", &low),
            ("cpuinfo_max_freq", &high),
            ("cpuinfo_transition_latency", "20000"),
        ] {
            put(&folder.join(name), value)?;
        }
        match spec.cpufreq {
            CpufreqDriver::IntelPstate | CpufreqDriver::IntelCpufreq => {
                put(&folder.join("base_frequency"), &spec.base_khz.to_string())?;
            }
            CpufreqDriver::AcpiCpufreq => {
                let listed = spec.table_khz.iter().rev().filter(|khz| **khz <= spec.base_khz);
                let listed: Vec<String> = listed.map(ToString::to_string).collect();
                put(&folder.join("scaling_available_frequencies"), &listed.join(" "))?;
            }
            CpufreqDriver::AmdPstateEpp | CpufreqDriver::AmdPstate => {
                put(&folder.join("amd_pstate_max_freq"), &high)?;
                put(&folder.join("amd_pstate_lowest_nonlinear_freq"), &(spec.base_khz / 2).to_string())?;
            }
        }
        let mut policy = Self {
            min_file: Attribute::create(&folder.join("scaling_min_freq"), &low)?,
            max_file: Attribute::create(&folder.join("scaling_max_freq"), &high)?,
            current_file: Attribute::create(&folder.join("scaling_cur_freq"), &high)?,
            governor: Choice::create(&folder.join("scaling_governor"), spec.cpufreq.governor())?,
            preference: None,
            min_khz: spec.min_khz,
            max_khz: spec.max_khz,
            asked_khz: spec.max_khz,
            current_khz: spec.max_khz,
            folder,
        };
        policy.register(spec.cpufreq, spec)?;
        Ok(policy)
    }

    /// A driver takes the policy over: limits are as at boot.
    fn register(&mut self, driver: CpufreqDriver, spec: &HostSpec) -> io::Result<()> {
        (self.min_khz, self.max_khz, self.asked_khz) = (spec.min_khz, spec.max_khz, spec.max_khz);
        self.min_file.put(&spec.min_khz.to_string())?;
        self.max_file.put(&spec.max_khz.to_string())?;
        self.governor.force(driver.governor())?;
        put(&self.folder.join("scaling_driver"), driver.name())?;
        put(&self.folder.join("scaling_available_governors"), &driver.governors().join(" "))?;
        let (preference, available) = (
            self.folder.join("energy_performance_preference"),
            self.folder.join("energy_performance_available_preferences"),
        );
        if driver.is_active() {
            put(&available, &PREFERENCES.join(" "))?;
            self.preference = Some(Choice::create(&preference, "balance_performance")?);
        } else {
            self.preference = None;
            for file in [preference, available] {
                if file.exists() {
                    fs::remove_file(file)?;
                }
            }
        }
        Ok(())
    }

    fn apply(&mut self, machine: &Machine, spec: &HostSpec) -> io::Result<()> {
        // Who writes exactly what is in force is not noticed: what was asked before stays asked.
        if let Some(Some(written)) = self.max_file.number()?
            && written != u64::from(self.max_khz)
        {
            self.asked_khz = u32::try_from(written).unwrap_or(u32::MAX);
        }
        self.max_khz = spec.frequency_at_most(self.asked_khz.min(machine.highest_khz));
        settle(&self.max_file, self.max_khz, |_| self.max_khz)?;
        let ceiling = self.max_khz;
        self.min_khz = settle(&self.min_file, self.min_khz, |asked| spec.frequency_at_most(asked).min(ceiling))?;
        let governor = self.governor.settle(machine.driver.governors())?;
        if let Some(preference) = &mut self.preference {
            if governor == "performance" {
                preference.force("performance")?;
            } else {
                preference.settle(&PREFERENCES)?;
            }
        }
        Ok(())
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

    fn shown(folder: &Path, file: &str) -> String {
        fs::read_to_string(folder.join("policy0").join(file)).unwrap().trim().to_owned()
    }

    #[test]
    fn every_driver_clamps_and_rounds_down_to_what_it_has() {
        for (driver, asked, effective) in [
            (CpufreqDriver::IntelPstate, "2450001", "2400000"),
            (CpufreqDriver::AcpiCpufreq, "2449999", "2000000"),
            (CpufreqDriver::AcpiCpufreq, "3400000", "2450000"),
            (CpufreqDriver::AcpiCpufreq, "100000", "1500000"),
            (CpufreqDriver::AmdPstate, "2449999", "2425000"),
            (CpufreqDriver::AmdPstateEpp, "1", "400000"),
            (CpufreqDriver::AmdPstateEpp, "9999999", "3700000"),
        ] {
            let folder = tempfile::tempdir().unwrap();
            let mut tree = CpufreqTree::create(folder.path(), &HostSpec::driven_by(driver)).unwrap();
            assert_eq!(shown(folder.path(), "scaling_driver"), driver.name());
            fs::write(folder.path().join("policy0/scaling_max_freq"), asked).unwrap();
            tree.apply().unwrap();
            assert_eq!(shown(folder.path(), "scaling_max_freq"), effective, "{driver:?} {asked}");
        }
    }

    #[test]
    fn a_preference_is_refused_under_the_governor_performance_and_ceilings_still_work() {
        let folder = tempfile::tempdir().unwrap();
        let mut tree = CpufreqTree::create(folder.path(), &HostSpec::driven_by(CpufreqDriver::AmdPstateEpp)).unwrap();
        let mut written = |file: &str, value: &str| {
            fs::write(folder.path().join("policy0").join(file), value).unwrap();
            tree.apply().unwrap();
            shown(folder.path(), file)
        };
        assert_eq!(written("energy_performance_preference", "power"), "power");
        assert_eq!(written("energy_performance_preference", "sleep"), "power");
        assert_eq!(written("scaling_governor", "ondemand"), "powersave", "an active driver has no such governor");
        assert_eq!(written("scaling_governor", "performance"), "performance");
        assert_eq!(shown(folder.path(), "energy_performance_preference"), "performance");
        assert_eq!(written("energy_performance_preference", "power"), "performance");
        assert_eq!(written("scaling_max_freq", "2000000"), "2000000");
    }

    #[test]
    fn without_turbo_a_ceiling_comes_down_and_comes_back_with_it() {
        let folder = tempfile::tempdir().unwrap();
        let spec = HostSpec::driven_by(CpufreqDriver::IntelPstate);
        let mut tree = CpufreqTree::create(folder.path(), &spec).unwrap();
        fs::write(folder.path().join("policy0/scaling_max_freq"), "3000000").unwrap();
        tree.apply().unwrap();
        for (highest_khz, shows) in [(spec.base_khz, "2000000"), (spec.max_khz, "3000000")] {
            tree.follow(Machine { highest_khz, ..Machine::of(&spec) }).unwrap();
            tree.apply().unwrap();
            assert_eq!(shown(folder.path(), "scaling_max_freq"), shows);
        }
    }

    #[test]
    fn a_share_of_performance_slows_the_cpus_and_does_not_show_in_their_ceilings() {
        let folder = tempfile::tempdir().unwrap();
        let spec = HostSpec::driven_by(CpufreqDriver::IntelPstate);
        let mut tree = CpufreqTree::create(folder.path(), &spec).unwrap();
        tree.follow(Machine { perf_khz: 1_900_000, ..Machine::of(&spec) }).unwrap();
        tree.apply().unwrap();
        assert_eq!(tree.ceilings_khz(), [1_900_000; 2]);
        assert_eq!(shown(folder.path(), "scaling_max_freq"), "3800000");
    }

    #[test]
    fn a_change_of_mode_resets_what_was_set() {
        let folder = tempfile::tempdir().unwrap();
        let spec = HostSpec::driven_by(CpufreqDriver::IntelPstate);
        let mut tree = CpufreqTree::create(folder.path(), &spec).unwrap();
        fs::write(folder.path().join("policy0/scaling_max_freq"), "2000000").unwrap();
        tree.apply().unwrap();
        tree.follow(Machine { driver: CpufreqDriver::IntelCpufreq, ..Machine::of(&spec) }).unwrap();
        tree.apply().unwrap();
        assert_eq!(shown(folder.path(), "scaling_max_freq"), "3800000");
        assert_eq!(shown(folder.path(), "scaling_driver"), "intel_cpufreq");
        assert_eq!(shown(folder.path(), "scaling_governor"), "schedutil");
        assert!(!folder.path().join("policy0/energy_performance_preference").exists());
    }
}
