//! The command line.

use std::{path::PathBuf, time::Duration};

use clap::{Args, Parser, Subcommand, ValueEnum};

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
    /// Say why a pod, a node, a policy or a domain runs as it does: who holds it back, and what can be done.
    ///
    /// `pod/NAME` (-n NAMESPACE) says of each board that the pod holds its clock and power, what was asked of
    /// it and what holds, whose cap that is (a policy's ceiling, a domain's grant, a brake, a lease that ran
    /// out) and which number to raise by how much. `node/NAME`, `powercappingpolicy/NAME` (`pcp`) and
    /// `powerdomain/NAME` (`pd`) likewise. The reasons are those of the conditions, explained in
    /// docs/reference/reasons.md.
    Explain(ExplainFlags),
    /// Show power against caps, the tightest first: domains, nodes, policies, boards.
    ///
    /// What is not known is `-`, never zero. Columns of boards: clock now, ceiling held, ceiling asked for, the
    /// most that it can do, all in MHz; then the same of power in W.
    Top(TopFlags),
    /// Look whether everything is there and alive, and say what mends what is not.
    ///
    /// The API server, the definitions, rights (yours and the components'), the recommender and its Lease, admission's
    /// and escalation's Leases, the webhooks, namespaces that did not opt in, node agents and their reports, boards, domains, policies; Prometheus, whether its series are there, recent,
    /// measured often enough, and labelled with nodes and boards of this cluster. It changes nothing.
    ///
    /// Ends with 0 when nothing failed, with 3 when something did.
    Doctor(DoctorFlags),
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

/// What is explained.
#[derive(Args, Clone, Debug)]
pub struct ExplainFlags {
    /// TYPE/NAME or TYPE NAME: a pod, node, powercappingpolicy (pcp) or powerdomain (pd). A NAME alone is a
    /// pod's.
    #[arg(value_name = "TYPE/NAME", required = true, num_args = 1..=2)]
    pub subject: Vec<String>,
    /// The namespace of the pod or policy; by default the context's.
    #[arg(long, short, value_name = "NAMESPACE")]
    pub namespace: Option<String>,
    /// For people or for machines.
    #[arg(long, short, value_enum, default_value_t)]
    pub output: Output,
}

/// What is shown.
#[derive(Args, Clone, Debug)]
pub struct TopFlags {
    /// One table only; boards are shown when they are asked for.
    #[arg(value_enum, value_name = "WHAT")]
    pub what: Option<What>,
    /// Look again every 2 seconds, until it is stopped.
    #[arg(long, short)]
    pub watch: bool,
    /// For people or for machines (with --watch: one line each time).
    #[arg(long, short, value_enum, default_value_t)]
    pub output: Output,
}

/// Where things are that are looked at.
#[derive(Args, Clone, Debug)]
pub struct DoctorFlags {
    /// Prometheus; by default the recommender's own --prometheus-url. A Service of the cluster
    /// (NAME.NAMESPACE.svc) is asked through the API server, which takes the right to get services/proxy;
    /// any other address from this machine.
    #[arg(long, value_name = "URL")]
    pub prometheus_url: Option<String>,
    /// The namespace of the recommender.
    #[arg(long, value_name = "NAMESPACE", default_value = "powercap-system")]
    pub system_namespace: String,
    /// The namespace of the node agents.
    #[arg(long, value_name = "NAMESPACE", default_value = "powercap-node")]
    pub node_namespace: String,
    /// For people or for machines.
    #[arg(long, short, value_enum, default_value_t)]
    pub output: Output,
}

/// A table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum What {
    /// Caps at meters.
    #[value(alias = "domain", alias = "pd")]
    Domains,
    /// Grants of nodes.
    #[value(alias = "node", alias = "nf")]
    Nodes,
    /// Caps of pods.
    #[value(alias = "policy", alias = "pcp")]
    Policies,
    /// Each GPU.
    #[value(alias = "board", alias = "gpus")]
    Boards,
}

/// How an answer is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// Sentences and tables.
    #[default]
    Text,
    /// JSON, in the same words.
    Json,
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
    fn what_is_explained_is_one_or_two_words() {
        let parse = |words: &[&str]| Flags::try_parse_from(["kubectl-powercap", "explain"].iter().chain(words));
        assert!(parse(&["pod/a", "-n", "demo", "-o", "json"]).is_ok());
        assert!(parse(&["pod", "a"]).is_ok());
        assert!(parse(&[]).is_err());
        assert!(parse(&["pod", "a", "b"]).is_err());
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
