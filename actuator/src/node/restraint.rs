//! What stands over the orders: a lease that ran out, a brake that is pulled.
//!
//! What must hold: a restraint only ever lowers. What it leaves of the orders is stricter than they are
//! in every respect, so that limits read back under it hold under the orders too, and may be
//! acknowledged as such. A brake stands over a release; silence does not.

use powercap_common::{
    api::Brake,
    reason::Reason,
    units::{Megahertz, Watts},
};

use super::{
    brake::Pull,
    lease::Verdict,
    orders::{BoardCeiling, CpuCeiling, Orders, stricter},
};

/// What stands over the orders.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Restraint {
    /// Alternating current of the node.
    pub limit: Option<Watts>,
    /// Every device goes down to its lowest.
    pub minimum: bool,
    /// Why.
    pub reason: Option<Reason>,
    /// What the lease has to do with it, whatever a brake does.
    pub lease: Option<Reason>,
}

/// The lowest that a board does: each board clamps it to what it takes.
static LOWEST_BOARD: BoardCeiling = BoardCeiling {
    clock: Some(Megahertz::new(0)),
    limit: Some(Watts::ZERO),
    shed_order: 0,
    group: None,
    reason: Reason::BrakePulled,
};
/// The lowest that CPUs do.
static LOWEST_CPU: CpuCeiling = CpuCeiling { clock: Megahertz::new(0), reason: Reason::BrakePulled };

impl Orders {
    /// The ceiling of a board that stands now.
    #[must_use]
    pub fn ceiling(&self, uuid: &str) -> Option<&BoardCeiling> {
        if self.restraint.minimum { Some(&LOWEST_BOARD) } else { self.boards.get(uuid) }
    }

    /// The ceiling of a cpufreq policy that stands now.
    #[must_use]
    pub fn cpu_ceiling(&self, policy: u32) -> Option<&CpuCeiling> {
        if self.restraint.minimum { Some(&LOWEST_CPU) } else { self.cpus.get(&policy) }
    }

    /// Alternating current that the node may draw now; `None`: nothing limits it.
    #[must_use]
    pub fn limit(&self) -> Option<Watts> {
        stricter(self.grant, self.restraint.limit)
    }

    /// These orders under a lease and a brake. `held` are the orders that were in force while the lease
    /// was current.
    #[must_use]
    pub fn under(&self, lease: Verdict, brake: Pull, held: Option<&Self>) -> Self {
        let mut orders = self.clone();
        orders.restraint = Restraint::default();
        match lease {
            Verdict::Hold if !self.release => orders.hold(held),
            Verdict::Fallback(fallback) if !self.release => {
                orders.restrain(Some(fallback), Reason::FallbackInForce);
            }
            // A release is somebody's word, and needs no lease.
            Verdict::Current | Verdict::Hold | Verdict::Fallback(_) => {}
        }
        orders.restraint.lease = match lease {
            Verdict::Current => None,
            Verdict::Fallback(_) if !self.release => Some(Reason::FallbackInForce),
            Verdict::Hold | Verdict::Fallback(_) => Some(Reason::LeaseExpired),
        };
        let fallback = stricter(brake.fallback, self.lease.and_then(|terms| terms.fallback));
        match (brake.level, fallback) {
            (Brake::None, _) => return orders,
            (Brake::Fallback, Some(fallback)) => orders.restrain(Some(fallback), Reason::BrakePulled),
            (Brake::Fallback, None) | (Brake::Minimum, _) => {
                orders.restrain(None, Reason::BrakePulled);
                orders.restraint.minimum = true;
            }
        }
        orders.release = false;
        orders
    }

    fn restrain(&mut self, limit: Option<Watts>, reason: Reason) {
        self.restraint.limit = stricter(self.restraint.limit, limit);
        self.restraint.reason = Some(reason);
    }

    /// Nothing is raised beyond what `held` allows: of each ceiling in both the stricter, and every one
    /// that stands in either.
    fn hold(&mut self, held: Option<&Self>) {
        self.restrain(held.and_then(|held| held.grant), Reason::LeaseExpired);
        let Some(held) = held else { return };
        self.overhead.fixed = self.overhead.fixed.max(held.overhead.fixed);
        self.overhead.percent = self.overhead.percent.max(held.overhead.percent);
        for (uuid, ceiling) in &held.boards {
            let place = self.boards.entry(uuid.clone()).or_insert_with(|| ceiling.clone());
            place.clock = stricter(place.clock, ceiling.clock);
            place.limit = stricter(place.limit, ceiling.limit);
        }
        for (policy, ceiling) in &held.cpus {
            let place = self.cpus.entry(*policy).or_insert(*ceiling);
            place.clock = place.clock.min(ceiling.clock);
        }
    }
}
