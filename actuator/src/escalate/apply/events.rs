//! Tells of each thing that was done: an event on the pod or Job, and one on the policy.
//!
//! Must hold: nothing depends on it, and nothing waits for it: many steps at once are told of one after the other, so
//! that the API server has no more to do than steps ask for. What is not written is in status, metrics and log all the
//! same.

use std::time::Duration;

use k8s_openapi::{
    api::{core::v1::ObjectReference, events::v1::Event},
    apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta},
    jiff::Timestamp,
};
use kube::{Api, Client, api::PostParams};
use powercap_common::{
    api::{Deed, GROUP},
    policy::PolicyId,
    reason::Reason,
};
use tokio::sync::mpsc;

use crate::escalate::decide::{Step, What, ceilings::Ceiling};

const CONTROLLER: &str = "powercapping.io/escalate";
const CALL_TIMEOUT: Duration = Duration::from_secs(1);
/// The API server takes a kilobyte, in which a letter may be three bytes.
const NOTE: usize = 300;

/// So many wait at most.
const WAITING: usize = 1024;

/// Something that was done.
pub struct News {
    policy: PolicyId,
    policy_uid: String,
    deed: Deed,
    what: What,
    reason: Reason,
}

impl News {
    /// One act of a step.
    pub fn of(step: &Step, deed: &Deed, what: &What) -> Self {
        let policy_uid = step.before.as_ref().map(|report| report.uid.clone()).unwrap_or_default();
        let (policy, reason) = (step.policy.clone(), step.why(what));
        Self { policy, policy_uid, deed: deed.clone(), what: what.clone(), reason }
    }
}

/// Tells the news as they come.
#[derive(Clone)]
pub struct Teller(mpsc::Sender<News>);

impl Teller {
    /// Begins, on the runtime that this is called on; ends with the last clone.
    pub fn start(client: Client, instance: String) -> Self {
        let (sender, mut waiting) = mpsc::channel(WAITING);
        tokio::spawn(async move {
            while let Some(news) = waiting.recv().await {
                tell(&client, &instance, &news).await;
            }
        });
        Self(sender)
    }

    /// Soon.
    pub fn tell(&self, news: News) {
        if self.0.try_send(news).is_err() {
            tracing::warn!("a step has no event: too many wait");
        }
    }
}

/// Writes both.
async fn tell(client: &Client, instance: &str, news: &News) {
    let Some((api_version, kind, name)) = subject(news) else { return };
    let victim = reference(kind, &api_version, name, &news.deed.uid);
    let whose =
        news.deed.domain.as_ref().map_or_else(|| news.policy.to_string(), |domain| format!("powerdomain/{domain}"));
    let says = news.what.says().map(|says| format!(": {says}")).unwrap_or_default();
    let note = format!("{kind} {name}{says}, {} W, for {whose}", news.deed.frees_watts);
    let note = note.chars().take(NOTE).collect::<String>();
    let policy = reference("PowerCappingPolicy", &format!("{GROUP}/v1alpha1"), &news.policy.name, &news.policy_uid);
    for subject in [victim, policy] {
        let event = event(news, subject, note.clone(), instance);
        let events: Api<Event> = Api::namespaced(client.clone(), &news.policy.namespace);
        match tokio::time::timeout(CALL_TIMEOUT, events.create(&PostParams::default(), &event)).await {
            Ok(Ok(_)) => {}
            Ok(Err(error)) => tracing::warn!(error = &error as &dyn std::error::Error, "an event was not written"),
            Err(_) => tracing::warn!("an event was not answered in time"),
        }
    }
}

/// What was changed: its version, kind and name.
fn subject(news: &News) -> Option<(String, &str, &str)> {
    if let What::Ceiling(Ceiling { object, .. }) = &news.what {
        let (group, version, kind) = object.kind.names();
        let version = if group.is_empty() { version.to_owned() } else { format!("{group}/{version}") };
        return Some((version, kind, object.name()));
    }
    match &news.deed.pod {
        Some(pod) => Some(("v1".to_owned(), "Pod", pod)),
        None => news.deed.workload.split_once('/').map(|(kind, name)| ("batch/v1".to_owned(), kind, name)),
    }
}

fn reference(kind: &str, api_version: &str, name: &str, uid: &str) -> ObjectReference {
    ObjectReference {
        api_version: Some(api_version.to_owned()),
        kind: Some(kind.to_owned()),
        name: Some(name.to_owned()),
        uid: Some(uid.to_owned()),
        ..ObjectReference::default()
    }
}

fn event(news: &News, subject: ObjectReference, note: String, instance: &str) -> Event {
    let namespace = Some(news.policy.namespace.clone());
    let stem: String = subject.name.iter().flat_map(|name| name.chars()).take(240).collect();
    Event {
        metadata: ObjectMeta {
            generate_name: Some(format!("{}-", stem.trim_end_matches('.'))),
            namespace: namespace.clone(),
            ..ObjectMeta::default()
        },
        event_time: Some(MicroTime(Timestamp::now())),
        type_: Some(if news.deed.undone { "Normal" } else { "Warning" }.to_owned()),
        reason: Some(news.reason.to_string()),
        note: Some(note),
        action: Some(format!("{:?}", news.deed.action)),
        regarding: Some(ObjectReference { namespace, ..subject }),
        reporting_controller: Some(CONTROLLER.to_owned()),
        reporting_instance: Some(instance.chars().take(128).collect()),
        ..Event::default()
    }
}
