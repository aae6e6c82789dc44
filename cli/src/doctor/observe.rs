//! Reads everything that `doctor` looks at; each read for itself, so that one refusal hides nothing else.

use std::fmt::Debug;

use jiff::Timestamp;
use k8s_openapi::{
    api::{
        admissionregistration::v1::{MutatingWebhookConfiguration, ValidatingWebhookConfiguration},
        apps::v1::{DaemonSet, Deployment},
        authorization::v1::{
            ResourceAttributes, SelfSubjectAccessReview, SelfSubjectAccessReviewSpec, SubjectAccessReview,
            SubjectAccessReviewSpec,
        },
        coordination::v1::Lease,
        core::v1::{Namespace, Node, Pod},
    },
    apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition,
};
use kube::{
    Api, Client, Resource,
    api::{ListParams, PostParams},
};
use powercap_common::api::GROUP;
use serde::de::DeserializeOwned;

use super::{
    prometheus,
    seen::{Answer, Right, Seen, Settings},
};
use crate::{
    caps::{Caps, in_short},
    flags::DoctorFlags,
    target::Target,
};

/// The recommender's Deployment and Lease.
const RECOMMENDER: &str = "powercap-recommender";
/// Admission's Lease, and its registrations.
const ADMISSION: &str = "powercap-admission";
/// The Lease of whoever escalates.
const ESCALATE: &str = "powercap-escalate";
/// The node agents' DaemonSet.
const AGENTS: &str = "powercap-actuator-node";
const AGENT_PODS: &str = "app.kubernetes.io/component=actuator-node";
/// The accounts of the components, as the API server knows them.
const RECOMMENDER_ACCOUNT: &str = "system:serviceaccount:powercap-system:powercap-recommender";
const ADMISSION_ACCOUNT: &str = "system:serviceaccount:powercap-system:powercap-admission";
const ESCALATE_ACCOUNT: &str = "system:serviceaccount:powercap-system:powercap-escalate";
const AGENT_ACCOUNT: &str = "system:serviceaccount:powercap-node:powercap-actuator-node";

/// Reads it all.
pub async fn observe(target: &Target, flags: &DoctorFlags) -> Seen {
    let client = &target.client;
    let namespaced = |namespace: &str| (client.clone(), namespace.to_owned());
    let (system, agents) = (namespaced(&flags.system_namespace), namespaced(&flags.node_namespace));
    let named = |label: &str| ListParams::default().labels(label);
    let deployments = Api::<Deployment>::namespaced(system.0.clone(), &system.1);
    let leases = Api::<Lease>::namespaced(system.0, &system.1);
    let daemon_sets = Api::<DaemonSet>::namespaced(agents.0.clone(), &agents.1);
    let pods = Api::<Pod>::namespaced(agents.0, &agents.1);
    let mutating = Api::<MutatingWebhookConfiguration>::all(client.clone());
    let validating = Api::<ValidatingWebhookConfiguration>::all(client.clone());
    let (admission_lease, escalation_lease, pod_webhooks, object_webhooks, namespaces) = tokio::join!(
        leases.get_opt(ADMISSION),
        leases.get_opt(ESCALATE),
        mutating.get_opt(ADMISSION),
        validating.get_opt(ADMISSION),
        list(Api::<Namespace>::all(client.clone()), ListParams::default()),
    );
    let (version, definitions, recommender, lease, agents, agent_pods, nodes) = tokio::join!(
        client.apiserver_version(),
        list(Api::<CustomResourceDefinition>::all(client.clone()), ListParams::default()),
        deployments.get_opt(RECOMMENDER),
        leases.get_opt(RECOMMENDER),
        daemon_sets.get_opt(AGENTS),
        list(pods, named(AGENT_PODS)),
        list(Api::<Node>::all(client.clone()), ListParams::default()),
    );
    let recommender = recommender.map_err(why);
    let settings = Settings::of(recommender.as_ref().ok().and_then(Option::as_ref));
    let url = flags.prometheus_url.clone().unwrap_or(settings.prometheus_url);
    let caps = Caps::read(target, client.default_namespace());
    let (caps, rights, series) = tokio::join!(caps, rights(client), prometheus::read(client, &url));
    Seen {
        now: Timestamp::now(),
        server: format!("{} (context {})", target.server, target.context),
        version: version.map(|version| version.git_version).map_err(why),
        definitions: definitions
            .map(|all| all.into_iter().filter(|definition| definition.spec.group == GROUP).collect()),
        rights,
        recommender,
        lease: lease.map_err(why),
        admission_lease: admission_lease.map_err(why),
        escalation_lease: escalation_lease.map_err(why),
        pod_webhooks: pod_webhooks.map_err(why),
        object_webhooks: object_webhooks.map_err(why),
        namespaces,
        agents: agents.map_err(why),
        agent_pods,
        nodes,
        caps: caps.map_err(|error| error.to_string()),
        prometheus: (url, series),
    }
}

async fn list<K>(api: Api<K>, params: ListParams) -> Answer<Vec<K>>
where
    K: Resource + Clone + DeserializeOwned + Debug,
{
    api.list(&params).await.map(|list| list.items).map_err(why)
}

#[expect(clippy::needless_pass_by_value, reason = "it stands in map_err")]
fn why(error: kube::Error) -> String {
    in_short(&error)
}

/// Asks for each right that matters.
async fn rights(client: &Client) -> Vec<(Right, Answer<bool>)> {
    let mut answers = Vec::new();
    for right in needed() {
        let answer = review(client, &right).await;
        answers.push((right, answer));
    }
    answers
}

async fn review(client: &Client, right: &Right) -> Answer<bool> {
    let (resource, subresource) = right.resource.split_once('/').unwrap_or((right.resource, ""));
    let some = |text: &str| (!text.is_empty()).then(|| text.to_owned());
    let resource_attributes = Some(ResourceAttributes {
        group: some(right.group),
        name: right.name.map(str::to_owned),
        namespace: right.namespace.map(str::to_owned),
        resource: some(resource),
        subresource: some(subresource),
        verb: some(right.verb),
        ..ResourceAttributes::default()
    });
    let params = PostParams::default();
    match right.account {
        None => {
            let spec = SelfSubjectAccessReviewSpec { resource_attributes, ..Default::default() };
            let review = SelfSubjectAccessReview { spec, ..Default::default() };
            let answer = Api::<SelfSubjectAccessReview>::all(client.clone()).create(&params, &review).await;
            answer.map(|review| review.status.is_some_and(|status| status.allowed)).map_err(why)
        }
        Some(account) => {
            let groups = ["system:serviceaccounts", "system:authenticated"].map(str::to_owned);
            let spec = SubjectAccessReviewSpec {
                user: some(account),
                groups: Some(groups.to_vec()),
                resource_attributes,
                ..Default::default()
            };
            let review = SubjectAccessReview { spec, ..Default::default() };
            let answer = Api::<SubjectAccessReview>::all(client.clone()).create(&params, &review).await;
            answer.map(|review| review.status.is_some_and(|status| status.allowed)).map_err(why)
        }
    }
}

/// What the caller and the components need.
fn needed() -> Vec<Right> {
    let right = |account, verb, group, resource| Right { account, verb, group, resource, namespace: None, name: None };
    let lease = |account, verb, name| Right {
        namespace: Some("powercap-system"),
        name: Some(name),
        ..right(account, verb, "coordination.k8s.io", "leases")
    };
    let (recommender, agent) = (Some(RECOMMENDER_ACCOUNT), Some(AGENT_ACCOUNT));
    let (admission, escalate) = (Some(ADMISSION_ACCOUNT), Some(ESCALATE_ACCOUNT));
    vec![
        right(None, "list", GROUP, "nodefrequencies"),
        right(None, "list", GROUP, "powerdomains"),
        right(None, "list", GROUP, "powercappingpolicies"),
        right(None, "get", "", "pods"),
        right(None, "patch", GROUP, "nodefrequencies"),
        right(recommender, "watch", GROUP, "powercappingpolicies"),
        right(recommender, "watch", GROUP, "powerdomains"),
        right(recommender, "patch", GROUP, "powercappingpolicies/status"),
        right(recommender, "patch", GROUP, "powerdomains/status"),
        right(recommender, "create", GROUP, "nodefrequencies"),
        right(recommender, "patch", GROUP, "nodefrequencies"),
        right(recommender, "watch", "", "nodes"),
        right(recommender, "watch", "", "pods"),
        lease(recommender, "update", RECOMMENDER),
        right(agent, "watch", GROUP, "nodefrequencies"),
        right(agent, "watch", GROUP, "powerdomains"),
        right(agent, "patch", GROUP, "nodefrequencies/status"),
        right(agent, "watch", "", "nodes"),
        lease(agent, "watch", RECOMMENDER),
        right(admission, "watch", GROUP, "powercappingpolicies"),
        right(admission, "watch", "", "namespaces"),
        lease(admission, "patch", ADMISSION),
        right(escalate, "watch", GROUP, "powercappingpolicies"),
        right(escalate, "patch", GROUP, "powercappingpolicies/status"),
        right(escalate, "create", "", "pods/eviction"),
        lease(escalate, "update", ESCALATE),
        lease(escalate, "get", ADMISSION),
    ]
}
