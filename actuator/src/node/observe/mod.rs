//! What the devices say and what they are to do: between the threads that talk to them and the loop.
//!
//! ```text
//!   board's thread ──▶ latest reading ──▶ observation ──▶ decide
//!        ▲                                                  │
//!        └────────────── newest order ◀──── apply ◀─────────┘
//! ```
//!
//! What must hold: the loop never waits for a device; a thread that hangs leaves its last reading,
//! whose age tells; a newer order replaces one that was not begun, kind by kind; a board that was lost
//! or let go has no reading at all.

pub mod boards;
mod gpus;
pub mod host;
pub mod letting_go;
mod rhythm;
pub mod sample;
pub mod spec;
pub mod tenants;

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use powercap_common::{reason::Reason, units::Watts};
use tokio::sync::Notify;

use super::{
    decide::{BoardWrite, CpuWrite},
    journal::Journal,
    observation::{Observation, Packages, SeenBoard, SeenCpu},
};
use gpus::Gpus;
use letting_go::DevicesWanted;

use crate::hardware::{BoardReading, BoardTraits, CpuReading, CpuTraits, Fault, Profile};

/// What boards show of themselves, by UUID.
pub type Profiles = BTreeMap<Arc<str>, Arc<Profile>>;

/// All devices of the node, as the loop sees them; clones share them.
#[derive(Clone, Default)]
pub struct Devices {
    gpus: Arc<Mutex<Gpus>>,
    /// The CPUs.
    pub host: Arc<HostChannel>,
    /// Rung when a board draws more than its share: the loop need not wait for its time.
    pub alarm: Arc<Notify>,
    wishes: Arc<Mailbox<DevicesWanted>>,
    /// Where originals are kept before a device is touched for the first time.
    pub journal: Journal,
}

/// One board between its thread and the loop.
pub struct BoardChannel {
    /// What it is.
    pub traits: Arc<BoardTraits>,
    latest: Mutex<Latest<BoardReading>>,
    orders: Mailbox<BoardWrite>,
    alarm_mw: AtomicU64,
    /// How often it was opened anew, this time included.
    opened: u32,
    /// A thread has it.
    held: AtomicBool,
    /// Its thread is to end.
    stop: AtomicBool,
    journal: Journal,
    profile: Mutex<Arc<Profile>>,
    /// The profile is to be read (again).
    profile_due: AtomicBool,
}

/// The CPUs between their thread and the loop.
#[derive(Default)]
pub struct HostChannel {
    state: Mutex<HostState>,
    orders: Mailbox<BTreeMap<u32, CpuWrite>>,
    journal: Journal,
}

#[derive(Default)]
struct HostState {
    cpus: Vec<(CpuTraits, Latest<CpuReading>)>,
    packages: Option<(Watts, Latest<Watts>)>,
}

/// The last reading and, where it is not the last attempt, why.
#[derive(Clone)]
struct Latest<T> {
    reading: Option<(T, Instant)>,
    fault: Option<Fault>,
}

impl<T> Default for Latest<T> {
    fn default() -> Self {
        Self { reading: None, fault: None }
    }
}

impl<T: Copy> Latest<T> {
    fn age(&self, now: Instant) -> Duration {
        self.reading.as_ref().map_or(Duration::MAX, |(_, at)| now.saturating_duration_since(*at))
    }

    fn value(&self) -> Option<T> {
        self.reading.as_ref().map(|(value, _)| *value)
    }
}

/// Holds the newest order until the device's thread takes it.
struct Mailbox<T> {
    order: Mutex<Option<T>>,
    bell: Condvar,
}

impl<T> Default for Mailbox<T> {
    fn default() -> Self {
        Self { order: Mutex::new(None), bell: Condvar::new() }
    }
}

impl<T> Mailbox<T> {
    fn put(&self, order: T, merge: impl FnOnce(&mut T, T)) {
        let mut held = lock(&self.order);
        match held.as_mut() {
            Some(held) => merge(held, order),
            None => *held = Some(order),
        }
        drop(held);
        self.bell.notify_one();
    }

    /// Whether there is an order that nobody has begun.
    fn waits(&self) -> bool {
        lock(&self.order).is_some()
    }

    /// The newest order, if one waits.
    fn take(&self) -> Option<T> {
        lock(&self.order).take()
    }

    /// The newest order, waiting for one until `deadline`.
    fn take_until(&self, deadline: Instant) -> Option<T> {
        let patience = deadline.saturating_duration_since(Instant::now());
        let held = lock(&self.order);
        let (mut held, _) = self
            .bell
            .wait_timeout_while(held, patience, |order| order.is_none())
            .unwrap_or_else(PoisonError::into_inner);
        held.take()
    }
}

impl Devices {
    /// Devices whose originals are kept in this journal.
    #[must_use]
    pub fn journalled(journal: Journal) -> Self {
        let host = HostChannel { journal: journal.clone(), ..HostChannel::default() };
        Self { host: Arc::new(host), journal, ..Self::default() }
    }

    /// What all devices say now; `start` is when the agent began.
    #[must_use]
    pub fn observe(&self, start: Instant) -> Observation {
        let now = Instant::now();
        let gpus = lock(&self.gpus);
        let boards = gpus.in_order().map(|channel| channel.seen(now)).collect();
        let access = gpus.access();
        let unopened_boards = gpus.unopened();
        drop(gpus);
        let host = lock(&self.host.state);
        Observation {
            now: now.saturating_duration_since(start),
            gpus: access,
            boards,
            unopened_boards,
            cpus: host
                .cpus
                .iter()
                .map(|(traits, latest)| SeenCpu {
                    traits: traits.clone(),
                    reading: latest.value(),
                    fault: latest.fault.clone(),
                })
                .collect(),
            packages: host.packages.as_ref().map(|(max, latest)| Packages {
                power: latest.value(),
                age: latest.age(now),
                max: *max,
                fault: latest.fault.clone(),
            }),
        }
    }

    /// The board's channel, if the node has that board.
    #[must_use]
    pub fn board(&self, uuid: &str) -> Option<Arc<BoardChannel>> {
        lock(&self.gpus).board(uuid).cloned()
    }

    /// Says whether the boards are ours to hold.
    pub fn want(&self, wanted: DevicesWanted) {
        self.wishes.put(wanted, |held, newer| *held = newer);
    }

    /// What each board shows of itself, by UUID.
    #[must_use]
    pub fn profiles(&self) -> Profiles {
        let gpus = lock(&self.gpus);
        let profile =
            |channel: &Arc<BoardChannel>| (Arc::clone(&channel.traits.uuid), Arc::clone(&lock(&channel.profile)));
        gpus.in_order().map(profile).collect()
    }

    /// Has every split board look for its instances again: one may have been made since.
    pub fn profiles_are_old(&self) {
        for channel in lock(&self.gpus).in_order() {
            let split = lock(&channel.profile).slices.is_some();
            channel.profile_due.fetch_or(split, Ordering::Relaxed);
        }
    }
}

impl BoardChannel {
    fn new(traits: BoardTraits, opened: u32, journal: Journal) -> Self {
        Self {
            traits: Arc::new(traits),
            latest: Mutex::default(),
            orders: Mailbox::default(),
            alarm_mw: AtomicU64::new(u64::MAX),
            opened,
            held: AtomicBool::new(false),
            stop: AtomicBool::new(false),
            journal,
            profile: Mutex::default(),
            profile_due: AtomicBool::new(true),
        }
    }

    /// Takes the board's readings away: nothing that was read is so any more.
    fn out_of_reach(&self, reason: Reason, message: String) {
        *lock(&self.latest) = Latest { reading: None, fault: Some(Fault { reason, message }) };
    }

    fn is_out_of_reach(&self) -> bool {
        self.seen(Instant::now()).out_of_reach()
    }

    fn stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    /// Gives the board's thread something to do.
    pub fn order(&self, write: BoardWrite) {
        self.orders.put(write, BoardWrite::supersede);
    }

    /// Power above which the loop wants to be woken.
    pub fn alarm_above(&self, share: Option<Watts>) {
        self.alarm_mw.store(share.map_or(u64::MAX, |share| share.percent(101).as_milliwatts()), Ordering::Relaxed);
    }

    fn alarms(&self, power: Watts) -> bool {
        power.as_milliwatts() > self.alarm_mw.load(Ordering::Relaxed)
    }

    /// Takes in the board's profile, where it is due.
    fn describe(&self, profile: impl FnOnce() -> Profile) {
        if self.profile_due.swap(false, Ordering::Relaxed) {
            *lock(&self.profile) = Arc::new(profile());
        }
    }

    fn seen(&self, now: Instant) -> SeenBoard {
        let latest = lock(&self.latest);
        SeenBoard {
            traits: Arc::clone(&self.traits),
            reading: latest.value(),
            age: latest.age(now),
            fault: latest.fault.clone(),
            opened: self.opened,
        }
    }
}

impl HostChannel {
    /// Gives the CPUs' thread something to do.
    pub fn order(&self, writes: &[CpuWrite]) {
        if writes.is_empty() {
            return;
        }
        let writes = writes.iter().map(|write| (write.policy, write.clone())).collect();
        self.orders.put(writes, |held, newer| held.extend(newer));
    }
}

/// A lock that a panicked thread cannot poison: what it guards is replaced whole.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
