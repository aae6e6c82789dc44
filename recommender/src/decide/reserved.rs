//! How many watts a running pod counts with when watts are offered to new ones.
//!
//! | what it requests | counts with |
//! |---|---|
//! | within what is recommended for it, or nothing is recommended | what it requests |
//! | outside of that: its request is *stale* | the greater of that and what it is expected to draw |
//! | nothing | what it is expected to draw |
//!
//! A pod's watts stand on its containers that hold GPUs, by their number, or on its first container where none
//! does.
//!
//! Must hold: a stale request makes no room that its pod will draw, and neither does a reading that is missing.

use powercap_common::{
    api::{Amount, Amounts, ContainerRecommendation, GpuStatus, PowerScope, RecommendedRequests},
    units::Watts,
};

use super::{
    fleet::{Board, Pod},
    outlook,
    policy::PolicyView,
    readings::Readings,
};
use crate::{
    model::course::Course,
    observation::{ContainerFacts, PodFacts},
};

/// No node has more boards.
const MOST_BOARDS: u64 = 64;

/// What each running pod counts with, by its place. Of several policies the one counts by which that is most.
pub(super) fn of_pods(views: &[PolicyView<'_>], readings: &Readings<'_>) -> Vec<Watts> {
    let pods = &readings.fleet.pods;
    let by = |pod: &Pod<'_>, scope, bounds| reserved(pod.facts, bounds, || expected(pod, scope, readings));
    let mut most = vec![None; pods.len()];
    for view in views {
        let Ok(policy) = &view.policy else { continue };
        let shown = view.object.status.as_ref().and_then(|status| status.recommendation.as_ref()).map(Watted::of);
        for pod in &view.pods {
            let bounds = shown.as_ref().and_then(|shown| bounds(pod.facts, shown));
            most[pod.at] = most[pod.at].max(Some(by(pod, policy.scope, bounds)));
        }
    }
    pods.iter().zip(most).map(|(pod, most)| most.unwrap_or_else(|| by(pod, PowerScope::Devices, None))).collect()
}

/// What a pod counts with, given the least and the most that is recommended for it, and the most that it is expected
/// to draw.
fn reserved(pod: &PodFacts, bounds: Option<(Watts, Watts)>, expected: impl FnOnce() -> Watts) -> Watts {
    match requested(pod) {
        Some(requested) if is_within(requested, bounds) => requested,
        requested => requested.unwrap_or_default().max(expected()),
    }
}

/// The most that a pod's devices are expected to draw, from what each drew since the pod was started. A board of which
/// nothing of that is known, or that nobody names, is expected to draw all that it can: what is missing is no watt that
/// is free. CPU power that nobody told yet is not in it.
fn expected(pod: &Pod<'_>, scope: PowerScope, readings: &Readings<'_>) -> Watts {
    let fleet = readings.fleet;
    let forecast = forecast(pod, readings);
    let limit = |board: &GpuStatus| Watts::new(board.max_power_limit_watts);
    let largest = || pod.node.and_then(|at| fleet.nodes[at].boards().map(limit).max()).unwrap_or_default();
    let of_board = |board: &Board<'_>| {
        let known = board.course.and_then(&forecast);
        known.unwrap_or_else(|| board.told.map_or_else(largest, limit))
    };
    let named = u64::try_from(pod.boards.len()).unwrap_or(u64::MAX);
    let unnamed: Watts = (named..pod.facts.gpus.min(MOST_BOARDS)).map(|_| largest()).sum();
    let cpu = pod.course.filter(|_| scope == PowerScope::DevicesAndHost).and_then(&forecast);
    fleet.boards_of(pod).map(of_board).sum::<Watts>() + unnamed + cpu.unwrap_or_default()
}

/// The most that a pod is remembered to have drawn of late; what nobody remembers is not in it.
pub(super) fn remembered(pod: &Pod<'_>, scope: PowerScope, readings: &Readings<'_>) -> Watts {
    let forecast = forecast(pod, readings);
    let of_board = |board: &Board<'_>| Some(board.course.and_then(&forecast)?.divided(board.tenants.len()));
    let cpu = pod.course.filter(|_| scope == PowerScope::DevicesAndHost).and_then(&forecast);
    readings.fleet.boards_of(pod).filter_map(of_board).sum::<Watts>() + cpu.unwrap_or_default()
}

/// The most that is expected of what has such a course, from what it drew since the pod was started.
fn forecast<'r>(pod: &Pod<'_>, readings: &Readings<'r>) -> impl Fn(&Course) -> Option<Watts> + use<'r> {
    let history = &readings.observation.telemetry.history;
    let (span, now) = (history.span, history.span.step(readings.now));
    let since = outlook::since(pod.facts, span).unwrap_or(now).min(now);
    // As of the last reading: while none comes, nothing is expected to fall.
    move |course| course.peaks.forecast_since(since, course.peaks.newest().min(now), span)
}

/// Whether a pod's request is outside of what is recommended; or absent, where it could have one.
pub(super) fn is_stale(pod: &PodFacts, bounds: Option<(Watts, Watts)>, advertised: bool) -> bool {
    match requested(pod) {
        Some(requested) => !is_within(requested, bounds),
        None => advertised && bounds.is_some(),
    }
}

/// The watts that a pod requests.
pub(super) fn requested(pod: &PodFacts) -> Option<Watts> {
    let mut requested = pod.containers.iter().filter_map(|container| container.watts).peekable();
    requested.peek()?;
    Some(requested.sum())
}

/// The least and the most watts that are recommended for each container, read once for all pods.
pub(super) struct Watted<'r>(Vec<(&'r str, Option<(Watts, Watts)>)>);

impl<'r> Watted<'r> {
    /// As they are written.
    pub(super) fn of(recommended: &'r RecommendedRequests) -> Self {
        let watts = |amounts: &Amounts| amounts.watts.as_ref().and_then(watts);
        let of_container = |of: &'r ContainerRecommendation| {
            (of.container_name.as_str(), watts(&of.lower_bound).zip(watts(&of.upper_bound)))
        };
        Self(recommended.container_recommendations.iter().map(of_container).collect())
    }
}

/// The least and the most that is recommended for a pod; none unless it is for each container that its watts
/// stand on.
pub(super) fn bounds(pod: &PodFacts, recommended: &Watted<'_>) -> Option<(Watts, Watts)> {
    let of_container = |(container, _): (&ContainerFacts, f64)| {
        let (_, bounds) = recommended.0.iter().find(|(name, _)| *name == container.name)?;
        *bounds
    };
    let (mut least, mut most) = (Watts::ZERO, Watts::ZERO);
    let mut carriers = carriers(pod).peekable();
    carriers.peek()?;
    for bounds in carriers.map(of_container) {
        let (lower, upper) = bounds?;
        (least, most) = (least + lower, most + upper);
    }
    Some((least, most))
}

/// The containers that a pod's watts stand on, each with its part of them.
pub(super) fn carriers(pod: &PodFacts) -> impl Iterator<Item = (&ContainerFacts, f64)> {
    let gpus: u64 = pod.containers.iter().map(|container| container.gpus).sum();
    #[expect(clippy::cast_precision_loss, reason = "a pod has few GPUs")]
    let part = move |container: &ContainerFacts| container.gpus as f64 / gpus as f64;
    let holding = pod.containers.iter().filter(|container| container.gpus > 0);
    let first = pod.containers.first().filter(|_| gpus == 0);
    holding.map(move |container| (container, part(container))).chain(first.map(|first| (first, 1.0)))
}

fn is_within(requested: Watts, bounds: Option<(Watts, Watts)>) -> bool {
    bounds.is_none_or(|(least, most)| (least..=most).contains(&requested))
}

fn watts(amount: &Amount) -> Option<Watts> {
    Some(Watts::new(u32::try_from(amount.quantity().ok()?.ceil()).ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use powercap_common::quantity::Quantity;

    fn pod(containers: &[(&str, u64, Option<u32>)]) -> PodFacts {
        let container = |(name, gpus, watts): &(&str, u64, Option<u32>)| ContainerFacts {
            name: (*name).to_owned(),
            gpus: *gpus,
            watts: watts.map(Watts::new),
            ..ContainerFacts::default()
        };
        PodFacts { containers: containers.iter().map(container).collect(), ..PodFacts::default() }
    }

    fn recommended(of: &[(&str, u64, u64)]) -> RecommendedRequests {
        let amounts = |watts| Amounts { watts: Some(Quantity::whole(watts).into()), ..Amounts::default() };
        let container = |(name, lower, upper): &(&str, u64, u64)| ContainerRecommendation {
            container_name: (*name).to_owned(),
            target: amounts(*lower),
            lower_bound: amounts(*lower),
            upper_bound: amounts(*upper),
            uncapped_target: amounts(*lower),
        };
        RecommendedRequests { container_recommendations: of.iter().map(container).collect() }
    }

    #[test]
    fn a_pod_counts_with_its_request_and_a_stale_one_with_the_greater_of_that_and_its_forecast() {
        for (request, expected, bounds, counts, stale) in [
            (Some(500), 900, None, 500, false),
            (Some(500), 900, Some((400, 600)), 500, false),
            (Some(400), 900, Some((400, 600)), 400, false),
            (Some(600), 0, Some((400, 600)), 600, false),
            (Some(300), 550, Some((400, 600)), 550, true),
            (Some(700), 550, Some((400, 600)), 700, true),
            (Some(300), 0, Some((400, 600)), 300, true),
            (None, 550, Some((400, 600)), 550, true),
            (None, 550, None, 550, false),
            (None, 0, None, 0, false),
        ] {
            let pod = pod(&[("server", 1, request)]);
            let bounds = bounds.map(|(least, most)| (Watts::new(least), Watts::new(most)));
            let counted = reserved(&pod, bounds, || Watts::new(expected));
            assert_eq!(counted, Watts::new(counts), "{request:?} {bounds:?}");
            assert_eq!(is_stale(&pod, bounds, true), stale, "{request:?} {bounds:?}");
        }
    }

    #[test]
    fn where_no_node_advertises_watts_a_request_that_is_absent_is_not_stale() {
        let bounds = Some((Watts::new(400), Watts::new(600)));
        assert!(!is_stale(&pod(&[("server", 1, None)]), bounds, false));
        assert!(is_stale(&pod(&[("server", 1, Some(1))]), bounds, false));
    }

    #[test]
    fn a_pods_watts_stand_on_the_containers_that_hold_gpus_or_on_the_first() {
        let parts =
            |pod: &PodFacts| carriers(pod).map(|(container, part)| (container.name.clone(), part)).collect::<Vec<_>>();
        let held = pod(&[("proxy", 0, None), ("prefill", 1, Some(400)), ("decode", 3, Some(1200))]);
        assert_eq!(parts(&held), [("prefill".to_owned(), 0.25), ("decode".to_owned(), 0.75)]);
        assert_eq!(parts(&pod(&[("web", 0, None), ("proxy", 0, None)])), [("web".to_owned(), 1.0)]);
        assert_eq!(parts(&pod(&[])), []);

        assert_eq!(requested(&held), Some(Watts::new(1600)));
        let both = recommended(&[("prefill", 300, 500), ("decode", 900, 1500)]);
        assert_eq!(bounds(&held, &Watted::of(&both)), Some((Watts::new(1200), Watts::new(2000))));
        let half = recommended(&[("prefill", 300, 500)]);
        assert_eq!(bounds(&held, &Watted::of(&half)), None, "a half is known of it");
        assert_eq!(bounds(&pod(&[]), &Watted::of(&both)), None);
    }
}
