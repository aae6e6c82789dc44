//! `/livez`, `/readyz` and `/metrics`.

use std::{net::SocketAddr, sync::Arc};

use axum::{
    Router,
    extract::State,
    http::{StatusCode, header},
    response::IntoResponse,
    routing::get,
};
use prometheus_client::{encoding::text::encode, registry::Registry};
use tokio::net::TcpListener;

use crate::Health;

/// The HTTP server could not be started, or ended.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The address is taken or not ours.
    #[error("cannot listen on {listen}; choose another address with --listen")]
    Listen {
        /// The address.
        listen: SocketAddr,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// Accepting connections failed for good.
    #[error("the HTTP server on {listen} ended")]
    Accept {
        /// The address.
        listen: SocketAddr,
        /// Why.
        #[source]
        source: std::io::Error,
    },
}

/// Serves health and metrics until `stop` completes.
///
/// # Errors
/// When the address cannot be bound, or the server fails afterwards.
pub async fn serve(
    listen: SocketAddr,
    health: Health,
    registry: Arc<Registry>,
    stop: impl Future<Output = ()> + Send + 'static,
) -> Result<(), ServeError> {
    let listener = TcpListener::bind(listen).await.map_err(|source| ServeError::Listen { listen, source })?;
    tracing::info!(%listen, "serving health and metrics");
    axum::serve(listener, router(health, registry))
        .with_graceful_shutdown(stop)
        .await
        .map_err(|source| ServeError::Accept { listen, source })
}

fn router(health: Health, registry: Arc<Registry>) -> Router {
    let health_of = |problems: fn(&Health) -> Vec<String>| {
        move |State(health): State<Health>| async move {
            let problems = problems(&health);
            if problems.is_empty() {
                (StatusCode::OK, "ok\n".to_owned())
            } else {
                (StatusCode::SERVICE_UNAVAILABLE, problems.join("\n") + "\n")
            }
        }
    };
    Router::new()
        .route("/livez", get(health_of(Health::stalled)))
        .route("/readyz", get(health_of(Health::waiting_for)))
        .with_state(health)
        .route("/metrics", get(move || async move { metrics(&registry) }))
}

fn metrics(registry: &Registry) -> impl IntoResponse + use<> {
    let mut text = String::new();
    match encode(&mut text, registry) {
        Ok(()) => (
            StatusCode::OK,
            [(header::CONTENT_TYPE, "application/openmetrics-text; version=1.0.0; charset=utf-8")],
            text,
        ),
        Err(error) => (
            StatusCode::INTERNAL_SERVER_ERROR,
            [(header::CONTENT_TYPE, "text/plain; charset=utf-8")],
            format!("metrics cannot be encoded: {error}\n"),
        ),
    }
}
