//! What Kepler's series say of the CPU power of pods and nodes.
//!
//! Must hold: zones overlap, so that only `package` counts; packages of one node add up; what has
//! terminated counts for nothing.

use std::collections::BTreeMap;

use jiff::Timestamp;
use powercap_common::{telemetry::kepler, units::Watts};

use super::{
    dcgm::{before, with_ages},
    prometheus::{Element, SeriesLabels},
};
use crate::observation::{PodName, Sample, Source};

/// The CPUs of no node draw more; what claims to is no reading.
const MOST_PLAUSIBLE: Watts = Watts::new(20_000);

/// The queries: pods and nodes, values and when they were measured.
#[must_use]
pub fn queries() -> [String; 4] {
    let zone = format!("{}=\"{}\"", kepler::ZONE, kepler::ZONE_PACKAGE);
    let pods = format!("{}{{{zone},{}=\"running\"}}", kepler::POD_CPU_WATTS, kepler::STATE);
    let nodes = format!("{}{{{zone}}}", kepler::NODE_CPU_WATTS);
    let times = |query: &str| format!("timestamp({query})");
    [pods.clone(), times(&pods), nodes.clone(), times(&nodes)]
}

/// CPU power of each running pod.
#[must_use]
pub fn pods(values: &[Element], times: &[Element], asked_at: Timestamp) -> BTreeMap<PodName, Sample<Watts>> {
    summed(values, times, asked_at, |labels| {
        let (namespace, name) = labels.get(kepler::POD_NAMESPACE).zip(labels.get(kepler::POD_NAME))?;
        Some(PodName { namespace: namespace.clone(), name: name.clone() })
    })
}

/// CPU power of each node.
#[must_use]
pub fn nodes(values: &[Element], times: &[Element], asked_at: Timestamp) -> BTreeMap<String, Sample<Watts>> {
    summed(values, times, asked_at, |labels| labels.get(kepler::NODE_NAME).cloned())
}

/// Adds up the series of one owner; a sum is as old as its oldest part, and unknown when a part is.
fn summed<K: Ord>(
    values: &[Element],
    times: &[Element],
    asked_at: Timestamp,
    owner: impl Fn(&SeriesLabels) -> Option<K>,
) -> BTreeMap<K, Sample<Watts>> {
    let mut sums = BTreeMap::<K, Option<Sample<Watts>>>::new();
    for (element, age) in with_ages(values, times) {
        let Some(owner) = owner(&element.labels) else { continue };
        let part = Watts::from_measurement(element.value)
            .filter(|watts| *watts <= MOST_PLAUSIBLE)
            .map(|value| Sample { value, at: before(asked_at, age), source: Source::Kepler });
        sums.entry(owner)
            .and_modify(|sum| {
                *sum = sum.zip(part).map(|(sum, part)| Sample {
                    value: sum.value + part.value,
                    at: sum.at.min(part.at),
                    source: Source::Kepler,
                });
            })
            .or_insert(part);
    }
    sums.into_iter().filter_map(|(owner, sum)| sum.map(|sum| (owner, sum))).collect()
}
