//! The CPU and memory that containers use now, by metrics.k8s.io (metrics-server), and which workloads a
//! VerticalPodAutoscaler looks after.
//!
//! Must hold: decisions wait for none of it; nothing is asked while no policy controls CPU or memory, and then of
//! those policies' namespaces alone, one request after the other; an answer is bounded. Where the API is not
//! there, or does not answer, what was known grows old and a condition says so.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use futures::{AsyncBufRead, AsyncReadExt};
use jiff::Timestamp;
use kube::{Client, api::ListParams, core::Request, runtime::reflector::Store};
use powercap_common::{
    api::{Mode, PowerCappingPolicy, TargetRef},
    quantity::Quantity,
    reason::Reason,
    units::{Bytes, Millicores},
};
use serde::{Deserialize, de::DeserializeOwned};

use super::telemetry::{LatestTelemetry, in_full};
use crate::{
    decide::asks_for_use,
    observation::{ContainerUse, Hold, PodName, PodUse, Target, Usage},
};

/// metrics-server measures every 15 s by default.
const EVERY: Duration = Duration::from_secs(15);
const TIMEOUT: Duration = Duration::from_secs(10);
/// More namespaces than this are asked about by one request for the whole cluster.
const ONE_BY_ONE: usize = 16;
/// 10,000 pods make about 6 MiB.
const MOST_BYTES: u64 = 64 << 20;

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
enum UsageError {
    #[error("cannot ask the API server")]
    Ask(#[source] Box<kube::Error>),
    #[error("cannot read the answer")]
    Read(#[source] std::io::Error),
    #[error("the answer is longer than {} MiB", MOST_BYTES >> 20)]
    TooLong,
    #[error("the answer is not what it should be")]
    Understand(#[source] serde_json::Error),
    #[error("no answer within {} s", TIMEOUT.as_secs())]
    Timeout,
}

impl UsageError {
    /// No such API.
    fn is_absence(&self) -> bool {
        matches!(self, Self::Ask(error) if matches!(&**error, kube::Error::Api(status) if status.code == 404))
    }
}

/// Asks for what `policies` need and keeps the answers in `latest`, for ever.
pub async fn follow(client: Client, policies: Store<PowerCappingPolicy>, latest: LatestTelemetry) {
    let mut failing = false;
    loop {
        // First of all: the cache of policies is filled meanwhile.
        tokio::time::sleep(EVERY).await;
        let namespaces = namespaces(&policies);
        let usage =
            if namespaces.is_empty() { Usage::default() } else { ask(&client, &namespaces, &latest.get().usage).await };
        if let Some(problem) = usage.problem.as_ref().filter(|_| !failing) {
            tracing::warn!(reason = %problem.reason, problem = problem.message, "the use of containers is not known");
        }
        failing = usage.problem.is_some();
        latest.update(|telemetry| {
            if *telemetry.usage != usage {
                telemetry.usage = Arc::new(usage);
            }
        });
    }
}

/// The namespaces of policies that control CPU or memory.
pub fn namespaces(policies: &Store<PowerCappingPolicy>) -> BTreeSet<String> {
    let policies = policies.state();
    let asking = policies.iter().filter(|policy| {
        policy.spec.mode != Mode::Off && policy.spec.resource_policy.container_policies.iter().any(asks_for_use)
    });
    asking.filter_map(|policy| policy.metadata.namespace.clone()).collect()
}

async fn ask(client: &Client, namespaces: &BTreeSet<String>, before: &Usage) -> Usage {
    let (mut usage, mut problem) = (Usage::default(), None);
    let everywhere = namespaces.len() > ONE_BY_ONE;
    let asked: Vec<_> = if everywhere { vec![""] } else { namespaces.iter().map(String::as_str).collect() };
    for namespace in asked {
        match list::<PodMetrics>(client, "metrics.k8s.io/v1beta1", namespace, "pods").await {
            Ok(pods) => usage.pods.extend(pods.into_iter().map(PodMetrics::used)),
            Err(error) => {
                let of = |name: &&PodName| everywhere || name.namespace == namespace;
                usage.pods.extend(
                    before.pods.iter().filter(|(name, _)| of(name)).map(|(name, used)| (name.clone(), used.clone())),
                );
                problem = Some(error);
            }
        }
        match list::<Autoscaler>(client, "autoscaling.k8s.io/v1", namespace, "verticalpodautoscalers").await {
            Ok(autoscalers) => usage.autoscaled.extend(autoscalers.into_iter().filter_map(Autoscaler::target)),
            Err(error) if error.is_absence() => {}
            Err(error) => {
                usage.autoscaled.extend(before.autoscaled.iter().cloned());
                problem = Some(error);
            }
        }
    }
    usage.pods.retain(|pod, _| namespaces.contains(&pod.namespace));
    usage.problem = problem.map(|error| {
        let message = if error.is_absence() {
            "the API server has no metrics.k8s.io: is metrics-server installed?".to_owned()
        } else {
            in_full(&error)
        };
        Hold::new(Reason::UseUnavailable, format!("cpu and memory of pods: {message}"))
    });
    usage
}

/// All objects of one kind in a namespace, or everywhere.
async fn list<T: DeserializeOwned>(
    client: &Client,
    api: &str,
    namespace: &str,
    kind: &str,
) -> Result<Vec<T>, UsageError> {
    let place = if namespace.is_empty() { String::new() } else { format!("namespaces/{namespace}/") };
    let answer = async {
        let request = Request::new(format!("/apis/{api}/{place}{kind}"))
            .list(&ListParams::default())
            .map_err(|error| UsageError::Ask(Box::new(kube::Error::BuildRequest(error))))?;
        let body = client.request_stream(request).await.map_err(|error| UsageError::Ask(Box::new(error)))?;
        read(body).await
    };
    tokio::time::timeout(TIMEOUT, answer).await.map_err(|_| UsageError::Timeout)?
}

async fn read<T: DeserializeOwned>(body: impl AsyncBufRead) -> Result<Vec<T>, UsageError> {
    let (mut text, body) = (Vec::new(), std::pin::pin!(body));
    let length = body.take(MOST_BYTES + 1).read_to_end(&mut text).await.map_err(UsageError::Read)?;
    if length as u64 > MOST_BYTES {
        return Err(UsageError::TooLong);
    }
    Ok(serde_json::from_slice::<List<T>>(&text).map_err(UsageError::Understand)?.items)
}

#[derive(Deserialize)]
struct List<T> {
    items: Vec<T>,
}

#[derive(Deserialize)]
struct Named {
    name: String,
    namespace: String,
}

/// A `PodMetrics` of metrics.k8s.io, as far as it is used.
#[derive(Deserialize)]
struct PodMetrics {
    metadata: Named,
    timestamp: Timestamp,
    #[serde(default)]
    containers: Vec<ContainerMetrics>,
}

#[derive(Deserialize)]
struct ContainerMetrics {
    name: String,
    #[serde(default)]
    usage: BTreeMap<String, String>,
}

impl PodMetrics {
    fn used(self) -> (PodName, PodUse) {
        let name = PodName { namespace: self.metadata.namespace, name: self.metadata.name };
        let containers = self.containers.into_iter().map(|container| {
            let amount = |resource: &str| {
                let quantity: Quantity = container.usage.get(resource)?.parse().ok()?;
                (!quantity.is_negative()).then_some(quantity)
            };
            let cpu = amount("cpu").map(|amount| Millicores::new(amount.ceil_millis()));
            let memory = amount("memory").map(|amount| Bytes::new(amount.ceil()));
            (container.name, ContainerUse { cpu, memory })
        });
        (name, PodUse { at: self.timestamp, containers: containers.collect() })
    }
}

/// A `VerticalPodAutoscaler`, likewise.
#[derive(Deserialize)]
struct Autoscaler {
    metadata: Named,
    spec: AutoscalerSpec,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct AutoscalerSpec {
    target_ref: Option<Reference>,
    #[serde(default)]
    update_policy: UpdatePolicy,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Reference {
    api_version: Option<String>,
    kind: String,
    name: String,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct UpdatePolicy {
    update_mode: Option<String>,
}

impl Autoscaler {
    /// Whose requests it sets; nobody's where it only recommends.
    fn target(self) -> Option<Target> {
        let is_active = self.spec.update_policy.update_mode.as_deref() != Some("Off");
        let Reference { api_version, kind, name } = self.spec.target_ref.filter(|_| is_active)?;
        let api_version = api_version.unwrap_or_else(|| "apps/v1".to_owned());
        Some(Target { namespace: self.metadata.namespace, target_ref: TargetRef { api_version, kind, name } })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn used(answer: &str) -> Result<BTreeMap<PodName, PodUse>, UsageError> {
        let pods = read::<PodMetrics>(answer.as_bytes()).await?;
        Ok(pods.into_iter().map(PodMetrics::used).collect())
    }

    #[tokio::test]
    async fn answers_of_metrics_server_are_read_as_it_writes_them() {
        let pods = used(include_str!("../../tests/data/metrics-server-pods.json")).await.unwrap();
        let told: Vec<_> = pods
            .iter()
            .flat_map(|(pod, used)| used.containers.iter().map(move |(container, used)| (pod, container, used)))
            .map(|(pod, container, used)| {
                format!("{pod} {container} {} {}", used.cpu.unwrap().get(), used.memory.unwrap().get())
            })
            .collect();
        assert_eq!(
            told,
            [
                "demo/inference-6d8f9c7b54-2x7kq proxy 1 9891840",
                "demo/inference-6d8f9c7b54-2x7kq server 988 45244416",
                "demo/training-0 train 0 1048576",
            ]
        );
        assert_eq!(pods.values().next().unwrap().at.to_string(), "2026-11-22T19:04:35Z");
    }

    #[tokio::test]
    async fn an_amount_that_is_none_is_not_known_and_an_answer_that_is_none_is_an_error() {
        let pod = |usage: &str| {
            format!(
                r#"{{"items": [{{"metadata": {{"namespace": "a", "name": "p"}}, "timestamp": "2026-11-22T19:04:35Z", "containers": [{{"name": "c", "usage": {usage}}}]}}]}}"#
            )
        };
        for usage in [r#"{"cpu": "-1", "memory": "NaN"}"#, r#"{"cpu": "1e309", "memory": ""}"#, "{}"] {
            let pods = used(&pod(usage)).await.unwrap();
            let container = pods.values().next().unwrap().containers["c"];
            assert_eq!(container, ContainerUse::default(), "{usage}");
        }
        for answer in ["", "{}", r#"{"items": [{}]}"#, "404 page not found", &pod("{")] {
            assert!(matches!(used(answer).await, Err(UsageError::Understand(_))), "{answer}");
        }
    }

    #[test]
    fn an_autoscaler_that_only_recommends_owns_nothing() {
        let target = |update_policy: &str| {
            let text = format!(
                r#"{{"metadata": {{"namespace": "llm", "name": "vpa"}}, "spec": {{"targetRef": {{"apiVersion": "apps/v1", "kind": "Deployment", "name": "chat"}}, {update_policy}}}}}"#
            );
            serde_json::from_str::<Autoscaler>(&text).unwrap().target().map(|target| target.target_ref.name)
        };
        for (mode, owns) in [("Off", false), ("Initial", true), ("Recreate", true), ("InPlaceOrRecreate", true)] {
            let owner = target(&format!(r#""updatePolicy": {{"updateMode": "{mode}"}}"#));
            assert_eq!(owner.is_some(), owns, "{mode}");
        }
        assert_eq!(target(r#""resourcePolicy": {}"#).as_deref(), Some("chat"), "its default is to act");
    }
}
