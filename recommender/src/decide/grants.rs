//! Conservation: what may be written of the grants that an algorithm wishes for.
//!
//! A node is *committed* for the highest grant from the epoch that it last acknowledged on. Must hold,
//! in every domain: no write raises Σ committed above the budget (the cap less the unmanaged watts).
//!
//! ```text
//!   wish below the grant, or a first grant ──▶ write it now; the commitment stands until acknowledged
//!   wish above the grant ──▶ all commitments known?  all nodes rewritten in our term?  does it fit?
//!                              └── no to any: hold          └── yes: write it; the commitment rises now
//! ```
//!
//! After a cut or a join Σ committed may exceed the budget: nothing is raised then, so that it only
//! falls, until it fits. A node that has acknowledged nothing may be drawing anything: its commitment
//! is unknown (`None`), and nobody in its domains is raised.

use powercap_common::{api::NodeFrequencies, units::Watts};

/// Raises smaller than this wait for more room: each costs a write.
const LEAST_RAISE: Watts = Watts::new(10);

/// What a write without a limit counts with while nobody knows whether it arrived: a release that may
/// yet come leaves a node of unknown commitment.
pub const NO_LIMIT: Watts = Watts::from_milliwatts(u64::MAX);

/// One node, as conservation sees it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Holding {
    /// The grant in its spec.
    pub granted: Option<Watts>,
    /// What it may be drawing under what it was promised; `None` when nobody knows.
    pub committed: Option<Watts>,
    /// Whether its spec is of the present leader's term, so that no earlier leader's write can still land.
    pub in_term: bool,
    /// It has booted since it acknowledged anything: its limits are lost.
    pub booted: bool,
    /// A write to it got no answer: it may have arrived, or may yet.
    pub unanswered: bool,
}

/// One domain's watts for nodes, and which nodes (by index) share them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Budget {
    /// The cap less the unmanaged watts.
    pub watts: Watts,
    /// Indices of its nodes.
    pub members: Vec<usize>,
}

impl Holding {
    /// What a node's object says, in the term of the present leader. `boot_id` is what the node's kubelet
    /// says, if anything; `uncertain` is a grant that was sent and of which nobody knows whether it arrived.
    #[must_use]
    pub fn of(frequencies: &NodeFrequencies, boot_id: &str, term: i64, uncertain: Option<Watts>) -> Self {
        let spec = &frequencies.spec;
        let status = frequencies.status.as_ref();
        // The agent speaks of an earlier boot, or of this one and has acknowledged nothing in it.
        let of_this_boot = status
            .and_then(|status| status.boot_id.as_deref())
            .is_none_or(|reported| boot_id.is_empty() || reported == boot_id);
        let acknowledged = status.and_then(|status| status.acknowledged).filter(|_| of_this_boot);
        let booted = status.is_some() && acknowledged.is_none() && spec.committed_watts.is_some();
        let holds = acknowledged.is_some_and(|acknowledged| {
            acknowledged.epoch == spec.epoch && acknowledged.power_limit_watts == spec.power_limit_watts
        });
        // Never acknowledged: nobody knows what it draws, whatever it was granted since.
        let highest = spec.committed_watts.map(|watts| watts.max(spec.power_limit_watts.unwrap_or_default()));
        let committed = if holds { spec.power_limit_watts } else { highest.filter(|_| !booted) };
        Self {
            granted: spec.power_limit_watts.map(Watts::new),
            // Without a limit, or released, a node draws what it likes, whatever it acknowledged.
            committed: spec
                .power_limit_watts
                .filter(|_| !spec.release && uncertain != Some(NO_LIMIT))
                .and(committed)
                .map(|committed| Watts::new(committed).max(uncertain.unwrap_or_default())),
            in_term: spec.epoch.term == term,
            booted,
            unanswered: uncertain.is_some(),
        }
    }

    /// A node that lost its limits at a boot counts with the most that it can draw.
    #[must_use]
    pub fn with_nameplate(self, nameplate: Option<Watts>) -> Self {
        let counts = nameplate.filter(|_| self.booted && self.granted.is_some());
        Self {
            committed: counts
                .map_or(self.committed, |nameplate| Some(self.committed.unwrap_or_default().max(nameplate))),
            ..self
        }
    }

    /// What the node is committed for once this grant is written.
    #[must_use]
    pub fn after(self, grant: Watts) -> Option<Watts> {
        self.committed.map(|committed| committed.max(grant))
    }
}

/// The grants that may stand now, given what is wished for (`None`: nothing limits this node).
#[must_use]
pub fn permitted(holdings: &[Holding], budgets: &[Budget], wishes: &[Option<Watts>]) -> Vec<Option<Watts>> {
    let mut grants: Vec<Option<Watts>> = holdings
        .iter()
        .zip(wishes)
        .map(|(holding, wish)| wish.map(|wish| holding.granted.map_or(wish, |granted| granted.min(wish))))
        .collect();
    let mut rooms: Vec<Option<Watts>> = budgets.iter().map(|budget| room(budget, holdings)).collect();
    let mut budgets_of = vec![Vec::new(); holdings.len()];
    for (at, budget) in budgets.iter().enumerate() {
        for &member in &budget.members {
            budgets_of[member].push(at);
        }
    }
    for (node, holding) in holdings.iter().enumerate() {
        let (Some(wish), Some(grant), Some(committed)) = (wishes[node], grants[node], holding.committed) else {
            continue;
        };
        let room = budgets_of[node].iter().map(|&at| rooms[at]).min().flatten();
        let Some(room) = room.filter(|_| wish > grant) else { continue };
        let raised = wish.min(Watts::new((committed + room).floor()));
        if raised < wish && raised.saturating_sub(grant) < LEAST_RAISE.max(wish.percent(1)) {
            continue;
        }
        let raised = raised.max(grant);
        for &at in &budgets_of[node] {
            rooms[at] = rooms[at].map(|room| room.saturating_sub(raised.saturating_sub(committed)));
        }
        grants[node] = Some(raised);
    }
    grants
}

/// What may be raised in a domain altogether; `None` forbids every raise.
fn room(budget: &Budget, holdings: &[Holding]) -> Option<Watts> {
    let mut committed = Watts::ZERO;
    for &member in &budget.members {
        if !holdings[member].in_term {
            return None;
        }
        committed = committed + holdings[member].committed?;
    }
    (committed <= budget.watts).then(|| budget.watts.saturating_sub(committed))
}
