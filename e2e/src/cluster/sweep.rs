//! What can stay behind when a run is killed: cgroup directories, files, for a moment the link.
//! All are known from the run's directory alone. A live run holds a lock and is left alone.

use std::fs::{File, TryLockError};
use std::path::PathBuf;

use super::cgroups;
use super::files::{FileError, error};
use super::layout::Layout;
use super::network::{self, Network};

/// Why a run's place could not be taken or cleaned.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Another process holds the lock.
    #[error("a cluster runs in {0}: stop it first, or choose another place by --dir")]
    Live(PathBuf),
    /// The directory holds something else.
    #[error("{0} has files that are not a cluster's: choose an empty or a new directory by --dir")]
    Foreign(PathBuf),
    /// A file, directory or cgroup could not be made, locked or removed.
    #[error(transparent)]
    File(#[from] FileError),
    /// The link could not be removed.
    #[error(transparent)]
    Network(#[from] network::Error),
}

/// A run's directory, locked for this process.
pub struct Claim {
    layout: Layout,
    _lock: File,
}

impl Claim {
    /// Locks the directory, making it if need be, and removes what an earlier run left. The flag says
    /// whether there was anything.
    ///
    /// # Errors
    /// When a live run holds it, or something cannot be removed.
    pub async fn take(layout: &Layout) -> Result<(Self, bool), Error> {
        let path = layout.lock();
        let there = path.exists() || cgroups::exist(&layout.id());
        // What is released is removed, so it must be ours from the beginning.
        if !path.exists() && std::fs::read_dir(layout.root()).is_ok_and(|mut all| all.next().is_some()) {
            return Err(Error::Foreign(layout.root().into()));
        }
        std::fs::create_dir_all(layout.root()).map_err(error("create", layout.root()))?;
        let lock =
            File::options().create(true).truncate(false).write(true).open(&path).map_err(error("open", &path))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(Error::Live(layout.root().into())),
            Err(TryLockError::Error(source)) => return Err(error("lock", &path)(source).into()),
        }
        let claim = Self { layout: layout.clone(), _lock: lock };
        if there {
            claim.clean().await?;
        }
        Ok((claim, there))
    }

    /// Removes everything of the run but the directory and its lock.
    async fn clean(&self) -> Result<(), Error> {
        Network::unlink(&self.layout.id()).await?;
        cgroups::remove(&self.layout.id())?;
        let root = self.layout.root();
        for entry in std::fs::read_dir(root).map_err(error("read", root))?.flatten() {
            let path = entry.path();
            if path == self.layout.lock() {
                continue;
            }
            let is_directory = entry.file_type().is_ok_and(|kind| kind.is_dir());
            let removed = if is_directory { std::fs::remove_dir_all(&path) } else { std::fs::remove_file(&path) };
            removed.map_err(error("remove", &path))?;
        }
        Ok(())
    }

    /// Removes everything of the run.
    ///
    /// # Errors
    /// When something cannot be removed.
    pub async fn release(self) -> Result<(), Error> {
        self.clean().await?;
        let root = self.layout.root();
        Ok(std::fs::remove_dir_all(root).map_err(error("remove", root))?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_live_run_is_left_alone() {
        let place = tempfile::tempdir().unwrap();
        let layout = Layout::new(&place.path().join("run")).unwrap();
        let (claim, _) = Claim::take(&layout).await.unwrap();
        assert!(matches!(Claim::take(&layout).await, Err(Error::Live(_))));
        claim.release().await.unwrap();
        assert!(!layout.root().exists());
    }

    #[tokio::test]
    async fn a_directory_with_other_files_is_left_alone() {
        let place = tempfile::tempdir().unwrap();
        std::fs::write(place.path().join("thesis.tex"), "").unwrap();
        let layout = Layout::new(place.path()).unwrap();
        assert!(matches!(Claim::take(&layout).await, Err(Error::Foreign(_))));
        assert!(place.path().join("thesis.tex").exists());
    }
}
