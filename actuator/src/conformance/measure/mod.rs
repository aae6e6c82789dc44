//! The shell that measures: calls devices, takes times, waits. It judges nothing.
//!
//! What must hold: whatever is changed is put back, also at Ctrl-C and when a measurement fails; a
//! device that does not answer holds up the report for a bounded time only.

pub mod boards;
pub mod cpus;
pub mod node;
pub mod writes;

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc::{self, Receiver},
    },
    thread,
    time::{Duration, Instant},
};

/// Whether somebody wants the suite to end; clones share it.
#[derive(Clone, Debug, Default)]
pub struct Stop(Arc<AtomicBool>);

impl Stop {
    /// Asks the suite to end: what was changed is put back first.
    pub fn ask(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    /// Whether it was asked.
    #[must_use]
    pub fn asked(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    /// Asks `holds` every few milliseconds: after how long it held, or `None` when it did not within
    /// `patience`.
    pub fn until(&self, patience: Duration, mut holds: impl FnMut() -> bool) -> Option<Duration> {
        const POLL: Duration = Duration::from_millis(2);
        let begin = Instant::now();
        loop {
            if holds() {
                return Some(begin.elapsed());
            }
            if self.asked() || begin.elapsed() >= patience {
                return None;
            }
            thread::sleep(POLL);
        }
    }

    /// Waits, unless asked to end.
    pub fn wait(&self, time: Duration) {
        self.until(time, || false);
    }
}

/// Something that a thread of its own works on, since a call of a driver may never return.
pub struct Pending<T>(Receiver<T>);

impl<T: Send + 'static> Pending<T> {
    /// Begins.
    pub fn begin(work: impl FnOnce() -> T + Send + 'static) -> Self {
        let (sender, receiver) = mpsc::channel();
        thread::spawn(move || {
            // Nobody may wait for it any more.
            let _unheard = sender.send(work());
        });
        Self(receiver)
    }

    /// What came of it; `None` when it does not end by then.
    #[must_use]
    pub fn by(self, deadline: Instant) -> Option<T> {
        self.0.recv_timeout(deadline.saturating_duration_since(Instant::now())).ok()
    }
}
