//! What is done next to workloads, rung by rung: pure, total, deterministic.
//!
//! ```text
//!   pending actions ──▶ the rung that is due ──▶ the first victim that may be touched ──▶ a step
//!        │                                                                             │
//!        │            settle: did the power fall?  no: twice as long, after three: stop ◀┘
//!        └─ none ──▶ undo, from the top down, while power stays below the release threshold
//! ```
//!
//! Must hold: nothing is done that is not in the list of pending actions of somebody whose policy, in mode Enforce,
//! selects the workload and permits the action. A policy has one step in hand at a time, of one victim unless more are
//! permitted at once, and all of it stands in its status before any of it is done.

mod beside;
mod budgets;
pub mod ceilings;
mod due;
mod effect;
mod evict;
mod groups;
mod jobs;
mod lift;
mod limits;
mod migrate;
mod needs;
mod plan;
mod recreate;
mod resume;
mod undo;
mod workloads;

use std::{cell::OnceCell, collections::BTreeSet, sync::Arc};

use k8s_openapi::{
    apimachinery::pkg::apis::meta::v1::{Condition, Time},
    jiff::Timestamp,
};
use powercap_common::{
    api::{Action, Deed, Escalated, PowerCappingPolicy},
    condition::{self, Truth, kind},
    policy::Policy,
    reason::Reason,
};

pub use self::plan::{Held, Hold, Plan, Report, Step, What};
use self::{budgets::Budgets, lift::Held as Ceilinged, limits::InHand, needs::Need, workloads::Workloads};
use super::{migrate::facts::Move, observation::Observation};

/// Somebody who is to give way, and how.
struct Victim<'n> {
    need: &'n Need<'n>,
    what: What,
    uid: String,
}

impl Victim<'_> {
    fn domain(&self) -> Option<&str> {
        self.need.domain.and_then(|domain| domain.metadata.name.as_deref())
    }
}

/// What the rungs judge by.
struct Context<'a> {
    seen: &'a Observation,
    workloads: OnceCell<Workloads<'a>>,
    budgets: Budgets<'a>,
    /// What stands to be done on each policy's ladder, in the order of the policies.
    needs: Vec<Vec<Need<'a>>>,
    /// What has a ceiling of ours.
    held: Vec<Ceilinged<'a>>,
    rooms: OnceCell<migrate::Rooms<'a>>,
    /// Objects, by their UID, that steps of this turn take.
    taken: BTreeSet<String>,
    now: Timestamp,
}

impl<'a> Context<'a> {
    /// Whether an object is gone, or goes in this turn.
    fn is_done(&self, uid: &str) -> bool {
        self.seen.memory.done.contains(uid) || self.taken.contains(uid)
    }

    /// Pods by their controllers: gathered when the first asks, since most are passed over for other reasons.
    fn workloads(&self) -> &Workloads<'a> {
        self.workloads.get_or_init(|| Workloads::of(self.seen))
    }

    /// What nodes and domains have left: reckoned when the first asks.
    fn rooms(&self) -> &migrate::Rooms<'a> {
        self.rooms.get_or_init(|| migrate::Rooms::of(self.seen))
    }
}

/// Decides what is done now.
#[must_use]
pub fn decide(seen: &Observation, now: Timestamp) -> Plan {
    let budgets = Budgets::of(seen);
    let policies: Vec<_> = seen.policies.iter().map(|object| Policy::try_from(&**object).ok()).collect();
    let (needs, held) = (needs::by_policy(seen, &policies), lift::held(seen));
    let (workloads, rooms, taken) = (OnceCell::new(), OnceCell::new(), BTreeSet::new());
    let mut context = Context { seen, workloads, budgets, needs, held, rooms, taken, now };
    let mut in_hand = InHand::count(seen, now);
    let mut plan = Plan::default();
    for (at, (object, policy)) in seen.policies.iter().zip(&policies).enumerate() {
        let Some(policy) = policy else { continue };
        let before = plan.steps.len();
        Standing::of(object, policy, now).turn(&context, &context.needs[at], &mut in_hand, &mut plan);
        let takes = plan.steps[before..].iter().flat_map(Step::acts).filter(|(_, what)| what.takes());
        context.taken.extend(takes.map(|(deed, _)| deed.uid.clone()));
    }
    undo::orphans(&context, &mut plan);
    migrate::sweep(&context, &mut plan);
    recreate::slowly(&context, &in_hand, &mut plan);
    plan
}

/// A policy and how far it is, as it stands before this turn.
struct Standing<'a> {
    object: &'a Arc<PowerCappingPolicy>,
    policy: &'a Policy,
    escalated: Escalated,
}

impl<'a> Standing<'a> {
    fn of(object: &'a Arc<PowerCappingPolicy>, policy: &'a Policy, now: Timestamp) -> Self {
        let status = object.status.as_ref();
        let mut escalated = status.and_then(|status| status.escalated.clone()).unwrap_or_default();
        let said = status.and_then(|status| status.conditions.iter().find(|said| said.type_ == kind::ESCALATING));
        // A person has edited it since: what was in vain may not be so any more.
        if said.is_some_and(|said| said.observed_generation != object.metadata.generation) {
            escalated.without_effect = 0;
        }
        // What is ahead of us was written before the clock was set back.
        escalated.last_action = escalated.last_action.map(|at| Time(at.0.min(now)));
        Self { object, policy, escalated }
    }

    fn turn(mut self, context: &Context<'_>, needs: &[Need<'_>], in_hand: &mut InHand, plan: &mut Plan) {
        if let Some(migration) = self.escalated.migration.clone() {
            return migrate::onward(self, &migration, context, needs, plan);
        }
        let due = needs.iter().map(|need| need.action.action).find(|action| *action != Action::Freeze);
        plan.questions.extend(ceilings::questions(needs, due));
        if !needs.is_empty() {
            if let Some(reason) = self.halted(context, needs) {
                self.report(plan, Truth::False, reason, "nothing is done while this is so");
                return;
            }
            self.forget_barred(context, needs);
            // The very step that stands in status may not have been carried out.
            match self.resumed(context, needs) {
                Some(Ok(step)) => return self.once_more(context, step, in_hand, plan),
                Some(Err(Hold::Wait(Reason::NotSeenYet))) => return,
                // It is another's doing, and not in vain.
                Some(Err(Hold::Barred(Reason::Contested))) => self.escalated.forget(),
                Some(Err(_)) | None => {}
            }
        }
        let verdict = due.map(|_| effect::judge(&mut self.escalated, context, self.object));
        // What awaits its effect is not forgotten for a freeze.
        let is_judged = self.escalated.last.as_ref().is_none_or(|deed| due.is_none() || deed.undone);
        if let Some(victim) = self.freeze(context, needs, plan).filter(|_| is_judged) {
            return self.step(context, victim, Vec::new(), plan);
        }
        match (verdict, due) {
            (Some(effect::Verdict::Go), Some(due)) => self.climb(context, (needs, due), in_hand, plan),
            (Some(effect::Verdict::Wait(reason)), _) => {
                let message = effect::message(reason, &self.escalated);
                self.report(plan, Truth::True, reason, &message);
            }
            _ => self.descend(context, plan),
        }
    }

    /// The first workload that is to be kept from growing and is not yet. It waits for nothing.
    fn freeze<'n>(&self, context: &Context<'_>, needs: &'n [Need<'n>], plan: &mut Plan) -> Option<Victim<'n>> {
        for need in needs.iter().filter(|need| need.action.action == Action::Freeze) {
            match rung(context, self.object, self.policy, need) {
                Ok((what, uid)) => return Some(Victim { need, what, uid }),
                Err(Hold::Done) => {}
                Err(Hold::Wait(reason) | Hold::Barred(reason)) => plan.held.push(self.held(need, reason)),
            }
        }
        None
    }

    fn held(&self, need: &Need<'_>, reason: Reason) -> Held {
        let subject = need.action.pod.clone().unwrap_or_else(|| need.action.workload.clone());
        Held { policy: self.policy.id.clone(), action: need.action.action, subject, reason }
    }

    /// Why nothing may be done for this policy now.
    fn halted(&self, context: &Context<'_>, needs: &[Need<'_>]) -> Option<Reason> {
        let fresh = |conditions: &[Condition]| condition::truth(conditions, kind::DATA_FRESH) == Truth::True;
        let stale = |need: &Need<'_>| match need.domain {
            Some(domain) => !domain.status.as_ref().is_some_and(|status| fresh(&status.conditions)),
            None => !self.object.status.as_ref().is_some_and(|status| fresh(&status.conditions)),
        };
        context.seen.halted.or_else(|| needs.iter().any(stale).then_some(Reason::DataStale))
    }

    /// Takes the first victim of the rung that is due, and as many with it as are permitted at once.
    fn climb(
        mut self,
        context: &Context<'_>,
        (needs, due): (&[Need<'_>], Action),
        in_hand: &mut InHand,
        plan: &mut Plan,
    ) {
        let mut waits = None;
        let mut barred = None;
        let mut needs = needs.iter().filter(|need| need.action.action == due);
        while let Some(need) = needs.next() {
            let hold = match self.victim(context, need, in_hand) {
                Ok(first) => {
                    in_hand.add(&self.policy.id.namespace, first.domain());
                    let beside = self.beside(context, &first, needs, in_hand);
                    return self.step(context, first, beside, plan);
                }
                Err(hold) => hold,
            };
            let reason = match hold {
                Hold::Done => continue,
                Hold::Wait(reason) => *waits.get_or_insert(reason),
                Hold::Barred(reason) => *barred.get_or_insert(reason),
            };
            plan.held.push(self.held(need, reason));
        }
        match waits {
            // It is asked for, and known in a moment.
            Some(Reason::NotSeenYet) => return,
            Some(reason) => return self.report(plan, Truth::True, reason, "it is tried again in a while"),
            None => {}
        }
        let reason = barred.unwrap_or(Reason::RungExhausted);
        if self.escalated.exhausted != Some(due) {
            self.escalated.exhausted = Some(due);
            self.escalated.exhausted_since = Some(Time(context.now));
        }
        self.report(plan, Truth::True, reason, "nothing is left to do on the rung that is due");
    }

    /// What is to be done for a need, where it may begin now.
    fn victim<'n>(&self, context: &Context<'_>, need: &'n Need<'n>, in_hand: &InHand) -> Result<Victim<'n>, Hold> {
        let (what, uid) = rung(context, self.object, self.policy, need)?;
        due::due(self.object, self.policy, &self.escalated, need, context.now)
            .and_then(|()| in_hand.room(context, self.policy, need))
            .map_err(Hold::Wait)?;
        Ok(Victim { need, what, uid })
    }

    fn deed(&self, victim: Victim<'_>) -> (Deed, What) {
        let domain = victim.domain().map(str::to_owned);
        let Victim { need, what, uid } = victim;
        let deed = Deed {
            action: need.action.action,
            undone: false,
            workload: need.action.workload.clone(),
            pod: need.action.pod.clone(),
            uid,
            domain,
            frees_watts: match &what {
                What::Ceiling(ceiling) => ceiling.frees_watts,
                _ => need.action.frees_watts,
            },
            power_watts: effect::power(self.object, need.domain),
        };
        (deed, what)
    }

    fn step(mut self, context: &Context<'_>, first: Victim<'_>, beside: Vec<Victim<'_>>, plan: &mut Plan) {
        let refused = self.reported(Truth::True, Reason::RefusedForNow, "the API server refused; it is tried again");
        let (deed, what) = self.deed(first);
        let beside: Vec<_> = beside.into_iter().map(|victim| self.deed(victim)).collect();
        let (action, reason) = (deed.action, what.reason());
        if let What::Migrate(Move::Hold(_, migration)) = &what {
            self.escalated.migration = Some((**migration).clone());
        }
        self.escalated.rung = self.escalated.rung.max(action);
        // There was something left to do on it after all.
        if self.escalated.exhausted == Some(action) {
            let at = self.policy.ladder.iter().position(|rung| rung.action == action);
            let before = at.and_then(|at| self.policy.ladder[..at].last()).map(|rung| rung.action);
            self.escalated.exhausted = before;
            self.escalated.exhausted_since = before.and(Some(Time(context.now)));
        }
        // No watts fall by a freeze, and nothing waits for that.
        if action != Action::Freeze {
            self.escalated.last_action = Some(Time(context.now));
        }
        self.escalated.last = Some(deed.clone());
        self.escalated.beside = beside.iter().map(|(deed, _)| deed.clone()).collect();
        let subject = effect::said(&deed, beside.len());
        let message = what.says().map_or_else(|| subject.clone(), |says| format!("{subject}: {says}"));
        let before = self.reported(Truth::True, Reason::Climbing, &message);
        let policy = self.policy.id.clone();
        let (before, refused) = (Some(before), Some(refused));
        plan.steps.push(Step { policy, deed, what, beside, reason, before, refused });
    }

    /// Nothing is to be done any more, but that nothing grows.
    fn descend(mut self, context: &Context<'_>, plan: &mut Plan) {
        if self.object.status.as_ref().is_none_or(|status| status.escalated.is_none()) && !undo::any(context, &self) {
            return;
        }
        self.escalated.without_effect = 0;
        (self.escalated.exhausted, self.escalated.exhausted_since) = (None, None);
        if let Some(reason) = context.seen.halted {
            return self.report(plan, Truth::False, reason, "nothing is undone while this is so");
        }
        undo::down(self, context, plan);
    }

    fn reported(&self, truth: Truth, reason: Reason, message: &str) -> Report {
        Report {
            policy: self.policy.id.clone(),
            seen: Arc::clone(self.object),
            uid: self.object.metadata.uid.clone().unwrap_or_default(),
            escalated: Some(self.escalated.clone()),
            truth,
            reason,
            message: message.to_owned(),
            generation: self.object.metadata.generation,
        }
    }

    /// Says how it is, unless that is said already.
    fn report(&self, plan: &mut Plan, truth: Truth, reason: Reason, message: &str) {
        let report = self.reported(truth, reason, message);
        if !report.is_said(self.object) {
            plan.reports.push(report);
        }
    }
}

/// Asks the rung of a pending action what is to be done, and to which object.
///
/// Each is a module with a `due`.
fn rung(
    context: &Context<'_>,
    object: &PowerCappingPolicy,
    policy: &Policy,
    need: &Need<'_>,
) -> Result<(What, String), Hold> {
    match need.action.action {
        Action::Evict => evict::due(context, object, policy, need),
        Action::Throttle => Err(Hold::Done),
        Action::Freeze | Action::Resize | Action::Scale => ceilings::due(context, object, policy, need),
        Action::Migrate => migrate::due(context, object, policy, need),
    }
}
