//! Whose pending actions are whose: those of a policy's own cap first, then those of domains on its pods.

use std::collections::HashMap;

use powercap_common::{
    api::{Mode, PendingAction, PowerCappingPolicy, PowerDomain},
    policy::Policy,
};

use crate::escalate::observation::{Observation, PodFacts, PodName};

/// Something that stands to be done, and for whose cap.
#[derive(Clone, Copy)]
pub(super) struct Need<'a> {
    pub action: &'a PendingAction,
    /// The domain; none for the policy's own cap.
    pub domain: Option<&'a PowerDomain>,
}

/// What is to be done on each policy's ladder, in the order of the policies. One that is not valid, does not enforce, or
/// whose list does not permit the action, has none.
pub(super) fn by_policy<'a>(seen: &'a Observation, policies: &[Option<Policy>]) -> Vec<Vec<Need<'a>>> {
    let mut here: HashMap<&str, Vec<(usize, &PowerCappingPolicy, &Policy)>> = HashMap::new();
    for (at, (object, policy)) in seen.policies.iter().zip(policies).enumerate() {
        let Some(policy) = policy.as_ref().filter(|policy| policy.mode == Mode::Enforce) else { continue };
        here.entry(object.metadata.namespace.as_deref().unwrap_or_default()).or_default().push((at, object, policy));
    }
    let mut needs = vec![Vec::new(); seen.policies.len()];
    for (at, object, policy) in here.values().flatten() {
        let pending = object.status.as_ref().map(|status| status.pending_actions.as_slice()).unwrap_or_default();
        let pending = pending.iter().filter(|action| action.namespace == policy.id.namespace);
        needs[*at] =
            pending.filter(|action| permits(policy, action)).map(|action| Need { action, domain: None }).collect();
    }
    for domain in &seen.domains {
        let pending = domain.status.as_ref().map(|status| status.pending_actions.as_slice()).unwrap_or_default();
        for action in pending {
            let pods = pods(seen, action);
            let is_of = |object: &PowerCappingPolicy, policy: &Policy| {
                pods.iter().any(|pod| policy.selects(object, &pod.labels, pod.controller.as_ref()))
            };
            let mut here = here.get(action.namespace.as_str()).into_iter().flatten();
            let owner = here.find(|(_, object, policy)| permits(policy, action) && is_of(object, policy));
            if let Some((at, ..)) = owner {
                needs[*at].push(Need { action, domain: Some(&**domain) });
            }
        }
    }
    needs
}

fn permits(policy: &Policy, action: &PendingAction) -> bool {
    policy.ladder.iter().any(|rung| rung.action == action.action)
}

/// The pod, or those of the workload where none is named.
fn pods<'a>(seen: &'a Observation, action: &PendingAction) -> Vec<&'a PodFacts> {
    let namespace = &action.namespace;
    match &action.pod {
        Some(pod) => {
            let name = PodName { namespace: namespace.clone(), name: pod.clone() };
            seen.pods.get(&name).map(AsRef::as_ref).into_iter().collect()
        }
        None => seen.pods_of(namespace).map(|(_, pod)| pod).filter(|pod| pod.is_of(&action.workload)).collect(),
    }
}
