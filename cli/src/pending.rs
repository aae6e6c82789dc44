//! One line for each thing that is to be done to a workload, as a status tells it; and how far a ladder is.

use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use powercap_common::{
    api::{Action, Escalated, Mode, PendingAction, PowerCappingPolicy},
    reason::Reason,
    target::{Controller, outermost},
};
use serde::Serialize;

use crate::{
    caps::{Caps, domain_set_by, policy_set_by},
    explain::answer::Cause,
    table::{Row, known},
};

/// A pending action.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(transparent)]
pub struct PendingRow(pub PendingAction);

impl PendingRow {
    /// Those of a status.
    #[must_use]
    pub fn all(pending: &[PendingAction]) -> Vec<Self> {
        pending.iter().cloned().map(Self).collect()
    }
}

impl Row for PendingRow {
    const HEADINGS: &'static [&'static str] = &["TO BE DONE", "NAMESPACE", "WORKLOAD", "POD", "FREES W", "REASON"];

    fn cells(&self) -> Vec<String> {
        let PendingAction { action, namespace, workload, pod, frees_watts, reason, .. } = &self.0;
        let frees = (*action != Action::Freeze).then_some(frees_watts);
        vec![
            format!("{action:?}"),
            namespace.clone(),
            workload.clone(),
            known(pod.as_ref()),
            known(frees),
            reason.clone(),
        ]
    }
}

/// How many are pending, as the end of a summary; nothing where there are none.
#[must_use]
pub fn summary(count: u32) -> String {
    match count {
        0 => String::new(),
        1 => " One action on a workload is pending.".to_owned(),
        count => format!(" {count} actions on workloads are pending."),
    }
}

/// What has been done, as the end of a summary; nothing of a policy that is no higher than its clocks.
#[must_use]
pub fn done(policy: &PowerCappingPolicy) -> String {
    let escalated = policy.status.as_ref().and_then(|status| status.escalated.as_ref());
    let Some(Escalated { rung, exhausted, without_effect, .. }) = escalated else { return String::new() };
    let in_force = (*rung > Action::Throttle).then(|| format!(" {rung:?} is in force."));
    let exhausted = exhausted.map(|rung| format!(" At {rung:?} nothing is left to do."));
    let idle = (*without_effect > 0).then(|| format!(" The last actions ({without_effect}) brought no watts down."));
    in_force.into_iter().chain(exhausted).chain(idle).collect()
}

/// What is pending for a pod, or for the workload that it is of.
#[must_use]
pub fn for_pod(pod: &Pod, caps: &Caps) -> Vec<Cause> {
    let (namespace, name) = (pod.namespace().unwrap_or_default(), pod.name_any());
    let owner = outermost(Controller::of(&pod.metadata).as_ref(), pod.labels()).map(|owner| owner.to_string());
    let policies = caps.policies.iter().filter_map(|policy| {
        Some((policy_set_by(policy), policy.spec.mode == Mode::Advise, &policy.status.as_ref()?.pending_actions))
    });
    let domains = caps.domains.iter();
    let domains =
        domains.filter_map(|domain| Some((domain_set_by(domain), false, &domain.status.as_ref()?.pending_actions)));
    let concerns = |pending: &&PendingAction| {
        pending.namespace == namespace
            && match &pending.pod {
                Some(pod) => *pod == name,
                None => owner.as_ref() == Some(&pending.workload),
            }
    };
    let mut causes = Vec::new();
    for (of, advised, pending) in policies.chain(domains) {
        causes.extend(pending.iter().filter(concerns).map(|pending| cause(&of, advised, pending)));
    }
    causes
}

/// `advised`: nobody does it.
fn cause(of: &str, advised: bool, pending: &PendingAction) -> Cause {
    let PendingAction { action, workload, pod, since, reason, .. } = pending;
    let whom = pod.as_ref().map_or_else(|| workload.clone(), |pod| format!("pod {pod}"));
    let is = if advised { "advised" } else { "pending" };
    let says = reason.parse().map_or("", Reason::explanation).to_owned();
    Cause { reason: reason.clone(), of: format!("{of}, {action:?} of {whom} {is}"), says, since: Some(since.0) }
}
