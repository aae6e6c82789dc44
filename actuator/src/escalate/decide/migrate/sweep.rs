//! Takes away placeholders and taints of which no policy's status tells.
//!
//! ```text
//!   taint ── its pod stays after all · the node advertises less · two minutes ──▶ off
//! ```
//!
//! Must hold: what a migration in hand needs stays. While nobody decides nothing is opened again.

use std::collections::BTreeSet;

use k8s_openapi::jiff::SignedDuration;
use powercap_common::{
    api::{Action, Deed, Migration},
    policy::{Policy, PolicyId},
    reason::Reason,
};

use crate::escalate::{
    decide::{Context, Plan, Step, What},
    migrate::facts::{Mark, Move, NAMESPACE, place_name},
};

/// A node that was left advertises less within this, or never.
const LOWERED_WITHIN: SignedDuration = SignedDuration::from_secs(120);

/// Takes away all that is no longer needed.
pub(in crate::escalate::decide) fn sweep(context: &Context<'_>, plan: &mut Plan) {
    let seen = context.seen;
    let marked = || seen.nodes.iter().filter_map(|(name, node)| Some((name, &node.uid, node.mark.as_ref()?)));
    if seen.places.is_empty() && marked().next().is_none() {
        return;
    }
    let valid = seen.policies.iter().filter(|object| Policy::try_from(&***object).is_ok());
    let in_hand: Vec<&Migration> =
        valid.filter_map(|object| object.status.as_ref()?.escalated.as_ref()?.migration.as_ref()).collect();
    let needed: BTreeSet<_> = in_hand.iter().map(|migration| place_name(migration)).collect();
    for (name, place) in seen.places.iter().filter(|(name, place)| !place.ended && !needed.contains(*name)) {
        take(context, plan, ("Pod", name), &place.uid, Move::GiveUp(name.clone()));
    }
    for (name, uid, mark) in marked() {
        let needed = in_hand.iter().any(|migration| migration.source == *name);
        if !needed && seen.halted.is_none() && is_over(context, name, mark) {
            take(context, plan, ("Node", name), uid, Move::Untaint(name.clone()));
        }
    }
}

fn is_over(context: &Context<'_>, node: &str, mark: &Mark) -> bool {
    let stays = context.seen.pods.values().any(|pod| pod.uid == mark.uid && !pod.ending);
    let lowered = context.rooms().free_watts(node).is_some_and(|free| free < mark.watts);
    stays || lowered || context.now.duration_since(mark.since) > LOWERED_WITHIN
}

fn take(context: &Context<'_>, plan: &mut Plan, (kind, name): (&str, &str), uid: &str, what: Move) {
    if context.seen.memory.left_alone.get(uid).is_some_and(|(until, _)| *until > context.now) {
        return;
    }
    let workload = format!("{kind}/{name}");
    let deed = Deed { action: Action::Migrate, undone: true, workload, uid: uid.to_owned(), ..Deed::default() };
    let policy = PolicyId { namespace: NAMESPACE.to_owned(), name: String::new() };
    let (what, reason) = (What::Migrate(what), Reason::NothingPending);
    plan.steps.push(Step { policy, deed, what, beside: Vec::new(), reason, before: None, refused: None });
}
