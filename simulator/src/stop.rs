//! Stopping cleanly on SIGTERM or Ctrl-C.

use tokio::signal::unix::{SignalKind, signal};

/// Waits for SIGTERM or Ctrl-C.
///
/// # Errors
/// When the process cannot watch signals.
pub async fn asked() -> std::io::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    Ok(())
}
