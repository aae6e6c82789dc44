//! What the DCGM exporter's series say of each GPU.
//!
//! Must hold: a device that several series describe (shared by pods, or cut into MIG slices) counts
//! once, with the highest of its values; the exporter's own pod is nobody's tenant.

use std::collections::{BTreeMap, BTreeSet};

use jiff::{SignedDuration, Timestamp};
use powercap_common::{
    reason::Reason,
    units::{Megahertz, Watts},
};

use super::{
    answer::{Element, SeriesLabels},
    names::{DcgmNames, Name},
};
use crate::observation::{GpuReading, Hold, PodName, Sample, Source};

/// No board draws more; what claims to is no reading.
pub(super) const MOST_PLAUSIBLE: Watts = Watts::new(10_000);
/// Two series of one board are of the same time when no more lies between their samples. One that is older
/// is of an exporter that is gone.
const SAME_TIME: SignedDuration = SignedDuration::from_secs(60);
/// What Prometheus puts before a label that the target has too, where the scrape does not honour labels.
const RENAMED: &str = "exported_";

/// The queries, whatever the number of policies and devices: values, and when they were measured. (An
/// instant query answers for five minutes after an exporter died; only `timestamp` tells.)
#[must_use]
pub fn queries(names: &DcgmNames) -> [String; 4] {
    let DcgmNames { power, clock, .. } = names;
    [power.to_string(), format!("timestamp({power})"), clock.to_string(), format!("timestamp({clock})")]
}

/// What the answers to [`queries`] say; `asked_at` is when they were asked, on our clock.
#[must_use]
pub fn readings(
    power: &[Element],
    power_times: &[Element],
    clock: &[Element],
    clock_times: &[Element],
    asked_at: Timestamp,
    names: &DcgmNames,
) -> BTreeMap<String, GpuReading> {
    let mut gpus = BTreeMap::<String, GpuReading>::new();
    let uuid = |element: &'_ Element| element.labels.get(names.uuid.as_str()).map(ToOwned::to_owned);
    let describe = describer(names, power.iter().chain(clock));
    for (element, age) in with_ages(power, power_times) {
        let watts = Watts::from_measurement(element.value).filter(|watts| *watts <= MOST_PLAUSIBLE);
        let Some((value, uuid)) = watts.zip(uuid(element)) else { continue };
        let gpu = gpus.entry(uuid).or_default();
        describe(gpu, &element.labels);
        gpu.power = Some(of_both(gpu.power, Sample { value, at: before(asked_at, age), source: Source::DcgmExporter }));
    }
    for (element, age) in with_ages(clock, clock_times) {
        let Some((value, uuid)) = megahertz(element.value).zip(uuid(element)) else { continue };
        let gpu = gpus.entry(uuid).or_default();
        describe(gpu, &element.labels);
        gpu.clock = Some(of_both(gpu.clock, Sample { value, at: before(asked_at, age), source: Source::DcgmExporter }));
    }
    gpus
}

/// What is wrong with readings that are none, by UUID.
#[must_use]
pub fn rejected(power: &[Element], power_times: &[Element], names: &DcgmNames) -> BTreeMap<String, Hold> {
    let dated: BTreeSet<_> =
        power_times.iter().filter(|time| age(time).is_some()).map(|time| time.identity(None)).collect();
    let rejected = power.iter().filter_map(|element| {
        let undated = || (!dated.contains(&element.identity(None))).then_some("has no time, or one of the future");
        let wrong = what_is_wrong(element.value, MOST_PLAUSIBLE).or_else(undated)?;
        let uuid = element.labels.get(names.uuid.as_str())?;
        let message = format!("{} of {uuid} {wrong}", names.power);
        Some((uuid.to_owned(), Hold::new(Reason::ImplausibleReading, message)))
    });
    rejected.collect()
}

/// Why watts are no measurement; none when they are one. No number: a message that counts is written anew
/// with every reading.
pub(super) fn what_is_wrong(watts: f64, most: Watts) -> Option<&'static str> {
    match watts {
        watts if watts.is_nan() => Some("is not a number"),
        watts if watts < 0.0 => Some("is negative"),
        watts if watts > most.as_f64() => Some("is more than any such device draws"),
        _ => None,
    }
}

/// Of two series of one board the later, and the higher where they are of the same time.
fn of_both<T: PartialOrd>(known: Option<Sample<T>>, new: Sample<T>) -> Sample<T> {
    let stays = |known: &Sample<T>| {
        let later = known.at.duration_since(new.at);
        later > SAME_TIME || later >= -SAME_TIME && known.value >= new.value
    };
    known.filter(stays).unwrap_or(new)
}

/// Adds node and tenant of a series to what is known of its board.
fn describer<'a>(
    names: &'a DcgmNames,
    mut all: impl Iterator<Item = &'a Element>,
) -> impl Fn(&mut GpuReading, &SeriesLabels) {
    let of_tenants = || names.pod.iter().chain(&names.namespace).map(Name::as_str);
    let renamed: Vec<_> = of_tenants().filter(|name| name.starts_with(RENAMED)).collect();
    // Where the scrape renames the exporter's labels (some series of the answer shows it), those of the same
    // name without the prefix are the exporter's own pod and count for nothing.
    let shows = all.any(|element| renamed.iter().any(|name| element.labels.get(name).is_some()));
    let own: BTreeSet<_> = renamed.iter().filter_map(|name| name.strip_prefix(RENAMED)).filter(|_| shows).collect();
    move |gpu, labels| {
        let first = |of: &[Name]| {
            let found =
                of.iter().filter(|name| !own.contains(name.as_str())).find_map(|name| labels.get(name.as_str()));
            found.filter(|value| !value.is_empty()).map(ToOwned::to_owned)
        };
        let node = || names.node.iter().find_map(|name| labels.get(name.as_str()));
        gpu.node = gpu.node.take().or_else(|| node().map(ToOwned::to_owned));
        let tenant =
            first(&names.namespace).zip(first(&names.pod)).map(|(namespace, name)| PodName { namespace, name });
        // A series for each tenant tells of a board that is shared.
        if let Some(tenant) = tenant
            && let Err(at) = gpu.tenants.binary_search(&tenant)
        {
            gpu.tenants.insert(at, tenant);
        }
    }
}

pub(super) fn megahertz(value: f64) -> Option<Megahertz> {
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "the range was checked")]
    (1.0..=100_000.0).contains(&value).then(|| Megahertz::new(value as u32))
}

/// Each value with the age of its sample, by Prometheus's own clock: skew between its and ours
/// cancels. A value without a time is dropped, since nobody knows how old it is.
pub(super) fn with_ages<'a>(
    values: &'a [Element],
    times: &'a [Element],
) -> impl Iterator<Item = (&'a Element, SignedDuration)> {
    let ages: BTreeMap<_, _> = times.iter().filter_map(|time| Some((time.identity(None), age(time)?))).collect();
    values.iter().filter_map(move |element| Some((element, *ages.get(&element.identity(None))?)))
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
