//! KEDA's real operator and adapter ask the recommender how many replicas a cap has watts for: load up, replicas up;
//! cap down, replicas down, and down they stay while the load does; cap up, they return.

use std::path::{Path, PathBuf};

use k8s_openapi::api::{apps::v1::Deployment, core::v1::Service};
use kube::Api;
use powercap_e2e::{beside::Beside, deployment};
use serde_json::{Value, json};
use tokio::process::Command;

use crate::rack::Rack;

/// All the replicas that there are boards for.
const MOST: i32 = 8;
/// Watts for all of them at full load, and for a few.
const AMPLE: u32 = 8000;
const SCARCE: u32 = 2000;
/// Of a busy replica at most: no fewer replicas than this fit a scarce cap.
const FEW: std::ops::RangeInclusive<i32> = 1..=5;

#[tokio::test]
async fn keda_keeps_to_the_replicas_that_the_cap_has_watts_for() {
    let rack = Rack::ready().await;
    // The policy alone binds here.
    rack.edit_domain(json!({"powerCapLimitWatts": 25_000})).await;
    rack.edit_policy("inference", json!({"powerCapLimitWatts": AMPLE, "powerScope": "Devices"})).await;
    let rate = target("rate");
    std::fs::write(&rate, "0.2").unwrap();
    let clients = clients(&rack, &rate).await;
    let mut keda = crate::keda::Keda::start(&rack.client).await;
    let object = scaled_object(&rack).await.to_string();
    deployment::kubectl(&["apply", "--server-side", "-f", "-"], Some(&object)).await.unwrap();
    rack.eventually("without load two replicas stay", async |rack| replicas(rack).await == 2).await;

    std::fs::write(&rate, "60").unwrap();
    rack.eventually("under load all of them run", async |rack| {
        replicas(rack).await == MOST && ready(rack).await == MOST
    })
    .await;
    keda.check();

    rack.edit_policy("inference", json!({"powerCapLimitWatts": SCARCE})).await;
    rack.eventually("as many as the cap has watts for", async |rack| FEW.contains(&replicas(rack).await)).await;
    rack.throughout("and no more, for all their load", 40, async |rack| FEW.contains(&replicas(rack).await)).await;

    rack.edit_policy("inference", json!({"powerCapLimitWatts": AMPLE})).await;
    rack.eventually("with the watts they return", async |rack| replicas(rack).await == MOST).await;

    keda.check();
    deployment::kubectl(&["delete", "--namespace=demo", "scaledobject", "inference"], None).await.unwrap();
    keda.stop().await;
    clients.stop().await.unwrap();
}

async fn workload(rack: &Rack) -> Deployment {
    Api::namespaced(rack.client.clone(), "demo").get("inference").await.unwrap()
}

async fn replicas(rack: &Rack) -> i32 {
    workload(rack).await.spec.unwrap().replicas.unwrap()
}

async fn ready(rack: &Rack) -> i32 {
    workload(rack).await.status.unwrap().ready_replicas.unwrap_or(0)
}

/// As `manifests/components/keda/example.yaml` has it, for the rack's Deployment, and in less of a hurry to wait.
async fn scaled_object(rack: &Rack) -> Value {
    let prometheus = crate::keda::address_of(&rack.client, "monitoring", "prometheus").await;
    let scaler = crate::keda::address_of(&rack.client, "powercap-system", "powercap-scaler").await;
    let requests = r#"sum(vllm:num_requests_running{job="inference"} + vllm:num_requests_waiting{job="inference"})"#;
    json!({
        "apiVersion": "keda.sh/v1alpha1", "kind": "ScaledObject",
        "metadata": {"name": "inference", "namespace": "demo"},
        "spec": {
            "scaleTargetRef": {"name": "inference"},
            "minReplicaCount": 2, "maxReplicaCount": MOST, "pollingInterval": 5,
            "advanced": {
                "scalingModifiers": {
                    "formula": "min(requests / 10, budget)", "target": "1", "metricType": "AverageValue",
                },
                "horizontalPodAutoscalerConfig": {"behavior": {"scaleDown": {"stabilizationWindowSeconds": 0}}},
            },
            "triggers": [
                {
                    "name": "requests", "type": "prometheus",
                    "metadata": {
                        "serverAddress": format!("http://{prometheus}:9090"), "query": requests, "threshold": "10",
                    },
                },
                {
                    "name": "budget", "type": "external",
                    "metadata": {"scalerAddress": format!("{scaler}:9090"), "policy": "inference"},
                },
            ],
        },
    })
}

/// Clients that send real requests, at the rate that the file says.
async fn clients(rack: &Rack, rate: &Path) -> Beside {
    let service = Api::<Service>::namespaced(rack.client.clone(), "demo").get("inference").await.unwrap();
    let server = format!("http://{}:8000", service.spec.unwrap().cluster_ip.unwrap());
    let simulator = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/release/powercap-simulator");
    let mut command = Command::new(simulator);
    command.args(["traffic", "--target", &server, "--control"]).arg(rate);
    command.args(["--prompt-tokens", "1536", "--max-tokens", "320"]);
    Beside::start("clients", &mut command, &target("clients.log")).unwrap()
}

fn target(name: &str) -> PathBuf {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/e2e");
    std::fs::create_dir_all(&folder).unwrap();
    folder.join(name)
}
