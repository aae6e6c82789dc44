//! Over pods and clusters of all kinds: what admission made of a pod it leaves as it is, and it changes nothing else
//! than requests, limits and its own annotation.

use powercap_admission::cluster::Cluster;
use powercap_common::{quantity::Quantity, units::Watts};
use proptest::{
    prelude::{Just, Strategy, any, prop, prop_assert, prop_assert_eq, prop_oneof, proptest},
    test_runner::TestCaseError,
};
use serde_json::{Map, Value, json};

use crate::world::{World, admitted, limit_range, node, quota};

fn amount() -> impl Strategy<Value = Value> {
    let texts =
        prop::sample::select(vec!["0", "1", "100m", "0.1m", "250", "700", "1k", "2Gi", "1e3", "-1", "1e309", "", "x"]);
    prop_oneof![
        8 => texts.prop_map(Value::from),
        1 => (0..10_000_u32).prop_map(Value::from),
        1 => Just(json!(true)),
        1 => Just(Value::Null),
    ]
}

fn amounts() -> impl Strategy<Value = Value> {
    let names =
        prop::sample::select(vec!["cpu", "memory", "powercapping.io/watts", "nvidia.com/gpu", "ephemeral-storage"]);
    let some = prop::collection::btree_map(names, amount(), 0..4);
    prop_oneof![4 => some.prop_map(|amounts| json!(amounts)), 1 => Just(Value::Null)]
}

fn resources() -> impl Strategy<Value = Value> {
    let both = (prop::option::of(amounts()), prop::option::of(amounts())).prop_map(|(requests, limits)| {
        let mut all = Map::from_iter([("claims".to_owned(), json!([{"name": "c"}]))]);
        all.extend(requests.map(|amounts| ("requests".to_owned(), amounts)));
        all.extend(limits.map(|amounts| ("limits".to_owned(), amounts)));
        Value::Object(all)
    });
    prop_oneof![4 => both, 1 => Just(Value::Null)]
}

fn container() -> impl Strategy<Value = Value> {
    let names = prop::sample::select(vec!["main", "draft", "proxy"]);
    (names, prop::option::of(resources()), any::<bool>()).prop_map(|(name, resources, sidecar)| {
        let mut container = json!({"name": name, "image": "i", "env": [{"name": "A", "value": "~/"}]});
        if let Some(resources) = resources {
            container["resources"] = resources;
        }
        if sidecar {
            container["restartPolicy"] = json!("Always");
        }
        container
    })
}

fn pod() -> impl Strategy<Value = Value> {
    let annotations = prop::option::of(prop_oneof![Just(json!({})), Just(json!({"a/b~c": "d"})), Just(Value::Null)]);
    let lists = (prop::collection::vec(container(), 0..5), prop::collection::vec(container(), 0..3));
    let whole = prop::option::of(resources());
    (lists, annotations, whole, any::<bool>()).prop_map(|((containers, init), annotations, whole, bound)| {
        let mut pod = json!({
            "apiVersion": "v1", "kind": "Pod", "metadata": {"labels": {"app": "chat"}, "finalizers": ["x"]},
            "spec": {"containers": containers, "initContainers": init, "hostNetwork": true, "future": {"deep": [1]}},
        });
        if let Some(annotations) = annotations {
            pod["metadata"]["annotations"] = annotations;
        }
        if let Some(whole) = whole {
            pod["spec"]["resources"] = whole;
        }
        if bound {
            pod["spec"]["nodeName"] = json!("");
        }
        pod
    })
}

fn cluster() -> impl Strategy<Value = Cluster> {
    let target = prop::collection::btree_map(
        prop::sample::select(vec!["cpu", "memory", "powercapping.io/watts"]),
        prop::sample::select(vec!["50m", "700", "3", "1Gi", "9000"]),
        0..4,
    );
    let recommended = prop::option::of((prop::sample::select(vec!["main", "draft"]), target));
    let rules = (any::<bool>(), any::<bool>(), any::<bool>(), any::<bool>());
    let sizes = (0..3_usize, 0..6_000_u32, any::<bool>(), any::<bool>());
    (recommended, rules, sizes).prop_map(|(recommended, (cpu, only, host, enforce), (nodes, most, limited, full))| {
        let mut world = World::new();
        world.policy["status"] = json!({});
        if let Some((container, target)) = recommended {
            world.recommend(container, &json!(target));
        }
        let controlled: &[&str] =
            if cpu { &["cpu", "memory", "powercapping.io/watts"] } else { &["powercapping.io/watts"] };
        world.control(controlled, if only { "RequestsOnly" } else { "RequestsAndLimits" });
        world.policy["spec"]["powerScope"] = json!(if host { "DevicesAndHost" } else { "Devices" });
        world.policy["spec"]["mode"] = json!(if enforce { "Enforce" } else { "Advise" });
        world.nodes = (0..nodes).map(|at| node(&format!("n{at}"))).collect();
        for node in &mut world.nodes {
            node.most = Watts::new(most);
        }
        if limited {
            world.limits = vec![
                limit_range(&json!({"type": "Container", "min": {"cpu": "10m"}, "max": {"cpu": "4", "memory": "3Gi"},
                    "maxLimitRequestRatio": {"cpu": "1.5"}})),
                limit_range(&json!({"type": "Pod", "max": {"cpu": "8", "powercapping.io/watts": "4k"}})),
            ];
        }
        if full {
            let hard = json!({"requests.powercapping.io/watts": "2k", "limits.memory": "2Gi", "cpu": "4"});
            let used = json!({"requests.powercapping.io/watts": "500", "limits.memory": "0", "cpu": "1"});
            world.quotas = vec![quota(&hard, &used)];
        }
        world.cluster()
    })
}

/// Without what admission may change.
fn rest(pod: &Value) -> Value {
    let mut pod = pod.clone();
    if let Some(annotations) = pod["metadata"]["annotations"].as_object_mut() {
        annotations.remove("powercapping.io/admission");
    }
    if pod["metadata"]["annotations"].as_object().is_none_or(Map::is_empty) {
        pod["metadata"].as_object_mut().unwrap().remove("annotations");
    }
    for container in pod["spec"]["containers"].as_array_mut().unwrap() {
        let resources = container.as_object_mut().unwrap().entry("resources").or_insert(Value::Null);
        if resources.is_null() {
            *resources = json!({});
        }
        for amounts in ["requests", "limits"] {
            let amounts = resources.as_object_mut().unwrap().entry(amounts).or_insert(Value::Null);
            if amounts.is_null() {
                *amounts = json!({});
            }
            for key in ["cpu", "memory", "powercapping.io/watts"] {
                amounts.as_object_mut().unwrap().remove(key);
            }
        }
    }
    pod
}

/// No request that admission wrote is above its limit.
fn requests_within_limits(before: &Value, after: &Value) -> Result<(), TestCaseError> {
    let none = Vec::new();
    let containers = |pod: &Value| pod["spec"]["containers"].as_array().unwrap_or(&none).clone();
    for (before, after) in containers(before).iter().zip(containers(after)) {
        for key in ["cpu", "memory", "powercapping.io/watts"] {
            let amount = |container: &Value, place: &str| container["resources"][place][key].clone();
            let changed = ["requests", "limits"].iter().any(|place| amount(before, place) != amount(&after, place));
            let read = |place: &str| amount(&after, place).as_str().and_then(|text| text.parse::<Quantity>().ok());
            if let Some((request, limit)) = read("requests").zip(read("limits")).filter(|_| changed) {
                prop_assert!(request <= limit, "{key} of {after}");
            }
        }
    }
    Ok(())
}

proptest! {
    #[test]
    fn its_own_output_it_leaves_as_it_is(pod in pod(), cluster in cluster()) {
        let once = admitted(&cluster, &pod);
        prop_assert_eq!(admitted(&cluster, &once), once);
    }

    #[test]
    fn all_else_stays_as_it_was(pod in pod(), cluster in cluster()) {
        let once = admitted(&cluster, &pod);
        prop_assert_eq!(rest(&once), rest(&pod));
        requests_within_limits(&pod, &once)?;
    }
}
