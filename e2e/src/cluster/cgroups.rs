//! The cgroup directories of a run: one named by the run in each hierarchy, the nodes' below it.
//!
//! On cgroup v1 there is a hierarchy a controller, and a cpuset must be given its CPUs and memory
//! nodes before a process can enter it. On v2 there is one, and its controllers must be handed down.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::files::{FileError, error};

const ROOT: &str = "/sys/fs/cgroup";

/// The mounted hierarchies: all of v1, or the one of v2. Beside those of v1 there can be one of v2
/// without controllers, `unified`, in which runc makes directories by itself.
fn hierarchies() -> Result<Vec<PathBuf>, FileError> {
    let root = Path::new(ROOT);
    if root.join("cgroup.controllers").exists() {
        return Ok(vec![root.into()]);
    }
    let mut found = Vec::new();
    for entry in std::fs::read_dir(root).map_err(error("read", root))? {
        let entry = entry.map_err(error("read", root))?;
        let is_link = entry.file_type().is_ok_and(|kind| kind.is_symlink());
        if !is_link && entry.path().join("cgroup.procs").exists() {
            found.push(entry.path());
        }
    }
    Ok(found)
}

/// Makes the run's directory and one for each node, in all hierarchies.
///
/// # Errors
/// When a hierarchy refuses.
pub fn create(run: &str, nodes: &[&str]) -> Result<(), FileError> {
    for hierarchy in hierarchies()? {
        let top = hierarchy.join(run);
        make(&hierarchy, &top)?;
        for node in nodes {
            make(&top, &top.join(node))?;
        }
    }
    Ok(())
}

fn make(parent: &Path, path: &Path) -> Result<(), FileError> {
    let controllers = parent.join("cgroup.controllers");
    let names = std::fs::read_to_string(&controllers).unwrap_or_default();
    if !names.trim().is_empty() {
        let all: Vec<String> = names.split_whitespace().map(|name| format!("+{name}")).collect();
        let control = parent.join("cgroup.subtree_control");
        std::fs::write(&control, all.join(" ")).map_err(error("write", &control))?;
    }
    match std::fs::create_dir(path) {
        Err(refused) if refused.kind() != ErrorKind::AlreadyExists => {
            return Err(error("create", path)(refused));
        }
        _ => {}
    }
    if !controllers.exists() {
        for file in ["cpuset.cpus", "cpuset.mems"] {
            let (from, to) = (parent.join(file), path.join(file));
            if from.exists() {
                let value = std::fs::read_to_string(&from).map_err(error("read", &from))?;
                std::fs::write(&to, value.trim()).map_err(error("write", &to))?;
            }
        }
    }
    Ok(())
}

/// Whether anything of the run is left in any hierarchy.
pub fn exist(run: &str) -> bool {
    hierarchies().is_ok_and(|all| all.iter().any(|hierarchy| hierarchy.join(run).exists()))
}

/// Removes the run's directories, the deepest first. Waits up to a minute for the processes in them to be
/// gone, which are dying when this is called.
///
/// # Errors
/// When a directory stays busy.
pub fn remove(run: &str) -> Result<(), FileError> {
    let deadline = Instant::now() + Duration::from_secs(60);
    for hierarchy in hierarchies()? {
        let top = hierarchy.join(run);
        while let Err(refused) = remove_tree(&top) {
            if Instant::now() > deadline {
                return Err(refused);
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }
    Ok(())
}

fn remove_tree(path: &Path) -> Result<(), FileError> {
    let entries = match std::fs::read_dir(path) {
        Ok(entries) => entries,
        Err(gone) if gone.kind() == ErrorKind::NotFound => return Ok(()),
        Err(refused) => return Err(error("read", path)(refused)),
    };
    for entry in entries.flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove_tree(&entry.path())?;
        }
    }
    match std::fs::remove_dir(path) {
        Err(refused) if refused.kind() != ErrorKind::NotFound => Err(error("remove", path)(refused)),
        _ => Ok(()),
    }
}
