//! Writes events on the Node.
//!
//! What must hold: nothing waits for it, neither the loop nor the status; an event that cannot be written
//! is dropped and counted, since status, metrics and log say the same.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use k8s_openapi::{
    api::{core::v1::ObjectReference, events::v1::Event},
    apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta},
    jiff::Timestamp,
};
use kube::{Api, Client, api::PostParams};
use tokio::sync::{mpsc, watch};

use super::{
    events::{Chronicle, Notice},
    metrics::{Announced, Metrics},
    report::Report,
};

/// Events of objects without a namespace live here.
const NAMESPACE: &str = "default";
const CONTROLLER: &str = "powercapping.io/actuator";
const CALL_TIMEOUT: Duration = Duration::from_secs(5);
/// So many events wait for the API server, no more.
const QUEUE: usize = 16;

/// Announces what changes in the reports, for ever.
pub async fn announce(client: Client, node: String, reports: watch::Receiver<Arc<Report>>, metrics: Metrics) {
    let (sender, receiver) = mpsc::channel(QUEUE);
    tokio::join!(follow(reports, sender, &metrics), write_all(client, &node, receiver, &metrics));
}

async fn follow(mut reports: watch::Receiver<Arc<Report>>, notices: mpsc::Sender<Notice>, metrics: &Metrics) {
    let start = Instant::now();
    let mut chronicle: Option<Chronicle> = None;
    while reports.changed().await.is_ok() {
        let report = Arc::clone(&reports.borrow_and_update());
        if report.subject.is_none() {
            continue;
        }
        let chronicle = chronicle.get_or_insert_with(|| {
            let boot_id = &report.statement.status.boot_id;
            let of_this_boot = report.earlier.as_ref().filter(|earlier| earlier.boot_id == *boot_id);
            of_this_boot.map(|earlier| Chronicle::after(earlier)).unwrap_or_default()
        });
        for notice in chronicle.next(&report.statement, start.elapsed()) {
            if notices.try_send(notice).is_err() {
                metrics.announced(Announced::Failed, 1);
            }
        }
        match chronicle.suppressed() {
            0 => {}
            count => metrics.announced(Announced::Suppressed, count),
        }
    }
}

async fn write_all(client: Client, node: &str, mut notices: mpsc::Receiver<Notice>, metrics: &Metrics) {
    let events: Api<Event> = Api::namespaced(client, NAMESPACE);
    while let Some(notice) = notices.recv().await {
        let event = event(node, &notice);
        let parameters = PostParams::default();
        let written = tokio::time::timeout(CALL_TIMEOUT, events.create(&parameters, &event)).await;
        let (reason, note) = (notice.reason, notice.note);
        match written {
            Ok(Ok(_)) => {
                tracing::info!(%reason, note, "wrote an event");
                metrics.announced(Announced::Written, 1);
            }
            Ok(Err(error)) => {
                tracing::warn!(%reason, note, %error, "an event could not be written");
                metrics.announced(Announced::Failed, 1);
            }
            Err(_) => {
                tracing::warn!(%reason, note, "an event was not answered within 5 s");
                metrics.announced(Announced::Failed, 1);
            }
        }
    }
}

fn event(node: &str, notice: &Notice) -> Event {
    Event {
        metadata: ObjectMeta {
            generate_name: Some(format!("{node}-")),
            namespace: Some(NAMESPACE.to_owned()),
            ..ObjectMeta::default()
        },
        event_time: Some(MicroTime(Timestamp::now())),
        type_: Some(if notice.warning { "Warning" } else { "Normal" }.to_owned()),
        reason: Some(notice.reason.as_str().to_owned()),
        note: Some(notice.note.clone()),
        action: Some("CapPower".to_owned()),
        regarding: Some(ObjectReference {
            api_version: Some("v1".to_owned()),
            kind: Some("Node".to_owned()),
            name: Some(node.to_owned()),
            // As kubelets write it: `kubectl describe node` looks for this.
            uid: Some(node.to_owned()),
            ..ObjectReference::default()
        }),
        reporting_controller: Some(CONTROLLER.to_owned()),
        // At most 128 characters, and a name of a node has up to 253.
        reporting_instance: Some(node.chars().take(128).collect()),
        ..Event::default()
    }
}
