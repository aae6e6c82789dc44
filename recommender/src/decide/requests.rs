//! What new pods of a policy should request, and which running ones request something else.
//!
//! ```text
//!   what was used, by container ─▶ p50, p90, p95 ─▶ × margin, × confidence ─▶ what a node can give ─▶ minAllowed,
//!                                  lower, target, upper                       (watts alone)           maxAllowed
//! ```
//!
//! Must hold: lower ≤ target ≤ upper. Watts are no more than a node could ever offer, so that a pod can be placed,
//! and no less than its boards draw at their lowest clock. While a cap holds a pod back its watts do not fall. What
//! is not known is not recommended, and what was recommended stays; numbers move only when it matters.

use std::{cmp::max, collections::BTreeMap};

use powercap_common::{
    api::{
        Amount, ContainerPolicy, ContainerRecommendation, ControlledResource, PowerScope, RecommendedRequests,
        ResourcePolicy, TargetRef,
    },
    policy::Policy,
    quantity::Quantity,
    reason::Reason,
    units::{Bytes, Watts},
};

use super::{
    demand::is_hindered,
    domain::DomainView,
    fleet::{self, Board, CPU_ALLOWANCE, Fleet},
    policy::PolicyView,
    readings::Readings,
    reserved::carriers,
};
use crate::{
    model::{
        daily::DailyPeaks,
        demand::{CORES, ContainerDemand, WATTS},
        histogram::{Histogram, Scale},
        history::Past,
    },
    observation::{Hold, PodFacts},
};

/// Not exceeded in these parts of the time: lower bound, target, upper bound.
const PARTS: [f64; 3] = [0.5, 0.9, 0.95];
/// CPU and memory are recommended with this much to spare. Watts are not: a cap keeps them.
const MARGIN: f64 = 1.15;
/// Numbers move when one of them is off by more than this part…
const MOVES_BY: u64 = 20;
/// …and by this many watts, thousandths of a core, bytes.
const MOVES_BY_AT_LEAST: [u64; 3] = [10, 10, 16 << 20];
const MEBIBYTE: u64 = 1 << 20;

/// What is recommended, and why something that was asked for is not.
#[derive(Default)]
pub struct Recommended {
    /// By container.
    pub requests: Option<RecommendedRequests>,
    /// None when nothing is missing.
    pub trouble: Option<Hold>,
}

/// Recommends for a policy's pods. `largest` is the most that any node could offer.
pub fn recommended(
    view: &PolicyView<'_>,
    policy: &Policy,
    largest: Option<Watts>,
    readings: &Readings<'_>,
) -> Recommended {
    let history = &readings.observation.telemetry.history;
    let shown = view.object.status.as_ref().and_then(|status| status.recommendation.clone());
    let trouble = trouble(view, policy, readings);
    let Some(demand) = history.demand.get(&policy.id).filter(|_| history.past != Past::Awaited) else {
        return Recommended { requests: shown, trouble };
    };
    let within = Within {
        control: &view.object.spec.resource_policy,
        possible: possible(view, policy, largest, readings),
        largest,
        held: is_held_back(view, readings),
        watts_alone: trouble.as_ref().is_some_and(|trouble| trouble.reason == Reason::AutoscaledByVpa),
    };
    let shown = shown.unwrap_or_default();
    let containers = demand.containers.iter();
    let containers: Vec<_> =
        containers.filter_map(|(name, used)| within.recommend(name, used, shown.of(name))).collect();
    let some = RecommendedRequests { container_recommendations: containers };
    Recommended { requests: (!some.container_recommendations.is_empty()).then_some(some), trouble }
}

/// What bounds the recommendations of a policy.
struct Within<'a> {
    control: &'a ResourcePolicy,
    possible: BTreeMap<&'a str, Possible>,
    /// The most that any node could offer.
    largest: Option<Watts>,
    /// A cap holds a pod back.
    held: bool,
    /// Somebody else sets CPU and memory.
    watts_alone: bool,
}

impl Within<'_> {
    /// For a container, given what is shown; none where nothing is known or controlled.
    fn recommend(
        &self,
        name: &str,
        used: &ContainerDemand,
        shown: Option<&ContainerRecommendation>,
    ) -> Option<ContainerRecommendation> {
        let control = self.control.of(name);
        let mut recommendation =
            ContainerRecommendation { container_name: name.to_owned(), ..ContainerRecommendation::default() };
        for resource in control.controlled_resources.iter().copied() {
            if self.watts_alone && resource != ControlledResource::Watts {
                continue;
            }
            let Some(new) = Numbers::estimated(used, resource) else { continue };
            let shown = shown.and_then(|shown| Numbers::shown(shown, resource));
            let bounds = Bounds::of(&control, resource);
            let (bounds, new) = if resource == ControlledResource::Watts {
                self.watts(name, bounds, new, shown)
            } else {
                (bounds, new)
            };
            // Put on again: what is shown may be from before an edit.
            bounds.put_on(bounds.put_on(new).unless_close_to(shown, resource)).write(&mut recommendation, resource);
        }
        (!recommendation.target.is_empty()).then_some(recommendation)
    }

    /// What only watts have: boards and nodes bound them, and caps hold their use down.
    fn watts(&self, name: &str, bounds: Bounds, new: Numbers, shown: Option<Numbers>) -> (Bounds, Numbers) {
        let running = self.possible.get(name).copied();
        let possible = running.unwrap_or(Possible { least: 0, most: whole(self.largest) });
        let new = match shown {
            // What its boards can is not known while no pod has them: new pods are admitted by what was told.
            Some(shown) if running.is_none() => shown,
            Some(shown) if self.held => new.no_less_than(shown),
            _ => new,
        };
        (Bounds { possible, ..bounds }, new)
    }
}

/// Why CPU and memory that the policy asks for are not recommended.
fn trouble(view: &PolicyView<'_>, policy: &Policy, readings: &Readings<'_>) -> Option<Hold> {
    let asked = view.object.spec.resource_policy.container_policies.iter().any(asks_for_use);
    if !asked {
        return None;
    }
    let usage = &readings.observation.telemetry.usage;
    let ours = usage.autoscaled.iter().filter(|target| target.namespace == policy.id.namespace);
    let owned =
        ours.map(|target| &target.target_ref).find(|target| view.pods.iter().any(|pod| is_of(target, pod.facts)));
    let by_vpa = owned.map(|target| {
        let message = format!("a VerticalPodAutoscaler sets cpu and memory of {target}; watts alone are recommended");
        Hold::new(Reason::AutoscaledByVpa, message)
    });
    by_vpa.or_else(|| usage.problem.clone())
}

/// Whether cpu or memory of a container are to be recommended.
pub fn asks_for_use(policy: &ContainerPolicy) -> bool {
    policy.controlled_resources.iter().any(|resource| *resource != ControlledResource::Watts)
}

/// Whether a pod is of a workload, of whatever kind.
fn is_of(target: &TargetRef, pod: &PodFacts) -> bool {
    let controller = pod.controller.as_ref();
    match target.kind.as_str() {
        "Deployment" => target.owns(controller, &pod.labels),
        kind => controller.is_some_and(|by| by.kind == kind && by.name == target.name),
    }
}

/// Whether a cap keeps a pod of the policy from drawing what it would.
fn is_held_back(view: &PolicyView<'_>, readings: &Readings<'_>) -> bool {
    let hindered = |board: &Board<'_>| Some(is_hindered(board.told?, &readings.of_board(board).ok()?));
    view.boards().filter_map(hindered).any(|hindered| hindered)
}

/// The most that any node could offer a pod: what its devices can draw, as far as its domains' caps allow it to a
/// node alone. None while no agent has told of devices.
pub fn largest_offer(domains: &[DomainView], fleet: &Fleet<'_>) -> Option<Watts> {
    let mut most: Vec<_> = fleet.nodes.iter().map(fleet::NodeView::devices_maximum).collect();
    for view in domains {
        let Ok(domain) = &view.domain else { continue };
        for &at in &view.members {
            let within = fleet.nodes[at].overhead.envelope(view.watts(domain));
            most[at] = most[at].map(|most| most.min(within));
        }
    }
    most.into_iter().flatten().max()
}

/// What boards and nodes make of a container's watts, in whole ones.
#[derive(Clone, Copy, Debug, Default)]
struct Possible {
    least: u64,
    most: Option<u64>,
}

/// Of each container that its policy's running pods have: the least that its boards draw under load, the most that
/// they can and a node could offer. Of boards of several kinds the larger count.
fn possible<'a>(
    view: &PolicyView<'a>,
    policy: &Policy,
    largest: Option<Watts>,
    readings: &Readings<'_>,
) -> BTreeMap<&'a str, Possible> {
    let fleet = readings.fleet;
    let mut possible = BTreeMap::<&str, Possible>::new();
    for pod in view.pods.iter().copied() {
        let boards: Option<Vec<_>> = fleet.boards_of(pod).map(|board| board.told).collect();
        let beside = if policy.scope == PowerScope::DevicesAndHost { CPU_ALLOWANCE } else { Watts::ZERO };
        let most = boards
            .as_ref()
            .filter(|boards| !boards.is_empty() || beside > Watts::ZERO)
            .map(|boards| boards.iter().map(|board| Watts::new(board.max_power_limit_watts)).sum::<Watts>() + beside);
        let most = most.into_iter().chain(largest).min();
        let least = boards.iter().flatten().map(|board| fleet::floor(board)).sum::<Watts>();
        for (container, part) in carriers(pod.facts) {
            let of = possible.entry(&container.name).or_default();
            of.least = of.least.max(least.scaled(part).ceil().into());
            of.most = max(of.most, whole(most.map(|most| most.scaled(part))));
        }
    }
    possible
}

fn whole(watts: Option<Watts>) -> Option<u64> {
    watts.map(|watts| watts.floor().into())
}

/// What bounds the numbers of a resource.
#[derive(Clone, Copy)]
struct Bounds {
    min: Option<u64>,
    max: Option<u64>,
    possible: Possible,
}

impl Bounds {
    fn of(control: &ContainerPolicy, resource: ControlledResource) -> Self {
        let amount = |amount: Option<&Amount>| amount.and_then(|amount| number(amount, resource));
        let (min, max) = (control.min_allowed.of(resource), control.max_allowed.of(resource));
        Self { min: amount(min), max: amount(max), possible: Possible::default() }
    }

    fn put_on(&self, numbers: Numbers) -> Numbers {
        let physical = |number: u64| number.max(self.possible.least).min(self.possible.most.unwrap_or(u64::MAX));
        let allowed = |number: u64| number.max(self.min.unwrap_or(0)).min(self.max.unwrap_or(u64::MAX));
        let Numbers { lower, target, upper, uncapped } = numbers;
        let bounded = |number| physical(allowed(number));
        Numbers { lower: bounded(lower), target: bounded(target), upper: bounded(upper), uncapped: physical(uncapped) }
    }
}

/// What is recommended of one resource: in whole watts, thousandths of a core, or bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Numbers {
    lower: u64,
    target: u64,
    upper: u64,
    uncapped: u64,
}

impl Numbers {
    /// From what was used; none when nothing is known of that.
    fn estimated(used: &ContainerDemand, resource: ControlledResource) -> Option<Self> {
        let [lower, target, upper] = match resource {
            ControlledResource::Watts => quantiles(&used.watts, WATTS, 1.0)?,
            ControlledResource::Cpu => quantiles(&used.cpu, CORES, 1000.0 * MARGIN)?,
            ControlledResource::Memory => peaks(&used.memory)?,
        };
        Some(Self { lower, target, upper, uncapped: target })
    }

    /// As a status tells them.
    fn shown(recommendation: &ContainerRecommendation, resource: ControlledResource) -> Option<Self> {
        let ContainerRecommendation { target, lower_bound, upper_bound, uncapped_target, .. } = recommendation;
        let [lower, target, upper, uncapped] =
            [lower_bound, target, upper_bound, uncapped_target].map(|of| number(of.of(resource)?, resource));
        Some(Self { lower: lower?, target: target?, upper: upper?, uncapped: uncapped? })
    }

    /// Those that are shown, where none is off by what matters.
    fn unless_close_to(self, shown: Option<Self>, resource: ControlledResource) -> Self {
        let [watts, cpu, memory] = MOVES_BY_AT_LEAST;
        let least = match resource {
            ControlledResource::Watts => watts,
            ControlledResource::Cpu => cpu,
            ControlledResource::Memory => memory,
        };
        let is_close = |(shown, new): (u64, u64)| shown.abs_diff(new) <= (shown / MOVES_BY).max(least);
        let close = |shown: &Self| shown.all().into_iter().zip(self.all()).all(is_close);
        shown.filter(close).unwrap_or(self)
    }

    fn all(self) -> [u64; 4] {
        [self.lower, self.target, self.upper, self.uncapped]
    }

    /// With a target that has not fallen.
    fn no_less_than(self, shown: Self) -> Self {
        let target = self.target.max(shown.uncapped);
        Self { target, upper: self.upper.max(target), uncapped: target, ..self }
    }

    fn write(self, into: &mut ContainerRecommendation, resource: ControlledResource) {
        let amount = |number: u64| match resource {
            ControlledResource::Watts => Amount::from(Quantity::whole(number)),
            ControlledResource::Cpu => Amount::from(Quantity::millis(number)),
            ControlledResource::Memory if number.is_multiple_of(MEBIBYTE) => Amount(format!("{}Mi", number / MEBIBYTE)),
            ControlledResource::Memory => Amount::from(Quantity::whole(number)),
        };
        let ContainerRecommendation { target, lower_bound, upper_bound, uncapped_target, .. } = into;
        let all = [lower_bound, target, upper_bound, uncapped_target].into_iter().zip(self.all());
        for (amounts, number) in all {
            let place = match resource {
                ControlledResource::Watts => &mut amounts.watts,
                ControlledResource::Cpu => &mut amounts.cpu,
                ControlledResource::Memory => &mut amounts.memory,
            };
            *place = Some(amount(number));
        }
    }
}

/// Lower bound, target and upper bound of something that is recommended by the time for which it was used.
fn quantiles(histogram: &Histogram, scale: Scale, times: f64) -> Option<[u64; 3]> {
    let [half, most, nearly_all] = PARTS.map(|part| histogram.quantile(scale, part));
    let seen = histogram.seen();
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "saturates")]
    let number = |amount: f64, factor: f64| (amount * factor * times).ceil() as u64;
    Some([number(half?, seen.lower_factor()), number(most?, 1.0), number(nearly_all?, seen.upper_factor())])
}

/// Likewise of memory, by its peaks.
fn peaks(peaks: &DailyPeaks) -> Option<[u64; 3]> {
    let [half, most, nearly_all] = PARTS.map(|part| peaks.quantile(part));
    let seen = peaks.seen();
    let bytes = |peak: Bytes, factor: f64| peak.scaled(factor * MARGIN).get().next_multiple_of(MEBIBYTE);
    Some([bytes(half?, seen.lower_factor()), bytes(most?, 1.0), bytes(nearly_all?, seen.upper_factor())])
}

fn number(amount: &Amount, resource: ControlledResource) -> Option<u64> {
    let quantity = amount.quantity().ok()?;
    Some(if resource == ControlledResource::Cpu { quantity.ceil_millis() } else { quantity.ceil() })
}
