//! Exporters that print what the real ones print, from what the sensors say.

use std::sync::Arc;

use anyhow::Context;
use axum::Router;
use axum::http::header::CONTENT_TYPE;
use axum::routing::get;
use tokio::sync::watch;

pub mod dcgm;
pub mod exposition;
pub mod kepler;

/// The newest page, kept by a collector.
type Page = watch::Receiver<Arc<str>>;

/// Serves a page at `/metrics` (and `/health`) until SIGTERM.
async fn serve(listen: std::net::SocketAddr, page: Page) -> anyhow::Result<()> {
    let metrics = move || {
        let page: Arc<str> = page.borrow().clone();
        async move { ([(CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], page.to_string()) }
    };
    let routes = Router::new().route("/metrics", get(metrics)).route("/health", get(async || "ok\n"));
    let listener = tokio::net::TcpListener::bind(listen)
        .await
        .with_context(|| format!("listen on {listen}: pick another --listen"))?;
    tracing::info!(%listen, "serving metrics");
    tokio::select! {
        served = axum::serve(listener, routes) => served.context("serve metrics"),
        asked = crate::stop::asked() => asked.context("watch signals"),
    }
}
