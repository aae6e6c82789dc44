//! Each component of the manifests does what it says to what is deployed, and a real API server takes the result: for
//! kinds of others by the definitions that their makers publish.

use std::{
    fs,
    io::Write,
    path::Path,
    process::{Command, Stdio},
};

use k8s_openapi::api::{
    admissionregistration::v1::MutatingWebhookConfiguration,
    apps::v1::{DaemonSet, Deployment},
    core::v1::{Container, PodSpec, Service},
};

use crate::definitions::{CERT_MANAGER, Definitions, KEDA, PROMETHEUS_OPERATOR};

const LIBRARY: &str = "--nvml-library=/run/nvidia/driver/usr/lib/x86_64-linux-gnu/libnvidia-ml.so.1";

#[test]
fn by_itself_the_agent_may_write_the_cpus_folder_and_its_journal_alone() {
    let agent = agent_with(&[]);
    assert_eq!(writable(&agent), ["/host/cpu", "/var/lib/powercap"]);
    assert_eq!(agent.pod.runtime_class_name, None);
    assert_eq!(agent.environment("NVIDIA_VISIBLE_DEVICES"), Some("all"));
    let folders: Vec<_> = agent.pod.volumes.iter().flatten().filter_map(|volume| volume.host_path.as_ref()).collect();
    assert!(folders.iter().all(|folder| folder.path != "/sys"), "all of /sys has the cgroups in it");
    let security = agent.node.security_context.as_ref().unwrap();
    let capabilities = security.capabilities.clone().unwrap();
    assert_eq!((capabilities.drop.unwrap(), capabilities.add.unwrap()), (vec!["ALL".into()], vec!["SYS_ADMIN".into()]));
    assert_eq!(security.privileged, None);
    assert_eq!(security.allow_privilege_escalation, Some(false));
    assert_eq!(security.seccomp_profile.as_ref().unwrap().type_, "RuntimeDefault");
}

#[test]
fn cpufreq_only_narrows_what_it_may_write_to_cpufreq() {
    assert_eq!(writable(&agent_with(&["cpufreq-only"])), ["/host/cpu/cpufreq", "/var/lib/powercap"]);
}

#[test]
fn gpu_operator_takes_its_runtime_and_the_library_of_the_present_driver() {
    let agent = agent_with(&["gpu-operator"]);
    assert_eq!(agent.pod.runtime_class_name.as_deref(), Some("nvidia"));
    assert_eq!(agent.environment("NVIDIA_VISIBLE_DEVICES"), Some("all"));
    assert!(agent.node.args.as_ref().unwrap().contains(&LIBRARY.to_owned()));
    let mounts = agent.node.volume_mounts.as_ref().unwrap();
    let driver = mounts.iter().find(|mount| mount.mount_path == "/run/nvidia").unwrap();
    assert_eq!(driver.mount_propagation.as_deref(), Some("HostToContainer"), "or the next driver never comes through");
    assert_eq!(writable(&agent), ["/host/cpu", "/var/lib/powercap"]);
}

#[test]
fn gpu_operator_cdi_asks_by_annotation_and_claims_no_board() {
    let agent = agent_with(&["gpu-operator-cdi"]);
    assert_eq!(agent.annotation("nvidia.cdi.k8s.io/container.node"), Some("management.nvidia.com/gpu=all"));
    assert_eq!(agent.environment("NVIDIA_VISIBLE_DEVICES"), None, "two ways to ask would get two answers");
    assert_eq!(agent.environment("NVIDIA_DRIVER_CAPABILITIES"), None);
    assert_eq!(agent.environment("NODE_NAME"), Some(""));
    assert_eq!(agent.pod.runtime_class_name, None);
    let limits = agent.node.resources.clone().unwrap().limits.unwrap();
    assert!(limits.keys().all(|resource| resource == "memory"), "{limits:?}");
}

#[test]
fn components_go_together() {
    let agent = agent_with(&["cpufreq-only", "gpu-operator"]);
    assert_eq!(writable(&agent), ["/host/cpu/cpufreq", "/var/lib/powercap"]);
    assert!(agent.node.args.as_ref().unwrap().contains(&LIBRARY.to_owned()));
}

#[test]
fn cert_manager_gets_what_it_needs_and_admission_loses_what_it_no_longer_needs() {
    let documents = built("admission", "cert-manager");
    taken_by(&CERT_MANAGER, "cert-manager.io/v1", &documents, 4);
    let admission: Deployment = only("Deployment", &documents);
    let pod = admission.spec.unwrap().template.spec.unwrap();
    let variables = pod.containers[0].env.as_ref().unwrap();
    let from = variables.iter().find(|variable| variable.name == "CERTIFICATES_FROM").unwrap();
    let mounts = pod.containers[0].volume_mounts.as_ref().unwrap();
    let mount = mounts.iter().find(|mount| Some(&mount.mount_path) == from.value.as_ref()).unwrap();
    assert_eq!(mount.read_only, Some(true));
    let registration: MutatingWebhookConfiguration = only("MutatingWebhookConfiguration", &documents);
    let annotations = registration.metadata.annotations.unwrap();
    assert_eq!(annotations["cert-manager.io/inject-ca-from"], "powercap-system/powercap-admission");
    assert!(!documents.iter().any(|document| document.contains("powercap-admission-certs")), "no right on Secrets");
}

#[test]
fn the_prometheus_operator_takes_a_monitor_for_each_of_our_roles() {
    let documents = built("recommender", "prometheus-operator");
    taken_by(&PROMETHEUS_OPERATOR, "monitoring.coreos.com/v1", &documents, 4);
}

#[test]
fn keda_finds_the_scaler_where_its_example_looks_for_it() {
    let documents = built("recommender", "keda");
    let scaler: Vec<_> =
        documents.iter().filter(|document| document.contains("name: powercap-scaler\n")).cloned().collect();
    let service: Service = only("Service", &scaler);
    let recommender: Deployment = only("Deployment", &documents);
    let pod = recommender.spec.unwrap().template.spec.unwrap();
    assert!(pod.containers[0].args.as_ref().unwrap().contains(&"--scaler-listen=0.0.0.0:9090".to_owned()));
    let port = service.spec.unwrap().ports.unwrap().remove(0);
    let named = |port: &&k8s_openapi::api::core::v1::ContainerPort| port.name.as_deref() == Some("scaler");
    assert_eq!(pod.containers[0].ports.iter().flatten().find(named).unwrap().container_port, 9090);

    let example = fs::read_to_string(manifest("components/keda/example.yaml")).unwrap();
    let metadata = service.metadata;
    let address = format!("{}.{}.svc:{}", metadata.name.unwrap(), metadata.namespace.unwrap(), port.port);
    assert!(example.contains(&format!("scalerAddress: {address}\n")), "{address}");
    taken_by(&KEDA, "keda.sh/v1alpha1", &[example.replace("namespace: llm", "namespace: default")], 1);
}

/// The API server knows the kinds, and takes as many objects of them.
fn taken_by(definitions: &Definitions, version: &str, documents: &[String], expected: usize) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(definitions.define());
    kubectl(&["apply", "--server-side", "--force-conflicts", "-f", &manifest("base/namespaces.yaml")], "");
    let written = format!("apiVersion: {version}\n");
    let objects: Vec<_> = documents.iter().filter(|document| document.contains(&written)).cloned().collect();
    assert_eq!(objects.len(), expected, "{objects:?}");
    let strict = ["apply", "--server-side", "--dry-run=server", "--validate=strict", "-f", "-"];
    kubectl(&strict, &objects.join("\n---\n"));
}

/// The one object of this kind.
fn only<T: serde::de::DeserializeOwned>(kind: &str, documents: &[String]) -> T {
    let line = format!("\nkind: {kind}\n");
    let mut of_kind = documents.iter().filter(|document| document.contains(&line));
    let object = of_kind.next().unwrap_or_else(|| panic!("no {kind}"));
    assert!(of_kind.next().is_none(), "more than one {kind}");
    serde_saphyr::from_str(object).unwrap()
}

/// A part of the base with one component, as documents.
fn built(base: &str, component: &str) -> Vec<String> {
    let paths = [format!("../components/{component}")];
    build(base, &paths).split("\n---\n").map(str::to_owned).collect()
}

fn manifest(path: &str) -> String {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../manifests").join(path).display().to_string()
}

/// The node agent as it would be deployed.
struct Agent {
    pod: PodSpec,
    node: Container,
    annotations: Vec<(String, String)>,
}

impl Agent {
    fn environment(&self, name: &str) -> Option<&str> {
        let variable = self.node.env.as_ref()?.iter().find(|variable| variable.name == name)?;
        Some(variable.value.as_deref().unwrap_or_default())
    }

    fn annotation(&self, name: &str) -> Option<&str> {
        self.annotations.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }
}

/// Where the agent may write on its host.
fn writable(agent: &Agent) -> Vec<&str> {
    let mounts = agent.node.volume_mounts.iter().flatten();
    let mut paths: Vec<_> =
        mounts.filter(|mount| mount.read_only != Some(true)).map(|mount| mount.mount_path.as_str()).collect();
    paths.sort_unstable();
    paths
}

/// Builds a part of the base with components, as an administrator's overlay would.
fn build(base: &str, components: &[String]) -> String {
    let manifests = Path::new(&manifest("")).canonicalize().unwrap();
    let folder = tempfile::Builder::new().prefix("overlay-").tempdir_in(&manifests).unwrap();
    let overlay = format!(
        "apiVersion: kustomize.config.k8s.io/v1beta1\nkind: Kustomization\nresources: [../base/{base}]\ncomponents: {components:?}\n"
    );
    fs::write(folder.path().join("kustomization.yaml"), overlay).unwrap();
    kubectl(&["kustomize", folder.path().to_str().unwrap()], "")
}

/// Builds it for the agents, and asks the API server about the result.
fn agent_with(components: &[&str]) -> Agent {
    let paths: Vec<_> = components.iter().map(|component| format!("../components/{component}")).collect();
    let yaml = build("actuator", &paths);
    let document = yaml.split("\n---\n").find(|document| document.contains("kind: DaemonSet")).unwrap();
    // Elsewhere than the agents that run: the fields of those are somebody's.
    let elsewhere = document.replace("namespace: powercap-node", "namespace: default");
    kubectl(&["apply", "--server-side", "--dry-run=server", "-f", "-"], &elsewhere);
    let agents: DaemonSet = serde_saphyr::from_str(document).unwrap();
    let template = agents.spec.unwrap().template;
    let pod = template.spec.unwrap();
    let node = pod.containers.iter().find(|container| container.name == "node").unwrap().clone();
    let annotations = template.metadata.and_then(|metadata| metadata.annotations).unwrap_or_default();
    Agent { pod, node, annotations: annotations.into_iter().collect() }
}

fn kubectl(arguments: &[&str], input: &str) -> String {
    let mut command = Command::new("kubectl");
    command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "kubectl {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}
