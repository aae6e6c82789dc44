//! A policy's cap, shared out to its devices: what each may draw, and which are held to one clock.

use std::collections::BTreeMap;

use powercap_common::{
    reason::Reason,
    units::{Megahertz, Watts},
};

use super::{
    claims::{self, Device},
    groups::Groups,
    policy::PolicyView,
    readings::Readings,
    throttle::{self, Set, Throttle},
};
use crate::{
    algorithms::{Claim, share_out},
    observation::Hold,
};

/// What came out.
pub struct Shared<'a> {
    /// The power limit of each device, in their order.
    pub limits: Vec<Watts>,
    /// By which they are slowed.
    pub throttle: Throttle<'a>,
    /// Why the algorithm's shares were not used.
    pub refused: Option<Hold>,
}

/// Shares out `whole`, for limits, and `target`, which the clocks are to keep.
pub fn out<'a>(
    view: &PolicyView<'_>,
    devices: &'a [Device<'a>],
    whole: Watts,
    target: Watts,
    groups: &Groups,
    readings: &Readings<'_>,
) -> Shared<'a> {
    let algorithm = &*view.algorithm;
    let set_by = view.set_by();
    let mut claims: Vec<_> = devices.iter().map(|device| claim(device, groups, &set_by, view, readings)).collect();
    // What performance is promised is given even where the cap is too low for it.
    let promised = devices.iter().filter_map(|device| device.least_by_floor).sum();
    let shares = share_out(algorithm, whole.max(promised), &claims);
    // A limit of nothing cannot be written.
    let limit =
        |(share, device): (Watts, &Device<'_>)| share.max(device.least_by_floor.unwrap_or_default()).max(Watts::new(1));
    let limits = shares.watts.into_iter().zip(devices).map(limit).collect();
    let refused = shares.refused.map(|refusal| Hold::new(Reason::SharesRefused, refusal.to_string()));

    let reported = view.object.status.as_ref().and_then(|status| status.recommended_max_megahertz);
    let reported = reported.map(Megahertz::new);
    let written = |members: &[usize]| throttle::written(members.iter().map(|at| devices[*at].board), &set_by);
    let sets = if algorithm.treats_all_alike() {
        let members: Vec<_> = (0..devices.len()).collect();
        // The lower of what was written to nodes and what was last reported.
        let present = written(&members).into_iter().chain(reported).min();
        vec![Set { members, target, present }]
    } else {
        // The clocks hang on what the boards draw now.
        claims.iter_mut().for_each(|claim| claim.standing = None);
        let targets = share_out(algorithm, target, &claims).watts;
        let mut sets = BTreeMap::<_, (Vec<usize>, Watts)>::new();
        for (at, target) in targets.into_iter().enumerate() {
            let number = groups.number(devices[at].board);
            let (members, together) = sets.entry((number, number.map_or(at, |_| 0))).or_default();
            members.push(at);
            *together = *together + target;
        }
        // Advice is written nowhere else, and of what another policy holds lower not even that is ours.
        let others = |at: &usize| devices[*at].board.ceiling.is_some_and(|(_, by)| by.set_by != set_by);
        let unwritten = |members: &[usize]| !view.enforces() || members.iter().any(others);
        let present = |members: &[usize]| written(members).or(reported.filter(|_| unwritten(members)));
        sets.into_values().map(|(members, target)| Set { present: present(&members), members, target }).collect()
    };
    Shared { limits, throttle: Throttle { devices, sets }, refused }
}

fn claim(device: &Device<'_>, groups: &Groups, set_by: &str, view: &PolicyView<'_>, readings: &Readings<'_>) -> Claim {
    let claim = Claim { group: groups.number(device.board), ..device.claim() };
    if view.algorithm.treats_all_alike() {
        return claim;
    }
    let priorities = readings.fleet.tenants_of(device.board).map(|pod| i64::from(pod.facts.priority));
    let standing = device.board.ceiling.filter(|(_, ceiling)| ceiling.set_by == set_by);
    Claim {
        power: claims::certain(readings.of_board(device.board)),
        priority: priorities.max().unwrap_or_default(),
        standing: standing.and_then(|(_, ceiling)| ceiling.power_limit_watts).map(Watts::new),
        ..claim
    }
}
