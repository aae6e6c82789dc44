//! The node role: observe, decide, apply, report.
//!
//! ```text
//!  NodeFrequencies ──watch──▶ orders ─┐
//!                                     ▼
//!  boards, CPUs ──threads──▶ observation ──▶ decide ──▶ apply ──▶ threads ──▶ boards, CPUs
//!                                               └──────▶ report ──▶ NodeFrequencies.status
//! ```
//!
//! The loop runs ten times a second, and at once when orders change or a board draws more than its
//! share. Nothing in it waits: devices have threads, the API has tasks.
//!
//! What must hold: at its end, however it ends, every ceiling stays in force, and at its start nothing
//! is touched before there are orders.

pub mod announce;
pub mod apply;
pub mod audit;
pub mod decide;
pub mod events;
pub mod metrics;
pub mod observation;
pub mod observe;
pub mod orders;
pub mod report;
pub mod status;
pub mod tenants;

use std::{
    borrow::Cow,
    sync::Arc,
    time::{Duration, Instant},
};

use powercap_common::{api::Epoch, condition, reason::Reason};
use powercap_process::{Health, Pulse, Readiness, serve, shutdown_signal};
use prometheus_client::registry::Registry;
use tokio::{sync::watch, time::MissedTickBehavior};

use crate::flags::NodeFlags;
use audit::Audit;
use decide::{Plan, State, decide};
use metrics::{Metrics, Step};
use observe::{Devices, spec::Sight};
use report::Report;
use status::Particulars;
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
    // The label by which the recommender knows whose series they are, whatever scrapes them.
    let labels = [(Cow::Borrowed("node"), Cow::Owned(flags.node_name.clone()))];
    let mut registry = Registry::with_labels(labels.into_iter());
    let metrics = Metrics::new(&mut registry);

    let devices = Devices::default();
    let period = flags.loop_period();
    observe::boards::start(devices.clone(), flags.nvml_library.clone(), period, metrics.clone())
        .map_err(NodeError::StartThread)?;
    observe::host::start(Arc::clone(&devices.host), &flags.cpufreq_root, &flags.powercap_root, period, metrics.clone())
        .map_err(NodeError::StartThread)?;

    let client = client().await?;
    let (sight_sender, sights) = watch::channel(Sight::default());
    let (report_sender, reports) = watch::channel(Report::default());
    let boot_id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default().trim().to_owned();
    let watching = observe::spec::watch(client.clone(), flags.node_name.clone(), sight_sender, spec_read);
    let announcing = announce::announce(client.clone(), flags.node_name.clone(), reports.clone(), metrics.clone());
    let reporting = report::report(client, flags.node_name.clone(), reports, metrics.clone());
    let (tenancy_sender, tenancy) = watch::channel(Arc::new(Tenancy::default()));
    let asking = observe::tenants::watch(flags.pod_resources_socket, devices.clone(), tenancy_sender, metrics.clone());
    let control = Loop {
        devices,
        sights,
        tenancy,
        audit: Audit::default(),
        reports: report_sender,
        metrics,
        gpus_known: Some(gpus_known),
        pulse: health.pulse("loop", STUCK_AFTER),
        boot_id,
        start,
        plan: Plan::default(),
        known: false,
        unacknowledged_since: None,
    };
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let serving = serve(flags.listen, health, Arc::new(registry), async move {
        let _dropped = stopped.await;
    });
    tokio::select! {
        () = shutdown_signal() => {
            tracing::info!("ending; every ceiling stays in force");
            drop(stop);
            Ok(())
        }
        () = control.run(period) => Ok(()),
        () = watching => Ok(()),
        () = reporting => Ok(()),
        () = announcing => Ok(()),
        () = asking => Ok(()),
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
    tenancy: watch::Receiver<Arc<Tenancy>>,
    audit: Audit,
    reports: watch::Sender<Report>,
    metrics: Metrics,
    gpus_known: Option<Readiness>,
    pulse: Pulse,
    boot_id: String,
    start: Instant,
    plan: Plan,
    /// The object's earlier status was taken in.
    known: bool,
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
            }
            self.turn();
            self.pulse.beat();
        }
    }

    fn turn(&mut self) {
        let began = Instant::now();
        let sight = self.sights.borrow_and_update().clone();
        self.remember(&sight);
        let seen = self.devices.observe(self.start);
        if seen.gpus != observation::GpuAccess::Starting
            && let Some(gpus_known) = self.gpus_known.take()
        {
            gpus_known.met();
        }
        let began = self.took(Step::Observe, began);
        let orders = sight.orders.as_deref();
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
        let particulars = Particulars { profiles: &profiles, tenancy: &tenancy };
        let problem = sight.problem.as_deref();
        let statement =
            status::state(&seen, orders, &self.plan.account, problem, generation, &self.boot_id, particulars);
        let looking = seen.gpus == observation::GpuAccess::Starting && self.start.elapsed() < LOOKING;
        let subject = sight.object.filter(|_| !looking);
        self.reports.send_replace(Report { statement, subject, earlier: sight.earlier_status });
        self.took(Step::Report, began);
    }

    /// Notes how long a step took; the next one begins now.
    fn took(&self, step: Step, began: Instant) -> Instant {
        let now = Instant::now();
        self.metrics.stepped(step, now - began);
        now
    }

    /// Takes over what an earlier life of this agent had reported, once.
    fn remember(&mut self, sight: &Sight) {
        let (false, Some(earlier), Some(orders)) = (self.known, &sight.earlier_status, &sight.orders) else { return };
        self.known = true;
        if earlier.boot_id.as_deref() != Some(self.boot_id.as_str()) {
            return;
        }
        self.plan.state = State::remembering(earlier.acknowledged);
        let ready = earlier.conditions.iter().find(|condition| condition.type_ == condition::kind::READY);
        let released = ready.is_some_and(|ready| ready.reason == Reason::Released.as_str());
        if released && orders.release {
            self.plan.state = self.plan.state.clone().released();
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
