//! A large fleet as its exporters tell of it: nodes of eight boards, a pod on each board.
#![allow(dead_code, reason = "each example uses its part")]

use super::prometheus::Series;

pub const BOARDS: usize = 8;
/// Of all pods.
pub const NAMESPACE: &str = "llm-production";

/// The name of a node.
pub fn name(node: usize) -> String {
    format!("gpu-node-{node}.cluster.example.com")
}

/// The pod on a board.
pub fn pod_name(node: usize, board: usize) -> String {
    format!("chat-{}-7d9f8b6c5-x{board}", node * BOARDS + board)
}

/// What Prometheus has of one node, with all labels that exporters and scrapes put on.
pub fn exported(node: usize, at: f64) -> Vec<Series> {
    let name = name(node);
    let mut all = Vec::new();
    for board in 0..BOARDS {
        let uuid = format!("GPU-{name}-{board}");
        let pod = pod_name(node, board);
        let dcgm = [
            ("UUID", uuid.as_str()),
            ("Hostname", &name),
            ("exported_pod", &pod),
            ("exported_namespace", NAMESPACE),
            ("exported_container", "server"),
            ("pod", "nvidia-dcgm-exporter-x7k2p"),
            ("namespace", "gpu-operator"),
            ("container", "nvidia-dcgm-exporter"),
            ("service", "nvidia-dcgm-exporter"),
            ("job", "nvidia-dcgm-exporter"),
            ("endpoint", "gpu-metrics"),
            ("instance", "10.244.100.170:9400"),
            ("gpu", "0"),
            ("device", "nvidia0"),
            ("modelName", "NVIDIA H100 80GB HBM3"),
            ("pci_bus_id", "00000000:1B:00.0"),
            ("DCGM_FI_DRIVER_VERSION", "570.86.15"),
        ];
        let agent = [("node", name.as_str()), ("uuid", &uuid), ("job", "powercap-node"), ("instance", &name)];
        all.push(series("DCGM_FI_DEV_POWER_USAGE", &dcgm, 612.345, at));
        all.push(series("DCGM_FI_DEV_SM_CLOCK", &dcgm, 1755.0, at));
        all.push(series("powercap_agent_gpu_power_watts", &agent, 610.5, at));
        all.push(series("powercap_agent_gpu_clock_megahertz", &agent, 1755.0, at));
        let kepler = [
            ("node_name", name.as_str()),
            ("pod_name", &pod),
            ("pod_namespace", NAMESPACE),
            ("pod_id", "1a1d74d3-3a0c-4d5e-9d0e-5f3f7a1f2c11"),
            ("zone", "package"),
            ("state", "running"),
            ("job", "kepler"),
            ("instance", "10.244.100.171:28282"),
        ];
        all.push(series("kepler_pod_cpu_watts", &kepler, 31.5, at));
    }
    let agent = [("node", name.as_str()), ("job", "powercap-node"), ("instance", &name)];
    all.push(series("powercap_agent_node_power_watts", &agent, 6100.0, at));
    all.push(series("powercap_agent_cpu_power_watts", &agent, 420.0, at));
    let kepler = [("node_name", name.as_str()), ("zone", "package"), ("job", "kepler")];
    all.push(series("kepler_node_cpu_watts", &kepler, 400.0, at));
    all
}

fn series(name: &str, labels: &[(&str, &str)], value: f64, at: f64) -> Series {
    let labels = labels.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    Series { name: name.to_owned(), labels, value, at }
}
