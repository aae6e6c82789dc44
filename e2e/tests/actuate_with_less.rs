//! What the node agent is given, and what it does with less: it says what is missing and holds the rest.

use k8s_openapi::api::apps::v1::DaemonSet;
use kube::{
    Api,
    api::{Patch, PatchParams},
};
use powercap_common::{
    api::{DeviceState, NodeFrequencies},
    condition::{Truth, kind, truth},
};
use serde_json::{Value, json};

use crate::rack::{
    Rack,
    process::{agents, field},
};

/// The bit of CAP_SYS_ADMIN, which the kernel shows in hexadecimal masks.
const SYS_ADMIN: u64 = 1 << 21;

#[tokio::test]
async fn an_agent_holds_one_capability_and_cannot_get_more() {
    let rack = Rack::ready().await;
    rack.eventually("two agents run", async |_| agents().len() == 2).await;
    for status in agents() {
        for set in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
            let mask = u64::from_str_radix(field(&status, set), 16).unwrap();
            assert_eq!(mask & !SYS_ADMIN, 0, "{set} of {status}");
        }
        assert_eq!(field(&status, "NoNewPrivs"), "1");
        assert_eq!(field(&status, "Seccomp"), "2", "the runtime's filter");
    }
}

#[tokio::test]
async fn without_the_capability_boards_are_reported_and_cpus_are_held() {
    let rack = Rack::ready().await;
    run_agents_with(&rack, json!({"securityContext": {"capabilities": {"add": []}}})).await;
    rack.edit_domain(json!({"powerCapLimitWatts": 7200})).await;
    rack.eventually("every board says PermissionDenied, and so does its node", async |rack| {
        rack.nodes().await.iter().all(|node| {
            let status = node.status.clone().unwrap_or_default();
            let denied = |gpu: &powercap_common::api::GpuStatus| {
                gpu.state == DeviceState::Failed && gpu.reason == "PermissionDenied"
            };
            status.gpus.len() == 8
                && status.gpus.iter().all(denied)
                && ready(node) == (Truth::False, "PermissionDenied")
        })
    })
    .await;
    rack.eventually("the CPUs are held all the same", async |rack| rack.cpus_are_slowed().await).await;
    let nobody_says_it_holds = async |rack: &Rack| {
        let acknowledged = |node: &NodeFrequencies| node.status.as_ref().unwrap().acknowledged.map(|held| held.epoch);
        rack.nodes().await.iter().all(|node| acknowledged(node) != Some(node.spec.epoch))
    };
    rack.eventually("the cut is ordered, and no node says that it holds", nobody_says_it_holds).await;
    rack.throughout("what does not hold is not acknowledged", 3, nobody_says_it_holds).await;
    put_back(rack).await;
}

#[tokio::test]
async fn with_cpufreq_read_only_the_cpus_are_reported_and_boards_are_held() {
    let rack = Rack::ready().await;
    run_agents_with(
        &rack,
        json!({"volumeMounts": [{"name": "cpu", "mountPath": "/host/cpu/cpufreq", "readOnly": true}]}),
    )
    .await;
    rack.edit_domain(json!({"powerCapLimitWatts": 7200})).await;
    rack.eventually("every policy says PermissionDenied, and so does its node", async |rack| {
        rack.nodes().await.iter().all(|node| {
            let cpus = node.status.iter().flat_map(|status| &status.cpus);
            cpus.clone().count() > 0
                && cpus.clone().all(|cpu| cpu.state == DeviceState::Failed && cpu.reason == "PermissionDenied")
                && ready(node) == (Truth::False, "PermissionDenied")
        })
    })
    .await;
    rack.eventually("the boards keep the cap by themselves", async |rack| rack.true_watts() <= 7200.0).await;
    put_back(rack).await;
}

#[tokio::test]
async fn without_the_cpufreq_folder_the_agent_starts_and_says_so() {
    let rack = Rack::ready().await;
    let gone = json!({"volumeMounts": [{"$patch": "delete", "mountPath": "/host/cpu/cpufreq"}]});
    run_agents_with(&rack, gone).await;
    rack.edit_domain(json!({"powerCapLimitWatts": 7200})).await;
    rack.eventually("no node has CPUs to hold, and its message says so", async |rack| {
        rack.nodes().await.iter().all(|node| {
            let status = node.status.clone().unwrap_or_default();
            let says = |condition: &&k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition| {
                condition.type_ == kind::READY && condition.message.contains("no cpufreq policy is seen")
            };
            status.cpus.is_empty() && status.conditions.iter().find(says).is_some()
        })
    })
    .await;
    rack.eventually("the boards keep the cap", async |rack| {
        rack.true_watts() <= 7200.0 && rack.all_hold_within(7200).await
    })
    .await;
    put_back(rack).await;
}

fn ready(node: &NodeFrequencies) -> (Truth, &str) {
    let conditions = node.status.as_ref().map(|status| status.conditions.as_slice()).unwrap_or_default();
    let reason = conditions.iter().find(|condition| condition.type_ == kind::READY);
    (truth(conditions, kind::READY), reason.map_or("", |condition| condition.reason.as_str()))
}

/// Changes the agents' container, as somebody with an editor would, and waits until no other agent runs: one of
/// before would carry out and acknowledge what the test asks of its successor.
async fn run_agents_with(rack: &Rack, mut container: Value) {
    let pids = || agents().iter().map(|status| field(status, "Pid").to_owned()).collect::<Vec<_>>();
    let before = pids();
    container["name"] = json!("node");
    let template = json!({"spec": {"containers": [container]}});
    // All at once: a rollout that waits for readiness would wait for an agent that is not to be ready.
    let rollout = json!({"rollingUpdate": {"maxUnavailable": "100%"}});
    let patch = json!({"spec": {"template": template, "updateStrategy": rollout}});
    Api::<DaemonSet>::namespaced(rack.client.clone(), "powercap-node")
        .patch("powercap-actuator-node", &PatchParams::default(), &Patch::Strategic(patch))
        .await
        .unwrap();
    rack.eventually("the agents are replaced", async |_| {
        let now = pids();
        now.len() == 2 && now.iter().all(|pid| !before.contains(pid))
    })
    .await;
}

/// The agents as the manifests have them, before anybody else looks at them.
async fn put_back(_changed: Rack) {
    let rack = Rack::ready().await;
    rack.eventually("every agent runs by the manifests again", async |rack| {
        let agents = Api::<DaemonSet>::namespaced(rack.client.clone(), "powercap-node");
        let agents = agents.get("powercap-actuator-node").await.unwrap();
        let status = agents.status.unwrap_or_default();
        status.observed_generation == agents.metadata.generation
            && status.updated_number_scheduled == Some(status.desired_number_scheduled)
            && status.number_available == Some(status.desired_number_scheduled)
    })
    .await;
}
