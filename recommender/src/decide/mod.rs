//! The decision: from everything that is known to everything that is to be written.
//!
//! ```text
//!  observation ─▶ fleet ─▶ policy ─▶ verdict (share: limits; throttle: clocks) ──────────────────────────────┐
//!                      ├─▶ domain, unmanaged ─▶ tree (wishes) ─▶ grants (what conservation permits) ─────────┤
//!                      ├─▶ booked (what pods request) ─▶ offers (to pods that are not there yet) ────────────┤
//!                      └─▶ actions (ladder, victims, pending: who gives way where clocks are not enough) ────┤
//!                                       plan ◀─ report ◀─ node (what promise makes of the grants) ◀──────────┘
//! ```
//!
//! What draws how much is asked of `readings` alone, which knows whose reading counts.
//!
//! Must hold: [`decide`] is total (it neither fails nor panics), pure (no client, clock or async in
//! here) and deterministic: the same observation and time give the same plan, in the same order. Its
//! memory is what it wrote: specs, statuses, and the steps in the observation. An empty plan means
//! converged.

mod accounted;
mod actions;
mod attribution;
mod boards;
mod booked;
pub mod boot_taint;
mod brake;
mod capped;
mod ceiling;
mod claims;
mod demand;
mod domain;
mod drawn;
pub mod events;
mod fits;
mod fleet;
pub mod grants;
mod groups;
mod index;
mod labelled;
mod ladder;
mod news;
mod node;
pub mod offers;
mod outlook;
mod overlap;
mod pending;
mod performance;
mod policy;
pub mod promise;
mod readings;
mod replicas;
mod report;
mod requests;
mod reserved;
mod selection;
mod share;
mod stale;
mod steady;
mod tenancy;
mod throttle;
mod tree;
mod unmanaged;
mod verdict;
mod victims;
mod violators;

use std::{collections::BTreeMap, sync::Arc};

use jiff::Timestamp;
use powercap_common::{
    api::{Mode, PowerCappingPolicy, PowerCappingPolicyStatus, PowerDomainStatus},
    policy::PolicyId,
    units::Watts,
};
use serde::Serialize;

use self::{
    actions::Actions, booked::Booked, boot_taint::Initialized, domain::DomainView, events::Notices, fleet::Fleet,
    groups::Groups, labelled::Labelled, node::Decided, offers::Offer, overlap::Taken, policy::PolicyView,
    readings::Readings, stale::Offers, tenancy::Rules, tree::Wishes, verdict::Verdict,
};
pub use self::{news::News, node::NodeWrite, outlook::Outlook, replicas::Replicas, requests::asks_for_use};
use crate::observation::{Hold, Metered, Observation, Throttled, pairs};

/// What is to be written, and what the decision knows for metrics.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Plan {
    /// Changed grants and ceilings.
    pub nodes: Vec<NodeWrite>,
    /// Nodes that need no longer wait behind the boot taint.
    pub initialized: Vec<Initialized>,
    /// Changed statuses of policies.
    pub policies: Vec<(PolicyId, PowerCappingPolicyStatus)>,
    /// Changed statuses of domains, by name.
    pub domains: Vec<(String, PowerDomainStatus)>,
    /// What is to be remembered of each policy's ceilings: goes into the next observation.
    #[serde(serialize_with = "pairs::serialize")]
    pub throttled: BTreeMap<PolicyId, Throttled>,
    /// What people are told by events.
    pub notices: Notices,
    /// What was reckoned of each domain with a meter: likewise.
    pub metered: BTreeMap<String, Metered>,
    /// What it saw that is not remembered yet: of the observation, so that a record need not keep it.
    #[serde(skip)]
    pub news: News,
    /// Numbers for metrics.
    pub figures: Figures,
}

/// Numbers for metrics; what is not known is not there.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Figures {
    /// Of each policy that is understood and not off.
    #[serde(serialize_with = "pairs::serialize")]
    pub policies: BTreeMap<PolicyId, PolicyFigures>,
    /// Of each domain that is understood.
    pub domains: BTreeMap<String, DomainFigures>,
    /// Each node's grant.
    pub grants: BTreeMap<String, Watts>,
    /// What of each node's power no pod accounts for.
    pub unattributed: BTreeMap<String, Watts>,
    /// What each node offers to new pods, at its devices.
    pub offers: BTreeMap<String, Watts>,
    /// What the pods of each of these nodes may draw, at its devices.
    pub reserved: BTreeMap<String, Watts>,
    /// Of each policy that is understood and not off: for autoscalers, and nothing that is written.
    #[serde(skip)]
    pub replicas: BTreeMap<PolicyId, Result<Replicas, Hold>>,
}

impl Figures {
    fn note_offers(&mut self, offers: &[Option<Offer>], booked: &[Booked], fleet: &Fleet<'_>) {
        for ((node, offer), booked) in fleet.nodes.iter().zip(offers).zip(booked) {
            let Some(offer) = offer else { continue };
            self.offers.insert(node.name.to_owned(), offer.left(booked.requested));
            self.reserved.insert(node.name.to_owned(), booked.reserved());
        }
    }
}

/// Numbers of one policy.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct PolicyFigures {
    /// Its cap.
    pub cap: Watts,
    /// Power of its pods, measured.
    pub power: Option<Watts>,
    /// Its peak and forecast.
    pub outlook: Outlook,
    /// What its pods count with when watts are offered to new ones; none where no node advertises watts.
    pub reserved: Option<Watts>,
    /// Pods whose watts request is stale.
    pub stale_pods: u32,
}

/// Numbers of one domain.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct DomainFigures {
    /// Its cap.
    pub cap: Watts,
    /// Its power, measured.
    pub power: Option<Watts>,
    /// Σ committed.
    pub committed: Option<Watts>,
    /// The budget less what is committed.
    pub headroom: Option<Watts>,
    /// Its peak and forecast.
    pub outlook: Outlook,
}

impl Plan {
    /// Whether there is nothing to write.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.nodes.is_empty() && self.initialized.is_empty() && self.policies.is_empty() && self.domains.is_empty()
    }
}

/// What to write now.
#[must_use]
pub fn decide(observation: &Observation, now: Timestamp) -> Plan {
    let mut fleet = Fleet::of(observation);
    let mut plan = Plan::default();
    let mut domains = domains(observation, &fleet);
    domain::count_nodes(&domains, &mut fleet);
    let readings = Readings::of(&fleet, observation, now);
    plan.metered = unmanaged::settle(&mut domains, &readings).into_iter().collect();
    plan.news = News::of(&readings);
    let groups = Groups::of(&fleet);
    let views = views(&domains, &readings);
    let reserved = reserved::of_pods(&views, &readings);
    let booked = Booked::of_nodes(&reserved, &readings);
    let wishes = wishes(&domains, &views, &booked, &readings);
    let policies = judge(views, &groups, &readings);
    let actions = actions::pending(&policies, &domains, &readings);
    report_policies((&policies, &actions), &domains, &reserved, &readings, &mut plan);
    let grants = grants(&domains, &wishes, &fleet);
    let offers = offers::offers(&domains, &booked, &readings);
    plan.figures.note_offers(&offers, &booked, &fleet);
    let decided = Decided { domains: &domains, grants: &grants, offers: &offers, groups: &groups, policies: &policies };
    plan.nodes = node::writes(&decided, &readings);
    plan.initialized = boot_taint::initialized(&fleet);
    report_domains((&domains, &actions), &grants, &wishes, &readings, &mut plan);
    plan.figures.replicas = replicas::of_policies(&policies, &domains, &readings, &plan.figures);
    plan
}

fn domains(observation: &Observation, fleet: &Fleet<'_>) -> Vec<DomainView> {
    let mut objects: Vec<_> = observation.domains.iter().collect();
    objects.sort_by_key(|object| &object.metadata.name);
    let mut nodes = Labelled::of(fleet.nodes.iter().enumerate().map(|(at, node)| (&node.facts.labels, at)));
    let mut domains: Vec<_> = objects.into_iter().map(|object| DomainView::of(object, &mut nodes, fleet)).collect();
    tree::plant(&mut domains, fleet);
    domains
}

/// Every policy that has a name, in their order.
fn views<'a>(domains: &[DomainView], readings: &Readings<'a>) -> Vec<PolicyView<'a>> {
    let &Readings { fleet, observation, .. } = readings;
    let mut pods_in = BTreeMap::<&str, Vec<_>>::new();
    for pod in &fleet.pods {
        pods_in.entry(&pod.facts.name.namespace).or_default().push((&pod.facts.labels, pod));
    }
    let mut pods_in: BTreeMap<_, _> = pods_in.into_iter().map(|(name, pods)| (name, Labelled::of(pods))).collect();
    let mut objects: Vec<_> = observation.policies.iter().collect();
    objects.sort_by_key(|object| (&object.metadata.namespace, &object.metadata.name));
    let rules = Rules::of(domains, fleet);
    let view = |object: &Arc<PowerCappingPolicy>| {
        let namespace = object.metadata.namespace.as_ref().filter(|_| object.metadata.name.is_some())?;
        let pods = pods_in.get_mut(namespace.as_str());
        Some(PolicyView::of(object, pods, &rules, fleet, observation))
    };
    objects.into_iter().filter_map(view).collect()
}

type Judged<'a> = Vec<(PolicyView<'a>, Option<Verdict<'a>>)>;

/// Judges every policy that is understood and not off, those first that come first.
fn judge<'a>(views: Vec<PolicyView<'a>>, groups: &Groups, readings: &Readings<'a>) -> Judged<'a> {
    let mut taken = Taken::none_of(readings.fleet.boards.len());
    let mut verdicts: Vec<_> = views.iter().map(|_| None).collect();
    for at in overlap::precedence(views.iter()) {
        let view = &views[at];
        let active = view.policy.as_ref().ok().filter(|policy| policy.mode != Mode::Off && view.hold().is_none());
        let Some(policy) = active else { continue };
        let verdict = verdict::judge(view, policy, &taken, groups, readings);
        taken.note(at, view, &verdict);
        verdicts[at] = Some(verdict);
    }
    views.into_iter().zip(verdicts).collect()
}

/// Puts the changed statuses of policies into the plan, and their figures.
fn report_policies(
    (judged, actions): (&Judged<'_>, &Actions),
    domains: &[DomainView],
    reserved: &[Watts],
    readings: &Readings<'_>,
    plan: &mut Plan,
) {
    let &Readings { fleet, observation, now, .. } = readings;
    let (mut news, offers) = (Vec::new(), Offers::of(domains, fleet));
    for ((view, verdict), pending) in judged.iter().zip(&actions.policies) {
        let object = &view.object;
        let (Some(namespace), Some(name)) = (&object.metadata.namespace, &object.metadata.name) else { continue };
        let id = PolicyId { namespace: namespace.clone(), name: name.clone() };
        let mut status = match view.policy.as_ref().ok().zip(verdict.as_ref()) {
            Some((policy, verdict)) => {
                let power = verdict.power.as_ref().ok().copied();
                let mut figures = PolicyFigures { cap: policy.cap, power, ..PolicyFigures::default() };
                plan.throttled.insert(id.clone(), verdict.throttled);
                plan.news.samples.extend(demand::samples(view, policy, readings));
                let mut status = report::judged(judged, view, policy, verdict, readings);
                figures.outlook = verdict.outlook;
                stale::tell(&mut status, view, policy, &offers, readings);
                let counted = view.pods.iter().map(|pod| reserved[pod.at]);
                figures.reserved = offers.advertised.then(|| counted.sum());
                figures.stale_pods = status.watts_stale_pods;
                plan.figures.policies.insert(id.clone(), figures);
                status
            }
            None => {
                // Its ceilings stay while it is not understood, and what is known of them.
                plan.throttled.extend(observation.throttled.get(&id).map(|throttled| (id.clone(), *throttled)));
                report::unjudged(view, now)
            }
        };
        (status.pending_actions, status.pending_action_count) = (pending.actions.clone(), pending.count);
        let capped = capped::of(view, &status.capped, domains, fleet);
        (status.capped_pods, status.capped) = (report::count(capped.pods.len()), capped.rows.clone());
        news.extend(events::news(view, &id, object.status.as_ref(), &status, &capped));
        if object.status.as_ref() != Some(&status) {
            plan.policies.push((id, status));
        }
    }
    plan.notices = events::tell(news, &observation.told, now);
}

/// What the algorithms of the domains wish for each node.
fn wishes(domains: &[DomainView], policies: &[PolicyView<'_>], booked: &[Booked], readings: &Readings<'_>) -> Wishes {
    let alike = domains.iter().all(|view| view.algorithm.treats_all_alike());
    let requested = claims::requested(booked, readings.fleet);
    tree::wishes(domains, &claims::of_nodes(policies, readings, alike), &requested, readings.fleet)
}

/// The grants: what is wished, as far as conservation permits.
fn grants(domains: &[DomainView], wishes: &Wishes, fleet: &Fleet<'_>) -> Vec<Option<Watts>> {
    let holdings: Vec<_> = fleet.nodes.iter().map(|node| node.holding).collect();
    let budgets: Vec<_> = domains.iter().filter_map(DomainView::budget).collect();
    grants::permitted(&holdings, &budgets, &wishes.nodes)
}

fn report_domains(
    (domains, actions): (&[DomainView], &Actions),
    grants: &[Option<Watts>],
    wishes: &Wishes,
    readings: &Readings<'_>,
    plan: &mut Plan,
) {
    let fleet = readings.fleet;
    let nodes = || fleet.nodes.iter().zip(grants);
    let committed: Vec<_> = nodes().map(|(node, grant)| grant.and_then(|grant| node.holding.after(grant))).collect();
    plan.figures.grants =
        nodes().filter_map(|(node, grant)| grant.map(|grant| (node.name.to_owned(), grant))).collect();
    let unattributed = attribution::unattributed(readings);
    let known =
        fleet.nodes.iter().zip(&unattributed).filter_map(|(node, watts)| Some((node.name.to_owned(), (*watts)?)));
    plan.figures.unattributed = known.collect();
    let names: Vec<_> = domains.iter().map(|view| view.object.metadata.name.as_deref().unwrap_or_default()).collect();
    for (at, (view, pending)) in domains.iter().zip(&actions.domains).enumerate() {
        let Some(name) = view.object.metadata.name.clone() else { continue };
        let mut report = domain::report(view, &names, &committed, &unattributed, wishes.refused.get(&at), readings);
        (report.status.pending_actions, report.status.pending_action_count) = (pending.actions.clone(), pending.count);
        if let Ok(domain) = &view.domain {
            let sum: Option<Watts> = view.members.iter().map(|&at| committed[at]).sum();
            let headroom = sum.map(|sum| view.watts(domain).saturating_sub(sum));
            let figures = DomainFigures {
                cap: domain.cap,
                power: report.power,
                committed: sum,
                headroom,
                outlook: report.outlook,
            };
            plan.figures.domains.insert(name.clone(), figures);
        }
        if view.object.status.as_ref() != Some(&report.status) {
            plan.domains.push((name, report.status));
        }
    }
}
