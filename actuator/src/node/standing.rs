//! From the orders as they were written to the orders as they stand now: under the lease, the brakes and
//! the lock of the node.
//!
//! What must hold: nothing is touched before it is known that the node is ours and how hard its domains
//! brake; where that cannot be learnt, nothing is waited for longer than [`PATIENCE`], save for a brake
//! that an earlier life of this agent obeyed. A restart raises nothing: what an earlier life of the same
//! boot knew and said in the status, the next one begins with.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use powercap_common::{
    api::{Acknowledged, GpuStatus, NodeFrequenciesStatus},
    condition,
    reason::Reason,
    units::{Megahertz, Watts},
};

use super::{
    brake::Brakes,
    decide::{Doubt, State},
    journal::Ownership,
    lease::{Renewals, Verdict},
    orders::{BoardCeiling, CpuCeiling, Orders},
    originals::Originals,
};

/// How long orders wait for the first list of domains, and for the lock of the node.
pub const PATIENCE: Duration = Duration::from_secs(2);

/// What an earlier life of this agent has left in the status.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Earlier {
    /// What it acknowledged since the node booted.
    pub acknowledged: Option<Acknowledged>,
    /// It had put everything back.
    pub released: bool,
    /// It obeyed a brake.
    pub braked: bool,
    /// It saw the lease expire.
    pub lease_expired: bool,
    /// The envelope and the ceilings that it told last, which stand while that lease is expired.
    pub stood: Orders,
    /// Boards that it had yielded, or that did not keep to what they were told.
    pub doubts: BTreeMap<Arc<str>, Doubt>,
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
            stood: stood(status),
            doubts: status.gpus.iter().filter_map(|gpu| Some((gpu.uuid.as_str().into(), doubt(gpu)?))).collect(),
        }
    }

    /// What the first decision of this life remembers, `now` counting from the agent's start. `journal` is
    /// what the disk knows, and `orders` what is asked now.
    #[must_use]
    pub fn resume(&self, journal: &Originals, orders: &Orders, now: Duration) -> State {
        let originals = self.check(journal);
        let released = self.released && orders.release && originals.untouched();
        let state = State::remembering(self.acknowledged).owning(originals).doubting(&self.doubts, now);
        if released { state.released() } else { state }
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
        } else if self.held.is_none() {
            // A life that never saw the lease current holds what the one before it told.
            self.held = Some(Arc::new(at.earlier.stood.over(orders.overhead)));
        }
        Some(orders.under(verdict, at.brakes.over(&orders.domains), self.held.as_deref()))
    }
}

/// What a status tells of envelope and ceilings, as orders. Devices that are not held stay out of it.
fn stood(status: &NodeFrequenciesStatus) -> Orders {
    let reason = Reason::LeaseExpired;
    let held = |reason: &str| reason != Reason::Applied.as_str();
    let boards = status.gpus.iter().filter(|gpu| held(&gpu.reason)).filter_map(|gpu| {
        let clock = gpu.target_graphics_megahertz.map(Megahertz::new);
        let limit = gpu.power_limit_watts.map(Watts::new);
        let ceiling = BoardCeiling { clock, limit, shed_order: 0, group: None, reason };
        (clock.is_some() || limit.is_some()).then(|| (gpu.uuid.as_str().into(), ceiling))
    });
    let cpus = status.cpus.iter().filter(|cpu| held(&cpu.reason)).filter_map(|cpu| {
        let clock = Megahertz::new(cpu.target_megahertz?);
        Some((cpu.cpufreq_policy, CpuCeiling { clock, reason }))
    });
    let envelope = status.envelope_watts.map(Watts::new);
    Orders { grant: envelope, boards: boards.collect(), cpus: cpus.collect(), ..Orders::default() }
}

/// Why a board is not believed, by what the status says of it.
fn doubt(gpu: &GpuStatus) -> Option<Doubt> {
    let (clock, ceiling) = (gpu.current_graphics_megahertz, gpu.target_graphics_megahertz);
    let keeps_its_clock = clock.zip(ceiling).is_some_and(|(clock, ceiling)| clock <= ceiling);
    match gpu.reason.parse() {
        Ok(Reason::Contended) => Some(Doubt::Yielded),
        Ok(Reason::WithoutEffect) if keeps_its_clock => Some(Doubt::LimitIgnored),
        Ok(Reason::WithoutEffect) => Some(Doubt::LimitAndClockIgnored),
        _ => None,
    }
}
