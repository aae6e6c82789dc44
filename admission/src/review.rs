//! A review of a pod: read, decided, answered.
//!
//! Must hold: a review of a pod that can be read is always allowed; what could not be done is a warning. What cannot
//! be read is refused as a request, which lets the pod through (`failurePolicy: Ignore`).

use base64::{Engine, prelude::BASE64_STANDARD};
use powercap_common::reason::Reason;
use serde::de::IgnoredAny;

use crate::{
    cluster::Cluster,
    decide::{Mutation, Warning, decide},
    envelope::{Answer, GroupVersionKind, Request, Response, Unreadable, warnings},
    patch::patch,
    pod::Pod,
};

/// What was answered to a review.
#[derive(Debug)]
pub struct Answered {
    /// What becomes of the pod, in one word.
    pub outcome: Reason,
    /// The namespace of a pod whose watts no node offers now; of one that is really created.
    pub waits_in: Option<String>,
    /// For the API server.
    pub body: Vec<u8>,
}

/// Reads a review, decides, and writes the answer.
///
/// # Errors
/// When the body is no review.
pub fn answer(body: &[u8], cluster: &Cluster) -> Result<Answered, Unreadable> {
    let text = std::str::from_utf8(body)?;
    match Request::<Pod>::read(text) {
        Ok(request) => {
            let mutation = review(&request, cluster);
            let body = respond(request.uid, request.object.as_ref(), &mutation)?;
            let waits = mutation.waits && request.dry_run != Some(true);
            Ok(Answered { outcome: mutation.outcome, waits_in: waits.then_some(request.namespace), body })
        }
        Err(Unreadable::Json(error)) => {
            // The review may be sound, and the pod within not.
            let request = Request::<IgnoredAny>::read(text)?;
            let text = format!("the pod is created as it is: it is not understood: {error}");
            let warnings = vec![Warning { reason: Reason::UnreadablePod, text }];
            let outcome = Reason::UnreadablePod;
            let body = respond(request.uid, None, &Mutation { warnings, ..Mutation::of(outcome) })?;
            Ok(Answered { outcome, waits_in: None, body })
        }
        Err(error) => Err(error),
    }
}

fn review(request: &Request<Pod>, cluster: &Cluster) -> Mutation {
    let GroupVersionKind { group, version, kind } = &request.kind;
    let is_pod = (group.as_str(), version.as_str(), kind.as_str()) == ("", "v1", "Pod");
    let is_new = request.operation == "CREATE" && request.sub_resource.as_deref().is_none_or(str::is_empty);
    match &request.object {
        Some(pod) if is_pod && is_new => decide(pod, &request.namespace, cluster),
        _ => Mutation::of(Reason::NotANewPod),
    }
}

fn respond(uid: String, pod: Option<&Pod>, mutation: &Mutation) -> Result<Vec<u8>, Unreadable> {
    let patch = pod.map(|pod| patch(pod, mutation)).filter(|patch| !patch.0.is_empty());
    let patch = patch.map(|patch| serde_json::to_vec(&patch)).transpose()?;
    let policy = mutation.policy.as_ref().map(|policy| format!("{policy}: ")).unwrap_or_default();
    let warning = |warning: &Warning| format!("{policy}{} ({})", warning.text, warning.reason);
    let response = Response {
        uid,
        allowed: true,
        patch_type: patch.is_some().then_some("JSONPatch"),
        patch: patch.map(|patch| BASE64_STANDARD.encode(patch)),
        warnings: warnings(mutation.warnings.iter().map(warning)),
        ..Response::default()
    };
    let mut body = Vec::with_capacity(1024);
    serde_json::to_writer(&mut body, &Answer::from(response))?;
    Ok(body)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn review_of(object: &Value) -> Value {
        json!({
            "apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview",
            "request": {
                "uid": "705ab4f5", "kind": {"group": "", "version": "v1", "kind": "Pod"},
                "resource": {"group": "", "version": "v1", "resource": "pods"}, "namespace": "llm",
                "operation": "CREATE", "userInfo": {"username": "a"}, "object": object, "oldObject": null,
                "dryRun": false, "options": {"kind": "CreateOptions", "apiVersion": "meta.k8s.io/v1"},
            },
        })
    }

    fn answered(review: &Value) -> (Reason, Value) {
        let answered = answer(review.to_string().as_bytes(), &Cluster::default()).unwrap();
        (answered.outcome, serde_json::from_slice(&answered.body).unwrap())
    }

    #[test]
    fn an_answer_names_its_version_and_echoes_the_uid() {
        let (outcome, answer) = answered(&review_of(&json!({"spec": {"containers": []}})));
        assert_eq!(outcome, Reason::NotOptedIn);
        let response = json!({"uid": "705ab4f5", "allowed": true});
        assert_eq!(
            answer,
            json!({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "response": response})
        );
    }

    #[test]
    fn what_is_no_review_is_not_answered() {
        let of = |key: &str, value: Value| {
            let mut review = review_of(&json!({}));
            review[key] = value;
            review.to_string().into_bytes()
        };
        let mut without_uid = review_of(&json!({}));
        without_uid["request"].as_object_mut().unwrap().remove("uid");
        let mut empty_uid = review_of(&json!({}));
        empty_uid["request"]["uid"] = json!("");
        let whole = review_of(&json!({})).to_string().into_bytes();
        for (body, says) in [
            (of("apiVersion", json!("admission.k8s.io/v1beta1")), "admission.k8s.io/v1beta1"),
            (of("kind", json!("Pod")), "the body is Pod"),
            (of("request", Value::Null), "no request.uid"),
            (without_uid.to_string().into_bytes(), "missing field `uid`"),
            (empty_uid.to_string().into_bytes(), "no request.uid"),
            (whole[..whole.len() - 1].to_vec(), "EOF"),
            (b"\xff\xfe".to_vec(), "not UTF-8"),
            (b"".to_vec(), "EOF"),
            (b"[]".to_vec(), "invalid"),
        ] {
            let error = answer(&body, &Cluster::default()).unwrap_err().to_string();
            assert!(error.contains(says), "{error}");
        }
    }

    #[test]
    fn a_pod_that_is_not_understood_is_allowed_with_a_warning() {
        for pod in [json!({"spec": {"containers": "all"}}), json!("pod"), json!({"metadata": {"labels": {"a": 1}}})] {
            let (outcome, answer) = answered(&review_of(&pod));
            assert_eq!((outcome, &answer["response"]["allowed"]), (Reason::UnreadablePod, &json!(true)), "{pod}");
            let warning = answer["response"]["warnings"][0].as_str().unwrap();
            assert!(warning.contains("UnreadablePod") && warning.len() <= 256, "{warning}");
        }
    }

    #[test]
    fn what_is_no_new_pod_is_allowed_and_left_alone() {
        for (key, value) in [
            ("operation", json!("UPDATE")),
            ("subResource", json!("resize")),
            ("kind", json!({"group": "apps", "version": "v1", "kind": "Deployment"})),
            ("object", Value::Null),
        ] {
            let mut review = review_of(&json!({"spec": {"containers": []}}));
            review["request"][key] = value;
            let (outcome, answer) = answered(&review);
            assert_eq!((outcome, &answer["response"]["allowed"]), (Reason::NotANewPod, &json!(true)), "{key}");
        }
    }
}
