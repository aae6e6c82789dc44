//! A real cluster on one machine, the demo, and the tests on both.
#![forbid(unsafe_code)]

pub mod beside;
pub mod cluster;
pub mod deployment;
pub mod figures;
pub mod rotation;

/// A client of the cluster that tests may touch, see [`cluster::existing`].
///
/// # Panics
/// When there is none: a test that needs a cluster has failed without one.
pub async fn client() -> kube::Client {
    let config = cluster::existing::config().await;
    #[allow(clippy::panic, reason = "called by tests alone")]
    match config.map(kube::Client::try_from) {
        Ok(Ok(client)) => client,
        Ok(Err(refused)) => panic!("{}", cluster::events::chain(&refused)),
        Err(refused) => panic!("{}", cluster::events::chain(&refused)),
    }
}
