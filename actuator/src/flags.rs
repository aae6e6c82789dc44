//! The command line.

use std::{ffi::OsString, net::SocketAddr, path::PathBuf, time::Duration};

use clap::{Args, Parser, Subcommand};
use powercap_process::LogFormat;

use crate::escalate::observation::Limits;

/// Applies NodeFrequencies: keeps each node inside the watts it was granted.
#[derive(Debug, Parser)]
#[command(version, about)]
pub struct Flags {
    /// How log lines are written; what is logged is set by RUST_LOG (default: info).
    #[arg(long, value_enum, default_value_t, global = true)]
    pub log_format: LogFormat,
    /// What this process does.
    #[command(subcommand)]
    pub role: Role,
}

/// What a process does.
#[derive(Debug, Subcommand)]
pub enum Role {
    /// Runs on every node: applies its NodeFrequencies to the boards and CPUs, keeps the node inside its
    /// grant ten times a second, and reports what really holds. At its end every ceiling stays in force.
    Node(NodeFlags),
    /// Does to workloads what policies permit when lower clocks cannot keep a cap, as the recommender lists it,
    /// and undoes it when it can be. Several may run: one leads, by a Lease.
    Escalate(EscalateFlags),
    /// Does nothing until it is told to stop: what runs in a placeholder, which holds a pod's place on a node.
    #[command(hide = true)]
    HoldPlace,
    /// Checks on this node what the agent relies on: what boards and CPUs tell, how fast, and, with
    /// --write, whether they keep to ceilings. The same checks run against the simulation. Exits with 0
    /// when all passed, 1 when one failed, 2 when they could not be run.
    Conformance(ConformanceFlags),
}

/// The node role.
#[derive(Args, Clone, Debug)]
pub struct NodeFlags {
    /// The node this runs on: the name of its NodeFrequencies.
    #[arg(long, env = "NODE_NAME")]
    pub node_name: String,
    /// The NVML library: a file name for the linker to find, or a path. Where there is none, the node
    /// counts as one without boards, and it is looked for again every 30 s.
    #[arg(long, default_value = "libnvidia-ml.so.1", value_name = "FILE")]
    pub nvml_library: OsString,
    /// Where the kernel shows cpufreq policies.
    #[arg(long, default_value = "/sys/devices/system/cpu/cpufreq", value_name = "FOLDER")]
    pub cpufreq_root: PathBuf,
    /// Where the kernel shows RAPL energy counters.
    #[arg(long, default_value = "/sys/class/powercap", value_name = "FOLDER")]
    pub powercap_root: PathBuf,
    /// Where the kernel shows PCI devices: without NVML, NVIDIA's boards there are known to draw power.
    #[arg(long, default_value = "/sys/bus/pci/devices", value_name = "FOLDER")]
    pub pci_root: PathBuf,
    /// Where the devices' original settings are kept, so that a release after a restart can put them
    /// back. Beside it lies the lock that lets one agent at a time act on the node.
    #[arg(long, default_value = "/var/lib/powercap/journal", value_name = "FILE")]
    pub journal: PathBuf,
    /// The namespace of the recommender's leader Lease, whose renewals are its sign of life.
    #[arg(long, default_value = "powercap-system", value_name = "NAMESPACE")]
    pub lease_namespace: String,
    /// The name of that Lease.
    #[arg(long, default_value = "powercap-recommender", value_name = "NAME")]
    pub lease_name: String,
    /// The kubelet's PodResources socket, which tells whose pods hold which boards. Where nobody answers
    /// there, the status names no tenants.
    #[arg(long, default_value = powercap_kubelet::POD_RESOURCES_SOCKET, value_name = "FILE")]
    pub pod_resources_socket: PathBuf,
    /// Time from one decision to the next, in milliseconds (20 to 1000). CPUs are sampled as often, boards
    /// once or twice.
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u64).range(20..=1000), value_name = "MILLISECONDS")]
    pub loop_period_ms: u64,
    /// Where /livez, /readyz and /metrics are served.
    #[arg(long, default_value = "0.0.0.0:8081", value_name = "ADDRESS:PORT")]
    pub listen: SocketAddr,
}

/// The escalate role.
#[derive(Args, Clone, Debug)]
pub struct EscalateFlags {
    /// The namespace of our Lease, and of those of the recommender and of admission, without whose signs of life
    /// nothing is done.
    #[arg(long, value_name = "NAMESPACE", env = "POD_NAMESPACE", default_value = "powercap-system")]
    pub lease_namespace: String,
    /// The name under which this process holds the Lease; it must be its own alone.
    #[arg(long, value_name = "NAME", env = "POD_NAME", default_value = "powercap-escalate")]
    pub identity: String,
    /// How long a step is given to bring power down before the next (5 to 3600). After a step that did not, twice
    /// as long, and so on; after three no more is done.
    #[arg(long, default_value_t = 30, value_parser = clap::value_parser!(u64).range(5..=3600), value_name = "SECONDS")]
    pub settle_seconds: u64,
    /// How long a workload is left alone after one of its pods began (0 to 86400).
    #[arg(long, default_value_t = 60, value_parser = clap::value_parser!(u64).range(0..=86_400), value_name = "SECONDS")]
    pub cool_down_seconds: u64,
    /// A workload with fewer replicas loses none. Of more it loses one at a time.
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u8).range(1..), value_name = "PODS")]
    pub minimum_replicas: u8,
    /// The most pods and Jobs that may be taken at once for one policy, each of another workload and counted as a step
    /// of its own; never more than bring power under the cap (1 to 32).
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=32), value_name = "STEPS")]
    pub most_for_a_policy: u8,
    /// The most steps that may await their effect at once in one namespace.
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u8).range(1..), value_name = "STEPS")]
    pub most_in_a_namespace: u8,
    /// The most steps that may await their effect at once for the cap of one domain.
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u8).range(1..), value_name = "STEPS")]
    pub most_for_a_domain: u8,
    /// The most steps that may await their effect at once in the cluster.
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u8).range(1..), value_name = "STEPS")]
    pub most_in_all: u8,
    /// Evict pods whose watts are stale too, so that they come back with the right ones: slowly, and only while
    /// nothing else is to be done.
    #[arg(long)]
    pub recreate_stale: bool,
    /// Where /livez, /readyz and /metrics are served.
    #[arg(long, default_value = "0.0.0.0:8082", value_name = "ADDRESS:PORT")]
    pub listen: SocketAddr,
}

/// The conformance suite.
#[derive(Args, Clone, Debug)]
pub struct ConformanceFlags {
    /// List the checks and why each matters, and do nothing else.
    #[arg(long)]
    pub list: bool,
    /// Also write: range locks and limits on each board in turn, and one CPU ceiling. No limit is raised;
    /// originals are put back at the end, at a failure and at Ctrl-C. NVML tells no lock that somebody set
    /// before, so that such a lock is lost. Refused while an agent holds the node's lock, a pod holds a
    /// board, or a board is at work.
    #[arg(long)]
    pub write: bool,
    /// With --write: go on although boards are held by pods or at work, for example by a load that was
    /// started for this. Locks and limits show their effect under load only.
    #[arg(long, requires = "write")]
    pub force: bool,
    /// Where a report is written that can be sent to us, as JSON: versions, models and figures. It holds no
    /// serial numbers and no names.
    #[arg(long, value_name = "FILE")]
    pub output: Option<PathBuf>,
    /// Put the boards' UUIDs into the report, instead of hashes of them.
    #[arg(long)]
    pub with_uuids: bool,
    /// The NVML library: a file name for the linker to find, or a path.
    #[arg(long, default_value = "libnvidia-ml.so.1", value_name = "FILE")]
    pub nvml_library: OsString,
    /// Where the kernel shows cpufreq policies.
    #[arg(long, default_value = "/sys/devices/system/cpu/cpufreq", value_name = "FOLDER")]
    pub cpufreq_root: PathBuf,
    /// Where the kernel shows RAPL energy counters.
    #[arg(long, default_value = "/sys/class/powercap", value_name = "FOLDER")]
    pub powercap_root: PathBuf,
    /// Where the kubelet tells which pod holds which device.
    #[arg(long, default_value = "/var/lib/kubelet/pod-resources/kubelet.sock", value_name = "SOCKET")]
    pub pod_resources_socket: PathBuf,
    /// The agent's journal: beside it lies the lock that an agent holds while it runs.
    #[arg(long, default_value = "/var/lib/powercap/journal", value_name = "FILE")]
    pub journal: PathBuf,
}

impl EscalateFlags {
    /// How far it may go at once.
    #[must_use]
    pub fn limits(&self) -> Limits {
        Limits {
            settle: Duration::from_secs(self.settle_seconds),
            cool_down: Duration::from_secs(self.cool_down_seconds),
            minimum_replicas: self.minimum_replicas.into(),
            for_a_policy: self.most_for_a_policy.into(),
            in_a_namespace: self.most_in_a_namespace.into(),
            for_a_domain: self.most_for_a_domain.into(),
            in_all: self.most_in_all.into(),
            recreate_stale: self.recreate_stale,
        }
    }
}

impl NodeFlags {
    /// Time from one decision to the next.
    #[must_use]
    pub const fn loop_period(&self) -> Duration {
        Duration::from_millis(self.loop_period_ms)
    }

    /// Time from one sample of a board to the next, unless its sensor is known to have news more rarely. Half
    /// of the loop's: a sample above a board's share wakes the loop at once, so that this, and not the loop's
    /// period, is what a step of load waits for.
    #[must_use]
    pub const fn sample_period(&self) -> Duration {
        Duration::from_millis(self.loop_period_ms.div_ceil(2))
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
    fn a_node_needs_its_name_alone() {
        let flags = Flags::try_parse_from(["powercap-actuator", "node", "--node-name", "n1"]).unwrap();
        let Role::Node(flags) = flags.role else { panic!("the node role") };
        assert_eq!(flags.loop_period(), Duration::from_millis(100));
        assert!(
            Flags::try_parse_from(["powercap-actuator", "node", "--node-name", "n1", "--loop-period-ms", "1"]).is_err()
        );
    }
}
