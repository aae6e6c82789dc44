//! What Kepler's series say of the CPU power of pods and nodes: its watts, or, of versions before 0.10, the
//! rate of its joules.
//!
//! Must hold: zones overlap, so that only `package` counts; packages of one node add up; what has
//! terminated counts for nothing; who tells watts does not count by joules too.

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};
use powercap_common::{reason::Reason, telemetry::kepler, units::Watts};

use super::{
    answer::{Element, SeriesLabels},
    dcgm::{before, what_is_wrong, with_ages},
    names::{KeplerLegacyNames, KeplerNames, Names},
};
use crate::observation::{Hold, PodName, Sample, Source};

/// The CPUs of no node draw more; what claims to is no reading.
pub(super) const MOST_PLAUSIBLE: Watts = Watts::new(20_000);
/// A rate needs two samples, and this many intervals hold them when one is lost.
const RATE_OVER_INTERVALS: i32 = 4;

/// The queries: pods and nodes, values and when they were measured. Each answers with watts and, of what
/// has no such series, with the rate of joules.
#[must_use]
pub fn queries(names: &Names, collection_interval: SignedDuration) -> [String; 4] {
    let (Names { kepler: new, kepler_legacy: old, .. }, zone, package) = (names, kepler::ZONE, kepler::ZONE_PACKAGE);
    let over = collection_interval.as_secs().max(1).saturating_mul(i64::from(RATE_OVER_INTERVALS));
    let either = |watts: &str, joules: &str, by: &str| {
        [
            format!("{watts} or sum by ({by}) (rate({joules}[{over}s]))"),
            format!("timestamp({watts}) or min by ({by}) (timestamp({joules}))"),
        ]
    };
    let pods = running_pods(new);
    let nodes = format!("{}{{{zone}=\"{package}\"}}", new.node_watts);
    let [pods, pod_times] = either(&pods, old.container_joules.as_str(), &format!("{}, {}", old.namespace, old.pod));
    let [nodes, node_times] = either(&nodes, old.node_joules.as_str(), old.node.as_str());
    [pods, pod_times, nodes, node_times]
}

/// The series of pods' watts that count.
pub(super) fn running_pods(names: &KeplerNames) -> String {
    let (zone, package, state) = (kepler::ZONE, kepler::ZONE_PACKAGE, kepler::STATE);
    format!("{}{{{zone}=\"{package}\",{state}=\"running\"}}", names.pod_watts)
}

/// CPU power of each running pod.
#[must_use]
pub fn pods(
    values: &[Element],
    times: &[Element],
    asked_at: Timestamp,
    names: &Names,
) -> BTreeMap<PodName, Sample<Watts>> {
    summed(values, times, asked_at, |labels| pod(labels, names))
}

/// CPU power of each node.
#[must_use]
pub fn nodes(
    values: &[Element],
    times: &[Element],
    asked_at: Timestamp,
    names: &Names,
) -> BTreeMap<String, Sample<Watts>> {
    summed(values, times, asked_at, |labels| node(labels, names))
}

/// What is wrong with readings of nodes and pods that are none, by `NODE` or `NAMESPACE/POD`.
#[must_use]
pub fn rejected(nodes: &[Element], pods: &[Element], names: &Names) -> BTreeMap<String, Hold> {
    let hold = |owner: String, element: &Element, metric: &dyn std::fmt::Display| {
        let wrong = what_is_wrong(element.value, MOST_PLAUSIBLE)?;
        let message = format!("{metric} of {owner} {wrong}");
        Some((owner, Hold::new(Reason::ImplausibleReading, message)))
    };
    let of_nodes =
        nodes.iter().filter_map(|element| hold(node(&element.labels, names)?.owner, element, &names.kepler.node_watts));
    let of_pods = pods
        .iter()
        .filter_map(|element| hold(pod(&element.labels, names)?.owner.to_string(), element, &names.kepler.pod_watts));
    of_nodes.chain(of_pods).collect()
}

/// Whose a series is, and whether it is of watts or of joules.
struct Owned<K> {
    owner: K,
    legacy: bool,
}

/// The pod that a series is of.
pub(super) fn pod_of(labels: &SeriesLabels, names: &Names) -> Option<PodName> {
    pod(labels, names).map(|owned| owned.owner)
}

fn pod(labels: &SeriesLabels, names: &Names) -> Option<Owned<PodName>> {
    let Names { kepler: new, kepler_legacy: old, .. } = names;
    let name = |namespace: &super::names::Name, pod: &super::names::Name| {
        let (namespace, name) = labels.get(namespace.as_str()).zip(labels.get(pod.as_str()))?;
        Some(PodName { namespace: namespace.to_owned(), name: name.to_owned() })
    };
    let of_watts = name(&new.namespace, &new.pod).map(|owner| Owned { owner, legacy: false });
    of_watts.or_else(|| name(&old.namespace, &old.pod).map(|owner| Owned { owner, legacy: true }))
}

fn node(labels: &SeriesLabels, names: &Names) -> Option<Owned<String>> {
    let KeplerLegacyNames { node: old, .. } = &names.kepler_legacy;
    let of_watts = labels.get(names.kepler.node.as_str()).map(|node| Owned { owner: node.to_owned(), legacy: false });
    of_watts.or_else(|| Some(Owned { owner: labels.get(old.as_str())?.to_owned(), legacy: true }))
}

/// Adds up the series of one owner; a sum is as old as its oldest part, and unknown when a part is.
fn summed<K: Ord>(
    values: &[Element],
    times: &[Element],
    asked_at: Timestamp,
    owned: impl Fn(&SeriesLabels) -> Option<Owned<K>>,
) -> BTreeMap<K, Sample<Watts>> {
    let mut sums = BTreeMap::<K, (bool, Option<Sample<Watts>>)>::new();
    for (element, age) in with_ages(values, times) {
        let Some(Owned { owner, legacy }) = owned(&element.labels) else { continue };
        let part = Watts::from_measurement(element.value)
            .filter(|watts| *watts <= MOST_PLAUSIBLE)
            .map(|value| Sample { value, at: before(asked_at, age), source: Source::Kepler });
        sums.entry(owner)
            .and_modify(|(sum_is_legacy, sum)| match (*sum_is_legacy, legacy) {
                (true, false) => (*sum_is_legacy, *sum) = (false, part),
                (false, true) => {}
                _ => *sum = sum.zip(part).map(|(sum, part)| added(sum, part)),
            })
            .or_insert((legacy, part));
    }
    sums.into_iter().filter_map(|(owner, (_, sum))| sum.map(|sum| (owner, sum))).collect()
}

fn added(sum: Sample<Watts>, part: Sample<Watts>) -> Sample<Watts> {
    Sample { value: sum.value + part.value, at: sum.at.min(part.at), ..sum }
}
