//! KEDA's own operator and metrics adapter, built from its Go module by `make e2e`, as processes beside the cluster's
//! other programs: they reach Services by address, since only pods ask the cluster's DNS.

use std::{net::Ipv4Addr, path::Path};

use k8s_openapi::api::{core::v1::Service, discovery::v1::EndpointSlice};
use kube::{Api, Client};
use powercap_e2e::{beside::Beside, cluster::pki::Authority, deployment};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::process::Command;

use crate::definitions;

/// Where the adapter listens, on the control plane's address, and the operator for the adapter.
const ADAPTER_PORT: u16 = 16443;
const OPERATOR_PORT: u16 = 19666;
const ADAPTER_NAME: &str = "keda-metrics-apiserver.keda.svc";
const OPERATOR_NAME: &str = "keda-operator.keda.svc.cluster.local";

/// The two programs, which end with this.
pub struct Keda {
    operator: Beside,
    adapter: Beside,
    _certificates: TempDir,
}

impl Keda {
    /// Defines its kinds, starts it, and puts its adapter behind the API of external metrics.
    pub async fn start(client: &Client) -> Self {
        let authority = Authority::new("keda").unwrap();
        let certificates = tempfile::tempdir().unwrap();
        let pki = certificates.path();
        authority.identity().write(pki, "ca").unwrap();
        authority.peer("keda", &[ADAPTER_NAME, OPERATOR_NAME]).unwrap().write(pki, "tls").unwrap();

        definitions::KEDA.define().await;
        let objects = json!({"apiVersion": "v1", "kind": "List", "items": objects(client, &authority).await});
        deployment::kubectl(&["apply", "--server-side", "-f", "-"], Some(&objects.to_string())).await.unwrap();

        let pki = pki.display();
        let operator = start(
            "operator",
            &[
                "--zap-log-level=info".to_owned(),
                "--metrics-bind-address=0".to_owned(),
                "--health-probe-bind-address=0".to_owned(),
                format!("--metrics-service-bind-address=127.0.0.1:{OPERATOR_PORT}"),
                format!("--cert-dir={pki}"),
            ],
        );
        let kubeconfig = std::env::var("KUBECONFIG").unwrap();
        let adapter = start(
            "adapter",
            &[
                "--port=18080".to_owned(),
                format!("--secure-port={ADAPTER_PORT}"),
                format!("--metrics-service-address=127.0.0.1:{OPERATOR_PORT}"),
                format!("--metrics-service-grpc-authority={OPERATOR_NAME}"),
                format!("--cert-dir={pki}"),
                format!("--tls-cert-file={pki}/tls.crt"),
                format!("--tls-private-key-file={pki}/tls.key"),
                format!("--lister-kubeconfig={kubeconfig}"),
                format!("--authentication-kubeconfig={kubeconfig}"),
                format!("--authorization-kubeconfig={kubeconfig}"),
            ],
        );
        Self { operator, adapter, _certificates: certificates }
    }

    /// Fails when one of them has ended.
    pub fn check(&mut self) {
        self.operator.check().unwrap();
        self.adapter.check().unwrap();
    }

    pub async fn stop(self) {
        self.adapter.stop().await.unwrap();
        self.operator.stop().await.unwrap();
        deployment::kubectl(&["delete", "apiservice", "v1beta1.external.metrics.k8s.io"], None).await.unwrap();
    }
}

/// The address of a Service.
pub async fn address_of(client: &Client, namespace: &str, service: &str) -> String {
    let service = Api::<Service>::namespaced(client.clone(), namespace).get(service).await.unwrap();
    service.spec.unwrap().cluster_ip.unwrap()
}

/// Its namespace, its place among the API server's groups, and the right of the HPA controller to ask there.
async fn objects(client: &Client, authority: &Authority) -> Vec<Value> {
    use base64::Engine as _;
    let slices = Api::<EndpointSlice>::namespaced(client.clone(), "default");
    let address: Ipv4Addr = slices.get("kubernetes").await.unwrap().endpoints[0].addresses[0].parse().unwrap();
    let bundle = base64::prelude::BASE64_STANDARD.encode(authority.identity().certificate);
    let named = |namespace: Option<&str>, name: &str| json!({"name": name, "namespace": namespace});
    let reader = "keda-external-metrics-reader";
    vec![
        json!({"apiVersion": "v1", "kind": "Namespace", "metadata": named(None, "keda")}),
        json!({
            "apiVersion": "v1", "kind": "Service", "metadata": named(Some("keda"), "keda-metrics-apiserver"),
            "spec": {"ports": [{"name": "https", "port": 443, "targetPort": ADAPTER_PORT}]},
        }),
        json!({
            "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
            "metadata": {
                "name": "keda-metrics-apiserver", "namespace": "keda",
                "labels": {"kubernetes.io/service-name": "keda-metrics-apiserver"},
            },
            "addressType": "IPv4",
            "endpoints": [{"addresses": [address], "conditions": {"ready": true}}],
            "ports": [{"name": "https", "port": ADAPTER_PORT, "protocol": "TCP"}],
        }),
        json!({
            "apiVersion": "apiregistration.k8s.io/v1", "kind": "APIService",
            "metadata": named(None, "v1beta1.external.metrics.k8s.io"),
            "spec": {
                "group": "external.metrics.k8s.io", "version": "v1beta1",
                "groupPriorityMinimum": 100, "versionPriority": 100,
                "caBundle": bundle,
                "service": {"name": "keda-metrics-apiserver", "namespace": "keda", "port": 443},
            },
        }),
        json!({
            "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole", "metadata": named(None, reader),
            "rules": [{"apiGroups": ["external.metrics.k8s.io"], "resources": ["*"], "verbs": ["*"]}],
        }),
        json!({
            "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding", "metadata": named(None, reader),
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": reader},
            "subjects": [{
                "kind": "ServiceAccount", "name": "horizontal-pod-autoscaler", "namespace": "kube-system",
            }],
        }),
    ]
}

fn start(name: &'static str, arguments: &[String]) -> Beside {
    let folder = std::env::var("POWERCAP_KEDA").expect("POWERCAP_KEDA: `make e2e` builds KEDA and says where it is");
    let logs = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/e2e");
    std::fs::create_dir_all(&logs).unwrap();
    let mut command = Command::new(Path::new(&folder).join(name));
    command.args(arguments).env("POD_NAMESPACE", "keda").env("WATCH_NAMESPACE", "");
    command.env("KEDA_CLUSTER_OBJECT_NAMESPACE", "keda");
    Beside::start(name, &mut command, &logs.join(format!("keda-{name}.log"))).unwrap()
}
