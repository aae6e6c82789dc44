//! Which changes people are told of by events: on policies what turned, on pods that a cap holds them back
//! or does so no more.
//!
//! Must hold: what is told is a change of a status, so that a new leader tells nothing again; the same of the
//! same subject is told once in ten minutes, and all together no more than `MOST_EVENTS` within five,
//! policies first; of many pods that are capped at once a few are told themselves, and of the rest their
//! number on the policy.

use std::collections::BTreeSet;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use powercap_common::{
    api::{CappedPod, PendingAction, PowerCappingPolicyStatus},
    condition::kind,
    policy::PolicyId,
    reason::Reason,
};
use serde::Serialize;

use super::{capped::Capped, ladder::is_step, policy::PolicyView};
use crate::observation::{PodName, Subject, Told};

/// The same is not told again within this.
const TOLD_FOR: SignedDuration = SignedDuration::from_mins(10);
/// Events are counted for this long.
const WINDOW: SignedDuration = SignedDuration::from_mins(5);
/// At most so many within [`WINDOW`].
const MOST_EVENTS: usize = 60;
/// So many pods of a policy are told themselves by one decision, and named in the policy's own event.
const MOST_PODS: usize = 4;
/// The API allows 1,024 bytes.
const LONGEST_NOTE: usize = 1000;

/// An event to be written.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Notice {
    /// Whom it is about.
    pub subject: Subject,
    /// Tells that from an earlier one of the same name.
    pub uid: String,
    /// Why.
    pub reason: Reason,
    /// Somebody should look.
    pub warning: bool,
    /// For people.
    pub note: String,
}

/// The events of a decision.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Notices {
    /// To be written.
    pub events: Vec<Notice>,
    /// How many more there would be, were it not too much or too often.
    pub suppressed: u64,
    /// What people were told with these: goes into the next observation.
    pub told: Told,
}

/// What is new of one policy, given the status that stands and the next one.
pub fn news(
    view: &PolicyView<'_>,
    id: &PolicyId,
    before: Option<&PowerCappingPolicyStatus>,
    next: &PowerCappingPolicyStatus,
    capped: &Capped<'_>,
) -> Vec<Notice> {
    let uid = view.object.metadata.uid.clone().unwrap_or_default();
    let of_policy = |reason, warning, note| Notice {
        subject: Subject::Policy(id.clone()),
        uid: uid.clone(),
        reason,
        warning,
        note,
    };
    let conditions = before.map(|status| status.conditions.as_slice()).unwrap_or_default();
    let turned = next.conditions.iter().filter_map(|condition| {
        let before = conditions.iter().find(|before| before.type_ == condition.type_);
        let warning = turn(before, condition)?;
        Some(of_policy(condition.reason.parse().ok()?, warning, condition.message.clone()))
    });
    let mut news: Vec<_> = turned.collect();
    let Some(before) = before else { return news };
    match (steps(before).count(), steps(next).count()) {
        (0, 1..) => news.push(of_policy(Reason::EscalationPending, true, pending(next))),
        (1.., 0) => {
            let note = "nothing is to be done to workloads any more".to_owned();
            news.push(of_policy(Reason::EscalationOver, false, note));
        }
        _ => {}
    }
    match (before.capped_pods, next.capped_pods) {
        (0, 1..) => news.push(of_policy(Reason::PowerCapped, false, names(&next.capped, next.capped_pods))),
        (1.., 0) if !view.pods.is_empty() => {
            news.push(of_policy(Reason::PowerReleased, false, "no pod of the policy is held back any more".into()));
        }
        _ => {}
    }
    news.extend(of_pods(view, before, next, capped));
    news
}

/// Pods that joined those that are held back, and pods that run on and left them.
fn of_pods<'a>(
    view: &'a PolicyView<'_>,
    before: &'a PowerCappingPolicyStatus,
    next: &'a PowerCappingPolicyStatus,
    capped: &'a Capped<'_>,
) -> impl Iterator<Item = Notice> + 'a {
    let standing: BTreeSet<_> = before.capped.iter().map(|row| row.pod.as_str()).collect();
    // Where not all were named, one that is named now may have been held back before.
    let all_named = before.capped_pods as usize == before.capped.len();
    let joined = next.capped.iter().filter(move |row| all_named && !standing.contains(row.pod.as_str()));
    let about = |name: &PodName, reason, note| {
        let pod = view.named(name)?.facts;
        Some(Notice { subject: Subject::Pod(name.clone()), uid: pod.uid.clone(), reason, warning: false, note })
    };
    let named = |pod: &str| PodName {
        namespace: view.object.metadata.namespace.clone().unwrap_or_default(),
        name: pod.to_owned(),
    };
    let joined = joined.filter_map(move |row| about(&named(&row.pod), Reason::PowerCapped, particulars(row)));
    let left = before.capped.iter().filter(|row| !capped.pods.contains(row.pod.as_str()));
    let left = left.filter_map(move |row| {
        about(&named(&row.pod), Reason::PowerReleased, "its devices may run as fast as they can".to_owned())
    });
    joined.take(MOST_PODS).chain(left.take(MOST_PODS))
}

/// Whether a condition turned in a way that is worth telling, and if so whether somebody should look.
fn turn(before: Option<&Condition>, now: &Condition) -> Option<bool> {
    let (was, is) = (before.map(|before| before.status.as_str()), now.status.as_str());
    let said = before.is_some_and(|before| before.reason == now.reason);
    match (now.type_.as_str(), is) {
        (kind::READY, "True") if !said => Some(false),
        // Every policy that names a workload begins so, and a moment later it is known.
        (kind::READY, "False") if now.reason == Reason::TargetPending.as_str() => None,
        (kind::READY, "False") if !said => {
            Some(![Reason::NoMatchingPods, Reason::SwitchedOff].map(Reason::as_str).contains(&now.reason.as_str()))
        }
        (kind::CAP_TRIGGERED, "True") if was != Some("True") => Some(false),
        (kind::CAP_TRIGGERED, "False") if was == Some("True") => Some(false),
        (kind::WITHIN_CAP | kind::DATA_FRESH, "False") if was == Some("True") => Some(true),
        (kind::WITHIN_CAP | kind::DATA_FRESH, "True") if was == Some("False") => Some(false),
        (kind::FEASIBLE | kind::PERMITTED, "False") if was != Some("False") || !said => Some(true),
        _ => None,
    }
}

/// What is pending beyond a freeze.
fn steps(status: &PowerCappingPolicyStatus) -> impl Iterator<Item = &PendingAction> {
    status.pending_actions.iter().filter(|pending| is_step(pending.action))
}

fn pending(status: &PowerCappingPolicyStatus) -> String {
    let named: Vec<_> = steps(status)
        .take(MOST_PODS)
        .map(|pending| {
            let whom = pending.pod.as_ref().unwrap_or(&pending.workload);
            format!("{:?} {whom} ({}, about {} W)", pending.action, pending.reason, pending.frees_watts)
        })
        .collect();
    let more = steps(status).count().saturating_sub(named.len());
    let more = if more > 0 { format!(", and {more} more") } else { String::new() };
    format!("lower clocks are not enough; pending: {}{more}", named.join(", "))
}

fn names(rows: &[CappedPod], count: u32) -> String {
    let named: Vec<_> = rows.iter().take(MOST_PODS).map(|row| format!("{} ({})", row.pod, particulars(row))).collect();
    let more = (count as usize).saturating_sub(named.len());
    let more = if more > 0 { format!(", and {more} more") } else { String::new() };
    format!("pods held back: {}{more}", named.join(", "))
}

fn particulars(row: &CappedPod) -> String {
    let by = row.set_by.as_ref().map(|by| format!(" by {by}")).unwrap_or_default();
    let clock = row.ceiling_megahertz.map(|clock| format!(", at most {clock} MHz")).unwrap_or_default();
    let limit = row.power_limit_watts.map(|watts| format!(", at most {watts} W each")).unwrap_or_default();
    format!("{}{by}: GPUs {}{clock}{limit}", row.reason, row.devices)
}

/// What of the news is told now.
pub fn tell(mut news: Vec<Notice>, before: &Told, now: Timestamp) -> Notices {
    let mut told = before.clone();
    told.at.retain(|_, at| now.duration_since(*at) < TOLD_FOR);
    told.sent.retain(|at| now.duration_since(*at) < WINDOW);
    let mut notices = Notices::default();
    news.sort_by(|one, other| one.subject.cmp(&other.subject));
    for mut notice in news {
        let key = (notice.subject.clone(), notice.reason);
        if told.at.contains_key(&key) || told.sent.len() >= MOST_EVENTS {
            notices.suppressed += 1;
            continue;
        }
        told.at.insert(key, now);
        told.sent.push(now);
        notice.note.truncate(notice.note.floor_char_boundary(LONGEST_NOTE));
        notices.events.push(notice);
    }
    Notices { told, ..notices }
}
