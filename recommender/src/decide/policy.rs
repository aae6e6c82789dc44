//! Policies: whose pods and devices.

use std::sync::Arc;

use powercap_common::{
    api::{FoundTarget, Mode, PowerCappingPolicy},
    policy::{Policy, PolicyError},
};

use super::{
    fleet::{Board, Fleet, Pod},
    labelled::Labelled,
    selection::Selection,
    tenancy::{Permission, Rules},
};
use crate::{
    algorithms::{self, Algorithm},
    observation::{Hold, Observation, PodName},
};

/// A policy as written, as understood, and its pods and devices.
pub struct PolicyView<'a> {
    /// As written.
    pub object: Arc<PowerCappingPolicy>,
    /// As understood.
    pub policy: Result<Policy, PolicyError>,
    /// By which it shares its cap out.
    pub algorithm: Box<dyn Algorithm>,
    /// Running pods that it selects.
    pub pods: Vec<&'a Pod<'a>>,
    /// Their devices, those shared with pods of others apart. These and those below are in their order.
    pub devices: Vec<&'a Board<'a>>,
    /// Devices that it shares with pods that it does not select, and its part of them.
    pub shared: Vec<(&'a Board<'a>, f64)>,
    /// Its own devices on nodes whose domains let it do less than elsewhere.
    pub barred: Vec<&'a Board<'a>>,
    /// What its target led to.
    pub target: Option<FoundTarget>,
    /// Why its target is not known now.
    pub trouble: Option<Hold>,
    /// What the domains of its pods' nodes permit.
    pub permission: Permission,
}

impl<'a> PolicyView<'a> {
    /// Understands one policy. `pods_in` are the running pods of its namespace, if there are any.
    pub fn of(
        object: &Arc<PowerCappingPolicy>,
        pods_in: Option<&mut Labelled<'a, &'a Pod<'a>>>,
        rules: &Rules<'_>,
        fleet: &'a Fleet<'a>,
        observation: &'a Observation,
    ) -> Self {
        let (mut policy, algorithm) = understood(object);
        let active = policy.as_ref().ok().filter(|policy| policy.mode != Mode::Off);
        let selection = active.map(|policy| Selection::of(policy, object, pods_in, observation)).unwrap_or_default();
        let Selection { mut pods, target, trouble } = selection;
        let chosen = pods.iter().copied();
        let permission = active.map(|policy| Permission::of(policy, chosen, rules, fleet, observation));
        let permission = permission.unwrap_or_default();
        if let Ok(policy) = &mut policy {
            policy.mode = policy.mode.min(permission.mode);
            if policy.mode == Mode::Off {
                pods.clear();
            }
        }
        let mut boards: Vec<_> = pods.iter().flat_map(|pod| fleet.boards_of(pod)).collect();
        boards.sort_by_key(|board| board.at);
        boards.dedup_by_key(|board| board.at);
        let (mut devices, mut shared, mut barred) = (Vec::new(), Vec::new(), Vec::new());
        for board in boards {
            let tenants = &board.tenants;
            let is_ours = |tenant: &&usize| pods.binary_search_by_key(*tenant, |pod| pod.at).is_ok();
            let ours = tenants.iter().filter(is_ours).count();
            if ours < tenants.len() && !permission.shares_on(board.node) {
                #[expect(clippy::cast_precision_loss, reason = "a device has few tenants")]
                shared.push((board, ours as f64 / tenants.len() as f64));
            } else if permission.acts_on(board.node) {
                devices.push(board);
            } else {
                barred.push(board);
            }
        }
        Self {
            object: Arc::clone(object),
            policy,
            algorithm,
            pods,
            devices,
            shared,
            barred,
            target,
            trouble,
            permission,
        }
    }

    /// The place of a board among its devices, if it is one of them.
    pub fn device(&self, board: &Board<'_>) -> Option<usize> {
        self.devices.binary_search_by_key(&board.at, |board| board.at).ok()
    }

    /// Every board that its pods use.
    pub fn boards(&self) -> impl Iterator<Item = &'a Board<'a>> {
        let shared = self.shared.iter().map(|(board, _)| board);
        self.devices.iter().chain(shared).chain(&self.barred).copied()
    }

    /// Where among its pods the running pod of this place stands, if it selects it.
    pub fn place(&self, pod: usize) -> Option<usize> {
        self.pods.binary_search_by_key(&pod, |pod| pod.at).ok()
    }

    /// The running pod of this name, if it selects it.
    pub fn named(&self, name: &PodName) -> Option<&'a Pod<'a>> {
        let at = self.pods.binary_search_by_key(&name, |pod| &pod.facts.name).ok()?;
        self.pods.get(at).copied()
    }

    /// Whether it writes ceilings.
    pub fn enforces(&self) -> bool {
        self.policy.as_ref().is_ok_and(|policy| policy.mode == Mode::Enforce)
    }

    /// Why it is neither judged nor carried out although it is understood and not switched off.
    pub fn hold(&self) -> Option<&Hold> {
        let unknown = self.trouble.as_ref().filter(|_| self.is_unresolved());
        unknown.or(self.permission.bound.as_ref().filter(|_| self.permission.mode == Mode::Off))
    }

    /// Whether nobody knows which pods it is for.
    pub fn is_unresolved(&self) -> bool {
        self.trouble.is_some() && self.target.is_none()
    }

    /// As it stands in `setBy`, even when the spec cannot be understood.
    pub fn set_by(&self) -> String {
        let metadata = &self.object.metadata;
        let part = |name: &Option<String>| name.clone().unwrap_or_default();
        format!("powercappingpolicy/{}/{}", part(&metadata.namespace), part(&metadata.name))
    }
}

/// The policy and its algorithm; nobody understands one whose algorithm nobody knows.
fn understood(object: &PowerCappingPolicy) -> (Result<Policy, PolicyError>, Box<dyn Algorithm>) {
    let policy = Policy::try_from(object);
    let algorithm = algorithms::made(policy.as_ref().map(|policy| policy.algorithm).unwrap_or_default());
    (policy, algorithm)
}
