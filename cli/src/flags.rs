//! The command line.

use std::{path::PathBuf, time::Duration};

use clap::{Args, Parser, Subcommand};

/// What people do with power caps beside editing them.
///
/// Called `kubectl-powercap` and on the PATH, it is `kubectl powercap`.
#[derive(Debug, Parser)]
#[command(name = "kubectl-powercap", bin_name = "kubectl powercap", version)]
pub struct Flags {
    /// Which cluster.
    #[command(flatten)]
    pub target: TargetFlags,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// Which cluster.
#[derive(Args, Clone, Debug, Default)]
pub struct TargetFlags {
    /// The kubeconfig; by default KUBECONFIG, else ~/.kube/config, as kubectl has it.
    #[arg(long, global = true, value_name = "FILE")]
    pub kubeconfig: Option<PathBuf>,
    /// The kubeconfig's context; by default its current one.
    #[arg(long, global = true, value_name = "NAME")]
    pub context: Option<String>,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Take every ceiling off nodes, in steps of some seconds, and put their devices back as they were.
    ///
    /// A cap that still names a node no longer holds on it, until its release is taken back:
    /// `kubectl patch nodefrequencies NODE --type=merge -p '{"spec":{"release":false}}'`. To take a cap
    /// away for good, delete the PowerDomain or PowerCappingPolicy instead.
    ///
    /// Ends with 0 when the nodes were asked (with --wait: when each of them has let go), with 3 when some
    /// have not let go in time: they are named, and their limits stand in the hardware.
    Release(ReleaseFlags),
}

/// Which nodes are released, and how long that is waited for.
#[derive(Args, Clone, Debug)]
pub struct ReleaseFlags {
    /// The nodes.
    #[arg(value_name = "NODE", required_unless_present = "all", conflicts_with = "all")]
    pub nodes: Vec<String>,
    /// Every node that has NodeFrequencies.
    #[arg(long)]
    pub all: bool,
    /// Wait until each node's agent says Released. A node whose agent does not answer is named after 30 s
    /// and no longer waited for.
    #[arg(long)]
    pub wait: bool,
    /// The longest wait, in seconds (1 to 86,400).
    #[arg(long = "timeout-seconds", visible_alias = "timeout", default_value_t = 120, value_parser = clap::value_parser!(u64).range(1..=86_400), value_name = "SECONDS")]
    pub timeout_seconds: u64,
    /// Don't ask. Needed where there is no terminal to ask at.
    #[arg(long, short)]
    pub yes: bool,
}

impl ReleaseFlags {
    /// The longest wait.
    #[must_use]
    pub const fn timeout(&self) -> Duration {
        Duration::from_secs(self.timeout_seconds)
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Flags::command().debug_assert();
    }

    #[test]
    fn release_wants_names_or_all_and_not_both() {
        let parse = |words: &[&str]| Flags::try_parse_from(["kubectl-powercap", "release"].iter().chain(words));
        assert!(parse(&[]).is_err());
        assert!(parse(&["n1", "--all"]).is_err());
        assert!(parse(&["n1", "n2", "--wait"]).is_ok());
        assert!(parse(&["--all", "--wait", "--timeout", "5", "--context", "c"]).is_ok());
        assert!(parse(&["--all", "--timeout-seconds", "0"]).is_err());
    }
}
