//! A receiver of alerts on loopback, which believes what Alertmanager would: an alert fires until its `endsAt`.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};

use axum::{
    Json, Router,
    extract::State,
    http::{HeaderMap, StatusCode, header::AUTHORIZATION},
    routing::post,
};
use jiff::Timestamp;
use serde::Deserialize;
use tokio::{net::TcpListener, runtime::Runtime};

use crate::process::free;

/// How it behaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mood {
    Well,
    /// It takes what comes, and answers too late.
    Slow,
    /// It answers 500 and takes nothing.
    Broken,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Alert {
    labels: BTreeMap<String, String>,
    ends_at: Timestamp,
}

/// What it was sent.
#[derive(Default)]
pub struct Heard {
    mood: Option<Mood>,
    /// By the alert's name and subject.
    ends: BTreeMap<String, Timestamp>,
    /// Alerts of this domain it does not take.
    pub refuses: Option<&'static str>,
    /// How often an alert came that it does not take.
    pub refused: usize,
    pub tokens: BTreeSet<String>,
}

/// The receiver, here or away.
pub struct Receiver {
    pub address: SocketAddr,
    pub heard: Arc<Mutex<Heard>>,
    running: Option<Runtime>,
}

impl Receiver {
    pub fn start() -> Self {
        let mut receiver = Self { address: free(), heard: Arc::default(), running: None };
        receiver.come_back();
        receiver
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Its port is closed and every connection cut.
    pub fn go_away(&mut self) {
        if let Some(running) = self.running.take() {
            running.shutdown_background();
        }
    }

    pub fn come_back(&mut self) {
        if self.running.is_some() {
            return;
        }
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let (address, heard) = (self.address, Arc::clone(&self.heard));
        let (bound, listening) = std::sync::mpsc::channel();
        runtime.spawn(async move {
            // The one that went away may not have let go of its port yet.
            let listener = loop {
                match TcpListener::bind(address).await {
                    Ok(listener) => break listener,
                    Err(_) => tokio::time::sleep(Duration::from_millis(1)).await,
                }
            };
            bound.send(()).unwrap();
            let router = Router::new().route("/api/v2/alerts", post(take)).with_state(heard);
            axum::serve(listener, router).await.unwrap();
        });
        listening.recv().unwrap();
        self.running = Some(runtime);
    }

    /// Forgets everything, as one that has no disk does at its restart.
    pub fn restart(&mut self) {
        self.go_away();
        self.heard.lock().unwrap().ends.clear();
        self.come_back();
    }

    pub fn be(&self, mood: Mood) {
        self.heard.lock().unwrap().mood = Some(mood);
    }

    /// Until when it believes that an alert of this domain fires.
    pub fn believes_until(&self, domain: &str) -> Timestamp {
        self.heard.lock().unwrap().ends[domain]
    }

    /// What it believes to fire now.
    pub fn believes(&self) -> BTreeSet<String> {
        let now = Timestamp::now();
        let heard = self.heard.lock().unwrap();
        heard.ends.iter().filter(|(_, ends)| **ends > now).map(|(name, _)| name.clone()).collect()
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        // A runtime must not be dropped where it would wait.
        self.go_away();
    }
}

async fn take(
    State(heard): State<Arc<Mutex<Heard>>>,
    headers: HeaderMap,
    Json(alerts): Json<Vec<Alert>>,
) -> (StatusCode, &'static str) {
    let (mood, refused) = {
        let mut heard = heard.lock().unwrap();
        let mood = heard.mood.unwrap_or(Mood::Well);
        let token = headers.get(AUTHORIZATION).map(|token| token.to_str().unwrap().to_owned());
        heard.tokens.extend(token);
        let (bad, good): (Vec<_>, Vec<_>) = alerts.into_iter().partition(|alert| {
            heard.refuses.is_some_and(|refused| alert.labels.get("domain").is_some_and(|domain| domain == refused))
        });
        if mood != Mood::Broken {
            // As Alertmanager does: what is sound of a message that it answers with 400 is taken.
            for Alert { labels, ends_at } in good {
                let name = labels.get("domain").cloned().unwrap_or_default();
                heard.ends.insert(name, ends_at);
            }
        }
        heard.refused += bad.len();
        (mood, !bad.is_empty())
    };
    match mood {
        Mood::Broken => (StatusCode::INTERNAL_SERVER_ERROR, "broken"),
        Mood::Slow => {
            tokio::time::sleep(Duration::from_millis(400)).await;
            (StatusCode::OK, "")
        }
        Mood::Well if refused => (StatusCode::BAD_REQUEST, "a label is not to its liking"),
        Mood::Well => (StatusCode::OK, ""),
    }
}
