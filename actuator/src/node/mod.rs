//! The node role: observe, decide, apply, report.
//!
//! ```text
//!  NodeFrequencies ──watch──▶ orders ──▶ standing ─┐   ◀── leader's Lease, domains' brakes, node's lock
//!                                                  ▼
//!  boards, CPUs ──threads──▶ observation ──▶ decide ──▶ apply ──▶ threads ──▶ boards, CPUs
//!                                               ├──────▶ report ──▶ NodeFrequencies.status
//!                                     pods ─▶ advertise ──▶ Node.status: powercapping.io/watts
//! ```
//!
//! The loop runs ten times a second, and at once when orders change or a board draws more than its
//! share. Nothing in it waits: devices have threads, the API has tasks.
//!
//! What must hold: one agent acts on a node, the one that holds its lock; at its end,
//! however it ends, every ceiling stays in force, and at its start nothing is touched before there are
//! orders.

pub mod advertise;
pub mod announce;
pub mod apply;
pub mod audit;
pub mod brake;
pub mod decide;
pub mod events;
pub mod heard;
pub mod journal;
pub mod lease;
pub mod metrics;
pub mod observation;
pub mod observe;
pub mod orders;
pub mod originals;
pub mod report;
pub mod restraint;
pub mod standing;
pub mod status;
pub mod tenants;

use std::{
    borrow::Cow,
    sync::Arc,
    time::{Duration, Instant},
};

use powercap_common::{api::Epoch, reason::Reason};
use powercap_process::{Health, Pulse, Readiness, serve, shutdown_signal};
use prometheus_client::registry::Registry;
use tokio::{
    sync::watch,
    task::{JoinError, JoinSet},
    time::MissedTickBehavior,
};

use crate::flags::NodeFlags;
use advertise::decide::Order;
use audit::Audit;
use brake::Brakes;
use decide::{Plan, decide};
use journal::Ownership;
use lease::Renewals;
use metrics::{Metrics, Step};
use observe::{Devices, boards::Places, letting_go, spec::Sight};
use orders::Orders;
use originals::{Note, Originals};
use report::Report;
use standing::{Circumstances, Earlier, Standing};
use status::{Particulars, Problems};
use tenants::Tenancy;

/// A loop that has not turned for this long is stuck, and Kubernetes should restart it.
const STUCK_AFTER: Duration = Duration::from_secs(10);

/// While boards are looked for after the start, nothing is reported for this long.
const LOOKING: Duration = Duration::from_secs(5);

/// The node role could not be started, or ended.
#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    /// There is no way to the API server.
    #[error("no Kubernetes API: {0}; in a pod give it a service account, elsewhere set KUBECONFIG")]
    FindApi(#[source] kube::config::InferConfigError),
    /// The client could not be made.
    #[error("the Kubernetes client could not be made")]
    MakeClient(#[source] kube::Error),
    /// A device's thread could not be started.
    #[error("a device's thread could not be started")]
    StartThread(#[source] std::io::Error),
    /// Health and metrics cannot be served.
    #[error(transparent)]
    Serve(#[from] powercap_process::ServeError),
}

/// Runs the node role until SIGTERM or SIGINT. Every ceiling stays in force.
///
/// # Errors
/// When it cannot start, or its HTTP server fails.
pub async fn run(flags: NodeFlags) -> Result<(), NodeError> {
    let start = Instant::now();
    let health = Health::default();
    let spec_read = health.needs("spec", "first list of NodeFrequencies");
    let gpus_known = health.needs("boards", "looking for boards");
    let lock = health.needs("lock", "the lock of this node");
    // The label by which the recommender knows whose series they are, whatever scrapes them.
    let labels = [(Cow::Borrowed("node"), Cow::Owned(flags.node_name.clone()))];
    let mut registry = Registry::with_labels(labels.into_iter());
    let metrics = Metrics::new(&mut registry);

    let boot_id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default().trim().to_owned();
    let (journal, ownership) = journal::open(&flags.journal, &boot_id).map_err(NodeError::StartThread)?;
    let devices = Devices::journalled(journal);
    let period = flags.loop_period();
    let places = Places { nvml: flags.nvml_library.clone(), pci: flags.pci_root.clone() };
    observe::boards::start(devices.clone(), places, flags.sample_period(), metrics.clone())
        .map_err(NodeError::StartThread)?;
    observe::host::start(Arc::clone(&devices.host), &flags.cpufreq_root, &flags.powercap_root, period, metrics.clone())
        .map_err(NodeError::StartThread)?;

    let client = client().await?;
    let (sight_sender, sights) = watch::channel(Sight::default());
    let (report_sender, reports) = watch::channel(Arc::<Report>::default());
    let (brake_sender, brakes) = watch::channel(Brakes::default());
    let (renewal_sender, renewals) = watch::channel(Renewals::default());
    let watching = observe::spec::watch(client.clone(), flags.node_name.clone(), sight_sender, spec_read);
    let node_watched = letting_go::watch(client.clone(), flags.node_name.clone(), devices.clone());
    let braking = brake::watch(client.clone(), brake_sender);
    let (namespace, name) = (flags.lease_namespace.clone(), flags.lease_name.clone());
    heard::start(&flags.journal, &boot_id, start, renewal_sender.clone()).map_err(NodeError::StartThread)?;
    let listening = lease::watch(client.clone(), namespace, name, start, renewal_sender);
    let announcing = announce::announce(client.clone(), flags.node_name.clone(), reports.clone(), metrics.clone());
    let (order_sender, offers) = watch::channel(None);
    let advertising = advertise::advertise(client.clone(), flags.node_name.clone(), offers, metrics.clone());
    let reporting = report::report(client, flags.node_name.clone(), reports, metrics.clone());
    let (tenancy_sender, tenancy) = watch::channel(Arc::new(Tenancy::default()));
    let asking = observe::tenants::watch(flags.pod_resources_socket, devices.clone(), tenancy_sender, metrics.clone());
    let control = Loop {
        devices,
        sights,
        brakes,
        renewals,
        ownership,
        lock,
        tenancy,
        audit: Audit::default(),
        reports: report_sender,
        offers: order_sender,
        metrics,
        gpus_known: Some(gpus_known),
        pulse: health.pulse("loop", STUCK_AFTER),
        boot_id,
        start,
        plan: Plan::default(),
        standing: Standing::default(),
        earlier: None,
        unacknowledged_since: None,
    };
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let serving = serve(flags.listen, health, Arc::new(registry), async move {
        let _dropped = stopped.await;
    });
    // Tasks of their own: what wakes one of them polls no other.
    let mut parts = JoinSet::new();
    parts.spawn(control.run(period));
    parts.spawn(watching);
    parts.spawn(node_watched);
    parts.spawn(braking);
    parts.spawn(listening);
    parts.spawn(reporting);
    parts.spawn(announcing);
    parts.spawn(advertising);
    parts.spawn(asking);
    tokio::select! {
        () = shutdown_signal() => {
            tracing::info!("ending; every ceiling stays in force");
            drop(stop);
            Ok(())
        }
        Some(ended) = parts.join_next() => match ended.map_err(JoinError::try_into_panic) {
            Err(Ok(panic)) => std::panic::resume_unwind(panic),
            Ok(()) | Err(Err(_)) => Ok(()),
        },
        result = serving => result.map_err(NodeError::from),
    }
}

async fn client() -> Result<kube::Client, NodeError> {
    let mut config = kube::Config::infer().await.map_err(NodeError::FindApi)?;
    config.connect_timeout = Some(Duration::from_secs(5));
    // We repeat calls ourselves, with what is newest then.
    config.default_retry = false;
    kube::Client::try_from(config).map_err(NodeError::MakeClient)
}

/// The control loop and what it knows.
struct Loop {
    devices: Devices,
    sights: watch::Receiver<Sight>,
    brakes: watch::Receiver<Brakes>,
    renewals: watch::Receiver<Renewals>,
    ownership: watch::Receiver<Ownership>,
    lock: Readiness,
    tenancy: watch::Receiver<Arc<Tenancy>>,
    audit: Audit,
    reports: watch::Sender<Arc<Report>>,
    offers: watch::Sender<Option<Order>>,
    metrics: Metrics,
    gpus_known: Option<Readiness>,
    pulse: Pulse,
    boot_id: String,
    start: Instant,
    plan: Plan,
    standing: Standing,
    /// What earlier lives of this agent left, once it was taken in.
    earlier: Option<Earlier>,
    unacknowledged_since: Option<(Epoch, Instant)>,
}

impl Loop {
    async fn run(mut self, period: Duration) {
        let mut ticks = tokio::time::interval(period);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let alarm = Arc::clone(&self.devices.alarm);
            tokio::select! {
                _ = ticks.tick() => {}
                () = alarm.notified() => {}
                changed = self.sights.changed() => if changed.is_err() { return },
                changed = self.brakes.changed() => if changed.is_err() { return },
            }
            self.turn();
            self.pulse.beat();
        }
    }

    fn turn(&mut self) {
        let began = Instant::now();
        let sight = self.sights.borrow_and_update().clone();
        let ownership = self.ownership.borrow().clone();
        self.tell_ownership(&ownership);
        self.remember(&sight, &ownership);
        let orders = self.standing(&sight, &ownership);
        let seen = self.devices.observe(self.start);
        if seen.gpus != observation::GpuAccess::Starting
            && let Some(gpus_known) = self.gpus_known.take()
        {
            gpus_known.met();
        }
        let began = self.took(Step::Observe, began);
        let orders = orders.as_ref();
        self.plan = decide(&seen, orders, &self.plan.state);
        let began = self.took(Step::Decide, began);
        let boards: Vec<_> = seen.boards.iter().map(|board| Arc::clone(&board.traits.uuid)).collect();
        apply::apply(&self.plan, &boards, &self.devices);
        let began = self.took(Step::Apply, began);
        apply::tell(&self.audit.next(&seen, orders, &self.plan));
        let waiting = self.unacknowledged(orders.map(|orders| orders.epoch));
        let (profiles, tenancy) = (self.devices.profiles(), Arc::clone(&self.tenancy.borrow()));
        self.metrics.decided(&seen, orders, &self.plan, &tenancy, waiting);
        let generation = orders.map_or(0, |orders| orders.generation);
        let trouble = self.devices.journal.trouble();
        let problems = Problems { spec: sight.problem.as_deref(), journal: trouble.as_deref() };
        let particulars = Particulars { profiles: &profiles, tenancy: &tenancy };
        let statement =
            status::state(&seen, orders, &self.plan.account, &problems, generation, &self.boot_id, particulars);
        let looking = seen.gpus == observation::GpuAccess::Starting && self.start.elapsed() < LOOKING;
        // Until orders stand, the status is what an earlier life left: the next one may need it yet.
        let ours = orders.is_some() || (matches!(ownership, Ownership::Ours(_)) && sight.orders.is_none());
        self.offer(orders, sight.object.is_some());
        let subject = sight.object.filter(|_| ours && !looking);
        self.reports.send_replace(Arc::new(Report { statement, subject, earlier: sight.earlier_status }));
        self.took(Step::Report, began);
    }

    /// Notes how long a step took; the next one begins now.
    fn took(&self, step: Step, began: Instant) -> Instant {
        let now = Instant::now();
        self.metrics.stepped(step, now - began);
        now
    }

    /// The orders as they stand now.
    fn standing(&mut self, sight: &Sight, ownership: &Ownership) -> Option<Orders> {
        let (orders, earlier) = (sight.orders.as_ref()?, self.earlier.as_ref()?);
        let (brakes, mut renewals) = (self.brakes.borrow_and_update(), self.renewals.borrow().clone());
        self.metrics.lease_seen(renewals.age(self.start.elapsed()));
        if earlier.lease_expired && !renewals.seen() {
            renewals.expired_before();
        }
        let at = Circumstances { ownership, brakes: &brakes, renewals: &renewals, earlier };
        self.standing.next(orders, at, self.start.elapsed())
    }

    /// Says what becomes of offers under these orders. An object that is gone says nothing of offers any more.
    fn offer(&self, orders: Option<&Orders>, has_object: bool) {
        let order = orders.map(|orders| if has_object { Order::of(orders) } else { Order::Close });
        self.offers.send_if_modified(|offered| std::mem::replace(offered, order) != order);
    }

    /// Takes over what earlier lives of this agent have left, once.
    fn remember(&mut self, sight: &Sight, ownership: &Ownership) {
        let (None, Some(status), Some(orders)) = (&self.earlier, &sight.earlier_status, &sight.orders) else { return };
        let originals = match ownership {
            Ownership::Ours(originals) => Originals::clone(originals),
            Ownership::Asking if self.start.elapsed() >= standing::PATIENCE => Originals::unknown(),
            Ownership::Asking | Ownership::Another => return,
        };
        let earlier = Earlier::of(status, &self.boot_id);
        if earlier.check(&originals) != originals {
            self.devices.journal.note(&[Note::EarlierLife]);
        }
        self.plan.state = earlier.resume(&originals, orders, self.start.elapsed());
        self.earlier = Some(earlier);
    }

    fn tell_ownership(&self, ownership: &Ownership) {
        match ownership {
            Ownership::Ours(_) => self.lock.met(),
            Ownership::Another => {
                self.lock.lost(format!("{}: {}", Reason::AnotherAgent, Reason::AnotherAgent.explanation()));
            }
            Ownership::Asking => {}
        }
    }

    /// How long the present orders have waited to be acknowledged.
    fn unacknowledged(&mut self, epoch: Option<Epoch>) -> Duration {
        let acknowledged = self.plan.account.acknowledged.map(|acknowledged| acknowledged.epoch);
        match epoch {
            Some(epoch) if acknowledged != Some(epoch) => {
                let (_, since) = *self.unacknowledged_since.get_or_insert((epoch, Instant::now()));
                since.elapsed()
            }
            _ => {
                self.unacknowledged_since = None;
                Duration::ZERO
            }
        }
    }
}
