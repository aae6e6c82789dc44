//! The ladder's last rung: where clocks cannot keep a cap, a pod is evicted, if its policy permits it and no
//! PodDisruptionBudget forbids it, and one at a time.

use std::collections::BTreeSet;

use k8s_openapi::{
    api::policy::v1::PodDisruptionBudget,
    jiff::{SignedDuration, Timestamp},
};
use kube::{
    Api,
    api::{DeleteParams, PostParams},
};
use powercap_common::{
    api::{Action, Escalated},
    condition::{Truth, kind},
};
use serde_json::{Value, json};

use crate::rack::Rack;

/// A cap that eight boards at their lowest clock do not keep.
const CAP: u32 = 400;
/// As long as the demo's `--cool-down-seconds`.
const ITS_TIME: SignedDuration = SignedDuration::from_secs(15);

#[tokio::test]
async fn a_pod_is_evicted_where_its_policy_permits_it_and_no_budget_forbids_it() {
    let rack = Rack::ready().await;
    let (inference, training) = (uids(&rack, "inference").await, uids(&rack, "training").await);
    assert_eq!(inference.len(), 8);
    forbid(&rack).await;
    cap(&rack, json!([{"action": "Throttle"}, {"action": "Evict"}])).await;
    rack.eventually("evictions stand to be done, and the budget forbids them", async |rack| {
        let status = rack.policy("inference").await.status.unwrap_or_default();
        let pending = status.pending_actions.iter().any(|pending| pending.action == Action::Evict);
        pending && says(rack).await == (Truth::True, "DisruptionForbidden".to_owned())
    })
    .await;
    rack.throughout("nobody is evicted", 15, async |rack| uids(rack, "inference").await == inference).await;

    budgets(&rack).delete("inference", &DeleteParams::default()).await.unwrap();
    // It stands there until its effect is judged.
    rack.eventually("status says which pod goes", async |rack| {
        let last = escalated(rack).await.last;
        last.is_some_and(|last| inference.contains(&last.uid) && last.action == Action::Evict)
    })
    .await;
    let first = escalated(&rack).await.last_action.unwrap().0;
    rack.eventually("one pod is gone", async |rack| inference.difference(&uids(rack, "inference").await).count() >= 1)
        .await;
    // Whoever leads next must not evict once more: the first has not had its time yet.
    for pod in rack.pods("powercap-system", "app.kubernetes.io/component=escalate").await {
        rack.kill_pod(&pod).await;
    }
    rack.throughout("no second pod goes while the first has its time", 15, async |rack| {
        let gone = inference.difference(&uids(rack, "inference").await).count();
        gone == 1 || Timestamp::now().duration_since(first) >= ITS_TIME
    })
    .await;
    assert_eq!(uids(&rack, "training").await, training, "nobody whom the policy does not select");

    rack.edit_policy("inference", json!({"powerCapLimitWatts": 4400, "escalation": null})).await;
    rack.eventually("nothing is pending any more", async |rack| {
        let status = rack.policy("inference").await.status.unwrap_or_default();
        status.pending_actions.is_empty() && says(rack).await.0 != Truth::True
    })
    .await;
}

#[tokio::test]
async fn without_the_permission_nobody_is_evicted() {
    let rack = Rack::ready().await;
    let inference = uids(&rack, "inference").await;
    cap(&rack, json!([{"action": "Throttle"}])).await;
    rack.eventually("power is above the cap at the lowest clocks", async |rack| {
        rack.policy_condition("inference", kind::FEASIBLE).await.0 == Truth::False
            && rack.policy_condition("inference", kind::WITHIN_CAP).await.0 == Truth::False
    })
    .await;
    rack.throughout("nobody is named or evicted", 15, async |rack| {
        let status = rack.policy("inference").await.status.unwrap_or_default();
        status.pending_actions.is_empty() && uids(rack, "inference").await == inference
    })
    .await;
    rack.edit_policy("inference", json!({"powerCapLimitWatts": 4400, "escalation": null})).await;
}

async fn cap(rack: &Rack, escalation: Value) {
    rack.edit_policy("inference", json!({"powerCapLimitWatts": CAP, "escalation": escalation})).await;
}

async fn escalated(rack: &Rack) -> Escalated {
    rack.policy("inference").await.status.unwrap_or_default().escalated.unwrap_or_default()
}

async fn says(rack: &Rack) -> (Truth, String) {
    rack.policy_condition("inference", kind::ESCALATING).await
}

async fn uids(rack: &Rack, app: &str) -> BTreeSet<String> {
    let pods = rack.pods("demo", &format!("app={app}")).await;
    pods.into_iter().filter_map(|pod| pod.metadata.uid).collect()
}

fn budgets(rack: &Rack) -> Api<PodDisruptionBudget> {
    Api::namespaced(rack.client.clone(), "demo")
}

/// A budget that lets no pod of the workload go.
async fn forbid(rack: &Rack) {
    let budget = json!({
        "apiVersion": "policy/v1", "kind": "PodDisruptionBudget", "metadata": {"name": "inference"},
        "spec": {"maxUnavailable": 0, "selector": {"matchLabels": {"app": "inference"}}},
    });
    let budget = serde_json::from_value(budget).unwrap();
    budgets(rack).create(&PostParams::default(), &budget).await.unwrap();
}
