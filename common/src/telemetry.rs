//! Names and labels of the series that we read, each with the version that it was read from.

/// How the recommender finds the series, unless its flags say otherwise.
pub mod prometheus {
    /// Where Prometheus is.
    pub const URL: &str = "http://prometheus.monitoring.svc:9090";
    /// How often the exporters measure and Prometheus scrapes, the slower of the two, in seconds.
    pub const COLLECTION_INTERVAL_SECONDS: u32 = 5;
}

/// How admission finds whom to tell of trouble, unless its flags say otherwise.
pub mod alertmanager {
    /// Where Alertmanager is; a headless Service stands for all of its replicas.
    pub const URL: &str = "http://alertmanager.monitoring.svc:9093";
}

/// NVIDIA's DCGM exporter, 4.5.3 to 4.8.2 and its main branch of May 2026.
pub mod dcgm {
    /// Power of a GPU, in watts.
    pub const POWER_USAGE: &str = "DCGM_FI_DEV_POWER_USAGE";
    /// SM clock of a GPU, in megahertz.
    pub const SM_CLOCK: &str = "DCGM_FI_DEV_SM_CLOCK";
    /// The GPU's UUID.
    pub const UUID: &str = "UUID";
    /// The node's name: capitalised through 4.8.2, lower case on main.
    pub const HOSTNAME: [&str; 2] = ["Hostname", "hostname"];
    /// The pod's name: as Prometheus renames it where the scrape has `honor_labels: false` (the exporter's
    /// own ServiceMonitor), else as the exporter writes it, new and old style. The first that is there counts.
    pub const POD: [&str; 3] = ["exported_pod", "pod", "pod_name"];
    /// The pod's namespace, likewise.
    pub const NAMESPACE: [&str; 3] = ["exported_namespace", "namespace", "pod_namespace"];
}

/// Kepler 0.11.
pub mod kepler {
    /// CPU power of a node, in watts, by zone.
    pub const NODE_CPU_WATTS: &str = "kepler_node_cpu_watts";
    /// CPU power of a pod, in watts, by zone.
    pub const POD_CPU_WATTS: &str = "kepler_pod_cpu_watts";
    /// The node's name, a label of every series.
    pub const NODE_NAME: &str = "node_name";
    /// The pod's name.
    pub const POD_NAME: &str = "pod_name";
    /// The pod's namespace.
    pub const POD_NAMESPACE: &str = "pod_namespace";
    /// The RAPL zone. Zones overlap: never sum `package`, `core` and `psys`.
    pub const ZONE: &str = "zone";
    /// The zone that stands for a CPU package.
    pub const ZONE_PACKAGE: &str = "package";
    /// `running` or `terminated`.
    pub const STATE: &str = "state";
}

/// Kepler before 0.10: energy alone, of which the rate is power.
pub mod kepler_legacy {
    /// Energy of a node's CPU packages, in joules, by `package` and `mode` (idle, dynamic).
    pub const NODE_PACKAGE_JOULES: &str = "kepler_node_package_joules_total";
    /// Energy that a container took of the CPU packages, in joules, by `mode`. (`kepler_container_joules_total`
    /// counts GPUs too, which the DCGM exporter tells already.)
    pub const CONTAINER_PACKAGE_JOULES: &str = "kepler_container_package_joules_total";
    /// The node's name, as its ServiceMonitor relabels it.
    pub const INSTANCE: &str = "instance";
    /// The pod's name.
    pub const POD_NAME: &str = "pod_name";
    /// The pod's namespace.
    pub const CONTAINER_NAMESPACE: &str = "container_namespace";
}

/// Our own node agents; see docs/reference/metrics.md.
pub mod agent {
    /// Power of the node, in watts; each scraped agent has it.
    pub const NODE_POWER: &str = "powercap_agent_node_power_watts";
    /// Power of a GPU, in watts.
    pub const GPU_POWER: &str = "powercap_agent_gpu_power_watts";
    /// Graphics clock of a GPU, in megahertz.
    pub const GPU_CLOCK: &str = "powercap_agent_gpu_clock_megahertz";
    /// Power of the node's CPU packages and their memory, in watts.
    pub const CPU_POWER: &str = "powercap_agent_cpu_power_watts";
    /// The node's name, a label of every series.
    pub const NODE: &str = "node";
    /// The GPU's UUID.
    pub const UUID: &str = "uuid";
}

/// The kubelet's cAdvisor, as Prometheus scrapes it: what the Vertical Pod Autoscaler reads of the past too.
pub mod containers {
    /// Processor time of a container, in seconds.
    pub const CPU_SECONDS: &str = "container_cpu_usage_seconds_total";
    /// Memory of a container that cannot be taken from it, in bytes.
    pub const MEMORY_BYTES: &str = "container_memory_working_set_bytes";
    /// The pod's namespace.
    pub const NAMESPACE: &str = "namespace";
    /// The pod's name.
    pub const POD: &str = "pod";
    /// The container's name; empty for what is of the pod as a whole.
    pub const CONTAINER: &str = "container";
}
