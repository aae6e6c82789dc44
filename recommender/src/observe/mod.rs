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
pub mod usage;
pub mod workloads;

use std::{collections::BTreeMap, sync::Arc};

use jiff::SignedDuration;
use k8s_openapi::api::core::v1::{Namespace, Node};
use kube::{
    Api, Client, ResourceExt,
    core::PartialObjectMeta,
    runtime::reflector::{self, Store},
};
use powercap_common::api::{NodeFrequencies, PowerCappingPolicy, PowerDomain};
use powercap_process::kubernetes::{everything, reflect};
use tokio::{sync::Notify, task::JoinSet};

use self::{
    resources::{Written, asks_for_decision, labels_or_boot, spec_or_labels},
    targets::LatestTargets,
    telemetry::LatestTelemetry,
    workloads::{NOT_ENDED, SeenPod, namespace_labels, node_facts, slim_metadata, slim_node, slim_pod},
};
use crate::observation::Observation;

/// The caches and the latest readings.
pub struct Observer {
    policies: Store<PowerCappingPolicy>,
    domains: Store<PowerDomain>,
    frequencies: Store<NodeFrequencies>,
    nodes: Store<Node>,
    pods: Store<SeenPod>,
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
        let policies = reflect(Api::all(client.clone()), everything(), slim_metadata, spec_or_labels, changed, tasks);
        let targets = LatestTargets::default();
        tasks.spawn(targets::follow(client.clone(), policies.clone(), targets.clone(), Arc::clone(changed)));
        tasks.spawn(usage::follow(client.clone(), policies.clone(), telemetry.clone()));
        Self {
            policies,
            domains: reflect(Api::all(client.clone()), everything(), slim_metadata, spec_or_labels, changed, tasks),
            frequencies: reflect(
                Api::all(client.clone()),
                everything(),
                slim_metadata,
                asks_for_decision,
                changed,
                tasks,
            ),
            nodes: reflect(Api::all(client.clone()), everything(), slim_node, labels_or_boot, changed, tasks),
            pods: reflect(
                Api::all(client.clone()),
                everything().fields(NOT_ENDED),
                slim_pod,
                SeenPod::digest,
                changed,
                tasks,
            ),
            namespaces: reflect(Api::all(client.clone()), everything(), slim_metadata, spec_or_labels, changed, tasks),
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
        let pods = self.pods.state();
        Observation {
            policies: self.written_policies.newest(&self.policies),
            domains: self.written_domains.newest(&self.domains),
            frequencies: frequencies.into_iter().map(|object| (object.name_any(), object)).collect(),
            nodes: self.nodes.state().iter().map(|node| node_facts(node)).collect(),
            pods: pods.iter().filter_map(|pod| pod.running()).collect(),
            pending: pods.iter().filter_map(|pod| pod.pending()).collect(),
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

    /// The namespaces of which the use of containers is asked for, as they are when it is called.
    pub fn namespaces_of_use(&self) -> past::Namespaces {
        let policies = self.policies.clone();
        Box::new(move || usage::namespaces(&policies))
    }

    /// The highest term in which any node was told anything.
    #[must_use]
    pub fn highest_term(&self) -> i64 {
        self.frequencies.state().iter().map(|object| object.spec.epoch.term).max().unwrap_or_default()
    }
}
