//! Pods that draw more than their share of their policy's cap, now and over the window.
//!
//! A pod's share are the power limits that the policy's algorithm has for its devices, and an equal part of
//! what the cap keeps for CPUs. Its power is smoothed over about a minute.
//!
//! ```text
//!            above 105 % of its share
//!   within ──────────────────────────▶ violator          what is not known changes nothing
//!      ▲                                  │
//!      └────── below 95 % of its share ───┘
//! ```
//!
//! Must hold: a pod on the border, and numbers that flicker, write nothing; who is listed stays listed for as
//! long as it is a violator.

use std::{cmp::Reverse, collections::BTreeMap};

use jiff::Timestamp;
use powercap_common::{
    api::{Action, PowerScope, Recommendation, Violator},
    policy::Policy,
    units::{Megahertz, Watts},
};

use super::{
    fleet::{Board, Pod},
    outlook,
    policy::PolicyView,
    readings::Readings,
    steady::{Bounds, steady},
    verdict::Verdict,
};
use crate::model::{
    history::History,
    window::{Window, percent_above},
};

/// As many are listed: the bound of the field.
const MOST: usize = 10;
/// A pod becomes a violator above this part of its share…
const ENTERS_PERCENT: u32 = 105;
/// …and is none any more below this one.
const LEAVES_PERCENT: u32 = 95;
/// The time above is written anew when it has moved by this much.
const PERCENT_MOVES_BY: u32 = 5;

/// What a pod draws, and what it may.
struct Claim<'a> {
    pod: &'a Pod<'a>,
    /// Its devices.
    devices: Vec<&'a Board<'a>>,
    /// The lowest of their limits.
    limit: Option<Watts>,
    share: Watts,
    /// None when something of it is not known.
    power: Option<Watts>,
}

/// The list and the count of a policy's status, given those that it has.
pub fn violators(
    (listed, count): (Vec<Violator>, u32),
    view: &PolicyView<'_>,
    policy: &Policy,
    verdict: &Verdict<'_>,
    readings: &Readings<'_>,
) -> (Vec<Violator>, u32) {
    let history = &readings.observation.telemetry.history;
    if verdict.power.is_err() {
        return (listed, count);
    }
    let before: BTreeMap<_, _> = listed.into_iter().map(|violator| (violator.pod.clone(), violator)).collect();
    let host = policy.scope == PowerScope::DevicesAndHost;
    let judge = |claim: Claim<'_>| {
        let known = before.get(&claim.pod.facts.name.name);
        let Some(power) = claim.power else { return Some((Watts::ZERO, known?.clone())) };
        let bound = claim.share.percent(if known.is_some() { LEAVES_PERCENT } else { ENTERS_PERCENT });
        let ceiling = claim.devices.iter().filter_map(|board| verdict.ceilings.of(board)).min();
        let violator = || claim.violator(power, known, ceiling, &claim.means(host), (history, readings.now));
        (power > bound).then(|| (power.saturating_sub(claim.share), violator()))
    };
    let mut found: Vec<_> = claims(view, policy, verdict).into_iter().filter_map(judge).collect();
    let number = u32::try_from(found.len()).unwrap_or(u32::MAX);
    found.sort_by_key(|(excess, violator)| (!before.contains_key(&violator.pod), Reverse(*excess)));
    found.truncate(MOST);
    let mut shown: Vec<_> = found.into_iter().map(|(_, violator)| violator).collect();
    shown.sort_by(|one, other| one.pod.cmp(&other.pod));
    (shown, if close(count, number) { count } else { number })
}

/// Beyond what is listed nobody counts exactly.
fn close(count: u32, number: u32) -> bool {
    count.min(number) as usize > MOST && count.abs_diff(number) <= count / 10
}

/// Pods of which it can be told what they draw: by devices that no other pod uses, or by their CPU use.
fn claims<'a>(view: &PolicyView<'a>, policy: &Policy, verdict: &Verdict<'_>) -> Vec<Claim<'a>> {
    let host = policy.scope == PowerScope::DevicesAndHost;
    let for_cpus = policy.cap.saturating_sub(verdict.for_devices).divided(view.pods.len());
    let begin = |pod: &&'a Pod<'a>| {
        let (share, power) = match host {
            true => (for_cpus, pod.course.and_then(|course| course.recent)),
            false => (Watts::ZERO, Some(Watts::ZERO)),
        };
        Claim { pod, devices: Vec::new(), limit: None, share, power }
    };
    let mut claims: Vec<_> = view.pods.iter().map(begin).collect();
    for (&board, &limit) in view.devices.iter().zip(&verdict.limits) {
        let mut ours = board.tenants.iter().filter_map(|pod| view.place(*pod));
        let (Some(at), None) = (ours.next(), ours.next()) else { continue };
        let claim = &mut claims[at];
        let recent = board.course.and_then(|course| course.recent);
        claim.power = claim.power.zip(recent).map(|(power, recent)| power + recent);
        claim.share = claim.share + limit;
        claim.limit = claim.limit.into_iter().chain([limit]).min();
        claim.devices.push(board);
    }
    claims.retain(|claim| !claim.devices.is_empty() || host && claim.pod.facts.gpus == 0);
    claims
}

impl<'a> Claim<'a> {
    /// The past of what it uses.
    fn means(&self, host: bool) -> Vec<&'a Window> {
        let boards = self.devices.iter().filter_map(|board| board.course);
        let cpus = self.pod.course.filter(|_| host);
        boards.chain(cpus).map(|course| &course.means).collect()
    }

    fn violator(
        &self,
        power: Watts,
        known: Option<&Violator>,
        ceiling: Option<Megahertz>,
        means: &[&Window],
        (history, now): (&History, Timestamp),
    ) -> Violator {
        let span = history.span;
        let since = outlook::since(self.pod.facts, span);
        let percent = since.and_then(|since| percent_above(means, self.share, since, span.step(now)));
        let shown = known.and_then(|known| known.window_percent);
        let moved = shown.zip(percent).is_none_or(|(shown, percent)| shown.abs_diff(percent) >= PERCENT_MOVES_BY);
        Violator {
            pod: self.pod.facts.name.name.clone(),
            power_watts: steady(known.map(|known| known.power_watts), power, &Bounds { edges: &[] }),
            share_watts: self.share.floor(),
            window_percent: if moved { percent } else { shown },
            recommendation: Recommendation {
                action: Action::Throttle,
                max_megahertz: ceiling.map(Megahertz::get),
                device_watts: self.limit.map(Watts::floor),
            },
        }
    }
}
