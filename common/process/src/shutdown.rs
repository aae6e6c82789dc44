//! The two signals that end a process cleanly.

use tokio::signal::unix::{SignalKind, signal};

/// Completes at SIGTERM or SIGINT. Where handlers cannot be installed it never completes, and the
/// signals end the process as they always do.
pub async fn shutdown_signal() {
    let (Ok(mut terminate), Ok(mut interrupt)) = (signal(SignalKind::terminate()), signal(SignalKind::interrupt()))
    else {
        tracing::warn!("signal handlers could not be installed; a signal ends the process at once");
        return std::future::pending().await;
    };
    tokio::select! {
        _ = terminate.recv() => tracing::info!("SIGTERM received"),
        _ = interrupt.recv() => tracing::info!("SIGINT received"),
    }
}
