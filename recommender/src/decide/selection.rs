//! Which pods a policy is for.
//!
//! ```text
//!   selector ──────────────────────────────▶ pods with these labels
//!   targetRef ─▶ found ────────────────────▶ pods with the labels of its selector that it controls
//!            └─▶ not found, or not readable ▶ those by what the policy's status remembers of it
//!                                        └──▶ nothing remembered: nobody knows, and what stands, stands
//! ```
//!
//! Must hold: a target that cannot be found uncaps nothing that was capped before. A pod that a target's
//! selector matches and that something else controls is left alone.

use powercap_common::{
    api::{FoundTarget, PowerCappingPolicy, TargetRef},
    policy::{Chosen, Policy},
    reason::Reason,
    selector::Selector,
};

use super::{fleet::Pod, labelled::Labelled};
use crate::observation::{Hold, Observation, Target};

/// The pods of a policy, and how they are known.
#[derive(Default)]
pub struct Selection<'a> {
    /// The running ones, in the order of their names.
    pub pods: Vec<&'a Pod<'a>>,
    /// What its target led to, now or when it was last found.
    pub target: Option<FoundTarget>,
    /// Why the target is not known now.
    pub trouble: Option<Hold>,
}

impl<'a> Selection<'a> {
    /// Those of `pods_in`, the running pods of its namespace, if there are any.
    pub fn of(
        policy: &Policy,
        object: &PowerCappingPolicy,
        pods_in: Option<&mut Labelled<'a, &'a Pod<'a>>>,
        observation: &Observation,
    ) -> Self {
        let target_ref = match &policy.chosen {
            Chosen::Labels(selector) => {
                let pods = matching(pods_in, selector, |_| true);
                return Self { pods, ..Self::default() };
            }
            Chosen::Target(target_ref) => target_ref,
        };
        let (target, trouble) = find(policy, target_ref, object, observation);
        let selector = target.as_ref().and_then(|target| target.selector.parse::<Selector>().ok());
        let owned = |found: &FoundTarget, pod: &Pod<'_>| found.owns(pod.facts.controller.as_ref(), &pod.facts.labels);
        let found = target.as_ref().zip(selector);
        let pods = found.map(|(found, selector)| matching(pods_in, &selector, |pod| owned(found, pod)));
        let pods = pods.unwrap_or_default();
        Self { pods, target, trouble }
    }
}

fn find(
    policy: &Policy,
    target_ref: &TargetRef,
    object: &PowerCappingPolicy,
    observation: &Observation,
) -> (Option<FoundTarget>, Option<Hold>) {
    let asked = Target { namespace: policy.id.namespace.clone(), target_ref: target_ref.clone() };
    let remembered = object.status.as_ref().and_then(|status| status.target.clone());
    let remembered = remembered.filter(|found| found.target_ref == *target_ref);
    match observation.targets.get(&asked) {
        Some(Ok(found)) => (Some(found.clone()), None),
        Some(Err(hold)) => (remembered, Some(hold.clone())),
        None if remembered.is_some() => (remembered, None),
        None => (None, Some(Hold::new(Reason::TargetPending, format!("looking {target_ref} up")))),
    }
}

fn matching<'a>(
    pods_in: Option<&mut Labelled<'a, &'a Pod<'a>>>,
    selector: &Selector,
    is_ours: impl Fn(&Pod<'_>) -> bool,
) -> Vec<&'a Pod<'a>> {
    let mut selected = pods_in.map(|pods| pods.selected(selector)).unwrap_or_default();
    selected.retain(|pod| is_ours(pod));
    selected
}
