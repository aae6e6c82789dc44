//! The loop: something happened or time passed → observe → decide → apply.
//!
//! An event waits 20 ms for its like, so that an edit that touches many objects is one decision, and for
//! nothing else: queries to Prometheus run beside the loop. A process that does not lead observes, so
//! that it can take over at once, and writes nothing.
//!
//! Ready means that the caches are synced: this process could lead. Prometheus being away is a condition
//! on policies and domains, not unreadiness: grants need no readings.

use std::{
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
    time::Duration,
};

use anyhow::Context;
use futures::FutureExt;
use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::Lease;
use kube::Api;
use powercap_process::{
    Health, Pulse, kubernetes,
    leader::{Candidate, Leadership},
    replica::{self, Stop},
    serve,
};
use tokio::{
    net::TcpListener,
    sync::{Notify, watch},
    task::JoinSet,
    time::Instant,
};

use crate::{
    apply::{Outcome, Writer, events::Announcer},
    decide::decide,
    flags::Flags,
    memory::Memory,
    metrics::Metrics,
    observation::{Observation, Telemetry},
    observe::{
        Observer,
        meters::Meters,
        names::Names,
        past::PastReader,
        prometheus::Prometheus,
        telemetry::{Inquiry, LatestTelemetry},
        tenants,
    },
    record::Recorder,
    scaler::{
        latest::{self, Publisher},
        serve::Port,
        service::Scaler,
    },
};

/// The Lease: who decides. Its transitions are the epoch's term.
pub const LEASE: &str = "powercap-recommender";

const DEBOUNCE: Duration = Duration::from_millis(20);
/// After a write that failed the decision is made again after this, then after twice as long, and so on.
const RETRY_AFTER: Duration = Duration::from_millis(500);
/// A cycle with every write timing out takes less.
const CYCLE_TAKES_AT_MOST: Duration = Duration::from_secs(90);
/// What autoscalers are told is of this many cycles ago at most.
const TOLD_FOR_CYCLES: u32 = 6;

/// Runs until SIGTERM or SIGINT.
///
/// # Errors
/// When it cannot start (no client, a port that is taken), or a part of it ends.
pub async fn run(flags: Flags) -> anyhow::Result<()> {
    let client = kubernetes::client().await?;
    let (metrics, registry) = Metrics::register();
    let health = Health::default();
    let caches =
        health.needs("caches", "the first lists of policies, domains, NodeFrequencies, nodes, namespaces and pods");
    let names = names(&flags)?;
    let keep = |folder| Recorder::start(folder, flags.record_limit(), metrics.clone());
    let recorder = flags.record.as_deref().map(keep).transpose()?;
    let prometheus = Arc::new(Prometheus::new(flags.access(), names.labels()));
    let (stop, changed, latest) = (Stop::default(), Arc::new(Notify::new()), LatestTelemetry::default());
    let mut tasks = JoinSet::new();
    let observer = Observer::start(&client, latest.clone(), flags.collection_interval(), &changed, &mut tasks);
    let leads = Arc::new(Notify::new());
    let past = PastReader::new(Arc::clone(&prometheus), names.clone(), latest.clone(), metrics.clone(), flags.span())
        .with_containers_in(observer.namespaces_of_use());
    tasks.spawn(past.follow(Arc::clone(&leads)));
    let meters = Meters::new(Arc::clone(&prometheus), latest.clone(), metrics.clone());
    tasks.spawn(meters.poll(flags.cycle(), observer.meter_queries(), Arc::clone(&changed)));
    let inquiry = Inquiry::new(prometheus, names, flags.collection_interval(), latest.clone(), metrics.clone());
    tasks.spawn(inquiry.poll(flags.cycle(), Arc::clone(&changed)));
    let (announcer, announcing) = Announcer::new(client.clone(), &flags.identity, metrics.clone());
    tasks.spawn(announcing);
    let scaler = scaler(&flags, &mut tasks).await?;
    let server = serve(flags.listen, health.clone(), Arc::new(registry), stop.told());
    let (no_candidate, no_cycle) = (stop.told(), stop.told());

    let work = async {
        observer.synced().await.context("a cache ended before its first list")?;
        caches.met();
        let leases: Api<Lease> = Api::namespaced(client.clone(), &flags.lease_namespace);
        let (candidate, leadership) = Candidate::new(leases, LEASE, replica::identity(&flags.identity));
        let cycle = Cycle {
            observer,
            writer: Writer::new(client, metrics.clone()),
            announcer,
            leadership,
            changed,
            latest,
            leads,
            metrics,
            memory: Memory::default(),
            terms_seen: Arc::default(),
            agent_lease_seconds: flags.agent_lease(),
            recorder,
            scaler,
        };
        let terms_seen = Arc::clone(&cycle.terms_seen);
        terms_seen.store(cycle.observer.highest_term(), Ordering::Relaxed);
        // On its own: a long decision must not cost the lease.
        let leading = tokio::spawn(candidate.run(move || terms_seen.load(Ordering::Relaxed), no_candidate));
        let deciding = cycle.run(flags.cycle(), health.pulse("decisions", CYCLE_TAKES_AT_MOST), no_cycle);
        let (led, ()) = futures::future::join(leading, deciding).await;
        led.context("the candidate for the lease ended")
    };
    let parts = async {
        tokio::select! {
            ended = server => ended.context("the HTTP server"),
            Some(ended) = tasks.join_next() => Err(anyhow::anyhow!("a watch or the poller ended: {ended:?}")),
        }
    };
    stop.run(work, parts).await
}

/// Serves autoscalers, where that is asked for.
async fn scaler(flags: &Flags, tasks: &mut JoinSet<()>) -> anyhow::Result<Option<Publisher>> {
    let Some(address) = flags.scaler_listen else { return Ok(None) };
    let listener = TcpListener::bind(address).await.with_context(|| format!("cannot listen on {address}"))?;
    let (publisher, latest) = latest::channel(flags.cycle().saturating_mul(TOLD_FOR_CYCLES));
    let port = Port { listener, certificates_from: flags.scaler_certificates_from.clone() };
    tasks.spawn(port.serve(Scaler::new(latest)));
    Ok(Some(publisher))
}

fn names(flags: &Flags) -> anyhow::Result<Names> {
    let Some(path) = &flags.metric_names_file else { return Ok(Names::default()) };
    Names::from_file(path).with_context(|| format!("the names of metrics in {}", path.display()))
}

struct Cycle {
    observer: Observer,
    writer: Writer,
    announcer: Announcer,
    leadership: watch::Receiver<Option<Leadership>>,
    changed: Arc<Notify>,
    latest: LatestTelemetry,
    /// Notified when a term begins: the past is read.
    leads: Arc<Notify>,
    metrics: Metrics,
    memory: Memory,
    terms_seen: Arc<AtomicI64>,
    agent_lease_seconds: Option<u32>,
    recorder: Option<Recorder>,
    scaler: Option<Publisher>,
}

impl Cycle {
    async fn run(mut self, every: Duration, pulse: Pulse, stop: impl Future<Output = ()>) {
        let mut stop = std::pin::pin!(stop);
        let changed = Arc::clone(&self.changed);
        loop {
            pulse.beat();
            let retry = RETRY_AFTER.saturating_mul(1 << self.memory.failures.min(6).saturating_sub(1));
            let next = Instant::now() + if self.memory.failures > 0 { retry.min(every) } else { every };
            tokio::select! {
                () = &mut stop => return,
                () = changed.notified() => {
                    tokio::time::sleep(DEBOUNCE).await;
                    // What came meanwhile is seen by this decision too.
                    _ = changed.notified().now_or_never();
                }
                () = tokio::time::sleep_until(next) => {}
                () = self.new_term() => {}
            }
            self.turn().await;
        }
    }

    /// Completes when leadership begins or ends.
    async fn new_term(&mut self) {
        let term = self.memory.term;
        let other = |state: &Option<Leadership>| state.map_or(0, |leadership| leadership.term) != term;
        if self.leadership.wait_for(other).await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    /// One turn: observe, decide, apply.
    async fn turn(&mut self) {
        let mut observation = self.observer.observe();
        self.terms_seen.store(self.observer.highest_term(), Ordering::Relaxed);
        let now = Timestamp::now();
        tenants::attribute(&mut observation, now);
        self.ages(&observation.telemetry, now);
        let leadership = self.leadership.borrow().filter(Leadership::lasts);
        self.metrics.leading(leadership.is_some());
        let Some(leadership) = leadership else {
            self.memory = Memory::default();
            self.metrics.forget();
            if let Some(scaler) = &self.scaler {
                scaler.publish(decide(&observation, now).figures.replicas);
            }
            return;
        };
        self.remember(leadership.term, &mut observation, now);
        let started = Instant::now();
        let plan = Arc::new(decide(&observation, now));
        self.metrics.decided(&plan.figures, started.elapsed());
        if let Some(scaler) = &self.scaler {
            scaler.publish(plan.figures.replicas.clone());
        }
        self.metrics.standing(&observation.policies, &observation.domains);
        self.memory.decided(&plan);
        self.announcer.tell(plan.notices.clone());
        match &self.recorder {
            Some(recorder) => recorder.keep(now, observation, Arc::clone(&plan)),
            None => drop(observation),
        }
        self.latest.update(|telemetry| Arc::make_mut(&mut telemetry.history).note(&plan.news, &plan.figures, now));
        if plan.is_empty() {
            self.memory.carried_out(&plan, &Outcome::default());
            return;
        }
        let state = self.leadership.clone();
        let leads = move || state.borrow().filter(|now| now.lasts() && now.term == leadership.term);
        let outcome = self.writer.apply(&plan, leads).await;
        let (nodes, policies, domains) = (plan.nodes.len(), plan.policies.len(), plan.domains.len());
        let took_ms = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
        tracing::debug!(nodes, policies, domains, failed = outcome.failed, took_ms, "applied a plan");
        self.memory.carried_out(&plan, &outcome);
        outcome.nodes.into_iter().for_each(|object| self.observer.written_frequencies.note(object));
        outcome.policies.into_iter().for_each(|object| self.observer.written_policies.note(object));
        outcome.domains.into_iter().for_each(|object| self.observer.written_domains.note(object));
    }

    /// Puts into the observation what this leader knows beside it.
    fn remember(&mut self, term: i64, observation: &mut Observation, now: Timestamp) {
        if self.memory.term != term {
            self.memory = Memory::of_term(term, &observation.policies, now);
            self.leads.notify_one();
        }
        observation.agent_lease_seconds = self.agent_lease_seconds;
        self.memory.put_into(observation);
    }

    fn ages(&self, telemetry: &Telemetry, now: Timestamp) {
        let age = |at: Option<Timestamp>| at.map(|at| now.duration_since(at).as_secs_f64());
        let gpus = telemetry.gpus.values().filter_map(|gpu| gpu.power).map(|power| power.at).min();
        let pods = telemetry.pod_cpu.values().map(|sample| sample.at);
        let cpus = telemetry.node_cpu.values().map(|sample| sample.at).chain(pods).min();
        self.metrics.data_age("dcgm", age(gpus));
        self.metrics.data_age("kepler", age(cpus));
        self.metrics.data_age("agent", age(telemetry.agent_cpu.values().map(|sample| sample.at).min()));
    }
}
