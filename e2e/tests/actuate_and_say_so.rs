//! What a node agent does can be seen where people look: whose its boards are, what they can do, and
//! events on the Node.

use std::collections::BTreeSet;

use k8s_openapi::api::{core::v1::Pod, events::v1::Event};
use kube::{Api, api::ListParams};
use powercap_common::api::{Capability, GpuStatus};
use serde_json::json;

use crate::rack::Rack;

#[tokio::test]
async fn a_boards_tenants_are_the_pods_that_really_hold_it() {
    let rack = Rack::ready().await;
    rack.eventually("each pod of the demo holds as many boards as it asked for", async |rack| {
        let boards = boards(rack).await;
        let pods = pods_with_boards(rack).await;
        !pods.is_empty()
            && pods.iter().all(|(name, asked)| boards.iter().filter(|board| holds(board, name)).count() == *asked)
            && boards.iter().all(|board| board.tenants.is_some())
    })
    .await;

    let (victim, _) = pods_with_boards(&rack).await.into_iter().next().unwrap();
    let namespaced = Api::<Pod>::namespaced(rack.client.clone(), "demo");
    rack.kill_pod(&namespaced.get(&victim).await.unwrap()).await;
    rack.eventually("a pod that is gone holds nothing, and its successor is known", async |rack| {
        let boards = boards(rack).await;
        let pods = pods_with_boards(rack).await;
        let recreated = pods.iter().any(|(name, _)| *name == victim);
        (recreated || !boards.iter().any(|board| holds(board, &victim)))
            && pods.iter().all(|(name, asked)| boards.iter().filter(|board| holds(board, name)).count() == *asked)
    })
    .await;
}

#[tokio::test]
async fn what_a_board_can_do_is_in_its_status() {
    let rack = Rack::ready().await;
    let can = [Capability::ClockRange, Capability::PowerLimit, Capability::InstantaneousPower];
    rack.eventually("every board says so", async |rack| {
        let boards = boards(rack).await;
        boards.len() == 16 && boards.iter().all(|board| board.capabilities == can)
    })
    .await;
}

#[tokio::test]
async fn a_cut_is_an_event_on_each_node_and_not_one_for_each_board() {
    let rack = Rack::ready().await;
    rack.edit_domain(json!({"powerCapLimitWatts": 7200})).await;
    let capped = ["DomainCap", "PolicyCap", "EnvelopeReached", "GroupFollows"];
    rack.eventually("each node has an event that its boards are capped", async |rack| {
        let events = events(rack).await;
        let told: BTreeSet<_> = events
            .iter()
            .filter(|event| capped.contains(&event.reason.as_deref().unwrap_or_default()))
            .filter_map(|event| event.regarding.as_ref()?.name.clone())
            .collect();
        told.len() == 2
    })
    .await;
    rack.eventually("boards that were capped together are one event", async |rack| {
        events(rack).await.iter().any(|event| {
            let boards = event.note.as_deref().unwrap_or_default().matches("GPU-").count();
            boards > 1 && capped.contains(&event.reason.as_deref().unwrap_or_default())
        })
    })
    .await;
    let events = events(&rack).await;
    assert!(events.iter().all(|event| event.note.as_ref().is_some_and(|note| !note.is_empty())));
    assert!(events.len() <= 2 * 20, "{} events on two nodes", events.len());
}

async fn boards(rack: &Rack) -> Vec<GpuStatus> {
    rack.nodes().await.into_iter().filter_map(|node| node.status).flat_map(|status| status.gpus).collect()
}

fn holds(board: &GpuStatus, pod: &str) -> bool {
    board.tenants.iter().flatten().any(|tenant| tenant.namespace == "demo" && tenant.name == pod)
}

/// The demo's running pods and how many boards each asked for.
async fn pods_with_boards(rack: &Rack) -> Vec<(String, usize)> {
    let pods = Api::<Pod>::namespaced(rack.client.clone(), "demo").list(&ListParams::default()).await.unwrap();
    let running = pods.items.into_iter().filter(|pod| {
        let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
        phase == Some("Running") && pod.metadata.deletion_timestamp.is_none()
    });
    let asked = |pod: &Pod| -> usize {
        let containers = &pod.spec.as_ref().unwrap().containers;
        let limits = containers.iter().filter_map(|container| container.resources.as_ref()?.limits.as_ref());
        limits.filter_map(|limits| limits.get("nvidia.com/gpu")?.0.parse::<usize>().ok()).sum()
    };
    running.map(|pod| (pod.metadata.name.clone().unwrap(), asked(&pod))).filter(|(_, asked)| *asked > 0).collect()
}

/// Our events on Nodes.
async fn events(rack: &Rack) -> Vec<Event> {
    let all = Api::<Event>::namespaced(rack.client.clone(), "default").list(&ListParams::default()).await.unwrap();
    let ours = |event: &Event| event.reporting_controller.as_deref() == Some("powercapping.io/actuator");
    all.items.into_iter().filter(ours).collect()
}
