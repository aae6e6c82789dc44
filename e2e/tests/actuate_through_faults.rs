//! Faults of the thread: nothing is uncapped by them, a condition says what is wrong, and it heals.

use powercap_common::condition::{Truth, kind};
use serde_json::json;

use crate::rack::Rack;

#[tokio::test]
async fn a_killed_agent_uncaps_nothing_and_its_successor_takes_over() {
    let rack = Rack::ready().await;
    rack.edit_domain(json!({"powerCapLimitWatts": 7200})).await;
    rack.eventually("true power is below 7,200 W", async |rack| rack.true_watts() <= 7200.0).await;
    rack.eventually("both nodes hold", async |rack| rack.all_hold_within(7200).await).await;

    let agents = rack.pods("powercap-node", "app.kubernetes.io/component=actuator-node").await;
    assert_eq!(agents.len(), 2);
    rack.run_agents(false).await;
    for agent in &agents {
        rack.kill_pod(agent).await;
    }
    rack.throughout("true power stays below 7,200 W without agents", 10, async |rack| rack.true_watts() <= 7200.0)
        .await;
    rack.eventually("the domain says that its agents are silent", async |rack| {
        let conditions = rack.domain().await.status.unwrap_or_default().conditions;
        conditions.iter().any(|condition| condition.type_ == kind::READY && condition.reason == "AgentSilent")
    })
    .await;
    assert!(rack.true_watts() <= 7200.0);

    rack.run_agents(true).await;
    rack.edit_domain(json!({"powerCapLimitWatts": 6900})).await;
    rack.eventually("the next agents keep a lower cap", async |rack| {
        rack.true_watts() <= 6900.0 && rack.all_hold_within(6900).await
    })
    .await;
}

#[tokio::test]
async fn without_prometheus_ceilings_stay_and_a_condition_says_so() {
    let rack = Rack::ready().await;
    rack.edit_domain(json!({"powerCapLimitWatts": 7600})).await;
    rack.edit_policy("training", json!({"powerCapLimitWatts": 3200})).await;
    rack.eventually("the policy is carried out", async |rack| {
        rack.policy_condition("training", kind::WITHIN_CAP).await.0 == Truth::True && rack.all_hold_within(7600).await
    })
    .await;

    rack.scale("monitoring", "prometheus", 0).await;
    rack.eventually("both policies say that their data is stale", async |rack| {
        rack.policy_condition("training", kind::DATA_FRESH).await.0 == Truth::False
            && rack.policy_condition("inference", kind::DATA_FRESH).await.0 == Truth::False
    })
    .await;
    // Of the policies: the domain's watts go on to follow what the nodes' own agents say.
    let ceilings = async |rack: &Rack| {
        let nodes = rack.nodes().await;
        nodes.iter().map(|node| node.spec.gpu_frequencies.clone()).collect::<Vec<_>>()
    };
    let before = ceilings(&rack).await;
    rack.throughout("no ceiling changes, and the cap holds", 10, async |rack| {
        ceilings(rack).await == before
            && rack.granted().await.is_some_and(|granted| granted <= 7600)
            && rack.true_watts() <= 7600.0
    })
    .await;
    // A cap of a domain needs no telemetry.
    rack.edit_domain(json!({"powerCapLimitWatts": 7000})).await;
    rack.eventually("the domain's edit is carried out all the same", async |rack| {
        rack.true_watts() <= 7000.0 && rack.all_hold_within(7000).await
    })
    .await;

    rack.scale("monitoring", "prometheus", 1).await;
    rack.eventually("the data is fresh again", async |rack| {
        rack.policy_condition("training", kind::DATA_FRESH).await.0 == Truth::True
    })
    .await;
}

#[tokio::test]
async fn a_recommender_that_restarts_raises_nothing() {
    let rack = Rack::ready().await;
    rack.edit_domain(json!({"powerCapLimitWatts": 7200})).await;
    rack.eventually("both nodes hold", async |rack| rack.true_watts() <= 7200.0 && rack.all_hold_within(7200).await)
        .await;
    let terms = async |rack: &Rack| rack.nodes().await.iter().map(|node| node.spec.epoch.term).max();
    let term = terms(&rack).await;
    for pod in rack.pods("powercap-system", "app.kubernetes.io/component=recommender").await {
        rack.kill_pod(&pod).await;
    }
    rack.throughout("neither grants nor true power exceed 7,200 W", 10, async |rack| {
        rack.granted().await.is_some_and(|granted| granted <= 7200) && rack.true_watts() <= 7200.0
    })
    .await;
    rack.edit_domain(json!({"powerCapLimitWatts": 6900})).await;
    rack.eventually("its successor decides, under a term of its own", async |rack| {
        rack.true_watts() <= 6900.0 && terms(rack).await > term
    })
    .await;
}
