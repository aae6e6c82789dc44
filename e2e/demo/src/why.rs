//! Asks why a pod is slow, as the person who owns it would.

use std::{path::Path, time::Duration};

use anyhow::{Context, Result, ensure};
use tokio::{process::Command, time::timeout};

/// A person waits no longer, nor does the play.
const PATIENCE: Duration = Duration::from_secs(10);

/// What a person types.
pub(crate) fn question(pod: &str) -> String {
    format!("kubectl powercap explain pod/{pod} -n demo")
}

/// What the command answers.
///
/// # Errors
/// When it cannot be run, takes too long, or fails.
pub(crate) async fn answer(command: &Path, pod: &str) -> Result<String> {
    let mut explain = Command::new(command);
    explain.args(["explain", &format!("pod/{pod}"), "-n", "demo"]).kill_on_drop(true);
    let output = timeout(PATIENCE, explain.output()).await.context("wait for explain")?;
    let output = output.with_context(|| format!("run {}", command.display()))?;
    ensure!(output.status.success(), "{}: {}", question(pod), String::from_utf8_lossy(&output.stderr));
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
