//! Everything that `doctor` looks at, as plain data.
//!
//! What must hold: what could not be read carries why, and never looks as if it were empty.

use std::collections::BTreeMap;

use jiff::Timestamp;
use k8s_openapi::{
    api::{
        admissionregistration::v1::{MutatingWebhookConfiguration, ValidatingWebhookConfiguration},
        apps::v1::{DaemonSet, Deployment},
        coordination::v1::Lease,
        core::v1::{Namespace, Node, Pod},
    },
    apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition,
};
use powercap_common::telemetry::prometheus;

use crate::caps::Caps;

/// What was read, or why it could not be.
pub type Answer<T> = Result<T, String>;

/// Everything that is looked at.
#[derive(Clone, Debug)]
pub struct Seen {
    /// When.
    pub now: Timestamp,
    /// The API server's address and the context's name.
    pub server: String,
    /// The API server's version.
    pub version: Answer<String>,
    /// The definitions of our group.
    pub definitions: Answer<Vec<CustomResourceDefinition>>,
    /// Who may do what.
    pub rights: Vec<(Right, Answer<bool>)>,
    /// The recommender's Deployment.
    pub recommender: Answer<Option<Deployment>>,
    /// Its Lease.
    pub lease: Answer<Option<Lease>>,
    /// Admission's.
    pub admission_lease: Answer<Option<Lease>>,
    /// That of whoever escalates.
    pub escalation_lease: Answer<Option<Lease>>,
    /// What registers admission for new pods.
    pub pod_webhooks: Answer<Option<MutatingWebhookConfiguration>>,
    /// What registers it for policies and domains.
    pub object_webhooks: Answer<Option<ValidatingWebhookConfiguration>>,
    /// The namespaces.
    pub namespaces: Answer<Vec<Namespace>>,
    /// The node agents' DaemonSet.
    pub agents: Answer<Option<DaemonSet>>,
    /// Their pods.
    pub agent_pods: Answer<Vec<Pod>>,
    /// The nodes.
    pub nodes: Answer<Vec<Node>>,
    /// The objects of power caps.
    pub caps: Answer<Caps>,
    /// Where Prometheus is, and what it says.
    pub prometheus: (String, Answer<Series>),
}

/// What somebody needs to be allowed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Right {
    /// Who; `None`: who calls.
    pub account: Option<&'static str>,
    /// For example `patch`.
    pub verb: &'static str,
    /// The API group.
    pub group: &'static str,
    /// The plural, with its subresource behind a slash.
    pub resource: &'static str,
    /// In which namespace; in all when there is none.
    pub namespace: Option<&'static str>,
    /// Of which name; of all when there is none.
    pub name: Option<&'static str>,
}

/// Labels of one series and the number that was asked for of it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Sample {
    /// The series.
    pub labels: BTreeMap<String, String>,
    /// When the query was evaluated, on Prometheus's clock, in seconds since 1970.
    pub evaluated_at: f64,
    /// The number.
    pub value: f64,
}

/// What Prometheus says.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Series {
    /// When the power of each board was scraped.
    pub boards: Vec<Sample>,
    /// When the CPU power of each node was scraped.
    pub cpus: Vec<Sample>,
    /// When each node agent was scraped.
    pub agents: Vec<Sample>,
    /// How often the power of the liveliest board changed within [`CHANGES_WITHIN_SECONDS`].
    pub changes: Option<f64>,
    /// The scrape interval of each job and instance; empty where Prometheus does not tell.
    pub intervals: BTreeMap<(String, String), u64>,
}

/// Over which time changes are counted.
pub const CHANGES_WITHIN_SECONDS: u32 = 120;

/// The flags of the recommender that matter here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Where it asks.
    pub prometheus_url: String,
    /// After three of these a reading is stale.
    pub collection_interval_seconds: u32,
}

impl Settings {
    /// As the Deployment has them; its defaults where it has none.
    #[must_use]
    pub fn of(recommender: Option<&Deployment>) -> Self {
        let pod = recommender.and_then(|deployment| deployment.spec.as_ref()?.template.spec.as_ref());
        let containers = pod.map(|pod| pod.containers.as_slice()).unwrap_or_default();
        let args: Vec<&str> =
            containers.iter().flat_map(|container| container.args.iter().flatten()).map(String::as_str).collect();
        let flag = |name: &str| {
            let joined = args.iter().find_map(|arg| arg.strip_prefix(name)?.strip_prefix('='));
            let apart = || args.iter().position(|arg| *arg == name).and_then(|at| args.get(at + 1).copied());
            joined.or_else(apart)
        };
        Self {
            prometheus_url: flag("--prometheus-url").unwrap_or(prometheus::URL).to_owned(),
            collection_interval_seconds: flag("--collection-interval-seconds")
                .and_then(|seconds| seconds.parse().ok())
                .unwrap_or(prometheus::COLLECTION_INTERVAL_SECONDS),
        }
    }
}
