//! Mounts in the calling process's own mount namespace, with errors that name both ends.

use std::path::{Path, PathBuf};

use rustix::mount::{self, MountFlags, MountPropagationFlags, UnmountFlags};

/// Why something could not be mounted.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A mount point could not be made.
    #[error("create {path}")]
    Create {
        /// The mount point.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The kernel refused.
    #[error("mount {what} on {target}")]
    Mount {
        /// The source or the file system.
        what: String,
        /// The mount point.
        target: PathBuf,
        /// Why.
        #[source]
        source: rustix::io::Errno,
    },
    /// The kernel refused to take a mount away.
    #[error("unmount {target}")]
    Unmount {
        /// The mount point.
        target: PathBuf,
        /// Why.
        #[source]
        source: rustix::io::Errno,
    },
}

/// Makes a directory and its parents.
///
/// # Errors
/// When it cannot be made.
pub fn directory(path: &Path) -> Result<(), Error> {
    std::fs::create_dir_all(path).map_err(|source| Error::Create { path: path.into(), source })
}

/// Shows `source`, with what is mounted in it, at `target`.
///
/// # Errors
/// When the kernel refuses.
pub fn bind(source: &Path, target: &Path) -> Result<(), Error> {
    mount::mount_bind_recursive(source, target).map_err(|errno| Error::Mount {
        what: source.display().to_string(),
        target: target.into(),
        source: errno,
    })
}

/// Mounts a new instance of a file system without a device: tmpfs, sysfs.
///
/// # Errors
/// When the kernel refuses.
pub fn fresh(file_system: &str, target: &Path) -> Result<(), Error> {
    mount::mount(file_system, target, file_system, MountFlags::empty(), None).map_err(|errno| Error::Mount {
        what: file_system.into(),
        target: target.into(),
        source: errno,
    })
}

/// Lets mounts below `target` spread to and from its copies, as volumes of pods need.
///
/// # Errors
/// When the kernel refuses.
pub fn share(target: &Path) -> Result<(), Error> {
    mount::mount_change(target, MountPropagationFlags::SHARED | MountPropagationFlags::REC)
        .map_err(|errno| Error::Mount { what: "shared".into(), target: target.into(), source: errno })
}

/// Takes a mount away.
///
/// # Errors
/// When the kernel refuses.
pub fn unmount(target: &Path, flags: UnmountFlags) -> Result<(), Error> {
    mount::unmount(target, flags).map_err(|errno| Error::Unmount { target: target.into(), source: errno })
}
