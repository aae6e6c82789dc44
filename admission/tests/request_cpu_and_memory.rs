//! CPU and memory of new pods, where a policy controls them.

use powercap_common::reason::Reason;
use serde_json::{Value, json};

use crate::world::{World, limit_range, pod, quota};

/// A policy that controls CPU and memory, and recommends 2 cores and 1 GiB.
fn world(values: &str) -> World {
    let mut world = World::new();
    world.control(&["cpu", "memory"], values);
    world.recommend("main", &json!({"cpu": "2", "memory": "1Gi", "powercapping.io/watts": "700"}));
    world
}

fn written(cpu: &str, memory: &str) -> Value {
    json!({"cpu": cpu, "memory": memory})
}

#[test]
fn requests_become_what_is_recommended_and_limits_follow_in_proportion() {
    let world = world("RequestsAndLimits");
    for (asked, becomes) in [
        (json!({}), json!({"requests": written("2", "1073741824")})),
        (
            json!({"requests": written("1", "2Gi"), "limits": written("4", "2Gi")}),
            json!({"requests": written("2", "1073741824"), "limits": written("8", "1073741824")}),
        ),
        (json!({"requests": written("2", "1Gi")}), json!({"requests": written("2", "1Gi")})),
    ] {
        assert_eq!(world.resources(&pod(&asked)), becomes, "{asked}");
    }
}

#[test]
fn with_requests_only_limits_stand_and_no_request_goes_above() {
    let world = world("RequestsOnly");
    let asked = json!({"requests": written("1", "512Mi"), "limits": written("1500m", "768Mi")});
    let becomes = json!({"requests": written("1500m", "805306368"), "limits": written("1500m", "768Mi")});
    assert_eq!(world.resources(&pod(&asked)), becomes);
}

#[test]
fn what_is_not_controlled_is_not_touched() {
    let mut world = world("RequestsAndLimits");
    world.control(&["memory"], "RequestsAndLimits");
    assert_eq!(
        world.resources(&pod(&json!({"requests": {"cpu": "1"}}))),
        json!({"requests": written("1", "1073741824")})
    );
    world.control(&[], "RequestsAndLimits");
    assert_eq!(world.decide(&pod(&json!({}))).outcome, Reason::NothingRecommended);
}

#[test]
fn a_pod_with_resources_of_its_own_as_a_whole_keeps_its_containers_as_they_are() {
    let world = world("RequestsAndLimits");
    let mut pod = pod(&json!({}));
    pod["spec"]["resources"] = json!({"requests": {"cpu": "1"}});
    let mutation = world.decide(&pod);
    assert_eq!(world.resources(&pod), json!({"requests": {"memory": "1073741824"}}));
    assert_eq!(mutation.warnings[0].reason, Reason::PodLevelResources);
}

#[test]
fn limit_ranges_and_quotas_are_kept() {
    let mut world = world("RequestsAndLimits");
    let asked = json!({"requests": written("1", "1Gi"), "limits": written("2", "1Gi")});
    world.limits = vec![limit_range(&json!({"type": "Container", "max": {"cpu": "3"}}))];
    assert_eq!(world.resources(&pod(&asked))["limits"]["cpu"], "3");
    world.quotas = vec![quota(&json!({"requests.cpu": "4"}), &json!({"requests.cpu": "3500m"}))];
    let mutation = world.decide(&pod(&asked));
    assert_eq!((mutation.outcome, mutation.changes.len()), (Reason::QuotaWouldRefuse, 0));
}

#[test]
fn a_pod_without_any_request_stays_so_where_a_quota_is_for_such_pods() {
    let mut world = world("RequestsAndLimits");
    let mut best_effort = quota(&json!({"pods": "9"}), &json!({"pods": "1"}));
    best_effort.spec.as_mut().unwrap().scopes = Some(vec!["BestEffort".to_owned()]);
    world.quotas = vec![best_effort];
    assert_eq!(world.decide(&pod(&json!({}))).outcome, Reason::QuotaWouldRefuse);
    assert_eq!(world.decide(&pod(&json!({"requests": {"cpu": "1"}}))).outcome, Reason::RequestsSet);
}
