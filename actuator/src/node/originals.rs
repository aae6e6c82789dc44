//! What the devices were set to before this agent touched them, and which of them it touched: what a
//! release puts back.
//!
//! What must hold: what stands here is of before the first touch since the node booted, never a value of
//! our own. Where nobody knows that any more, [`Originals::complete`] says so, and a release falls back
//! to the devices' defaults.

use std::{collections::BTreeMap, sync::Arc};

use powercap_common::units::{Megahertz, Watts};

/// Originals of the devices that were touched since the node booted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Originals {
    /// By UUID.
    pub boards: BTreeMap<Arc<str>, OriginalBoard>,
    /// The ceiling of each cpufreq policy; `None`: not known.
    pub cpus: BTreeMap<u32, Option<Megahertz>>,
    /// Whether a device that does not stand here was not touched. When not, an earlier life of the agent
    /// may have touched any of them, and what is read of a device may be our own.
    pub complete: bool,
}

/// A board as it was before it was touched. A lock of clocks cannot be read, so there is none to put
/// back: only ours to take off.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OriginalBoard {
    /// Its power limit; `None`: not known, or it had none.
    pub limit: Option<Watts>,
    /// Whether we locked its clocks.
    pub locked: bool,
}

/// Something to remember before a device is touched for the first time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Note {
    /// A board is touched.
    Board {
        /// Its UUID.
        uuid: Arc<str>,
        /// Its power limit before.
        limit: Option<Watts>,
    },
    /// A board's clocks are locked.
    Lock {
        /// Its UUID.
        uuid: Arc<str>,
    },
    /// The ceiling of a cpufreq policy is touched.
    Cpu {
        /// Its number.
        policy: u32,
        /// Its ceiling before.
        ceiling: Option<Megahertz>,
    },
    /// An earlier life of this agent may have touched any device, and left no word of it.
    EarlierLife,
    /// Everything was put back: nothing is ours any more.
    Released,
}

impl Default for Originals {
    fn default() -> Self {
        Self { boards: BTreeMap::new(), cpus: BTreeMap::new(), complete: true }
    }
}

impl Originals {
    /// Nobody knows what was touched.
    #[must_use]
    pub fn unknown() -> Self {
        Self { complete: false, ..Self::default() }
    }

    /// Whether nothing is ours, for certain.
    #[must_use]
    pub fn untouched(&self) -> bool {
        self.complete && self.boards.is_empty() && self.cpus.is_empty()
    }

    /// Takes in a note. What was noted first stands, since it alone is of before the first touch.
    pub fn take(&mut self, note: &Note) {
        match note {
            Note::Board { uuid, limit } => {
                self.boards.entry(uuid.clone()).or_insert(OriginalBoard { limit: *limit, locked: false });
            }
            Note::Lock { uuid } => self.boards.entry(uuid.clone()).or_default().locked = true,
            Note::Cpu { policy, ceiling } => _ = self.cpus.entry(*policy).or_insert(*ceiling),
            Note::EarlierLife => self.complete = false,
            Note::Released => *self = Self::default(),
        }
    }

    /// What is to be noted before this board is written to. `read` is its limit now, which is an original
    /// only where no earlier life of ours can have set it.
    #[must_use]
    pub fn before_board(&self, uuid: &Arc<str>, read: Option<Watts>, locks: bool) -> Vec<Note> {
        let known = self.boards.get(uuid);
        let limit = read.filter(|_| self.complete);
        let first = known.is_none().then(|| Note::Board { uuid: uuid.clone(), limit });
        let lock = (locks && known.is_none_or(|board| !board.locked)).then(|| Note::Lock { uuid: uuid.clone() });
        first.into_iter().chain(lock).collect()
    }

    /// The same for a cpufreq policy.
    #[must_use]
    pub fn before_cpu(&self, policy: u32, read: Option<Megahertz>) -> Option<Note> {
        let ceiling = read.filter(|_| self.complete);
        (!self.cpus.contains_key(&policy)).then_some(Note::Cpu { policy, ceiling })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_noted_first_stands() {
        let mut originals = Originals::default();
        let uuid: Arc<str> = "GPU-1".into();
        for note in originals.before_board(&uuid, Some(Watts::new(500)), false) {
            originals.take(&note);
        }
        assert_eq!(originals.before_board(&uuid, Some(Watts::new(300)), false), []);
        originals.take(&Note::Board { uuid: uuid.clone(), limit: Some(Watts::new(300)) });
        for note in originals.before_board(&uuid, Some(Watts::new(300)), true) {
            originals.take(&note);
        }
        assert_eq!(originals.boards[&uuid], OriginalBoard { limit: Some(Watts::new(500)), locked: true });
        originals.take(&Note::Released);
        assert!(originals.untouched());
    }

    #[test]
    fn what_may_be_our_own_is_no_original() {
        let unknown = Originals::unknown();
        let notes = unknown.before_board(&"GPU-1".into(), Some(Watts::new(300)), false);
        assert_eq!(notes, [Note::Board { uuid: "GPU-1".into(), limit: None }]);
        let note = unknown.before_cpu(0, Some(Megahertz::new(2000)));
        assert_eq!(note, Some(Note::Cpu { policy: 0, ceiling: None }));
        assert!(!unknown.untouched());
    }
}
