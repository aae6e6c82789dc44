//! `powercap-simulator`: see `--help`.
#![forbid(unsafe_code)]

use std::io::IsTerminal;

use clap::{Parser, Subcommand};
use powercap_simulator::{exporters, fault, hardware, judge, kubelet, traffic, workload};
use tracing::Level;
use tracing_subscriber::{filter::Targets, fmt, layer::SubscriberExt, util::SubscriberInitExt};

/// Stands in for what a test cluster cannot have: GPU boards and CPUs that behave, their device plugin
/// and exporters, workloads that drive them, and a judge that reads true power.
#[derive(Debug, Parser)]
#[command(version)]
struct CommandLine {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the boards and CPUs of one node
    Hardware(hardware::Flags),
    /// Make a board, NVML or a CPU's control misbehave, or well again; or do a script of that
    Fault(fault::Flags),
    /// Offer the boards to a kubelet as nvidia.com/gpu, or what they are cut into
    DevicePlugin(kubelet::device_plugin::Flags),
    /// Serve the boards' metrics as NVIDIA's DCGM exporter does
    DcgmExporter(exporters::dcgm::Flags),
    /// Serve CPU power as Kepler does
    Kepler(exporters::kepler::Flags),
    /// Drive the boards of a pod
    #[command(subcommand)]
    Workload(workload::Command),
    /// Send requests to `workload serve` and measure latency
    Traffic(traffic::Flags),
    /// Record the true power of nodes
    Judge(judge::Flags),
}

fn main() -> anyhow::Result<()> {
    let command = CommandLine::parse().command;
    let asked = std::env::var("RUST_LOG").ok().and_then(|text| text.parse().ok());
    let wanted = asked.unwrap_or_else(|| Targets::new().with_default(Level::INFO));
    let lines = fmt::layer().with_ansi(std::io::stderr().is_terminal()).with_writer(std::io::stderr);
    tracing_subscriber::registry().with(wanted).with(lines).init();
    // Everything here waits most of the time: one thread is enough and costs least.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        match command {
            Command::Hardware(flags) => hardware::run(flags).await,
            Command::Fault(flags) => fault::run(&flags),
            Command::DevicePlugin(flags) => kubelet::device_plugin::run(flags).await,
            Command::DcgmExporter(flags) => exporters::dcgm::run(flags).await,
            Command::Kepler(flags) => exporters::kepler::run(flags).await,
            Command::Workload(command) => workload::run(command).await,
            Command::Traffic(flags) => traffic::run(flags).await,
            Command::Judge(flags) => judge::run(flags).await,
        }
    })
}
