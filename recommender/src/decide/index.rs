//! Look-ups by name, where what is told has to be put side by side; of boards and pods [`super::boards`] does that.
//!
//! Must hold: nobody walks it, so that the order of a hash enters no decision.

use std::{borrow::Borrow, collections::hash_map::Entry, hash::Hash};

use foldhash::{HashMap, HashMapExt};

/// What belongs to each name.
pub struct Index<K, V>(HashMap<K, V>);

impl<K: Eq + Hash, V> Index<K, V> {
    /// What belongs to this name.
    pub fn get<Q: Eq + Hash + ?Sized>(&self, name: &Q) -> Option<&V>
    where
        K: Borrow<Q>,
    {
        self.0.get(name)
    }

    /// The place of this name, to be filled.
    pub fn entry(&mut self, name: K) -> Entry<'_, K, V> {
        self.0.entry(name)
    }
}

impl<K, V> Default for Index<K, V> {
    fn default() -> Self {
        Self(HashMap::new())
    }
}

impl<K: Eq + Hash, V> FromIterator<(K, V)> for Index<K, V> {
    /// Of a name that comes twice the last counts.
    fn from_iter<I: IntoIterator<Item = (K, V)>>(pairs: I) -> Self {
        Self(pairs.into_iter().collect())
    }
}
