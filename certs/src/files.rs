//! Files that somebody else keeps: `tls.crt` and `tls.key` in a folder, as cert-manager's Secret is mounted.

use std::{path::PathBuf, sync::Arc};

use crate::identity::{Identity, IdentityError};

/// The certificate, and what signed it.
pub const CERTIFICATE: &str = "tls.crt";
/// Its key.
pub const KEY: &str = "tls.key";

/// Why files are no identity.
#[derive(Debug, thiserror::Error)]
pub enum FilesError {
    /// A file is not there or not ours to read.
    #[error("cannot read {path}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// What is in them does not go together, as in the moment between the change of one and of the other.
    #[error("the files in {folder}")]
    Understand {
        /// The folder.
        folder: PathBuf,
        /// Why.
        #[source]
        source: IdentityError,
    },
}

/// A folder, and what was in it last.
#[derive(Debug)]
pub struct Files {
    folder: PathBuf,
    last: Option<(String, String, Arc<Identity>)>,
}

impl Files {
    /// Of a folder that need not be there yet.
    #[must_use]
    pub fn new(folder: PathBuf) -> Self {
        Self { folder, last: None }
    }

    /// What is in the folder now. Read by content: a kubelet changes a mounted Secret by one link to another folder,
    /// which neither time nor name of a file tells.
    ///
    /// # Errors
    /// When a file cannot be read, or the two do not go together.
    pub async fn look(&mut self) -> Result<Arc<Identity>, FilesError> {
        let (certificate, key) = (read(self.folder.join(CERTIFICATE)).await?, read(self.folder.join(KEY)).await?);
        if let Some((last_certificate, last_key, identity)) = &self.last
            && (last_certificate, last_key) == (&certificate, &key)
        {
            return Ok(Arc::clone(identity));
        }
        let understand = |source| FilesError::Understand { folder: self.folder.clone(), source };
        let identity = Arc::new(Identity::from_pem(&certificate, &key).map_err(understand)?);
        self.last = Some((certificate, key, Arc::clone(&identity)));
        Ok(identity)
    }
}

async fn read(path: PathBuf) -> Result<String, FilesError> {
    tokio::fs::read_to_string(&path).await.map_err(|source| FilesError::Read { path, source })
}
