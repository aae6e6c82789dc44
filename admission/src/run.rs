//! The process: caches, then reviews, until it is told to end; alerts beside them.
//!
//! ```text
//!   caches synced, certificate ─▶ TLS listens ─▶ ready ── SIGTERM ─▶ not ready, still answering ─▶ drained ─▶ ended
//!                                                    └─ the Lease is renewed ─────────────────────┘
//! ```

use std::{pin::pin, sync::Arc};

use anyhow::Context;
use axum::Router;
use futures::future::{join, try_join};
use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::Lease;
use kube::{Api, Client};
use powercap_certs::{Identity, Own, PerHandshake, Periods, Source};
use powercap_process::{Health, Readiness, kubernetes, serve as serve_health, shutdown_signal};
use tokio::{
    net::TcpListener,
    sync::{oneshot, watch},
    task::JoinSet,
};

use crate::{
    alerts::{self, Sources, Validity, WithoutHeadroom},
    flags::Flags,
    lease,
    metrics::Metrics,
    observe::{Observer, Watched},
    serve,
    validate::{self, Looker},
};

/// Runs until SIGTERM or SIGINT.
///
/// # Errors
/// When it cannot start (no client, no certificate, a port that is taken), or a part of it ends.
pub async fn run(flags: Flags) -> anyhow::Result<()> {
    let client = kubernetes::client().await?;
    let (metrics, mut registry) = Metrics::register();
    let of_alerts = alerts::Metrics::register(&mut registry);
    let health = Health::default();
    let caches = health.needs("caches", "the first lists of policies, namespaces, nodes, boards, limits and quotas");
    let listening = health.needs("webhook", "a certificate, and a port to listen on");
    let mut tasks = JoinSet::new();
    let observer = Observer::start(&client, &mut tasks);
    let watched = observer.watched();
    let mut signal = pin!(shutdown_signal());
    let mut monitored = pin!(serve_health(flags.listen, health, Arc::new(registry), std::future::pending()));

    let webhook = tokio::select! {
        () = &mut signal => return Ok(()),
        ended = &mut monitored => return ended.context("the HTTP server"),
        webhook = Webhook::prepare(&flags, &client, observer, watched.clone(), &caches, &metrics, &mut tasks) => webhook?,
    };
    let leases: Api<Lease> = Api::namespaced(client, &flags.namespace);
    let Webhook { listener, certificates, router, without_headroom } = webhook;
    let certificate = validity(certificates.clone(), &mut tasks);
    let sources = Sources { watched, leases: leases.clone(), without_headroom, certificate };
    tasks.spawn(alerts::run(flags.alerts.clone(), sources, of_alerts));
    let renewal = tasks.spawn(lease::renew(leases, flags.identity.clone(), metrics.clone()));
    listening.met();
    tracing::info!(listen = %flags.webhook_listen, "answering reviews");
    let (stop, stopped) = oneshot::channel::<()>();
    let shown = Arc::new(PerHandshake::new(certificates));
    let mut serving =
        pin!(serve::serve(listener, shown, router, serve::IDLE_TIMEOUT, metrics, async { _ = stopped.await }));
    let ended = tokio::select! {
        () = &mut signal => Ok(()),
        ended = &mut monitored => ended.context("the HTTP server"),
        () = &mut serving => Err(anyhow::anyhow!("nobody answers reviews any more")),
        Some(ended) = tasks.join_next() => Err(anyhow::anyhow!("a watch or a task ended: {ended:?}")),
    };

    listening.lost("it is about to end");
    renewal.abort();
    let linger = async {
        tokio::time::sleep(flags.linger()).await;
        _ = stop.send(());
    };
    tokio::select! {
        ((), ()) = join(serving, linger) => ended,
        _ = monitored => ended,
    }
}

/// What is needed to answer reviews.
struct Webhook {
    listener: TcpListener,
    certificates: watch::Receiver<Arc<Identity>>,
    router: Router,
    without_headroom: WithoutHeadroom,
}

impl Webhook {
    async fn prepare(
        flags: &Flags,
        client: &Client,
        observer: Observer,
        watched: Watched,
        caches: &Readiness,
        metrics: &Metrics,
        tasks: &mut JoinSet<()>,
    ) -> anyhow::Result<Self> {
        let synced = async {
            observer.synced().await.context("a cache ended before its first list")?;
            caches.met();
            anyhow::Ok(())
        };
        let certificates = async { Ok(powercap_certs::keep(source(flags, client)).await) };
        let ((), certificates) = try_join(synced, certificates).await?;
        let (cluster, publish) = observer.publish();
        tasks.spawn(publish);
        let without_headroom = WithoutHeadroom::default();
        let waits = {
            let without_headroom = without_headroom.clone();
            move |namespace: &str| {
                tracing::info!(namespace, "a new pod has to wait: no node offers its watts");
                without_headroom.note(namespace, Timestamp::now());
            }
        };
        let judging = validate::router(Looker { client: client.clone(), watched });
        let router = serve::router(cluster, metrics.clone(), Arc::new(waits)).merge(judging);
        let listener = TcpListener::bind(flags.webhook_listen).await;
        let listener = listener.with_context(|| format!("cannot listen on {}", flags.webhook_listen))?;
        Ok(Self { listener, certificates, router, without_headroom })
    }
}

/// Whence the certificates come.
fn source(flags: &Flags, client: &Client) -> Source {
    if let Some(folder) = &flags.certificates_from {
        return Source::Files(folder.clone());
    }
    Source::Own(Box::new(Own {
        client: client.clone(),
        namespace: flags.namespace.clone(),
        names: vec![format!("{}.{}.svc", flags.service, flags.namespace)],
        registration: flags.registration.clone(),
        periods: Periods::default(),
    }))
}

/// From when to when what is shown is valid, for the alert.
fn validity(
    mut certificates: watch::Receiver<Arc<Identity>>,
    tasks: &mut JoinSet<()>,
) -> watch::Receiver<Option<Validity>> {
    let of = |identity: &Identity| Validity { since: identity.leaf().not_before(), until: identity.expires() };
    let (sender, receiver) = watch::channel(Some(of(&certificates.borrow())));
    tasks.spawn(async move {
        while certificates.changed().await.is_ok() {
            sender.send_replace(Some(of(&certificates.borrow())));
        }
    });
    receiver
}
