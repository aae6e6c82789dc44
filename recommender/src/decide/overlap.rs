//! Policies that select the same devices. All their caps hold; for the rest the highest priority comes first,
//! then the oldest, then the first by name.
//!
//! The policy that comes first shares its cap out by its own algorithm. What it gives a device is the most that
//! later ones can give it, so that the watts that the device then leaves go to their others; and on that device
//! its floor counts, not theirs.

use std::{cmp::Reverse, collections::HashMap};

use powercap_common::{policy::ClockFloor, units::Watts};

use super::policy::{PolicyView, Verdict};

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
#[derive(Default)]
pub struct Taken<'a>(HashMap<&'a str, First>);

impl<'a> Taken<'a> {
    /// What comes first on this device.
    pub fn first(&self, uuid: &str) -> Option<First> {
        self.0.get(uuid).copied()
    }

    /// Notes what a policy that enforces gives its devices.
    pub fn note(&mut self, by: usize, view: &PolicyView<'a>, verdict: &Verdict<'_>) {
        let Some(policy) = view.policy.as_ref().ok().filter(|_| view.enforces()) else { return };
        for uuid in view.devices.keys() {
            let Some(limit) = verdict.limits.get(*uuid).copied() else { continue };
            let first = self.0.entry(uuid).or_insert(First { by, most: limit, clock_floor: policy.clock_floor });
            first.most = first.most.min(limit);
        }
    }
}

/// The views by their place, who comes first before the others. `views` are in the order of their names.
pub fn precedence(views: &[PolicyView<'_>]) -> Vec<usize> {
    let mut order: Vec<_> = (0..views.len()).collect();
    order.sort_by_key(|&at| {
        let PolicyView { object, permission, .. } = &views[at];
        let born = object.metadata.creation_timestamp.as_ref().map(|time| time.0);
        // One without a time of creation is not stored yet: the youngest.
        (Reverse(permission.priority(object.spec.priority)), born.is_none(), born)
    });
    order
}
