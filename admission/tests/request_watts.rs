//! The watts that new pods request, and when they request none.

use powercap_admission::{cluster::Taint, review::answer};
use powercap_common::{reason::Reason, units::Watts};
use serde_json::{Value, json};

use crate::{
    served::review_of,
    world::{NAMESPACE, World, limit_range, node, pod, quota, watts},
};

/// What was decided in one word, and how many changes.
fn outcome(world: &World, pod: &Value) -> (Reason, usize) {
    let mutation = world.decide(pod);
    (mutation.outcome, mutation.changes.len())
}

#[test]
fn a_pod_requests_the_recommended_watts_as_request_and_limit() {
    let world = World::new();
    assert_eq!(world.resources(&pod(&json!({}))), watts("700"));
    let told = world.admitted(&pod(&json!({})))["metadata"]["annotations"]["powercapping.io/admission"].clone();
    assert!(told.as_str().unwrap().contains(r#""policy":"chat""#), "{told}");
}

#[test]
fn a_lower_request_of_a_persons_is_raised_and_a_higher_one_kept() {
    let world = World::new();
    for (asked, becomes, reason, warned) in [
        ("400", "700", Some(Reason::RequestTooLow), None),
        ("700", "700", None, None),
        ("0.7k", "0.7k", None, None),
        ("900", "900", None, None),
        ("1001", "1001", None, Some(Reason::RequestTooHigh)),
    ] {
        let mutation = world.decide(&pod(&watts(asked)));
        assert_eq!(world.resources(&pod(&watts(asked))), watts(becomes));
        assert_eq!(mutation.changes.first().map(|change| change.reason), reason, "{asked}");
        assert_eq!(mutation.warnings.first().map(|warning| warning.reason), warned, "{asked}");
    }
    assert_eq!(outcome(&world, &pod(&watts("800"))), (Reason::RequestsSuffice, 0));
}

#[test]
fn before_anything_is_known_the_boards_maximum_counts_and_a_pod_without_boards_requests_none() {
    let mut world = World::new();
    world.policy["status"] = json!({});
    world.nodes.push(crate::world::node("n2"));
    world.nodes[1].largest_board = Some(Watts::new(1000));
    let gpus = json!({"limits": {"nvidia.com/gpu": "4"}});
    let mutation = world.decide(&pod(&gpus));
    assert_eq!((mutation.changes[0].request.to, mutation.changes[0].reason), (4000, Reason::BoardsMaximum));
    assert_eq!(outcome(&world, &pod(&json!({}))), (Reason::NothingRecommended, 0));
}

#[test]
fn watts_stand_on_the_containers_that_hold_boards_by_their_number() {
    let mut world = World::new();
    world.policy["status"] = json!({});
    let mut pod = pod(&json!({"limits": {"nvidia.com/gpu": "4"}}));
    let containers = pod["spec"]["containers"].as_array_mut().unwrap();
    containers.push(json!({"name": "proxy"}));
    containers.push(json!({"name": "draft", "resources": {"limits": {"nvidia.com/gpu": "2"}}}));
    let admitted = world.admitted(&pod);
    let requested =
        |at: usize| admitted["spec"]["containers"][at]["resources"]["requests"]["powercapping.io/watts"].clone();
    assert_eq!([requested(0), requested(1), requested(2)], [json!("2800"), Value::Null, json!("1400")]);
}

#[test]
fn watts_are_requested_only_where_a_node_that_the_pod_may_run_on_advertises_them() {
    let mut world = World::new();
    world.nodes[0].labels = [("zone".to_owned(), "a".to_owned())].into();
    world.nodes[0].taints = vec![Taint { key: "gpu".into(), value: String::new(), effect: "NoSchedule".into() }];
    let bare = json!({});
    let with = |spec: Value| {
        let mut pod = pod(&bare);
        pod["spec"].as_object_mut().unwrap().extend(spec.as_object().unwrap().clone());
        pod
    };
    let bears = json!([{"key": "gpu", "operator": "Exists"}]);
    for (spec, outcome_is) in [
        (json!({}), (Reason::NoNodeAdvertises, 0)),
        (json!({"tolerations": bears}), (Reason::RequestsSet, 1)),
        (json!({"tolerations": bears, "nodeSelector": {"zone": "b"}}), (Reason::NoNodeAdvertises, 0)),
    ] {
        assert_eq!(outcome(&world, &with(spec.clone())), outcome_is, "{spec}");
    }
    world.nodes.clear();
    let mutation = world.decide(&pod(&bare));
    assert_eq!((mutation.outcome, mutation.warnings.len()), (Reason::NoNodeAdvertises, 1), "with a warning");
}

#[test]
fn a_pod_whose_boards_no_advertising_node_has_requests_none() {
    let mut world = World::new();
    world.recommend("main", &json!({"powercapping.io/watts": "5000"}));
    assert_eq!(outcome(&world, &pod(&json!({"limits": {"nvidia.com/gpu": "8"}}))), (Reason::RequestsSet, 1));
    assert_eq!(outcome(&world, &pod(&json!({"limits": {"nvidia.com/gpu": "9"}}))), (Reason::NoNodeAdvertises, 0));
}

#[test]
fn no_more_is_requested_than_a_node_could_ever_offer() {
    let mut world = World::new();
    world.recommend("main", &json!({"powercapping.io/watts": "9000"}));
    let mutation = world.decide(&pod(&json!({})));
    assert_eq!((mutation.changes[0].request.to, mutation.changes[0].reason), (5600, Reason::BeyondAnyNode));
    assert_eq!(world.resources(&pod(&watts("9500"))), watts("9500"), "what a person asks for is kept");
    assert_eq!(world.decide(&pod(&watts("9500"))).warnings[0].reason, Reason::BeyondAnyNode);
    world.policy["spec"]["powerScope"] = json!("DevicesAndHost");
    assert_eq!(world.resources(&pod(&json!({}))), watts("9000"), "what CPUs draw is the recommender's to know");
}

#[test]
fn amounts_beyond_all_bounds_do_no_harm() {
    let world = World::new();
    let mut pod = pod(&watts("9223372036854775807"));
    let main = pod["spec"]["containers"][0].clone();
    pod["spec"]["containers"] = json!([main, main, main]);
    assert_eq!(world.admitted(&pod), pod);
}

#[test]
fn the_policys_own_bounds_and_the_limit_ranges_hold() {
    let mut world = World::new();
    world.policy["spec"]["resourcePolicy"] = json!({"containerPolicies": [
        {"containerName": "main", "maxAllowed": {"powercapping.io/watts": "600"}},
    ]});
    assert_eq!(world.resources(&pod(&json!({}))), watts("600"));
    world.limits = vec![limit_range(&json!({"type": "Container", "max": {"powercapping.io/watts": "500"}}))];
    assert_eq!(world.resources(&pod(&json!({}))), watts("500"));
    world.limits = vec![limit_range(&json!({"type": "Pod", "max": {"powercapping.io/watts": "500"}}))];
    assert_eq!(outcome(&world, &pod(&json!({}))), (Reason::LimitRangeWouldRefuse, 0));
    world.policy["spec"]["resourcePolicy"] = json!({"containerPolicies": [
        {"containerName": "main", "controlledResources": []},
    ]});
    assert_eq!(outcome(&world, &pod(&json!({}))), (Reason::NothingRecommended, 0), "none is controlled");
}

#[test]
fn where_a_quota_would_refuse_the_pod_is_created_without() {
    let mut world = World::new();
    let of = |used: &str| {
        quota(&json!({"requests.powercapping.io/watts": "1000"}), &json!({"requests.powercapping.io/watts": used}))
    };
    world.quotas = vec![of("300")];
    assert_eq!(outcome(&world, &pod(&json!({}))), (Reason::RequestsSet, 1));
    world.quotas = vec![of("301")];
    assert_eq!(outcome(&world, &pod(&json!({}))), (Reason::QuotaWouldRefuse, 0));
    assert_eq!(outcome(&world, &pod(&watts("400"))), (Reason::RequestsSet, 1), "only what is added counts");
}

#[test]
fn a_policy_that_advises_says_what_it_would_do_and_one_that_is_off_says_nothing() {
    let mut world = World::new();
    world.policy["spec"]["mode"] = json!("Advise");
    let mutation = world.decide(&pod(&json!({})));
    assert_eq!((mutation.outcome, mutation.changes.len()), (Reason::Advising, 0));
    assert!(mutation.warnings[0].text.contains("would request powercapping.io/watts 700"), "{mutation:?}");
    world.policy["spec"]["mode"] = json!("Off");
    assert_eq!(outcome(&world, &pod(&json!({}))), (Reason::SwitchedOff, 0));
}

#[test]
fn pods_that_nobody_schedules_and_those_of_nobody_are_left_alone() {
    let world = World::new();
    let mut bound = pod(&json!({}));
    bound["spec"]["nodeName"] = json!("n1");
    let mut mirror = pod(&json!({}));
    mirror["metadata"]["annotations"] = json!({"kubernetes.io/config.mirror": "hash"});
    let mut stranger = pod(&json!({}));
    stranger["metadata"]["labels"] = json!({"app": "other"});
    for (pod, reason) in
        [(bound, Reason::AlreadyBound), (mirror, Reason::AlreadyBound), (stranger, Reason::NotSelected)]
    {
        assert_eq!(world.admitted(&pod), pod);
        assert_eq!(outcome(&world, &pod), (reason, 0));
    }
    let elsewhere = powercap_admission::cluster::Cluster { namespaces: [].into(), ..world.cluster() };
    let untouched = crate::world::admitted(&elsewhere, &pod(&json!({})));
    assert_eq!(untouched, pod(&json!({})), "{NAMESPACE} has not opted in");
}

#[test]
fn a_daemons_pod_requests_watts_where_its_own_node_advertises_them() {
    let world = World { nodes: vec![node("n1")], ..World::new() };
    let daemon = |node: &str| {
        let mut pod = pod(&json!({}));
        pod["spec"]["affinity"] = json!({"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution":
            {"nodeSelectorTerms": [{"matchFields": [{"key": "metadata.name", "operator": "In", "values": [node]}]}]}}});
        pod
    };
    assert_eq!(outcome(&world, &daemon("n1")), (Reason::RequestsSet, 1));
    assert_eq!(outcome(&world, &daemon("n2")), (Reason::NoNodeAdvertises, 0));
}

#[test]
fn a_pod_waits_when_no_node_offers_its_watts_now() {
    let mut world = World::new();
    assert!(!world.decide(&pod(&json!({}))).waits);
    world.nodes[0].offer = Watts::new(699);
    assert!(world.decide(&pod(&json!({}))).waits);
    assert!(world.decide(&pod(&watts("800"))).waits, "by its own request too");
    world.nodes.push(node("n2"));
    assert!(!world.decide(&pod(&json!({}))).waits);
}

#[test]
fn a_pod_that_is_only_tried_waits_nowhere() {
    let mut world = World::new();
    world.nodes[0].offer = Watts::new(699);
    let waits_in = |dry_run: Value| {
        let mut review = review_of(&pod(&json!({})));
        review["request"]["dryRun"] = dry_run;
        answer(review.to_string().as_bytes(), &world.cluster()).unwrap().waits_in
    };
    assert_eq!(waits_in(json!(false)).as_deref(), Some(NAMESPACE));
    assert_eq!(waits_in(json!(true)), None, "nobody is told of a pod that is not made");
}

#[test]
fn init_containers_sidecars_and_ephemeral_containers_stay_as_they_are() {
    let mut world = World::new();
    world.policy["status"] = json!({});
    let gpus = json!({"limits": {"nvidia.com/gpu": "1"}});
    let mut pod = pod(&gpus);
    pod["spec"]["initContainers"] = json!([
        {"name": "main", "resources": gpus}, {"name": "side", "restartPolicy": "Always", "resources": gpus},
    ]);
    pod["spec"]["ephemeralContainers"] = json!([{"name": "main", "targetContainerName": "main"}]);
    let admitted = world.admitted(&pod);
    assert_eq!(admitted["spec"]["initContainers"], pod["spec"]["initContainers"]);
    assert_eq!(admitted["spec"]["ephemeralContainers"], pod["spec"]["ephemeralContainers"]);
    assert_eq!(admitted["spec"]["containers"][0]["resources"]["requests"]["powercapping.io/watts"], "700");
}

#[test]
fn what_is_no_amount_is_left_as_it_is_with_a_warning() {
    let world = World::new();
    for amount in ["1e309", "-1", "many"] {
        assert_eq!(outcome(&world, &pod(&watts(amount))), (Reason::UnreadableQuantity, 0), "{amount}");
    }
    assert_eq!(world.resources(&pod(&watts("0.1m"))), watts("700"), "small, and an amount");
}
