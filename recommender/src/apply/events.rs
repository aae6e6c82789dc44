//! Writes events on policies and pods.
//!
//! Must hold: nothing waits for it; an event that cannot be written is dropped and counted, since status,
//! metrics and log say the same. Only a leader decides what is told, so that only a leader tells.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::{
    api::{core::v1::ObjectReference, events::v1::Event},
    apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta},
};
use kube::{Api, Client, api::PostParams};
use powercap_common::api::GROUP;
use tokio::sync::mpsc::{Receiver, Sender, channel};

use crate::{
    decide::events::{Notice, Notices},
    metrics::Metrics,
    observation::Subject,
};

const CONTROLLER: &str = "powercapping.io/recommender";
const CALL_TIMEOUT: Duration = Duration::from_secs(3);
/// So many wait for the API server, no more.
const QUEUE: usize = 64;

/// Hands events over to the task that writes them.
#[derive(Clone)]
pub struct Announcer {
    queue: Sender<Notice>,
    metrics: Metrics,
}

impl Announcer {
    /// An announcer, and the task that writes for it as `instance`.
    pub fn new(client: Client, instance: &str, metrics: Metrics) -> (Self, impl Future<Output = ()> + Send + use<>) {
        let (queue, waiting) = channel(QUEUE);
        // At most 128 characters, and a name of a pod has up to 253.
        let instance = instance.chars().take(128).collect();
        let writing = write_all(client, instance, waiting, metrics.clone());
        (Self { queue, metrics }, writing)
    }

    /// Tells what a decision found worth telling.
    pub fn tell(&self, notices: Notices) {
        for notice in notices.events {
            if self.queue.try_send(notice).is_err() {
                self.metrics.told("failed", 1);
            }
        }
        if notices.suppressed > 0 {
            self.metrics.told("suppressed", notices.suppressed);
        }
    }
}

async fn write_all(client: Client, instance: String, mut waiting: Receiver<Notice>, metrics: Metrics) {
    while let Some(notice) = waiting.recv().await {
        let event = event(&notice, &instance, Timestamp::now());
        let namespace = event.metadata.namespace.as_deref().unwrap_or("default");
        let events: Api<Event> = Api::namespaced(client.clone(), namespace);
        let written = tokio::time::timeout(CALL_TIMEOUT, events.create(&PostParams::default(), &event)).await;
        let Notice { reason, note, .. } = &notice;
        match written {
            Ok(Ok(_)) => {
                tracing::debug!(%reason, note, "wrote an event");
                metrics.told("written", 1);
            }
            Ok(Err(error)) => {
                tracing::warn!(%reason, note, error = &error as &dyn std::error::Error, "an event was not written");
                metrics.told("failed", 1);
            }
            Err(_) => {
                tracing::warn!(%reason, note, "an event was not answered in time");
                metrics.told("failed", 1);
            }
        }
    }
}

fn event(notice: &Notice, instance: &str, now: Timestamp) -> Event {
    let (kind, api_version, namespace, name) = match &notice.subject {
        Subject::Policy(id) => ("PowerCappingPolicy", format!("{GROUP}/v1alpha1"), &id.namespace, &id.name),
        Subject::Pod(pod) => ("Pod", "v1".to_owned(), &pod.namespace, &pod.name),
    };
    Event {
        metadata: ObjectMeta {
            generate_name: Some(stem(name)),
            namespace: Some(namespace.clone()),
            ..ObjectMeta::default()
        },
        event_time: Some(MicroTime(now)),
        type_: Some(if notice.warning { "Warning" } else { "Normal" }.to_owned()),
        reason: Some(notice.reason.to_string()),
        note: Some(notice.note.clone()),
        action: Some("CapPower".to_owned()),
        regarding: Some(ObjectReference {
            api_version: Some(api_version),
            kind: Some(kind.to_owned()),
            namespace: Some(namespace.clone()),
            name: Some(name.clone()),
            uid: Some(notice.uid.clone()),
            ..ObjectReference::default()
        }),
        reporting_controller: Some(CONTROLLER.to_owned()),
        reporting_instance: Some(instance.to_owned()),
        ..Event::default()
    }
}

/// What an event's name begins with: the API server adds five characters, and takes no more than 253.
fn stem(name: &str) -> String {
    let short: String = name.chars().take(240).collect();
    format!("{}-", short.trim_end_matches('.'))
}

#[cfg(test)]
mod tests {
    use powercap_common::{policy::PolicyId, reason::Reason};

    use super::*;
    use crate::observation::PodName;

    #[test]
    fn an_event_is_about_its_subject_in_its_own_namespace() {
        let id = PolicyId { namespace: "llm".into(), name: "chat".into() };
        let pod = PodName { namespace: "llm".into(), name: "chat-0".into() };
        for (subject, kind, name) in
            [(Subject::Policy(id), "PowerCappingPolicy", "chat"), (Subject::Pod(pod), "Pod", "chat-0")]
        {
            let note = "says why".to_owned();
            let notice = Notice { subject, uid: "u".into(), reason: Reason::PowerCapped, warning: false, note };
            let event = event(&notice, "powercap-recommender-0", Timestamp::UNIX_EPOCH);
            let about = event.regarding.unwrap();
            assert_eq!(event.metadata.namespace.as_deref(), Some("llm"));
            assert_eq!((about.kind.as_deref(), about.name.as_deref()), (Some(kind), Some(name)));
            assert_eq!((about.namespace.as_deref(), about.uid.as_deref()), (Some("llm"), Some("u")));
            assert_eq!((event.reason.as_deref(), event.type_.as_deref()), (Some("PowerCapped"), Some("Normal")));
        }
    }

    #[test]
    fn a_name_of_any_length_leaves_room_for_what_the_api_server_adds() {
        assert_eq!(stem("chat"), "chat-");
        let long = stem(&format!("{}.{}", "a".repeat(239), "b".repeat(13)));
        assert_eq!(long, format!("{}-", "a".repeat(239)), "a point before the dash would be refused");
    }
}
