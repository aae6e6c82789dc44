//! Which pods of a policy are held back now, by how much and why, as the agents of their nodes say: the same
//! words as `kubectl powercap explain` uses.
//!
//! Must hold: a settled cluster is written nothing. A pod's row stays as it is while its numbers move little,
//! and a row that stands makes way only for a pod that is clearly held back more.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet},
};

use powercap_common::{
    api::{Brake, CappedPod, GpuStatus},
    domain::Domain,
    reason::Reason,
};

use super::{
    domain::DomainView,
    fleet::{Board, Fleet},
    policy::PolicyView,
};

/// So many pods are named.
const MOST: usize = 16;
/// A number in a row moves when it is off by more than this share of itself.
const DEADBAND_PERCENT: u32 = 5;

/// A pod that is named makes way only for one that is slower by more than this, in thousandths.
const HEAD_START: u32 = 50;

/// The pods of a policy that are held back.
pub struct Capped<'a> {
    /// All of them.
    pub pods: BTreeSet<&'a str>,
    /// Those that are held back most, for the status.
    pub rows: Vec<CappedPod>,
}

/// Those of a policy. `before` are the rows that stand.
pub fn of<'a>(view: &PolicyView<'a>, before: &[CappedPod], domains: &[DomainView], fleet: &Fleet<'_>) -> Capped<'a> {
    let standing: BTreeMap<_, _> = before.iter().map(|row| (row.pod.as_str(), row)).collect();
    let (mut pods, mut held) = (BTreeSet::new(), Vec::new());
    for pod in &view.pods {
        let boards = fleet.boards_of(pod).filter_map(|board| Some((board, board.told?)));
        let boards: Vec<_> = boards.filter(|(_, told)| is_held(told)).collect();
        let Some(speed) = boards.iter().map(|(_, told)| speed(told)).min() else { continue };
        let pod = pod.facts.name.name.as_str();
        pods.insert(pod);
        let head_start = if standing.contains_key(pod) { HEAD_START } else { 0 };
        held.push((speed.saturating_sub(head_start), pod, boards));
    }
    held.sort_by_key(|(speed, pod, _)| (*speed, *pod));
    let rows = held.iter().take(MOST).filter_map(|(_, pod, boards)| {
        let row = row(pod, boards, domains)?;
        let standing = standing.get(pod).filter(|standing| is_close(standing, &row));
        Some(standing.map_or(row, |standing| (*standing).clone()))
    });
    let mut rows: Vec<_> = rows.collect();
    let most = |number: Option<u32>| number.unwrap_or(u32::MAX);
    rows.sort_by(|one, other| {
        let order = |row: &CappedPod| (most(row.ceiling_megahertz), most(row.power_limit_watts));
        order(one).cmp(&order(other)).then_with(|| one.pod.cmp(&other.pod))
    });
    Capped { rows, pods }
}

/// Whether a cap holds a board back, by the word of its node's agent.
pub fn is_held(board: &GpuStatus) -> bool {
    board.reason.parse().is_ok_and(|reason| {
        matches!(
            reason,
            Reason::PolicyCap
                | Reason::DomainCap
                | Reason::EnvelopeReached
                | Reason::DeviceLimitReached
                | Reason::CapBelowFloor
                | Reason::GroupFollows
                | Reason::BrakePulled
                | Reason::FallbackInForce
        )
    })
}

fn row(pod: &str, boards: &[(&Board<'_>, &GpuStatus)], domains: &[DomainView]) -> Option<CappedPod> {
    let (board, slowest) = boards.iter().min_by_key(|(_, board)| (speed(board), &board.uuid))?;
    Some(CappedPod {
        pod: pod.to_owned(),
        devices: u32::try_from(boards.len()).unwrap_or(u32::MAX),
        ceiling_megahertz: boards.iter().filter_map(|(_, board)| board.target_graphics_megahertz).min(),
        power_limit_watts: boards.iter().filter_map(|(_, board)| board.power_limit_watts).min(),
        reason: slowest.reason.clone(),
        set_by: set_by(board, slowest, domains),
    })
}

/// How fast a board may run, in thousandths of what it can.
fn speed(board: &GpuStatus) -> u32 {
    let share = |now: Option<u32>, most: u32| match now {
        Some(now) if most > 0 => u32::try_from(u64::from(now) * 1000 / u64::from(most)).unwrap_or(u32::MAX),
        _ => 1000,
    };
    let clock = share(board.target_graphics_megahertz, board.max_graphics_megahertz);
    clock.min(share(board.power_limit_watts, board.max_power_limit_watts))
}

fn is_close(row: &CappedPod, other: &CappedPod) -> bool {
    let close = |one: Option<u32>, other: Option<u32>| match (one, other) {
        (Some(one), Some(other)) => one.abs_diff(other) <= one / (100 / DEADBAND_PERCENT),
        (one, other) => one == other,
    };
    (&row.reason, &row.set_by, row.devices) == (&other.reason, &other.set_by, other.devices)
        && close(row.ceiling_megahertz, other.ceiling_megahertz)
        && close(row.power_limit_watts, other.power_limit_watts)
}

/// Whose cap holds a board back: its ceiling's, else that of the domain that leaves its node the least.
fn set_by(board: &Board<'_>, told: &GpuStatus, domains: &[DomainView]) -> Option<String> {
    let of_ceiling = || board.ceiling.map(|(_, ceiling)| ceiling.set_by.clone());
    let is_around = |view: &&DomainView| board.node.is_some_and(|at| view.members.binary_search(&at).is_ok());
    let around = || domains.iter().filter(is_around);
    let understood = || around().filter_map(|view| Some((view, view.domain.as_ref().ok()?)));
    match told.reason.parse().ok()? {
        Reason::EnvelopeReached | Reason::CapBelowFloor => {
            let least = understood().min_by_key(|(view, domain)| view.watts(domain).divided(view.members.len()));
            least.map(|(_, domain)| domain.set_by())
        }
        Reason::BrakePulled => {
            let braking = understood().min_by_key(|(view, _)| Reverse(brake(view)));
            braking.map(|(_, domain): (_, &Domain)| domain.set_by())
        }
        Reason::FallbackInForce => None,
        _ => of_ceiling(),
    }
}

fn brake(view: &DomainView) -> Brake {
    let own = view.object.status.as_ref().and_then(|status| status.brake.as_ref()).map(|brake| brake.level);
    own.unwrap_or_default().max(view.object.spec.brake)
}
