//! CPU limits of a pod: how low, never of whom, and back as they were.

use std::collections::BTreeMap;

use k8s_openapi::jiff::Timestamp;
use powercap_actuator::escalate::ceilings::{
    memory::{ANNOTATION, By},
    resize::{PodChange, PodVerdict, Step, lower, permitted, restore},
    stored::{Kind, Stored},
};
use powercap_common::{api::PowerScope, quantity::Quantity, reason::Reason};
use serde_json::{Value, json};

const BY: By<'_> = By { workload: "Deployment/chat", policy: "chat", domain: None, watts: 100 };

/// A pod of one container with this limit and request.
fn pod(limit: &str, request: &str) -> Stored {
    let resources = json!({"limits": {"cpu": limit, "memory": "1Gi"}, "requests": {"cpu": request, "memory": "1Gi"}});
    let spec = json!({"containers": [{"name": "serve", "resources": resources}, {"name": "log", "resources": {}}]});
    Stored { kind: Kind::Pod, value: json!({"metadata": {"namespace": "llm", "name": "chat-0"}, "spec": spec}) }
}

fn lowered(pod: &Stored, recommended: &[(&str, u64)]) -> PodVerdict {
    let recommended: BTreeMap<_, _> =
        recommended.iter().map(|(name, millis)| ((*name).to_owned(), Quantity::millis(*millis))).collect();
    lower(pod, &recommended, &BY, Timestamp::UNIX_EPOCH)
}

/// As the API server does both steps.
fn write(pod: &mut Stored, change: &PodChange) {
    for step in &change.steps {
        match step {
            Step::Remember(patch) => match &patch["metadata"]["annotations"][ANNOTATION] {
                Value::Null => {
                    pod.value["metadata"].as_object_mut().unwrap().remove("annotations");
                }
                memory => pod.value["metadata"]["annotations"] = json!({ANNOTATION: memory}),
            },
            Step::Resize(patch) => {
                for changed in patch["spec"]["containers"].as_array().unwrap() {
                    assert_eq!(changed["name"], "serve", "the other has no limit");
                    pod.value["spec"]["containers"][0]["resources"]["limits"]["cpu"] =
                        changed["resources"]["limits"]["cpu"].clone();
                }
            }
        }
    }
}

#[test]
fn a_limit_falls_to_a_thousandth_above_what_is_requested_or_recommended_and_comes_back() {
    for (limit, request, recommended, expected) in [
        ("4", "1", 0, "cpu limit 4 → 1001m"),
        ("4", "1", 2500, "cpu limit 4 → 2501m"),
        ("4", "1999m", 0, "cpu limit 4 → 2"),
        ("500m", "100m", 0, "cpu limit 500m → 101m"),
    ] {
        let mut pod = pod(limit, request);
        let before = pod.clone();
        let PodVerdict::Change(change) = lowered(&pod, &[("serve", recommended)]) else { panic!("{limit} {request}") };
        assert_eq!(change.says, expected);
        assert!(matches!(change.steps, [Step::Remember(_), Step::Resize(_)]), "first what it was");
        write(&mut pod, &change);
        assert_ne!(pod, before);
        let PodVerdict::Change(change) = restore(&pod) else { panic!("{limit} {request}") };
        assert!(matches!(change.steps, [Step::Resize(_), Step::Remember(_)]), "what it was goes last");
        write(&mut pod, &change);
        assert_eq!(pod, before);
    }
}

#[test]
fn no_limit_is_added_none_falls_below_its_request_and_no_container_is_restarted() {
    let mut without = pod("4", "1");
    without.value["spec"]["containers"][0]["resources"]["limits"] = json!({"memory": "1Gi"});
    let mut restarts = pod("4", "1");
    restarts.value["spec"]["containers"][0]["resizePolicy"] =
        json!([{"resourceName": "cpu", "restartPolicy": "RestartContainer"}]);
    for pod in [without, restarts, pod("2", "2"), pod("2", "1999m"), pod("many", "1")] {
        let verdict = lowered(&pod, &[]);
        assert!(
            matches!(&verdict, PodVerdict::Refused(hold) if hold.reason == Reason::NothingToLower),
            "{verdict:?} of {pod:?}"
        );
    }
}

#[test]
fn a_policy_of_devices_alone_and_an_active_vpa_leave_limits_alone() {
    let vpa = |mode: &str| json!({"spec": {"targetRef": {"kind": "Deployment", "name": "chat"}, "updatePolicy": {"updateMode": mode}}});
    for (scope, vpas, expected) in [
        (PowerScope::DevicesAndHost, vec![], None),
        (PowerScope::Devices, vec![], Some(Reason::NothingToLower)),
        (PowerScope::DevicesAndHost, vec![vpa("Auto")], Some(Reason::AutoscaledByVpa)),
        (PowerScope::DevicesAndHost, vec![vpa("Off"), vpa("Initial")], None),
    ] {
        let held = permitted(scope, &vpas, "Deployment", "chat").err().map(|hold| hold.reason);
        assert_eq!(held, expected, "{scope:?} {vpas:?}");
    }
}
