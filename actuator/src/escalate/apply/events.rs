//! Tells of what was done: an event on each pod or Job, and one on the policy for all that went in one step.
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

/// What was done of a step.
pub struct News {
    policy: PolicyId,
    policy_uid: String,
    /// By their reasons.
    acts: Vec<Act>,
}

struct Act {
    deed: Deed,
    what: What,
    reason: Reason,
}

impl News {
    /// Of these acts of a step.
    pub fn of(step: &Step, done: &[(&Deed, &What)]) -> Self {
        let policy_uid = step.before.as_ref().map(|report| report.uid.clone()).unwrap_or_default();
        let act = |(deed, what): &(&Deed, &What)| {
            let (deed, what, reason) = ((*deed).clone(), (*what).clone(), step.why(what));
            Act { deed, what, reason }
        };
        let mut acts: Vec<_> = done.iter().map(act).collect();
        acts.sort_by_key(|act| act.reason);
        Self { policy: step.policy.clone(), policy_uid, acts }
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

/// Writes an event on each object, and on the policy one for each reason: all of a step are for the same cap.
async fn tell(client: &Client, instance: &str, news: &News) {
    let policy = || reference("PowerCappingPolicy", &format!("{GROUP}/v1alpha1"), &news.policy.name, &news.policy_uid);
    for acts in news.acts.chunk_by(|one, other| one.reason == other.reason) {
        let Some(first) = acts.first() else { continue };
        let whose = first.deed.domain.as_ref().map(|domain| format!("powerdomain/{domain}"));
        let whose = whose.unwrap_or_else(|| news.policy.to_string());
        let mut names = Vec::new();
        for act in acts {
            let Some((api_version, kind, name)) = subject(act) else { continue };
            let says = act.what.says().map(|says| format!(": {says}")).unwrap_or_default();
            names.push(format!("{kind} {name}{says}"));
            let note = format!("{kind} {name}{says}, {} W, for {whose}", act.deed.frees_watts);
            let victim = reference(kind, &api_version, name, &act.deed.uid);
            write(client, event(news, act, victim, &note, instance)).await;
        }
        if !names.is_empty() {
            let watts: u64 = acts.iter().map(|act| u64::from(act.deed.frees_watts)).sum();
            let note = format!("{}, {watts} W, for {whose}", names.join(", "));
            write(client, event(news, first, policy(), &note, instance)).await;
        }
    }
}

async fn write(client: &Client, event: Event) {
    let namespace = event.metadata.namespace.as_deref().unwrap_or_default();
    let events: Api<Event> = Api::namespaced(client.clone(), namespace);
    match tokio::time::timeout(CALL_TIMEOUT, events.create(&PostParams::default(), &event)).await {
        Ok(Ok(_)) => {}
        Ok(Err(error)) => tracing::warn!(error = &error as &dyn std::error::Error, "an event was not written"),
        Err(_) => tracing::warn!("an event was not answered in time"),
    }
}

/// What was changed: its version, kind and name.
fn subject(act: &Act) -> Option<(String, &str, &str)> {
    if let What::Ceiling(Ceiling { object, .. }) = &act.what {
        let (group, version, kind) = object.kind.names();
        let version = if group.is_empty() { version.to_owned() } else { format!("{group}/{version}") };
        return Some((version, kind, object.name()));
    }
    match &act.deed.pod {
        Some(pod) => Some(("v1".to_owned(), "Pod", pod)),
        None => act.deed.workload.split_once('/').map(|(kind, name)| ("batch/v1".to_owned(), kind, name)),
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

fn event(news: &News, act: &Act, subject: ObjectReference, note: &str, instance: &str) -> Event {
    let namespace = Some(news.policy.namespace.clone());
    let stem: String = subject.name.iter().flat_map(|name| name.chars()).take(240).collect();
    Event {
        metadata: ObjectMeta {
            generate_name: Some(format!("{}-", stem.trim_end_matches('.'))),
            namespace: namespace.clone(),
            ..ObjectMeta::default()
        },
        event_time: Some(MicroTime(Timestamp::now())),
        type_: Some(if act.deed.undone { "Normal" } else { "Warning" }.to_owned()),
        reason: Some(act.reason.to_string()),
        note: Some(note.chars().take(NOTE).collect()),
        action: Some(format!("{:?}", act.deed.action)),
        regarding: Some(ObjectReference { namespace, ..subject }),
        reporting_controller: Some(CONTROLLER.to_owned()),
        reporting_instance: Some(instance.chars().take(128).collect()),
        ..Event::default()
    }
}
