//! Each component of the manifests does to the agents what it says, and a real API server takes the result.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test's helpers fail it")]

use std::{
    fs,
    io::Write,
    path::Path,
    process::{Command, Stdio},
};

use k8s_openapi::api::{
    apps::v1::DaemonSet,
    core::v1::{Container, PodSpec},
};

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

/// Builds base and components as an administrator's overlay would, and asks the API server about the result.
fn agent_with(components: &[&str]) -> Agent {
    let manifests = Path::new(env!("CARGO_MANIFEST_DIR")).join("../manifests").canonicalize().unwrap();
    let folder = tempfile::Builder::new().prefix("overlay-").tempdir_in(&manifests).unwrap();
    let paths: Vec<_> = components.iter().map(|component| format!("../components/{component}")).collect();
    let overlay = format!(
        "apiVersion: kustomize.config.k8s.io/v1beta1\nkind: Kustomization\nresources: [../base/actuator]\ncomponents: {paths:?}\n"
    );
    fs::write(folder.path().join("kustomization.yaml"), overlay).unwrap();
    let yaml = kubectl(&["kustomize", folder.path().to_str().unwrap()], "");
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
