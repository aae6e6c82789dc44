//! Finds the boards, keeps a thread for each, and looks again for those that are missing.
//!
//! ```text
//!            library loaded, boards counted                  a board lost, or not opened
//!   closed ─────────────────────────────────▶ open ──────────────────────────────────────┐
//!     ▲  ▲                                     │  ▲        looked for again at once,      │
//!     │  └── somebody else wants the boards ───┘  └─── after 10 s, 20 s, … 2 minutes ─────┘
//!     └───── the third time, and when the PCI bus has changed: NVML may count anew only after that
//! ```
//!
//! What must hold: NVML has no timeouts, so whatever may hang has a thread of its own: each board, from
//! its opening on, and this search; a board is known by its UUID; one that is lost stays, and counts
//! with the most that it takes, until NVML no longer counts it.

use std::{
    ffi::OsString,
    path::PathBuf,
    sync::Arc,
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use nvml_wrapper::Nvml;

use super::{Devices, letting_go::DevicesWanted, sample};
use crate::{
    devices::{
        Board,
        nvml::{self, NvmlBoard, NvmlUnavailable},
        pci,
    },
    node::{metrics::Metrics, observation::GpuAccess},
};

/// Boards that are missing are looked for again after this, then after twice as long, up to the longest.
const LOOK_AGAIN: Duration = Duration::from_secs(10);
const LONGEST: Duration = Duration::from_secs(120);
/// After so many looks in vain NVML is closed and opened.
const LOOKS: u32 = 2;
/// How often it is asked whether one is missing.
const POLL: Duration = Duration::from_secs(1);
/// Threads get this long to end before NVML is closed.
const ENDS_WITHIN: Duration = Duration::from_secs(5);
/// Threads of devices call shallow code only.
pub(super) const STACK_BYTES: usize = 256 << 10;

/// Where boards are looked for.
#[derive(Clone, Debug)]
pub struct Places {
    /// The NVML library.
    pub nvml: OsString,
    /// Where the kernel shows PCI devices.
    pub pci: PathBuf,
}

/// Starts looking for boards, in a thread of its own, since loading NVML may take seconds.
///
/// # Errors
/// When the thread cannot be started.
pub fn start(devices: Devices, places: Places, period: Duration, metrics: Metrics) -> std::io::Result<()> {
    let bus = pci::nvidia_boards(&places.pci);
    let threads = Vec::new();
    let search = Search { devices, places, period, metrics, session: None, threads, bus, in_vain: 0, last: None };
    named("nvml").spawn(move || search.run()).map(drop)
}

struct Search {
    devices: Devices,
    places: Places,
    period: Duration,
    metrics: Metrics,
    session: Option<Arc<Nvml>>,
    threads: Vec<JoinHandle<()>>,
    /// Boards on the PCI bus when NVML was opened.
    bus: usize,
    /// Looks since something went missing.
    in_vain: u32,
    /// What was said of NVML last, so that it is said once.
    last: Option<String>,
}

impl Search {
    fn run(mut self) {
        let mut due = Instant::now();
        loop {
            if Instant::now() >= due {
                let pause = self.look();
                due = Instant::now() + pause;
            }
            self.devices.forget_departed();
            let Some(wanted) = self.devices.wishes.take_until(due.min(Instant::now() + POLL)) else {
                if self.in_vain == 0 && self.session.is_some() && self.devices.misses_boards() {
                    due = Instant::now();
                }
                continue;
            };
            if let DevicesWanted::LetGo(why) = wanted {
                self.let_go(&why);
            }
            self.in_vain = 0;
            due = Instant::now();
        }
    }

    /// Counts the boards and looks for what is missing; says when to look again.
    fn look(&mut self) -> Duration {
        let bus = pci::nvidia_boards(&self.places.pci);
        let in_vain = self.in_vain >= LOOKS && self.devices.misses_boards();
        if self.session.is_some() && (in_vain || bus != self.bus) {
            tracing::info!(in_vain, bus, "closing NVML and opening it again, to count anew");
            self.close();
        }
        self.bus = bus;
        let count = match &self.session {
            Some(nvml) => nvml.device_count().map_err(NvmlUnavailable::CountBoards),
            None => nvml::load(&self.places.nvml).map(|(nvml, count)| {
                self.session = Some(nvml);
                count
            }),
        };
        match count {
            Ok(count) => self.count(count),
            Err(error) => self.unavailable(&error),
        }
        let missing = self.session.is_none() || self.devices.misses_boards();
        self.in_vain = if missing { self.in_vain.saturating_add(1) } else { 0 };
        LOOK_AGAIN.saturating_mul(2_u32.saturating_pow(self.in_vain.saturating_sub(1))).min(LONGEST)
    }

    fn count(&mut self, count: u32) {
        self.say(format!("NVML works and counts {count} boards"));
        self.devices.set_access(GpuAccess::Working, count);
        self.threads.retain(|thread| !thread.is_finished());
        let Some(nvml) = &self.session else { return };
        for index in self.devices.to_open() {
            let (nvml, devices, metrics, period) =
                (Arc::clone(nvml), self.devices.clone(), self.metrics.clone(), self.period);
            match named(&format!("gpu-{index}")).spawn(move || run(&nvml, index, &devices, period, &metrics)) {
                Ok(thread) => self.threads.push(thread),
                Err(error) => self.devices.not_opened(index, format!("no thread could be started: {error}")),
            }
        }
    }

    /// Without NVML the PCI bus tells whether there are boards.
    fn unavailable(&mut self, error: &NvmlUnavailable) {
        let boards = self.bus;
        let access = match error {
            NvmlUnavailable::NoLibrary(_) if boards == 0 => GpuAccess::NoLibrary,
            error if boards == 0 => GpuAccess::Broken(error.to_string()),
            error => GpuAccess::Broken(format!("{boards} NVIDIA boards are on the PCI bus, and {error}")),
        };
        self.say(format!("{error}; looking again"));
        self.devices.set_access(access, u32::try_from(boards).unwrap_or(u32::MAX));
    }

    /// Says a thing once.
    fn say(&mut self, what: String) {
        if self.last.as_ref() != Some(&what) {
            tracing::info!(boards_on_pci = self.bus, found = %what, "looked for boards");
            self.last = Some(what);
        }
    }

    /// Closes NVML until the boards are ours again.
    fn let_go(&mut self, why: &str) {
        tracing::warn!(why, "letting go of the boards; they count with the most that they take");
        let mut why = why.to_owned();
        self.devices.let_go(&why, self.threads.len());
        self.close();
        self.last = None;
        loop {
            self.threads.retain(|thread| !thread.is_finished());
            self.devices.let_go(&why, self.threads.len());
            let patience = if self.threads.is_empty() { LONGEST } else { POLL };
            match self.devices.wishes.take_until(Instant::now() + patience) {
                Some(DevicesWanted::Wanted) => break,
                Some(DevicesWanted::LetGo(other)) => why = other,
                None => {}
            }
        }
        tracing::info!("the boards are ours again");
        self.devices.taken_back();
    }

    /// Ends the boards' threads and closes NVML; a call that hangs keeps it open.
    fn close(&mut self) {
        self.devices.stop_boards();
        let deadline = Instant::now() + ENDS_WITHIN;
        while self.threads.iter().any(|thread| !thread.is_finished()) && Instant::now() < deadline {
            thread::sleep(Duration::from_millis(10));
        }
        self.threads.retain(|thread| !thread.is_finished());
        if !self.threads.is_empty() {
            tracing::warn!(calls = self.threads.len(), "calls to boards hang; NVML stays open until they return");
        }
        if let Some(Ok(nvml)) = self.session.take().map(Arc::try_unwrap) {
            let closed = nvml.shutdown();
            tracing::info!(error = closed.err().map(tracing::field::display), "closed NVML");
        }
    }
}

/// A board's thread, from its opening to its end.
fn run(nvml: &Nvml, index: u32, devices: &Devices, period: Duration, metrics: &Metrics) {
    let mut board = match NvmlBoard::open(nvml, index) {
        Ok(board) => board,
        Err(error) => {
            tracing::warn!(index, %error, "a board could not be opened");
            devices.not_opened(index, error.to_string());
            return;
        }
    };
    let traits = board.traits();
    tracing::info!(
        index, uuid = %traits.uuid, model = %traits.model, clocks = ?traits.clocks,
        min_limit = %traits.min_limit, max_limit = %traits.max_limit, default_limit = %traits.default_limit,
        "found a board"
    );
    let Some(channel) = devices.opened(index, traits.clone()) else { return };
    sample::run(&mut board, &channel, &devices.alarm, period, metrics);
}

pub(in crate::node) fn named(name: &str) -> thread::Builder {
    thread::Builder::new().name(name.to_owned()).stack_size(STACK_BYTES)
}
