//! The escalate role: what lower clocks cannot do is done to workloads, rung by rung, and undone.
//!
//! ```text
//!  API server ──▶ observe ──▶ observation ──▶ decide (pure) ──▶ plan ──▶ apply: status, then the step
//! ```
//!
//! Several may run: one leads, by a Lease. What a leader must know stands in the status of policies and on the
//! objects; what it remembers beside that saves calls, no more.

pub mod apply;
pub mod ceilings;
pub mod decide;
pub mod metrics;
pub mod migrate;
pub mod observation;
pub mod observe;
pub mod suspend;

use std::{sync::Arc, time::Duration};

use anyhow::Context;
use k8s_openapi::{api::coordination::v1::Lease, jiff::Timestamp};
use kube::Api;
use powercap_process::{
    Health, Pulse, kubernetes,
    leader::{Candidate, Leadership},
    replica::{self, Stop},
    serve,
};
use tokio::{
    sync::{Notify, watch},
    task::JoinSet,
};

use self::{
    apply::Writer,
    ceilings::stored::Kind,
    decide::decide,
    metrics::Metrics,
    observation::{Limits, Memory, ObjectName, Observation, PodName, Question},
    observe::{Observer, surroundings::Surroundings},
};
use crate::flags::EscalateFlags;

/// The Lease: who acts.
pub const LEASE: &str = "powercap-escalate";
const DECIDE_EVERY: Duration = Duration::from_secs(1);
/// Changes come in flocks.
const DEBOUNCE: Duration = Duration::from_millis(100);
/// A turn in which every call times out takes less.
const TURN_TAKES_AT_MOST: Duration = Duration::from_secs(120);

/// Runs until SIGTERM or SIGINT.
///
/// # Errors
/// When it cannot start (no client, a port that is taken), or a part of it ends.
pub async fn run(flags: EscalateFlags) -> anyhow::Result<()> {
    let client = kubernetes::client().await?;
    let (metrics, registry) = Metrics::register();
    let health = Health::default();
    let caches = health.needs("caches", "the first lists of policies, domains, pods, nodes, budgets and Jobs");
    let (stop, changed) = (Stop::default(), Arc::new(Notify::new()));
    let mut tasks = JoinSet::new();
    let leases: Api<Lease> = Api::namespaced(client.clone(), &flags.lease_namespace);
    let observer = Observer::start(&client, leases.clone(), &changed, &mut tasks);
    let server = serve(flags.listen, health.clone(), Arc::new(registry), stop.told());
    let (no_candidate, no_turn) = (stop.told(), stop.told());
    let work = async {
        observer.synced().await.context("a cache ended before its first list")?;
        caches.met();
        let (candidate, leadership) = Candidate::new(leases, LEASE, replica::identity(&flags.identity));
        let turns = Turns {
            observer,
            surroundings: Surroundings::new(client.clone(), Arc::clone(&changed)),
            writer: Writer::new(client, flags.identity.clone(), metrics.clone()),
            leadership,
            changed,
            metrics,
            memory: Memory::default(),
            limits: flags.limits(),
            term: 0,
        };
        // On its own: a long turn must not cost the lease.
        let leading = tokio::spawn(candidate.run(|| 0, no_candidate));
        let turning = turns.run(health.pulse("turns", TURN_TAKES_AT_MOST), no_turn);
        let (led, ()) = futures::future::join(leading, turning).await;
        led.context("the candidate for the lease ended")
    };
    let parts = async {
        tokio::select! {
            ended = server => ended.context("the HTTP server"),
            Some(ended) = tasks.join_next() => Err(anyhow::anyhow!("a watch ended: {ended:?}")),
        }
    };
    stop.run(work, parts).await
}

/// What the decision asks, and pods whose CPU limits are ours.
fn asked(seen: &Observation, mut questions: Vec<Question>) -> Vec<Question> {
    let known = |name: &ObjectName| seen.ceilings.objects.contains_key(name);
    let resized = seen.pods.iter().filter(|(_, pod)| pod.resized).map(|(PodName { namespace, name }, _)| ObjectName {
        kind: Kind::Pod,
        namespace: namespace.clone(),
        name: name.clone(),
    });
    questions.extend(resized.filter(|name| !known(name)).map(Question::Object));
    questions
}

struct Turns {
    observer: Observer,
    surroundings: Surroundings,
    writer: Writer,
    leadership: watch::Receiver<Option<Leadership>>,
    changed: Arc<Notify>,
    metrics: Metrics,
    memory: Memory,
    limits: Limits,
    term: i64,
}

impl Turns {
    async fn run(mut self, pulse: Pulse, stop: impl Future<Output = ()>) {
        let mut stop = std::pin::pin!(stop);
        let changed = Arc::clone(&self.changed);
        loop {
            pulse.beat();
            tokio::select! {
                () = &mut stop => return,
                () = tokio::time::sleep(DECIDE_EVERY) => {}
                () = changed.notified() => tokio::time::sleep(DEBOUNCE).await,
            }
            self.turn().await;
        }
    }

    /// One turn: observe, decide, apply.
    async fn turn(&mut self) {
        let leadership = self.leadership.borrow().filter(Leadership::lasts);
        self.metrics.leading(leadership.is_some());
        let Some(leadership) = leadership else { return };
        if self.term != leadership.term {
            (self.term, self.memory) = (leadership.term, Memory::default());
            self.surroundings.begin();
        }
        let mut seen = self.observer.observe(&self.memory, self.limits);
        seen.ceilings = self.surroundings.known();
        seen.jobs.extend(suspend::jobs(&seen.ceilings));
        let plan = decide(&seen, Timestamp::now());
        self.metrics.decided(&seen, &plan);
        // What is done is forgotten with the objects.
        self.memory.done.retain(|uid| seen.pods.values().any(|pod| pod.uid == *uid));
        let state = self.leadership.clone();
        let leads = move || state.borrow().filter(|now| now.lasts() && now.term == leadership.term);
        for policy in self.writer.carry_out(&plan, &mut self.memory, leads).await {
            self.observer.note(policy);
        }
        plan.steps.iter().for_each(|step| self.surroundings.forget(step));
        self.surroundings.ask(&asked(&seen, plan.questions));
    }
}
