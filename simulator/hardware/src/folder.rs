//! The folder of a node and of each board: which record is where, and who may write it.
//!
//! | path | written by | read by |
//! |---|---|---|
//! | `node.json`, `boards/UUID/identity.json` | the daemon, once | everybody |
//! | `boards/UUID/request` | NVML setters, under the file's lock | the daemon |
//! | `boards/UUID/load` | the workload that holds the board | the daemon |
//! | `boards/UUID/fault` | tests (`powercap-simulator fault`), under the file's lock; the daemon and NVML lift it at its end | the daemon, NVML |
//! | `boards/UUID/work` | the same workload | the daemon, for the judge |
//! | `boards/UUID/load-N`, `work-N` | the same for the tenant of share N | the same |
//! | `boards/UUID/state` | the daemon | NVML, exporters, the workload |
//! | `library-fault` | as `fault`, for NVML as a whole | NVML |
//! | `nvml-clients/` | NVML: a locked file for each process that has it open | tests |
//! | `truth` | the daemon | the judge alone |

use std::fs::File;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::fault::Fault;
use crate::record::{RecordError, RecordFile, record};
use crate::share::Share;
use crate::spec::{BoardSpec, NodeSpec};
use crate::truth::Truth;

record! {
    /// What was asked of a board. Lost at boot, as on a real one.
    Request, 0x7265_7175_6573_7431 {
        /// Grows with each change.
        generation: u64,
        /// Lowest graphics clock asked for; 0 when not locked.
        lock_min_mhz: u32,
        /// Highest graphics clock asked for; 0 when not locked.
        lock_max_mhz: u32,
        /// Power limit.
        limit_mw: u32,
        /// Whether persistence mode is on.
        persistence: bool,
    }
}

record! {
    /// What a workload does on a board. It fades to idle when `beat` stands still.
    Load, 0x6c6f_6164_2020_2031 {
        /// Must change at least once a second while the workload lives; 0 means never used.
        beat: u64,
        /// Share of time with work, 0 to 1.
        utilisation: f64,
        /// Share of that work which is bound by memory, 0 to 1.
        memory_share: f64,
        /// Power above idle over that of the measured mix: 1 for dense work, less for light work.
        intensity: f64,
        /// Memory in use.
        memory_used_mib: u64,
    }
}

record! {
    /// Work that a workload finished on a board, by its own count.
    Work, 0x776f_726b_2020_2031 {
        /// Training: seconds of work at full speed. Serving: tokens made.
        units: f64,
    }
}

record! {
    /// What a board's sensors and driver say.
    State, 0x7374_6174_6520_2031 {
        /// The last request that took effect.
        generation: u64,
        /// Graphics clock now.
        clock_mhz: u32,
        /// Memory clock now.
        memory_mhz: u32,
        /// Lowest clock in force.
        lock_min_mhz: u32,
        /// Highest clock in force.
        lock_max_mhz: u32,
        /// Power limit in force.
        limit_mw: u32,
        /// Mean power of the last second, as the sensor gives it.
        average_mw: u32,
        /// Mean power of a 25 ms window, at most 100 ms ago, as the sensor gives it.
        instant_mw: u32,
        /// Energy since boot, as the sensor gives it.
        energy_mj: u64,
        /// NVML clock event reasons.
        reasons: u64,
        /// Time since boot in which power held the clock down.
        power_violation_ns: u64,
        /// Temperature of the chip.
        temperature_celsius: u32,
        /// Temperature of the memory.
        memory_temperature_celsius: u32,
        /// Share of time with work, percent.
        utilisation_percent: u32,
        /// Share of time with memory traffic, percent.
        memory_utilisation_percent: u32,
        /// Memory in use.
        memory_used_mib: u64,
        /// Seconds since boot.
        uptime_seconds: f64,
        /// Work done since boot, in seconds at full speed.
        work_seconds: f64,
        /// Speed now over the highest speed of this work.
        speed: f64,
        /// Share of time in which tensor pipes work, 0 to 1.
        tensor_active: f64,
        /// Whether persistence mode is on.
        persistence: bool,
    }
}

/// What a board is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Identity {
    /// Place in the node; NVML's index and minor number.
    pub index: u32,
    /// `GPU-…`.
    pub uuid: String,
    /// PCI address as NVML prints it.
    pub pci_bus_id: String,
    /// Serial number.
    pub serial: String,
    /// Its model.
    pub spec: BoardSpec,
    /// What it is cut into, or offered as; empty: it is offered whole.
    #[serde(default)]
    pub shares: Vec<Share>,
}

/// The folder of a node.
#[derive(Debug, Clone)]
pub struct Root {
    path: PathBuf,
}

/// Where programs look when nobody says otherwise.
pub const DEFAULT_ROOT: &str = "/run/simulated-hardware";
/// The variable that says otherwise.
pub const ROOT_VARIABLE: &str = "SIMULATED_HARDWARE_ROOT";

/// Finding the boards of a node failed.
#[derive(Debug, thiserror::Error)]
pub enum FolderError {
    /// The folder cannot be listed.
    #[error("list the boards in {path}: start `powercap-simulator hardware` with this root first")]
    List {
        /// Which folder.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// A file about a board or node cannot be read.
    #[error("read {path}")]
    Read {
        /// Which file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// A file about a board or node is not what it should be.
    #[error("understand {path}")]
    Understand {
        /// Which file.
        path: PathBuf,
        /// Why.
        #[source]
        source: serde_json::Error,
    },
}

impl Root {
    /// The folder at a path.
    #[must_use]
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into() }
    }

    /// The path.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Where all boards are.
    #[must_use]
    pub fn boards_path(&self) -> PathBuf {
        self.path.join("boards")
    }

    /// The folder of one board.
    #[must_use]
    pub fn board(&self, uuid: &str) -> BoardFolder {
        BoardFolder { path: self.boards_path().join(uuid) }
    }

    /// All boards that can be seen here, by index.
    ///
    /// # Errors
    /// [`FolderError`] when the folder cannot be listed or a board in it not be understood.
    pub fn boards(&self) -> Result<Vec<(Identity, BoardFolder)>, FolderError> {
        let path = self.boards_path();
        let list = |source| FolderError::List { path: path.clone(), source };
        let mut boards = Vec::new();
        for entry in std::fs::read_dir(&path).map_err(list)? {
            let folder = BoardFolder { path: entry.map_err(list)?.path() };
            match folder.identity() {
                // No board's folder, or that of one that is just going away.
                Err(FolderError::Read { source, .. }) if is_absent(&source) => {}
                identity => boards.push((identity?, folder)),
            }
        }
        boards.sort_by_key(|(identity, _)| identity.index);
        Ok(boards)
    }

    /// What the node is.
    ///
    /// # Errors
    /// [`FolderError`] when `node.json` is absent or not understood.
    pub fn node(&self) -> Result<NodeSpec, FolderError> {
        read_json(&self.node_path())
    }

    pub(crate) fn node_path(&self) -> PathBuf {
        self.path.join("node.json")
    }

    pub(crate) fn truth_path(&self) -> PathBuf {
        self.path.join("truth")
    }

    /// The truth, for the judge.
    ///
    /// # Errors
    /// [`RecordError`] when it is absent.
    pub fn truth(&self) -> Result<RecordFile<Truth>, RecordError> {
        RecordFile::open(&self.truth_path())
    }

    pub(crate) fn library_fault_path(&self) -> PathBuf {
        self.path.join("library-fault")
    }

    /// How the NVML stand-in misbehaves as a whole (its start, its count), for tests to write.
    ///
    /// # Errors
    /// [`RecordError`] when the record is absent or not writable.
    pub fn library_fault(&self) -> Result<RecordFile<Fault>, RecordError> {
        RecordFile::open_writable(&self.library_fault_path())
    }

    /// Where programs that have NVML open leave a mark.
    #[must_use]
    pub fn nvml_clients_path(&self) -> PathBuf {
        self.path.join("nvml-clients")
    }

    /// How many programs have NVML open: a real driver refuses a reset or a MIG change meanwhile.
    /// One that was killed does not count.
    #[must_use]
    pub fn nvml_clients(&self) -> usize {
        let Ok(entries) = std::fs::read_dir(self.nvml_clients_path()) else { return 0 };
        let held = |path: PathBuf| File::open(path).is_ok_and(|file| file.try_lock_shared().is_err());
        entries.flatten().filter(|entry| held(entry.path())).count()
    }

    /// The tree that stands for `/sys/devices/system/cpu/cpufreq`.
    #[must_use]
    pub fn cpufreq_path(&self) -> PathBuf {
        self.path.join("cpufreq")
    }

    /// The tree that stands for `/sys/class/powercap`.
    #[must_use]
    pub fn powercap_path(&self) -> PathBuf {
        self.path.join("powercap")
    }
}

/// The folder of one board.
#[derive(Debug, Clone)]
pub struct BoardFolder {
    path: PathBuf,
}

impl BoardFolder {
    /// The path.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn identity_path(&self) -> PathBuf {
        self.path.join("identity.json")
    }

    pub(crate) fn record_path(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// What the board is.
    ///
    /// # Errors
    /// [`FolderError`] when the file is absent or not understood.
    pub fn identity(&self) -> Result<Identity, FolderError> {
        read_json(&self.identity_path())
    }

    /// What the sensors and the driver say.
    ///
    /// # Errors
    /// [`RecordError`] when the record is absent.
    pub fn state(&self) -> Result<RecordFile<State>, RecordError> {
        RecordFile::open(&self.record_path("state"))
    }

    /// What is asked of the board; change it with [`RecordFile::update`].
    ///
    /// # Errors
    /// [`RecordError`] when the record is absent or not writable.
    pub fn request(&self) -> Result<RecordFile<Request>, RecordError> {
        RecordFile::open_writable(&self.record_path("request"))
    }

    /// What is asked of the board, to look at.
    ///
    /// # Errors
    /// [`RecordError`] when the record is absent.
    pub fn requested(&self) -> Result<RecordFile<Request>, RecordError> {
        RecordFile::open(&self.record_path("request"))
    }

    /// How it misbehaves, for tests to write.
    ///
    /// # Errors
    /// [`RecordError`] when the record is absent or not writable.
    pub fn fault(&self) -> Result<RecordFile<Fault>, RecordError> {
        RecordFile::open_writable(&self.record_path("fault"))
    }

    /// How it misbehaves, to look at.
    ///
    /// # Errors
    /// [`RecordError`] when the record is absent.
    pub fn present_fault(&self) -> Result<RecordFile<Fault>, RecordError> {
        RecordFile::open(&self.record_path("fault"))
    }

    /// What the workload does, for that workload to write.
    ///
    /// # Errors
    /// [`RecordError`] when the record is absent or not writable.
    pub fn load(&self) -> Result<RecordFile<Load>, RecordError> {
        RecordFile::open_writable(&self.record_path("load"))
    }

    /// The same for the tenant of a share, by its place.
    ///
    /// # Errors
    /// [`RecordError`] when the record is absent or not writable.
    pub fn share_load(&self, share: usize) -> Result<RecordFile<Load>, RecordError> {
        RecordFile::open_writable(&self.record_path(&format!("load-{share}")))
    }

    /// What that tenant finished, for it to write.
    ///
    /// # Errors
    /// [`RecordError`] when the record is absent or not writable.
    pub fn share_work(&self, share: usize) -> Result<RecordFile<Work>, RecordError> {
        RecordFile::open_writable(&self.record_path(&format!("work-{share}")))
    }

    /// What the workload finished, for that workload to write.
    ///
    /// # Errors
    /// [`RecordError`] when the record is absent or not writable.
    pub fn work(&self) -> Result<RecordFile<Work>, RecordError> {
        RecordFile::open_writable(&self.record_path("work"))
    }
}

fn is_absent(error: &std::io::Error) -> bool {
    matches!(error.kind(), std::io::ErrorKind::NotFound | std::io::ErrorKind::NotADirectory)
}

fn read_json<T: serde::de::DeserializeOwned>(path: &Path) -> Result<T, FolderError> {
    let text = std::fs::read_to_string(path).map_err(|source| FolderError::Read { path: path.to_owned(), source })?;
    serde_json::from_str(&text).map_err(|source| FolderError::Understand { path: path.to_owned(), source })
}
