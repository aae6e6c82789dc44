//! Fills an [`Observation`]: reflectors on the API server, queries to Prometheus.
//!
//! Must hold: a cache that is not synced, or a watch that broke, never looks like an empty cluster.

pub mod agents;
pub mod answer;
pub mod dcgm;
pub mod differences;
pub mod kepler;
pub mod meters;
pub mod names;
pub mod past;
pub mod prometheus;
pub mod resources;
pub mod targets;
pub mod telemetry;
pub mod tenants;
pub mod workloads;

use std::{
    collections::{BTreeMap, HashMap},
    fmt::Debug,
    hash::Hash,
    sync::Arc,
    time::Duration,
};

use futures::{Stream, StreamExt};
use jiff::SignedDuration;
use k8s_openapi::api::core::v1::{Namespace, Node};
use kube::{
    Api, Client, Resource, ResourceExt,
    core::PartialObjectMeta,
    runtime::{
        WatchStreamExt,
        reflector::{self, Store},
        utils::Backoff,
        watcher,
    },
};
use powercap_common::api::{NodeFrequencies, PowerCappingPolicy, PowerDomain};
use serde::de::DeserializeOwned;
use tokio::{sync::Notify, task::JoinSet};

use self::{
    resources::{Written, asks_for_decision, labels_or_boot, spec_or_labels},
    targets::LatestTargets,
    telemetry::LatestTelemetry,
    workloads::{RUNNING, RunningPod, namespace_labels, node_facts, pod_facts, slim_metadata, slim_node},
};
use crate::observation::Observation;

/// A watch is asked anew after this. A connection on which nothing comes any more is noticed within
/// [`SILENT_AFTER`].
const WATCH_SECONDS: u32 = 25;
/// An API server that has not sent a byte for this long is not there: a watch ends before.
pub const SILENT_AFTER: Duration = Duration::from_secs(WATCH_SECONDS as u64 + 5);
/// A watch that broke is asked anew no later than after this: a cap that was cut while the API server was away
/// is to be seen soon after.
const ASKED_ANEW_WITHIN: Duration = Duration::from_secs(8);

/// kube's own pauses, which grow, none of them longer than [`ASKED_ANEW_WITHIN`].
#[derive(Default)]
struct Pauses(watcher::DefaultBackoff);

impl Iterator for Pauses {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        self.0.next().map(|pause| pause.min(ASKED_ANEW_WITHIN))
    }
}

impl Backoff for Pauses {
    fn reset(&mut self) {
        self.0.reset();
    }
}

/// The caches and the latest readings.
pub struct Observer {
    policies: Store<PowerCappingPolicy>,
    domains: Store<PowerDomain>,
    frequencies: Store<NodeFrequencies>,
    nodes: Store<Node>,
    pods: Store<RunningPod>,
    namespaces: Store<PartialObjectMeta<Namespace>>,
    targets: LatestTargets,
    telemetry: LatestTelemetry,
    collection_interval: SignedDuration,
    /// Answers to our writes of policies' status.
    pub written_policies: Written<PowerCappingPolicy>,
    /// Answers to our writes of domains' status.
    pub written_domains: Written<PowerDomain>,
    /// Answers to our writes of nodes' grants and ceilings.
    pub written_frequencies: Written<NodeFrequencies>,
}

impl Observer {
    /// Starts the reflectors in `tasks`. `changed` is notified of what asks for a new decision.
    pub fn start(
        client: &Client,
        telemetry: LatestTelemetry,
        collection_interval: SignedDuration,
        changed: &Arc<Notify>,
        tasks: &mut JoinSet<()>,
    ) -> Self {
        let config = || watcher::Config::default().timeout(WATCH_SECONDS);
        let policies = reflect(Api::all(client.clone()), config(), slim_metadata, spec_or_labels, changed, tasks);
        let targets = LatestTargets::default();
        tasks.spawn(targets::follow(client.clone(), policies.clone(), targets.clone(), Arc::clone(changed)));
        Self {
            policies,
            domains: reflect(Api::all(client.clone()), config(), slim_metadata, spec_or_labels, changed, tasks),
            frequencies: reflect(Api::all(client.clone()), config(), slim_metadata, asks_for_decision, changed, tasks),
            nodes: reflect(Api::all(client.clone()), config(), slim_node, labels_or_boot, changed, tasks),
            pods: reflect(
                Api::all(client.clone()),
                config().fields(RUNNING),
                slim_metadata,
                spec_or_labels,
                changed,
                tasks,
            ),
            namespaces: reflect(Api::all(client.clone()), config(), slim_metadata, spec_or_labels, changed, tasks),
            targets,
            telemetry,
            collection_interval,
            written_policies: Written::default(),
            written_domains: Written::default(),
            written_frequencies: Written::default(),
        }
    }

    /// Completes when every cache has its first list.
    pub async fn synced(&self) -> Result<(), reflector::store::WriterDropped> {
        self.policies.wait_until_ready().await?;
        self.domains.wait_until_ready().await?;
        self.frequencies.wait_until_ready().await?;
        self.nodes.wait_until_ready().await?;
        self.namespaces.wait_until_ready().await?;
        self.pods.wait_until_ready().await
    }

    /// What is known now. The writer's own part (epoch, uncertain writes, steps) is left empty.
    pub fn observe(&mut self) -> Observation {
        let frequencies = self.written_frequencies.newest(&self.frequencies);
        Observation {
            policies: self.written_policies.newest(&self.policies),
            domains: self.written_domains.newest(&self.domains),
            frequencies: frequencies.into_iter().map(|object| (object.name_any(), object)).collect(),
            nodes: self.nodes.state().iter().map(|node| node_facts(node)).collect(),
            pods: self.pods.state().iter().filter_map(|pod| pod_facts(pod)).collect(),
            namespaces: self.namespaces.state().iter().map(|namespace| namespace_labels(namespace)).collect(),
            targets: self.targets.get(),
            telemetry: self.telemetry.get(),
            collection_interval: self.collection_interval,
            ..Observation::default()
        }
    }

    /// The queries of the domains' meters, as they are when it is called.
    pub fn meter_queries(&self) -> impl Fn() -> BTreeMap<String, String> + Send + 'static {
        let domains = self.domains.clone();
        let query = |domain: &Arc<PowerDomain>| Some((domain.name_any(), domain.spec.meter.as_ref()?.query.clone()));
        move || domains.state().iter().filter_map(query).collect()
    }

    /// The highest term in which any node was told anything.
    #[must_use]
    pub fn highest_term(&self) -> i64 {
        self.frequencies.state().iter().map(|object| object.spec.epoch.term).max().unwrap_or_default()
    }
}

/// A cache of one kind, kept up to date by a task. `digest` says whether a change of an object asks for a
/// new decision: only a change of its value does.
fn reflect<K>(
    api: Api<K>,
    config: watcher::Config,
    slim: fn(&mut K),
    digest: fn(&K) -> u64,
    changed: &Arc<Notify>,
    tasks: &mut JoinSet<()>,
) -> Store<K>
where
    K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + Sync + 'static,
{
    let (store, writer) = reflector::store();
    let stream = watcher(api, config).backoff(Pauses::default()).modify(slim).reflect(writer);
    tasks.spawn(follow(stream, digest, Arc::clone(changed)));
    store
}

async fn follow<K: Resource<DynamicType = ()>>(
    stream: impl Stream<Item = watcher::Result<watcher::Event<K>>>,
    digest: fn(&K) -> u64,
    changed: Arc<Notify>,
) {
    let mut seen = HashMap::new();
    let mut stream = std::pin::pin!(stream);
    while let Some(event) = stream.next().await {
        match event {
            Ok(watcher::Event::Apply(object) | watcher::Event::InitApply(object)) => {
                let digest = digest(&object);
                if seen.insert(key(&object), digest) != Some(digest) {
                    changed.notify_one();
                }
            }
            Ok(watcher::Event::Delete(object)) => {
                seen.remove(&key(&object));
                changed.notify_one();
            }
            // A list after a break may lack what was deleted meanwhile.
            Ok(watcher::Event::InitDone) => changed.notify_one(),
            Ok(watcher::Event::Init) => {}
            Err(error) => {
                let kind = K::kind(&());
                tracing::warn!(%kind, error = &error as &dyn std::error::Error, "a watch broke; trying again");
            }
        }
    }
}

fn key<K: Resource>(object: &K) -> impl Hash + Eq + use<K> {
    (object.meta().namespace.clone(), object.meta().name.clone())
}
