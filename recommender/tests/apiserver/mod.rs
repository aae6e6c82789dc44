//! An API server on a real socket, as much of it as the recommender uses: lists in pages, watches with
//! bookmarks, server-side apply, merge patches, subresources, Leases that are replaced in their version.
//! It misbehaves when told to, and keeps account of what nodes were promised.

mod http;
mod ledger;
mod link;
mod store;

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

pub use self::{
    link::Link,
    store::{Apply, Key, Refusal, Store},
};
use serde_json::{Value, json};
use tokio::{net::TcpListener, sync::watch};

/// How requests are answered.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub enum Manner {
    #[default]
    Well,
    /// With this status, and `Retry-After: 1`.
    Status(u16),
    /// Every write but of Leases conflicts.
    Conflicting,
    /// After this long.
    Slow(Duration),
    /// Watches end, and none can begin where the last one ended.
    Gone,
    /// Patches of NodeFrequencies in terms up to this one are held on their way until [`ApiServer::let_go`].
    Holding(i64),
}

/// A write that was carried out.
#[derive(Clone, Debug)]
pub struct Write {
    pub at: Instant,
    pub key: Key,
}

/// The server; clones share it.
#[derive(Clone)]
pub struct ApiServer {
    /// Where clients find it.
    pub url: String,
    shared: Arc<Shared>,
}

struct Shared {
    state: Mutex<State>,
    manner: watch::Sender<Manner>,
    link: watch::Sender<Link>,
    /// Whether what is held may go on; what is held listens to it.
    let_go: watch::Sender<bool>,
    /// The version of the newest change.
    news: watch::Sender<u64>,
}

/// What it knows.
#[derive(Default)]
pub struct State {
    pub store: Store,
    /// Writes by the recommender, Leases left out.
    pub writes: Vec<Write>,
    /// Of all requests, by the first word of what became of them.
    pub requests: BTreeMap<String, u64>,
    /// Agents acknowledge what they are told after this.
    pub agents_take: Option<Duration>,
    /// After so many writes nothing is answered any more.
    pub writes_left: Option<usize>,
    /// When a Lease was read.
    pub looks: Vec<Instant>,
}

impl ApiServer {
    /// Serves from now on, on a port of its own.
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (address, link) = link::lay(listener.local_addr().unwrap()).await;
        let shared = Shared {
            state: Mutex::default(),
            manner: watch::Sender::default(),
            link,
            let_go: watch::Sender::default(),
            news: watch::Sender::default(),
        };
        let server = Self { url: format!("http://{address}"), shared: Arc::new(shared) };
        let router = axum::Router::new().fallback(http::answer).with_state(server.clone());
        tokio::spawn(async move { axum::serve(listener, router).await });
        server
    }

    /// What it knows, to be looked at and changed; whoever changes objects calls [`Self::tell`].
    pub fn state(&self) -> MutexGuard<'_, State> {
        self.shared.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// From now on it answers so.
    pub fn behave(&self, manner: Manner) {
        if manner == Manner::Gone {
            self.state().store.forget();
        }
        self.shared.manner.send_replace(manner);
        self.tell();
    }

    /// From now on the wire is so.
    pub fn wire(&self, link: Link) {
        self.shared.link.send_replace(link);
    }

    /// How many connections are open. One whose client died counts until what came over it was read.
    pub fn connections(&self) -> usize {
        self.shared.link.receiver_count()
    }

    /// How many requests are held on their way. One that its client gave up is not.
    pub fn held(&self) -> usize {
        self.shared.let_go.receiver_count()
    }

    /// What is held on its way arrives, and so does what comes later.
    pub fn let_go(&self) {
        self.shared.let_go.send_replace(true);
    }

    /// Watches are told what changed.
    pub fn tell(&self) {
        let version = self.state().store.version();
        self.shared.news.send_replace(version);
    }

    /// Makes or replaces an object, as a person would.
    pub fn put(&self, key: &Key, object: Value) {
        self.state().store.put(key, object).unwrap();
        self.tell();
    }

    /// Edits an object by a merge patch, as a person would.
    pub fn edit(&self, key: &Key, patch: &Value) {
        self.state().store.merge(key, patch).unwrap();
        self.tell();
    }

    /// Deletes an object.
    pub fn delete(&self, key: &Key) {
        self.state().store.delete(key).unwrap();
        self.tell();
    }

    /// A kubeconfig for it.
    pub fn kubeconfig(&self) -> String {
        json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "test",
            "clusters": [{"name": "test", "cluster": {"server": self.url}}],
            "users": [{"name": "test", "user": {"token": "test"}}],
            "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test"}}],
        })
        .to_string()
    }

    /// The agent of a node reads what it is told, and acknowledges it.
    fn acknowledge(&self, node: &str) {
        let key = Key::of("nodefrequencies", node);
        {
            let mut state = self.state();
            let boot_id =
                state.store.get(&Key::of("nodes", node)).map(|node| node["status"]["nodeInfo"]["bootID"].clone());
            let Some((object, boot_id)) = state.store.get(&key).zip(boot_id) else { return };
            let spec = &object["spec"];
            let gpus: Vec<_> = (0..8).map(|board| board_status(node, board)).collect();
            let status = json!({"status": {
                "acknowledged": {"epoch": spec["epoch"], "powerLimitWatts": spec["powerLimitWatts"]},
                "bootID": boot_id, "gpuCount": 8, "gpus": gpus, "heartbeatTime": jiff::Timestamp::now().to_string(),
                "cpus": [{"cpufreqPolicy": 0, "minMegahertz": 800, "maxMegahertz": 3800, "state": "Applied", "reason": "RoomToRaise"}],
            }});
            state.store.merge(&key, &status).unwrap();
        }
        self.tell();
    }
}

fn board_status(node: &str, board: usize) -> Value {
    json!({
        "uuid": format!("GPU-{node}-{board}"), "model": "NVIDIA H100 80GB HBM3", "state": "Applied", "reason": "RoomToRaise",
        "minGraphicsMegahertz": 345, "maxGraphicsMegahertz": 1980, "minPowerLimitWatts": 200, "maxPowerLimitWatts": 700,
    })
}
