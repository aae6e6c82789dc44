//! Whether what was last done brought the watts down.
//!
//! ```text
//!   done ──settle──▶ fell by a quarter of what was expected? ──yes──▶ go on
//!                        └─no: + 1 ──▶ settle · 2ⁿ ──▶ go on;  after three: stop
//! ```

use k8s_openapi::jiff::SignedDuration;
use powercap_common::{
    api::{Action, Deed, Escalated, PowerCappingPolicy, PowerDomain},
    reason::Reason,
};

use super::Context;

/// So many steps in vain, and no more are taken.
const IN_VAIN: u32 = 3;
/// Of what a step was expected to free, so much must be seen.
const SHARE: u32 = 4;

pub(super) enum Verdict {
    /// The next step may be taken.
    Go,
    /// Not yet.
    Wait(Reason),
}

/// Judges the last step once it had its time.
pub(super) fn judge(escalated: &mut Escalated, context: &Context<'_>, object: &PowerCappingPolicy) -> Verdict {
    // Nothing falls by a freeze.
    if escalated.last.as_ref().is_some_and(|deed| deed.action == Action::Freeze) {
        escalated.forget();
    }
    let settle = SignedDuration::try_from(context.seen.limits.settle).unwrap_or(SignedDuration::MAX);
    let age = escalated.last_action.as_ref().map(|at| context.now.duration_since(at.0));
    if age.is_some_and(|age| age < settle) {
        return Verdict::Wait(Reason::AwaitingEffect);
    }
    if let Some(deed) = &escalated.last {
        let freed = escalated.deeds().map(|deed| deed.frees_watts).fold(0, u32::saturating_add);
        escalated.without_effect = if fell(deed, freed, context, object) { 0 } else { escalated.without_effect + 1 };
        escalated.forget();
    }
    if escalated.without_effect >= IN_VAIN {
        return Verdict::Wait(Reason::StoppedWithoutEffect);
    }
    let pause = settle.saturating_mul(1 << escalated.without_effect);
    if age.is_some_and(|age| age < pause) { Verdict::Wait(Reason::BackingOff) } else { Verdict::Go }
}

/// Whether the power that a deed was for has fallen, after all that was done together had this to free.
fn fell(deed: &Deed, frees_watts: u32, context: &Context<'_>, object: &PowerCappingPolicy) -> bool {
    let domain = deed.domain.as_ref();
    let domain =
        domain.and_then(|name| context.seen.domains.iter().find(|domain| domain.metadata.name.as_ref() == Some(name)));
    // What is not known is no failure of the step; and what is undone is not meant to lower anything.
    let (Some(before), Some(after)) = (deed.power_watts, power(object, domain.map(|domain| &**domain))) else {
        return true;
    };
    deed.undone || after.saturating_add((frees_watts / SHARE).max(1)) <= before
}

/// The power that the cap is about: the domain's, or else the policy's.
pub(super) fn power(object: &PowerCappingPolicy, domain: Option<&PowerDomain>) -> Option<u32> {
    match domain {
        Some(domain) => domain.status.as_ref()?.current_power_watts,
        None => object.status.as_ref()?.current_power_watts,
    }
}

pub(super) fn message(reason: Reason, escalated: &Escalated) -> String {
    match reason {
        Reason::StoppedWithoutEffect => {
            format!("{} steps in a row did not bring power down; edit the policy to go on", escalated.without_effect)
        }
        Reason::BackingOff => format!("steps in a row that did not bring power down: {}", escalated.without_effect),
        _ => match &escalated.last {
            Some(deed) => said(deed, escalated.beside.len()),
            None => "the last step is given time".to_owned(),
        },
    }
}

/// What is done, in words.
pub(super) fn said(deed: &Deed, beside: usize) -> String {
    let more = if beside > 0 { format!(" and {beside} more") } else { String::new() };
    format!("{:?}: {}{more}", deed.action, deed.pod.as_ref().unwrap_or(&deed.workload))
}
