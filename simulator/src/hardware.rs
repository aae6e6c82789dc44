//! `hardware`: makes a node's folder and runs its boards and CPUs until told to stop.
//!
//! What must hold: flags that were left out give the node of the demo.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context, bail};
use powercap_simulated_hardware::folder::DEFAULT_ROOT;
use powercap_simulated_hardware::{BoardSpec, CpufreqDriver, HostSpec, NodeSpec, Rapl, Root, Sharing, run_hardware};

/// Flags of `hardware`.
#[derive(Debug, clap::Args)]
pub struct Flags {
    /// Folder that holds the node's hardware; put it on a tmpfs
    #[arg(long, default_value = DEFAULT_ROOT)]
    root: PathBuf,
    /// Name of the node; UUIDs are drawn from it
    #[arg(long, env = "NODE_NAME")]
    node: String,
    /// Boards in the node, 0 to 16
    #[arg(long, default_value_t = 8)]
    boards: u32,
    /// Board model
    #[arg(long, default_value = "h100-sxm", value_parser = clap::builder::PossibleValuesParser::new(BoardSpec::MODELS))]
    model: String,
    /// Cut each board into as many MIG instances of this profile as fit, e.g. 1g.10gb
    #[arg(long, value_name = "PROFILE", conflicts_with = "time_slices")]
    mig: Option<String>,
    /// Offer each board that many times, as time slices
    #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u32).range(2..=48))]
    time_slices: Option<u32>,
    /// Each board's power sensor errs by a constant within ± this
    #[arg(long, default_value_t = 5.0)]
    sensor_gain_percent: f64,
    /// Draws other sensor errors for the same boards
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// From an accepted clock lock or power limit to its effect
    #[arg(long, default_value_t = 30.0)]
    lock_latency_ms: f64,
    /// cpufreq policies in each of the two CPU packages
    #[arg(long, default_value_t = 2)]
    cpufreq_policies: u32,
    /// What drives the CPUs' clocks; the AMD ones bring an AMD host along, whose RAPL has no limits
    #[arg(long, default_value = CpufreqDriver::default().name(),
          value_parser = clap::builder::PossibleValuesParser::new(CpufreqDriver::ALL.map(CpufreqDriver::name)))]
    cpufreq_driver: String,
    /// What RAPL offers, if not what such a host has: limits that can be set, that are locked, or none
    #[arg(long, value_enum)]
    rapl: Option<RaplFlag>,
    /// Where RAPL's energy counters wrap, if not where such a host's do: small ranges wrap often
    #[arg(long)]
    energy_range_uj: Option<u64>,
    /// Fans, NICs, memory and the rest of the node (DC)
    #[arg(long, default_value_t = 1200.0)]
    static_watts: f64,
    /// The NVML stand-in, to be offered to the node's pods as lib/libnvidia-ml.so.1 below --root
    #[arg(long, value_name = "FILE")]
    nvml_library: Option<PathBuf>,
}

/// What RAPL offers.
#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum RaplFlag {
    Writable,
    Locked,
    EnergyOnly,
}

impl From<RaplFlag> for Rapl {
    fn from(flag: RaplFlag) -> Self {
        match flag {
            RaplFlag::Writable => Self::Writable,
            RaplFlag::Locked => Self::Locked,
            RaplFlag::EnergyOnly => Self::EnergyOnly,
        }
    }
}

/// The CPU side of the node.
fn host(flags: &Flags) -> anyhow::Result<HostSpec> {
    let driver = CpufreqDriver::by_name(&flags.cpufreq_driver).context("--cpufreq-driver is not known: see --help")?;
    let host = HostSpec::driven_by(driver);
    let policies_per_package = flags.cpufreq_policies.clamp(1, 64);
    Ok(HostSpec {
        policies_per_package,
        cpus_per_policy: (56 / policies_per_package).max(1),
        static_watts: flags.static_watts,
        rapl: flags.rapl.map_or(host.rapl, Rapl::from),
        energy_range_uj: flags.energy_range_uj.unwrap_or(host.energy_range_uj),
        ..host
    })
}

/// Puts the library where a driver's would be found.
fn offer_library(library: &Path, root: &Path) -> anyhow::Result<()> {
    let folder = root.join("lib");
    std::fs::create_dir_all(&folder).with_context(|| format!("create {}", folder.display()))?;
    let place = folder.join("libnvidia-ml.so.1");
    std::fs::copy(library, &place).with_context(|| format!("copy {} to {}", library.display(), place.display()))?;
    Ok(())
}

fn sharing(flags: &Flags, board: &BoardSpec) -> anyhow::Result<Sharing> {
    match (&flags.mig, flags.time_slices) {
        (Some(profile), _) if board.mig.profile(profile).is_some() => Ok(Sharing::Mig(profile.clone())),
        (Some(profile), _) => {
            let known: Vec<&str> = board.mig.profiles().iter().map(|profile| profile.name).collect();
            bail!("mig is {profile}, and a {} has the profiles {known:?}", board.name)
        }
        (None, Some(count)) => Ok(Sharing::TimeSlices(count)),
        (None, None) => Ok(Sharing::Whole),
    }
}

/// Runs until SIGTERM.
///
/// # Errors
/// When the folder cannot be used, or vanishes.
pub async fn run(flags: Flags) -> anyhow::Result<()> {
    let board = BoardSpec::by_name(&flags.model).context("--model is not known: see --help")?;
    let sharing = sharing(&flags, &board)?;
    let mut spec = NodeSpec::new(&flags.node, flags.boards, board);
    spec.sharing = sharing;
    spec.sensor_gain_percent = flags.sensor_gain_percent;
    spec.seed = flags.seed;
    spec.lock_latency_ms = flags.lock_latency_ms;
    spec.host = host(&flags)?;
    let root = Root::new(flags.root);
    if let Some(library) = &flags.nvml_library {
        offer_library(library, root.path())?;
    }
    let stop = Arc::new(AtomicBool::new(false));
    // A thread of its own: 5 ms steps should not wait for a runtime's other tasks.
    let mut physics = tokio::task::spawn_blocking({
        let (stop, spec, root) = (Arc::clone(&stop), spec.clone(), root.clone());
        move || {
            let ready = || tracing::info!(node = %spec.node, boards = spec.boards, root = %root.path().display(), "hardware is ready");
            run_hardware(&root, &spec, ready, || stop.load(Ordering::Relaxed))
        }
    });
    tokio::select! {
        ended = &mut physics => return Ok(ended??),
        asked = crate::stop::asked() => asked?,
    }
    stop.store(true, Ordering::Relaxed);
    physics.await??;
    Ok(())
}
