//! The loop that makes a node's hardware run: 5 ms nominal, by the time that really passed.
//!
//! Starting it is a boot: locks and limits are back at their defaults, as after a driver reload.
//! Files are rewritten in place, so that bind mounts of them stay valid across a restart.
//!
//! What must hold: one daemon a root (a file lock); `truth` is written after all boards of a step.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::cpu_driver::DriverKnobs;
use crate::cpufreq::CpufreqTree;
use crate::fault::Fault;
use crate::folder::Root;
use crate::host::Host;
use crate::rapl::RaplTree;
use crate::record::{RecordError, RecordFile};
use crate::slot::Slot;
use crate::spec::NodeSpec;
use crate::truth::{BoardTruth, MOST_BOARDS, Truth};

/// The nominal step.
const STEP: Duration = Duration::from_millis(5);
/// cpufreq and RAPL are looked at every that many steps: tens of milliseconds, as the kernel is late.
const TREE_STEPS: u64 = 4;
/// A board's files are read and written every that many steps: half of the boards in each step.
const FILE_STEPS: u64 = 2;
/// The workloads' own counts are read every that many steps.
const WORK_STEPS: u64 = 10;

/// Simulating a node failed.
#[derive(Debug, thiserror::Error)]
pub enum HardwareError {
    /// The folder cannot be made or used.
    #[error("prepare {path}: pick a --root that can be written")]
    Prepare {
        /// Which file or folder.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Another daemon has the folder.
    #[error("root {path} belongs to another running simulation: stop that one or pick another --root")]
    Taken {
        /// Which folder.
        path: PathBuf,
    },
    /// More boards than a record has room for.
    #[error("boards is {boards}: give at most {MOST_BOARDS} boards a node")]
    TooMany {
        /// How many were asked for.
        boards: u32,
    },
    /// A record cannot be read or written.
    #[error(transparent)]
    Record(#[from] RecordError),
    /// The cpufreq or powercap tree cannot be read or written.
    #[error("keep the cpufreq and powercap trees")]
    Trees(#[source] io::Error),
    /// What is to be stored cannot be.
    #[error("describe the node")]
    Describe(#[from] serde_json::Error),
}

/// A node's hardware.
pub struct Hardware {
    slots: Vec<Slot>,
    host: Host,
    knobs: DriverKnobs,
    cpufreq: CpufreqTree,
    rapl: RaplTree,
    ceilings_khz: Vec<u32>,
    limits_watts: Vec<f64>,
    truth_file: RecordFile<Truth>,
    truth: Truth,
    root: Root,
    spec: NodeSpec,
    _owner: File,
}

impl Hardware {
    /// Boots a node in `root`.
    ///
    /// # Errors
    /// [`HardwareError`] when the folder cannot be prepared or is in use.
    pub fn boot(root: &Root, spec: &NodeSpec) -> Result<Self, HardwareError> {
        if spec.boards as usize > MOST_BOARDS {
            return Err(HardwareError::TooMany { boards: spec.boards });
        }
        let prepare = |path: &Path, source| HardwareError::Prepare { path: path.to_owned(), source };
        fs::create_dir_all(root.boards_path()).map_err(|source| prepare(root.path(), source))?;
        let owner_path = root.path().join("owner.lock");
        let owner = File::create(&owner_path).map_err(|source| prepare(&owner_path, source))?;
        if owner.try_lock().is_err() {
            return Err(HardwareError::Taken { path: root.path().to_owned() });
        }
        let mut slots = Vec::new();
        for index in 0..spec.boards {
            slots.push(Slot::boot(index, root, spec)?);
        }
        remove_others(root, spec).map_err(|source| prepare(&root.boards_path(), source))?;
        RecordFile::create(&root.library_fault_path(), &Fault::default(), 0o644)?;
        let cpufreq = CpufreqTree::create(&root.cpufreq_path(), &spec.host).map_err(HardwareError::Trees)?;
        let knobs = DriverKnobs::create(root.path(), &spec.host).map_err(HardwareError::Trees)?;
        let rapl = RaplTree::create(&root.powercap_path(), &spec.host, spec.seed).map_err(HardwareError::Trees)?;
        link_sysfs(root).map_err(HardwareError::Trees)?;
        let node_path = root.node_path();
        fs::write(&node_path, serde_json::to_vec_pretty(spec)?).map_err(|source| prepare(&node_path, source))?;
        Ok(Self {
            ceilings_khz: cpufreq.ceilings_khz(),
            limits_watts: rapl.limits_watts(),
            host: Host::new(spec.host.clone()),
            truth_file: RecordFile::create(&root.truth_path(), &Truth::default(), 0o644)?,
            truth: Truth { boards: vec![BoardTruth::default(); slots.len()], ..Truth::default() },
            slots,
            knobs,
            cpufreq,
            rapl,
            root: root.clone(),
            spec: spec.clone(),
            _owner: owner,
        })
    }

    /// Lets time pass and writes what came of it. `wall_us` is the wall clock, microseconds since 1970.
    ///
    /// # Errors
    /// [`HardwareError`] when a record or tree cannot be read or written.
    pub fn step(&mut self, seconds: f64, wall_us: u64) -> Result<(), HardwareError> {
        let steps = self.truth.steps + 1;
        for ((slot, truth), turn) in self.slots.iter_mut().zip(&mut self.truth.boards).zip(steps..) {
            let files = turn.is_multiple_of(FILE_STEPS);
            if files {
                slot.look(&self.root, &self.spec)?;
            }
            if steps.is_multiple_of(WORK_STEPS) {
                slot.count();
            }
            *truth = slot.step(seconds)?;
            if files {
                slot.show()?;
            }
        }
        self.step_host(seconds, steps)?;
        self.truth.steps = steps;
        self.truth.wall_us = wall_us;
        self.truth_file.write(&self.truth)?;
        Ok(())
    }

    fn step_host(&mut self, seconds: f64, steps: u64) -> Result<(), HardwareError> {
        if steps.is_multiple_of(TREE_STEPS) {
            let machine = self.knobs.apply().map_err(HardwareError::Trees)?;
            self.cpufreq.follow(machine).map_err(HardwareError::Trees)?;
            self.cpufreq.apply().map_err(HardwareError::Trees)?;
            self.rapl.apply().map_err(HardwareError::Trees)?;
            self.ceilings_khz = self.cpufreq.ceilings_khz();
            self.limits_watts = self.rapl.limits_watts();
        }
        #[expect(clippy::cast_precision_loss, reason = "at most 16 boards")]
        let count = self.slots.len().max(1) as f64;
        let utilisation = self.truth.boards.iter().map(|board| board.utilisation).sum::<f64>() / count;
        self.host.step(seconds, utilisation, &self.ceilings_khz, &self.limits_watts);
        let packages = self.host.packages();
        if steps.is_multiple_of(TREE_STEPS) {
            let khz: Vec<u32> = packages.iter().map(|package| package.khz).collect();
            let joules: Vec<f64> = packages.iter().map(|package| package.joules).collect();
            self.cpufreq.show(&khz).map_err(HardwareError::Trees)?;
            self.rapl.show(&joules).map_err(HardwareError::Trees)?;
        }
        for (watts, package) in self.truth.cpu_watts.iter_mut().zip(packages) {
            *watts = package.watts;
        }
        self.truth.cpu_khz = packages.first().map_or(0, |package| package.khz);
        self.truth.ac_watts = self.host.ac_watts(self.truth.boards.iter().map(|board| board.watts).sum());
        self.truth.ac_joules += self.truth.ac_watts * seconds;
        self.truth.uptime_seconds += seconds;
        Ok(())
    }
}

/// Folders of an earlier life with more boards, or whose UUID changed.
fn remove_others(root: &Root, spec: &NodeSpec) -> io::Result<()> {
    let ours: Vec<String> = (0..spec.boards).map(|index| spec.uuid(index)).collect();
    for entry in fs::read_dir(root.boards_path())? {
        let entry = entry?;
        if !ours.iter().any(|uuid| entry.file_name().to_str() == Some(uuid)) {
            fs::remove_dir_all(entry.path())?;
        }
    }
    Ok(())
}

/// `sysfs/` as readers with a configurable root of /sys expect it.
fn link_sysfs(root: &Root) -> io::Result<()> {
    for (at, to) in [
        ("sysfs/class/powercap", "../../powercap"),
        ("sysfs/devices/system/cpu/cpufreq", "../../../../cpufreq"),
        ("sysfs/devices/system/cpu/intel_pstate", "../../../../intel_pstate"),
        ("sysfs/devices/system/cpu/amd_pstate", "../../../../amd_pstate"),
    ] {
        let at = root.path().join(at);
        if let Some(folder) = at.parent() {
            fs::create_dir_all(folder)?;
        }
        match std::os::unix::fs::symlink(to, &at) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            _ => {}
        }
    }
    Ok(())
}

/// Boots a node and runs it until `stop` says so. `ready` is called when the first step is done.
///
/// # Errors
/// [`HardwareError`] when the folder cannot be prepared, is in use, or vanishes.
pub fn run_hardware(
    root: &Root,
    spec: &NodeSpec,
    ready: impl FnOnce(),
    stop: impl Fn() -> bool,
) -> Result<(), HardwareError> {
    let mut hardware = Hardware::boot(root, spec)?;
    hardware.step(0.0, wall_us())?;
    ready();
    let mut last = Instant::now();
    while !stop() {
        std::thread::sleep((last + STEP).saturating_duration_since(Instant::now()));
        let now = Instant::now();
        hardware.step((now - last).as_secs_f64(), wall_us())?;
        last = now;
    }
    Ok(())
}

#[expect(clippy::disallowed_methods, reason = "the simulation is the world: it stamps the truth with its time")]
fn wall_us() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(now.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::folder::Load;
    use crate::spec::BoardSpec;

    #[test]
    fn a_node_boots_obeys_and_tells_the_truth() {
        let folder = tempfile::tempdir().unwrap();
        let root = Root::new(folder.path());
        let spec = NodeSpec::new("node-1", 2, BoardSpec::h100_sxm());
        let mut hardware = Hardware::boot(&root, &spec).unwrap();
        assert!(matches!(Hardware::boot(&root, &spec), Err(HardwareError::Taken { .. })));
        let boards = root.boards().unwrap();
        assert_eq!(boards.len(), 2);

        let (_, first) = &boards[0];
        let mut load = first.load().unwrap();
        let mut request = first.request().unwrap();
        for beat in 1..=400 {
            load.write(&Load::training(beat, 70_000)).unwrap();
            if beat == 200 {
                request.update(|request| (request.generation, request.lock_max_mhz) = (1, 1200)).unwrap();
            }
            hardware.step(0.005, beat).unwrap();
        }
        let truth = root.truth().unwrap().read().unwrap();
        assert_eq!((truth.steps, truth.wall_us, truth.boards[0].clock_mhz), (400, 400, 1200));
        assert!((200.0..300.0).contains(&truth.boards[0].watts));
        assert!((truth.boards[1].watts - 70.0).abs() < 0.1);
        let sum: f64 = truth.boards.iter().map(|board| board.watts).sum::<f64>() + truth.cpu_watts.iter().sum::<f64>();
        assert!((truth.ac_watts - (sum + 1200.0) * 1.04).abs() < 1e-6);
        assert_eq!(first.state().unwrap().read().unwrap().clock_mhz, 1200);
        assert!(folder.path().join("sysfs/class/powercap/intel-rapl:1/energy_uj").exists());
        assert!(folder.path().join("sysfs/devices/system/cpu/cpufreq/policy28/scaling_cur_freq").exists());
    }
}
