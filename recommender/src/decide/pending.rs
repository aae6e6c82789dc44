//! The list of pending actions in a status.
//!
//! Must hold: as many are named as free the excess, or all; who is listed stays so until the others free clearly
//! enough, so that what flickers writes nothing; nobody of a higher priority is before one of a lower.

use std::collections::BTreeMap;

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use powercap_common::{
    api::{Action, PendingAction},
    reason::Reason,
    units::Watts,
};

use super::{
    ladder::is_step,
    report,
    steady::{Bounds, steady},
    victims::{Key, Victim},
};

/// As many are listed: the bound of the field.
const MOST: usize = 100;
/// Of these at most so many freezes, so that there is room for what frees watts.
const MOST_FROZEN: usize = 50;
/// Who is listed stays until the others free this part of the cap more than is in excess…
const SLACK_PERCENT: u32 = 5;
/// …and at least this much.
const LEAST_SLACK: Watts = Watts::new(10);

/// What a status tells.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Pending {
    /// The first of them.
    pub actions: Vec<PendingAction>,
    /// How many there are.
    pub count: u32,
}

impl Pending {
    /// These, the freezes before what comes after them; `before` is the number that stands.
    pub fn of(mut frozen: Vec<PendingAction>, steps: Vec<PendingAction>, before: u32) -> Self {
        let number = report::count(frozen.len() + steps.len());
        frozen.truncate(if steps.is_empty() { MOST } else { MOST_FROZEN });
        frozen.extend(steps);
        frozen.truncate(MOST);
        // Beyond what is listed nobody counts exactly.
        let close = before.min(number) as usize > MOST && before.abs_diff(number) <= before / 10;
        Self { actions: frozen, count: if close { before } else { number } }
    }
}

/// What stands in a status already.
pub struct Listed<'l> {
    actions: &'l [PendingAction],
    /// Their places in it.
    places: BTreeMap<Key<'l>, usize>,
}

impl<'l> Listed<'l> {
    /// These.
    pub fn of(actions: &'l [PendingAction]) -> Self {
        let key = |pending: &'l PendingAction| {
            let PendingAction { action, namespace, workload, pod, .. } = pending;
            (*action, namespace.as_str(), workload.as_str(), pod.as_deref())
        };
        Self { actions, places: actions.iter().map(key).zip(0..).collect() }
    }

    /// Since when one of the rungs after the freeze is pending, or the freeze.
    pub fn since(&self, step: bool) -> Option<Timestamp> {
        let kept = self.actions.iter().filter(|pending| is_step(pending.action) == step);
        kept.map(|pending| pending.since.0).min()
    }

    /// Those rungs, as they stand, of which this holds.
    pub fn held(&self, step: bool, holds: impl Fn(&PendingAction) -> bool) -> Vec<PendingAction> {
        self.actions.iter().filter(|pending| is_step(pending.action) == step && holds(pending)).cloned().collect()
    }

    fn place(&self, victim: &Victim<'_>) -> Option<usize> {
        self.places.get(&victim.key()).copied()
    }

    /// Of the victims those that free `excess`, in the order in which they come. Without an excess nobody is added.
    pub fn choose<'a>(&self, mut victims: Vec<Victim<'a>>, excess: Watts, cap: Watts) -> Vec<Victim<'a>> {
        let slack = cap.percent(SLACK_PERCENT).max(LEAST_SLACK);
        victims.sort_by(|one, other| one.order(self.place(one)).cmp(&other.order(self.place(other))));
        let mut free = Watts::ZERO;
        victims.retain(|victim| {
            let stays = self.place(victim).is_some() && (excess == Watts::ZERO || free < excess + slack);
            let needed = stays || free < excess;
            if needed {
                free = free + victim.frees;
            }
            needed
        });
        victims
    }

    /// The entry of a victim.
    pub fn entry(&self, victim: &Victim<'_>, since: Timestamp) -> PendingAction {
        let before = self.place(victim).and_then(|at| self.actions.get(at));
        let reason = match victim.action {
            Action::Freeze => Reason::ThresholdCrossed,
            _ if victim.above => Reason::AboveOwnWatts,
            _ => Reason::FloorReached,
        };
        PendingAction {
            action: victim.action,
            namespace: victim.namespace.to_owned(),
            workload: victim.workload.clone(),
            pod: victim.pod.map(ToOwned::to_owned),
            frees_watts: steady(before.map(|before| before.frees_watts), victim.frees, &Bounds { edges: &[] }),
            reason: before.map_or_else(|| reason.to_string(), |before| before.reason.clone()),
            since: Time(since),
        }
    }
}
