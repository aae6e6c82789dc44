//! KServe's own controller, built from its Go module by `make e2e`, as a process beside the cluster's other programs.
//!
//! It runs in Standard mode: Knative, Istio and a gateway are not there. Its webhooks judge and complete each
//! InferenceService; that of pods, which fetches models, is left out.

use std::{
    net::{Ipv4Addr, TcpStream},
    path::Path,
    time::{Duration, Instant},
};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use powercap_e2e::{beside::Beside, cluster::pki::Authority, deployment};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::process::Command;

use crate::definitions;

/// Where the API server calls its webhooks.
const PORT: u16 = 19443;
/// Where it looks for the certificate, in the folder for temporary files.
const CERTIFICATES: &str = "k8s-webhook-server/serving-certs";
/// Between two looks whether it listens, for so long.
const LOOK: Duration = Duration::from_millis(100);
const PATIENCE: Duration = Duration::from_secs(300);

/// The controller, which ends with this.
pub struct Kserve {
    manager: Beside,
    _temporary: TempDir,
}

impl Kserve {
    /// Defines its kinds, starts it, and puts its webhooks before them.
    pub async fn start() -> Self {
        for definitions in [definitions::KSERVE, definitions::KSERVE_LLM] {
            definitions.define().await;
        }
        let authority = Authority::new("kserve").unwrap();
        let temporary = tempfile::tempdir().unwrap();
        let certificates = temporary.path().join(CERTIFICATES);
        std::fs::create_dir_all(&certificates).unwrap();
        let identity = authority.server("kserve", &[], &[Ipv4Addr::LOCALHOST.into()]).unwrap();
        identity.write(&certificates, "tls").unwrap();
        apply(&json!({"apiVersion": "v1", "kind": "List", "items": configuration()})).await;
        let mut manager = start(temporary.path());
        listens(&mut manager).await;
        let authority = BASE64_STANDARD.encode(authority.identity().certificate);
        apply(&json!({"apiVersion": "v1", "kind": "List", "items": webhooks(&authority)})).await;
        Self { manager, _temporary: temporary }
    }

    /// Fails when it has ended.
    pub fn check(&mut self) {
        self.manager.check().unwrap();
    }

    /// Ends it, with its webhooks. An InferenceService that is still there cannot be deleted after.
    pub async fn stop(self) {
        for kind in ["mutatingwebhookconfiguration", "validatingwebhookconfiguration"] {
            deployment::kubectl(&["delete", kind, "inferenceservice.serving.kserve.io"], None).await.unwrap();
        }
        self.manager.stop().await.unwrap();
    }
}

/// Its namespace and its configuration, which keeps our annotation of originals from what it makes.
fn configuration() -> [Value; 2] {
    let text = |value: Value| value.to_string();
    let quantities =
        ["memoryRequest", "memoryLimit", "cpuRequest", "cpuLimit"].map(|name| (name.to_owned(), json!("1")));
    [
        json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "kserve"}}),
        json!({
            "apiVersion": "v1", "kind": "ConfigMap",
            "metadata": {"name": "inferenceservice-config", "namespace": "kserve"},
            "data": {
                "deploy": text(json!({"defaultDeploymentMode": "Standard"})),
                "ingress": text(json!({
                    "ingressGateway": "none/none", "disableIstioVirtualHost": true, "disableIngressCreation": true,
                })),
                "inferenceService": text(json!({"serviceAnnotationDisallowedList": ["powercapping.io/escalated"]})),
                "storageInitializer": text(quantities.into_iter().collect()),
            },
        }),
    ]
}

fn webhooks(authority: &str) -> [Value; 2] {
    [
        ("MutatingWebhookConfiguration", "mutate", "defaulter"),
        ("ValidatingWebhookConfiguration", "validate", "validator"),
    ]
    .map(|(kind, verb, name)| {
        let url = format!("https://127.0.0.1:{PORT}/{verb}-serving-kserve-io-v1beta1-inferenceservice");
        json!({
            "apiVersion": "admissionregistration.k8s.io/v1", "kind": kind,
            "metadata": {"name": "inferenceservice.serving.kserve.io"},
            "webhooks": [{
                "name": format!("inferenceservice.kserve-webhook-server.{name}"),
                "admissionReviewVersions": ["v1"], "sideEffects": "None",
                "clientConfig": {"url": url, "caBundle": authority},
                "rules": [{
                    "apiGroups": ["serving.kserve.io"], "apiVersions": ["v1beta1"],
                    "operations": ["CREATE", "UPDATE"], "resources": ["inferenceservices"],
                }],
            }],
        })
    })
}

async fn apply(objects: &Value) {
    deployment::kubectl(&["apply", "--server-side", "-f", "-"], Some(&objects.to_string())).await.unwrap();
}

fn start(temporary: &Path) -> Beside {
    let folder =
        std::env::var("POWERCAP_KSERVE").expect("POWERCAP_KSERVE: `make e2e` builds KServe and says where it is");
    let logs = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/e2e");
    std::fs::create_dir_all(&logs).unwrap();
    let mut command = Command::new(Path::new(&folder).join("manager"));
    command.args(["--metrics-addr=0", "--health-probe-addr=0"]).arg(format!("--webhook-port={PORT}"));
    command.env("POD_NAMESPACE", "kserve").env("TMPDIR", temporary);
    Beside::start("KServe", &mut command, &logs.join("kserve-manager.log")).unwrap()
}

async fn listens(manager: &mut Beside) {
    let begun = Instant::now();
    while TcpStream::connect((Ipv4Addr::LOCALHOST, PORT)).is_err() {
        manager.check().unwrap();
        assert!(begun.elapsed() < PATIENCE, "KServe's webhooks do not listen: target/e2e/kserve-manager.log");
        tokio::time::sleep(LOOK).await;
    }
}
