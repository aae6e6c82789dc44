//! What node agents say in the series that Prometheus scrapes of them: that they are alive, sooner than by
//! their status, which they write only when something changes; and what their devices draw, by their own
//! sensors.
//!
//! Must hold: what an agent does not know it tells as NaN, which is no reading and no fault; more than any device draws
//! is no reading either, and spoils no mean by which sources are compared.

use std::collections::BTreeMap;

use jiff::Timestamp;
use powercap_common::units::Watts;

use super::{
    answer::Element,
    dcgm::{self, age, before, megahertz},
    kepler,
    names::AgentNames,
};
use crate::observation::{GpuReading, Sample, Source};

/// The queries: when each agent was last scraped, power and clocks of its boards, power of its CPUs.
#[must_use]
pub fn queries(names: &AgentNames) -> [String; 4] {
    let AgentNames { node_watts, gpu_watts, gpu_clock, cpu_watts, .. } = names;
    [format!("timestamp({node_watts})"), gpu_watts.to_string(), gpu_clock.to_string(), cpu_watts.to_string()]
}

/// When each node's agent was last heard of, on our clock.
#[must_use]
pub fn heard(times: &[Element], asked_at: Timestamp, names: &AgentNames) -> BTreeMap<String, Timestamp> {
    let heard = |element: &Element| {
        let node = element.labels.get(names.node.as_str())?;
        Some((node.to_owned(), before(asked_at, age(element)?)))
    };
    times.iter().filter_map(heard).collect()
}

/// Power and clock of boards, by UUID. All series of an agent are of one scrape, so that one of `times`
/// dates them all.
#[must_use]
pub fn gpus(
    times: &[Element],
    power: &[Element],
    clock: &[Element],
    asked_at: Timestamp,
    names: &AgentNames,
) -> BTreeMap<String, GpuReading> {
    let mut gpus = BTreeMap::<String, GpuReading>::new();
    let dated = dated(times, asked_at);
    let uuid = names.uuid.as_str();
    for element in power {
        let Some(value) = plausible(element.value, dcgm::MOST_PLAUSIBLE) else { continue };
        let Some((uuid, at)) = element.labels.get(uuid).zip(dated(element, Some(uuid))) else { continue };
        let gpu = gpus.entry(uuid.to_owned()).or_default();
        gpu.node = element.labels.get(names.node.as_str()).map(ToOwned::to_owned);
        gpu.power = Some(Sample { value, at, source: Source::Agent });
    }
    for element in clock {
        let Some(value) = megahertz(element.value) else { continue };
        let Some((uuid, at)) = element.labels.get(uuid).zip(dated(element, Some(uuid))) else { continue };
        gpus.entry(uuid.to_owned()).or_default().clock = Some(Sample { value, at, source: Source::Agent });
    }
    gpus
}

/// CPU power of each node.
#[must_use]
pub fn cpus(
    times: &[Element],
    power: &[Element],
    asked_at: Timestamp,
    names: &AgentNames,
) -> BTreeMap<String, Sample<Watts>> {
    let dated = dated(times, asked_at);
    let readings = power.iter().filter_map(|element| {
        let value = plausible(element.value, kepler::MOST_PLAUSIBLE)?;
        let node = element.labels.get(names.node.as_str())?;
        Some((node.to_owned(), Sample { value, at: dated(element, None)?, source: Source::Agent }))
    });
    readings.collect()
}

fn plausible(watts: f64, most: Watts) -> Option<Watts> {
    Watts::from_measurement(watts).filter(|watts| *watts <= most)
}

/// When the target of a series was scraped; the label `but` is the series' own.
fn dated<'a>(times: &'a [Element], asked_at: Timestamp) -> impl Fn(&'a Element, Option<&str>) -> Option<Timestamp> {
    let of_target = |time: &'a Element| Some((time.identity(None), before(asked_at, age(time)?)));
    let scraped: BTreeMap<_, _> = times.iter().filter_map(of_target).collect();
    move |element, but| scraped.get(&element.identity(but)).copied()
}
