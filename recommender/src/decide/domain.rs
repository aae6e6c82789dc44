//! Domains: which nodes share a budget, what each is wished, and what people are told.

use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use powercap_common::{
    api::{NodeOverhead, PowerDomain, PowerDomainStatus},
    condition::{self, Truth, kind},
    domain::{Domain, DomainError},
    reason::Reason,
    units::Watts,
};

use super::{
    accounted::{Accounted, accounted},
    brake,
    fleet::{self, Fleet, NodeView},
    grants::Budget,
    labelled::Labelled,
    outlook::{self, Outlook},
    readings::{Readings, differences},
    steady::{Bounds, steady},
    tree::Misplaced,
    unmanaged::Unmanaged,
    verdict::FloorReached,
};
use crate::{
    algorithms::{self, Algorithm},
    observation::{Hold, Observation},
};

/// A domain as written, as understood, and where it stands. Nodes and domains are told by their index.
pub struct DomainView {
    /// As written.
    pub object: Arc<PowerDomain>,
    /// As understood.
    pub domain: Result<Domain, DomainError>,
    /// By which it shares its watts out.
    pub algorithm: Box<dyn Algorithm>,
    /// Nodes that it selects. Of one that cannot be understood, those that it was last carried out on.
    pub own: Vec<usize>,
    /// All of its nodes: its own, and those of the domains within it.
    pub members: Vec<usize>,
    /// The domain that it is within.
    pub parent: Option<usize>,
    /// All that it is within, the nearest first.
    pub ancestors: Vec<usize>,
    /// What it draws beside its nodes and the domains within it, and what its meter tells of that.
    pub unmanaged: Unmanaged,
    /// What the domains within it draw unmanaged.
    pub unmanaged_within: Watts,
    /// What is wrong with where it stands.
    pub misplaced: Option<Misplaced>,
}

impl DomainView {
    /// Understands one domain by itself; [`super::tree::plant`] puts it in its place.
    pub fn of(object: &Arc<PowerDomain>, nodes: &mut Labelled<'_, usize>, fleet: &Fleet<'_>) -> Self {
        let domain = Domain::try_from(&**object);
        let algorithm = algorithms::made(domain.as_ref().map(|domain| domain.algorithm).unwrap_or_default());
        let name = object.metadata.name.as_deref().unwrap_or_default();
        let stood = |at: &usize| {
            let frequencies = fleet.nodes[*at].frequencies;
            frequencies.is_some_and(|object| object.spec.domains.iter().any(|domain| domain == name))
        };
        let own = match &domain {
            Ok(domain) => nodes.selected(&domain.nodes),
            Err(_) => (0..fleet.nodes.len()).filter(stood).collect(),
        };
        Self {
            object: Arc::clone(object),
            domain,
            algorithm,
            own,
            members: Vec::new(),
            parent: None,
            ancestors: Vec::new(),
            unmanaged: Unmanaged::of(object),
            unmanaged_within: Watts::ZERO,
            misplaced: None,
        }
    }

    /// What it shares out; none for a domain that cannot be understood, which only holds.
    pub fn budget(&self) -> Option<Budget> {
        let domain = self.domain.as_ref().ok()?;
        Some(Budget { watts: self.watts(domain), members: self.members.clone() })
    }

    /// What is left of its cap for nodes.
    pub fn watts(&self, domain: &Domain) -> Watts {
        domain.cap.saturating_sub(self.unmanaged.watts).saturating_sub(self.unmanaged_within)
    }
}

/// Tells each node what its domains make of it: by the strictest of their rules for what stands beside its
/// devices (one that is not understood just now stays as it was), the most that it can draw. A node that
/// lost its limits at a boot counts with that; one that nobody knows it of stays unknown.
pub fn count_nodes(domains: &[DomainView], fleet: &mut Fleet<'_>) {
    for view in domains {
        for &at in &view.members {
            let node = &mut fleet.nodes[at];
            let before = || node.frequencies.map(|object| object.spec.node_overhead);
            let rule = view.domain.as_ref().map_or_else(|_| before().unwrap_or_default(), |domain| domain.overhead);
            node.overhead = NodeOverhead {
                static_watts: node.overhead.static_watts.max(rule.static_watts),
                percent: node.overhead.percent.max(rule.percent),
            };
        }
    }
    for node in &mut fleet.nodes {
        let nameplate = |devices| Watts::new(node.overhead.node_power(devices).ceil());
        node.nameplate = node.devices_maximum().map(nameplate);
    }
    for &at in domains.iter().flat_map(|view| &view.members) {
        let node = &mut fleet.nodes[at];
        node.holding = node.holding.with_nameplate(node.nameplate);
    }
}

/// What a domain's status says, and the watts for metrics.
pub struct DomainReport {
    /// The status.
    pub status: PowerDomainStatus,
    /// Measured, exactly.
    pub power: Option<Watts>,
    /// Its peak and forecast.
    pub outlook: Outlook,
}

/// The status, given what each of its nodes is committed for after this decision's writes, and what of its
/// power no pod accounts for. `names` are the domains'; `refused` is why its algorithm was not followed.
pub fn report(
    view: &DomainView,
    names: &[&str],
    committed: &[Option<Watts>],
    unattributed: &[Option<Watts>],
    refused: Option<&Hold>,
    readings: &Readings<'_>,
) -> DomainReport {
    let &Readings { fleet, observation, now, .. } = readings;
    let mut status = view.object.status.clone().unwrap_or_default();
    let generation = view.object.metadata.generation;
    let say = |conditions: &mut Vec<_>, kind, truth, reason, message: String| {
        condition::set(conditions, kind, truth, reason, message, generation, Time(now));
    };
    status.observed_generation = generation;
    status.nodes = u32::try_from(view.members.len()).unwrap_or(u32::MAX);
    let (placed, reason, message) = place(view, names);
    say(&mut status.conditions, kind::PLACED, placed, reason, message);
    let domain = match &view.domain {
        Ok(domain) => domain,
        Err(error) => {
            let message = format!("{error}. Until then its nodes keep their grants");
            say(&mut status.conditions, kind::READY, Truth::False, Reason::InvalidSpec, message);
            return DomainReport { status, power: None, outlook: Outlook::default() };
        }
    };

    let sum: Option<Watts> = view.members.iter().map(|&at| committed[at]).sum();
    let budget = view.watts(domain);
    status.committed_watts = sum.map(Watts::ceil);
    status.headroom_watts = sum.map(|sum| budget.saturating_sub(sum).floor());
    let readiness = readiness(view, fleet, sum, domain, observation, now);
    let refused = refused.filter(|_| readiness.0 == Truth::True);
    let (ready, ready_reason, message) =
        refused.map_or(readiness, |hold| (Truth::False, hold.reason, hold.message.clone()));
    say(&mut status.conditions, kind::READY, ready, ready_reason, message);

    status.unmanaged_watts = view.unmanaged.shown();
    let nodes = accounted(view, readings);
    let power_of_nodes = nodes.as_ref().ok().map(|nodes| nodes.power);
    let power = nodes.map(|nodes| view.unmanaged.with_nodes(nodes, view.unmanaged_within));
    let of_nobody: Option<Watts> = view.members.iter().map(|&at| unattributed[at]).sum();
    let of_pods = power_of_nodes.zip(of_nobody).map(|(nodes, of_nobody)| nodes.saturating_sub(of_nobody));
    let rest = power.as_ref().ok().zip(of_pods).map(|(all, of_pods)| all.power.saturating_sub(of_pods));
    status.unattributed_watts = rest.map(|watts| steady(status.unattributed_watts, watts, &Bounds { edges: &[] }));
    match &power {
        Ok(Accounted { power, doubts, .. }) => {
            let bounds = Bounds { edges: &[domain.cap] };
            let shown = steady(status.current_power_watts, *power, &bounds);
            status.current_power_watts = Some(shown);
            let (fresh, reason, message) = view.unmanaged.freshness(view.members.len());
            say(&mut status.conditions, kind::DATA_FRESH, fresh, reason, message);
            let (reason, word) = match *power <= domain.cap {
                true => (Reason::PowerBelowCap, "within"),
                false => (Reason::PowerAboveCap, "above"),
            };
            let message = format!("{shown} W (unmanaged included) is {word} the cap of {} W", domain.cap.floor());
            say(&mut status.conditions, kind::WITHIN_CAP, (*power <= domain.cap).into(), reason, message);
            match differences(doubts).or_else(|| view.unmanaged.disagreement()) {
                Some((reason, message)) => {
                    say(&mut status.conditions, kind::SOURCES_AGREE, Truth::False, reason, message);
                }
                None => status.conditions.retain(|condition| condition.type_ != kind::SOURCES_AGREE),
            }
        }
        Err(hold) => {
            status.current_power_watts = None;
            let message = format!("{}; grants stand and need no readings", hold.message);
            say(&mut status.conditions, kind::DATA_FRESH, Truth::False, hold.reason, message.clone());
            say(&mut status.conditions, kind::WITHIN_CAP, Truth::Unknown, hold.reason, message);
        }
    }
    let (feasible, reason, message) = feasibility(view, fleet, domain);
    say(&mut status.conditions, kind::FEASIBLE, feasible, reason, message);
    let settled = matches!(ready_reason, Reason::GrantsFit | Reason::AgentSilent);
    let measured_at = power.as_ref().ok().map(|measured| measured.oldest);
    status.brake = brake::next(status.brake.as_ref(), &status.conditions, settled, measured_at);
    match &status.brake {
        Some(brake) => {
            let message =
                format!("power stayed above the cap with nothing left to lower; the brake is at {:?}", brake.level);
            say(&mut status.conditions, kind::BRAKED, Truth::True, Reason::PowerStaysAboveCap, message);
        }
        None => status.conditions.retain(|condition| condition.type_ != kind::BRAKED),
    }
    let (power, history) = (power.ok().map(|measured| measured.power), &*observation.telemetry.history);
    let past = history.domains.get(&domain.name).cloned().unwrap_or_default();
    let outlook = Outlook::of(past, power, history, now);
    let shown = [status.peak_power_watts, status.forecast_power_watts];
    [status.peak_power_watts, status.forecast_power_watts] = outlook.shown(shown, history);
    match outlook::trouble(history) {
        Some((truth, reason, message)) => say(&mut status.conditions, kind::HISTORY_READ, truth, reason, message),
        None => status.conditions.retain(|condition| condition.type_ != kind::HISTORY_READ),
    }
    DomainReport { status, power, outlook }
}

fn place(view: &DomainView, names: &[&str]) -> (Truth, Reason, String) {
    match &view.misplaced {
        None if view.ancestors.is_empty() => (Truth::True, Reason::PlaceClear, "within no other domain".to_owned()),
        None => {
            let around: Vec<_> = view.ancestors.iter().map(|at| names[*at]).collect();
            (Truth::True, Reason::PlaceClear, format!("within {}, whose caps hold too", around.join(", ")))
        }
        Some(Misplaced::Orphan { parent }) => {
            let message = format!(
                "spec.parentRef names {parent}, which does not exist; create it, or take parentRef away. Nothing is raised in this domain until then"
            );
            (Truth::False, Reason::ParentMissing, message)
        }
        Some(Misplaced::Loop { parents }) => {
            let message = format!(
                "its parents lead back to itself: {}; take spec.parentRef out of one of them. Nothing is raised in them until then",
                parents.join(", ")
            );
            (Truth::False, Reason::ParentLoop, message)
        }
        Some(Misplaced::Overlap { node, other }) => {
            let message = format!(
                "{node} stands in {other} too, and neither domain is within the other: both caps hold, and watts may lie idle. Name one as spec.parentRef of the other, or let their selectors part"
            );
            (Truth::False, Reason::DomainsOverlap, message)
        }
    }
}

fn readiness(
    view: &DomainView,
    fleet: &Fleet<'_>,
    committed: Option<Watts>,
    domain: &Domain,
    observation: &Observation,
    now: Timestamp,
) -> (Truth, Reason, String) {
    let names = |nodes: &[usize]| {
        let shown: Vec<_> = nodes.iter().take(5).map(|&at| fleet.nodes[at].name).collect();
        let more = nodes.len().saturating_sub(shown.len());
        shown.join(", ") + &if more > 0 { format!(" and {more} more") } else { String::new() }
    };
    if view.members.is_empty() {
        return (Truth::False, Reason::NoMatchingNodes, "spec.nodeSelector matches no node".to_owned());
    }
    let unknown: Vec<_> =
        view.members.iter().copied().filter(|&at| fleet.nodes[at].holding.committed.is_none()).collect();
    let Some(committed) = committed.filter(|_| unknown.is_empty()) else {
        let message = format!(
            "{} has acknowledged no grant yet: is its node agent running? Nothing is raised in this domain until then",
            names(&unknown)
        );
        return (Truth::False, Reason::AwaitingAcknowledgement, message);
    };
    let silent = |at: &usize| {
        let node = &fleet.nodes[*at];
        observation.agent_is_silent(node.name, node.frequencies, now)
    };
    let silent: Vec<_> = view.members.iter().copied().filter(silent).collect();
    if !silent.is_empty() {
        let message = format!("the agent of {} is silent; its node counts with what it was promised", names(&silent));
        return (Truth::False, Reason::AgentSilent, message);
    }
    let booted: Vec<_> = view.members.iter().copied().filter(|&at| fleet.nodes[at].holding.booted).collect();
    if !booted.is_empty() {
        let message = format!(
            "{} has booted, at which limits are lost, and acknowledged nothing since; it counts with the most that it can draw",
            names(&booted)
        );
        return (Truth::False, Reason::AwaitingAcknowledgement, message);
    }
    let budget = view.watts(domain);
    let kept = format!("{} W committed of {} W for nodes", committed.ceil(), budget.floor());
    match committed <= budget {
        true => (Truth::True, Reason::GrantsFit, kept),
        false => {
            (Truth::False, Reason::AwaitingAcknowledgement, format!("{kept}; only lowerings are written until it fits"))
        }
    }
}

/// Whether the nodes can go no lower: what their devices draw at their lowest settings is more than the cap leaves
/// them, or they are at these settings.
pub fn floor_reached(view: &DomainView, domain: &Domain, fleet: &Fleet<'_>) -> FloorReached {
    let nodes = || view.members.iter().map(|&at| &fleet.nodes[at]);
    let floors: Option<Watts> = nodes().map(NodeView::floor).sum();
    match floors {
        Some(floors) if floors > view.watts(domain) || nodes().all(NodeView::is_at_floor) => FloorReached::Measured,
        _ => FloorReached::No,
    }
}

/// Whether the cap can be kept, and what binds if not.
fn feasibility(view: &DomainView, fleet: &Fleet<'_>, domain: &Domain) -> (Truth, Reason, String) {
    let nodes = || view.members.iter().map(|&at| &fleet.nodes[at]);
    let devices: Option<Watts> = nodes().map(NodeView::devices_floor).sum();
    let floors: Option<Watts> = nodes().map(NodeView::floor).sum();
    let Some((floors, devices)) = floors.zip(devices) else {
        let message = "not every node agent has told what its devices can do".to_owned();
        return (Truth::Unknown, Reason::AwaitingAcknowledgement, message);
    };
    let watts = view.watts(domain);
    let budget = watts.floor();
    if floors <= watts {
        let message = format!("{budget} W for nodes that draw about {} W at their lowest settings", floors.ceil());
        return (Truth::True, Reason::CapReachable, message);
    }
    let lost = nodes().flat_map(NodeView::boards).filter(|board| fleet::is_lost(board)).count();
    let lost = match lost {
        0 => String::new(),
        lost => format!(", with {lost} that nothing holds at their most"),
    };
    let unmanaged = view.unmanaged.watts + view.unmanaged_within;
    let message = format!(
        "the nodes draw about {} W at their lowest settings ({} W by their devices{lost}, {} W beside them), more than the {budget} W that {} W unmanaged leave of the cap of {} W",
        floors.ceil(),
        devices.ceil(),
        floors.saturating_sub(devices).ceil(),
        unmanaged.ceil(),
        domain.cap.floor(),
    );
    (Truth::False, Reason::CapBelowFloor, message)
}
