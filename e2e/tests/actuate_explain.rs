//! `kubectl powercap` answers "why is my pod slow", and finds what is broken, on a real cluster.

use std::{
    path::Path,
    process::{Command, Output},
};

use serde_json::{Value, json};

use crate::rack::Rack;

#[tokio::test]
async fn a_pod_slowed_by_its_policy_is_told_the_policy_its_boards_and_the_watts_that_it_lacks() {
    let rack = Rack::ready().await;
    rack.edit_policy("training", json!({"powerCapLimitWatts": 2400})).await;
    let pod = training_pod(&rack).await;
    rack.eventually("explain names the policy and what to raise", async |_| {
        let answer = explain(&pod);
        says(&answer["summary"], "Power caps hold pod demo/training-")
            && says(&answer["why"], "powercappingpolicy/demo/training keeps its pods within 2400 W")
            && says(&answer["canDo"], "Raise spec.powerCapLimitWatts of powercappingpolicy/demo/training (now 2400 W)")
    })
    .await;
    rack.eventually("each of its four boards is asked for an equal share of the cap, by the policy", async |_| {
        let answer = explain(&pod);
        let boards = answer["boards"].as_array().unwrap();
        let set_by = json!("powercappingpolicy/demo/training");
        boards.len() == 4 && boards.iter().all(|board| board["requestedWatts"] == 300 && board["setBy"] == set_by)
    })
    .await;
    let text = text(&powercap(&["explain", "pod", &pod, "-n", "demo"]));
    assert!(
        text.contains("The ceiling serves a PowerCappingPolicy."),
        "the words of docs/reference/reasons.md: {text}"
    );
}

#[tokio::test]
async fn a_pod_slowed_by_its_rack_is_told_the_domain_and_under_the_brake_the_brake() {
    let rack = Rack::ready().await;
    for policy in ["training", "inference"] {
        rack.edit_policy(policy, json!({"powerCapLimitWatts": 8000})).await;
    }
    rack.edit_domain(json!({"powerCapLimitWatts": 8400})).await;
    let pod = training_pod(&rack).await;
    rack.eventually("explain names the domain and what to raise", async |_| {
        let answer = explain(&pod);
        says(&answer["summary"], "by powerdomain/rack")
            && says(&answer["canDo"], "Raise spec.powerCapLimitWatts of powerdomain/rack (now 8400 W)")
    })
    .await;

    rack.edit_domain(json!({"brake": "Minimum"})).await;
    rack.eventually("explain names the brake and who lets it go", async |_| {
        let answer = explain(&pod);
        says(&answer["summary"], "by the brake of powerdomain/rack")
            && says(&answer["canDo"], "Set spec.brake of the domain to None")
    })
    .await;
    rack.edit_domain(json!({"brake": "None"})).await;
}

#[tokio::test]
async fn doctor_finds_a_rack_well_and_a_prometheus_that_is_gone() {
    let rack = Rack::ready().await;
    let found = [
        "a series for each board that agents see (16)",
        "exporters are scraped every 5 s",
        "held by powercap-recommender-",
    ];
    rack.eventually(&format!("doctor finds nothing that fails, and {found:?}"), async |_| {
        let output = powercap(&["doctor"]);
        let said = text(&output);
        output.status.code() == Some(0) && found.iter().all(|found| said.contains(found))
    })
    .await;

    rack.scale("monitoring", "prometheus", 0).await;
    rack.eventually("doctor says that Prometheus does not answer, and ends with 3", async |_| {
        let output = powercap(&["doctor", "-o", "json"]);
        let findings: Value = serde_json::from_slice(&output.stdout).unwrap();
        let failed = |finding: &Value| finding["check"] == "Prometheus" && finding["verdict"] == "fail";
        output.status.code() == Some(3) && findings.as_array().unwrap().iter().any(failed)
    })
    .await;
    rack.scale("monitoring", "prometheus", 1).await;
    rack.eventually("doctor finds it again", async |_| powercap(&["doctor"]).status.code() == Some(0)).await;
}

#[tokio::test]
async fn top_shows_the_domain_both_nodes_and_every_board() {
    let rack = Rack::ready().await;
    let shown = text(&powercap(&["top"]));
    assert!(shown.lines().any(|line| line.starts_with("rack  ")), "{shown}");
    for node in rack.nodes().await {
        assert!(shown.contains(&node.spec.node_name), "{shown}");
    }
    let boards = text(&powercap(&["top", "boards"]));
    assert_eq!(boards.lines().count(), 1 + 16, "{boards}");
}

/// The name of a running pod of the training.
async fn training_pod(rack: &Rack) -> String {
    let pods = rack.pods("demo", "app=training").await;
    let runs = |pod: &k8s_openapi::api::core::v1::Pod| {
        let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
        phase == Some("Running") && pod.metadata.deletion_timestamp.is_none()
    };
    pods.iter().find(|pod| runs(pod)).expect("the training runs").metadata.name.clone().unwrap()
}

fn explain(pod: &str) -> Value {
    let output = powercap(&["explain", &format!("pod/{pod}"), "-n", "demo", "-o", "json"]);
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {}", text(&output)))
}

/// Whether these words stand anywhere in the value.
fn says(value: &Value, words: &str) -> bool {
    value.to_string().contains(words)
}

/// The command as a person calls it, in the test's own cluster.
fn powercap(arguments: &[&str]) -> Output {
    let built = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/release/kubectl-powercap");
    Command::new(built).args(arguments).output().unwrap()
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}
