//! Admission refuses what no rule of one object alone can see, and says at once what works in another way than it seems.

use std::{
    io::Write,
    process::{Command, Stdio},
};

use crate::rack::Rack;

#[tokio::test]
async fn every_bad_object_is_refused_with_its_mend() {
    let rack = Rack::ready().await;
    let files = crate::refused::each_is_refused_with_its_mend(&rack.client, "tests/bad_objects").await;
    assert!(files >= 7, "the table of bad objects is in tests/bad_objects");
}

#[tokio::test]
async fn what_works_in_another_way_than_it_seems_is_let_in_with_a_warning() {
    let rack = Rack::ready().await;
    let policy = |spec: &str| {
        format!(
            "apiVersion: powercapping.io/v1alpha1\nkind: PowerCappingPolicy\n\
             metadata: {{name: warned, namespace: default}}\nspec: {spec}\n"
        )
    };
    let domain = |spec: &str| {
        format!("apiVersion: powercapping.io/v1alpha1\nkind: PowerDomain\nmetadata: {{name: warned}}\nspec: {spec}\n")
    };
    for (manifest, says) in [
        (
            policy("{powerCapLimitWatts: 1000, selector: {matchLabels: {app: x}}}"),
            "namespace default has not opted in to admission",
        ),
        (
            policy("{powerCapLimitWatts: 1000, targetRef: {apiVersion: apps/v1, kind: Deployment, name: nobody}}"),
            "spec.targetRef names Deployment nobody (apps/v1), which does not exist yet",
        ),
        (
            domain("{powerCapLimitWatts: 9000, nodeSelector: {matchLabels: {rack: nowhere}}}"),
            "spec.nodeSelector matches no node yet",
        ),
        (
            domain(
                "{powerCapLimitWatts: 99000, parentRef: {name: rack}, nodeSelector: {matchLabels: {rack: nowhere}}}",
            ),
            "spec.powerCapLimitWatts (99000) is above that of rack (11500)",
        ),
        (
            domain(
                "{powerCapLimitWatts: 100, nodeSelector: {matchExpressions: [{key: kubernetes.io/os, operator: Exists}]}}",
            ),
            "spec.powerCapLimitWatts (100) is below about",
        ),
    ] {
        // Admission that is late says nothing.
        rack.eventually(&format!("«{says}» is said of\n{manifest}"), async |_| {
            let said = dry_run(&manifest);
            said.contains("Warning: ") && said.contains(says)
        })
        .await;
    }
}

/// What kubectl says of a manifest that it does not store.
fn dry_run(manifest: &str) -> String {
    let mut command = Command::new("kubectl");
    command.args(["apply", "--server-side", "--dry-run=server", "-f", "-"]);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(manifest.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{manifest}\n{said}");
    said
}
