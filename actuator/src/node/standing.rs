//! From the orders as they were written to the orders as they stand now: under the lease, the brakes and
//! the lock of the node.
//!
//! What must hold: nothing is touched before it is known that the node is ours and how hard its domains
//! brake; where that cannot be learnt, nothing is waited for longer than [`PATIENCE`], save for a brake
//! that an earlier life of this agent obeyed.

use std::{sync::Arc, time::Duration};

use powercap_common::{
    api::{Acknowledged, NodeFrequenciesStatus},
    condition,
    reason::Reason,
};

use super::{
    brake::Brakes,
    journal::Ownership,
    lease::{Renewals, Verdict},
    orders::Orders,
    originals::Originals,
};

/// How long orders wait for the first list of domains, and for the lock of the node.
pub const PATIENCE: Duration = Duration::from_secs(2);

/// What an earlier life of this agent has left in the status.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Earlier {
    /// What it acknowledged since the node booted.
    pub acknowledged: Option<Acknowledged>,
    /// It had put everything back.
    pub released: bool,
    /// It obeyed a brake.
    pub braked: bool,
    /// It saw the lease expire.
    pub lease_expired: bool,
}

impl Earlier {
    /// Of this status, if it is of the same boot: nothing of an earlier one holds any more.
    #[must_use]
    pub fn of(status: &NodeFrequenciesStatus, boot_id: &str) -> Self {
        if status.boot_id.as_deref() != Some(boot_id) {
            return Self::default();
        }
        let says = |kind: &str, reasons: &[Reason]| {
            let condition = status.conditions.iter().find(|condition| condition.type_ == kind);
            condition.is_some_and(|condition| reasons.iter().any(|reason| condition.reason == reason.as_str()))
        };
        Self {
            acknowledged: status.acknowledged,
            released: says(condition::kind::READY, &[Reason::Released]),
            braked: says(condition::kind::READY, &[Reason::BrakePulled])
                || status.gpus.iter().any(|gpu| gpu.reason == Reason::BrakePulled.as_str()),
            lease_expired: says(condition::kind::LEASE_CURRENT, &[Reason::LeaseExpired, Reason::FallbackInForce]),
        }
    }

    /// What the journal left, unless it left nothing although there was an earlier life to write it.
    #[must_use]
    pub fn check(&self, originals: &Originals) -> Originals {
        let silent = originals.untouched() && self.acknowledged.is_some() && !self.released;
        if silent { Originals::unknown() } else { originals.clone() }
    }
}

/// What the orders stand under, as far as it is known.
#[derive(Clone, Copy, Debug)]
pub struct Circumstances<'a> {
    /// Whose the node is.
    pub ownership: &'a Ownership,
    /// The domains' brakes.
    pub brakes: &'a Brakes,
    /// The lease's renewals.
    pub renewals: &'a Renewals,
    /// What was before.
    pub earlier: &'a Earlier,
}

/// Remembers what the orders were while the lease was current.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Standing {
    held: Option<Arc<Orders>>,
    since: Option<Duration>,
}

impl Standing {
    /// The orders as they stand now; `None`: nothing may be touched. `now` counts from the agent's start.
    pub fn next(&mut self, orders: &Arc<Orders>, at: Circumstances<'_>, now: Duration) -> Option<Orders> {
        let waited = now.saturating_sub(*self.since.get_or_insert(now));
        let known = match at.ownership {
            Ownership::Another => return None,
            // A disk that hangs: lowering waits for no disk.
            Ownership::Asking => now >= PATIENCE,
            Ownership::Ours(_) => true,
        };
        let brakes_known = at.brakes.listed || orders.domains.is_empty() || (waited >= PATIENCE && !at.earlier.braked);
        if !known || !brakes_known {
            return None;
        }
        let verdict = at.renewals.verdict(orders.lease.as_ref(), now);
        if verdict == Verdict::Current {
            self.held = Some(Arc::clone(orders));
        }
        Some(orders.under(verdict, at.brakes.over(&orders.domains), self.held.as_deref()))
    }
}
