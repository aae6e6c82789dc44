//! What the simulator's records say, looked at a thousand times a second by a thread of its own.
//!
//! What must hold: nothing here comes from the agent. Sensors, ceilings and true power are the
//! simulator's files; times are one monotonic clock.

use std::{
    fs::File,
    os::unix::fs::FileExt,
    path::Path,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use powercap_simulated_hardware::{
    Fault, Load, Request, Root, State, Truth,
    record::{RecordError, RecordFile},
};

/// Boards of the node.
pub(crate) const BOARDS: usize = 8;
/// Time from one look to the next.
const LOOK: Duration = Duration::from_millis(1);
/// A load must show that it lives once a second.
const BEAT: Duration = Duration::from_millis(200);
const MEMORY_MIB: u64 = 60_000;

/// What was seen in one moment.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Look {
    /// Since the recorder began.
    pub(crate) at: Duration,
    /// Each board's newest sensor value.
    pub(crate) sensors_mw: [u32; BOARDS],
    /// The highest clock that was set, as last accepted; 0: none.
    pub(crate) ceilings_mhz: [u32; BOARDS],
    /// The power limit that was set, as last accepted.
    pub(crate) limits_mw: [u32; BOARDS],
    /// The highest of the CPUs' ceilings.
    pub(crate) cpu_ceiling_khz: u32,
    /// True power of the CPUs, direct current.
    pub(crate) cpu_watts: f64,
    /// True energy of the node since its boot, alternating current.
    pub(crate) ac_joules: f64,
}

impl Look {
    /// What the boards' sensors say together.
    pub(crate) fn boards_watts(&self) -> f64 {
        self.sensors_mw.iter().map(|sensor| f64::from(*sensor)).sum::<f64>() / 1000.0
    }
}

/// What the boards are given to do: work of this power, or none. 1 is dense arithmetic.
pub(crate) type Work = Option<f64>;

/// Looks, and keeps the boards busy.
pub(crate) struct Recorder {
    shared: Arc<Shared>,
    faults: Vec<RecordFile<Fault>>,
    thread: Option<JoinHandle<Result<(), RecordError>>>,
}

struct Shared {
    began: Instant,
    work: Mutex<Work>,
    trace: Mutex<Vec<Look>>,
    stop: AtomicBool,
}

struct Board {
    state: RecordFile<State>,
    request: RecordFile<Request>,
    load: RecordFile<Load>,
}

impl Recorder {
    /// Begins to look at the boards of `root`.
    pub(crate) fn start(root: &Root) -> Result<Self> {
        let found = root.boards()?;
        ensure!(found.len() == BOARDS, "the simulated node has {} boards instead of {BOARDS}", found.len());
        let mut boards = Vec::new();
        let mut faults = Vec::new();
        for (_, folder) in &found {
            boards.push(Board { state: folder.state()?, request: folder.requested()?, load: folder.load()? });
            faults.push(folder.fault()?);
        }
        let cpus = cpu_ceilings(&root.cpufreq_path())?;
        let truth = root.truth()?;
        let shared = Arc::new(Shared {
            began: Instant::now(),
            work: Mutex::default(),
            trace: Mutex::default(),
            stop: AtomicBool::new(false),
        });
        let thread = thread::Builder::new()
            .name("recorder".to_owned())
            .spawn({
                let shared = Arc::clone(&shared);
                move || record(&shared, boards, truth, &cpus)
            })
            .context("start the recorder")?;
        Ok(Self { shared, faults, thread: Some(thread) })
    }

    /// The recorder's time.
    pub(crate) fn now(&self) -> Duration {
        self.shared.began.elapsed()
    }

    /// Gives all boards this to do, at the next look.
    pub(crate) fn work(&self, work: Work) {
        *lock(&self.shared.work) = work;
    }

    /// Changes how every board misbehaves.
    pub(crate) fn misbehave(&mut self, change: impl Fn(&mut Fault)) -> Result<()> {
        for fault in &mut self.faults {
            fault.update(&change)?;
        }
        Ok(())
    }

    /// What was seen since the last call.
    pub(crate) fn take(&self) -> Result<Vec<Look>> {
        let lives = self.thread.as_ref().is_some_and(|thread| !thread.is_finished());
        ensure!(lives, "the recorder ended: the simulated hardware is gone");
        Ok(std::mem::take(&mut *lock(&self.shared.trace)))
    }

    /// The newest look.
    pub(crate) fn last(&self) -> Option<Look> {
        lock(&self.shared.trace).last().cloned()
    }
}

impl Drop for Recorder {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ended = thread.join();
        }
    }
}

fn record(
    shared: &Shared,
    mut boards: Vec<Board>,
    mut truth: RecordFile<Truth>,
    cpus: &[File],
) -> Result<(), RecordError> {
    let mut given: Work = None;
    let mut beat = 0;
    let mut beaten = None::<Instant>;
    while !shared.stop.load(Ordering::Relaxed) {
        let began = Instant::now();
        let work = *lock(&shared.work);
        if work != given || beaten.is_none_or(|at| at.elapsed() >= BEAT) {
            beat += 1;
            (given, beaten) = (work, Some(began));
            let load = match work {
                Some(intensity) => Load { intensity, ..Load::training(beat, MEMORY_MIB) },
                None => Load::waiting(beat, MEMORY_MIB),
            };
            for board in &mut boards {
                board.load.write(&load)?;
            }
        }
        let mut look = Look { at: shared.began.elapsed(), ..Look::default() };
        for (index, board) in boards.iter_mut().enumerate() {
            look.sensors_mw[index] = board.state.read()?.instant_mw;
            let request = board.request.read()?;
            look.ceilings_mhz[index] = request.lock_max_mhz;
            look.limits_mw[index] = request.limit_mw;
        }
        look.cpu_ceiling_khz = cpus.iter().filter_map(number).max().unwrap_or(u32::MAX);
        let truth = truth.read()?;
        (look.cpu_watts, look.ac_joules) = (truth.cpu_watts.iter().sum(), truth.ac_joules);
        lock(&shared.trace).push(look);
        thread::sleep((began + LOOK).saturating_duration_since(Instant::now()));
    }
    Ok(())
}

fn cpu_ceilings(cpufreq: &Path) -> Result<Vec<File>> {
    let policies = std::fs::read_dir(cpufreq).with_context(|| format!("list {}", cpufreq.display()))?;
    let mut files = Vec::new();
    for policy in policies {
        let path = policy?.path().join("scaling_max_freq");
        if path.exists() {
            files.push(File::open(&path).with_context(|| format!("open {}", path.display()))?);
        }
    }
    ensure!(!files.is_empty(), "{} has no cpufreq policies", cpufreq.display());
    Ok(files)
}

/// The number in a file; `None` while it is being written.
fn number(file: &File) -> Option<u32> {
    let mut text = [0; 16];
    let length = file.read_at(&mut text, 0).ok()?;
    std::str::from_utf8(&text[..length]).ok()?.trim().parse().ok()
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
