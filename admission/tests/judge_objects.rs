//! What is refused, and what is let in with which warning: a row for each rule.

use std::sync::Arc;

use powercap_admission::validate::{
    Change, DomainWorld, PodSeen, PolicyWorld, Review, Verdict, answer, judge_domain, judge_policy,
};
use powercap_common::{
    api::{NodeFrequencies, PowerCappingPolicy, PowerDomain},
    selector::Labels,
};
use serde_json::{Value, json};

fn with(mut base: Value, more: &Value) -> Value {
    base.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    base
}

fn policy(name: &str, spec: &Value) -> PowerCappingPolicy {
    let spec = with(json!({"powerCapLimitWatts": 1000, "mode": "Enforce"}), spec);
    let spec = match spec.get("targetRef") {
        None => with(json!({"selector": {"matchLabels": {"app": "chat"}}}), &spec),
        Some(_) => spec,
    };
    let object = json!({"apiVersion": "powercapping.io/v1alpha1", "kind": "PowerCappingPolicy",
        "metadata": {"namespace": "llm", "name": name}, "spec": spec});
    serde_json::from_value(object).unwrap()
}

fn domain(name: &str, spec: &Value) -> PowerDomain {
    let spec = with(json!({"powerCapLimitWatts": 10_000, "nodeSelector": {"matchLabels": {"rack": "r1"}}}), spec);
    let object = json!({"apiVersion": "powercapping.io/v1alpha1", "kind": "PowerDomain",
        "metadata": {"name": name}, "spec": spec});
    serde_json::from_value(object).unwrap()
}

fn labels(pairs: &[(&str, &str)]) -> Labels {
    pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
}

/// A node whose boards, of 74 W at their lowest clock, are held by this pod.
fn node(name: &str, boards: usize, pod: &str) -> Arc<NodeFrequencies> {
    let board = |number| {
        json!({"uuid": format!("GPU-{number}"), "model": "H100", "minGraphicsMegahertz": 210,
        "maxGraphicsMegahertz": 1980, "minPowerLimitWatts": 200, "maxPowerLimitWatts": 700, "state": "Applied",
        "reason": "Applied", "tenants": [{"namespace": "llm", "name": pod}]})
    };
    let boards: Vec<_> = (0..boards).map(board).collect();
    let object = json!({"metadata": {"name": name}, "status": {"gpus": boards},
        "spec": {"nodeName": name, "epoch": {"term": 1, "sequence": 1}}});
    Arc::new(serde_json::from_value(object).unwrap())
}

/// A world in which nothing is wrong with any policy.
fn calm() -> PolicyWorld {
    let pod = PodSeen { name: "chat-0".into(), labels: labels(&[("app", "chat")]), controller: None };
    PolicyWorld {
        nodes: vec![node("n0", 8, "chat-0")],
        namespace: Some(labels(&[("powercapping.io/admission", "enabled"), ("team", "llm")])),
        target_exists: Some(true),
        pods: Some(vec![pod]),
        ..PolicyWorld::default()
    }
}

#[track_caller]
fn assert_one_warning(verdict: &Verdict, says: &str) {
    assert_eq!(verdict.refused, None);
    let [warning] = &verdict.warnings[..] else { panic!("one warning, not {:?}", verdict.warnings) };
    assert!(warning.contains(says), "{warning}");
}

#[test]
fn a_sound_object_is_let_in_without_a_word() {
    assert_eq!(judge_policy(&policy("chat", &json!({})), true, &calm()), Verdict::default());
    let world = DomainWorld { members: Some(["n0".to_owned()].into()), ..DomainWorld::default() };
    assert_eq!(judge_domain(&domain("rack", &json!({})), &world), Verdict::default());
}

#[test]
fn what_could_not_be_carried_out_is_refused_with_field_value_and_mend() {
    for (spec, says) in [
        (json!({"algorithm": {"name": "optimal"}}), r#"spec.algorithm.name is "optimal"; write uniform or"#),
        (
            json!({"algorithm": {"name": "priority", "parameters": {"reservedPercent": 101}}}),
            "spec.algorithm.parameters.reservedPercent is 101; write a whole number from 0 to 100",
        ),
        (
            json!({"algorithm": {"name": "uniform", "parameters": {"headroomPercent": 1}}}),
            "spec.algorithm.parameters.headroomPercent is no parameter of uniform, which takes none",
        ),
    ] {
        for verdict in [
            judge_policy(&policy("chat", &spec), true, &calm()),
            judge_domain(&domain("rack", &spec), &DomainWorld::default()),
        ] {
            let refused = verdict.refused.unwrap();
            assert!(refused.contains(says), "{refused}");
        }
    }
    let crossed = json!({"resourcePolicy": {"containerPolicies": [
        {"containerName": "*", "minAllowed": {"cpu": "2"}, "maxAllowed": {"cpu": "1500m"}}]}});
    let refused = judge_policy(&policy("chat", &crossed), true, &calm()).refused.unwrap();
    assert!(refused.contains("containerPolicies[*].minAllowed (2) is above its maxAllowed (1500m)"), "{refused}");
    let operator = json!({"nodeSelector": {"matchExpressions": [{"key": "rack", "operator": "Near"}]}});
    let refused = judge_domain(&domain("rack", &operator), &DomainWorld::default()).refused.unwrap();
    assert!(refused.contains(r#"operator "Near" of key "rack" is unknown; write In"#), "{refused}");
}

#[test]
fn parents_that_lead_back_are_refused_by_the_last_of_them() {
    let parent = |name: &str| json!({"parentRef": {"name": name}});
    let world = |pairs: &[(&str, &str)]| {
        let others = pairs.iter().map(|(name, of)| Arc::new(domain(name, &parent(of)))).collect();
        DomainWorld { domains: others, ..DomainWorld::default() }
    };
    for (others, refused) in [
        (&[("row", "hall"), ("hall", "rack")][..], Some("rack → row → hall → rack")),
        (&[("row", "rack")], Some("rack → row → rack")),
        (&[("row", "hall"), ("hall", "row")], None),
        (&[("row", "hall")], None),
        // What the object was before does not count.
        (&[("rack", "rack"), ("row", "hall")], None),
    ] {
        let said = judge_domain(&domain("rack", &parent("row")), &world(others)).refused;
        match refused {
            None => assert_eq!(said, None, "{others:?}"),
            Some(way) => assert!(said.unwrap().contains(way), "{others:?}"),
        }
    }
}

#[test]
fn a_domain_that_works_in_another_way_than_it_seems_is_let_in_with_a_warning() {
    let members = |names: &[&str]| Some(names.iter().map(|name| (*name).to_owned()).collect());
    let parent = json!({"parentRef": {"name": "row"}});
    let row = |cap: u32| vec![Arc::new(domain("row", &json!({"powerCapLimitWatts": cap})))];
    let child = Arc::new(domain("shelf", &json!({"parentRef": {"name": "rack"}, "powerCapLimitWatts": 10_001})));
    let beside = |domains| DomainWorld { domains, ..DomainWorld::default() };
    for (spec, world, says) in [
        (&parent, beside(Vec::new()), "spec.parentRef names row, which does not exist"),
        (&parent, beside(row(9999)), "spec.powerCapLimitWatts (10000) is above that of row (9999)"),
        (&json!({}), beside(vec![child]), "(10000) is below that of shelf, which stand within"),
        (
            &json!({}),
            DomainWorld { members: members(&[]), ..DomainWorld::default() },
            "spec.nodeSelector matches no node yet",
        ),
        (
            &json!({"powerCapLimitWatts": 1500, "unmanagedWatts": 10, "nodeOverhead": {"staticWatts": 1000}}),
            DomainWorld {
                members: members(&["n0", "n2"]),
                nodes: vec![node("n0", 8, "a"), node("n1", 8, "a")],
                ..DomainWorld::default()
            },
            "spec.powerCapLimitWatts (1500) is below about 1599 W, which 1 of its nodes draw at their lowest settings with 10 W",
        ),
    ] {
        assert_one_warning(&judge_domain(&domain("rack", spec), &world), says);
    }
    let fits = DomainWorld { domains: row(10_000), ..DomainWorld::default() };
    assert_eq!(judge_domain(&domain("rack", &parent), &fits), Verdict::default());
}

#[test]
fn a_policy_that_works_in_another_way_than_it_seems_is_let_in_with_a_warning() {
    let target = json!({"targetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "chat"}});
    let tenancy = |tenancy: Value| PolicyWorld {
        domains: vec![Arc::new(domain("rack", &json!({"tenancy": tenancy})))],
        ..calm()
    };
    let other = |spec: Value| PolicyWorld { policies: vec![Arc::new(policy("other", &spec))], ..calm() };
    let none = json!({});
    for (spec, world, says) in [
        (
            &target,
            PolicyWorld { target_exists: Some(false), pods: None, ..calm() },
            "spec.targetRef names Deployment chat (apps/v1), which does not exist yet",
        ),
        (
            &none,
            PolicyWorld { namespace: Some(labels(&[("team", "llm")])), ..calm() },
            "namespace llm has not opted in to admission",
        ),
        (&none, other(json!({})), "policies other select some of the same pods: all caps hold"),
        (
            &none,
            tenancy(json!({"maxMode": "Advise"})),
            "powerdomain/rack permits spec.mode Advise at most, not Enforce",
        ),
        (
            &none,
            tenancy(json!({"namespaceSelector": {"matchLabels": {"team": "vision"}}})),
            "powerdomain/rack permits no policy of namespace llm",
        ),
        (
            &json!({"priority": 500}),
            tenancy(json!({"maxPriority": 100})),
            "powerdomain/rack permits spec.priority 100 at most, not 500",
        ),
        (
            &json!({"powerCapLimitWatts": 500}),
            calm(),
            "spec.powerCapLimitWatts (500) is below about 589 W, which the 8 boards of its pods draw",
        ),
    ] {
        assert_one_warning(&judge_policy(&policy("chat", spec), true, &world), says);
    }
    for (spec, new, world) in [
        // Said once, when the policy is made.
        (&none, false, PolicyWorld { namespace: Some(Labels::new()), ..calm() }),
        (&json!({"mode": "Off", "powerCapLimitWatts": 1}), true, other(json!({}))),
        (&none, true, other(json!({"selector": {"matchLabels": {"app": "vision"}}}))),
        (&none, true, other(json!({"mode": "Off"}))),
        (&none, true, tenancy(json!({"namespaceSelector": {"matchLabels": {"team": "llm"}}}))),
        // What could not be looked up is not judged.
        (&target, true, PolicyWorld::default()),
    ] {
        assert_eq!(judge_policy(&policy("chat", spec), new, &world), Verdict::default(), "{spec}");
    }
}

fn review(request: &Value) -> Review {
    let base = json!({"uid": "u1", "operation": "CREATE", "object": policy("chat", &json!({})),
        "kind": {"group": "powercapping.io", "version": "v1alpha1", "kind": "PowerCappingPolicy"}});
    let request = with(base, request);
    serde_json::from_value(json!({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": request}))
        .unwrap()
}

#[test]
fn a_review_is_answered_by_its_uid_and_a_refusal_is_told_as_invalid() {
    let request = review(&json!({})).request().unwrap();
    let allowed = answer(&request, Verdict::default().warn("é".repeat(200)).warn("two\nlines"));
    let allowed = serde_json::to_value(allowed).unwrap();
    assert_eq!((&allowed["response"]["uid"], &allowed["response"]["allowed"]), (&json!("u1"), &json!(true)));
    assert_eq!(allowed["response"]["warnings"][0].as_str().unwrap().len(), 255, "cut between letters");
    assert_eq!(allowed["response"]["warnings"][1], "two lines", "it becomes a header");
    assert_eq!(allowed["response"].get("status"), None);
    let refused = serde_json::to_value(answer(&request, Verdict::refuse("no"))).unwrap();
    let status = json!({"code": 422, "reason": "Invalid", "message": "no"});
    assert_eq!(refused["response"], json!({"uid": "u1", "allowed": false, "status": status}));
}

#[test]
fn what_is_no_review_of_ours_is_not_answered() {
    for (key, value, refusal) in [
        ("apiVersion", json!("admission.k8s.io/v1beta1"), "admission.k8s.io/v1beta1"),
        ("kind", json!("Pod"), "the body is Pod"),
        ("request", Value::Null, "no request.uid"),
        ("request", json!({"uid": "", "kind": {"group": "", "kind": ""}, "operation": "CREATE"}), "no request.uid"),
    ] {
        let mut body = json!({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": null});
        body[key] = value;
        let review: Review = serde_json::from_value(body).unwrap();
        let said = review.request().unwrap_err();
        assert!(said.to_string().contains(refusal), "{said}");
    }
}

#[test]
fn deletions_and_objects_of_others_are_nobodys_business_here() {
    let mut doomed = serde_json::to_value(policy("chat", &json!({}))).unwrap();
    doomed["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
    for (request, judged) in [
        (json!({}), true),
        (json!({"operation": "DELETE", "object": null}), false),
        (json!({"operation": "UPDATE", "object": doomed}), false),
        (json!({"kind": {"group": "apps", "version": "v1", "kind": "Deployment"}}), false),
        (json!({"kind": {"group": "powercapping.io", "version": "v1alpha1", "kind": "NodeFrequencies"}}), false),
    ] {
        let change = Change::asked(&review(&request).request().unwrap());
        assert_eq!(matches!(change, Change::Policy { .. }), judged, "{request}: {change:?}");
    }
    let strange = review(&json!({"object": {"metadata": {}, "spec": {"mode": "Later"}}})).request().unwrap();
    let strange = Change::asked(&strange);
    assert!(matches!(strange, Change::Unreadable { .. }), "a later version's object is let in: {strange:?}");
}
