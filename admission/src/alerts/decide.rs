//! What is so at this moment, of all that people would be told of. Pure.

use std::{cmp::Ordering, collections::BTreeMap};

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, ObjectMeta};
use powercap_common::{
    alert::{self, Alert},
    api::{Brake, DeviceState, NodeFrequencies, PowerCappingPolicy, PowerDomain},
    condition::{Truth, kind, truth},
    reason::Reason,
};

use super::seen::{Seen, Validity};
use crate::observe::is_lost;

/// An alert about one subject; the graver come first.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Key {
    /// Which one.
    pub alert: &'static Alert,
    /// The values of its labels, in the order of [`Alert::subject`].
    pub subject: Vec<String>,
}

/// What a look tells of an alert; of one that it does not name, that it is not so.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Look {
    /// It is so; in words, with what changes.
    So(String),
    /// Nobody can tell just now.
    Unknown,
}

/// What is so, or not known.
pub type Findings = BTreeMap<Key, Look>;

/// Looks at everything.
#[must_use]
pub fn look(seen: &Seen, now: Timestamp) -> Findings {
    let mut found = Found::default();
    seen.domains.iter().for_each(|object| found.domain(object));
    seen.policies.iter().for_each(|object| found.policy(object));
    seen.nodes.iter().for_each(|object| found.node(object, now));
    found.own(seen, now);
    found.0
}

#[derive(Default)]
struct Found(Findings);

impl Found {
    fn note(&mut self, alert: &'static Alert, subject: &[&str], look: Look) {
        let subject = subject.iter().map(|value| (*value).to_owned()).collect();
        self.0.insert(Key { alert, subject }, look);
    }

    fn so_if(&mut self, holds: bool, alert: &'static Alert, subject: &[&str], says: impl FnOnce() -> String) {
        if holds {
            self.note(alert, subject, Look::So(says()));
        }
    }

    /// An alert that a condition tells, when it has this truth.
    fn condition(&mut self, conditions: &[Condition], told: (&str, Truth), alert: &'static Alert, subject: &[&str]) {
        let (kind, so) = told;
        match truth(conditions, kind) {
            now if now == so => self.note(alert, subject, Look::So(message(conditions, kind))),
            Truth::Unknown => self.note(alert, subject, Look::Unknown),
            _ => {}
        }
    }

    fn domain(&mut self, object: &PowerDomain) {
        let (name, status) = (name_of(&object.metadata), object.status.clone().unwrap_or_default());
        let (subject, cap) = ([name.as_str()], object.spec.power_cap_limit_watts);
        let conditions = &status.conditions;
        match status.current_power_watts {
            Some(power) => {
                let near = u64::from(power) * 100 >= u64::from(cap) * u64::from(alert::NEAR_PERCENT);
                self.so_if(near, &alert::DOMAIN_NEAR_CAP, &subject, || format!("It draws {power} W of {cap} W."));
            }
            None => self.note(&alert::DOMAIN_NEAR_CAP, &subject, Look::Unknown),
        }
        self.condition(conditions, (kind::WITHIN_CAP, Truth::False), &alert::DOMAIN_ABOVE_CAP, &subject);
        self.condition(conditions, (kind::DATA_FRESH, Truth::False), &alert::DOMAIN_DATA_STALE, &subject);
        self.condition(conditions, (kind::FEASIBLE, Truth::False), &alert::DOMAIN_INFEASIBLE, &subject);
        self.forecast(status.forecast_power_watts, cap, &alert::DOMAIN_FORECAST_ABOVE_CAP, &subject);
        let pulled = status.brake.as_ref().map_or(Brake::None, |brake| brake.level);
        let by = match object.spec.brake.cmp(&pulled) {
            Ordering::Less => "the recommender",
            Ordering::Equal | Ordering::Greater => "a person, in spec.brake",
        };
        let level = object.spec.brake.max(pulled);
        let says = || format!("It stands at {level:?}, pulled by {by}.");
        self.so_if(level > Brake::None, &alert::DOMAIN_BRAKED, &subject, says);
    }

    fn policy(&mut self, object: &PowerCappingPolicy) {
        let (namespace, name) = (object.metadata.namespace.clone().unwrap_or_default(), name_of(&object.metadata));
        let subject = [namespace.as_str(), name.as_str()];
        let Some(status) = &object.status else { return };
        let (conditions, cap) = (&status.conditions, object.spec.power_cap_limit_watts);
        let ready = conditions.iter().find(|condition| condition.type_ == kind::READY);
        let is = |reason: Reason| ready.is_some_and(|ready| ready.reason == reason.as_str());
        if is(Reason::SwitchedOff) || is(Reason::NotPermitted) {
            // Nothing is measured, so that nothing is wrong with it.
            return;
        }
        let above = if is(Reason::Advising) { &alert::ADVISING_ABOVE_CAP } else { &alert::POLICY_ABOVE_CAP };
        self.condition(conditions, (kind::WITHIN_CAP, Truth::False), above, &subject);
        self.condition(conditions, (kind::CAP_TRIGGERED, Truth::True), &alert::POLICY_NEAR_CAP, &subject);
        self.condition(conditions, (kind::DATA_FRESH, Truth::False), &alert::POLICY_DATA_STALE, &subject);
        self.condition(conditions, (kind::FEASIBLE, Truth::False), &alert::POLICY_INFEASIBLE, &subject);
        let escalating = conditions.iter().find(|condition| condition.type_ == kind::ESCALATING);
        let stops = |said: &Condition| alert::ESCALATION_STOPS.iter().any(|reason| said.reason == reason.as_str());
        if let Some(said) = escalating.filter(|said| stops(said)) {
            let says = format!("{}: {}.", said.reason, said.message);
            self.note(&alert::POLICY_ESCALATION_STOPPED, &subject, Look::So(says));
        }
        self.forecast(status.forecast_power_watts, cap, &alert::POLICY_FORECAST_ABOVE_CAP, &subject);
    }

    fn forecast(&mut self, forecast: Option<u32>, cap: u32, alert: &'static Alert, subject: &[&str]) {
        match forecast {
            Some(watts) => {
                let says = || format!("{watts} W are expected, and the cap is {cap} W.");
                self.so_if(watts > cap, alert, subject, says);
            }
            None => self.note(alert, subject, Look::Unknown),
        }
    }

    fn node(&mut self, object: &NodeFrequencies, now: Timestamp) {
        let (name, status) = (name_of(&object.metadata), object.status.clone().unwrap_or_default());
        let subject = [name.as_str()];
        let gpus = status.gpus.iter().filter(|gpu| is_lost(gpu.state));
        let gpus = gpus.map(|gpu| format!("{} ({}, {})", gpu.uuid, state(gpu.state), gpu.reason));
        let cpus = status.cpus.iter().filter(|cpu| is_lost(cpu.state));
        let cpus = cpus.map(|cpu| format!("cpufreq policy {} ({})", cpu.cpufreq_policy, cpu.reason));
        let lost: Vec<_> = gpus.chain(cpus).collect();
        self.so_if(!lost.is_empty(), &alert::DEVICE_FAILED, &subject, || first_of(&lost));
        let born = object.metadata.creation_timestamp.as_ref();
        let Some(heard) = status.heartbeat_time.as_ref().or(born).filter(|_| !object.spec.release) else { return };
        let silence = now.duration_since(heard.0);
        let says = || format!("Its agent was last heard of {} s ago.", silence.as_secs());
        self.so_if(silence > seconds(alert::AGENT_SILENT_SECONDS), &alert::AGENT_SILENT, &subject, says);
    }

    /// What concerns our own parts.
    fn own(&mut self, seen: &Seen, now: Timestamp) {
        let silence = now.duration_since(seen.recommender_heard);
        let says = || format!("Its Lease was last renewed {} s ago.", silence.as_secs());
        self.so_if(silence > seconds(alert::RECOMMENDER_SILENT_SECONDS), &alert::RECOMMENDER_SILENT, &[], says);
        for (namespace, at) in &seen.without_headroom {
            let age = now.duration_since(*at);
            let says = || format!("The last of them came {} s ago.", age.as_secs());
            let recent = age < seconds(alert::WITHOUT_HEADROOM_SECONDS);
            self.so_if(recent, &alert::ADMITTED_WITHOUT_HEADROOM, &[namespace.as_str()], says);
        }
        if let Some(Validity { since, until }) = seen.certificate {
            let (left, life) = (until.duration_since(now), until.duration_since(since));
            let says = || format!("It is valid until {until}.");
            let old = left.as_secs() * 100 < life.as_secs() * i64::from(alert::CERTIFICATE_LEFT_PERCENT);
            self.so_if(old, &alert::CERTIFICATE_NEAR_EXPIRY, &[], says);
        }
        self.note(&alert::DEAD_MANS_SWITCH, &[], Look::So("All is well.".to_owned()));
    }
}

fn name_of(object: &ObjectMeta) -> String {
    object.name.clone().unwrap_or_default()
}

fn message(conditions: &[Condition], kind: &str) -> String {
    let condition = conditions.iter().find(|condition| condition.type_ == kind);
    condition.map(|condition| condition.message.clone()).unwrap_or_default()
}

fn state(state: DeviceState) -> &'static str {
    if state == DeviceState::Quarantined { "quarantined" } else { "failed" }
}

/// The first three, and how many more.
fn first_of(all: &[String]) -> String {
    let shown = &all[..all.len().min(3)];
    let more = all.len() - shown.len();
    shown.join(", ") + &if more > 0 { format!(" and {more} more.") } else { ".".to_owned() }
}

fn seconds(seconds: u32) -> SignedDuration {
    SignedDuration::from_secs(seconds.into())
}
