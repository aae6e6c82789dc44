//! `cluster`: a real Kubernetes cluster on this machine, for a command's duration.
#![forbid(unsafe_code)]

use std::ffi::OsString;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

use anyhow::Context;
use clap::{Args, Parser, Subcommand};
use powercap_e2e::cluster::events::Event;
use powercap_e2e::cluster::images::Image;
use powercap_e2e::cluster::layout::Layout;
use powercap_e2e::cluster::run::{self, Cluster, Options};
use powercap_e2e::cluster::sweep::Claim;
use powercap_e2e::cluster::{control, events, images, init, node, packages, programs};

/// The exit status of our own failures, as of `docker run`, to tell them from the command's.
const OWN_FAILURE: u8 = 125;

/// A real Kubernetes cluster on this machine: control plane, nodes with containerd, DNS, metrics.
///
/// It needs root and a Linux like Debian, no container engine and no registry. All of it lives in
/// namespaces that die with this command: no process, mount, interface, cgroup or file stays.
#[derive(Parser)]
#[command(version, max_term_width = 100)]
struct Flags {
    #[command(subcommand)]
    command: Subcommands,
}

#[derive(Subcommand)]
enum Subcommands {
    /// Start a cluster, run a command in its network, stop the cluster, pass on the exit status
    ///
    /// The command finds KUBECONFIG set and kubectl on its PATH. It shares the cluster's network and
    /// process namespaces, so it reaches Services by address and sees the cluster's processes.
    Run {
        #[command(flatten)]
        options: RunOptions,
        /// The command and its arguments
        #[arg(required = true, last = true, value_name = "CMD")]
        command: Vec<OsString>,
    },
    /// Start a cluster and keep it until Ctrl-C
    Up {
        #[command(flatten)]
        options: RunOptions,
    },
    /// Remove what a killed run left behind; refuses to touch a live one
    Sweep {
        #[command(flatten)]
        place: Place,
    },
    /// Build or download all that a cluster needs, as far as it is not there yet
    ///
    /// What is built is kept in $POWERCAP_CACHE, or else ~/.cache/kube-powercap.
    Build {
        /// Where to put the images of Prometheus and Alertmanager
        #[arg(long, default_value = "target/images")]
        images: PathBuf,
    },
    /// Make a container image, as an archive, from files of this machine
    ///
    /// The C library and what else dynamic programs name are added.
    Image {
        /// Name and tag, such as powercap-actuator:dev
        #[arg(long)]
        name: String,
        /// The archive to write
        #[arg(long)]
        out: PathBuf,
        /// What a container runs; repeat it for arguments
        #[arg(long, required = true, allow_hyphen_values = true)]
        entrypoint: Vec<String>,
        /// Files, each as HOST_PATH=/IMAGE_PATH
        #[arg(required = true, value_name = "HOST=IMAGE")]
        files: Vec<String>,
    },
    /// Parts of a running cluster, started by the others
    #[command(hide = true, subcommand)]
    Inside(Inside),
}

#[derive(Subcommand)]
enum Inside {
    Init {
        #[arg(required = true, last = true)]
        command: Vec<OsString>,
    },
    Control {
        #[arg(long)]
        spec: PathBuf,
    },
    Node {
        #[arg(long)]
        spec: PathBuf,
        #[arg(long)]
        name: String,
    },
}

#[derive(Args)]
struct Place {
    /// The run's directory; two runs at a time need two
    #[arg(long, default_value = "target/cluster-run")]
    dir: PathBuf,
}

#[derive(Args)]
struct RunOptions {
    #[command(flatten)]
    place: Place,
    /// How many nodes; 0 is a control plane alone
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u8).range(0..=200))]
    nodes: u8,
    /// An image archive to load on every node; may be given many times
    #[arg(long, value_name = "TAR")]
    image: Vec<PathBuf>,
    /// A command that is a node's hardware, run once for each node before it starts, with {root} and
    /// {node} filled in: it writes its files below {root}, which the node's pods find at
    /// /run/simulated-hardware, and {root}/cpufreq at /sys/devices/system/cpu/cpufreq
    #[arg(long, value_name = "COMMAND")]
    hardware: Option<String>,
    /// Keep logs in this folder in any case; without it, after a failure only, beside --dir
    #[arg(long, value_name = "DIR")]
    keep_logs: Option<PathBuf>,
}

/// Progress on standard error, with seconds since the start.
struct Clock(Instant);

impl Clock {
    fn print(&self, text: &str) {
        let mut out = std::io::stderr().lock();
        let _unseen = writeln!(out, "[{:6.1} s] {text}", self.0.elapsed().as_secs_f32());
    }
}

impl run::Progress for Clock {
    fn say(&mut self, text: &str) {
        self.print(text);
    }
}

fn main() -> ExitCode {
    let flags = Flags::parse();
    // One thread: the kernel kills a child when the thread that started it ends.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let done = match runtime.context("start the async runtime") {
        Ok(runtime) => {
            let done = runtime.block_on(dispatch(flags.command));
            runtime.shutdown_background();
            done
        }
        Err(refused) => Err(refused),
    };
    match done {
        Ok(code) => ExitCode::from(u8::try_from(code).unwrap_or(1)),
        Err(refused) => {
            let _unseen = writeln!(std::io::stderr(), "cluster: {refused:#}");
            ExitCode::from(OWN_FAILURE)
        }
    }
}

async fn dispatch(command: Subcommands) -> anyhow::Result<i32> {
    match command {
        Subcommands::Run { options, command } => start(options, Some(command)).await,
        Subcommands::Up { options } => start(options, None).await,
        Subcommands::Sweep { place } => sweep(&place.dir).await,
        Subcommands::Build { images } => {
            let provided = provide(&Clock(Instant::now())).await?;
            images::provide(&provided.packages, &images)?;
            Ok(0)
        }
        Subcommands::Image { name, out, entrypoint, files } => {
            let entrypoint: Vec<&str> = entrypoint.iter().map(String::as_str).collect();
            let image =
                files.iter().try_fold(Image::new(&name, &entrypoint), |image, file| image.file_argument(file))?;
            image.write(&out)?;
            Ok(0)
        }
        Subcommands::Inside(inside) => run_inside(inside).await,
    }
}

async fn run_inside(inside: Inside) -> anyhow::Result<i32> {
    match inside {
        Inside::Init { command } => Ok(init::init(&command)?),
        Inside::Control { spec } => {
            control::run(&control::read_spec(&spec)?).await;
            Ok(0)
        }
        Inside::Node { spec, name } => {
            let failed = node::run(&control::read_spec(&spec)?, &name).await;
            if let Err(refused) = &failed {
                Event::Failed(events::chain(refused)).send();
            }
            Ok(failed.map(|()| 0)?)
        }
    }
}

/// What [`provide`] found or made.
struct Provided {
    programs: PathBuf,
    packages: PathBuf,
    pause: PathBuf,
}

async fn provide(clock: &Clock) -> anyhow::Result<Provided> {
    let cache = programs::cache()?;
    let packages = packages::provide(&cache, |text| clock.print(&text)).await?;
    let programs = programs::build(&programs::sources(), &cache, |text| clock.print(&text)).await?;
    let pause = images::pause(&cache)?;
    Ok(Provided { programs, packages, pause })
}

async fn start(options: RunOptions, command: Option<Vec<OsString>>) -> anyhow::Result<i32> {
    let mut clock = Clock(Instant::now());
    if !rustix::process::geteuid().is_root() {
        return Err(run::Error::NotRoot.into());
    }
    let provided = provide(&clock).await?;
    let options = Options {
        directory: options.place.dir,
        nodes: options.nodes,
        programs: provided.programs,
        packages: provided.packages,
        images: std::iter::once(provided.pause).chain(options.image).collect(),
        hardware: options.hardware,
        keep_logs: options.keep_logs,
    };
    let mut cluster = Cluster::start(options, &mut clock).await?;
    let result = match cluster.ready(&mut clock).await {
        Ok(()) => {
            clock.print("the cluster is ready");
            match command {
                Some(command) => cluster.run(&command, &mut clock).await,
                None => stay(&mut cluster, &mut clock).await,
            }
        }
        Err(refused) => Err(refused),
    };
    let failed = !matches!(result, Ok(0) | Err(run::Error::Interrupted));
    cluster.stop(failed, &mut clock).await?;
    match result {
        Err(run::Error::Interrupted) => Ok(130),
        other => Ok(other?),
    }
}

async fn stay(cluster: &mut Cluster, clock: &mut Clock) -> Result<i32, run::Error> {
    {
        let mut out = std::io::stdout().lock();
        let _unseen = writeln!(
            out,
            "export KUBECONFIG={}\nexport PATH={}:$PATH",
            cluster.kubeconfig().display(),
            cluster.bin().display()
        )
        .and_then(|()| out.flush());
    }
    clock.print("Ctrl-C stops it");
    cluster.stay(clock).await.map(|()| 0)
}

async fn sweep(directory: &Path) -> anyhow::Result<i32> {
    let clock = Clock(Instant::now());
    let layout = Layout::new(directory).context("find the directory")?;
    let (claim, swept) = Claim::take(&layout).await?;
    claim.release().await?;
    clock.print(if swept { "removed what an earlier run left" } else { "there was nothing to remove" });
    Ok(0)
}
