//! Offers: watts that nodes advertise to pods that are not there yet, so that kube-scheduler places by power.
//!
//! ```text
//!   advertised = min(requested now + offer, requested then + offer): pods that came since have used it up
//!
//!   pending pods ─▶ needs: a node for each that could run it ─┐
//!   rooms, caps ──▶ shares: the rest, alike ──────────────────┴▶ wishes ─▶ what conservation permits ─▶ offers
//! ```
//!
//! Offers are conserved by the very rule of grants ([`super::grants`]), in the same measure: alternating
//! current, by each node's overhead. A node is committed for the most that it may advertise under what it was
//! told, and for what it is seen to advertise, whichever is more. Must hold: Σ of that and of what pods may draw
//! beyond their requests is raised above no domain's budget; lowering is at once; what stands and is nearly
//! right stays, so that pods which come and go cost few writes.

use std::{cmp::Reverse, sync::Arc};

use powercap_common::{
    api::{Brake, NodeFrequencies},
    units::Watts,
};

use super::{
    booked::Booked,
    domain::DomainView,
    fits::{fits, less},
    fleet::NodeView,
    grants::{self, Budget, Holding},
    readings::Readings,
    tree::{self, Misplaced},
};
use crate::{
    algorithms::level::{Span, level},
    observation::PendingPod,
};

/// Offers that would change by less than this, and by less than a tenth, stay.
const LEAST_CHANGE: Watts = Watts::new(50);
/// More pods than so many are not looked at: those that come first are placed first.
const PENDING_AT_MOST: usize = 256;

/// What a node is told: `offerWatts` and `requestedWatts` of its spec.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Offer {
    /// Beside what its pods request.
    pub watts: u32,
    /// What its pods requested when it was decided.
    pub requested: u32,
}

impl Offer {
    /// As it stands in the node's spec, if the node was told one.
    pub fn told(frequencies: &NodeFrequencies) -> Option<Self> {
        let spec = &frequencies.spec;
        Some(Self { watts: spec.offer_watts?, requested: spec.requested_watts.unwrap_or_default() })
    }

    /// The most that the node advertises under it.
    pub fn total(self) -> u32 {
        self.watts.saturating_add(self.requested)
    }

    /// What of it is left when pods request this much.
    pub fn left(self, requested: Watts) -> Watts {
        Watts::new(self.watts).min(Watts::new(self.total()).saturating_sub(requested))
    }
}

/// What may be advertised once the offer is written: what was already, until the node has acknowledged it.
pub fn committed(frequencies: Option<&NodeFrequencies>, offer: Option<Offer>) -> Option<u32> {
    let before = frequencies.map(outstanding).unwrap_or_default();
    Some(before.max(offer.map(Offer::total).unwrap_or_default())).filter(|watts| *watts > 0)
}

/// The most that a node may advertise under what it was told so far.
fn outstanding(frequencies: &NodeFrequencies) -> u32 {
    let told = Offer::told(frequencies).map(Offer::total).unwrap_or_default();
    let acknowledged = frequencies.status.as_ref().and_then(|status| status.acknowledged);
    let holds = acknowledged.is_some_and(|acknowledged| acknowledged.epoch == frequencies.spec.epoch);
    if holds { told } else { told.max(frequencies.spec.committed_offer_watts.unwrap_or_default()) }
}

/// What each node is told from now on, by its index; `None`: nothing, as no domain limits it.
pub fn offers(domains: &[DomainView], booked: &[Booked], readings: &Readings<'_>) -> Vec<Option<Offer>> {
    let budgets: Vec<_> = domains.iter().map(DomainView::budget).collect();
    let stalls: Vec<_> = stalls(domains, booked, readings);
    let needs = needs(domains, &budgets, &stalls, readings);
    let shares = shares(domains, &budgets, &stalls, &needs);
    let budgets: Vec<_> = budgets.into_iter().flatten().collect();
    let settled = wishes(&budgets, &stalls, &needs, &shares, Others::Stay);
    let permitted = permitted(&budgets, &stalls, &settled);
    let met = |(stall, need): (usize, &Watts)| permitted[stall].left(stalls[stall].booked.requested) >= *need;
    let permitted = if needs.iter().enumerate().all(met) {
        permitted
    } else {
        let wishes = wishes(&budgets, &stalls, &needs, &shares, Others::MakeRoom);
        self::permitted(&budgets, &stalls, &wishes)
    };
    stalls.iter().zip(permitted).map(|(stall, offer)| stall.limited.then_some(offer)).collect()
}

/// A node, as far as its offer goes.
struct Stall<'a> {
    node: &'a NodeView<'a>,
    booked: Booked,
    /// What it was told.
    told: Offer,
    /// What new pods find there now.
    standing: Watts,
    /// The most that it may offer.
    room: Watts,
    /// Whether a domain limits it.
    limited: bool,
    /// Nothing is raised there: a cap above may be unknown.
    holds: bool,
    /// As conservation sees it.
    holding: Holding,
}

impl Stall<'_> {
    /// What the node may draw with pods that request this much.
    fn power(&self, requested: Watts) -> Watts {
        self.node.overhead.node_power(requested + self.booked.beyond)
    }

    /// What an offer adds to that.
    fn price(&self, offer: Watts) -> Watts {
        self.power(self.booked.requested + offer).saturating_sub(self.power(self.booked.requested))
    }

    /// The offer that costs so much, in whole watts.
    fn worth(&self, price: Watts) -> Watts {
        let power = self.power(self.booked.requested) + price;
        let devices = self.node.overhead.envelope(power);
        Watts::new(devices.saturating_sub(self.booked.reserved()).floor())
    }
}

fn stalls<'a>(domains: &[DomainView], booked: &[Booked], readings: &Readings<'a>) -> Vec<Stall<'a>> {
    let &Readings { fleet, observation, now, .. } = readings;
    let mut limited = vec![false; fleet.nodes.len()];
    let mut holds = vec![false; fleet.nodes.len()];
    let mut closed = vec![false; fleet.nodes.len()];
    for view in domains {
        let hides = view.unmanaged.unknown || view.misplaced.as_ref().is_some_and(Misplaced::hides_a_cap);
        for &at in &view.members {
            limited[at] = true;
            holds[at] |= hides || view.domain.is_err();
            closed[at] |= is_braked(view);
        }
    }
    let stall = |(at, (node, booked)): (usize, (&'a NodeView<'a>, &Booked))| {
        let frequencies = node.frequencies;
        let told = frequencies.and_then(Offer::told).unwrap_or_default();
        let released = frequencies.is_none_or(|object| object.spec.release);
        let silent = observation.agent_is_silent(node.name, frequencies, now);
        let open = limited[at] && !closed[at] && !released && !silent && !node.facts.unschedulable;
        let room = node.devices_maximum().filter(|_| open).unwrap_or_default().saturating_sub(booked.reserved());
        let mut stall = Stall {
            node,
            booked: *booked,
            told,
            standing: told.left(booked.requested),
            room: Watts::new(room.floor()),
            limited: limited[at],
            holds: holds[at],
            holding: Holding::default(),
        };
        let advertised = node.facts.advertised.unwrap_or_default();
        let outstanding = frequencies.map(|object| Watts::new(outstanding(object))).unwrap_or_default();
        let most = stall.power(outstanding.max(advertised).max(booked.requested));
        // One that lost its limits at a boot may draw anything, as for grants.
        let booted = node.holding.committed.filter(|_| node.holding.booted).unwrap_or_default();
        stall.holding = Holding {
            granted: Some(stall.power(Watts::new(told.total()).max(booked.requested))),
            committed: node.holding.committed.filter(|_| !node.holding.unanswered).map(|_| most.max(booted)),
            ..node.holding
        };
        stall
    };
    fleet.nodes.iter().zip(booked).enumerate().map(stall).collect()
}

fn is_braked(view: &DomainView) -> bool {
    let by_us = view.object.status.as_ref().and_then(|status| status.brake.as_ref());
    view.object.spec.brake.max(by_us.map(|brake| brake.level).unwrap_or_default()) != Brake::None
}

/// What each node must offer, so that each pending pod finds a place that could run it, if there is any: the
/// node that offers most already, so that little moves.
fn needs(
    domains: &[DomainView],
    budgets: &[Option<Budget>],
    stalls: &[Stall<'_>],
    readings: &Readings<'_>,
) -> Vec<Watts> {
    let mut needs = vec![Watts::ZERO; stalls.len()];
    let waiting = |pod: &&PendingPod| pod.node.is_none() && pod.requests.watts > Watts::ZERO;
    let mut waiting: Vec<_> = readings.observation.pending.iter().map(Arc::as_ref).filter(waiting).collect();
    waiting.sort_by_key(|pod| (Reverse(pod.priority), pod.created, &pod.name));
    if waiting.is_empty() {
        return needs;
    }
    let around = around(domains, stalls.len());
    let mut rooms: Vec<_> = budgets.iter().map(|budget| budget.as_ref().map(|budget| free(budget, stalls))).collect();
    let mut left: Vec<_> = stalls.iter().map(|stall| stall.booked.left).collect();
    for pod in waiting.into_iter().take(PENDING_AT_MOST) {
        let with = |at: usize| needs[at] + pod.requests.watts;
        // In whole watts, as grants are made: what is missed by a part of one is missed.
        let price = |at: usize| {
            Watts::new(stalls[at].price(with(at)).saturating_sub(stalls[at].price(needs[at])).ceil().saturating_add(1))
        };
        let could = |at: &usize| {
            let (at, stall) = (*at, &stalls[*at]);
            with(at) <= if stall.holds { stall.standing } else { stall.room }
                && fits(pod, stall.node, &left[at])
                && around[at].iter().all(|&domain| rooms[domain].is_none_or(|room| price(at) <= room))
        };
        let offers_most = |at: &usize| (stalls[*at].standing.saturating_sub(needs[*at]), Reverse(*at));
        let Some(at) = (0..stalls.len()).filter(could).max_by_key(offers_most) else { continue };
        let taken = price(at);
        for &domain in &around[at] {
            rooms[domain] = rooms[domain].map(|room| room.saturating_sub(taken));
        }
        needs[at] = with(at);
        left[at] = less(left[at], &pod.requests);
    }
    needs
}

/// The domains of each node.
fn around(domains: &[DomainView], nodes: usize) -> Vec<Vec<usize>> {
    let mut around = vec![Vec::new(); nodes];
    for (domain, view) in domains.iter().enumerate() {
        view.members.iter().for_each(|&at| around[at].push(domain));
    }
    around
}

/// What a domain has beyond what its nodes' pods may draw.
fn free(budget: &Budget, stalls: &[Stall<'_>]) -> Watts {
    let taken = budget.members.iter().map(|&at| stalls[at].power(stalls[at].booked.requested)).sum();
    budget.watts.saturating_sub(taken)
}

/// What each node would offer if all was shared out anew: its need, and of the rest as much as any other, as far
/// as it has room; what one domain cannot use goes to the others around it.
fn shares(domains: &[DomainView], budgets: &[Option<Budget>], stalls: &[Stall<'_>], needs: &[Watts]) -> Vec<Watts> {
    let mut most: Vec<_> = stalls.iter().map(|stall| stall.price(stall.room)).collect();
    for domain in tree::leaves_first(domains) {
        let Some(budget) = &budgets[domain] else { continue };
        let span = |&at: &usize| Span { size: 1, from: stalls[at].price(needs[at]).min(most[at]), to: most[at] };
        let spans: Vec<_> = budget.members.iter().map(span).collect();
        let level = level(free(budget, stalls), &spans);
        for (&at, span) in budget.members.iter().zip(&spans) {
            most[at] = span.at(level);
        }
    }
    let share = |(at, price): (usize, Watts)| stalls[at].worth(price).max(needs[at]).min(stalls[at].room);
    most.into_iter().enumerate().map(share).collect()
}

/// What becomes of those that no pending pod needs more of.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Others {
    /// They stay as they are.
    Stay,
    /// They go down to their shares.
    MakeRoom,
}

/// What each node is wished to offer. While pods wait, nobody is raised whom they do not need.
fn wishes(budgets: &[Budget], stalls: &[Stall<'_>], needs: &[Watts], shares: &[Watts], others: Others) -> Vec<Offer> {
    let pressed = |at: usize| needs[at] > stalls[at].standing;
    let mut presses = vec![false; stalls.len()];
    let mut over = vec![false; stalls.len()];
    for budget in budgets {
        let granted: Option<Watts> = budget.members.iter().map(|&at| stalls[at].holding.granted).sum();
        let (full, short) = (granted > Some(budget.watts), budget.members.iter().any(|&at| pressed(at)));
        for &at in &budget.members {
            (over[at], presses[at]) = (over[at] || full, presses[at] || short);
        }
    }
    let wish = |(at, stall): (usize, &Stall<'_>)| {
        let (need, share) = (needs[at], shares[at]);
        if over[at] || (presses[at] && others == Others::MakeRoom) {
            // Somewhat lower than need be: the next watt that is missed costs no write then.
            return stall.offering(stall.standing.min(share.percent(95)).max(need));
        }
        if stall.holds {
            return stall.offering(stall.standing.min(share).max(need));
        }
        if presses[at] {
            return stall.offering(stall.standing.min(stall.room).max(need));
        }
        if stall.is_close_to(share) { stall.told } else { stall.offering(share) }
    };
    stalls.iter().enumerate().map(wish).collect()
}

impl Stall<'_> {
    /// This much beside what pods request now; what stands, where that is the same.
    fn offering(&self, watts: Watts) -> Offer {
        let offer = Offer { watts: watts.floor(), requested: self.booked.requested.ceil() };
        let same =
            self.told.left(self.booked.requested) == Watts::new(offer.watts) && self.told.total() == offer.total();
        if same { self.told } else { offer }
    }

    /// Whether what stands is nearly this share, both in what it offers and in what it may come to advertise.
    fn is_close_to(&self, share: Watts) -> bool {
        let close = |one: Watts, other: Watts| {
            one.saturating_sub(other).max(other.saturating_sub(one)) <= LEAST_CHANGE.max(share.percent(10))
        };
        close(self.standing, share)
            && close(Watts::new(self.told.total()), self.booked.requested + share)
            && self.standing <= self.room
            && (self.standing > Watts::ZERO || share == Watts::ZERO)
    }
}

/// What of the wishes conservation permits.
fn permitted(budgets: &[Budget], stalls: &[Stall<'_>], wishes: &[Offer]) -> Vec<Offer> {
    let holdings: Vec<_> = stalls.iter().map(|stall| stall.holding).collect();
    let power =
        |(stall, wish): (&Stall<'_>, &Offer)| Some(stall.power(Watts::new(wish.total()).max(stall.booked.requested)));
    let powers: Vec<_> = stalls.iter().zip(wishes).map(power).collect();
    let grants = grants::permitted(&holdings, budgets, &powers);
    let offer = |at: usize| {
        let (stall, wish) = (&stalls[at], wishes[at]);
        if grants[at] == powers[at] {
            return wish;
        }
        let price = grants[at].unwrap_or_default().saturating_sub(stall.power(stall.booked.requested));
        stall.offering(stall.worth(price).min(Watts::new(wish.watts)))
    };
    (0..stalls.len()).map(offer).collect()
}
