//! Policies that select the same devices. All their caps hold; for the rest the highest priority comes first,
//! then the oldest, then the first by name.
//!
//! The policy that comes first shares its cap out by its own algorithm. What it gives a device is the most that
//! later ones can give it, so that the watts that the device then leaves go to their others; and on that device
//! its floor counts, not theirs.

use std::cmp::Reverse;

use powercap_common::{policy::ClockFloor, units::Watts};

use super::{fleet::Board, policy::PolicyView, verdict::Verdict};

/// What comes first on a device.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct First {
    /// The policy, by its place among the views.
    pub by: usize,
    /// The least that those before give the device.
    pub most: Watts,
    /// How far the first may slow it.
    pub clock_floor: Option<ClockFloor>,
}

/// The devices on which a policy that was judged already comes first.
pub struct Taken(Vec<Option<First>>);

impl Taken {
    /// Of so many boards none yet.
    pub fn none_of(boards: usize) -> Self {
        Self(vec![None; boards])
    }

    /// What comes first on this device.
    pub fn first(&self, board: &Board<'_>) -> Option<First> {
        self.0[board.at]
    }

    /// Notes what a policy that enforces gives its devices.
    pub fn note(&mut self, by: usize, view: &PolicyView<'_>, verdict: &Verdict<'_>) {
        let Some(policy) = view.policy.as_ref().ok().filter(|_| view.enforces()) else { return };
        for (board, &limit) in view.devices.iter().zip(&verdict.limits) {
            let first = self.0[board.at].get_or_insert(First { by, most: limit, clock_floor: policy.clock_floor });
            first.most = first.most.min(limit);
        }
    }
}

/// The views by their place, who comes first before the others. `views` are in the order of their names.
pub fn precedence<'v, 'a: 'v>(views: impl Iterator<Item = &'v PolicyView<'a>>) -> Vec<usize> {
    let rank = |(at, view): (usize, &PolicyView<'_>)| {
        let PolicyView { object, permission, .. } = view;
        let born = object.metadata.creation_timestamp.as_ref().map(|time| time.0);
        // One without a time of creation is not stored yet: the youngest.
        (Reverse(permission.priority(object.spec.priority)), born.is_none(), born, at)
    };
    let mut order: Vec<_> = views.enumerate().map(rank).collect();
    order.sort();
    order.into_iter().map(|(.., at)| at).collect()
}
