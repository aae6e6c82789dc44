//! Which object bounds a workload, how it is frozen and lowered, and that it comes back as it was.

use k8s_openapi::jiff::Timestamp;
use powercap_actuator::escalate::ceilings::{
    Verdict,
    bounds::{Site, bounding, copies_annotation},
    memory::{ANNOTATION, By, Memory},
    replicas::{Wish, decide},
    stored::{Kind, Stored},
};
use powercap_common::reason::Reason;
use proptest::prelude::*;
use serde_json::{Value, json};

use crate::store::Store;

const BY: By<'_> = By { workload: "Deployment/chat", policy: "chat", domain: None, watts: 100 };

fn stored(kind: Kind, name: &str, spec: Value) -> Stored {
    let mut value = json!({"metadata": {"namespace": "llm", "name": name}});
    value["spec"] = spec;
    Stored { kind, value }
}

fn deployment(replicas: u32) -> Stored {
    stored(Kind::Deployment, "chat", json!({"replicas": replicas, "selector": {"matchLabels": {"app": "chat"}}}))
}

fn horizontal(minimum: u32, maximum: u32) -> Stored {
    let target = json!({"apiVersion": "apps/v1", "kind": "Deployment", "name": "chat"});
    let spec = json!({"scaleTargetRef": target, "minReplicas": minimum, "maxReplicas": maximum});
    stored(Kind::HorizontalPodAutoscaler, "chat", spec)
}

fn keda(spec: Value) -> Stored {
    let mut scaled = stored(Kind::ScaledObject, "chat", spec);
    scaled.value["spec"]["scaleTargetRef"] = json!({"name": "chat"});
    scaled.value["spec"]["triggers"] = json!([{"type": "cron", "metadata": {"timezone": "UTC"}}]);
    scaled
}

fn predictor(minimum: u32, maximum: u32, mode: Option<&str>) -> Stored {
    let spec = json!({"predictor": {"minReplicas": minimum, "maxReplicas": maximum, "model": {"modelFormat": {"name": "vllm"}}}});
    let mut service = stored(Kind::InferenceService, "chat", spec);
    if let Some(mode) = mode {
        service.value["metadata"]["annotations"] = json!({"serving.kserve.io/deploymentMode": mode});
    }
    service
}

fn plain(object: Stored) -> Site {
    Site { object, made: Vec::new(), autoscalers: Vec::new(), copied: false }
}

/// A Deployment of so many replicas, scaled by this.
fn scaled(replicas: u32, autoscaler: Stored) -> Site {
    Site { autoscalers: vec![autoscaler], ..plain(deployment(replicas)) }
}

fn served(replicas: u32, service: Stored) -> Site {
    Site { made: vec![deployment(replicas)], ..plain(service) }
}

/// What is decided when the bounding object of the site is as it stands in the store.
fn verdict(site: &Site, store: &Store, wish: Wish) -> Verdict {
    let mut site = site.clone();
    let place =
        [&mut site.object].into_iter().chain(&mut site.autoscalers).find(|object| object.kind == store.object.kind);
    *place.unwrap() = store.object.clone();
    decide(&bounding(&site).unwrap(), wish, &BY, Timestamp::UNIX_EPOCH)
}

fn store(site: &Site) -> Store {
    let object = bounding(site).unwrap().object.clone();
    Store::new(object)
}

/// Decides and writes; what was said.
fn apply(site: &Site, store: &mut Store, wish: Wish) -> String {
    match verdict(site, store, wish) {
        Verdict::Change(change) => {
            assert!(store.patch(&change), "nobody else wrote");
            change.says
        }
        Verdict::Stands => "stands".to_owned(),
        Verdict::Refused(hold) => hold.reason.to_string(),
    }
}

fn llm(spec: Value) -> Site {
    let mut decode = deployment(4);
    decode.value["metadata"]["labels"] = json!({"llm-d.ai/role": "decode"});
    let mut prefill = deployment(3);
    prefill.value["metadata"]["labels"] = json!({"llm-d.ai/role": "prefill"});
    Site { made: vec![decode, prefill], ..plain(stored(Kind::LlmInferenceService, "chat", spec)) }
}

/// Each kind as people write it, and what a freeze, then a step of Scale, say.
fn kinds() -> Vec<(Site, &'static str, &'static str)> {
    let keda_default = json!({});
    let keda_full = json!({"minReplicaCount": 4, "maxReplicaCount": 20, "idleReplicaCount": 3});
    vec![
        (plain(deployment(4)), "stands", "replicas 4 → 3"),
        (plain(stored(Kind::StatefulSet, "db", json!({"replicas": 2}))), "stands", "replicas 2 → 1"),
        (scaled(4, horizontal(1, 10)), "maxReplicas 10 → 4", "maxReplicas 4 → 3"),
        (scaled(4, horizontal(4, 10)), "maxReplicas 10 → 4", "maxReplicas 4 → 3, minReplicas 4 → 3"),
        (scaled(4, horizontal(1, 4)), "stands", "maxReplicas 4 → 3"),
        (
            scaled(4, keda(keda_default)),
            "autoscaling.keda.sh/paused-scale-out unset → true",
            "maxReplicaCount unset → 3",
        ),
        (
            scaled(4, keda(keda_full)),
            "autoscaling.keda.sh/paused-scale-out unset → true",
            "idleReplicaCount 3 → 2, maxReplicaCount 20 → 3, minReplicaCount 4 → 3",
        ),
        (served(4, predictor(1, 8, Some("Standard"))), "maxReplicas 8 → 4", "maxReplicas 4 → 3"),
        (served(4, predictor(4, 4, Some("RawDeployment"))), "stands", "maxReplicas 4 → 3, minReplicas 4 → 3"),
        (llm(json!({"replicas": 4, "prefill": {"replicas": 3}})), "stands", "replicas 4 → 3"),
        (
            llm(json!({"scaling": {"minReplicas": 1, "maxReplicas": 8}, "prefill": {"replicas": 3}})),
            "maxReplicas 8 → 4",
            "maxReplicas 4 → 3",
        ),
    ]
}

#[test]
fn each_kind_is_frozen_then_lowered_and_lifted_it_is_what_it_was() {
    for (site, freeze, lower) in kinds() {
        let mut store = store(&site);
        let before = store.object.value.clone();
        assert_eq!(apply(&site, &mut store, Wish::Freeze), freeze, "{before}");
        let frozen = store.object.value.clone();
        assert_eq!(apply(&site, &mut store, Wish::Freeze), "stands", "a freeze is done once: {before}");
        assert_eq!(apply(&site, &mut store, Wish::Lower(1)), lower, "{before}");
        assert!(store.object.annotation(ANNOTATION).is_some());
        apply(&site, &mut store, Wish::Raise(9));
        assert_eq!(store.object.value["spec"], frozen["spec"], "the freeze outlives what was lowered: {before}");
        apply(&site, &mut store, Wish::Lift);
        store.object.value["metadata"]["resourceVersion"] = json!("1");
        assert_eq!(store.object.value, before);
    }
}

#[test]
fn replicas_fall_one_by_one_to_the_last_and_come_back_one_by_one() {
    let mut store = store(&plain(deployment(3)));
    let mut said = Vec::new();
    for wish in [Wish::Lower(1), Wish::Lower(1), Wish::Lower(1), Wish::Raise(1), Wish::Raise(1), Wish::Raise(1)] {
        said.push(apply(&plain(store.object.clone()), &mut store, wish));
    }
    assert_eq!(
        said,
        ["replicas 3 → 2", "replicas 2 → 1", "NothingToLower", "replicas 1 → 2", "replicas 2 → 3", "stands"]
    );
    assert_eq!(store.object.annotation(ANNOTATION), None);
}

#[test]
fn the_larger_half_of_an_llm_server_is_lowered_and_of_two_alike_the_one_that_prefills() {
    for (main, prefill, expected) in
        [(4, 3, "/spec/replicas"), (2, 3, "/spec/prefill/replicas"), (3, 3, "/spec/prefill/replicas")]
    {
        let mut site = llm(json!({"replicas": main, "prefill": {"replicas": prefill}}));
        site.made[0].value["spec"]["replicas"] = json!(main);
        site.made[1].value["spec"]["replicas"] = json!(prefill);
        let Verdict::Change(change) = verdict(&site, &store(&site), Wish::Lower(1)) else { panic!("a change") };
        assert!(change.patch.pointer(expected).is_some(), "{main} {prefill}: {}", change.patch);
    }
}

#[test]
fn what_must_be_left_alone_is_left_alone_with_a_reason() {
    let annotated = |key: &str, value: &str| {
        let mut scaled = keda(json!({}));
        scaled.value["metadata"]["annotations"] = json!({key: value});
        scaled
    };
    let mut of_keda = horizontal(1, 10);
    let copied = |object: Stored| Site { copied: true, ..served(4, object) };
    of_keda.value["metadata"]["ownerReferences"] =
        json!([{"kind": "ScaledObject", "name": "chat", "controller": true}]);
    for (site, expected) in [
        (scaled(4, annotated("autoscaling.keda.sh/paused", "true")), Some(Reason::PausedByPerson)),
        (scaled(4, annotated("autoscaling.keda.sh/paused-replicas", "2")), Some(Reason::PausedByPerson)),
        (scaled(4, annotated("autoscaling.keda.sh/paused", "false")), None),
        (scaled(4, of_keda), Some(Reason::ScaledObjectMissing)),
        (served(4, predictor(1, 8, Some("Knative"))), Some(Reason::KnativeMode)),
        (served(4, predictor(1, 8, Some("Serverless"))), Some(Reason::KnativeMode)),
        (served(4, predictor(1, 8, None)), Some(Reason::KnativeMode)),
        (copied(predictor(1, 8, Some("Standard"))), Some(Reason::AnnotationsCopied)),
        (copied(deployment(4)), None),
    ] {
        assert_eq!(bounding(&site).err().map(|hold| hold.reason), expected, "{site:?}");
    }
    let mut unreadable = store(&plain(deployment(4)));
    unreadable.object.value["metadata"]["annotations"] = json!({ANNOTATION: "{\"by\": 3"});
    for wish in [Wish::Lower(1), Wish::Freeze, Wish::Lift] {
        assert_eq!(apply(&plain(deployment(4)), &mut unreadable, wish), "OriginalsUnreadable");
    }
}

#[test]
fn kserve_keeps_from_pods_what_its_configuration_names_in_so_many_words() {
    for (configuration, copied) in [
        (None, true),
        (Some("{}"), true),
        (Some(r#"{"serviceAnnotationDisallowedList": []}"#), true),
        (Some(r#"{"serviceAnnotationDisallowedList": ["powercapping.io"]}"#), true),
        (Some(r#"{"serviceLabelDisallowedList": ["powercapping.io/escalated"]}"#), true),
        (Some(r#"{"serviceAnnotationDisallowedList": ["a/b", "powercapping.io/escalated"]}"#), false),
        (Some(r#"{"serviceAnnotationDisallowedList": ["powercapping.io/escalated"]"#), true),
    ] {
        assert_eq!(copies_annotation(configuration), copied, "{configuration:?}");
    }
}

#[test]
fn the_scaled_object_counts_and_not_the_hpa_that_keda_makes_of_it_nor_anothers() {
    let mut site = scaled(4, horizontal(1, 10));
    site.autoscalers.push(keda(json!({})));
    assert_eq!(bounding(&site).unwrap().object.kind, Kind::ScaledObject);
    let mut others = horizontal(1, 10);
    others.value["spec"]["scaleTargetRef"]["name"] = json!("chat-2");
    assert_eq!(bounding(&scaled(4, others)).unwrap().object.kind, Kind::Deployment);
}

#[test]
fn another_who_reverts_is_answered_three_times_and_then_left_in_peace() {
    let site = scaled(4, horizontal(1, 10));
    let mut store = store(&site);
    assert_eq!(apply(&site, &mut store, Wish::Lower(1)), "maxReplicas 10 → 3");
    for _ in 0..2 {
        store.edit("/spec/maxReplicas", json!(10));
        assert_eq!(apply(&site, &mut store, Wish::Keep), "maxReplicas 10 → 3");
    }
    store.edit("/spec/maxReplicas", json!(10));
    for _ in 0..3 {
        assert_eq!(apply(&site, &mut store, Wish::Keep), "Contested");
    }
    assert_eq!(apply(&site, &mut store, Wish::Lift), "", "only the annotation goes");
    assert_eq!(store.object.count("/spec/maxReplicas"), Some(10));
    assert_eq!(store.object.annotation(ANNOTATION), None);
}

#[test]
fn of_two_leaders_one_alone_lowers() {
    let site = plain(deployment(4));
    let mut store = store(&site);
    let both = [verdict(&site, &store, Wish::Lower(1)), verdict(&site, &store, Wish::Lower(1))];
    let accepted = both.map(|verdict| match verdict {
        Verdict::Change(change) => store.patch(&change),
        verdict => panic!("{verdict:?}"),
    });
    assert_eq!(accepted, [true, false]);
    assert_eq!(store.object.replicas(), 3);
}

#[derive(Clone, Copy, Debug)]
enum Step {
    Ours(Wish),
    Others(u32),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        Just(Step::Ours(Wish::Freeze)),
        (1_u32..3).prop_map(|by| Step::Ours(Wish::Lower(by))),
        Just(Step::Ours(Wish::Keep)),
        (1_u32..3).prop_map(|by| Step::Ours(Wish::Raise(by))),
        Just(Step::Ours(Wish::Lift)),
        (1_u32..12).prop_map(Step::Others),
    ]
}

fn is_ours(store: &Store, field: &str, value: u32) -> bool {
    let memory = Memory::of(store.object.annotation(ANNOTATION)).unwrap();
    let fields = memory.into_iter().flat_map(|memory| memory.dials.into_values().flat_map(|held| held.fields));
    fields.into_iter().any(|(place, was)| place == field && was.set == json!(value))
}

proptest! {
    #[test]
    fn whoever_writes_in_between_the_last_word_of_another_is_kept_and_never_exceeded(
        steps in prop::collection::vec(step(), 0..24),
        autoscaled in any::<bool>(),
    ) {
        let (site, field) = if autoscaled {
            (scaled(4, horizontal(1, 10)), "/spec/maxReplicas")
        } else {
            (plain(deployment(4)), "/spec/replicas")
        };
        let mut store = store(&site);
        let mut others = store.object.count(field).unwrap();
        for step in steps {
            match step {
                Step::Ours(wish) => {
                    apply(&site, &mut store, wish);
                }
                // Nobody can tell another's word from ours when it is the same.
                Step::Others(value) if is_ours(&store, field, value) => {}
                Step::Others(value) => {
                    store.edit(field, json!(value));
                    others = value;
                }
            }
            let now = store.object.count(field).unwrap();
            prop_assert!((1..=others).contains(&now), "{now} of {others}");
        }
        apply(&site, &mut store, Wish::Lift);
        prop_assert_eq!(store.object.count(field), Some(others));
        prop_assert_eq!(store.object.annotation(ANNOTATION), None);
    }
}
