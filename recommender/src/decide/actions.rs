//! What is to be done to workloads beyond lower clocks: who, and why.
//!
//! ```text
//!   policies ─▶ need, rung (ladder) ─▶ victims ─▶ as many as free the excess ─▶ pending ──┐ what these will free,
//!   domains, the innermost first ─▶ need ─▶ victims of policies that enforce and permit ◀─┘ and who they are
//! ```
//!
//! A policy that is above its own cap acts on its own pods, by its clocks or its ladder; a domain counts what that
//! will free before it names anybody else. The recommender names; the escalating actuator acts.
//!
//! Must hold: nothing is listed that the pod's own policy does not permit; without readings nobody is added; a
//! policy without a ladder, and one within its cap, costs nothing here.

use std::{cell::OnceCell, collections::BTreeSet};

use powercap_common::{
    api::{Action, Mode, PendingAction, PowerScope},
    condition::Truth,
    policy::Policy,
    units::Watts,
};

use super::{
    Judged,
    accounted::accounted,
    domain::{self, DomainView},
    ladder::{Load, Need, permits, rungs_left},
    overlap,
    pending::{Listed, Pending},
    policy::PolicyView,
    readings::Readings,
    tree,
    verdict::{FloorReached, Verdict},
    victims::{Permits, Pods, Victim, Workloads},
};
use crate::observation::PodName;

/// Of every policy and every domain, by their places.
#[derive(Default)]
pub struct Actions {
    /// Of the policies.
    pub policies: Vec<Pending>,
    /// Of the domains.
    pub domains: Vec<Pending>,
}

/// What is to be done.
pub fn pending<'a>(judged: &Judged<'a>, domains: &[DomainView], readings: &Readings<'a>) -> Actions {
    let site = Site { judged, readings, workloads: OnceCell::new(), permits: OnceCell::new() };
    let mut ledger = Ledger { freed: vec![Watts::ZERO; readings.fleet.nodes.len()], taken: BTreeSet::new() };
    let of_policy = |at| site.turn(at).map(|turn| turn.pending(&mut ledger)).unwrap_or_default();
    let policies = (0..judged.len()).map(of_policy).collect();
    let (steps, freezes) = (OnceCell::new(), OnceCell::new());
    let mut actions = Actions { policies, domains: vec![Pending::default(); domains.len()] };
    for at in tree::leaves_first(domains) {
        let steps = || steps.get_or_init(|| Candidates::of(&site, |turn| turn.victims(&turn.pods(true, 1.0))));
        let frozen = |turn: &Turn<'_, '_, 'a>| match permits(turn.policy, Action::Freeze) {
            true => turn.pods(true, 1.0).victims(Action::Freeze),
            false => Vec::new(),
        };
        let freezes = || freezes.get_or_init(|| Candidates::of(&site, frozen));
        actions.domains[at] = of_domain(&domains[at], (steps, freezes), &mut ledger, readings);
    }
    actions
}

/// What is asked for once something is to be done at all.
struct Site<'s, 'a> {
    judged: &'s Judged<'a>,
    readings: &'s Readings<'a>,
    workloads: OnceCell<Workloads<'a>>,
    permits: OnceCell<Permits<'s>>,
}

impl<'s, 'a> Site<'s, 'a> {
    fn workloads(&self) -> &Workloads<'a> {
        self.workloads.get_or_init(|| Workloads::of(&self.readings.observation.pods))
    }

    fn permits(&self) -> &Permits<'s> {
        self.permits.get_or_init(|| {
            let order = overlap::precedence(self.judged.iter().map(|(view, _)| view));
            let judged = order.into_iter().filter(|at| self.judged[*at].1.is_some());
            Permits::of(judged.map(|at| (at, &self.judged[at].0)))
        })
    }

    /// The policy at this place, if it was judged.
    fn turn(&self, at: usize) -> Option<Turn<'_, 's, 'a>> {
        let (view, verdict) = &self.judged[at];
        Some(Turn { site: self, at, view, policy: view.policy.as_ref().ok()?, verdict: verdict.as_ref()? })
    }
}

/// What will be freed by those who come first, at each node's devices, and whom they act on.
struct Ledger<'a> {
    freed: Vec<Watts>,
    taken: BTreeSet<&'a PodName>,
}

impl<'a> Ledger<'a> {
    fn note(&mut self, victims: &[Victim<'a>]) {
        for (pod, node, watts) in victims.iter().flat_map(|victim| &victim.pods) {
            self.taken.insert(pod);
            self.free(*node, *watts);
        }
    }

    fn free(&mut self, node: Option<usize>, watts: Watts) {
        if let Some(freed) = node.and_then(|at| self.freed.get_mut(at)) {
            *freed = *freed + watts;
        }
    }
}

/// One policy that was judged.
struct Turn<'t, 's, 'a> {
    site: &'t Site<'s, 'a>,
    at: usize,
    view: &'s PolicyView<'a>,
    policy: &'s Policy,
    verdict: &'s Verdict<'a>,
}

impl<'t, 'a> Turn<'t, '_, 'a> {
    fn pending(&self, ledger: &mut Ledger<'a>) -> Pending {
        let status = self.view.object.status.as_ref();
        let listed = Listed::of(status.map(|status| status.pending_actions.as_slice()).unwrap_or_default());
        let (load, part) = self.load();
        let need = load.need(listed.since(true), self.site.readings.now);
        let steps = match need {
            Need::Nothing => {
                self.count_throttle(&load, ledger);
                Vec::new()
            }
            Need::Unknown => listed.held(true, |pending| self.still_stands(pending)),
            Need::Stands { excess, since } => {
                let chosen = listed.choose(self.victims(&self.pods(self.counts_cpus(), part)), excess, self.policy.cap);
                if self.view.enforces() {
                    ledger.note(&chosen);
                }
                chosen.iter().map(|victim| listed.entry(victim, since)).collect()
            }
        };
        let frozen = self.frozen(&listed, !steps.is_empty());
        Pending::of(frozen, steps, status.map_or(0, |status| status.pending_action_count))
    }

    fn counts_cpus(&self) -> bool {
        self.policy.scope == PowerScope::DevicesAndHost
    }

    fn pods(&self, host: bool, part: f64) -> Pods<'t, 'a> {
        let which = (self.at, self.view, self.policy);
        let site = self.site;
        Pods::of(which, self.verdict, (site.permits(), site.workloads()), (host, part), site.readings)
    }

    /// Those of the first rung that is not exhausted and has any.
    fn victims(&self, pods: &Pods<'_, 'a>) -> Vec<Victim<'a>> {
        let escalated = self.view.object.status.as_ref().and_then(|status| status.escalated.as_ref());
        let mut rungs = rungs_left(self.policy, escalated).map(|rung| pods.victims(rung));
        rungs.find(|victims| !victims.is_empty()).unwrap_or_default()
    }

    /// Its power against its cap, and the part of its devices' power that is left at their lowest clocks. Where it
    /// only advises nobody lowers them: that is reckoned.
    fn load(&self) -> (Load, f64) {
        let Verdict { power, floor, performance_floor, for_devices, beside, floor_reached, .. } = self.verdict;
        let power = power.as_ref().ok().copied();
        let above = power.unwrap_or_default().saturating_sub(self.policy.cap);
        let load = Load { power, excess: above, release: self.policy.release_threshold, floor: *floor_reached };
        if self.view.enforces() {
            return (load, 1.0);
        }
        let floor = performance_floor.as_ref().map_or(*floor, |(floor, _)| *floor);
        let devices = power.unwrap_or_default().saturating_sub(beside.host + beside.shared);
        let part = if devices > floor { floor.as_f64() / devices.as_f64() } else { 1.0 };
        (Load { excess: above.min(floor.saturating_sub(*for_devices)), ..load }, part)
    }

    /// While clocks can go lower, these free what is above the cap.
    fn count_throttle(&self, load: &Load, ledger: &mut Ledger<'a>) {
        let Some(power) = load.power.filter(|power| *power > Watts::ZERO && load.excess > Watts::ZERO) else { return };
        if !self.view.enforces() || load.floor == FloorReached::Measured {
            return;
        }
        let part = load.excess.as_f64() / power.as_f64();
        let readings = self.site.readings;
        for board in &self.view.devices {
            let Ok(counted) = readings.of_board(board) else { continue };
            ledger.free(board.node, counted.power.value.scaled(part));
        }
    }

    /// No workload grows from the first throttle on, until nothing is throttled and no higher rung stands.
    fn frozen(&self, listed: &Listed<'_>, higher: bool) -> Vec<PendingAction> {
        let before = listed.since(false);
        if !permits(self.policy, Action::Freeze) {
            return Vec::new();
        }
        if self.verdict.power.is_err() {
            return listed.held(false, |pending| self.still_stands(pending));
        }
        let status = self.view.object.status.as_ref();
        let escalated = status.and_then(|status| status.escalated.as_ref());
        let higher = higher || escalated.is_some_and(|escalated| escalated.rung > Action::Freeze);
        let throttled = self.verdict.triggered == Truth::True;
        if !throttled && (before.is_none() || !higher && self.verdict.ceilings.lowest.is_none()) {
            return Vec::new();
        }
        let now = self.site.readings.now;
        let since = before.map_or(now, |before| before.min(now));
        let victims = self.pods(self.counts_cpus(), 1.0).victims(Action::Freeze);
        victims.iter().map(|victim| listed.entry(victim, since)).collect()
    }

    /// Whether what is listed is permitted, and whom it names is there.
    fn still_stands(&self, pending: &PendingAction) -> bool {
        let workloads = self.site.workloads();
        permits(self.policy, pending.action)
            && self.view.pods.iter().map(|pod| &pod.facts.name).any(|pod| match &pending.pod {
                Some(name) => pod.name == *name,
                None => workloads.workload(pod) == pending.workload,
            })
    }
}

/// Whom domains may name, indexed by their nodes.
struct Candidates<'a> {
    victims: Vec<Victim<'a>>,
    at_node: Vec<Vec<usize>>,
}

impl<'a> Candidates<'a> {
    fn of(site: &Site<'_, 'a>, victims: impl Fn(&Turn<'_, '_, 'a>) -> Vec<Victim<'a>>) -> Self {
        let turns = (0..site.judged.len()).filter_map(|at| site.turn(at));
        let enforced = turns.filter(|turn| turn.policy.mode == Mode::Enforce && !turn.policy.ladder.is_empty());
        let victims: Vec<_> = enforced.flat_map(|turn| victims(&turn)).collect();
        let mut at_node = vec![Vec::new(); site.readings.fleet.nodes.len()];
        for (at, victim) in victims.iter().enumerate() {
            for node in victim.pods.iter().filter_map(|(_, node, _)| *node) {
                at_node[node].push(at);
            }
        }
        Self { victims, at_node }
    }

    /// Those with pods on these nodes.
    fn on(&self, nodes: &BTreeSet<usize>) -> impl Iterator<Item = &Victim<'a>> {
        let here: BTreeSet<_> = nodes.iter().flat_map(|node| &self.at_node[*node]).collect();
        here.into_iter().map(|at| &self.victims[*at])
    }

    /// Those that nobody acts on yet, each with what it frees there.
    fn free_on(&self, nodes: &BTreeSet<usize>, ledger: &Ledger<'_>) -> Vec<Victim<'a>> {
        let free = self.on(nodes).filter(|victim| !victim.pods.iter().any(|(pod, ..)| ledger.taken.contains(pod)));
        let there = |victim: &Victim<'a>| {
            let on = victim.pods.iter().filter(|(_, node, _)| node.is_some_and(|node| nodes.contains(&node)));
            let frees = on.map(|(_, _, watts)| *watts).sum();
            Victim { frees, ..victim.clone() }
        };
        free.map(there).filter(|victim| victim.frees > Watts::ZERO).collect()
    }
}

fn of_domain<'c, 'a: 'c>(
    view: &DomainView,
    (candidates, freezes): (impl Fn() -> &'c Candidates<'a>, impl Fn() -> &'c Candidates<'a>),
    ledger: &mut Ledger<'a>,
    readings: &Readings<'a>,
) -> Pending {
    let Ok(domain) = &view.domain else { return Pending::default() };
    let status = view.object.status.as_ref();
    let before = Pending {
        actions: status.map(|status| status.pending_actions.clone()).unwrap_or_default(),
        count: status.map_or(0, |status| status.pending_action_count),
    };
    let listed = Listed::of(&before.actions);
    let power = accounted(view, readings).ok();
    let power = power.map(|nodes| view.unmanaged.with_nodes(nodes, view.unmanaged_within).power);
    let load = Load::of_domain(power, domain.cap, domain::floor_reached(view, domain, readings.fleet));
    let nodes = view.members.iter().copied().collect();
    let steps: Vec<_> = match load.need(listed.since(true), readings.now) {
        Need::Nothing => Vec::new(),
        Need::Unknown => return before,
        Need::Stands { excess, since } => {
            let freed = view.members.iter().map(|&at| ledger.freed[at]).sum();
            let victims = candidates().free_on(&nodes, ledger);
            let chosen = listed.choose(victims, excess.saturating_sub(freed), domain.cap);
            ledger.note(&chosen);
            chosen.iter().map(|victim| listed.entry(victim, since)).collect()
        }
    };
    let frozen = listed.since(false);
    if steps.is_empty() && !load.freezes(frozen.is_some()) {
        return Pending::default();
    }
    let since = frozen.map_or(readings.now, |since| since.min(readings.now));
    let mut victims: Vec<_> = freezes().on(&nodes).collect();
    victims.sort_by(|one, other| one.order(None).cmp(&other.order(None)));
    let frozen = victims.into_iter().map(|victim| listed.entry(victim, since)).collect();
    Pending::of(frozen, steps, before.count)
}
