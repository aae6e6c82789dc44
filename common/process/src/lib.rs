//! The shell that every binary shares: logs, signals, health and metrics over HTTP.
//!
//! `/livez` answers whether the process still makes progress: a loop that has not [beaten](Pulse::beat)
//! for its allowed time fails it, and Kubernetes restarts the container. `/readyz` answers whether it
//! can do its work now; what is missing is said in the body. `/metrics` is OpenMetrics text.
#![forbid(unsafe_code)]

#[cfg(feature = "client")]
mod credentials;
mod health;
#[cfg(feature = "kubernetes")]
pub mod kubernetes;
#[cfg(feature = "leader")]
pub mod leader;
mod logging;
#[cfg(feature = "leader")]
pub mod replica;
mod serve;
mod shutdown;

#[cfg(feature = "client")]
pub use credentials::{CredentialFiles, CredentialsError, SigningClient};
pub use health::{Health, Pulse, Readiness};
pub use logging::{LogFormat, init_logging};
pub use serve::{ServeError, serve};
pub use shutdown::shutdown_signal;

/// Makes ring the process's TLS provider; called first in `main`, before any client is made. A
/// second call changes nothing.
pub fn install_tls_provider() {
    // The error means that a provider is installed already, which is what we want.
    let _already = rustls::crypto::ring::default_provider().install_default();
}
