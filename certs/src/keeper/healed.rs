//! Tells people that somebody broke what is kept here, and that it was put right: as an event on the Secret. What falls
//! due by itself is no event.
//!
//! Must hold: nobody waits for it, and somebody who breaks it again and again makes no flood.

use std::{
    collections::BTreeMap,
    error::Error,
    time::{Duration, Instant},
};

use jiff::Timestamp;
use k8s_openapi::{
    api::{core::v1::ObjectReference, events::v1::Event},
    apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta},
};
use kube::{Api, api::PostParams};
use powercap_common::reason::Reason;

use super::{MANAGER, Own, SECRET, call};
use crate::decide::{Cause, Step};

/// The same is told once in this time.
const QUIET: Duration = Duration::from_secs(600);

/// What was put right, and what had been wrong.
#[derive(Clone, Debug, PartialEq)]
pub struct Healed {
    /// In one word.
    pub reason: Reason,
    /// For people.
    pub note: String,
}

impl Healed {
    /// What this step put right; none of one that was due. `began` is whether there was anything before it.
    #[must_use]
    pub fn by(step: &Step, began: bool) -> Option<Self> {
        let note = match step {
            Step::Found(fault) if began => format!("a new authority and a new certificate were made: {fault}"),
            Step::SignLeaf(cause @ Cause::Fault(_)) => format!("a new certificate was signed: {cause}"),
            Step::Announce(cause @ Cause::NoAuthority) => format!("another authority is announced: {cause}"),
            _ => return None,
        };
        Some(Self { reason: Reason::CertificateHealed, note })
    }

    /// That the bundle was published again.
    #[must_use]
    pub fn bundle(configurations: &[String]) -> Self {
        let note = format!("caBundle was changed and is put back: {}", configurations.join(", "));
        Self { reason: Reason::BundleHealed, note }
    }
}

/// What was told, and when.
#[derive(Debug, Default)]
pub struct Told(BTreeMap<Reason, Instant>);

impl Told {
    /// Tells it, unless the same was told a moment ago.
    pub fn tell(&mut self, healed: Healed, own: &Own) {
        tracing::warn!(reason = %healed.reason, note = healed.note, "what somebody broke is put right");
        if self.is_news(healed.reason, Instant::now()) {
            tokio::spawn(write(healed, own.clone()));
        }
    }

    fn is_news(&mut self, reason: Reason, now: Instant) -> bool {
        let is_news = self.0.get(&reason).is_none_or(|told| now.duration_since(*told) >= QUIET);
        if is_news {
            self.0.insert(reason, now);
        }
        is_news
    }
}

async fn write(healed: Healed, own: Own) {
    let events: Api<Event> = Api::namespaced(own.client.clone(), &own.namespace);
    let event = event(healed, &own.namespace, Timestamp::now());
    if let Err(error) = call("write an event", events.create(&PostParams::default(), &event)).await {
        tracing::warn!(error = &error as &dyn Error, "nobody is told by an event");
    }
}

fn event(healed: Healed, namespace: &str, now: Timestamp) -> Event {
    Event {
        metadata: ObjectMeta {
            generate_name: Some(format!("{SECRET}-")),
            namespace: Some(namespace.to_owned()),
            ..ObjectMeta::default()
        },
        event_time: Some(MicroTime(now)),
        type_: Some("Warning".to_owned()),
        reason: Some(healed.reason.to_string()),
        note: Some(healed.note),
        action: Some("Heal".to_owned()),
        regarding: Some(ObjectReference {
            api_version: Some("v1".to_owned()),
            kind: Some("Secret".to_owned()),
            namespace: Some(namespace.to_owned()),
            name: Some(SECRET.to_owned()),
            ..ObjectReference::default()
        }),
        reporting_controller: Some("powercapping.io/admission".to_owned()),
        reporting_instance: Some(MANAGER.to_owned()),
        ..Event::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::held::Fault;

    #[test]
    fn what_somebody_broke_is_told_and_what_was_due_is_not() {
        let told = |step: &Step, began: bool| Healed::by(step, began).map(|healed| healed.note);
        let found = Step::Found(Fault::Missing);
        assert_eq!(told(&found, false), None, "the first start");
        assert!(told(&found, true).is_some_and(|note| note.ends_with("no certificate with a key that belongs to it")));
        assert!(told(&Step::SignLeaf(Cause::Fault(Fault::Missing)), true).is_some());
        assert!(told(&Step::Announce(Cause::NoAuthority), true).is_some());
        for due in [
            Step::Nothing,
            Step::Switch,
            Step::Retire,
            Step::SignLeaf(Cause::Due),
            Step::Announce(Cause::Due),
            Step::Announce(Cause::Asked),
        ] {
            assert_eq!(told(&due, true), None, "{due:?}");
        }
    }

    #[test]
    fn who_breaks_it_again_and_again_makes_no_flood() {
        let (mut told, begun) = (Told::default(), Instant::now());
        let of_an_hour = (0..3600).step_by(5).map(|second| begun + Duration::from_secs(second));
        let bundles = of_an_hour.filter(|now| told.is_news(Reason::BundleHealed, *now)).count();
        assert_eq!(bundles, 6, "one in ten minutes");
        assert!(told.is_news(Reason::CertificateHealed, begun), "each for itself");
    }
}
