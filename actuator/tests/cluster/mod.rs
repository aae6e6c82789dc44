//! A cluster of one namespace on a real socket: as much of an API server as escalation writes to, the controllers
//! that answer an eviction, and a recommender that lists victims while power is above the cap.
//!
//! Every write is counted, and can be the last that is heard of, or be held on its way; but for events, which no
//! leader waits for: those can be left without an answer, all of them.

mod http;
mod world;

use std::sync::{
    Arc, Mutex, MutexGuard, PoisonError,
    atomic::{AtomicBool, Ordering},
};

use serde_json::Value;
use tokio::{net::TcpListener, sync::Notify};

pub use self::world::{World, at};

/// What happens to the write of a number, counted from one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Fault {
    #[default]
    None,
    /// It is carried out, and nobody hears of it.
    After(usize),
    /// It never arrives.
    Before(usize),
    /// It is held until it is let go; those after it are served.
    Held(usize),
}

/// The server; clones share it.
#[derive(Clone)]
pub struct Cluster {
    pub url: String,
    shared: Arc<Shared>,
}

struct Shared {
    world: Mutex<World>,
    fault: Mutex<(Fault, usize)>,
    struck: Notify,
    let_go: Notify,
    events_hang: AtomicBool,
    events: Mutex<Vec<Value>>,
}

impl Cluster {
    /// Serves this world.
    pub async fn serve(world: World) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let shared = Shared {
            world: Mutex::new(world),
            fault: Mutex::default(),
            struck: Notify::new(),
            let_go: Notify::new(),
            events_hang: AtomicBool::new(false),
            events: Mutex::default(),
        };
        let cluster = Self { url, shared: Arc::new(shared) };
        let router = axum::Router::new().fallback(http::answer).with_state(cluster.clone());
        tokio::spawn(async move { axum::serve(listener, router).await });
        cluster
    }

    /// What is there, to be looked at and changed.
    pub fn world(&self) -> MutexGuard<'_, World> {
        self.shared.world.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// From now on writes are counted, and this one meets this.
    pub fn strike(&self, fault: Fault) {
        *self.fault() = (fault, 0);
    }

    /// How many writes there were since then.
    pub fn writes(&self) -> usize {
        self.fault().1
    }

    /// Completes when the fault has struck.
    pub async fn struck(&self) {
        self.shared.struck.notified().await;
    }

    /// What is held arrives.
    pub fn let_go(&self) {
        self.shared.let_go.notify_one();
    }

    /// From now on no event is answered.
    pub fn hang_events(&self) {
        self.shared.events_hang.store(true, Ordering::Relaxed);
    }

    /// The events that came, in their order.
    pub fn events(&self) -> MutexGuard<'_, Vec<Value>> {
        self.shared.events.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A client that tries nothing twice.
    pub fn client(&self) -> kube::Client {
        let mut config = kube::Config::new(self.url.parse().unwrap());
        config.default_retry = false;
        kube::Client::try_from(config).unwrap()
    }

    fn fault(&self) -> MutexGuard<'_, (Fault, usize)> {
        self.shared.fault.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
