//! The Kubernetes programs: one Go binary, built from `e2e/cluster/`, kept by the hash of its sources
//! in a cache outside the clone, so that a fresh clone on the same machine does not build it again.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use ring::digest;
use tokio::process::Command;

use super::files::{FileError, error, hex};

/// The version in `go.mod`, which the binary must be told.
const KUBERNETES: &str = "v1.36.3";
const SOURCES: [&str; 3] = ["go.mod", "go.sum", "main.go"];

/// Why the programs could not be built.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file or directory could not be made, read, moved or removed.
    #[error(transparent)]
    File(#[from] FileError),
    /// There is no home directory to keep the cache in.
    #[error("neither POWERCAP_CACHE nor HOME is set: set POWERCAP_CACHE to a directory that may be kept")]
    NoCache,
    /// Go could not be started.
    #[error("run go: install Go 1.26 or later from https://go.dev/dl/ and put it on PATH")]
    Go(#[source] std::io::Error),
    /// The build failed.
    #[error("go build failed ({0}); its messages are above")]
    Build(std::process::ExitStatus),
}

/// The cache directory: `$POWERCAP_CACHE`, else `~/.cache/kube-powercap`.
///
/// # Errors
/// When neither variable is set.
pub fn cache() -> Result<PathBuf, Error> {
    if let Some(path) = std::env::var_os("POWERCAP_CACHE").filter(|path| !path.is_empty()) {
        return Ok(path.into());
    }
    let home = std::env::var_os("HOME").filter(|path| !path.is_empty()).ok_or(Error::NoCache)?;
    Ok(Path::new(&home).join(".cache/kube-powercap"))
}

/// Where the sources are.
pub fn sources() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("cluster")
}

/// What `go` is told, but for the place of the binary. Without DWARF the compiler writes nothing that `-s -w`
/// would throw away.
fn arguments() -> Vec<String> {
    let version = "k8s.io/component-base/version.git";
    let mut numbers = KUBERNETES.trim_start_matches('v').split('.');
    let (major, minor) = (numbers.next().unwrap_or_default(), numbers.next().unwrap_or_default());
    let linked = format!("-s -w -X {version}Version={KUBERNETES} -X {version}Major={major} -X {version}Minor={minor}");
    ["-trimpath", "-gcflags=all=-dwarf=false", "-ldflags", &linked].map(str::to_owned).into()
}

/// Where the binary of these sources is or would be: its name is a hash of them and of how it is built.
///
/// # Errors
/// When the sources cannot be read.
pub fn binary(sources: &Path, cache: &Path) -> Result<PathBuf, Error> {
    let mut context = digest::Context::new(&digest::SHA256);
    for name in SOURCES {
        let path = sources.join(name);
        context.update(name.as_bytes());
        context.update(&std::fs::read(&path).map_err(error("read", &path))?);
    }
    context.update(arguments().join(" ").as_bytes());
    let hash = context.finish();
    Ok(cache.join("cluster").join(hex(&hash.as_ref()[..8])).join("cluster"))
}

/// Builds the binary if the cache lacks it. `progress` is told every 15 s how long it has taken.
///
/// # Errors
/// When Go is missing or the build fails.
pub async fn build(sources: &Path, cache: &Path, mut progress: impl FnMut(String)) -> Result<PathBuf, Error> {
    let binary = binary(sources, cache)?;
    if binary.exists() {
        return Ok(binary);
    }
    let folder = binary.parent().unwrap_or(cache);
    std::fs::create_dir_all(folder).map_err(error("create", folder))?;
    progress("building the Kubernetes programs (about 9 min on two cores, once)".into());
    let unfinished = binary.with_extension(format!("unfinished-{}", std::process::id()));
    let mut child = Command::new("go")
        .current_dir(sources)
        .env("CGO_ENABLED", "0")
        // Compilers live for seconds: collecting their garbage a quarter as often saves a sixth of their time.
        .envs([("GOGC", "400"), ("GOMEMLIMIT", "3GiB")])
        .args(["build", "-o"])
        .arg(&unfinished)
        .args(arguments())
        .arg(".")
        .kill_on_drop(true)
        .spawn()
        .map_err(Error::Go)?;
    let began = Instant::now();
    let status = loop {
        match tokio::time::timeout(Duration::from_secs(15), child.wait()).await {
            Ok(status) => break status.map_err(Error::Go)?,
            Err(_) => progress(format!("still building, {} s", began.elapsed().as_secs())),
        }
    };
    if !status.success() {
        return Err(Error::Build(status));
    }
    std::fs::rename(&unfinished, &binary).map_err(error("move to", &binary))?;
    Ok(binary)
}
