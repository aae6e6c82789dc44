//! Fills a [`Cluster`]: reflectors on the API server, and one task that puts together what they know.
//!
//! Must hold: a cache that is not synced, or a watch that broke, never looks like an empty cluster.

mod objects;
mod watched;

use std::{collections::HashMap, sync::Arc, time::Duration};

use k8s_openapi::api::core::v1::{LimitRange, Namespace, ResourceQuota};
use kube::{
    Api, Client, Resource, ResourceExt,
    core::PartialObjectMeta,
    runtime::{
        reflector::{Store, store::WriterDropped},
        watcher,
    },
};
use powercap_common::api::OPT_IN;
use powercap_process::kubernetes::{everything, reflect};
use tokio::{
    sync::{Notify, watch},
    task::JoinSet,
};

use self::objects::{WattsNode, node_facts, slim_metadata, uid, version};
pub use self::watched::{Watched, is_lost};
use crate::cluster::{Cluster, Limits, Namespace as NamespaceFacts, Quota};

/// What a list leaves behind in the allocator is as large as a page; at the start each page is waited for.
const PAGE: u32 = 250;
/// Changes come in flocks; one that is waited for by a person may take this long.
const DEBOUNCE: Duration = Duration::from_millis(50);

/// The caches.
pub struct Observer {
    watched: Watched,
    namespaces: Store<PartialObjectMeta<Namespace>>,
    limit_ranges: Store<LimitRange>,
    quotas: Store<ResourceQuota>,
    nodes: Store<WattsNode>,
    changed: Arc<Notify>,
}

impl Observer {
    /// Starts the reflectors in `tasks`.
    #[must_use]
    pub fn start(client: &Client, tasks: &mut JoinSet<()>) -> Self {
        let changed = &Arc::new(Notify::new());
        let opted_in = in_pages().labels(&format!("{}={}", OPT_IN.0, OPT_IN.1));
        Self {
            watched: Watched::start(client, changed, tasks),
            namespaces: reflect(Api::all(client.clone()), opted_in, slim_metadata, uid, changed, tasks),
            limit_ranges: reflect(Api::all(client.clone()), in_pages(), slim_metadata, version, changed, tasks),
            quotas: reflect(Api::all(client.clone()), in_pages(), slim_metadata, version, changed, tasks),
            nodes: reflect(Api::all(client.clone()), in_pages(), slim_metadata, WattsNode::digest, changed, tasks),
            changed: Arc::clone(changed),
        }
    }

    /// Those caches that others share.
    #[must_use]
    pub fn watched(&self) -> Watched {
        self.watched.clone()
    }

    /// Completes when every cache has its first list.
    ///
    /// # Errors
    /// When one ended before.
    pub async fn synced(&self) -> Result<(), WriterDropped> {
        self.watched.synced().await?;
        self.namespaces.wait_until_ready().await?;
        self.limit_ranges.wait_until_ready().await?;
        self.quotas.wait_until_ready().await?;
        self.nodes.wait_until_ready().await
    }

    /// Tells what is known now, and from now on whenever it changes. Called when the caches are synced.
    pub fn publish(self) -> (watch::Receiver<Arc<Cluster>>, impl Future<Output = ()> + Send) {
        let (sender, cluster) = watch::channel(Arc::new(self.cluster()));
        let task = async move {
            loop {
                self.changed.notified().await;
                tokio::time::sleep(DEBOUNCE).await;
                sender.send_replace(Arc::new(self.cluster()));
            }
        };
        (cluster, task)
    }

    fn cluster(&self) -> Cluster {
        let mut policies = by_namespace(self.watched.policies.state());
        let mut limit_ranges = by_namespace(self.limit_ranges.state());
        let mut quotas = by_namespace(self.quotas.state());
        let facts = |name: String| {
            let limit_ranges = limit_ranges.remove(&name).unwrap_or_default();
            let limits = |kind| Limits::of(kind, limit_ranges.iter().map(AsRef::as_ref));
            let facts = NamespaceFacts {
                policies: policies.remove(&name).unwrap_or_default().into_iter().collect(),
                container_limits: limits("Container"),
                pod_limits: limits("Pod"),
                quota: Quota::of(quotas.remove(&name).unwrap_or_default().iter().map(AsRef::as_ref)),
            };
            (name, facts)
        };
        let agents: HashMap<_, _> =
            self.watched.nodes.state().iter().map(|node| (node.name_any(), Arc::clone(node))).collect();
        let nodes = self.nodes.state();
        Cluster {
            namespaces: self.namespaces.state().iter().map(|namespace| namespace.name_any()).map(facts).collect(),
            nodes: nodes
                .iter()
                .filter_map(|node| node_facts(node, agents.get(&node.name_any()).map(AsRef::as_ref)))
                .collect(),
        }
    }
}

fn in_pages() -> watcher::Config {
    everything().page_size(PAGE)
}

fn by_namespace<K: Resource>(objects: Vec<Arc<K>>) -> HashMap<String, Vec<Arc<K>>> {
    let mut sorted = HashMap::<_, Vec<_>>::new();
    for object in objects {
        sorted.entry(object.namespace().unwrap_or_default()).or_default().push(object);
    }
    sorted
}
