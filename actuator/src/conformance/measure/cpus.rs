//! Reads cpufreq and RAPL by their files, and tries a ceiling.

use std::{
    fs::{self, OpenOptions},
    io::Write,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use powercap_common::units::Megahertz;

use super::Stop;
use crate::{
    conformance::{
        finding::Answer,
        measured::{CeilingTry, PolicyRead, ZoneRead},
        series::Series,
    },
    devices::{DeviceError, cpufreq::CpufreqPolicy},
};

/// RAPL counts every millisecond; a second gives its power within a thousandth.
const WATCH: Duration = Duration::from_millis(1000);
const POLL: Duration = Duration::from_millis(100);
const PATIENCE: Duration = Duration::from_secs(2);

/// Every cpufreq policy, by number: also those that the agent would leave out.
#[must_use]
pub fn policies(root: &Path) -> Vec<PolicyRead> {
    let mut policies: Vec<_> = folders(root, "policy")
        .filter_map(|(folder, name)| Some((name.strip_prefix("policy")?.parse().ok()?, folder)))
        .map(|(policy, folder)| {
            let clock = |file: &str| number(&folder.join(file)).map(Megahertz::from_kilohertz);
            PolicyRead {
                policy,
                range: clock("cpuinfo_min_freq").zip(clock("cpuinfo_max_freq")),
                ceiling: clock("scaling_max_freq"),
                clock: clock("scaling_cur_freq"),
                driver: text(&folder.join("scaling_driver")),
                governor: text(&folder.join("scaling_governor")),
                writable: opens_for_writing(&folder.join("scaling_max_freq")),
            }
        })
        .collect();
    policies.sort_by_key(|policy| policy.policy);
    policies
}

/// Every RAPL zone, with its counter over a second.
#[must_use]
pub fn zones(root: &Path, stop: &Stop) -> Vec<ZoneRead> {
    let mut zones: Vec<_> = folders(root, "intel-rapl:")
        .filter_map(|(folder, zone)| {
            let name = text(&folder.join("name"))?;
            let wraps_at = number::<f64>(&folder.join("max_energy_range_uj")).map(|range| range / 1e6);
            let constraints = constraints(&folder);
            Some((folder, ZoneRead { zone, name, energy: Ok(Series::default()), wraps_at, constraints }))
        })
        .collect();
    zones.sort_by(|one, other| one.1.zone.cmp(&other.1.zone));
    let begin = Instant::now();
    while begin.elapsed() <= WATCH && !zones.is_empty() && !stop.asked() {
        for (folder, zone) in &mut zones {
            let reading = fs::read_to_string(folder.join("energy_uj"))
                .map_err(|error| DeviceError::from_io("read a RAPL energy counter", &error))
                .and_then(|text| {
                    text.trim().parse::<f64>().map_err(|_| no_number("read a RAPL energy counter", &text))
                });
            match (zone.energy.as_mut(), reading) {
                (Ok(series), Ok(energy_uj)) => series.push(begin.elapsed(), energy_uj / 1e6),
                (Ok(_), Err(error)) => zone.energy = Err(error),
                (Err(_), _) => {}
            }
        }
        stop.wait(POLL);
    }
    zones.into_iter().map(|(_, zone)| zone).collect()
}

fn constraints(zone: &Path) -> Vec<(String, Option<f64>, bool)> {
    (0..4)
        .filter_map(|index| {
            let name = text(&zone.join(format!("constraint_{index}_name")))?;
            let limit = zone.join(format!("constraint_{index}_power_limit_uw"));
            Some((name, number::<f64>(&limit).map(|limit_uw| limit_uw / 1e6), opens_for_writing(&limit).is_ok()))
        })
        .collect()
}

/// What `scaling_max_freq` had before, put back at the end.
struct OriginalCeiling {
    file: PathBuf,
    text: String,
}

impl OriginalCeiling {
    fn put_back(&self) -> Answer<()> {
        write(&self.file, &self.text)
    }
}

impl Drop for OriginalCeiling {
    fn drop(&mut self) {
        if let Err(error) = self.put_back() {
            tracing::error!(%error, file = %self.file.display(), ceiling_khz = self.text, "a CPU ceiling could not be put back: write it by hand");
        }
    }
}

/// Tries a ceiling, off the round numbers, halfway between the policy's minimum and its ceiling.
/// `None` when there is no room between them, or no policy.
#[must_use]
pub fn try_ceiling(root: &Path, stop: &Stop) -> Option<CeilingTry> {
    let policy = CpufreqPolicy::all(root).into_iter().next()?;
    let number_of = policy.traits().policy;
    let folder = root.join(format!("policy{number_of}"));
    let original =
        OriginalCeiling { text: text(&folder.join("scaling_max_freq"))?, file: folder.join("scaling_max_freq") };
    let lowest = Megahertz::from_kilohertz(number(&folder.join("scaling_min_freq"))?).get();
    let ceiling = policy.read_ceiling().ok()?.get();
    let asked = Megahertz::new((lowest + ceiling) / 2 + 1);
    if asked.get() >= ceiling {
        return None;
    }
    let taken = policy.write_ceiling(asked);
    let patience = if taken.is_ok() { PATIENCE } else { Duration::ZERO };
    let seen = stop.until(patience, || policy.read_ceiling().is_ok_and(|read| read <= asked));
    let effective = policy.read_ceiling().ok();
    let put_back = original.put_back();
    stop.until(PATIENCE, || text(&original.file).is_some_and(|text| text == original.text));
    let after = text(&original.file).unwrap_or_default();
    let restored = put_back.map(|()| (original.text.clone(), after));
    Some(CeilingTry { policy: number_of, asked, taken, seen, effective, restored })
}

fn folders(root: &Path, prefix: &str) -> impl Iterator<Item = (PathBuf, String)> {
    let entries = fs::read_dir(root).into_iter().flatten().flatten();
    entries
        .filter_map(move |entry| entry.file_name().to_str().map(|name| (entry.path(), name.to_owned())))
        .filter(move |(_, name)| name.starts_with(prefix))
}

fn text(file: &Path) -> Option<String> {
    Some(fs::read_to_string(file).ok()?.trim().to_owned())
}

fn number<T: std::str::FromStr>(file: &Path) -> Option<T> {
    text(file)?.parse().ok()
}

fn no_number(action: &'static str, text: &str) -> DeviceError {
    DeviceError::Failed { action, why: format!("{:?} is no number", text.trim()) }
}

/// Opening a file of /sys changes nothing.
fn opens_for_writing(file: &Path) -> Answer<()> {
    let opened = OpenOptions::new().write(true).open(file);
    opened.map(drop).map_err(|error| DeviceError::from_io("open it for writing", &error))
}

fn write(file: &Path, text: &str) -> Answer<()> {
    let written = OpenOptions::new().write(true).truncate(true).open(file);
    written
        .and_then(|mut file| file.write_all(text.as_bytes()))
        .map_err(|error| DeviceError::from_io("write scaling_max_freq", &error))
}
