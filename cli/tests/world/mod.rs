//! A rack of two nodes under a domain, with a training and an inference workload under policies, as the
//! API server holds it: the tests bend it.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use powercap_cli::caps::Caps;
use powercap_common::{
    api::{NodeFrequencies, PowerCappingPolicy, PowerDomain},
    reason::Reason,
};
use serde_json::{Value, json};

/// The moment of every test.
pub fn now() -> Timestamp {
    "2026-11-22T14:00:00Z".parse().unwrap()
}

const EARLIER: &str = "2026-11-22T13:55:00Z";

pub fn condition(type_: &str, status: &str, reason: Reason, message: &str) -> Value {
    json!({"type": type_, "status": status, "reason": reason.as_str(), "message": message, "lastTransitionTime": EARLIER})
}

/// A board of 700 W and 1,980 MHz that `pod` holds.
pub fn board(uuid: &str, pod: &str, ceiling: Option<u32>, limit: u32, reason: Reason) -> Value {
    json!({
        "uuid": uuid, "model": "NVIDIA H100 80GB HBM3",
        "minGraphicsMegahertz": 210, "maxGraphicsMegahertz": 1980,
        "minPowerLimitWatts": 200, "maxPowerLimitWatts": 700,
        "currentGraphicsMegahertz": ceiling.unwrap_or(1980), "targetGraphicsMegahertz": ceiling,
        "powerLimitWatts": limit, "powerWatts": limit - 13,
        "tenants": [{"namespace": "demo", "name": pod}], "state": "Applied", "reason": reason.as_str(),
    })
}

/// What a board was ordered.
pub fn ordered(uuid: &str, clock: Option<u32>, limit: u32, set_by: &str) -> Value {
    let mut ceiling = json!({"uuid": uuid, "powerLimitWatts": limit, "reason": "PolicyCap", "setBy": set_by});
    if let Some(clock) = clock {
        ceiling["maxGraphicsMegahertz"] = json!(clock);
    }
    ceiling
}

pub const TRAINING: &str = "powercappingpolicy/demo/training";
/// The boards of the first node.
pub const BOARDS: [&str; 2] = ["GPU-8f3c1e2a-6d0f-4b1e-9a55-03c7a1f2e901", "GPU-1b7d90c4-22ae-4c8d-8f10-5e9b7d3a6402"];
const OTHERS: [&str; 2] = ["GPU-c20e5f77-91b3-4f6a-b7d8-6a0e4c1d8b03", "GPU-e5a8d613-07fc-4a92-a3b6-90d2f7c5e104"];

/// A node that draws close to its grant of 2,500 W, with a board of a training pod at its policy's ceiling
/// and one of an inference pod at its envelope.
pub fn node(name: &str, boards: [&str; 2], rank: u32) -> NodeFrequencies {
    serde_json::from_value(json!({
        "apiVersion": "powercapping.io/v1alpha1", "kind": "NodeFrequencies",
        "metadata": {
            "name": name, "generation": 7,
            "managedFields": [
                {"manager": "powercap-recommender", "operation": "Apply", "time": "2026-11-22T13:58:00Z"},
                {"manager": "powercap-actuator", "operation": "Apply", "subresource": "status", "time": "2026-11-22T13:59:58Z"},
            ],
        },
        "spec": {
            "nodeName": name, "epoch": {"term": 1, "sequence": 4}, "domains": ["rack"],
            "powerLimitWatts": 2500, "committedWatts": 2500,
            "offerWatts": 350, "requestedWatts": 1050, "committedOfferWatts": 1400, "nodeOverhead": {"staticWatts": 1300, "percent": 8},
            "gpuFrequencies": [ordered(boards[0], Some(1410), 525, TRAINING)],
            "lease": {"durationSeconds": 60, "onExpiry": "Hold"},
        },
        "status": {
            "conditions": [
                condition("Ready", "True", Reason::Enforcing, "every order is carried out"),
                condition("LeaseCurrent", "True", Reason::LeaseRenewed, "the recommender's Lease is seen to be renewed"),
            ],
            "acknowledged": {"epoch": {"term": 1, "sequence": 4}, "powerLimitWatts": 2500},
            "powerWatts": 2440, "envelopeWatts": 1111, "gpuCount": 2, "lowestTargetMegahertz": 1305,
            "gpus": [
                board(boards[0], &format!("training-{rank}"), Some(1410), 525, Reason::PolicyCap),
                board(boards[1], &format!("inference-{rank}"), Some(1305), 480, Reason::EnvelopeReached),
            ],
            "heartbeatTime": "2026-11-22T13:59:58Z", "observedGeneration": 7,
        },
    }))
    .unwrap()
}

pub fn training() -> PowerCappingPolicy {
    serde_json::from_value(json!({
        "apiVersion": "powercapping.io/v1alpha1", "kind": "PowerCappingPolicy",
        "metadata": {"namespace": "demo", "name": "training"},
        "spec": {"powerCapLimitWatts": 1050, "mode": "Enforce", "selector": {"matchLabels": {"app": "training"}}},
        "status": {
            "conditions": [
                condition("Ready", "True", Reason::Enforcing, "pods (2) are kept within 1050 W"),
                condition("DataFresh", "True", Reason::DataFresh, "recent readings of every device (2) of the pods (2)"),
                condition("CapTriggered", "True", Reason::ThresholdCrossed, "1024 W: reached 997 W and not fallen below 892 W since; ceiling 1410 MHz"),
            ],
            "currentPowerWatts": 1024, "matchedPods": 2, "matchedDevices": 2,
            "recommendedMaxMegahertz": 1410, "recommendedDeviceWatts": 525,
        },
    }))
    .unwrap()
}

pub fn domain(name: &str, cap: u32) -> PowerDomain {
    serde_json::from_value(json!({
        "apiVersion": "powercapping.io/v1alpha1", "kind": "PowerDomain", "metadata": {"name": name},
        "spec": {"powerCapLimitWatts": cap, "nodeSelector": {"matchLabels": {"rack": "r1"}}},
        "status": {
            "conditions": [
                condition("Ready", "True", Reason::GrantsFit, "5000 W committed of 5000 W for nodes"),
                condition("WithinCap", "True", Reason::PowerBelowCap, "4880 W (unmanaged included) is within the cap of 5000 W"),
            ],
            "currentPowerWatts": 4880, "committedWatts": 5000, "headroomWatts": 0, "nodes": 2,
        },
    }))
    .unwrap()
}

/// The rack.
pub fn rack() -> Caps {
    Caps {
        nodes: vec![node("rack-1", BOARDS, 0), node("rack-2", OTHERS, 1)],
        policies: vec![training()],
        domains: vec![domain("rack", 5000)],
        unread: Vec::new(),
    }
}

/// A pod that asks for one board.
pub fn pod(name: &str, app: &str, phase: &str, on: Option<&str>) -> Pod {
    let mut pod: Pod = serde_json::from_value(json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"namespace": "demo", "name": name, "labels": {"app": app}},
        "spec": {"containers": [{"name": "c", "resources": {"limits": {"nvidia.com/gpu": "1"}}}]},
        "status": {"phase": phase},
    }))
    .unwrap();
    pod.spec.as_mut().unwrap().node_name = on.map(str::to_owned);
    pod
}

/// The page for people shows this very text as an example.
pub fn stands_on_the_page(text: &str) {
    let page = include_str!("../../../docs/kubectl-powercap.md");
    assert!(page.contains(text), "docs/kubectl-powercap.md shows something else than:\n{text}");
}
