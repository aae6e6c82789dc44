//! `dcgm-exporter`: the boards' metrics in the text format of NVIDIA's DCGM exporter 4.5.3-4.8.2.
//!
//! Format read in that version's source (rendering, default counters, Kubernetes mapping): labels
//! `gpu,UUID,pci_bus_id,device,modelName,Hostname`, then the driver version, then `container,namespace,pod`
//! for a board that a pod holds and none of the three otherwise; whole numbers as `%d`, others as `%f`.
//!
//! What must hold: values are the sensors', never the truth; a board whose state cannot be read is
//! left out, as DCGM leaves out blank values.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use powercap_simulated_hardware::folder::{DEFAULT_ROOT, ROOT_VARIABLE};
use powercap_simulated_hardware::record::RecordFile;
use powercap_simulated_hardware::{Identity, Root, State};
use tokio::sync::watch;

use super::exposition::Page;
use crate::kubelet::pod_resources::{Owner, Owners, SOCKET};

const DRIVER_VERSION: &str = "570.124.06";

/// Flags of `dcgm-exporter`.
#[derive(Debug, clap::Args)]
pub struct Flags {
    /// Folder that holds the node's hardware
    #[arg(long, env = ROOT_VARIABLE, default_value = DEFAULT_ROOT)]
    root: PathBuf,
    /// Address to serve /metrics on
    #[arg(long, default_value = "0.0.0.0:9400")]
    listen: SocketAddr,
    /// Socket of the kubelet's PodResources
    #[arg(long, default_value = SOCKET)]
    pod_resources: PathBuf,
    /// Value of the Hostname label
    #[arg(long, env = "NODE_NAME", default_value = "")]
    node_name: String,
    /// How often values are collected (the real exporter's default is 30 s)
    #[arg(long, env = "DCGM_EXPORTER_INTERVAL", default_value_t = 1000)]
    interval_ms: u64,
}

/// Serves until SIGTERM.
///
/// # Errors
/// When the boards cannot be found or the address not be listened on.
pub async fn run(flags: Flags) -> anyhow::Result<()> {
    let root = Root::new(&flags.root);
    let mut boards = present(&root)?;
    let mut owners = Owners::new(flags.pod_resources);
    let (newest, page) = watch::channel(Arc::from(""));
    let collecting = async {
        loop {
            owners.refresh().await;
            match present(&root) {
                Ok(found) => boards = found,
                Err(error) => {
                    tracing::warn!(error = format!("{error:#}"), "the boards cannot be listed: keeping those known");
                }
            }
            newest.send_replace(Arc::from(collect(&mut boards, &owners, &flags.node_name)));
            tokio::time::sleep(Duration::from_millis(flags.interval_ms.max(50))).await;
        }
    };
    tokio::select! {
        served = super::serve(flags.listen, page) => served,
        () = collecting => Ok(()),
    }
}

/// The boards that are not gone.
fn present(root: &Root) -> anyhow::Result<Vec<(Identity, RecordFile<State>)>> {
    let mut boards = Vec::new();
    for (identity, folder) in root.boards()? {
        if !folder.present_fault()?.read()?.gone {
            boards.push((identity, folder.state()?));
        }
    }
    Ok(boards)
}

fn collect(boards: &mut [(Identity, RecordFile<State>)], owners: &Owners, hostname: &str) -> String {
    let mut seen = Vec::new();
    for (identity, state) in boards {
        match state.read() {
            Ok(state) => seen.push(Seen { identity, state, owner: owners.of(&identity.uuid) }),
            Err(error) => tracing::warn!(%error, "a board cannot be read: left out"),
        }
    }
    render(&seen, hostname)
}

/// A board as the exporter sees it.
#[derive(Debug)]
pub struct Seen<'a> {
    /// What it is.
    pub identity: &'a Identity,
    /// What its sensors say.
    pub state: State,
    /// Who holds it.
    pub owner: Option<&'a Owner>,
}

struct Counter {
    name: &'static str,
    kind: &'static str,
    help: &'static str,
    value: fn(&Seen<'_>) -> Value,
}

enum Value {
    Whole(u64),
    Real(f64),
}

const fn counter(name: &'static str, kind: &'static str, help: &'static str, value: fn(&Seen<'_>) -> Value) -> Counter {
    Counter { name, kind, help, value }
}

/// The default counters, in the order of that version's file.
const COUNTERS: [Counter; 23] = [
    counter("DCGM_FI_DEV_SM_CLOCK", "gauge", "SM clock frequency (in MHz).", |seen| whole(seen.state.clock_mhz)),
    counter("DCGM_FI_DEV_MEM_CLOCK", "gauge", "Memory clock frequency (in MHz).", |seen| whole(seen.state.memory_mhz)),
    counter("DCGM_FI_DEV_MEMORY_TEMP", "gauge", "Memory temperature (in C).", |seen| {
        whole(seen.state.memory_temperature_celsius)
    }),
    counter("DCGM_FI_DEV_GPU_TEMP", "gauge", "GPU temperature (in C).", |seen| whole(seen.state.temperature_celsius)),
    counter("DCGM_FI_DEV_POWER_USAGE", "gauge", "Power draw (in W).", |seen| {
        Value::Real(f64::from(seen.state.average_mw) / 1000.0)
    }),
    counter(
        "DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION",
        "counter",
        "Total energy consumption since boot (in mJ).",
        |seen| Value::Whole(seen.state.energy_mj),
    ),
    counter("DCGM_FI_DEV_PCIE_REPLAY_COUNTER", "counter", "Total number of PCIe retries.", none),
    counter("DCGM_FI_DEV_GPU_UTIL", "gauge", "GPU utilization (in %).", |seen| whole(seen.state.utilisation_percent)),
    counter("DCGM_FI_DEV_MEM_COPY_UTIL", "gauge", "Memory utilization (in %).", |seen| {
        whole(seen.state.memory_utilisation_percent)
    }),
    counter("DCGM_FI_DEV_ENC_UTIL", "gauge", "Encoder utilization (in %).", none),
    counter("DCGM_FI_DEV_DEC_UTIL", "gauge", "Decoder utilization (in %).", none),
    counter("DCGM_FI_DEV_XID_ERRORS", "gauge", "Value of the last XID error encountered.", none),
    counter("DCGM_FI_DEV_FB_FREE", "gauge", "Framebuffer memory free (in MiB).", |seen| {
        Value::Whole(seen.identity.spec.memory_mib.saturating_sub(seen.state.memory_used_mib))
    }),
    counter("DCGM_FI_DEV_FB_USED", "gauge", "Framebuffer memory used (in MiB).", |seen| {
        Value::Whole(seen.state.memory_used_mib)
    }),
    counter("DCGM_FI_DEV_VGPU_LICENSE_STATUS", "gauge", "vGPU License status", none),
    counter(
        "DCGM_FI_DEV_UNCORRECTABLE_REMAPPED_ROWS",
        "counter",
        "Number of remapped rows for uncorrectable errors",
        none,
    ),
    counter("DCGM_FI_DEV_CORRECTABLE_REMAPPED_ROWS", "counter", "Number of remapped rows for correctable errors", none),
    counter("DCGM_FI_DEV_ROW_REMAP_FAILURE", "gauge", "Whether remapping of rows has failed", none),
    counter("DCGM_FI_PROF_GR_ENGINE_ACTIVE", "gauge", "Ratio of time the graphics engine is active.", |seen| {
        Value::Real(f64::from(seen.state.utilisation_percent) / 100.0)
    }),
    counter("DCGM_FI_PROF_PIPE_TENSOR_ACTIVE", "gauge", "Ratio of cycles the tensor (HMMA) pipe is active.", |seen| {
        Value::Real(seen.state.tensor_active)
    }),
    counter(
        "DCGM_FI_PROF_DRAM_ACTIVE",
        "gauge",
        "Ratio of cycles the device memory interface is active sending or receiving data.",
        |seen| Value::Real(f64::from(seen.state.memory_utilisation_percent) / 100.0),
    ),
    counter(
        "DCGM_FI_PROF_PCIE_TX_BYTES",
        "gauge",
        "The rate of data transmitted over the PCIe bus - including both protocol headers and data payloads - in bytes per second.",
        none,
    ),
    counter(
        "DCGM_FI_PROF_PCIE_RX_BYTES",
        "gauge",
        "The rate of data received over the PCIe bus - including both protocol headers and data payloads - in bytes per second.",
        none,
    ),
];

fn whole(value: u32) -> Value {
    Value::Whole(u64::from(value))
}

/// What a healthy board has none of.
fn none(_: &Seen<'_>) -> Value {
    Value::Whole(0)
}

/// The page for these boards.
#[must_use]
pub fn render(boards: &[Seen<'_>], hostname: &str) -> String {
    let mut page = Page::default();
    for counter in &COUNTERS {
        if boards.is_empty() {
            continue;
        }
        page.begin(counter.name, counter.kind, counter.help);
        for seen in boards {
            let index = seen.identity.index.to_string();
            let device = format!("nvidia{index}");
            let mut labels = vec![
                ("gpu", index.as_str()),
                ("UUID", &seen.identity.uuid),
                ("pci_bus_id", &seen.identity.pci_bus_id),
                ("device", &device),
                ("modelName", &seen.identity.spec.name),
            ];
            if !hostname.is_empty() {
                labels.push(("Hostname", hostname));
            }
            labels.push(("DCGM_FI_DRIVER_VERSION", DRIVER_VERSION));
            if let Some(owner) = seen.owner {
                labels.extend([
                    ("container", owner.container.as_str()),
                    ("namespace", &owner.namespace),
                    ("pod", &owner.pod),
                ]);
            }
            let value = match (counter.value)(seen) {
                Value::Whole(value) => value.to_string(),
                Value::Real(value) => format!("{value:.6}"),
            };
            page.sample(counter.name, &labels, &value);
        }
    }
    page.finish()
}
