//! Writes the status when it is worth it.
//!
//! What must hold: the newest statement is written, never an old one late; a write that fails is
//! repeated with growing pauses; no call waits for ever.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use k8s_openapi::{apimachinery::pkg::apis::meta::v1::Time, jiff::Timestamp};
use kube::{
    Api, Client,
    api::{Patch, PatchParams},
};
use powercap_common::{
    api::{NodeFrequencies, NodeFrequenciesStatus},
    condition,
};
use tokio::sync::watch;

use super::{
    metrics::Metrics,
    observe::spec::Subject,
    status::{Allowance, HEARTBEAT, Statement, Verdict, worth_writing},
};

/// Owner of the status's fields.
const FIELD_MANAGER: &str = "powercap-actuator";
const CALL_TIMEOUT: Duration = Duration::from_secs(5);
const FIRST_PAUSE: Duration = Duration::from_millis(500);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// What is to be said, and about which object.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Report {
    /// What is to be said.
    pub statement: Statement,
    /// The object; `None`: there is none to write to.
    pub subject: Option<Subject>,
    /// What the object said when this agent first saw it.
    pub earlier: Option<Arc<NodeFrequenciesStatus>>,
}

/// Writes reports for ever.
pub async fn report(client: Client, node: String, mut reports: watch::Receiver<Arc<Report>>, metrics: Metrics) {
    let api: Api<NodeFrequencies> = Api::all(client);
    let mut writer = Writer {
        conditions: Vec::new(),
        written: None,
        pause: Duration::ZERO,
        tried_at: None,
        jitter: jitter(&node),
        start: Instant::now(),
        allowance: Allowance::default(),
    };
    while reports.changed().await.is_ok() {
        let report = Arc::clone(&reports.borrow_and_update());
        let Some(subject) = &report.subject else { continue };
        if !writer.due(subject, &report.statement) {
            continue;
        }
        if let (None, Some(earlier)) = (&writer.written, &report.earlier) {
            writer.conditions.clone_from(&earlier.conditions);
        }
        let status = writer.complete(&report.statement);
        writer.allowance = writer.allowance.spent(writer.start.elapsed());
        let result = write(&api, &node, subject, &status).await;
        metrics.reported(result.is_ok());
        match result {
            Ok(()) => writer.succeeded(subject, report.statement.clone(), status),
            Err(error) => {
                writer.failed();
                tracing::warn!(%error, again_in_ms = writer.pause.as_millis(), "the status could not be written");
            }
        }
    }
}

struct Writer {
    conditions: Vec<k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition>,
    written: Option<(Subject, Statement, Instant)>,
    pause: Duration,
    tried_at: Option<Instant>,
    jitter: Duration,
    start: Instant,
    allowance: Allowance,
}

impl Writer {
    fn due(&self, subject: &Subject, statement: &Statement) -> bool {
        if self.tried_at.is_some_and(|at| at.elapsed() < self.pause) {
            return false;
        }
        if !self.allowance.permits(self.start.elapsed()) {
            return false;
        }
        // Nodes that began together do not report together.
        let age = |at: &Instant| {
            at.elapsed() + if at.elapsed() + self.jitter >= HEARTBEAT { self.jitter } else { Duration::ZERO }
        };
        match self.written.as_ref().filter(|(written, ..)| written.uid == subject.uid) {
            Some((_, last, at)) => worth_writing(Some(last), statement, age(at)),
            None => true,
        }
    }

    fn complete(&self, statement: &Statement) -> NodeFrequenciesStatus {
        let now = Time(Timestamp::now());
        let mut conditions = self.conditions.clone();
        let generation = statement.status.observed_generation;
        let mut say = |kind, verdict: &Verdict| {
            let message = verdict.message.clone();
            condition::set(&mut conditions, kind, verdict.truth, verdict.reason, message, generation, now.clone());
        };
        say(condition::kind::READY, &statement.ready);
        match &statement.lease {
            Some(lease) => say(condition::kind::LEASE_CURRENT, lease),
            None => conditions.retain(|condition| condition.type_ != condition::kind::LEASE_CURRENT),
        }
        NodeFrequenciesStatus { conditions, heartbeat_time: Some(now), ..statement.status.clone() }
    }

    fn succeeded(&mut self, subject: &Subject, statement: Statement, status: NodeFrequenciesStatus) {
        self.conditions = status.conditions;
        self.written = Some((subject.clone(), statement, Instant::now()));
        self.pause = Duration::ZERO;
    }

    fn failed(&mut self) {
        self.pause = (self.pause * 2).clamp(FIRST_PAUSE, LONGEST_PAUSE);
        self.tried_at = Some(Instant::now());
    }
}

#[derive(Debug, thiserror::Error)]
enum WriteStatus {
    #[error("the API server refused: {0}")]
    Refused(#[source] Box<kube::Error>),
    #[error("the API server did not answer within 5 s")]
    TimedOut,
}

async fn write(
    api: &Api<NodeFrequencies>,
    node: &str,
    subject: &Subject,
    status: &NodeFrequenciesStatus,
) -> Result<(), WriteStatus> {
    // The uid makes the API server refuse when the object was deleted and made again meanwhile.
    let patch = serde_json::json!({
        "apiVersion": "powercapping.io/v1alpha1",
        "kind": "NodeFrequencies",
        "metadata": { "name": node, "uid": subject.uid },
        "status": status,
    });
    let parameters = PatchParams::apply(FIELD_MANAGER).force();
    let patch = Patch::Apply(&patch);
    let call = api.patch_status(node, &parameters, &patch);
    match tokio::time::timeout(CALL_TIMEOUT, call).await {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(error)) => Err(WriteStatus::Refused(Box::new(error))),
        Err(_) => Err(WriteStatus::TimedOut),
    }
}

/// Up to a tenth of the heartbeat's period, by the node's name.
fn jitter(node: &str) -> Duration {
    let spread = node.bytes().fold(0_u64, |sum, byte| sum.wrapping_mul(31).wrapping_add(u64::from(byte)));
    Duration::from_millis(spread % 30_000)
}
