//! The rungs of the escalation ladder that a play saw, as the cluster told them.

use std::collections::{BTreeMap, BTreeSet};

use powercap_common::api::{Action, Escalated};

/// What a play that is played to its end must have seen, in this order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Rung {
    /// The inference lost replicas.
    Scaled,
    /// They returned.
    Returned,
    /// A pod was evicted, and another serves in its place.
    Evicted,
    /// A pod was evicted while a place was held for it, and what was made anew serves there.
    Migrated,
}

impl Rung {
    pub(crate) const ALL: [Self; 4] = [Self::Scaled, Self::Returned, Self::Evicted, Self::Migrated];

    /// As the picture marks it.
    pub(crate) fn mark(self) -> &'static str {
        match self {
            Self::Scaled => " replicas go",
            Self::Returned => " replicas return",
            Self::Evicted => " evicted, made anew",
            Self::Migrated => " moved to the other node",
        }
    }
}

/// Pods that serve, each with its node.
pub(crate) type Serving = BTreeMap<String, String>;

/// What was seen so far.
#[derive(Default)]
pub(crate) struct Ladder {
    seen: BTreeSet<Rung>,
    /// Who served when a pod was evicted.
    evicted: Option<Serving>,
    /// Who served when a pod was moved, and where it was to go.
    moved: Option<(Serving, String)>,
}

impl Ladder {
    pub(crate) fn has(&self, rung: Rung) -> bool {
        self.seen.contains(&rung)
    }

    /// Those that were not seen.
    pub(crate) fn missed(&self) -> Vec<Rung> {
        Rung::ALL.into_iter().filter(|rung| !self.has(*rung)).collect()
    }

    /// Takes in what is said of the inference and who serves: the rungs that are new.
    pub(crate) fn observe(&mut self, escalated: &Escalated, serving: &Serving) -> Vec<Rung> {
        let mut now = BTreeSet::new();
        for deed in escalated.deeds() {
            match (deed.action, deed.undone) {
                (Action::Scale, false) => drop(now.insert(Rung::Scaled)),
                (Action::Scale, true) => drop(now.insert(Rung::Returned)),
                (Action::Evict, false) => drop(self.evicted.get_or_insert_with(|| serving.clone())),
                _ => {}
            }
        }
        if let Some(migration) = escalated.migration.as_ref().filter(|migration| migration.evicted.is_some()) {
            self.moved.get_or_insert_with(|| (serving.clone(), migration.destination().to_owned()));
        }
        let new = |before: &Serving, is_there: &dyn Fn(&str) -> bool| {
            serving.iter().any(|(pod, node)| !before.contains_key(pod) && is_there(node))
        };
        if self.evicted.as_ref().is_some_and(|before| new(before, &|_| true)) {
            now.insert(Rung::Evicted);
        }
        if self.moved.as_ref().is_some_and(|(before, to)| new(before, &|node| node == to)) {
            now.insert(Rung::Migrated);
        }
        now.into_iter().filter(|rung| self.seen.insert(*rung)).collect()
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::{apimachinery::pkg::apis::meta::v1::Time, jiff::Timestamp};
    use powercap_common::api::{Deed, Migration};

    use super::*;

    fn serving(pods: &[(&str, &str)]) -> Serving {
        pods.iter().map(|(pod, node)| ((*pod).to_owned(), (*node).to_owned())).collect()
    }

    fn deed(action: Action, undone: bool) -> Escalated {
        Escalated { last: Some(Deed { action, undone, ..Deed::default() }), ..Escalated::default() }
    }

    #[test]
    fn an_eviction_counts_when_another_serves_and_each_rung_once() {
        let (mut ladder, before) = (Ladder::default(), serving(&[("a", "n1"), ("b", "n2")]));
        assert_eq!(ladder.observe(&deed(Action::Scale, false), &before), [Rung::Scaled]);
        assert_eq!(ladder.observe(&deed(Action::Scale, true), &before), [Rung::Returned]);
        assert!(ladder.observe(&deed(Action::Evict, false), &before).is_empty());
        assert!(ladder.observe(&Escalated::default(), &serving(&[("a", "n1")])).is_empty());
        let after = serving(&[("a", "n1"), ("c", "n2")]);
        assert_eq!(ladder.observe(&Escalated::default(), &after), [Rung::Evicted]);
        assert!(ladder.observe(&Escalated::default(), &after).is_empty());
        assert_eq!(ladder.missed(), [Rung::Migrated]);
    }

    #[test]
    fn a_move_counts_when_what_was_made_anew_serves_where_its_place_was_held() {
        let (mut ladder, before) = (Ladder::default(), serving(&[("a", "n1")]));
        let held = Migration { destinations: vec!["n2".to_owned()], ..Migration::default() };
        let gone = Migration { evicted: Some(Time(Timestamp::UNIX_EPOCH)), ..held.clone() };
        let of = |migration| Escalated { migration: Some(migration), ..Escalated::default() };
        assert!(ladder.observe(&of(held), &serving(&[("a", "n1"), ("c", "n2")])).is_empty());
        assert!(ladder.observe(&of(gone), &before).is_empty());
        assert!(ladder.observe(&Escalated::default(), &serving(&[("b", "n1")])).is_empty());
        assert_eq!(ladder.observe(&Escalated::default(), &serving(&[("b", "n2")])), [Rung::Migrated]);
    }
}
