//! The API server: a client that gives up soon, and caches that watches keep up to date.
//!
//! Must hold: a watch that broke, or on which nothing comes any more, is asked anew within seconds; what was deleted
//! meanwhile counts as a change; a cache that has no first list never looks like an empty cluster.

mod lean;

use std::{collections::HashMap, fmt::Debug, hash::Hash, pin::pin, sync::Arc, time::Duration};

use futures::{Stream, StreamExt, TryStreamExt};
use kube::{
    Api, Client, Config, Resource,
    runtime::{
        WatchStreamExt,
        reflector::{self, Store},
        utils::Backoff,
        watcher,
    },
};
use serde::de::DeserializeOwned;
use tokio::{sync::Notify, task::JoinSet};

pub use self::lean::Lean;

/// The API server is near.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// A watch is asked anew after this. A connection on which nothing comes any more is noticed within
/// [`SILENT_AFTER`].
const WATCH_SECONDS: u32 = 25;
/// An API server that has not sent a byte for this long is not there: a watch ends before.
const SILENT_AFTER: Duration = Duration::from_secs(WATCH_SECONDS as u64 + 5);
/// A watch that broke is asked anew no later than after this: what was changed while the API server was away is to be
/// seen soon after.
const ASKED_ANEW_WITHIN: Duration = Duration::from_secs(8);

/// Why there is no client.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody says where the API server is.
    #[error("neither in a pod nor is there a kubeconfig")]
    FindApi(#[source] kube::config::InferConfigError),
    /// What is said of it makes no client.
    #[error("cannot make a client of the API server")]
    MakeClient(#[source] kube::Error),
}

/// A client that fails at once where kube's own would retry for minutes: who asks retries, and watches are asked anew.
///
/// # Errors
/// When nobody says where the API server is, or what is said makes no client.
pub async fn client() -> Result<Client, ClientError> {
    let mut config = Config::infer().await.map_err(ClientError::FindApi)?;
    config.default_retry = false;
    config.connect_timeout = Some(CONNECT_TIMEOUT);
    // A request on a connection that swallows everything would wait for ever: a watch is guarded only once it
    // has begun.
    config.read_timeout = Some(SILENT_AFTER);
    config.reset_reader_on_write = true;
    Client::try_from(config).map_err(ClientError::MakeClient)
}

/// A watch of everything of a kind, which ends before the [`client`] takes its silence for a broken connection.
#[must_use]
pub fn everything() -> watcher::Config {
    watcher::Config::default().timeout(WATCH_SECONDS)
}

/// A cache of one kind, kept up to date by a task. `slim` takes away what nobody needs; managed fields are not even
/// read. `changed` is notified when an object's `digest` changes, when one is new, and when one may be gone.
pub fn reflect<K>(
    api: Api<Lean<K>>,
    config: watcher::Config,
    slim: fn(&mut K),
    digest: fn(&K) -> u64,
    changed: &Arc<Notify>,
    tasks: &mut JoinSet<()>,
) -> Store<K>
where
    K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + Sync + 'static,
{
    let (store, writer) = reflector::store();
    let stream = watcher(api, config).backoff(Pauses::default()).map_ok(bare).modify(slim).reflect(writer);
    tasks.spawn(follow(stream, digest, Arc::clone(changed)));
    store
}

fn bare<K>(event: watcher::Event<Lean<K>>) -> watcher::Event<K> {
    match event {
        watcher::Event::Apply(Lean(object)) => watcher::Event::Apply(object),
        watcher::Event::Delete(Lean(object)) => watcher::Event::Delete(object),
        watcher::Event::Init => watcher::Event::Init,
        watcher::Event::InitApply(Lean(object)) => watcher::Event::InitApply(object),
        watcher::Event::InitDone => watcher::Event::InitDone,
    }
}

async fn follow<K: Resource<DynamicType = ()>>(
    stream: impl Stream<Item = watcher::Result<watcher::Event<K>>>,
    digest: fn(&K) -> u64,
    changed: Arc<Notify>,
) {
    let mut seen = HashMap::new();
    let mut stream = pin!(stream);
    while let Some(event) = stream.next().await {
        match event {
            Ok(watcher::Event::Apply(object) | watcher::Event::InitApply(object)) => {
                let digest = digest(&object);
                if seen.insert(key(&object), digest) != Some(digest) {
                    changed.notify_one();
                }
            }
            Ok(watcher::Event::Delete(object)) => {
                seen.remove(&key(&object));
                changed.notify_one();
            }
            // A list after a break may lack what was deleted meanwhile.
            Ok(watcher::Event::InitDone) => changed.notify_one(),
            Ok(watcher::Event::Init) => {}
            Err(error) => {
                let kind = K::kind(&());
                tracing::warn!(%kind, error = &error as &dyn std::error::Error, "a watch broke; trying again");
            }
        }
    }
}

fn key<K: Resource>(object: &K) -> impl Hash + Eq + use<K> {
    (object.meta().namespace.clone(), object.meta().name.clone())
}

/// kube's own pauses, which grow, none of them longer than [`ASKED_ANEW_WITHIN`].
#[derive(Default)]
struct Pauses(watcher::DefaultBackoff);

impl Iterator for Pauses {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        self.0.next().map(|pause| pause.min(ASKED_ANEW_WITHIN))
    }
}

impl Backoff for Pauses {
    fn reset(&mut self) {
        self.0.reset();
    }
}
