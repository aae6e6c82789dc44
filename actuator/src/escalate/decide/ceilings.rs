//! Freeze, Resize and Scale: what of a ceiling is to be lowered now.
//!
//! | rung | lowers | at once |
//! |---|---|---|
//! | Freeze | the most replicas to those that there are | one workload |
//! | Resize | the CPU limits of a pod to what it requests, or should | one pod |
//! | Scale | the most replicas of a workload | as many as free the excess |
//!
//! Must hold: nothing is decided on what was not seen; a lowering that stands in status and was carried out is not
//! lowered once more, but set again where another has undone it.

use std::{collections::BTreeMap, sync::Arc};

use k8s_openapi::jiff::Timestamp;
use powercap_common::{
    api::{Action, PowerCappingPolicy, PowerScope},
    policy::Policy,
    quantity::Quantity,
    reason::Reason,
};

use super::{Context, Hold, What, effect, needs::Need};
use crate::escalate::{
    ceilings::{
        Change, Verdict,
        bounds::{Bound, Site, bounding},
        memory::{By, Memory},
        replicas::{Wish, decide, to_spare},
        resize::{self, PodChange, PodVerdict},
        stored::{Kind, Stored},
    },
    observation::{ObjectName, PodFacts, PodName, Question},
};

/// A change of a ceiling.
#[derive(Clone, Debug, PartialEq)]
pub struct Ceiling {
    /// The object, as it was decided on.
    pub object: Arc<Stored>,
    /// What changes.
    pub change: Lowering,
    /// What it is expected to free, in watts; undone, to draw.
    pub frees_watts: u32,
}

/// What changes of an object.
#[derive(Clone, Debug, PartialEq)]
pub enum Lowering {
    /// The bounds of replicas.
    Replicas(Change),
    /// A pod's CPU limits.
    Cpu(PodChange),
}

impl Ceiling {
    /// Why.
    #[must_use]
    pub fn reason(&self) -> Reason {
        match &self.change {
            Lowering::Replicas(change) => change.reason,
            Lowering::Cpu(change) => change.reason,
        }
    }

    /// Which fields change, from what to what.
    #[must_use]
    pub fn says(&self) -> &str {
        match &self.change {
            Lowering::Replicas(change) => &change.says,
            Lowering::Cpu(change) => &change.says,
        }
    }
}

/// What must be known for these needs: of freezes, and of the rung that is due. Of Jobs all are known.
pub(super) fn questions(needs: &[Need<'_>], due: Option<Action>) -> impl Iterator<Item = Question> {
    let now = needs
        .iter()
        .map(|need| need.action)
        .filter(move |pending| pending.action == Action::Freeze || Some(pending.action) == due);
    now.flat_map(|pending| {
        let namespace = pending.namespace.clone();
        match (pending.action, &pending.pod) {
            (Action::Freeze | Action::Scale, _) => {
                vec![Question::Site { namespace, workload: pending.workload.clone() }]
            }
            (Action::Resize, Some(pod)) => {
                let pod = ObjectName { kind: Kind::Pod, namespace: namespace.clone(), name: pod.clone() };
                vec![Question::Vpas(namespace), Question::Object(pod)]
            }
            (Action::Evict, None) => {
                let (kind, name) = pending.workload.split_once('/').unwrap_or_default();
                let kind = Kind::of_job(kind).filter(|kind| *kind != Kind::Job);
                let object = kind.map(|kind| ObjectName { kind, namespace, name: name.to_owned() });
                object.map(Question::Object).into_iter().collect()
            }
            _ => Vec::new(),
        }
    })
}

/// What is to be done for a pending freeze, resize or change of replicas, and to which object.
pub(super) fn due(
    context: &Context<'_>,
    object: &PowerCappingPolicy,
    policy: &Policy,
    need: &Need<'_>,
) -> Result<(What, String), Hold> {
    let ceiling = match need.action.action {
        Action::Resize => cpu(context, object, policy, need)?,
        action => {
            let site = site(context, need)?;
            let bound = bounding(site).map_err(|hold| Hold::Barred(hold.reason))?;
            if action == Action::Freeze {
                replicas(context, policy, need, &bound, (Wish::Freeze, 0))?
            } else {
                settled(context, need)?;
                let (fewer, frees) = fewer(object, policy, need, &bound);
                replicas(context, policy, need, &bound, (Wish::Lower(fewer), frees))?
            }
        }
    };
    selected(context, (object, policy), need)?;
    left_alone(context, ceiling)
}

/// Of a change of replicas that stands in status since then and was carried out: what another undid of it. None
/// where it was not carried out.
pub(super) fn again(
    context: &Context<'_>,
    policy: &Policy,
    need: &Need<'_>,
    since: Timestamp,
) -> Option<Result<(What, String), Hold>> {
    let site = site(context, need).ok()?;
    let bound = bounding(site).ok()?;
    let lowered = Memory::on(bound.object)?.lowered?;
    // Status tells seconds.
    if lowered.as_second() < since.as_second() {
        return None;
    }
    let kept = replicas(context, policy, need, &bound, (Wish::Keep, need.action.frees_watts));
    Some(kept.and_then(|ceiling| left_alone(context, ceiling)))
}

fn site<'a>(context: &Context<'a>, need: &Need<'_>) -> Result<&'a Site, Hold> {
    let name = (need.action.namespace.clone(), need.action.workload.clone());
    match context.seen.ceilings.sites.get(&name) {
        Some(Some(site)) => Ok(site),
        Some(None) => Err(Hold::Done),
        None => Err(Hold::Wait(Reason::NotSeenYet)),
    }
}

/// A change of what bounds replicas, with what it frees.
fn replicas(
    context: &Context<'_>,
    policy: &Policy,
    need: &Need<'_>,
    bound: &Bound<'_>,
    (wish, frees_watts): (Wish, u32),
) -> Result<Ceiling, Hold> {
    match decide(bound, wish, &by(policy, need), context.now) {
        Verdict::Change(change) => {
            let object = Arc::new(bound.object.clone());
            Ok(Ceiling { object, change: Lowering::Replicas(change), frees_watts })
        }
        Verdict::Stands if matches!(wish, Wish::Lower(_)) => Err(Hold::Barred(Reason::NothingToLower)),
        Verdict::Stands => Err(Hold::Done),
        Verdict::Refused(hold) => Err(Hold::Barred(hold.reason)),
    }
}

fn by<'n>(policy: &'n Policy, need: &Need<'n>) -> By<'n> {
    By {
        workload: &need.action.workload,
        policy: &policy.id.name,
        domain: need.domain.and_then(|domain| domain.metadata.name.as_deref()),
        watts: need.action.frees_watts,
    }
}

/// How many replicas go, and what that frees: as many as free what is above the cap, at least one.
fn fewer(object: &PowerCappingPolicy, policy: &Policy, need: &Need<'_>, bound: &Bound<'_>) -> (u32, u32) {
    let power = effect::power(object, need.domain).unwrap_or_default();
    let cap = need.domain.map_or(policy.cap.floor(), |domain| domain.spec.power_cap_limit_watts);
    let each = need.action.frees_watts.max(1);
    let fewer = power.saturating_sub(cap).div_ceil(each).min(to_spare(bound)).max(1);
    (fewer, fewer.saturating_mul(need.action.frees_watts))
}

/// While replicas are still going, nobody knows what is left.
fn settled(context: &Context<'_>, need: &Need<'_>) -> Result<(), Hold> {
    let mut pods = pods(context, need);
    if pods.any(|pod| pod.ending) { Err(Hold::Wait(Reason::ReplacementPending)) } else { Ok(()) }
}

/// Whether the policy selects any pod of the workload, as far as pods of it are there.
fn selected(
    context: &Context<'_>,
    (object, policy): (&PowerCappingPolicy, &Policy),
    need: &Need<'_>,
) -> Result<(), Hold> {
    let mut pods = pods(context, need).peekable();
    let none = pods.peek().is_none();
    let selected = none || pods.any(|pod| policy.selects(object, &pod.labels, pod.controller.as_ref()));
    if selected { Ok(()) } else { Err(Hold::Barred(Reason::RungNotPermitted)) }
}

fn pods<'n>(context: &'n Context<'_>, need: &'n Need<'_>) -> impl Iterator<Item = &'n PodFacts> {
    let pods = context.seen.pods_of(&need.action.namespace).map(|(_, pod)| pod);
    pods.filter(|pod| pod.is_of(&need.action.workload))
}

fn cpu(context: &Context<'_>, object: &PowerCappingPolicy, policy: &Policy, need: &Need<'_>) -> Result<Ceiling, Hold> {
    let namespace = &need.action.namespace;
    let Some(name) = need.action.pod.clone() else { return Err(Hold::Barred(Reason::NothingToLower)) };
    let facts = context.seen.pods.get(&PodName { namespace: namespace.clone(), name: name.clone() });
    let Some(facts) = facts.filter(|pod| !pod.ending) else { return Err(Hold::Done) };
    if facts.is_static || facts.critical {
        return Err(Hold::Barred(Reason::NothingToLower));
    }
    let unseen = Hold::Wait(Reason::NotSeenYet);
    let vpas = context.seen.ceilings.vpas.get(namespace).ok_or(unseen)?;
    let name = ObjectName { kind: Kind::Pod, namespace: namespace.clone(), name };
    let pod = context.seen.ceilings.objects.get(&name).filter(|pod| pod.uid() == facts.uid).ok_or(unseen)?;
    // What a domain counts, counts for it whatever its policies count.
    let scope = need.domain.map_or(policy.scope, |_| PowerScope::DevicesAndHost);
    let (kind, workload) = need.action.workload.split_once('/').unwrap_or_default();
    resize::permitted(scope, vpas, kind, workload).map_err(|hold| Hold::Barred(hold.reason))?;
    match resize::lower(pod, &recommended(object), &by(policy, need), context.now) {
        PodVerdict::Change(change) => {
            let change = Lowering::Cpu(change);
            Ok(Ceiling { object: Arc::clone(pod), change, frees_watts: need.action.frees_watts })
        }
        PodVerdict::Stands => Err(Hold::Done),
        PodVerdict::Refused(hold) => Err(Hold::Barred(hold.reason)),
    }
}

/// What the containers of the policy's pods should request of CPU time.
fn recommended(object: &PowerCappingPolicy) -> BTreeMap<String, Quantity> {
    let recommendation = object.status.as_ref().and_then(|status| status.recommendation.as_ref());
    let containers = recommendation.into_iter().flat_map(|all| &all.container_recommendations);
    let cpu = containers.filter_map(|container| {
        let cpu = container.target.cpu.as_ref()?.quantity().ok()?;
        Some((container.container_name.clone(), cpu))
    });
    cpu.collect()
}

/// What the API server answered a moment ago still counts.
pub(super) fn left_alone(context: &Context<'_>, ceiling: Ceiling) -> Result<(What, String), Hold> {
    let memory = &context.seen.memory;
    let uid = ceiling.object.uid().to_owned();
    match memory.left_alone.get(&uid) {
        Some((until, reason @ Reason::CeilingRefused)) if *until > context.now => Err(Hold::Barred(*reason)),
        Some((until, reason)) if *until > context.now => Err(Hold::Wait(*reason)),
        _ if memory.patience_until.is_some_and(|until| until > context.now) => Err(Hold::Wait(Reason::RefusedForNow)),
        _ => Ok((What::Ceiling(ceiling), uid)),
    }
}
