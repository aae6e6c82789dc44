//! What cpufreq and RAPL say, and what it means.

use std::collections::BTreeSet;

use crate::conformance::{
    finding::Judgement,
    measured::{PolicyRead, ZoneRead},
};
use crate::devices::DeviceError;

/// No CPU package draws more.
const LARGEST_PACKAGE_WATTS: f64 = 2000.0;
const NO_CPUFREQ: &str = "the kernel shows no cpufreq policy, as in most virtual machines: CPUs are not capped here";
const NO_RAPL: &str = "the kernel shows no RAPL zone: the node's overhead covers the CPUs";

/// Whether every policy can be understood.
#[must_use]
pub fn cpufreq_files(policies: &[PolicyRead]) -> Judgement {
    if policies.is_empty() {
        return Judgement::not_supported(NO_CPUFREQ);
    }
    let lowest = policies.iter().filter_map(|policy| policy.range).map(|(low, _)| low).min().unwrap_or_default();
    let highest = policies.iter().filter_map(|policy| policy.range).map(|(_, high)| high).max().unwrap_or_default();
    let mut judgement = Judgement::pass()
        .count("policies", policies.len())
        .number("lowest", lowest.get().into(), "MHz")
        .number("highest", highest.get().into(), "MHz");
    for policy in policies {
        judgement = judgement.fail_if(!whole(policy), || {
            format!(
                "policy{}: range {:?}, ceiling {:?}, clock {:?}",
                policy.policy, policy.range, policy.ceiling, policy.clock
            )
        });
    }
    judgement
}

fn whole(policy: &PolicyRead) -> bool {
    let Some((low, high)) = policy.range else { return false };
    low.get() > 0 && low <= high && policy.ceiling.is_some_and(|ceiling| (low..=high).contains(&ceiling))
        // A clock may stand above its ceiling for a moment, and boost above what cpuinfo says.
        && policy.clock.is_some_and(|clock| clock.get() > 0)
}

/// The drivers and governors.
#[must_use]
pub fn cpufreq_driver(policies: &[PolicyRead]) -> Judgement {
    if policies.is_empty() {
        return Judgement::not_supported(NO_CPUFREQ);
    }
    let words = |of: fn(&PolicyRead) -> Option<&String>| -> String {
        let words: BTreeSet<_> = policies.iter().filter_map(of).map(String::as_str).collect();
        words.into_iter().collect::<Vec<_>>().join(", ")
    };
    let driver = words(|policy| policy.driver.as_ref());
    let unknown = driver.is_empty();
    Judgement::pass()
        .text("driver", driver)
        .text("governor", words(|policy| policy.governor.as_ref()))
        .fail_if(unknown, || "no driver is named".to_owned())
}

/// Whether ceilings could be written.
#[must_use]
pub fn cpufreq_writable(policies: &[PolicyRead]) -> Judgement {
    if policies.is_empty() {
        return Judgement::not_supported(NO_CPUFREQ);
    }
    let refused: Vec<_> =
        policies.iter().filter_map(|policy| Some((policy.policy, policy.writable.as_ref().err()?))).collect();
    match refused.first() {
        None => Judgement::pass().count("policies", policies.len()),
        Some((_, DeviceError::Unsupported { action })) => Judgement::not_supported(*action),
        Some((policy, error)) => {
            Judgement::fail(format!("policy{policy}: {error}; {} of {} policies", refused.len(), policies.len()))
        }
    }
}

/// Whether the packages' power can be reckoned.
#[must_use]
pub fn rapl_energy(zones: &[ZoneRead]) -> Judgement {
    if zones.is_empty() {
        return Judgement::not_supported(NO_RAPL);
    }
    let mut judgement = Judgement::pass();
    for zone in zones {
        let series = match &zone.energy {
            Ok(series) => series,
            Err(error) => return Judgement::fail(format!("{} ({}): {error}", zone.zone, zone.name)),
        };
        let (Some(watts), Some((_, high))) = (series.rate(), series.range()) else {
            return Judgement::fail(format!("{} ({}): no reading in the whole watch", zone.zone, zone.name));
        };
        judgement = judgement.number(zone.name.clone(), watts, "W");
        if let (Some(wraps_at), true) = (zone.wraps_at, watts > 0.0) {
            judgement = judgement
                .number(format!("{} wraps after", zone.name), wraps_at / watts, "s")
                .fail_if(high > wraps_at, || format!("{}: the counter is above its own range", zone.name));
        }
        // A counter that wraps while it is watched falls once; that is no fault.
        let package = zone.name.starts_with("package-");
        judgement = judgement
            .fail_if(package && series.never_falls() && watts <= 0.0, || {
                format!("{}: the counter stands still", zone.name)
            })
            .fail_if(watts > LARGEST_PACKAGE_WATTS, || format!("{}: {watts:.0} W are not plausible", zone.name));
    }
    judgement
}

/// The constraints, as they are.
#[must_use]
pub fn rapl_constraints(zones: &[ZoneRead]) -> Judgement {
    let packages: Vec<_> = zones.iter().filter(|zone| zone.name.starts_with("package-")).collect();
    if packages.is_empty() {
        return Judgement::not_supported(NO_RAPL);
    }
    let mut judgement = Judgement::pass();
    for package in &packages {
        for (name, watts, writable) in &package.constraints {
            let limit = watts.map_or_else(|| "no limit told".to_owned(), |watts| format!("{watts:.0} W"));
            let how = if *writable { "writable" } else { "locked" };
            judgement = judgement.text(format!("{} {name}", package.name), format!("{limit}, {how}"));
        }
    }
    if packages.iter().all(|package| package.constraints.is_empty()) {
        return Judgement::not_supported("energy without limits, as AMD's packages have it");
    }
    judgement
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use powercap_common::units::Megahertz;

    use super::*;
    use crate::conformance::series::Series;

    fn policy(range: Option<(u32, u32)>, ceiling: Option<u32>, clock: Option<u32>) -> PolicyRead {
        PolicyRead {
            policy: 0,
            range: range.map(|(low, high)| (Megahertz::new(low), Megahertz::new(high))),
            ceiling: ceiling.map(Megahertz::new),
            clock: clock.map(Megahertz::new),
            driver: Some("intel_cpufreq".to_owned()),
            governor: Some("schedutil".to_owned()),
            writable: Ok(()),
        }
    }

    #[test]
    fn a_policy_that_cannot_be_understood_fails_and_none_is_not_supported() {
        let range = Some((800, 3800));
        for (policies, expected) in [
            (vec![policy(range, Some(3800), Some(2100))], "Pass"),
            // Boost goes beyond what cpuinfo tells.
            (vec![policy(range, Some(3800), Some(4100))], "Pass"),
            (vec![policy(range, Some(3800), Some(2100)), policy(None, Some(3800), Some(2100))], "Fail"),
            (vec![policy(Some((0, 3800)), Some(3800), Some(2100))], "Fail"),
            (vec![policy(Some((3800, 800)), Some(3800), Some(2100))], "Fail"),
            (vec![policy(range, Some(4000), Some(2100))], "Fail"),
            (vec![policy(range, None, Some(2100))], "Fail"),
            (vec![policy(range, Some(3800), None)], "Fail"),
            (vec![], "NotSupported"),
        ] {
            assert_eq!(cpufreq_files(&policies).verdict.word(), expected, "{policies:?}");
        }
    }

    #[test]
    fn ceilings_that_may_not_be_written_fail() {
        let denied = || PolicyRead {
            writable: Err(DeviceError::Denied { action: "open" }),
            ..policy(Some((800, 3800)), Some(3800), Some(2100))
        };
        assert_eq!(cpufreq_writable(&[policy(None, None, None)]).verdict.word(), "Pass");
        assert_eq!(cpufreq_writable(&[policy(None, None, None), denied()]).verdict.word(), "Fail");
        assert_eq!(cpufreq_writable(&[]).verdict.word(), "NotSupported");
        assert_eq!(cpufreq_driver(&[denied()]).verdict.word(), "Pass");
        assert_eq!(cpufreq_driver(&[PolicyRead { driver: None, ..denied() }]).verdict.word(), "Fail");
    }

    fn zone(name: &str, joules: &[f64], wraps_at: f64) -> ZoneRead {
        let mut energy = Series::default();
        for (index, joules) in (0..).zip(joules) {
            energy.push(Duration::from_secs(index), *joules);
        }
        let constraints = vec![("long_term".to_owned(), Some(350.0), false)];
        ZoneRead {
            zone: "intel-rapl:0".into(),
            name: name.into(),
            energy: Ok(energy),
            wraps_at: Some(wraps_at),
            constraints,
        }
    }

    #[test]
    fn a_counter_that_stands_still_or_leaps_fails_and_a_wrap_does_not() {
        for (zones, expected) in [
            (vec![zone("package-0", &[10.0, 110.0], 262_143.0)], "Pass"),
            (vec![zone("package-0", &[262_100.0, 57.0], 262_143.0)], "Pass"),
            (vec![zone("package-0", &[10.0, 10.0], 262_143.0)], "Fail"),
            (vec![zone("dram", &[10.0, 10.0], 262_143.0)], "Pass"),
            (vec![zone("package-0", &[10.0, 9010.0], 262_143.0)], "Fail"),
            (vec![zone("package-0", &[300_000.0, 300_100.0], 262_143.0)], "Fail"),
            (vec![zone("package-0", &[], 262_143.0)], "Fail"),
            (
                vec![ZoneRead { energy: Err(DeviceError::Denied { action: "read" }), ..zone("package-0", &[], 1.0) }],
                "Fail",
            ),
            (vec![], "NotSupported"),
        ] {
            assert_eq!(rapl_energy(&zones).verdict.word(), expected, "{zones:?}");
        }
    }

    #[test]
    fn constraints_are_told_with_what_may_be_done_to_them() {
        let judged = rapl_constraints(&[zone("package-0", &[], 1.0)]);
        assert!(format!("{:?}", judged.figures).contains("350 W, locked"), "{:?}", judged.figures);
        let amd = ZoneRead { constraints: Vec::new(), ..zone("package-0", &[], 1.0) };
        assert_eq!(rapl_constraints(&[amd]).verdict.word(), "NotSupported");
    }
}
