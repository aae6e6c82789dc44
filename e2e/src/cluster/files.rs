//! What every module that touches files shares: an error that says what was tried on which path, and
//! hashes as text.

use std::io;
use std::path::{Path, PathBuf};

/// A file or directory could not be made, read, moved or removed.
#[derive(Debug, thiserror::Error)]
#[error("{action} {path}")]
pub struct FileError {
    action: &'static str,
    path: PathBuf,
    source: io::Error,
}

/// For `map_err`: names what was tried, such as "read", and on what.
pub fn error(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> FileError + use<> {
    let path = path.to_path_buf();
    move |source| FileError { action, path, source }
}

/// Bytes as hexadecimal digits.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
