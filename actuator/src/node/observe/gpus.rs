//! Which boards the node has: those that NVML counts, and those that it counted and that are lost.
//!
//! What must hold: a board has one thread; a board that is out of reach stays as long as NVML may still
//! mean it; one that comes back, or comes in its place, begins anew.

use std::{
    collections::BTreeMap,
    sync::{Arc, atomic::Ordering},
};

use powercap_common::reason::Reason;

use super::{BoardChannel, Devices, lock};
use crate::{hardware::BoardTraits, node::observation::GpuAccess};

/// The boards, by what NVML counts and by what they are.
#[derive(Default)]
pub(super) struct Gpus {
    access: GpuAccess,
    /// What became of each of NVML's indexes.
    slots: BTreeMap<u32, Slot>,
    /// Every board that was opened, by UUID, with its index at that time.
    boards: BTreeMap<Arc<str>, (u32, Arc<BoardChannel>)>,
    expected: u32,
    /// NVML is closed or being closed: a thread that opened a board late gets none.
    closed: bool,
}

enum Slot {
    Opening,
    Open(Arc<str>),
    Failed(String),
}

impl Gpus {
    /// The boards in NVML's order.
    pub(super) fn in_order(&self) -> impl Iterator<Item = &Arc<BoardChannel>> {
        let mut boards: Vec<_> = self.boards.values().collect();
        boards.sort_by_key(|(index, _)| *index);
        boards.into_iter().map(|(_, channel)| channel)
    }

    pub(super) fn board(&self, uuid: &str) -> Option<&Arc<BoardChannel>> {
        self.boards.get(uuid).map(|(_, channel)| channel)
    }

    /// Boards that are counted and of which nothing is known.
    pub(super) fn unopened(&self) -> usize {
        (self.expected as usize).saturating_sub(self.boards.len())
    }

    pub(super) fn access(&self) -> GpuAccess {
        if self.access != GpuAccess::Working || self.unopened() == 0 {
            return self.access.clone();
        }
        let failed = self.slots.iter().find_map(|(index, slot)| match slot {
            Slot::Failed(error) => Some(format!("board {index}: {error}")),
            Slot::Opening | Slot::Open(_) => None,
        });
        failed.map_or(GpuAccess::Starting, GpuAccess::Broken)
    }
}

impl Devices {
    /// What is known of NVML, and how many boards there are by its count or another.
    pub(super) fn set_access(&self, access: GpuAccess, expected: u32) {
        let mut gpus = lock(&self.gpus);
        if let GpuAccess::Broken(why) = &access {
            // Where NVML does not start, a driver may be gone, and every limit with it.
            for (_, channel) in gpus.boards.values() {
                channel.out_of_reach(Reason::Quarantined, why.clone());
            }
        }
        gpus.closed = access != GpuAccess::Working;
        gpus.access = access;
        gpus.expected = expected;
        gpus.slots.retain(|index, _| *index < expected);
    }

    /// The indexes to open now: all, when any board is missing, since they may mean other boards than
    /// before; save those of which an earlier opening has not come back.
    pub(super) fn to_open(&self) -> Vec<u32> {
        let missing = self.misses_boards();
        let mut gpus = lock(&self.gpus);
        if !missing && gpus.unopened() == 0 && gpus.slots.len() == gpus.expected as usize {
            return Vec::new();
        }
        let opening = |index: &u32| matches!(gpus.slots.get(index), Some(Slot::Opening));
        let indexes: Vec<_> = (0..gpus.expected).filter(|index| !opening(index)).collect();
        gpus.slots.extend(indexes.iter().map(|index| (*index, Slot::Opening)));
        indexes
    }

    pub(super) fn not_opened(&self, index: u32, why: String) {
        lock(&self.gpus).slots.insert(index, Slot::Failed(why));
    }

    /// The channel of a board that was opened at this index; none when another thread has that board, or
    /// NVML is being closed.
    pub(super) fn opened(&self, index: u32, traits: BoardTraits) -> Option<Arc<BoardChannel>> {
        let mut gpus = lock(&self.gpus);
        if gpus.closed {
            gpus.slots.remove(&index);
            return None;
        }
        let uuid = Arc::clone(&traits.uuid);
        gpus.slots.insert(index, Slot::Open(Arc::clone(&uuid)));
        let known = gpus.boards.get(&uuid).map(|(_, channel)| Arc::clone(channel));
        let channel = match known {
            // NVML was closed and opened: what was ordered stands.
            Some(known) if !known.is_out_of_reach() && *known.traits == traits => known,
            known => Arc::new(BoardChannel::new(
                traits,
                known.map_or(1, |known| known.opened.saturating_add(1)),
                self.journal.clone(),
            )),
        };
        if channel.held.swap(true, Ordering::AcqRel) {
            return None;
        }
        channel.stop.store(false, Ordering::Relaxed);
        gpus.boards.insert(uuid, (index, Arc::clone(&channel)));
        Some(channel)
    }

    /// A board was lost, or one could not be opened.
    pub(super) fn misses_boards(&self) -> bool {
        let gpus = lock(&self.gpus);
        let failed = gpus.slots.values().any(|slot| matches!(slot, Slot::Failed(_)));
        failed || gpus.boards.values().any(|(_, channel)| channel.is_out_of_reach())
    }

    /// Boards that are out of reach leave once every board that NVML counts is known to be another.
    pub(super) fn forget_departed(&self) {
        let mut gpus = lock(&self.gpus);
        let Gpus { access, slots, boards, .. } = &mut *gpus;
        if *access != GpuAccess::Working || !slots.values().all(|slot| matches!(slot, Slot::Open(_))) {
            return;
        }
        let counted = |uuid: &Arc<str>| slots.values().any(|slot| matches!(slot, Slot::Open(open) if open == uuid));
        boards.retain(|uuid, (_, channel)| {
            let stays = counted(uuid) || !channel.is_out_of_reach();
            if !stays {
                tracing::warn!(%uuid, "NVML does not count this board any more; it is forgotten");
            }
            stays
        });
    }

    /// Somebody else has the boards: nothing that was read or set is so any more. `calls` to boards have not
    /// returned.
    pub(super) fn let_go(&self, why: &str, calls: usize) {
        let mut gpus = lock(&self.gpus);
        for (_, channel) in gpus.boards.values() {
            channel.out_of_reach(Reason::DevicesLetGo, why.to_owned());
        }
        gpus.access = match calls {
            0 => GpuAccess::LetGo(why.to_owned()),
            calls => GpuAccess::LettingGo(why.to_owned(), calls),
        };
    }

    /// The boards are looked for anew.
    pub(super) fn taken_back(&self) {
        lock(&self.gpus).access = GpuAccess::Starting;
    }

    /// Has every board's thread end.
    pub(super) fn stop_boards(&self) {
        let mut gpus = lock(&self.gpus);
        gpus.closed = true;
        for (_, channel) in gpus.boards.values() {
            channel.stop.store(true, Ordering::Relaxed);
        }
    }
}
