//! What an object is judged beside: from caches, and for what few writes of policies and domains need beside from the
//! API server.
//!
//! Must hold: all questions together take less than the webhook may; what got no answer is not known.

use std::{sync::Arc, time::Duration};

use futures::future::{join, join3};
use k8s_openapi::api::core::v1::{Namespace, Node, Pod};
use kube::{
    Api, Client, Resource, ResourceExt,
    api::{ApiResource, DynamicObject, GroupVersionKind, ListParams},
    core::PartialObjectMeta,
};
use powercap_common::{
    api::{PowerCappingPolicy, PowerDomain, TargetRef},
    selector::{Labels, Selector},
    target::Controller,
};
use serde::de::DeserializeOwned;

use super::{
    domain::DomainWorld,
    policy::{PodSeen, PolicyWorld},
};
use crate::observe::Watched;

/// Of the two seconds that the webhook has.
const PATIENCE: Duration = Duration::from_secs(1);
/// Pods of a policy that are looked at for a warning; more are cut off.
const MOST_PODS: u32 = 500;
/// Kubernetes' own workloads and KServe's, which we may look for.
const WORKLOADS: [(&str, &str); 7] = [
    ("apps", "Deployment"),
    ("apps", "StatefulSet"),
    ("apps", "DaemonSet"),
    ("apps", "ReplicaSet"),
    ("batch", "Job"),
    ("serving.kserve.io", "InferenceService"),
    ("serving.kserve.io", "LLMInferenceService"),
];

/// Looks things up.
#[derive(Clone)]
pub struct Looker {
    /// Of the API server.
    pub client: Client,
    /// Caches of our own kinds.
    pub watched: Watched,
}

impl Looker {
    /// What this policy is judged beside.
    pub async fn for_policy(&self, object: &PowerCappingPolicy) -> PolicyWorld {
        let namespace = object.namespace().unwrap_or_default();
        let labels = async {
            let found = Api::<Namespace>::all(self.client.clone()).get_metadata(&namespace).await;
            found.ok().map(|namespace| labels(&namespace))
        };
        let target_exists = self.target_exists(&namespace, object.spec.target_ref.as_ref());
        let pods = self.pods(&namespace, object);
        let (labels, target_exists, pods) = join3(patiently(labels), patiently(target_exists), patiently(pods)).await;
        PolicyWorld {
            policies: self.watched.policies.state(),
            domains: self.watched.domains.state(),
            nodes: self.watched.nodes.state(),
            namespace: labels,
            target_exists,
            pods,
        }
    }

    /// What this domain is judged beside.
    pub async fn for_domain(&self, object: &PowerDomain) -> DomainWorld {
        let selector = Selector::try_from(&object.spec.node_selector).ok();
        let asked = async {
            let found = list(&Api::<Node>::all(self.client.clone()), &selector?, None).await?;
            Some(found.iter().map(ResourceExt::name_any).collect())
        };
        // Not from the cache: of two domains written one after the other the second may close a ring.
        let domains = async {
            let found = Api::<PowerDomain>::all(self.client.clone()).list(&ListParams::default()).await.ok()?;
            Some(found.items.into_iter().map(Arc::new).collect())
        };
        let (members, domains) = join(patiently(asked), patiently(domains)).await;
        DomainWorld {
            domains: domains.unwrap_or_else(|| self.watched.domains.state()),
            nodes: self.watched.nodes.state(),
            members,
        }
    }

    /// The pods that its selector matches now.
    async fn pods(&self, namespace: &str, object: &PowerCappingPolicy) -> Option<Vec<PodSeen>> {
        let selector = Selector::try_from(object.spec.selector.as_ref()?).ok()?;
        let pods = Api::<Pod>::namespaced(self.client.clone(), namespace);
        let found = list(&pods, &selector, Some(MOST_PODS)).await?;
        let seen = |pod: &PartialObjectMeta<Pod>| PodSeen {
            name: pod.name_any(),
            labels: labels(pod),
            controller: Controller::of(&pod.metadata),
        };
        Some(found.iter().map(seen).collect())
    }

    async fn target_exists(&self, namespace: &str, target: Option<&TargetRef>) -> Option<bool> {
        let target = target?;
        let (group, version) = target.group_version();
        if !WORKLOADS.contains(&(group, target.kind.as_str())) {
            return None;
        }
        let resource = ApiResource::from_gvk(&GroupVersionKind::gvk(group, version, &target.kind));
        let api = Api::<DynamicObject>::namespaced_with(self.client.clone(), namespace, &resource);
        api.get_metadata_opt(&target.name).await.ok().map(|found| found.is_some())
    }
}

async fn patiently<T>(answer: impl Future<Output = Option<T>>) -> Option<T> {
    tokio::time::timeout(PATIENCE, answer).await.ok().flatten()
}

async fn list<K>(api: &Api<K>, selector: &Selector, most: Option<u32>) -> Option<Vec<PartialObjectMeta<K>>>
where
    K: Resource + Clone + std::fmt::Debug + DeserializeOwned,
{
    // From the API server's cache: a warning need not be newer.
    let mut asked = ListParams::default().labels(&selector.to_string()).match_any();
    asked.limit = most;
    api.list_metadata(&asked).await.ok().map(|found| found.items)
}

fn labels<K>(object: &PartialObjectMeta<K>) -> Labels {
    object.metadata.labels.clone().unwrap_or_default()
}
