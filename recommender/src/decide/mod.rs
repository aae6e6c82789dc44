//! The decision: from everything that is known to everything that is to be written.
//!
//! ```text
//!  observation ─▶ fleet ─▶ domain, unmanaged ─▶ tree (wishes, by uniform) ─▶ grants (what conservation permits) ─┐
//!                      └─▶ policy (limits, ceiling) ───────────────────────────────────────────────┤
//!                                       plan ◀─ report ◀─ node (what promise makes of the grants) ◀──┘
//! ```
//!
//! What draws how much is asked of `readings` alone, which knows whose reading counts.
//!
//! Must hold: [`decide`] is total (it neither fails nor panics), pure (no client, clock or async in
//! here) and deterministic: the same observation and time give the same plan, in the same order. Its
//! memory is what it wrote: specs, statuses, and the steps in the observation. An empty plan means
//! converged.

mod accounted;
pub mod boot_taint;
mod brake;
mod ceiling;
mod domain;
mod fleet;
pub mod grants;
mod news;
mod node;
mod outlook;
mod policy;
pub mod promise;
mod readings;
mod report;
mod steady;
mod tree;
pub mod uniform;
mod unmanaged;
mod violators;

use std::collections::BTreeMap;

use jiff::Timestamp;
use powercap_common::{
    api::{Mode, PowerCappingPolicyStatus, PowerDomainStatus},
    policy::PolicyId,
    units::Watts,
};

use self::{
    boot_taint::Initialized, domain::DomainView, fleet::Fleet, node::Decided, policy::PolicyView, readings::Readings,
};
pub use self::{news::News, node::NodeWrite, outlook::Outlook};
use crate::observation::{Metered, Observation, PodFacts};

/// What is to be written, and what the decision knows for metrics.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Plan {
    /// Changed grants and ceilings.
    pub nodes: Vec<NodeWrite>,
    /// Nodes that need no longer wait behind the boot taint.
    pub initialized: Vec<Initialized>,
    /// Changed statuses of policies.
    pub policies: Vec<(PolicyId, PowerCappingPolicyStatus)>,
    /// Changed statuses of domains, by name.
    pub domains: Vec<(String, PowerDomainStatus)>,
    /// When each policy's ceiling was last changed: goes into the next observation.
    pub steps: BTreeMap<PolicyId, Timestamp>,
    /// What was reckoned of each domain with a meter: likewise.
    pub metered: BTreeMap<String, Metered>,
    /// What it saw that is not remembered yet.
    pub news: News,
    /// Numbers for metrics.
    pub figures: Figures,
}

/// Numbers for metrics; what is not known is not there.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Figures {
    /// Of each policy that is understood and not off.
    pub policies: BTreeMap<PolicyId, PolicyFigures>,
    /// Of each domain that is understood.
    pub domains: BTreeMap<String, DomainFigures>,
    /// Each node's grant.
    pub grants: BTreeMap<String, Watts>,
}

/// Numbers of one policy.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct PolicyFigures {
    /// Its cap.
    pub cap: Watts,
    /// Power of its pods, measured.
    pub power: Option<Watts>,
    /// Its peak and forecast.
    pub outlook: Outlook,
}

/// Numbers of one domain.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
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
    let policies = judge(&readings, &mut plan);
    let grants = grants(&domains, &fleet);
    let decided = Decided { domains: &domains, grants: &grants, policies: &policies };
    plan.nodes = node::writes(&decided, &readings);
    plan.initialized = boot_taint::initialized(&fleet);
    report_domains(&domains, &grants, &readings, &mut plan);
    plan
}

fn domains(observation: &Observation, fleet: &Fleet<'_>) -> Vec<DomainView> {
    let mut objects: Vec<_> = observation.domains.iter().collect();
    objects.sort_by_key(|object| &object.metadata.name);
    let mut domains: Vec<_> = objects.into_iter().map(|object| DomainView::of(object, fleet)).collect();
    tree::plant(&mut domains, fleet);
    domains
}

/// Judges every policy, and puts the changed statuses into the plan.
fn judge<'a>(readings: &Readings<'a>, plan: &mut Plan) -> Vec<(PolicyView<'a>, Option<policy::Verdict<'a>>)> {
    let &Readings { fleet, observation, now, .. } = readings;
    let mut pods_in = BTreeMap::<&str, Vec<&PodFacts>>::new();
    for pod in &observation.pods {
        pods_in.entry(&pod.name.namespace).or_default().push(pod);
    }
    let mut objects: Vec<_> = observation.policies.iter().collect();
    objects.sort_by_key(|object| (&object.metadata.namespace, &object.metadata.name));
    let mut judged = Vec::with_capacity(objects.len());
    for object in objects {
        let (Some(namespace), Some(name)) = (&object.metadata.namespace, &object.metadata.name) else {
            continue;
        };
        let id = PolicyId { namespace: namespace.clone(), name: name.clone() };
        let pods = pods_in.get(namespace.as_str()).map(Vec::as_slice).unwrap_or_default();
        let view = PolicyView::of(object, pods, fleet, observation);
        let active = view.policy.as_ref().ok().filter(|policy| policy.mode != Mode::Off);
        let verdict = active.map(|policy| policy::judge(&view, policy, readings));
        let status = match active.zip(verdict.as_ref()) {
            Some((policy, verdict)) => {
                let power = verdict.power.as_ref().ok().copied();
                let figures = PolicyFigures { cap: policy.cap, power, outlook: verdict.outlook };
                plan.figures.policies.insert(id.clone(), figures);
                plan.steps.extend(verdict.changed_at.map(|changed_at| (id.clone(), changed_at)));
                report::judged(&view, policy, verdict, readings)
            }
            None => report::unjudged(&view, now),
        };
        if object.status.as_ref() != Some(&status) {
            plan.policies.push((id, status));
        }
        judged.push((view, verdict));
    }
    judged
}

/// The grants: what the algorithm wishes, as far as conservation permits.
fn grants(domains: &[DomainView], fleet: &Fleet<'_>) -> Vec<Option<Watts>> {
    let wishes = tree::wishes(domains, fleet);
    let holdings: Vec<_> = fleet.nodes.iter().map(|node| node.holding).collect();
    let budgets: Vec<_> = domains.iter().filter_map(DomainView::budget).collect();
    grants::permitted(&holdings, &budgets, &wishes)
}

fn report_domains(domains: &[DomainView], grants: &[Option<Watts>], readings: &Readings<'_>, plan: &mut Plan) {
    let fleet = readings.fleet;
    let nodes = || fleet.nodes.iter().zip(grants);
    let committed: Vec<_> = nodes().map(|(node, grant)| grant.and_then(|grant| node.holding.after(grant))).collect();
    plan.figures.grants =
        nodes().filter_map(|(node, grant)| grant.map(|grant| (node.name.to_owned(), grant))).collect();
    let names: Vec<_> = domains.iter().map(|view| view.object.metadata.name.as_deref().unwrap_or_default()).collect();
    for view in domains {
        let Some(name) = view.object.metadata.name.clone() else { continue };
        let report = domain::report(view, &names, &committed, readings);
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
