//! Whether Prometheus has what decisions need, under names that fit, and recent enough: pure.

use std::collections::{BTreeMap, BTreeSet};

use kube::ResourceExt;
use powercap_common::{
    reason::Reason,
    telemetry::{agent, dcgm, kepler},
};

use super::{
    finding::{Finding, names},
    seen::{CHANGES_WITHIN_SECONDS, Sample, Seen, Series, Settings},
};
use crate::mend::mend;

const EXPORTER: &str = "DCGM exporter";

/// Everything about Prometheus.
#[must_use]
pub fn prometheus(seen: &Seen) -> Vec<Finding> {
    let (url, answer) = &seen.prometheus;
    let series = match answer {
        Err(why) => {
            let mend = "see that it runs, that --prometheus-url of the recommender is its address, and that you may \
                        `get services/proxy` there; or name an address that this machine reaches with --prometheus-url";
            return vec![Finding::fail("Prometheus", format!("{url}: {why}"), mend)];
        }
        Ok(series) => series,
    };
    let settings = Settings::of(seen.recommender.as_ref().ok().and_then(Option::as_ref));
    let interval = settings.collection_interval_seconds;
    let nodes = Nodes::of(seen);
    let findings = [
        Some(Finding::ok("Prometheus", format!("{url} answers"))),
        scraped_often_enough(series, interval),
        Some(boards_have_series(series, &nodes)),
        labels_name_nodes(EXPORTER, &series.boards, &dcgm::HOSTNAME, &nodes),
        pods_are_named(series, &nodes),
        recent(EXPORTER, &series.boards, interval),
        measured_often_enough(series, interval),
        Some(nodes_have_series("Kepler", &series.cpus, kepler::NODE_NAME, &nodes)),
        labels_name_nodes("Kepler", &series.cpus, &[kepler::NODE_NAME], &nodes),
        recent("Kepler", &series.cpus, interval),
        Some(nodes_have_series("scraped agents", &series.agents, agent::NODE, &nodes)),
    ];
    findings.into_iter().flatten().collect()
}

/// What the cluster itself knows of its nodes and boards.
struct Nodes {
    /// Names of all nodes; `None` when they could not be read.
    all: Option<BTreeSet<String>>,
    /// Those that are capped, with the boards that their agents see.
    boards: BTreeMap<String, Vec<String>>,
    /// Whether every agent tells whose its boards are.
    tenants_known: bool,
}

impl Nodes {
    fn of(seen: &Seen) -> Self {
        let all = seen.nodes.as_ref().ok().map(|nodes| nodes.iter().map(ResourceExt::name_any).collect());
        let capped = seen.caps.as_ref().map(|caps| caps.nodes.as_slice()).unwrap_or_default();
        let gpus = |node: &powercap_common::api::NodeFrequencies| {
            node.status.iter().flat_map(|status| &status.gpus).map(|gpu| gpu.uuid.clone()).collect()
        };
        let mut every = capped.iter().flat_map(|node| node.status.iter().flat_map(|status| &status.gpus));
        Self {
            all,
            boards: capped.iter().map(|node| (node.name_any(), gpus(node))).collect(),
            tenants_known: every.all(|gpu| gpu.tenants.is_some()),
        }
    }
}

/// Boards that agents see and Prometheus does not.
fn boards_have_series(series: &Series, nodes: &Nodes) -> Finding {
    let seen: BTreeSet<_> = series.boards.iter().filter_map(|sample| sample.labels.get(dcgm::UUID)).collect();
    let all: Vec<_> =
        nodes.boards.iter().flat_map(|(node, uuids)| uuids.iter().map(move |uuid| (node, uuid))).collect();
    if series.boards.is_empty() && all.is_empty() {
        return Finding::ok(EXPORTER, "no series, and no agent sees a board");
    }
    let mend = mend(Reason::NoData).unwrap_or_default();
    if series.boards.is_empty() {
        let found = format!("Prometheus has no {}: policies hold what stands", dcgm::POWER_USAGE);
        return Finding::fail(EXPORTER, found, mend);
    }
    let without: Vec<_> =
        all.iter().filter(|(_, uuid)| !seen.contains(uuid)).map(|(node, uuid)| format!("{uuid} on {node}")).collect();
    if without.is_empty() {
        return Finding::ok(EXPORTER, format!("a series for each board that agents see ({})", all.len()));
    }
    Finding::fail(EXPORTER, format!("no series for {}", names(&without)), mend)
}

/// Nodes without a series: of a domain with such a node the power is not known.
fn nodes_have_series(check: &'static str, samples: &[Sample], label: &str, nodes: &Nodes) -> Finding {
    let seen: BTreeSet<_> = samples.iter().filter_map(|sample| sample.labels.get(label)).collect();
    let without: Vec<_> = nodes.boards.keys().filter(|node| !seen.contains(node)).collect();
    if without.is_empty() {
        return Finding::ok(check, format!("a series for each capped node ({})", nodes.boards.len()));
    }
    let (found, mend) = match check {
        "Kepler" => (
            "the power of their domains and of policies with DevicesAndHost is not known",
            mend(Reason::NoData).unwrap_or_default(),
        ),
        _ => (
            "a silent agent is noticed by its status alone, after six minutes",
            "scrape the Service powercap-actuator-node, port 8081, by DNS or a PodMonitor",
        ),
    };
    Finding::warn(check, format!("no series of {}: {found}", names(&without)), mend)
}

/// Series whose label names a node that the cluster does not have.
fn labels_name_nodes(check: &'static str, samples: &[Sample], labels: &[&str], nodes: &Nodes) -> Option<Finding> {
    let Some(all) = &nodes.all else { return Some(Finding::unseen(check, "you may not list nodes")) };
    let label = |sample: &Sample| labels.iter().find_map(|label| sample.labels.get(*label).cloned());
    let named: BTreeSet<_> = samples.iter().map(label).collect();
    let strange: Vec<_> = named.iter().flatten().filter(|node| !all.contains(*node)).collect();
    let says = labels.join(" or ");
    if named.contains(&None) {
        let mend = "keep the exporter's own labels when you relabel";
        return Some(Finding::fail(check, format!("series without the label {says}: nobody knows their node"), mend));
    }
    if strange.is_empty() {
        let found = || Finding::ok(check, format!("the label {says} names nodes of this cluster"));
        return (!samples.is_empty()).then(found);
    }
    let mend = "give the exporter's container NODE_NAME from spec.nodeName; where one Prometheus serves several \
                clusters, ask it by a tenant or a proxy that shows this cluster alone";
    Some(Finding::fail(check, format!("the label {says} names no node of this cluster: {}", names(&strange)), mend))
}

/// Whose boards are, by labels: needed only where no agent tells it.
fn pods_are_named(series: &Series, nodes: &Nodes) -> Option<Finding> {
    if series.boards.is_empty() || nodes.tenants_known && !nodes.boards.is_empty() {
        return None;
    }
    let names_pod =
        |sample: &&Sample| dcgm::POD.iter().any(|label| sample.labels.get(*label).is_some_and(|pod| !pod.is_empty()));
    let named = series.boards.iter().filter(names_pod).count();
    Some(if named > 0 {
        Finding::ok(EXPORTER, format!("{named} of {} series name a pod", series.boards.len()))
    } else {
        Finding::warn(
            EXPORTER,
            "no series names a pod, and not every agent tells whose its boards are",
            "set DCGM_EXPORTER_KUBERNETES=true; see that agents mount /var/lib/kubelet/pod-resources",
        )
    })
}

/// How old the oldest reading is, by Prometheus's own clock.
fn recent(check: &'static str, samples: &[Sample], interval: u32) -> Option<Finding> {
    let ages = samples.iter().map(|sample| sample.evaluated_at - sample.value).filter(|age| age.is_finite());
    let (oldest, most) = (ages.max_by(f64::total_cmp)?.max(0.0), interval.saturating_mul(3));
    if oldest > f64::from(most) {
        let found = format!("the oldest reading is {oldest:.0} s old: {}", Reason::DataStale.explanation());
        return Some(Finding::fail(check, found, mend(Reason::DataStale).unwrap_or_default()));
    }
    Some(Finding::ok(check, format!("the oldest reading is {oldest:.0} s old (more than {most} s would be stale)")))
}

/// Whether values change as often as readings come: an exporter that measures seldom shows old power as new.
fn measured_often_enough(series: &Series, interval: u32) -> Option<Finding> {
    let changes = series.changes?;
    let expected = f64::from(CHANGES_WITHIN_SECONDS) / f64::from(interval.max(1));
    let found = format!("power of the liveliest board changed {changes:.0} times in {CHANGES_WITHIN_SECONDS} s");
    Some(if changes * 3.0 >= expected {
        Finding::ok(EXPORTER, found)
    } else {
        let mend = format!(
            "unless every board is idle: set DCGM_EXPORTER_INTERVAL={} (milliseconds; its default is 30000), or raise --collection-interval-seconds of the recommender",
            interval.saturating_mul(1000)
        );
        Finding::warn(EXPORTER, found, mend)
    })
}

/// Whether Prometheus scrapes as often as the recommender was told.
fn scraped_often_enough(series: &Series, interval: u32) -> Option<Finding> {
    const CHECK: &str = "scrape interval";
    let of = |sample: &Sample| {
        let label = |name: &str| sample.labels.get(name).cloned().unwrap_or_default();
        series.intervals.get(&(label("job"), label("instance"))).copied()
    };
    let slowest = series.boards.iter().chain(&series.cpus).filter_map(of).max()?;
    let found = format!("exporters are scraped every {slowest} s, the recommender reckons with {interval} s");
    Some(if slowest > u64::from(interval) {
        let mend =
            format!("scrape every {interval} s, or set --collection-interval-seconds={slowest} at the recommender");
        if slowest > u64::from(interval) * 3 {
            Finding::fail(CHECK, found, mend)
        } else {
            Finding::warn(CHECK, found, mend)
        }
    } else {
        Finding::ok(CHECK, found)
    })
}
