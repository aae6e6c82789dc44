//! What drives the CPUs' clocks, and the knobs it has for the whole machine.
//!
//! | driver | knobs | as on |
//! |---|---|---|
//! | `intel_pstate` (active, HWP), `intel_cpufreq` (passive) | `intel_pstate/{status,max_perf_pct,no_turbo}` | a Xeon of 2.0–3.8 GHz |
//! | `acpi-cpufreq` | `cpufreq/boost`; a table of frequencies | an EPYC of 1.5, 2.0 and 2.45 GHz, 3.5 GHz boost |
//! | `amd-pstate-epp` (active), `amd-pstate` (passive) | `amd_pstate/status` | an EPYC of 0.4–3.7 GHz |
//!
//! Frequencies are assumed. A real kernel refuses at once what makes no sense (EINVAL); a file cannot,
//! so it is put back. What must hold: a change of `status` resets every policy, as a driver that is
//! registered anew does; `max_perf_pct` slows the CPUs and does not show in `scaling_max_freq`, while
//! `no_turbo` and `boost` do.

use std::fs;
use std::io;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::cpufreq::{Attribute, put};
use crate::spec::HostSpec;

/// A driver of cpufreq.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum CpufreqDriver {
    /// `intel_pstate` in active mode: the hardware chooses.
    IntelPstate,
    /// `intel_pstate` in passive mode.
    #[default]
    IntelCpufreq,
    /// ACPI's table of frequencies.
    AcpiCpufreq,
    /// `amd-pstate` in active mode: the hardware chooses.
    AmdPstateEpp,
    /// `amd-pstate` in passive mode.
    AmdPstate,
}

impl CpufreqDriver {
    /// All of them.
    pub const ALL: [Self; 5] =
        [Self::IntelPstate, Self::IntelCpufreq, Self::AcpiCpufreq, Self::AmdPstateEpp, Self::AmdPstate];

    /// As `scaling_driver` names it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::IntelPstate => "intel_pstate",
            Self::IntelCpufreq => "intel_cpufreq",
            Self::AcpiCpufreq => "acpi-cpufreq",
            Self::AmdPstateEpp => "amd-pstate-epp",
            Self::AmdPstate => "amd-pstate",
        }
    }

    /// The driver of that name.
    #[must_use]
    pub fn by_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|driver| driver.name() == name)
    }

    /// Whether the hardware chooses the frequency within the limits.
    #[must_use]
    pub const fn is_active(self) -> bool {
        matches!(self, Self::IntelPstate | Self::AmdPstateEpp)
    }

    /// What `scaling_governor` takes.
    pub(crate) const fn governors(self) -> &'static [&'static str] {
        match self {
            Self::IntelPstate | Self::AmdPstateEpp => &["performance", "powersave"],
            _ => &["conservative", "ondemand", "userspace", "powersave", "performance", "schedutil"],
        }
    }

    /// The governor at boot.
    pub(crate) const fn governor(self) -> &'static str {
        if self.is_active() { "powersave" } else { "schedutil" }
    }

    const fn family(self) -> Option<(&'static str, Self, Self)> {
        match self {
            Self::IntelPstate | Self::IntelCpufreq => Some(("intel_pstate", Self::IntelPstate, Self::IntelCpufreq)),
            Self::AmdPstateEpp | Self::AmdPstate => Some(("amd_pstate", Self::AmdPstateEpp, Self::AmdPstate)),
            Self::AcpiCpufreq => None,
        }
    }
}

/// What holds for all CPUs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Machine {
    /// Who drives.
    pub driver: CpufreqDriver,
    /// The highest frequency that a policy may be set to.
    pub highest_khz: u32,
    /// What the CPUs run at most, whatever their policies say.
    pub perf_khz: u32,
}

impl Machine {
    /// As at boot.
    #[must_use]
    pub const fn of(spec: &HostSpec) -> Self {
        Self { driver: spec.cpufreq, highest_khz: spec.max_khz, perf_khz: spec.max_khz }
    }
}

/// The knobs of one node.
#[derive(Debug)]
pub struct DriverKnobs {
    status: Option<Knob>,
    max_perf_pct: Option<Knob>,
    no_turbo: Option<Knob>,
    boost: Option<Knob>,
    machine: Machine,
    spec: HostSpec,
}

#[derive(Debug)]
struct Knob {
    file: Attribute,
    value: String,
}

impl Knob {
    fn create(path: &Path, value: &str) -> io::Result<Self> {
        Ok(Self { file: Attribute::create(path, value)?, value: value.to_owned() })
    }

    /// What was written, if it makes sense; else it is put back.
    fn take(&mut self, makes_sense: impl Fn(&str) -> bool) -> io::Result<&str> {
        match self.file.text()? {
            Some(text) if text == self.value => {}
            Some(text) if makes_sense(&text) => self.value = text,
            Some(_) => self.file.put(&self.value)?,
            None => {}
        }
        Ok(&self.value)
    }
}

impl DriverKnobs {
    /// Makes them in `folder`, which stands for `/sys/devices/system/cpu`.
    ///
    /// # Errors
    /// When files cannot be written there.
    pub fn create(folder: &Path, spec: &HostSpec) -> io::Result<Self> {
        let (mut status, mut max_perf_pct, mut no_turbo, mut boost) = (None, None, None, None);
        for other in ["intel_pstate", "amd_pstate"] {
            if spec.cpufreq.family().is_none_or(|(family, ..)| family != other) && folder.join(other).exists() {
                fs::remove_dir_all(folder.join(other))?;
            }
        }
        if let Some((family, ..)) = spec.cpufreq.family() {
            let folder = folder.join(family);
            fs::create_dir_all(&folder)?;
            let mode = if spec.cpufreq.is_active() { "active" } else { "passive" };
            status = Some(Knob::create(&folder.join("status"), mode)?);
            if family == "intel_pstate" {
                max_perf_pct = Some(Knob::create(&folder.join("max_perf_pct"), "100")?);
                no_turbo = Some(Knob::create(&folder.join("no_turbo"), "0")?);
                put(&folder.join("min_perf_pct"), &lowest_percent(spec).to_string())?;
                put(&folder.join("num_pstates"), &((spec.max_khz - spec.min_khz) / spec.step_khz + 1).to_string())?;
            } else {
                put(&folder.join("prefcore"), "disabled")?;
            }
        } else {
            fs::create_dir_all(folder.join("cpufreq"))?;
            boost = Some(Knob::create(&folder.join("cpufreq/boost"), "1")?);
        }
        Ok(Self { status, max_perf_pct, no_turbo, boost, machine: Machine::of(spec), spec: spec.clone() })
    }

    /// Looks for writes and applies them.
    ///
    /// # Errors
    /// When a file cannot be read or written.
    pub fn apply(&mut self) -> io::Result<Machine> {
        let flag = |text: &str| text == "0" || text == "1";
        let spec = &self.spec;
        if let Some(status) = &mut self.status
            && let Some((_, active, passive)) = spec.cpufreq.family()
        {
            let mode = status.take(|text| text == "active" || text == "passive")?;
            self.machine.driver = if mode == "active" { active } else { passive };
        }
        let mut highest_khz = spec.max_khz;
        if let Some(no_turbo) = &mut self.no_turbo
            && no_turbo.take(flag)? == "1"
        {
            highest_khz = spec.base_khz;
        }
        if let Some(boost) = &mut self.boost
            && boost.take(flag)? == "0"
        {
            highest_khz = spec.base_khz;
        }
        let mut percent = 100;
        if let Some(max_perf_pct) = &mut self.max_perf_pct {
            let number = |text: &str| text.parse::<u32>().is_ok();
            let asked = max_perf_pct.take(number)?.parse().unwrap_or(100_u32);
            percent = asked.clamp(lowest_percent(spec), 100);
            if asked != percent {
                max_perf_pct.value = percent.to_string();
                max_perf_pct.file.put(&max_perf_pct.value)?;
            }
        }
        self.machine.highest_khz = highest_khz;
        self.machine.perf_khz = spec.max_khz / 100 * percent;
        Ok(self.machine)
    }
}

const fn lowest_percent(spec: &HostSpec) -> u32 {
    (spec.min_khz / 1000 * 100).div_ceil(spec.max_khz / 1000)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(driver: CpufreqDriver) -> (tempfile::TempDir, DriverKnobs, HostSpec) {
        let folder = tempfile::tempdir().unwrap();
        let spec = HostSpec::driven_by(driver);
        let knobs = DriverKnobs::create(folder.path(), &spec).unwrap();
        (folder, knobs, spec)
    }

    #[test]
    fn intel_slows_by_percent_and_without_turbo() {
        let (folder, mut knobs, spec) = node(CpufreqDriver::IntelPstate);
        assert_eq!(knobs.apply().unwrap(), Machine::of(&spec));
        fs::write(folder.path().join("intel_pstate/max_perf_pct"), "50\n").unwrap();
        fs::write(folder.path().join("intel_pstate/no_turbo"), "1\n").unwrap();
        let machine = knobs.apply().unwrap();
        assert_eq!((machine.perf_khz, machine.highest_khz), (1_900_000, 2_000_000));
        for (asked, in_force) in [("5", "22"), ("300", "100"), ("fast", "100"), ("-3", "100"), ("70", "70")] {
            fs::write(folder.path().join("intel_pstate/max_perf_pct"), asked).unwrap();
            knobs.apply().unwrap();
            let shown = fs::read_to_string(folder.path().join("intel_pstate/max_perf_pct")).unwrap();
            assert_eq!(shown.trim(), in_force, "{asked}");
        }
    }

    #[test]
    fn a_driver_changes_its_mode_and_takes_no_nonsense() {
        for (driver, other, file) in [
            (CpufreqDriver::IntelPstate, CpufreqDriver::IntelCpufreq, "intel_pstate/status"),
            (CpufreqDriver::AmdPstateEpp, CpufreqDriver::AmdPstate, "amd_pstate/status"),
        ] {
            let (folder, mut knobs, _) = node(driver);
            fs::write(folder.path().join(file), "passive").unwrap();
            assert_eq!(knobs.apply().unwrap().driver, other);
            fs::write(folder.path().join(file), "turbo").unwrap();
            assert_eq!(knobs.apply().unwrap().driver, other);
            assert_eq!(fs::read_to_string(folder.path().join(file)).unwrap().trim(), "passive");
        }
    }

    #[test]
    fn acpi_has_a_boost_and_no_modes() {
        let (folder, mut knobs, spec) = node(CpufreqDriver::AcpiCpufreq);
        fs::write(folder.path().join("cpufreq/boost"), "0").unwrap();
        assert_eq!(knobs.apply().unwrap().highest_khz, spec.base_khz);
        assert!(!folder.path().join("intel_pstate").exists() && !folder.path().join("amd_pstate").exists());
    }
}
