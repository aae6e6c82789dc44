//! Programs that run beside the demo or the bench, which read what they write and never stand in for them.

use std::{fs::File, path::Path, process::Stdio};

use anyhow::{Context, Result};
use tokio::process::{Child, Command};

/// A program, ended with SIGTERM and waited for.
pub struct Beside {
    name: &'static str,
    child: Child,
}

impl Beside {
    /// Starts it, its log in a file.
    ///
    /// # Errors
    /// When the log cannot be made or the program not be started.
    pub fn start(name: &'static str, program: &mut Command, log: &Path) -> Result<Self> {
        let log = File::create(log).with_context(|| format!("create {}", log.display()))?;
        let child = program
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("start the {name}: {}", program.as_std().get_program().display()))?;
        Ok(Self { name, child })
    }

    /// Its process id, while it runs.
    #[must_use]
    pub fn pid(&self) -> Option<u32> {
        self.child.id()
    }

    /// Fails when the program has ended by itself.
    ///
    /// # Errors
    /// When it has.
    pub fn check(&mut self) -> Result<()> {
        match self.child.try_wait().with_context(|| format!("look at the {}", self.name))? {
            None => Ok(()),
            Some(status) => anyhow::bail!("the {} ended by itself: {status}", self.name),
        }
    }

    /// Asks it to stop and waits, so that what it writes is whole.
    ///
    /// # Errors
    /// When it cannot be told or waited for.
    pub async fn stop(mut self) -> Result<()> {
        if let Some(pid) =
            self.child.id().and_then(|id| i32::try_from(id).ok()).and_then(rustix::process::Pid::from_raw)
        {
            rustix::process::kill_process(pid, rustix::process::Signal::TERM)
                .with_context(|| format!("stop the {}", self.name))?;
        }
        self.child.wait().await.with_context(|| format!("wait for the {}", self.name))?;
        Ok(())
    }
}
