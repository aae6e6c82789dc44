//! What the cluster needs of Debian. Services (containerd, Prometheus, …) are downloaded and unpacked
//! into the cache, never installed, so that a person's own stay untouched. Plain tools must be
//! installed: what is missing is named with the command, which is run when we are root.

use std::path::{Path, PathBuf};
use std::process::Stdio;

use tokio::process::Command;

use super::files::{FileError, error};

/// Packages that are unpacked.
const UNPACKED: [&str; 5] =
    ["containerd", "containernetworking-plugins", "prometheus", "prometheus-alertmanager", "runc"];

/// Tools that must be installed, each with its package.
const TOOLS: [(&str, &str); 8] = [
    ("ip", "iproute2"),
    ("iptables", "iptables"),
    ("conntrack", "conntrack"),
    ("unshare", "util-linux"),
    ("setpriv", "util-linux"),
    ("nsenter", "util-linux"),
    ("cc", "build-essential"),
    ("ldd", "libc-bin"),
];

/// Why packages could not be had.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A command could not be started.
    #[error("run {0}: this needs Debian or a system like it")]
    Start(String, #[source] std::io::Error),
    /// A command failed.
    #[error("{command}: {message}")]
    Failed {
        /// The whole command.
        command: String,
        /// What it said.
        message: String,
    },
    /// A file or directory could not be made, read, moved or removed.
    #[error(transparent)]
    File(#[from] FileError),
    /// Tools are missing and we may not install them.
    #[error("missing: {missing}; install by: sudo apt-get install --no-install-recommends {packages}")]
    Missing {
        /// The tools.
        missing: String,
        /// Their packages.
        packages: String,
    },
}

/// Where packages are unpacked, by their names: another list gets another directory.
pub fn unpacked(cache: &Path) -> PathBuf {
    cache.join("debian").join(UNPACKED.join("+"))
}

/// Makes sure that tools are there and packages unpacked. Returns the directory of the latter.
///
/// # Errors
/// When something cannot be installed, downloaded or unpacked.
pub async fn provide(cache: &Path, mut progress: impl FnMut(String)) -> Result<PathBuf, Error> {
    tools(&mut progress).await?;
    let target = unpacked(cache);
    if target.exists() {
        return Ok(target);
    }
    progress(format!("downloading {}", UNPACKED.join(", ")));
    let place = target.with_extension(format!("unfinished-{}", std::process::id()));
    let archives = place.join("archives");
    std::fs::create_dir_all(&archives).map_err(error("create", &archives))?;
    download(&archives, &mut progress).await?;
    for entry in std::fs::read_dir(&archives).map_err(error("read", &archives))?.flatten() {
        let arguments = [Path::new("-x"), &entry.path(), &place];
        run(Command::new("dpkg").args(arguments)).await?;
    }
    std::fs::remove_dir_all(&archives).map_err(error("remove", &archives))?;
    std::fs::rename(&place, &target).map_err(error("move to", &target))?;
    progress("unpacked (nothing was installed)".into());
    Ok(target)
}

async fn download(archives: &Path, progress: &mut impl FnMut(String)) -> Result<(), Error> {
    let mut download = Command::new("apt-get");
    // As root apt would drop to a user that may not write here, and warn.
    download.current_dir(archives).args(["-o", "APT::Sandbox::User=root", "download"]).args(UNPACKED);
    if run(&mut download).await.is_ok() {
        return Ok(());
    }
    update(progress).await?;
    run(&mut download).await
}

/// A fresh image has no package lists, an old one has lists of versions that are gone.
async fn update(progress: &mut impl FnMut(String)) -> Result<(), Error> {
    progress("apt-get update".into());
    run(Command::new("apt-get").arg("update")).await
}

async fn tools(progress: &mut impl FnMut(String)) -> Result<(), Error> {
    let Some(missing) = Missing::look() else {
        return Ok(());
    };
    if !rustix::process::geteuid().is_root() {
        return Err(missing.error());
    }
    let mut install = Command::new("apt-get");
    install
        .env("DEBIAN_FRONTEND", "noninteractive")
        .args(["install", "--yes", "--no-install-recommends"])
        .args(&missing.packages);
    progress(format!("apt-get install --no-install-recommends {}", missing.packages.join(" ")));
    if run(&mut install).await.is_err() {
        update(progress).await?;
        run(&mut install).await?;
    }
    Missing::look().map_or(Ok(()), |still| Err(still.error()))
}

/// Tools that are not there.
struct Missing {
    tools: Vec<&'static str>,
    packages: Vec<&'static str>,
}

impl Missing {
    fn look() -> Option<Self> {
        let (tools, mut packages): (Vec<_>, Vec<_>) = TOOLS.into_iter().filter(|(tool, _)| !is_on_path(tool)).unzip();
        packages.sort_unstable();
        packages.dedup();
        (!tools.is_empty()).then_some(Self { tools, packages })
    }

    fn error(&self) -> Error {
        Error::Missing { missing: self.tools.join(", "), packages: self.packages.join(" ") }
    }
}

fn is_on_path(tool: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|folder| folder.join(tool).exists())
}

async fn run(command: &mut Command) -> Result<(), Error> {
    let shown = format!("{:?}", command.as_std());
    let output = command.stdin(Stdio::null()).output().await.map_err(|source| Error::Start(shown.clone(), source))?;
    if output.status.success() {
        return Ok(());
    }
    let message = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    Err(Error::Failed { command: shown, message })
}
