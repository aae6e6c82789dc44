//! Ceilings are put back: what of ours stands on objects, who still asks for it, and for how much of it there are watts.
//!
//! Must hold: nothing is raised while any policy that asks for it, or that it was lowered for, climbs; nor above the
//! release threshold of any of these, or of the domain that it was for.

use std::sync::Arc;

use powercap_common::{
    api::{Action, Deed, Mode, PendingAction, PowerCappingPolicy},
    policy::{Policy, PolicyId},
    reason::Reason,
};

use super::{
    Context, What,
    ceilings::{Ceiling, Lowering, left_alone},
    undo::{Undoing, spare},
};
use crate::escalate::{
    ceilings::{
        Verdict,
        memory::Memory,
        replicas::{Wish, restore},
        resize::{self, PodVerdict},
        stored::{Kind, Stored},
    },
    observation::{ObjectName, Observation, Question},
};

/// An object with a ceiling of ours.
pub(super) struct Held<'a> {
    object: &'a Arc<Stored>,
    memory: Memory,
}

/// All of them.
pub(super) fn held(seen: &Observation) -> Vec<Held<'_>> {
    let held = |object| Some(Held { object, memory: Memory::on(object)? });
    seen.ceilings.objects.values().filter_map(held).collect()
}

/// Those that a policy has touched.
pub(super) fn of<'c, 'a>(context: &'c Context<'a>, policy: &'c PolicyId) -> impl Iterator<Item = &'c Held<'a>> {
    context
        .held
        .iter()
        .filter(|held| held.object.namespace() == policy.namespace && held.memory.by.contains_key(&policy.name))
}

impl Held<'_> {
    /// The highest rung of which something is in force here.
    pub fn rung(&self) -> Action {
        match self.object.kind {
            Kind::Pod => Action::Resize,
            _ if self.memory.taken() > 0 => Action::Scale,
            _ => Action::Freeze,
        }
    }

    /// What must be known before it is put back.
    pub fn question(&self) -> Question {
        Question::Object(ObjectName::of(self.object))
    }

    /// How it is put back as far as there are watts; none while somebody asks for it, or there are none.
    pub fn undoing(&self, context: &Context<'_>) -> Option<Undoing> {
        let rung = self.rung();
        if self.is_asked(context, rung) {
            return None;
        }
        let watts = self.memory.watts.max(1);
        let replicas = match rung {
            // The recommender asks for it no more only when nothing is throttled.
            Action::Freeze => 0,
            _ => self.room(context, rung) / watts,
        };
        let taken = self.memory.taken();
        match rung {
            Action::Scale if replicas > 0 => {
                let wish = Wish::Raise(replicas);
                self.restored(context, rung, wish, replicas.min(taken).saturating_mul(self.memory.watts))
            }
            Action::Resize if replicas > 0 => self.restored(context, rung, Wish::Lift, self.memory.watts),
            Action::Freeze => self.restored(context, rung, Wish::Lift, 0),
            _ => None,
        }
    }

    /// How it is put back where no policy is left that may have asked for it.
    pub fn orphaned(&self, context: &Context<'_>) -> Option<Undoing> {
        let rung = self.rung();
        let left = |rung| self.policies(context, rung).next().is_some();
        if left(rung) || self.is_asked(context, rung) {
            return None;
        }
        let wish = if rung == Action::Scale && left(Action::Freeze) { Wish::Raise(u32::MAX) } else { Wish::Lift };
        self.restored(context, rung, wish, 0)
    }

    /// The policy that it is told of.
    pub fn told(&self) -> PolicyId {
        let name = self.memory.by.keys().next().cloned().unwrap_or_default();
        PolicyId { namespace: self.object.namespace().to_owned(), name }
    }

    fn restored(&self, context: &Context<'_>, rung: Action, wish: Wish, frees_watts: u32) -> Option<Undoing> {
        let change = match self.object.kind {
            Kind::Pod => match resize::restore(self.object) {
                PodVerdict::Change(change) => Lowering::Cpu(change),
                PodVerdict::Stands | PodVerdict::Refused(_) => return None,
            },
            _ => match restore(self.object, wish) {
                Verdict::Change(change) => Lowering::Replicas(change),
                Verdict::Stands | Verdict::Refused(_) => return None,
            },
        };
        let ceiling = Ceiling { object: Arc::clone(self.object), change, frees_watts };
        let (what, uid) = left_alone(context, ceiling).ok()?;
        let What::Ceiling(ceiling) = &what else { return None };
        let message = format!("{}: {}", self.memory.workload, ceiling.says());
        let deed = Deed {
            action: rung,
            undone: true,
            workload: self.memory.workload.clone(),
            pod: (rung == Action::Resize).then(|| self.object.name().to_owned()),
            uid,
            domain: self.memory.by.values().flatten().next().cloned(),
            frees_watts,
            power_watts: None,
        };
        Some(Undoing { deed, what, reason: Reason::CeilingRestored, message })
    }

    /// The policies that it was touched for and that may still ask for this rung.
    fn policies<'c, 'a: 'c>(
        &'c self,
        context: &'c Context<'a>,
        rung: Action,
    ) -> impl Iterator<Item = (usize, &'a Arc<PowerCappingPolicy>)> {
        context.seen.policies.iter().enumerate().filter(move |(_, policy)| {
            let name = policy.metadata.name.as_deref().unwrap_or_default();
            policy.metadata.namespace.as_deref() == Some(self.object.namespace())
                && self.memory.by.contains_key(name)
                && policy.spec.mode == Mode::Enforce
                && policy.spec.escalation.iter().any(|permitted| permitted.action == rung)
        })
    }

    /// Whether a policy names it for this rung, or one that it was touched for climbs.
    fn is_asked(&self, context: &Context<'_>, rung: Action) -> bool {
        let climbs = |at: usize| context.needs[at].iter().any(|need| need.action.action != Action::Freeze);
        let names = || context.needs.iter().flatten().any(|need| self.is_named(need.action, rung));
        self.policies(context, rung).any(|(at, _)| climbs(at)) || names()
    }

    fn is_named(&self, pending: &PendingAction, rung: Action) -> bool {
        let pod = pending.pod.as_deref();
        pending.action == rung
            && pending.namespace == self.object.namespace()
            && pending.workload == self.memory.workload
            && (rung != Action::Resize || pod == Some(self.object.name()))
    }

    /// So many watts stay below the release thresholds of all for whom it was lowered.
    fn room(&self, context: &Context<'_>, rung: Action) -> u32 {
        let of = |(_, object): (_, &Arc<PowerCappingPolicy>)| {
            let policy = Policy::try_from(&**object).ok()?;
            let domain = self.memory.by.get(&policy.id.name).and_then(Option::as_deref);
            spare(object, &policy, domain, context.seen)
        };
        self.policies(context, rung).map(|policy| of(policy).unwrap_or_default()).min().unwrap_or_default()
    }
}
