//! What the DCGM exporter's series say of each GPU.
//!
//! Must hold: a device that several series describe (shared by pods, or cut into MIG slices) counts
//! once, with the highest of its values; the exporter's own pod is nobody's tenant.

use std::collections::{BTreeMap, BTreeSet};

use jiff::{SignedDuration, Timestamp};
use powercap_common::{
    telemetry::dcgm,
    units::{Megahertz, Watts},
};

use super::prometheus::{Element, SeriesLabels};
use crate::observation::{GpuReading, PodName, Sample, Source};

/// No board draws more; what claims to is no reading.
const MOST_PLAUSIBLE: Watts = Watts::new(10_000);

/// The queries, whatever the number of policies and devices: values, and when they were measured. (An
/// instant query answers for five minutes after an exporter died; only `timestamp` tells.)
#[must_use]
pub fn queries() -> [String; 4] {
    let (power, clock) = (dcgm::POWER_USAGE, dcgm::SM_CLOCK);
    [power.to_owned(), format!("timestamp({power})"), clock.to_owned(), format!("timestamp({clock})")]
}

/// What the answers to [`queries`] say; `asked_at` is when they were asked, on our clock.
#[must_use]
pub fn readings(
    power: &[Element],
    power_times: &[Element],
    clock: &[Element],
    clock_times: &[Element],
    asked_at: Timestamp,
) -> BTreeMap<String, GpuReading> {
    let mut gpus = BTreeMap::<String, GpuReading>::new();
    let renamed = [power, clock].into_iter().flatten().any(|element| element.labels.contains_key(dcgm::POD[0]));
    for (element, age) in with_ages(power, power_times) {
        let watts = Watts::from_measurement(element.value).filter(|watts| *watts <= MOST_PLAUSIBLE);
        let Some((watts, uuid)) = watts.zip(element.labels.get(dcgm::UUID)) else { continue };
        let sample = Sample { value: watts, at: before(asked_at, age), source: Source::DcgmExporter };
        let gpu = gpus.entry(uuid.clone()).or_default();
        describe(gpu, &element.labels, renamed);
        gpu.power = Some(gpu.power.filter(|known| known.value >= watts).unwrap_or(sample));
    }
    for (element, age) in with_ages(clock, clock_times) {
        let Some((clock, uuid)) = megahertz(element.value).zip(element.labels.get(dcgm::UUID)) else {
            continue;
        };
        let sample = Sample { value: clock, at: before(asked_at, age), source: Source::DcgmExporter };
        let gpu = gpus.entry(uuid.clone()).or_default();
        describe(gpu, &element.labels, renamed);
        gpu.clock = Some(gpu.clock.filter(|known| known.value >= clock).unwrap_or(sample));
    }
    gpus
}

fn describe(gpu: &mut GpuReading, labels: &SeriesLabels, renamed: bool) {
    let node = dcgm::HOSTNAME.iter().find_map(|name| labels.get(*name));
    gpu.node = gpu.node.take().or_else(|| node.cloned());
    gpu.tenants.extend(tenant(labels, renamed));
}

/// The pod that a series is attributed to. Where the scrape renames the exporter's labels (`renamed`:
/// some series of the answer shows it), plain ones name the exporter's own pod and count for nothing.
fn tenant(labels: &SeriesLabels, renamed: bool) -> Option<PodName> {
    let plain = |name: &&&str| !(renamed && matches!(**name, "pod" | "namespace"));
    let first = |names: &[&str]| {
        let found = names.iter().filter(plain).find_map(|name| labels.get(*name));
        found.filter(|value| !value.is_empty()).cloned()
    };
    let (namespace, name) = first(&dcgm::NAMESPACE).zip(first(&dcgm::POD))?;
    Some(PodName { namespace, name })
}

fn megahertz(value: f64) -> Option<Megahertz> {
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "the range was checked")]
    (1.0..=100_000.0).contains(&value).then(|| Megahertz::new(value as u32))
}

/// Each value with the age of its sample, by Prometheus's own clock: skew between its and ours
/// cancels. A value without a time is dropped, since nobody knows how old it is.
pub(super) fn with_ages<'a>(
    values: &'a [Element],
    times: &[Element],
) -> impl Iterator<Item = (&'a Element, SignedDuration)> {
    let key = |labels: &SeriesLabels| {
        let named = labels.iter().filter(|(name, _)| *name != "__name__");
        named.map(|(name, value)| (name.clone(), value.clone())).collect::<BTreeSet<_>>()
    };
    let ages: BTreeMap<_, _> = times.iter().filter_map(|time| Some((key(&time.labels), age(time)?))).collect();
    values.iter().filter_map(move |element| Some((element, *ages.get(&key(&element.labels))?)))
}

/// How long before its evaluation the sample of a `timestamp(…)` was measured; none when that is no
/// time, or later than a moment after the evaluation.
pub(super) fn age(time: &Element) -> Option<SignedDuration> {
    let seconds = time.evaluated_at - time.value;
    // `max` would make NaN the freshest of all.
    let age = SignedDuration::try_from_secs_f64(seconds).ok().filter(|_| seconds > -1.0)?;
    age.max(SignedDuration::ZERO).round(jiff::Unit::Millisecond).ok()
}

/// `age` before `time`; an absurd age gives the beginning of time, which is stale by any measure.
pub(super) fn before(time: Timestamp, age: SignedDuration) -> Timestamp {
    time.checked_sub(age).unwrap_or(Timestamp::UNIX_EPOCH)
}
