//! Jobs that are suspended as a whole: where their `suspend` stands, how they say that they ended, and the mark by
//! which a suspension of ours is known.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use powercap_common::target::Controller;
use serde_json::{Value, json};

use super::{
    ceilings::stored::{Kind, Stored, put},
    observation::{Ceilings, JobFacts, ObjectName, SuspendedByUs},
};

/// The annotation that is the mark.
pub const MARK: &str = "powercapping.io/suspended";
/// By this label Kueue says when a job runs, and would resume it.
const QUEUE: &str = "kueue.x-k8s.io/queue-name";
/// The condition that tells the end, as each of the kinds calls it.
const ENDS: [&str; 4] = ["Complete", "Completed", "Succeeded", "Failed"];

/// What of a job's metadata decides, and of what else it says.
#[must_use]
pub fn facts(metadata: &ObjectMeta, suspended: bool, ended: bool) -> JobFacts {
    let annotations = metadata.annotations.as_ref();
    let labels = metadata.labels.as_ref();
    JobFacts {
        uid: metadata.uid.clone().unwrap_or_default(),
        suspended,
        ended: ended || metadata.deletion_timestamp.is_some(),
        controlled: Controller::of(metadata).is_some() || labels.is_some_and(|labels| labels.contains_key(QUEUE)),
        suspended_by_us: annotations.and_then(|all| serde_json::from_str(all.get(MARK)?).ok()),
    }
}

/// Whether a condition tells that a job is ended.
#[must_use]
pub fn is_end(condition: &str, status: &str) -> bool {
    ENDS.contains(&condition) && status == "True"
}

/// The jobs among the objects that were asked for.
pub fn jobs(ceilings: &Ceilings) -> impl Iterator<Item = (ObjectName, JobFacts)> {
    let jobs = ceilings.objects.iter().filter(|(name, _)| Kind::JOBS.contains(&name.kind));
    jobs.filter_map(|(name, object)| Some((name.clone(), of(object)?)))
}

fn of(object: &Stored) -> Option<JobFacts> {
    let metadata = serde_json::from_value(object.at("/metadata").clone()).ok()?;
    let conditions = object.at("/status/conditions").as_array().into_iter().flatten();
    let said =
        |condition: &Value| Some((condition["type"].as_str()?.to_owned(), condition["status"].as_str()?.to_owned()));
    let ended = conditions.filter_map(said).any(|(condition, status)| is_end(&condition, &status));
    Some(facts(&metadata, *object.at(place(object.kind)) == true, ended))
}

/// Whether an object bears the mark.
#[must_use]
pub fn is_marked(object: &Stored) -> bool {
    object.annotation(MARK).is_some()
}

/// A merge patch of this very job: with a mark it is suspended, without one resumed. The UID makes the API server
/// refuse another of its name.
///
/// # Errors
/// When the mark cannot be written as text.
pub fn patch(kind: Kind, uid: &str, mark: Option<&SuspendedByUs>) -> serde_json::Result<Value> {
    let text = mark.map(serde_json::to_string).transpose()?;
    let mut patch = json!({"metadata": {"uid": uid, "annotations": {MARK: text}}});
    put(&mut patch, place(kind), json!(mark.is_some()));
    Ok(patch)
}

const fn place(kind: Kind) -> &'static str {
    match kind {
        Kind::PyTorchJob => "/spec/runPolicy/suspend",
        _ => "/spec/suspend",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stored(kind: Kind, value: Value) -> Stored {
        Stored { kind, value }
    }

    #[test]
    fn what_is_patched_is_read_as_suspended_by_us() {
        let mark = SuspendedByUs { policy: "all".into(), domain: Some("rack".into()), watts: 1400 };
        for kind in Kind::JOBS {
            let patched = of(&stored(kind, patch(kind, "u", Some(&mark)).unwrap())).unwrap();
            assert!(patched.suspended && !patched.ended, "{kind:?}");
            assert_eq!((patched.uid.as_str(), patched.suspended_by_us), ("u", Some(mark.clone())), "{kind:?}");
            let mut resumed = patch(kind, "u", None).unwrap();
            assert_eq!(resumed["metadata"]["annotations"].take(), json!({MARK: null}));
            assert!(!of(&stored(kind, resumed)).unwrap().suspended, "{kind:?}");
        }
    }

    #[test]
    fn each_kind_says_its_end_in_its_own_word() {
        for (kind, said) in [(Kind::Job, "Complete"), (Kind::JobSet, "Completed"), (Kind::PyTorchJob, "Succeeded")] {
            for (condition, status, ended) in
                [(said, "True", true), ("Failed", "True", true), (said, "False", false), ("Suspended", "True", false)]
            {
                let object = json!({"metadata": {}, "status": {"conditions": [{"type": condition, "status": status}]}});
                assert_eq!(of(&stored(kind, object)).unwrap().ended, ended, "{kind:?} {condition} {status}");
            }
        }
    }

    #[test]
    fn whom_another_resumes_is_told() {
        let owner = json!({"apiVersion": "v1", "kind": "TrainJob", "name": "t", "uid": "u", "controller": true});
        for (metadata, controlled) in [
            (json!({}), false),
            (json!({"ownerReferences": [owner]}), true),
            (json!({"labels": {QUEUE: "research"}}), true),
        ] {
            let found = of(&stored(Kind::JobSet, json!({"metadata": metadata}))).unwrap();
            assert_eq!(found.controlled, controlled, "{metadata}");
        }
    }
}
