//! Rotations of the webhook's authority under load: nobody is ever turned down.
//!
//! ```text
//!   rotate ──▶ Secret ◀──▶ two keepers ──▶ caBundle ──▶ API server ──dry runs, new connections──▶ ┐
//!                              │              └──────▶ clients, new connections and lasting ones ─▶ two TLS servers
//!                              └── identity, shown from the next handshake on ───────────────────▶ ┘
//! ```
//! What calls is a real API server, whose verdict on a bundle is the one that counts, and clients that go by a bundle
//! for almost as long as the overlap lets them.

use std::{
    net::{Ipv4Addr, SocketAddr, TcpListener},
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use axum::{Json, Router, routing::post};
use axum_server::tls_rustls::{RustlsConfig, from_tcp_rustls};
use k8s_openapi::api::{
    admissionregistration::v1::ValidatingWebhookConfiguration,
    core::v1::{ConfigMap, Namespace},
};
use kube::{
    Api, Client,
    api::{Patch, PatchParams, PostParams},
};
use powercap_certs::{
    Identity, Own, PerHandshake, Periods, Source, keep,
    keeper::{KeepError, Stored, rotate},
};
use rustls::{ServerConfig, crypto::ring};
use serde_json::{Value, json};
use tokio::{sync::watch, task::JoinSet, time::sleep};

/// The namespace, the webhook configuration, and who wrote them.
const NAME: &str = "rotation";
/// What the servers are called by.
const HOST: &str = "localhost";
const REPLICAS: usize = 2;
/// Of each kind.
const CALLERS: usize = 2;
/// As in a cluster, but for the times. An API server under load hears of a bundle within half a second.
const PERIODS: Periods = Periods {
    authority: Duration::from_secs(86_400),
    leaf: Duration::from_secs(9),
    overlap: Duration::from_secs(1),
    skew: Duration::ZERO,
    look_every: Duration::from_millis(50),
};
/// For how long a client goes by a bundle that it has read.
const BELIEVED: Duration = Duration::from_millis(600);
const PAUSE: Duration = Duration::from_millis(5);
const PATIENCE: Duration = Duration::from_secs(30);

/// What came of it.
#[derive(Debug)]
pub struct Outcome {
    /// How many authorities signed one after the other.
    pub rotations: u32,
    /// How many calls were made to the servers, by clients and through the API server.
    pub calls: u64,
    /// How many of them failed.
    pub failures: u64,
    /// What the first of those said.
    pub first_failure: Option<String>,
}

#[derive(Default)]
struct Tally {
    calls: AtomicU64,
    failures: AtomicU64,
    first_failure: OnceLock<String>,
}

impl Tally {
    fn count(&self, called: Result<()>) {
        self.calls.fetch_add(1, Ordering::Relaxed);
        if let Err(error) = called {
            self.failures.fetch_add(1, Ordering::Relaxed);
            let _only_the_first = self.first_failure.set(format!("{error:#}"));
        }
    }
}

/// Rotates so many times, one after the other, while everybody calls.
///
/// # Errors
/// When the API server refuses what this needs, or a rotation does not come to its end.
pub async fn under_load(client: &Client, rotations: u32) -> Result<Outcome> {
    // The error means that there is a provider already, which is what we want.
    let _already = ring::default_provider().install_default();
    let own = Own {
        client: client.clone(),
        namespace: NAME.to_owned(),
        names: vec![HOST.to_owned()],
        registration: NAME.to_owned(),
        periods: PERIODS,
    };
    let mut tasks = JoinSet::new();
    let listeners = listeners()?;
    let ports = listeners.iter().map(TcpListener::local_addr).collect::<Result<Vec<_>, _>>()?;
    register(client, &ports).await?;
    for listener in listeners {
        let config = shown(keep(Source::Own(Box::new(own.clone()))).await)?;
        listener.set_nonblocking(true).context("prepare a listener")?;
        let server = from_tcp_rustls(listener, config)?;
        tasks.spawn(async move { server.serve(router().into_make_service()).await.unwrap_or_default() });
    }
    until_called(client).await?;

    let tally = Arc::new(Tally::default());
    let (sender, bundle) = watch::channel(published(client).await?);
    tasks.spawn(follow(client.clone(), sender));
    for at in 0..CALLERS {
        let address = ports[at % ports.len()];
        tasks.spawn(call_through(client.clone(), Arc::clone(&tally)));
        tasks.spawn(call_anew(address, bundle.clone(), Arc::clone(&tally)));
        tasks.spawn(call_on(address, bundle.clone(), Arc::clone(&tally)));
    }
    for _ in 0..rotations {
        rotate_once(&own).await?;
    }
    sleep(PERIODS.overlap).await;
    tasks.shutdown().await;
    Ok(Outcome {
        rotations,
        calls: tally.calls.load(Ordering::Relaxed),
        failures: tally.failures.load(Ordering::Relaxed),
        first_failure: tally.first_failure.get().cloned(),
    })
}

fn listeners() -> Result<Vec<TcpListener>> {
    (0..REPLICAS).map(|_| TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("listen")).collect()
}

fn shown(identity: watch::Receiver<Arc<Identity>>) -> Result<RustlsConfig> {
    let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(PerHandshake::new(identity)));
    Ok(RustlsConfig::from_config(Arc::new(config)))
}

/// Allows whatever it is asked about.
fn router() -> Router {
    let answer = async |Json(review): Json<Value>| {
        let response = json!({"uid": review["request"]["uid"], "allowed": true});
        Json(json!({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "response": response}))
    };
    Router::new().route("/", post(answer))
}

/// Has the API server ask each server about every ConfigMap of the namespace.
async fn register(client: &Client, servers: &[SocketAddr]) -> Result<()> {
    let apply = PatchParams::apply(NAME).force();
    let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAME}});
    Api::<Namespace>::all(client.clone()).patch(NAME, &apply, &Patch::Apply(namespace)).await?;
    let webhooks: Vec<_> = servers
        .iter()
        .enumerate()
        .map(|(at, server)| {
            json!({
                "name": format!("replica-{at}.{NAME}.example"),
                "clientConfig": {"url": format!("https://{HOST}:{}/", server.port())},
                "rules": [{"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["configmaps"]}],
                "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": NAME}},
                "failurePolicy": "Fail", "sideEffects": "None", "admissionReviewVersions": ["v1"], "timeoutSeconds": 5,
            })
        })
        .collect();
    let registration = json!({
        "apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingWebhookConfiguration",
        "metadata": {"name": NAME}, "webhooks": webhooks,
    });
    let api = Api::<ValidatingWebhookConfiguration>::all(client.clone());
    api.patch(NAME, &apply, &Patch::Apply(registration)).await.context("register the webhooks")?;
    Ok(())
}

/// The bundle that the API server goes by.
async fn published(client: &Client) -> Result<String> {
    let api = Api::<ValidatingWebhookConfiguration>::all(client.clone());
    let webhooks = api.get(NAME).await.context("read the bundle")?.webhooks.unwrap_or_default();
    let bundle = webhooks.into_iter().find_map(|webhook| webhook.client_config.ca_bundle);
    Ok(String::from_utf8(bundle.context("no bundle is published")?.0)?)
}

async fn follow(client: Client, bundle: watch::Sender<String>) {
    loop {
        if let Ok(present) = published(&client).await {
            bundle.send_if_modified(|bundle| {
                let changed = *bundle != present;
                *bundle = present;
                changed
            });
        }
        sleep(PERIODS.look_every).await;
    }
}

/// A ConfigMap that is not made, only asked about.
async fn dry_run(client: &Client) -> Result<()> {
    let api = Api::<ConfigMap>::namespaced(client.clone(), NAME);
    let asked = ConfigMap {
        metadata: kube::api::ObjectMeta { generate_name: Some("asked-".to_owned()), ..Default::default() },
        ..ConfigMap::default()
    };
    let params = PostParams { dry_run: true, ..PostParams::default() };
    api.create(&params, &asked).await.context("through the API server")?;
    Ok(())
}

/// Until the API server has heard of the first bundle.
async fn until_called(client: &Client) -> Result<()> {
    let begun = Instant::now();
    while let Err(error) = dry_run(client).await {
        ensure!(begun.elapsed() < PATIENCE, "the API server gets no answer: {error:#}");
        sleep(Duration::from_millis(100)).await;
    }
    Ok(())
}

async fn call_through(client: Client, tally: Arc<Tally>) {
    loop {
        tally.count(dry_run(&client).await);
        sleep(PAUSE).await;
    }
}

/// Calls with a new connection each time, for a while by the same bundle.
async fn call_anew(server: SocketAddr, bundle: watch::Receiver<String>, tally: Arc<Tally>) {
    loop {
        let (believed, since) = (bundle.borrow().clone(), Instant::now());
        while since.elapsed() < BELIEVED {
            tally.count(async { call(&trusting(&believed)?, server).await }.await);
            sleep(PAUSE).await;
        }
    }
}

/// Calls on one connection, until the bundle changes.
async fn call_on(server: SocketAddr, mut bundle: watch::Receiver<String>, tally: Arc<Tally>) {
    loop {
        let believed = bundle.borrow_and_update().clone();
        match trusting(&believed) {
            Err(error) => tally.count(Err(error)),
            Ok(client) => {
                while !bundle.has_changed().unwrap_or_default() {
                    tally.count(call(&client, server).await);
                    sleep(PAUSE).await;
                }
            }
        }
    }
}

fn trusting(bundle: &str) -> Result<reqwest::Client> {
    let authorities = reqwest::Certificate::from_pem_bundle(bundle.as_bytes())?;
    Ok(reqwest::Client::builder().tls_certs_only(authorities).timeout(Duration::from_secs(5)).build()?)
}

async fn call(client: &reqwest::Client, server: SocketAddr) -> Result<()> {
    let review = json!({"request": {"uid": "1"}});
    let request = client.post(format!("https://{HOST}:{}/", server.port())).json(&review);
    let answer: Value = request.send().await?.error_for_status()?.json().await?;
    ensure!(answer["response"]["allowed"] == true, "not allowed: {answer}");
    Ok(())
}

/// Announces the next authority and waits until it signs.
async fn rotate_once(own: &Own) -> Result<()> {
    let begun = Instant::now();
    let announced = loop {
        match rotate(own).await {
            Ok(held) => break held.next.context("nothing was announced")?,
            Err(KeepError::TooMany | KeepError::Conflict) if begun.elapsed() < PATIENCE => sleep(PAUSE).await,
            Err(error) => return Err(error.into()),
        }
    };
    while Stored::read(own).await?.held.authority.as_ref() != Some(&announced) {
        ensure!(begun.elapsed() < PATIENCE, "the announced authority does not sign");
        sleep(PERIODS.look_every).await;
    }
    Ok(())
}
