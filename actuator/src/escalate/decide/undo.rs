//! What was done is undone, from the top rung down, one thing after the other, when there are watts for it. What keeps
//! workloads from growing goes last, when nothing is throttled any more.
//!
//! Must hold: power, with what the undone thing will draw, stays under the release threshold of the policy, and of the
//! domain that it was done for. What is not known is never too little. Where nobody asks for it any more (the policy
//! is gone, does not enforce, or does not permit it) it is undone at once.

use std::cmp::Reverse;

use k8s_openapi::{apimachinery::pkg::apis::meta::v1::Time, jiff::SignedDuration};
use powercap_common::{
    api::{Action, Deed, Escalated, Mode, PowerCappingPolicy},
    condition::Truth,
    domain::RELEASES_PERCENT,
    policy::{Policy, PolicyId},
    reason::Reason,
    units::Watts,
};

use super::{Context, Plan, Standing, Step, What, lift};
use crate::escalate::{
    ceilings::stored::Kind,
    observation::{JobFacts, ObjectName, Observation, Question, SuspendedByUs},
};

/// The last step stands in status for so many settling times.
pub(super) const REMEMBERED: i32 = 10;

/// Something that is undone.
pub(super) struct Undoing {
    pub deed: Deed,
    pub what: What,
    pub reason: Reason,
    pub message: String,
}

/// Whether something of the policy is in force.
pub(super) fn any(context: &Context<'_>, standing: &Standing<'_>) -> bool {
    let policy = &standing.policy.id;
    suspended(context.seen, policy).next().is_some() || lift::of(context, policy).next().is_some()
}

/// Undoes the next thing, or says that nothing is left.
pub(super) fn down(mut standing: Standing<'_>, context: &Context<'_>, plan: &mut Plan) {
    let settle = SignedDuration::try_from(context.seen.limits.settle).unwrap_or(SignedDuration::MAX);
    let last = standing.escalated.last_action.clone();
    if last.as_ref().is_some_and(|at| context.now.duration_since(at.0) < settle) {
        return standing.report(plan, Truth::True, Reason::AwaitingEffect, "the last step is given time");
    }
    standing.escalated.forget();
    let mut stays = None;
    for (rung, undoing) in in_force(context, &standing.policy.id, plan) {
        match undoing {
            _ if stays.is_some_and(|higher| higher > rung) => break,
            Some(undoing) => return standing.undo(context, undoing, plan),
            None => stays = Some(rung),
        }
    }
    // What was done a while ago still keeps pods from being made anew at once.
    let remembered = settle.saturating_mul(REMEMBERED);
    let last_action = last.filter(|at| context.now.duration_since(at.0) < remembered);
    standing.escalated = Escalated { rung: stays.unwrap_or_default(), last_action, ..Escalated::default() };
    match stays {
        Some(Action::Freeze) => {
            let message = "no workload grows as long as a cap throttles its pods";
            standing.report(plan, Truth::True, Reason::Frozen, message);
        }
        Some(_) => {
            let message = "there are no watts yet to undo what was done";
            standing.report(plan, Truth::True, Reason::AwaitingEffect, message);
        }
        // There may be something after all.
        None if context.seen.ceilings.partial => {}
        None => {
            let mut report = standing.reported(Truth::False, Reason::NothingPending, "lower clocks suffice");
            report.escalated = report.escalated.filter(|escalated| escalated.last_action.is_some());
            if !report.is_said(standing.object) {
                plan.reports.push(report);
            }
        }
    }
}

/// What of the policy is in force, the highest rung first, and how it is undone where it may be.
fn in_force(context: &Context<'_>, policy: &PolicyId, plan: &mut Plan) -> Vec<(Action, Option<Undoing>)> {
    plan.questions.extend(suspended(context.seen, policy).filter_map(|(name, ..)| question(name)));
    let resumed = |(name, job, mark)| (Action::Evict, resuming(context, policy, name, job, mark));
    let mut all: Vec<_> = suspended(context.seen, policy).map(resumed).collect();
    for held in lift::of(context, policy) {
        let undoing = held.undoing(context);
        if undoing.is_some() {
            plan.questions.push(held.question());
        }
        all.push((held.rung(), undoing));
    }
    all.sort_by_key(|(rung, _)| Reverse(*rung));
    all
}

fn resuming(
    context: &Context<'_>,
    policy: &PolicyId,
    name: &ObjectName,
    job: &JobFacts,
    mark: &SuspendedByUs,
) -> Option<Undoing> {
    let object = context.seen.policies.iter().find(|object| {
        object.metadata.namespace.as_ref() == Some(&policy.namespace)
            && object.metadata.name.as_ref() == Some(&policy.name)
    })?;
    let policy = Policy::try_from(&**object).ok()?;
    spare(object, &policy, mark.domain.as_deref(), context.seen).filter(|spare| *spare >= mark.watts)?;
    Some(Undoing {
        deed: deed(name, job, mark),
        what: What::Resume { job: name.clone() },
        reason: Reason::JobResumed,
        message: format!("resumed {}", name.workload()),
    })
}

impl Standing<'_> {
    fn undo(mut self, context: &Context<'_>, undoing: Undoing, plan: &mut Plan) {
        let refused = self.reported(Truth::True, Reason::RefusedForNow, "the API server refused; it is tried again");
        let Undoing { deed, what, reason, message } = undoing;
        self.escalated.last_action = Some(Time(context.now));
        self.escalated.forget();
        self.escalated.last = Some(deed.clone());
        let before = self.reported(Truth::True, reason, &message);
        let policy = self.policy.id.clone();
        let (before, refused) = (Some(before), Some(refused));
        plan.steps.push(Step { policy, deed, what, beside: Vec::new(), reason, before, refused });
    }
}

/// Undoes what nobody asks for any more.
pub(super) fn orphans(context: &Context<'_>, plan: &mut Plan) {
    if context.seen.halted.is_some() {
        return;
    }
    for (name, job) in &context.seen.jobs {
        let Some(mark) = job.suspended_by_us.as_ref().filter(|_| job.suspended && !job.ended) else { continue };
        let asks = context.seen.policies.iter().any(|policy| {
            policy.metadata.namespace.as_ref() == Some(&name.namespace)
                && policy.metadata.name.as_ref() == Some(&mark.policy)
                && policy.spec.mode == Mode::Enforce
                && policy.spec.escalation.iter().any(|rung| rung.action == Action::Evict)
        });
        let patient = context.seen.memory.left_alone.get(&job.uid).is_some_and(|(until, _)| *until > context.now);
        if !asks && !patient {
            plan.questions.extend(question(name));
            plan.steps.push(Step {
                policy: PolicyId { namespace: name.namespace.clone(), name: mark.policy.clone() },
                deed: deed(name, job, mark),
                what: What::Resume { job: name.clone() },
                beside: Vec::new(),
                reason: Reason::JobResumed,
                before: None,
                refused: None,
            });
        }
    }
    for held in &context.held {
        if let Some(Undoing { deed, what, reason, .. }) = held.orphaned(context) {
            let policy = held.told();
            plan.steps.push(Step { policy, deed, what, beside: Vec::new(), reason, before: None, refused: None });
        }
    }
}

fn suspended<'a>(
    seen: &'a Observation,
    policy: &'a PolicyId,
) -> impl Iterator<Item = (&'a ObjectName, &'a JobFacts, &'a SuspendedByUs)> {
    let jobs = seen.jobs.iter().filter(|(name, job)| name.namespace == policy.namespace && job.suspended && !job.ended);
    jobs.filter_map(|(name, job)| {
        let mark = job.suspended_by_us.as_ref().filter(|mark| mark.policy == policy.name)?;
        Some((name, job, mark))
    })
}

/// What must be known before it is resumed: of Jobs all are known.
fn question(name: &ObjectName) -> Option<Question> {
    (name.kind != Kind::Job).then(|| Question::Object(name.clone()))
}

/// So many watts more stay below the release threshold of the policy, and of the domain that it was for. None where
/// that is not known.
pub(super) fn spare(
    object: &PowerCappingPolicy,
    policy: &Policy,
    domain: Option<&str>,
    seen: &Observation,
) -> Option<u32> {
    let power = object.status.as_ref()?.current_power_watts?;
    let own = policy.release_threshold.floor().checked_sub(power)?;
    let domain = domain.and_then(|name| seen.domains.iter().find(|it| it.metadata.name.as_deref() == Some(name)));
    let Some(domain) = domain else { return Some(own) };
    let status = domain.status.as_ref()?;
    let idle = status.pending_actions.iter().all(|pending| pending.action == Action::Freeze);
    let release = Watts::new(domain.spec.power_cap_limit_watts).percent(RELEASES_PERCENT);
    let left = release.floor().checked_sub(status.current_power_watts?)?;
    idle.then_some(own.min(left))
}

fn deed(name: &ObjectName, job: &JobFacts, mark: &SuspendedByUs) -> Deed {
    Deed {
        action: Action::Evict,
        undone: true,
        workload: name.workload(),
        pod: None,
        uid: job.uid.clone(),
        domain: mark.domain.clone(),
        frees_watts: mark.watts,
        power_watts: None,
    }
}
