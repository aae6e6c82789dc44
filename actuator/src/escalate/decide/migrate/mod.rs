//! A pod is moved to a node outside of the domain that is above its cap.
//!
//! ```text
//!   hold a place ──runs──▶ taint the source ──▶ evict ──▶ its replacement is Pending ──▶ give the place up
//!      │  ▲                                        │               ▲        │ no node in time: hold again
//!      │  └ no room in time, three nodes at most   │               └────────┘ three times at most, then untaint
//!      ▼                                           ▼                        │
//!   abandon: nobody asks, forbidden,           by the rules of              ▼ ready, or ten minutes
//!   no place, the pod went by itself           an eviction                end; the source keeps its taint until
//!                                                                         it advertises less ([`sweep`])
//! ```
//!
//! Must hold: `status.escalated.migration` tells all that the next leader must know, and stands before anything is
//! done; each move may be done twice; the pod of this UID alone is evicted, and only while a place is held for it. A
//! place or taint of which no status tells goes.

mod destination;
mod sweep;

use k8s_openapi::{
    apimachinery::pkg::apis::meta::v1::Time,
    jiff::{SignedDuration, Timestamp},
};
use powercap_common::{
    api::{Action, Escalated, Migration, PowerCappingPolicy, PowerDomain, WATTS},
    condition::Truth,
    policy::Policy,
    reason::Reason,
};

pub(super) use self::{destination::Rooms, sweep::sweep};
use super::{Context, Hold, Plan, Standing, Step, What, effect, evict, groups, needs::Need};
use crate::escalate::{
    migrate::facts::{Mark, Move, NodeFacts, Place, PlaceFacts, place_name},
    observation::{PodFacts, PodName},
};

/// So long a place may take to be held.
const HELD_WITHIN: i64 = 30;
/// So long a replacement may take to come, beyond the grace of what it replaces.
const MADE_WITHIN: i64 = 60;
/// So long a replacement may take to find a node.
const BOUND_WITHIN: i64 = 20;
/// So long a replacement may take to become ready.
const READY_WITHIN: SignedDuration = SignedDuration::from_secs(600);
/// So many nodes are tried.
const TRIES: usize = 3;
/// The API server's clock may be so far from ours.
const CLOCKS_DIFFER: i64 = 30;

/// The place that is held first, for a pod that may be evicted and has somewhere to go.
pub(super) fn due(
    context: &Context<'_>,
    object: &PowerCappingPolicy,
    policy: &Policy,
    need: &Need<'_>,
) -> Result<(What, String), Hold> {
    // A policy's own cap counts its pods wherever they are: a move frees nothing of it.
    let Some(domain) = need.domain else { return Err(Hold::Barred(Reason::NoDestination)) };
    // A place is held for one pod, and a group has several.
    if need.action.workload.split_once('/').is_some_and(|(kind, _)| kind == groups::KIND) {
        return Err(Hold::Barred(Reason::NeverEvicted));
    }
    let (What::Evict(name), uid) = evict::due(context, object, policy, need)? else {
        return Err(Hold::Barred(Reason::NeverEvicted));
    };
    let pod = context.seen.pods.get(&name).ok_or(Hold::Done)?;
    let (Some(source), Some(controller)) = (&pod.node, &pod.controller) else { return Err(Hold::Done) };
    let trip = destination::Trip { pod, source, domain, watts: need.action.frees_watts };
    let node = context.rooms().choose(&trip, &[]).ok_or(Hold::Barred(Reason::NoDestination))?;
    let migration = Migration {
        pod: name.name.clone(),
        uid: uid.clone(),
        controller: controller.to_string(),
        source: source.clone(),
        destinations: vec![node],
        evicted: None,
        until: Some(later(context.now, HELD_WITHIN)),
    };
    Ok((What::Migrate(hold(policy, &name, migration)), uid))
}

/// What comes next for the migration that stands in status.
pub(super) fn onward(
    standing: Standing<'_>,
    migration: &Migration,
    context: &Context<'_>,
    needs: &[Need<'_>],
    plan: &mut Plan,
) {
    let trip = Trip::of(&standing, migration, context);
    if trip.stays.is_some()
        && let Some(reason) = standing.halted(context, needs)
    {
        return standing.report(plan, Truth::False, reason, "nothing is done while this is so");
    }
    let next = if trip.stays.is_some() { trip.leave(&standing, needs) } else { trip.arrive() };
    trip.carry_on(next, standing, plan);
}

/// A migration and those whom it concerns.
struct Trip<'t, 'a> {
    context: &'t Context<'a>,
    migration: &'t Migration,
    policy: &'t Policy,
    name: PodName,
    /// The pod, while it stays on the source.
    stays: Option<&'t PodFacts>,
    /// It is still ending.
    ending: bool,
    replacement: Option<(&'t PodName, &'t PodFacts)>,
    place: Option<&'t PlaceFacts>,
    source: Option<&'t NodeFacts>,
    domain: Option<&'t PowerDomain>,
    watts: u32,
}

enum Next {
    Wait(&'static str),
    Hold(Move),
    Taint,
    Evict,
    GiveUp,
    Abandon(Reason),
    End(Reason),
}

impl<'t, 'a> Trip<'t, 'a> {
    fn of(standing: &Standing<'t>, migration: &'t Migration, context: &'t Context<'a>) -> Self {
        let seen = context.seen;
        let name = PodName { namespace: standing.policy.id.namespace.clone(), name: migration.pod.clone() };
        let pod = seen.pods.get(&name).filter(|pod| pod.uid == migration.uid);
        let last = standing.escalated.last.as_ref();
        let domain = last.and_then(|deed| deed.domain.as_ref());
        let place = seen.places.get(&place_name(migration)).filter(|place| !place.ended);
        Self {
            context,
            migration,
            policy: standing.policy,
            stays: pod.filter(|pod| !pod.ending && !seen.memory.done.contains(&pod.uid)).map(AsRef::as_ref),
            ending: pod.is_some(),
            replacement: replacement(context, &name.namespace, migration, last.map(|deed| deed.workload.as_str())),
            place,
            source: seen.nodes.get(&migration.source).map(AsRef::as_ref),
            domain: seen.domains.iter().find(|object| object.metadata.name.as_ref() == domain).map(AsRef::as_ref),
            watts: last.map_or(0, |deed| deed.frees_watts),
            name,
        }
    }

    fn is_late(&self) -> bool {
        self.migration.until.as_ref().is_none_or(|until| self.context.now >= until.0)
    }

    /// While the pod is on the source.
    fn leave(&self, standing: &Standing<'_>, needs: &[Need<'_>]) -> Next {
        let for_it = |need: &Need<'_>| {
            need.action.action == Action::Migrate
                && need.domain.map(|domain| &domain.metadata.name) == self.domain.map(|domain| &domain.metadata.name)
        };
        if !needs.iter().any(for_it) {
            return Next::Abandon(Reason::NothingPending);
        }
        let ended = self.context.seen.places.get(&place_name(self.migration)).is_some_and(|place| place.ended);
        match self.place {
            Some(place) if place.held => {}
            Some(_) if !self.is_late() => return Next::Wait("a place is waited for"),
            None if !self.is_late() && !ended => {
                return Next::Hold(hold(self.policy, &self.name, self.migration.clone()));
            }
            _ => return self.again(&self.name).map_or(Next::Abandon(Reason::MigrationFailed), Next::Hold),
        }
        match evict::may_go(self.context, (standing.object, standing.policy), &self.name) {
            Ok(_) if self.source.is_some_and(|node| node.mark.is_none()) => Next::Taint,
            Ok(_) => Next::Evict,
            Err(Hold::Wait(_)) if !self.is_late() => Next::Wait("the place is held; the workload is not whole"),
            Err(Hold::Wait(reason) | Hold::Barred(reason)) => Next::Abandon(reason),
            Err(Hold::Done) => Next::Wait("the pod ends"),
        }
    }

    /// When it is gone, or going.
    fn arrive(&self) -> Next {
        if self.migration.evicted.is_none() {
            return Next::Abandon(Reason::GoneByItself);
        }
        match self.replacement {
            None if self.ending || !self.is_late() => Next::Wait("the pod ends, and is made anew"),
            None => Next::End(Reason::MigrationFailed),
            Some((_, pod)) if pod.node.is_some() => match self.place {
                Some(_) => Next::GiveUp,
                None if pod.ready => Next::End(Reason::Migrated),
                None if pod.created.is_some_and(|made| self.context.now.duration_since(made) > READY_WITHIN) => {
                    Next::End(Reason::MigrationFailed)
                }
                None => Next::Wait("what was made anew is not ready yet"),
            },
            Some((name, _)) => match self.place {
                Some(place) if place.held => Next::GiveUp,
                _ if !self.is_late() => Next::Wait("what was made anew waits for its node"),
                _ => self.again(name).map_or(Next::End(Reason::MigrationFailed), Next::Hold),
            },
        }
    }

    /// The next node, where there is one and it is not one too many.
    fn again(&self, like: &PodName) -> Option<Move> {
        let (tried, domain) = (&self.migration.destinations, self.domain?);
        let pod = self.context.seen.pods.get(like).filter(|_| tried.len() < TRIES)?;
        let trip = destination::Trip { pod, source: &self.migration.source, domain, watts: self.watts };
        // A pod that waits may find room again where it was taken; one that stays is not sent to where none was.
        let without = if self.migration.evicted.is_some() { &[][..] } else { tried };
        let node = self.context.rooms().choose(&trip, without)?;
        let mut migration = self.migration.clone();
        migration.destinations.push(node);
        migration.until = Some(later(self.context.now, HELD_WITHIN));
        Some(hold(self.policy, like, migration))
    }

    fn carry_on(&self, next: Next, mut standing: Standing<'_>, plan: &mut Plan) {
        let (now, place) = (self.context.now, place_name(self.migration));
        let to = format!("{} to {}", self.migration.pod, self.migration.destination());
        let mut refused = None;
        let what = match next {
            Next::Wait(what) => {
                let message = format!("{to}: {what}");
                return standing.report(plan, Truth::True, Reason::Migrating, &message);
            }
            Next::Hold(held) => {
                if let Move::Hold(_, migration) = &held {
                    standing.escalated.migration = Some((**migration).clone());
                }
                What::Migrate(held)
            }
            Next::Taint => {
                let watts = self.stays.map_or(0, |pod| pod.wants.requests.whole(WATTS));
                let mark = Mark { uid: self.migration.uid.clone(), watts, since: now };
                What::Migrate(Move::Taint(self.migration.source.clone(), mark))
            }
            Next::Evict => {
                let back = Migration { evicted: None, ..self.migration.clone() };
                standing.escalated.migration = Some(back);
                refused = Some(standing.reported(Truth::True, Reason::RefusedForNow, "the API server refused"));
                let grace = self.stays.map_or(0, |pod| pod.wants.grace_seconds);
                self.evicting(&mut standing.escalated, i64::from(grace));
                if let Some(last) = &mut standing.escalated.last {
                    last.power_watts = effect::power(standing.object, self.domain);
                }
                What::Evict(self.name.clone())
            }
            Next::GiveUp => {
                let until = Some(later(now, BOUND_WITHIN));
                standing.escalated.migration = Some(Migration { until, ..self.migration.clone() });
                What::Migrate(Move::GiveUp(place))
            }
            Next::Abandon(reason) => return self.end(standing, reason, Move::Abandon(place), plan),
            Next::End(Reason::Migrated) => {
                standing.escalated.migration = None;
                return standing.report(plan, Truth::True, Reason::Migrated, &to);
            }
            // What finds no place elsewhere may come back.
            Next::End(reason) => {
                return self.end(standing, reason, Move::Untaint(self.migration.source.clone()), plan);
            }
        };
        let Some(deed) = standing.escalated.last.clone() else {
            // Nobody but a person takes it away: the rest is swept.
            standing.escalated.migration = None;
            return standing.report(plan, Truth::True, Reason::MigrationFailed, &to);
        };
        let reason = if matches!(what, What::Evict(_)) { Reason::Evicted } else { Reason::Migrating };
        let before = standing.reported(Truth::True, Reason::Migrating, &to);
        let before = (!before.is_said(standing.object)).then_some(before);
        let policy = standing.policy.id.clone();
        plan.steps.push(Step { policy, deed, what, beside: Vec::new(), reason, before, refused });
    }

    fn evicting(&self, escalated: &mut Escalated, grace: i64) {
        let now = self.context.now;
        let (evicted, until) = (Some(Time(now)), Some(later(now, grace.saturating_add(MADE_WITHIN))));
        escalated.migration = Some(Migration { evicted, until, ..self.migration.clone() });
        escalated.last_action = Some(Time(now));
    }

    /// The migration is over without success: that is written first, and what is left of it swept later if need be.
    fn end(&self, mut standing: Standing<'_>, reason: Reason, last: Move, plan: &mut Plan) {
        let deed = standing.escalated.last.clone().unwrap_or_default();
        standing.escalated.migration = None;
        if self.migration.evicted.is_none() {
            // Nothing was done that could have an effect.
            (standing.escalated.last, standing.escalated.last_action) = (None, None);
        }
        let message = format!("{} was not moved", self.migration.pod);
        let before = Some(standing.reported(Truth::True, reason, &message));
        let (policy, what) = (standing.policy.id.clone(), What::Migrate(last));
        plan.steps.push(Step { policy, deed, what, beside: Vec::new(), reason, before, refused: None });
    }
}

fn hold(policy: &Policy, like: &PodName, migration: Migration) -> Move {
    let place = Place {
        name: place_name(&migration),
        like: like.clone(),
        node: migration.destination().to_owned(),
        policy: policy.id.clone(),
    };
    Move::Hold(place, Box::new(migration))
}

/// The newest pod of the same controller that was made since; when the pod was evicted its workload was whole, and none
/// of it younger than its cool-down. Where there is none, as after a rollout of a Deployment, the newest of the workload.
fn replacement<'a>(
    context: &Context<'a>,
    namespace: &str,
    migration: &Migration,
    workload: Option<&str>,
) -> Option<(&'a PodName, &'a PodFacts)> {
    let evicted = migration.evicted.as_ref()?;
    let cool_down = i64::try_from(context.seen.limits.cool_down.as_secs()).unwrap_or(CLOCKS_DIFFER);
    let since = later(evicted.0, -cool_down.clamp(1, CLOCKS_DIFFER));
    let rank = |pod: &PodFacts| {
        let same = pod.controller.as_ref().is_some_and(|controller| controller.to_string() == migration.controller);
        let in_its_place = same || workload.is_some_and(|workload| pod.is_of(workload));
        // Of another controller some may have been made while a rollout was on its way already.
        let made = pod.created.filter(|made| *made >= if same { since.0 } else { evicted.0 })?;
        (in_its_place && !pod.ending && pod.uid != migration.uid).then_some((same, made))
    };
    let made_since = context.seen.pods_of(namespace).filter_map(|(name, pod)| Some((rank(pod)?, (name, pod))));
    made_since.max_by_key(|(rank, _)| *rank).map(|(_, made)| made)
}

fn later(now: Timestamp, seconds: i64) -> Time {
    Time(now.saturating_add(SignedDuration::from_secs(seconds)).unwrap_or(now))
}
