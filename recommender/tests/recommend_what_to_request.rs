//! What new pods should request follows from what the policy's pods use, within what people and boards allow;
//! running pods that request something else are told, and nothing is written while nothing changes.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use jiff::SignedDuration;
use powercap_common::{
    api::{ContainerRecommendation, ControlledResource, NodeFrequenciesStatus, PowerCappingPolicyStatus, TargetRef},
    reason::Reason,
    target::Controller,
    units::{Bytes, Megahertz, Millicores, Watts},
};
use powercap_recommender::{
    model::history::{History, Past, PastUse},
    observation::{ContainerFacts, ContainerUse, Hold, PodName, PodUse, Target, Usage},
};
use proptest::prelude::{ProptestConfig, Strategy, prop, prop_assert, proptest};
use serde_json::{Value, json};

use crate::world::World;

const PODS: usize = 2;
const HOUR: i64 = 60;
const DAY: i64 = 24 * HOUR;

/// A rack of one node and a policy of two pods with a board each, whose past was read: there was none.
fn scene(cap: u32, resource_policy: &Value) -> World {
    let mut world = World::of_nodes(1);
    world.rack(cap);
    control(&mut world, resource_policy);
    for at in 0..PODS {
        let pod = world.pod(&format!("chat-{at}"), "chat", "n0");
        world.gpu(&format!("GPU-{at}"), "n0", &[&pod], 300, 1980);
    }
    for pod in world.observation.pods.iter_mut().map(Arc::make_mut) {
        let container = |name: &str, gpus| ContainerFacts { name: name.into(), gpus, ..Default::default() };
        pod.containers = vec![container("server", 1), container("proxy", 0)];
        pod.started = Some(world.now);
    }
    world.cpu("n0", 200);
    history(&mut world).past = Past::Read;
    world.settle();
    world
}

/// What the policy lets be set.
fn control(world: &mut World, resource_policy: &Value) {
    let selector = json!({"matchLabels": {"app": "chat"}});
    let spec = json!({"powerCapLimitWatts": 1400, "selector": selector, "resourcePolicy": resource_policy});
    world.policy_of("chat", spec);
}

fn of_container(container: &Value) -> Value {
    json!({"containerPolicies": [container]})
}

fn history(world: &mut World) -> &mut History {
    Arc::make_mut(&mut world.observation.telemetry.history)
}

fn draw(world: &mut World, watts: u32) {
    for gpu in world.observation.telemetry.gpus.values_mut() {
        gpu.power.as_mut().unwrap().value = Watts::new(watts);
    }
}

/// What every pod's containers use.
fn uses(world: &mut World, container: &str, cores: f64, mebibytes: u64) {
    let (cpu, memory) = (Millicores::from_measurement(cores), Some(Bytes::new(mebibytes << 20)));
    let containers: BTreeMap<_, _> = [(container.to_owned(), ContainerUse { cpu, memory })].into();
    let used = PodUse { at: world.now, containers };
    let usage = Arc::make_mut(&mut world.observation.telemetry.usage);
    for at in 0..PODS {
        usage.pods.insert(PodName { namespace: "llm".into(), name: format!("chat-{at}") }, used.clone());
    }
}

/// Minutes pass; the number of statuses that were written meanwhile.
fn pass(world: &mut World, minutes: i64) -> usize {
    pass_by(world, minutes, 1)
}

/// Likewise, with a decision every so many minutes.
fn pass_by(world: &mut World, minutes: i64, step: usize) -> usize {
    let mut written = 0;
    for _ in (0..minutes).step_by(step) {
        world.read_again(60 * i64::try_from(step).unwrap());
        let now = world.now;
        let usage = Arc::make_mut(&mut world.observation.telemetry.usage);
        usage.pods.values_mut().for_each(|used| used.at = now);
        written += world.turn().policies.len();
    }
    written
}

fn status(world: &World) -> &PowerCappingPolicyStatus {
    world.observation.policies[0].status.as_ref().unwrap()
}

fn recommended(world: &World, container: &str) -> Option<ContainerRecommendation> {
    status(world).recommendation.as_ref()?.of(container).cloned()
}

/// Lower bound, target, upper bound and uncapped target, in watts, thousandths of a core, or MiB.
fn numbers(world: &World, container: &str, resource: ControlledResource) -> Option<[u64; 4]> {
    let all = recommended(world, container)?;
    let number = |amounts: &powercap_common::api::Amounts| {
        let quantity = amounts.of(resource)?.quantity().unwrap();
        Some(match resource {
            ControlledResource::Watts => quantity.ceil(),
            ControlledResource::Cpu => quantity.ceil_millis(),
            ControlledResource::Memory => quantity.ceil() >> 20,
        })
    };
    let numbers = [&all.lower_bound, &all.target, &all.upper_bound, &all.uncapped_target].map(number);
    Some(numbers.map(|number| number?.into()).map(|number: Option<u64>| number.unwrap()))
}

fn watts(world: &World) -> Option<[u64; 4]> {
    numbers(world, "server", ControlledResource::Watts)
}

/// What the agent says of its boards.
fn agent_says(world: &mut World, change: impl FnOnce(&mut NodeFrequenciesStatus)) {
    let object = Arc::make_mut(world.observation.frequencies.get_mut("n0").unwrap());
    change(object.status.as_mut().unwrap());
}

#[test]
fn watts_alone_are_recommended_where_a_policy_says_nothing_and_a_steady_load_is_written_nothing() {
    let mut world = scene(10_000, &json!({}));
    assert_eq!(watts(&world).unwrap()[1], 303, "from the first minute: 300 W, to the end of their bucket");
    uses(&mut world, "server", 2.0, 500);
    let first_day = pass(&mut world, DAY);
    let [lower, target, upper, uncapped] = watts(&world).unwrap();
    assert_eq!((target, uncapped), (303, 303));
    assert!((290..=303).contains(&lower) && (600..=640).contains(&upper), "{lower} {upper}: twice p95 after a day");
    let all = recommended(&world, "server").unwrap();
    assert_eq!((all.target.cpu, all.target.memory), (None, None));
    assert_eq!(recommended(&world, "proxy"), None, "the watts stand on the container that holds the board");
    assert!(first_day < 30, "bounds narrow in few steps: {first_day}");
    assert!(pass_by(&mut world, DAY, 10) <= 8, "and fewer on the second");
    pass_by(&mut world, 20 * DAY, 60);
    assert_eq!(pass(&mut world, 2 * HOUR), 0);
}

#[test]
fn a_target_is_what_is_drawn_at_most_nine_tenths_of_the_time() {
    let mut world = scene(10_000, &json!({}));
    for minute in 0..10 * HOUR {
        draw(&mut world, if minute % 20 < 3 { 600 } else { 200 });
        pass(&mut world, 1);
    }
    let [lower, target, ..] = watts(&world).unwrap();
    assert!((590..=640).contains(&target) && (180..=215).contains(&lower), "{lower} {target}");
}

#[test]
fn cpu_and_memory_are_recommended_where_a_policy_controls_them() {
    let control = of_container(&json!({"containerName": "server", "controlledResources": ["cpu", "memory"]}));
    let mut world = scene(10_000, &control);
    assert_eq!(recommended(&world, "server"), None, "nothing is known of them yet");
    uses(&mut world, "server", 2.0, 500);
    pass_by(&mut world, DAY, 10);
    let [_, cpu, ..] = numbers(&world, "server", ControlledResource::Cpu).unwrap();
    let memory = numbers(&world, "server", ControlledResource::Memory).unwrap();
    // 15 % to spare, and up to 5 % for the bucket.
    assert!((2300..=2420).contains(&cpu), "{cpu}");
    assert_eq!(memory[1], 575);
    assert_eq!(recommended(&world, "server").unwrap().target.watts, None, "by the policy's own list");
    let [lower, target, upper, _] = memory;
    assert!(lower <= target && upper > target);
}

#[test]
fn a_container_that_requests_more_cpu_counts_for_more() {
    let target = |requested: [u64; PODS]| {
        let control = of_container(&json!({"containerName": "server", "controlledResources": ["cpu"]}));
        let mut world = scene(10_000, &control);
        for (pod, millicores) in world.observation.pods.iter_mut().map(Arc::make_mut).zip(requested) {
            pod.containers[0].cpu = Millicores::new(millicores);
        }
        uses(&mut world, "server", 1.0, 500);
        let usage = Arc::make_mut(&mut world.observation.telemetry.usage);
        let other = usage.pods.values_mut().next_back().unwrap();
        other.containers.get_mut("server").unwrap().cpu = Millicores::from_measurement(4.0);
        pass_by(&mut world, HOUR, 10);
        numbers(&world, "server", ControlledResource::Cpu).unwrap()[1]
    };
    let [small, large] = [1150..=1210, 4600..=4840];
    for (requested, expected) in [
        ([0, 0], &large),
        ([4000, 4000], &large),
        ([4000, 100], &small),
        ([4000, 0], &small),
        // A request below 100m weighs as that: one to five, no more.
        ([500, 1], &large),
    ] {
        let cpu = target(requested);
        assert!(expected.contains(&cpu), "{requested:?}: {cpu}");
    }
}

#[test]
fn what_people_and_boards_allow_bounds_what_is_recommended() {
    let watts_policy = |min: u32, max: u32| {
        let amount = |watts: u32| json!({"powercapping.io/watts": watts});
        of_container(&json!({"containerName": "*", "minAllowed": amount(min), "maxAllowed": amount(max)}))
    };
    for (claim, cap, control, drawn, target, uncapped) in [
        ("as drawn", 10_000, json!({}), 300, 303, 303),
        ("no less than a person wants", 10_000, watts_policy(450, 1000), 300, 450, 303),
        ("no more than a person wants", 10_000, watts_policy(0, 250), 300, 250, 303),
        ("no less than the board at its lowest clock", 10_000, json!({}), 75, 82, 82),
        ("not even where a person wants less", 10_000, watts_policy(0, 10), 75, 82, 82),
        ("no more than the board can", 10_000, watts_policy(900, 1000), 300, 700, 303),
        ("no more than the cap leaves for a node", 280, json!({}), 300, 280, 280),
        ("not even where a person wants more", 280, watts_policy(500, 1000), 300, 280, 280),
        ("a minimum above the maximum", 10_000, watts_policy(400, 350), 300, 350, 303),
    ] {
        let mut world = scene(cap, &control);
        draw(&mut world, drawn);
        // What was seen while the scene was set is outweighed.
        pass(&mut world, HOUR);
        let [lower, told, upper, free] = watts(&world).unwrap();
        assert_eq!((told, free), (target, uncapped), "{claim}");
        assert!(lower <= told && told <= upper, "{claim}");
    }
}

#[test]
fn a_policy_that_is_edited_is_followed_at_once() {
    let mut world = scene(10_000, &json!({}));
    pass(&mut world, HOUR);
    let max = json!({"containerName": "server", "maxAllowed": {"powercapping.io/watts": 302}});
    control(&mut world, &of_container(&max));
    world.turn();
    assert_eq!(watts(&world).unwrap()[1], 302, "by however little");
    control(&mut world, &of_container(&json!({"containerName": "*", "controlledResources": []})));
    world.turn();
    assert_eq!(status(&world).recommendation, None);
}

#[test]
fn a_cap_that_holds_pods_back_does_not_lower_what_they_are_recommended() {
    let mut world = scene(10_000, &json!({}));
    draw(&mut world, 500);
    pass_by(&mut world, 3 * HOUR, 20);
    let before = watts(&world).unwrap();
    assert!(before[1] >= 500);
    // Capped to 1,200 MHz: at their highest clock these boards would draw some 520 W.
    agent_says(&mut world, |status| {
        for board in &mut status.gpus {
            (board.reason, board.target_graphics_megahertz) = (Reason::PolicyCap.as_str().into(), Some(1200));
        }
    });
    draw(&mut world, 212);
    for gpu in world.observation.telemetry.gpus.values_mut() {
        gpu.clock.as_mut().unwrap().value = Megahertz::new(1200);
    }
    pass_by(&mut world, 3 * DAY, 20);
    let [lower, target, ..] = watts(&world).unwrap();
    assert!(target >= before[1] && lower > 450, "{lower} {target}");

    // Held down to a clock at which little is known of what they would draw: what was told stays.
    draw(&mut world, 80);
    pass_by(&mut world, 3 * DAY, 20);
    assert!(watts(&world).unwrap()[1] >= before[1]);

    // And follows the load once nothing holds them.
    agent_says(&mut world, |status| status.gpus.iter_mut().for_each(|board| board.reason = String::new()));
    pass_by(&mut world, 4 * DAY, 20);
    assert!(watts(&world).unwrap()[1] < 100);
}

#[test]
fn while_the_past_is_awaited_or_no_pod_runs_what_was_told_stays() {
    let mut world = scene(10_000, &json!({}));
    pass(&mut world, HOUR);
    let before = recommended(&world, "server");
    world.observation.telemetry.history = Arc::default();
    world.new_leader();
    draw(&mut world, 90);
    pass(&mut world, HOUR);
    assert_eq!(recommended(&world, "server"), before);
    assert_eq!(world.observation.telemetry.history.demand.len(), 0, "nothing is taken down");

    let mut world = scene(10_000, &json!({}));
    let before = recommended(&world, "server");
    world.observation.pods.clear();
    pass(&mut world, HOUR);
    assert_eq!(recommended(&world, "server"), before, "new pods are admitted by it");
}

#[test]
fn after_a_restart_the_past_gives_nearly_the_same() {
    let control = of_container(&json!({
        "containerName": "server", "controlledResources": ["powercapping.io/watts", "cpu", "memory"],
    }));
    let mut world = scene(10_000, &control);
    // By day and by night.
    for minute in (0..DAY).step_by(5) {
        let busy = minute < 16 * HOUR;
        draw(&mut world, if busy { 520 } else { 120 });
        uses(&mut world, "server", if busy { 3.0 } else { 0.2 }, if busy { 4000 } else { 1000 });
        pass_by(&mut world, 5, 5);
    }
    use ControlledResource::{Cpu, Memory};
    let all = |world: &World| [watts(world), numbers(world, "server", Cpu), numbers(world, "server", Memory)];
    let before = all(&world);

    // What Prometheus has: the courses of the boards, and what containers used, by half hours.
    let span = world.observation.telemetry.history.span;
    let began = world.observation.pods[0].started.unwrap();
    let steps = || (span.step(began) + 1..span.step(world.now)).map(|step| (step, (step - span.step(began)) < 32));
    let cpu = steps().map(|(step, busy)| (step, Millicores::new(if busy { 3000 } else { 200 })));
    let memory = steps().map(|(step, busy)| (step, Bytes::new(if busy { 4000 << 20 } else { 1000 << 20 })));
    let past = PastUse { cpu: cpu.collect(), memory: memory.collect() };
    let names: Vec<_> = world.observation.pods.iter().map(|pod| pod.name.clone()).collect();
    let history = history(&mut world);
    history.demand.clear();
    history.containers = names.into_iter().map(|pod| ((pod, "server".to_owned()), past.clone())).collect();
    let policy = Arc::make_mut(&mut world.observation.policies[0]);
    policy.status.as_mut().unwrap().recommendation = None;
    world.observation.telemetry.usage = Arc::default();
    world.turn();
    world.turn();
    for (before, after) in before.into_iter().zip(all(&world)) {
        let (before, after) = (before.unwrap(), after.unwrap());
        // Lower bound and target; the upper bound is a matter of how much was seen.
        for (before, after) in before.into_iter().zip(after).take(2) {
            assert!(before.abs_diff(after) * 100 <= before * 12, "{before} {after}");
        }
    }
    assert!(world.observation.telemetry.history.containers.is_empty(), "it is taken in once");
}

#[test]
fn where_an_autoscaler_owns_the_workload_watts_alone_are_recommended() {
    let all = json!({"containerName": "*", "controlledResources": ["cpu", "memory", "powercapping.io/watts"]});
    let mut world = scene(10_000, &of_container(&all));
    uses(&mut world, "server", 2.0, 500);
    pass(&mut world, HOUR);
    assert!(recommended(&world, "server").unwrap().target.cpu.is_some());
    assert_eq!(world.policy_says("chat", "UseKnown"), "Unknown -");

    let target = |kind: &str, name: &str| {
        let target_ref = TargetRef { api_version: "apps/v1".into(), kind: kind.into(), name: name.into() };
        BTreeSet::from([Target { namespace: "llm".into(), target_ref }])
    };
    for pod in world.observation.pods.iter_mut().map(Arc::make_mut) {
        pod.labels.insert("pod-template-hash".into(), "7d9".into());
        pod.controller = Some(Controller { kind: "ReplicaSet".into(), name: "chat-7d9".into() });
    }
    let autoscaled = |world: &mut World, kind: &str, name: &str| {
        Arc::make_mut(&mut world.observation.telemetry.usage).autoscaled = target(kind, name);
        world.turn();
        recommended(world, "server").unwrap().target
    };
    assert!(autoscaled(&mut world, "Deployment", "another").cpu.is_some());
    assert!(autoscaled(&mut world, "Fleet", "chat").cpu.is_some(), "of another kind");
    let target = autoscaled(&mut world, "Deployment", "chat");
    assert_eq!((target.cpu, target.memory, target.watts.is_some()), (None, None, true));
    assert_eq!(world.policy_says("chat", "UseKnown"), "False AutoscaledByVpa");
}

#[test]
fn use_that_is_not_known_is_no_use_of_nothing() {
    let control = of_container(&json!({"containerName": "server", "controlledResources": ["cpu"]}));
    let mut world = scene(10_000, &control);
    let away = Hold::new(Reason::UseUnavailable, "away");
    let problem = Some(away);
    world.observation.telemetry.usage = Arc::new(Usage { problem: problem.clone(), ..Usage::default() });
    pass(&mut world, HOUR);
    assert_eq!(recommended(&world, "server"), None);
    assert_eq!(world.policy_says("chat", "UseKnown"), "False UseUnavailable");

    world.observation.telemetry.usage = Arc::default();
    uses(&mut world, "server", 2.0, 500);
    pass(&mut world, HOUR);
    let known = numbers(&world, "server", ControlledResource::Cpu).unwrap();
    assert_eq!(world.policy_says("chat", "UseKnown"), "Unknown -");
    Arc::make_mut(&mut world.observation.telemetry.usage).problem = problem;
    // The last answer grows old.
    for _ in 0..HOUR {
        world.read_again(60);
        world.turn();
    }
    assert_eq!(numbers(&world, "server", ControlledResource::Cpu).unwrap(), known);
    let seen = |world: &World| {
        let demand = world.observation.telemetry.history.demand.values().next().unwrap();
        demand.containers["server"].cpu.seen()
    };
    let before = seen(&world);
    pass(&mut world, 1);
    assert!(seen(&world) != before, "and counts again once it is new");
}

#[test]
fn watts_that_are_missing_or_wrong_are_told_by_name_and_nothing_else_is() {
    let request = |world: &mut World, at: usize, watts: Option<u32>| {
        world.facts(at).containers[0].watts = watts.map(Watts::new);
    };
    let advertise = |world: &mut World, watts: Option<u32>| {
        Arc::make_mut(world.observation.frequencies.get_mut("n0").unwrap()).spec.offer_watts = watts;
        world.turn()
    };
    let mut world = scene(10_000, &json!({}));
    pass(&mut world, HOUR);
    advertise(&mut world, None);
    assert_eq!(status(&world).watts_stale_pods, 0, "no node advertises watts: nobody could request any");
    request(&mut world, 0, Some(50));
    request(&mut world, 1, Some(400));
    advertise(&mut world, None);
    assert_eq!(status(&world).watts_stale, ["chat-0"]);
    assert_eq!(world.policy_says("chat", "WattsCurrent"), "False WattsStale");

    request(&mut world, 1, None);
    let plan = advertise(&mut world, Some(0));
    assert_eq!((status(&world).watts_stale_pods, status(&world).watts_stale.len()), (2, 2));
    let figures = plan.figures.policies.values().next().unwrap();
    assert_eq!((figures.stale_pods, figures.reserved), (2, Some(Watts::new(600))), "each with what it draws");

    request(&mut world, 0, Some(303));
    request(&mut world, 1, Some(650));
    let plan = advertise(&mut world, Some(0));
    assert_eq!((status(&world).watts_stale_pods, world.policy_says("chat", "WattsCurrent")), (0, "Unknown -".into()));
    let figures = plan.figures.policies.values().next().unwrap();
    assert_eq!(figures.reserved, Some(Watts::new(953)), "each with what it requests");
}

#[test]
fn of_many_stale_pods_ten_are_named() {
    let mut world = scene(10_000, &json!({}));
    for at in 0..20 {
        world.observation.pods.push(Arc::clone(&world.observation.pods[0]));
        let pod = world.newest();
        pod.name.name = format!("more-{at:02}");
        pod.containers[0].watts = Some(Watts::new(1));
    }
    world.observation.pods[..PODS]
        .iter_mut()
        .map(Arc::make_mut)
        .for_each(|pod| pod.containers[0].watts = Some(Watts::new(303)));
    world.turn();
    let told = status(&world);
    assert_eq!((told.watts_stale_pods, told.watts_stale.len()), (20, 10));
    assert_eq!(told.watts_stale.first().map(String::as_str), Some("more-00"));
}

/// Minutes of draw: what a board shows, absurd values among it.
fn course() -> impl Strategy<Value = Vec<u64>> {
    let milliwatts =
        prop::sample::select(vec![0, 1, 69_999, 70_000, 300_000, 699_000, 1_049_000, 90_000_000, u64::MAX]);
    prop::collection::vec(milliwatts, 1..40)
}

fn after(course: &[u64], control: &Value) -> Option<[u64; 4]> {
    let mut world = scene(10_000, control);
    history(&mut world).demand.clear();
    for milliwatts in course {
        for gpu in world.observation.telemetry.gpus.values_mut() {
            gpu.power.as_mut().unwrap().value = Watts::from_milliwatts(*milliwatts);
        }
        pass(&mut world, 1);
    }
    watts(&world)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn bounds_are_ordered_and_within_what_is_allowed(course in course(), min in 0_u32..900, max in 0_u32..900) {
        let amount = |watts: u32| json!({"powercapping.io/watts": watts});
        let control = json!({"containerName": "*", "minAllowed": amount(min), "maxAllowed": amount(max)});
        if let Some([lower, target, upper, uncapped]) = after(&course, &of_container(&control)) {
            prop_assert!(lower <= target && target <= upper, "{lower} {target} {upper}");
            for number in [lower, target, upper] {
                prop_assert!(number >= u64::from(min.min(max)).clamp(82, 700), "{number} for {min}");
                prop_assert!(number <= u64::from(max).clamp(82, 700), "{number} for {max}");
            }
            prop_assert!((82..=700).contains(&uncapped));
        }
    }
}

#[test]
fn what_no_board_can_draw_changes_nothing() {
    let steady = after(&[300_000; 30], &json!({}));
    let mut absurd = vec![300_000; 30];
    for at in [3, 9, 20] {
        absurd[at] = 90_000_000;
    }
    assert_eq!(after(&absurd, &json!({})).unwrap()[1], steady.unwrap()[1]);
}

#[test]
fn a_policy_that_is_off_or_gone_recommends_nothing() {
    let mut world = scene(10_000, &json!({}));
    pass(&mut world, HOUR);
    world.policy("chat", 1400, "Off");
    world.turn();
    assert_eq!(status(&world).recommendation, None);
    world.observation.policies.clear();
    world.pass(SignedDuration::from_hours(24 * 9).as_secs());
    world.turn();
    assert_eq!(world.observation.telemetry.history.demand.len(), 0, "and is forgotten");
}
