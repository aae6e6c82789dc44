//! Which Alertmanagers there are: every address of every name, looked up again and again.
//!
//! Must hold: a look-up that fails takes nobody away; one replica that is slow delays no other.

use std::{
    collections::{BTreeMap, BTreeSet},
    convert::Infallible,
    io,
    net::SocketAddr,
    sync::Arc,
};

use powercap_process::{CredentialFiles, SigningClient};
use reqwest::Url;
use tokio::{
    net::lookup_host,
    sync::watch,
    task::{AbortHandle, JoinSet},
};

use super::{
    board::Board,
    metrics::Metrics,
    send::{Pace, Replica},
};

/// Keeps telling every Alertmanager at these addresses what is on the board.
pub async fn follow(
    urls: &[Url],
    files: &CredentialFiles,
    pace: Pace,
    board: &watch::Receiver<Arc<Board>>,
    metrics: &Metrics,
) -> Infallible {
    let mut tasks = JoinSet::new();
    let mut told = BTreeMap::<(&str, SocketAddr), AbortHandle>::new();
    let mut unknown = BTreeSet::new();
    loop {
        for url in urls {
            let addresses = match addresses(url).await {
                Ok(addresses) => addresses,
                Err(error) => {
                    if unknown.insert(url) {
                        tracing::warn!(%url, error = &error as &dyn std::error::Error, "no Alertmanager is found");
                    }
                    continue;
                }
            };
            unknown.remove(url);
            told.retain(|(of, address), task| {
                let stays = *of != url.as_str() || addresses.contains(address);
                if !stays {
                    task.abort();
                }
                stays
            });
            for address in addresses {
                told.entry((url.as_str(), address)).or_insert_with(|| {
                    tracing::info!(%url, %address, "telling an Alertmanager");
                    let client = SigningClient::new(files.clone(), pace.patience);
                    let client = client.to_replica(url.host_str().unwrap_or_default(), address);
                    let name = format!("{url} at {address}");
                    let replica = Replica::new(name, url.as_str(), client, pace, metrics.clone());
                    tasks.spawn(replica.follow(board.clone()))
                });
            }
        }
        metrics.alertmanagers(told.len());
        tokio::time::sleep(pace.look_up).await;
        while tasks.try_join_next().is_some() {}
    }
}

async fn addresses(url: &Url) -> io::Result<BTreeSet<SocketAddr>> {
    // Brackets are the URL's way to write an address of version 6.
    let host = url.host_str().unwrap_or_default().trim_start_matches('[').trim_end_matches(']');
    let port = url.port_or_known_default().unwrap_or(80);
    Ok(lookup_host((host, port)).await?.collect())
}
