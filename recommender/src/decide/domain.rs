//! Domains: which nodes share a budget, what each is wished, and what people are told.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use powercap_common::{
    api::{PowerDomain, PowerDomainStatus},
    condition::{self, Truth, kind},
    domain::{Domain, DomainError},
    reason::Reason,
    units::Watts,
};

use super::{
    brake,
    fleet::Fleet,
    grants::Budget,
    readings::{Readings, differences},
    steady::{Bounds, steady},
    uniform,
};
use crate::observation::{Apart, Hold, Observation};

/// A domain as written, as understood, and the nodes (by index) in it.
pub struct DomainView {
    /// As written.
    pub object: Arc<PowerDomain>,
    /// As understood.
    pub domain: Result<Domain, DomainError>,
    /// Its nodes. Of one that cannot be understood, those that it was last carried out on.
    pub members: Vec<usize>,
}

impl DomainView {
    /// Understands one domain.
    pub fn of(object: &Arc<PowerDomain>, fleet: &Fleet<'_>) -> Self {
        let domain = Domain::try_from(&**object);
        let name = object.metadata.name.as_deref().unwrap_or_default();
        let belongs = |at: &usize| {
            let node = &fleet.nodes[*at];
            match &domain {
                Ok(domain) => domain.nodes.matches(&node.facts.labels),
                Err(_) => node.frequencies.is_some_and(|nf| nf.spec.domains.iter().any(|domain| domain == name)),
            }
        };
        let members = (0..fleet.nodes.len()).filter(belongs).collect();
        Self { object: Arc::clone(object), domain, members }
    }

    /// What it shares out; none for a domain that cannot be understood, which only holds.
    pub fn budget(&self) -> Option<Budget> {
        let domain = self.domain.as_ref().ok()?;
        Some(Budget { watts: domain.budget(), members: self.members.clone() })
    }

    /// What it wishes for each of its nodes.
    pub fn wishes(&self, fleet: &Fleet<'_>) -> Vec<(usize, Option<Watts>)> {
        let Ok(domain) = &self.domain else {
            // Nothing is uncapped by a manifest that nobody understands: its nodes stay where they are.
            return self.members.iter().map(|&at| (at, fleet.nodes[at].holding.granted)).collect();
        };
        let maxima: Vec<_> = self.members.iter().map(|&at| maximum(fleet, at, domain)).collect();
        let shares = uniform::shares(domain.budget(), &maxima);
        // The bounds of the field. A grant of nothing cannot be written; `Feasible` says that such a cap
        // cannot be kept.
        let (least, most) = (Watts::new(1), Watts::new(1_000_000));
        self.members.iter().copied().zip(shares.into_iter().map(|share| Some(share.clamp(least, most)))).collect()
    }
}

/// The most that a node can draw, by the domain's rule for what stands beside its devices.
pub fn maximum(fleet: &Fleet<'_>, node: usize, domain: &Domain) -> Option<Watts> {
    fleet.nodes[node].devices_maximum().map(|devices| Watts::new(domain.overhead.node_power(devices).ceil()))
}

/// Counts nodes that have lost their limits at a boot with their nameplate: with the most that they can
/// draw, by the strictest rule of their domains. One that nobody knows it of stays unknown.
pub fn count_booted(domains: &[DomainView], fleet: &mut Fleet<'_>) {
    for view in domains {
        let Ok(domain) = &view.domain else { continue };
        for &at in &view.members {
            let nameplate = maximum(fleet, at, domain);
            let holding = &mut fleet.nodes[at].holding;
            if let Some(nameplate) = nameplate.filter(|_| holding.booted && holding.granted.is_some()) {
                holding.committed = Some(holding.committed.map_or(nameplate, |committed| committed.max(nameplate)));
            }
        }
    }
}

/// What a domain's status says, and the watts for metrics.
pub struct DomainReport {
    /// The status.
    pub status: PowerDomainStatus,
    /// Measured, exactly.
    pub power: Option<Watts>,
}

/// The status, given what each of its nodes is committed for after this decision's writes.
pub fn report(view: &DomainView, committed: &[Option<Watts>], readings: &Readings<'_>) -> DomainReport {
    let &Readings { fleet, observation, now, .. } = readings;
    let mut status = view.object.status.clone().unwrap_or_default();
    let generation = view.object.metadata.generation;
    let say = |conditions: &mut Vec<_>, kind, truth, reason, message: String| {
        condition::set(conditions, kind, truth, reason, message, generation, Time(now));
    };
    status.observed_generation = generation;
    status.nodes = u32::try_from(view.members.len()).unwrap_or(u32::MAX);
    let domain = match &view.domain {
        Ok(domain) => domain,
        Err(error) => {
            let message = format!("{error}. Until then its nodes keep their grants");
            say(&mut status.conditions, kind::READY, Truth::False, Reason::InvalidSpec, message);
            return DomainReport { status, power: None };
        }
    };

    let sum: Option<Watts> = view.members.iter().map(|&at| committed[at]).sum();
    let budget = domain.budget();
    status.committed_watts = sum.map(Watts::ceil);
    status.headroom_watts = sum.map(|sum| budget.saturating_sub(sum).floor());
    let (ready, ready_reason, message) = readiness(view, fleet, sum, domain, observation, now);
    say(&mut status.conditions, kind::READY, ready, ready_reason, message);

    let power = measured(view, domain, readings);
    match &power {
        Ok(Measured { power, apart, .. }) => {
            let bounds = Bounds { edges: &[domain.cap] };
            let shown = steady(status.current_power_watts, *power, &bounds);
            status.current_power_watts = Some(shown);
            let message = format!("recent readings of every node ({})", view.members.len());
            say(&mut status.conditions, kind::DATA_FRESH, Truth::True, Reason::DataFresh, message);
            let (reason, word) = match *power <= domain.cap {
                true => (Reason::PowerBelowCap, "within"),
                false => (Reason::PowerAboveCap, "above"),
            };
            let message = format!("{shown} W (unmanaged included) is {word} the cap of {} W", domain.cap.floor());
            say(&mut status.conditions, kind::WITHIN_CAP, (*power <= domain.cap).into(), reason, message);
            match differences(apart) {
                Some(message) => {
                    say(&mut status.conditions, kind::SOURCES_AGREE, Truth::False, Reason::SourcesDiffer, message);
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
    DomainReport { status, power: power.ok().map(|measured| measured.power) }
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
    let budget = domain.budget();
    let kept = format!("{} W committed of {} W for nodes", committed.ceil(), budget.floor());
    match committed <= budget {
        true => (Truth::True, Reason::GrantsFit, kept),
        false => {
            (Truth::False, Reason::AwaitingAcknowledgement, format!("{kept}; only lowerings are written until it fits"))
        }
    }
}

/// Power at the meter.
struct Measured<'a> {
    power: Watts,
    /// When the oldest reading was taken.
    oldest: Timestamp,
    /// Devices of which two sources tell different power.
    apart: Vec<(String, &'a Apart)>,
}

/// By the readings of every device and the rule for what stands beside them.
fn measured<'a>(view: &DomainView, domain: &Domain, readings: &Readings<'a>) -> Result<Measured<'a>, Hold> {
    if view.members.is_empty() {
        return Err(Hold::new(Reason::NoMatchingNodes, "no node, no reading"));
    }
    let &Readings { fleet, observation, now, .. } = readings;
    let (mut oldest, mut apart) = (now, Vec::new());
    let members: BTreeSet<_> = view.members.iter().copied().collect();
    let mut devices = vec![Watts::ZERO; fleet.nodes.len()];
    let expected = fleet.boards.keys().map(|uuid| (*uuid, None));
    let seen = observation.telemetry.gpus.iter().map(|(uuid, reading)| (uuid.as_str(), Some(reading)));
    let places = expected.chain(seen).filter_map(|(uuid, reading)| Some((uuid, fleet.node_of_gpu(uuid, reading)?)));
    let places: BTreeMap<_, _> = places.filter(|(_, at)| members.contains(at)).collect();
    for (uuid, at) in places {
        let counted = readings.of_board(uuid)?;
        devices[at] = devices[at] + counted.power.value;
        oldest = oldest.min(counted.power.at);
        apart.extend(counted.apart.map(|apart| (format!("{uuid} on {}", fleet.nodes[at].name), apart)));
    }
    let mut power = domain.unmanaged;
    for &at in &view.members {
        let name = fleet.nodes[at].name;
        let cpus = readings.of_cpus(name)?;
        power = power + domain.overhead.node_power(devices[at] + cpus.power.value);
        oldest = oldest.min(cpus.power.at);
        apart.extend(cpus.apart.map(|apart| (format!("the CPUs of {name}"), apart)));
    }
    Ok(Measured { power, oldest, apart })
}

fn feasibility(view: &DomainView, fleet: &Fleet<'_>, domain: &Domain) -> (Truth, Reason, String) {
    let floors: Option<Watts> = view
        .members
        .iter()
        .map(|&at| fleet.nodes[at].devices_floor().map(|devices| domain.overhead.node_power(devices)))
        .sum();
    let budget = domain.budget().floor();
    match floors.map(Watts::ceil) {
        None => {
            let message = "not every node agent has told what its devices can do".to_owned();
            (Truth::Unknown, Reason::AwaitingAcknowledgement, message)
        }
        Some(floors) if floors > budget => {
            let message = format!(
                "the nodes draw about {floors} W at their lowest settings, more than the {budget} W left for them"
            );
            (Truth::False, Reason::CapBelowFloor, message)
        }
        Some(floors) => {
            let message = format!("{budget} W for nodes that draw about {floors} W at their lowest settings");
            (Truth::True, Reason::CapReachable, message)
        }
    }
}
