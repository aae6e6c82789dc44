//! Deploys as a person would, with kubectl, and waits until everything runs: what the demo and the
//! tests share.

use std::{
    path::{Path, PathBuf},
    process::Stdio,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use k8s_openapi::api::{
    apps::v1::DaemonSet,
    core::v1::{Node, Pod},
};
use kube::{Api, Client, api::ListParams};
use serde::Deserialize;
use tokio::{io::AsyncWriteExt, process::Command};

/// How long a deployment may take before the demo gives up and says what is missing.
const PATIENCE: Duration = Duration::from_secs(300);

/// What must be known to the API server before objects of our kinds can be applied.
const DEFINITIONS: [&str; 3] =
    ["powercappingpolicies.powercapping.io", "powerdomains.powercapping.io", "nodefrequencies.powercapping.io"];

/// Where the manifests are, and what to leave out of them.
pub struct Deployment {
    /// The folder `manifests`.
    pub manifests: PathBuf,
    /// Objects whose `app.kubernetes.io/component` begins with one of these are left out: the negative control.
    pub without: Vec<String>,
}

impl Deployment {
    /// `kubectl apply -k` of the CRDs, then of the demo overlay. What a demo or a test edited before is put
    /// back to the manifests.
    pub async fn apply(&self) -> Result<()> {
        self.define().await?;
        if self.without.is_empty() {
            kubectl(&["apply", "--server-side", "--force-conflicts", "-k", &self.path("overlays/demo")], None).await?;
            return Ok(());
        }
        let everything = kubectl(&["kustomize", &self.path("overlays/demo")], None).await?;
        kubectl(
            &["apply", "--server-side", "--force-conflicts", "-f", "-"],
            Some(&leave_out(&everything, &self.without)),
        )
        .await?;
        Ok(())
    }

    /// `kubectl apply -k` of the CRDs alone: enough for a component that runs outside the cluster.
    pub async fn define(&self) -> Result<()> {
        kubectl(&["apply", "--server-side", "--force-conflicts", "-k", &self.path("crds")], None).await?;
        wait_until_established(&DEFINITIONS).await
    }

    /// `kubectl apply -k` of a folder beside these.
    pub async fn apply_folder(&self, below: &str) -> Result<()> {
        kubectl(&["apply", "--server-side", "--force-conflicts", "-k", &self.path(below)], None).await?;
        Ok(())
    }

    fn path(&self, below: &str) -> String {
        Path::new(&self.manifests).join(below).display().to_string()
    }
}

/// The documents whose component is not left out.
fn leave_out(yaml: &str, without: &[String]) -> String {
    let stays = |document: &&str| {
        let component = serde_saphyr::from_str::<Labelled>(document)
            .ok()
            .and_then(|object| object.metadata.labels?.component)
            .unwrap_or_default();
        !without.iter().any(|left_out| component.starts_with(left_out.as_str()))
    };
    yaml.split("\n---\n").filter(stays).collect::<Vec<_>>().join("\n---\n")
}

#[derive(Deserialize)]
struct Labelled {
    metadata: Metadata,
}

#[derive(Deserialize)]
struct Metadata {
    labels: Option<Labels>,
}

#[derive(Deserialize)]
struct Labels {
    #[serde(rename = "app.kubernetes.io/component")]
    component: Option<String>,
}

/// Runs kubectl, as a person would, and hands back what it prints.
///
/// # Errors
/// When it cannot be started or fails: what it said.
pub async fn kubectl(arguments: &[&str], input: Option<&str>) -> Result<String> {
    let mut child = Command::new("kubectl")
        .args(arguments)
        .stdin(if input.is_some() { Stdio::piped() } else { Stdio::null() })
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .context("start kubectl; the demo runs inside `cluster run`, which puts it on PATH")?;
    if let (Some(mut pipe), Some(text)) = (child.stdin.take(), input) {
        pipe.write_all(text.as_bytes()).await.context("hand manifests to kubectl")?;
    }
    let output = child.wait_with_output().await.context("wait for kubectl")?;
    if !output.status.success() {
        bail!("kubectl {} failed: {}", arguments.join(" "), String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Waits until the API server serves what these definitions define. `kubectl wait` ends with an error where one was
/// applied so lately that it has no conditions.
///
/// # Errors
/// When kubectl fails, or a definition is not established after five minutes.
pub async fn wait_until_established(definitions: &[&str]) -> Result<()> {
    let begun = Instant::now();
    for definition in definitions {
        let get = ["get", "crd", definition, "--output=json"];
        while !is_established(&kubectl(&get, None).await?) {
            if begun.elapsed() > PATIENCE {
                bail!("after {} s {definition} is still not established", PATIENCE.as_secs());
            }
            tokio::time::sleep(Duration::from_millis(250)).await;
        }
    }
    Ok(())
}

fn is_established(definition: &str) -> bool {
    let definition: serde_json::Value = serde_json::from_str(definition).unwrap_or_default();
    let conditions = definition["status"]["conditions"].as_array();
    conditions.into_iter().flatten().any(|said| said["type"] == "Established" && said["status"] == "True")
}

/// Waits until every node offers its boards and every pod is Ready, saying now and then what is missing.
pub async fn wait_until_running(client: &Client, mut say: impl FnMut(&str)) -> Result<()> {
    let begun = Instant::now();
    let mut said = String::new();
    loop {
        let missing = missing(client).await?;
        if missing.is_empty() {
            return Ok(());
        }
        let text = format!("waiting for {}", missing.join(", "));
        if begun.elapsed() > PATIENCE {
            bail!("after {} s still {text}; the cluster's logs say why", PATIENCE.as_secs());
        }
        if text != said {
            say(&text);
            said = text;
        }
        tokio::time::sleep(Duration::from_millis(250)).await;
    }
}

async fn missing(client: &Client) -> Result<Vec<String>> {
    let everything = ListParams::default();
    let (nodes, pods) = (Api::<Node>::all(client.clone()), Api::<Pod>::all(client.clone()));
    let sets = Api::<DaemonSet>::all(client.clone());
    let (nodes, pods, sets) = tokio::try_join!(nodes.list(&everything), pods.list(&everything), sets.list(&everything))
        .context("list nodes, pods and DaemonSets")?;
    let mut missing: Vec<_> = nodes
        .items
        .iter()
        .filter(|node| !has_boards(node))
        .map(|node| format!("boards of {}", name(&node.metadata)))
        .collect();
    missing.extend(
        sets.items
            .iter()
            .filter(|set| !has_its_pods(set))
            .map(|set| format!("the pods of DaemonSet {}", name(&set.metadata))),
    );
    let unready: Vec<_> = pods.items.iter().filter(|pod| !is_ready(pod)).collect();
    match unready.as_slice() {
        [] if pods.items.is_empty() => missing.push("the first pods".to_owned()),
        [] => {}
        [first, rest @ ..] => {
            missing.push(format!("{} of {} pods (first {})", rest.len() + 1, pods.items.len(), name(&first.metadata)));
        }
    }
    Ok(missing)
}

fn name(metadata: &kube::api::ObjectMeta) -> &str {
    metadata.name.as_deref().unwrap_or("?")
}

fn has_boards(node: &Node) -> bool {
    node.status
        .as_ref()
        .and_then(|status| status.allocatable.as_ref()?.get("nvidia.com/gpu"))
        .is_some_and(|count| count.0 != "0")
}

/// Whether its controller has seen what it is now, and made a pod of that for each node.
fn has_its_pods(set: &DaemonSet) -> bool {
    set.status.as_ref().is_some_and(|status| {
        status.observed_generation == set.metadata.generation
            && status.updated_number_scheduled.unwrap_or_default() == status.desired_number_scheduled
    })
}

/// One that ends is still there, and may hold a board or a node's place.
fn is_ready(pod: &Pod) -> bool {
    let conditions = pod.status.as_ref().and_then(|status| status.conditions.as_ref());
    let ready =
        conditions.into_iter().flatten().any(|condition| condition.type_ == "Ready" && condition.status == "True");
    ready && pod.metadata.deletion_timestamp.is_none()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_negative_control_leaves_out_one_component_alone() {
        let yaml = "kind: A\nmetadata:\n  name: a\n---\nkind: B\nmetadata:\n  labels:\n    app.kubernetes.io/component: actuator-node\n---\nkind: C\nmetadata:\n  labels:\n    app.kubernetes.io/component: recommender\n";
        let left = leave_out(yaml, &["actuator".to_owned()]);
        assert!(left.contains("kind: A") && left.contains("kind: C"));
        assert!(!left.contains("kind: B"), "{left}");
    }
    #[test]
    fn a_definition_without_conditions_is_not_established_yet() {
        for (conditions, established) in [
            ("null", false),
            ("[]", false),
            (r#"[{"type": "Established", "status": "False"}]"#, false),
            (r#"[{"type": "NamesAccepted", "status": "True"}, {"type": "Established", "status": "True"}]"#, true),
        ] {
            let definition = format!(r#"{{"status": {{"conditions": {conditions}}}}}"#);
            assert_eq!(is_established(&definition), established, "{conditions}");
        }
    }
}
