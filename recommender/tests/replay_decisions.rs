//! A recorded decision comes out the same, whatever it saw; and a recorder costs no decision.

use std::{
    path::{Path, PathBuf},
    process::{Command, Output},
    sync::Arc,
    time::{Duration, Instant},
};

use powercap_common::{
    policy::PolicyId,
    reason::Reason,
    units::{Bytes, Millicores, Watts},
};
use powercap_recommender::{
    decide::decide,
    metrics::Metrics,
    model::history::Past,
    observation::{Apart, BootTaint, ContainerFacts, ContainerUse, Hold, PodUse, Source, Throttled},
    record::{Decision, Record, Recorder},
};
use prometheus_client::encoding::text::encode;
use proptest::prelude::{Just, ProptestConfig, Strategy, prop, prop_oneof, proptest};
use serde_json::json;

use crate::world::World;

const NODES: usize = 3;

/// What may have happened before a decision.
#[derive(Clone, Debug)]
enum Event {
    Turn,
    AcknowledgeAll,
    Cap(u32),
    PolicyCap(u32),
    Power { board: usize, milliwatts: u64, clock: u32 },
    Boot(usize),
    Unanswered(usize, u64),
    NewLeader,
    Trouble(usize),
    Pass(i64),
}

fn event() -> impl Strategy<Value = Event> {
    let power = (0..NODES, 0_u64..900_000, 200_u32..2000);
    prop_oneof![
        5 => Just(Event::Turn),
        3 => Just(Event::AcknowledgeAll),
        1 => (500_u32..30_000).prop_map(Event::Cap),
        1 => (100_u32..3000).prop_map(Event::PolicyCap),
        4 => power.prop_map(|(board, milliwatts, clock)| Event::Power { board, milliwatts, clock }),
        1 => (0..NODES).prop_map(Event::Boot),
        1 => (0..NODES, 0_u64..7_000_001).prop_map(|(node, milliwatts)| Event::Unanswered(node, milliwatts)),
        1 => Just(Event::NewLeader),
        1 => (0..NODES).prop_map(Event::Trouble),
        2 => (1_i64..40).prop_map(Event::Pass),
    ]
}

fn rack() -> World {
    let mut world = World::of_nodes(NODES);
    world.rack(18_000);
    let control = json!({"containerName": "*", "controlledResources": ["cpu", "memory", "powercapping.io/watts"]});
    let selector = json!({"matchLabels": {"app": "chat"}});
    world.policy_of(
        "chat",
        json!({
            "powerCapLimitWatts": 1500, "mode": "Enforce", "selector": selector,
            "resourcePolicy": {"containerPolicies": [control]},
        }),
    );
    Arc::make_mut(&mut world.observation.telemetry.history).past = Past::Read;
    for node in 0..NODES {
        let name = format!("n{node}");
        let pod = world.pod(&format!("chat-{node}"), "chat", &name);
        let container =
            ContainerFacts { name: "server".into(), gpus: 1, watts: Some(Watts::new(500)), cpu: Millicores::new(250) };
        world.newest().containers = vec![container];
        let used = ContainerUse { cpu: Some(Millicores::new(1234)), memory: Some(Bytes::new(1 << 30)) };
        let used = PodUse { at: world.now, containers: [("server".to_owned(), used)].into() };
        Arc::make_mut(&mut world.observation.telemetry.usage).pods.insert(pod.clone(), used);
        world.gpu(&format!("GPU-{node}"), &name, &[&pod], 600, 1700);
        world.cpu(&name, 200);
        world.pod_cpu(&pod, 50);
    }
    world
}

fn happens(world: &mut World, event: &Event) {
    match *event {
        Event::Turn => drop(world.turn()),
        Event::AcknowledgeAll => world.acknowledge_all(),
        Event::Cap(watts) => world.rack(watts),
        Event::PolicyCap(watts) => world.policy("chat", watts, "Enforce"),
        Event::Power { board, milliwatts, clock } => {
            let (uuid, node) = (format!("GPU-{board}"), format!("n{board}"));
            let tenants = world.observation.telemetry.gpus[&uuid].tenants.clone();
            world.gpu(&uuid, &node, &tenants.iter().collect::<Vec<_>>(), 0, clock);
            let reading = world.observation.telemetry.gpus.get_mut(&uuid).unwrap();
            reading.power.as_mut().unwrap().value = Watts::from_milliwatts(milliwatts);
        }
        Event::Boot(node) => world.boot(&format!("n{node}")),
        Event::Unanswered(node, milliwatts) => {
            world.observation.uncertain.insert(format!("n{node}"), Watts::from_milliwatts(milliwatts));
        }
        Event::NewLeader => world.new_leader(),
        Event::Trouble(node) => {
            let hold = || Hold::new(Reason::NoData, "a \"quoted\" NaN\n\u{1f50c}");
            let apart = Apart { higher: Source::Agent, lower: Source::DcgmExporter, since: world.now };
            let telemetry = &mut world.observation.telemetry;
            telemetry.gpu_rejected.insert(format!("GPU-{node}"), hold());
            telemetry.cpu_problem = Some(hold());
            telemetry.apart.insert(format!("GPU-{node}"), apart);
            telemetry.agents.insert(format!("n{node}"), world.now);
            let taint = BootTaint { resource_version: "7".into(), others: Vec::new() };
            world.observation.nodes.get_mut(&format!("n{node}")).unwrap().boot_taint = Some(taint);
        }
        Event::Pass(seconds) => world.pass(seconds),
    }
}

fn decision(world: &World) -> Decision {
    let plan = Arc::new(world.decide());
    Decision { version: "test", now: world.now, observation: world.observation.clone(), plan }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn what_was_recorded_is_decided_again(events in prop::collection::vec(event(), 1..25)) {
        let mut world = rack();
        for event in &events {
            happens(&mut world, event);
            let recorded = decision(&world);
            let read = Record::unpack(recorded.packed().unwrap().as_slice()).unwrap();
            let same = serde_json::to_string(&read.observation).unwrap() == serde_json::to_string(&recorded.observation).unwrap();
            assert!(same, "an observation is read as it was written");
            let plan = decide(&read.observation, read.now);
            assert_eq!(&plan, &*recorded.plan);
            assert_eq!(serde_json::to_value(&plan).unwrap(), read.plan);
        }
    }
}

#[test]
fn keys_that_are_no_text_are_read_as_they_were_written() {
    let mut world = rack();
    let id = PolicyId { namespace: "llm".into(), name: "chat".into() };
    let throttled = Throttled { changed_at: Some(world.now), threshold: Some(Watts::new(855)) };
    world.observation.throttled.insert(id.clone(), throttled);
    let read = Record::unpack(decision(&world).packed().unwrap().as_slice()).unwrap();
    assert_eq!(read.observation.throttled, [(id, throttled)].into());
    assert_eq!(read.observation.telemetry, world.observation.telemetry);
}

fn replay(files: &[&Path]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_powercap-recommender")).arg("replay").args(files).output().unwrap()
}

#[test]
fn replay_tells_the_same_plan_from_another_and_from_no_record() {
    let folder = tempfile::tempdir().unwrap();
    let [same, other, broken] = ["same", "other", "broken"].map(|name| folder.path().join(name));
    let mut recorded = decision(&rack());
    let packed = recorded.packed().unwrap();
    std::fs::write(&same, &packed).unwrap();
    std::fs::write(&broken, &packed[..packed.len() / 2]).unwrap();
    Arc::make_mut(&mut recorded.plan).nodes[0].spec.power_limit_watts = Some(12_345);
    std::fs::write(&other, recorded.packed().unwrap()).unwrap();

    let cases: [(&[&Path], i32, &str); 4] = [
        (&[&same], 0, "the same plan"),
        (&[&same, &other], 1, ".nodes[0].spec.powerLimitWatts: recorded 12345, decided"),
        (&[&broken, &other], 2, "not a recorded decision"),
        (&[Path::new("/nowhere")], 2, "cannot open it: No such file"),
    ];
    for (files, status, says) in cases {
        let output = replay(files);
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert_eq!(output.status.code(), Some(status), "{text}");
        assert!(text.contains(says), "{text}");
    }
}

/// How many decisions the metrics tell of with each result, once there are `count`.
fn told(metrics: &prometheus_client::registry::Registry, count: u64) -> Vec<(String, u64)> {
    let until = Instant::now() + Duration::from_secs(60);
    loop {
        let mut text = String::new();
        encode(&mut text, metrics).unwrap();
        let series = text.lines().filter_map(|line| {
            let (labels, value) =
                line.strip_prefix("powercap_recommender_records_total{result=\"")?.split_once("\"} ")?;
            Some((labels.to_owned(), value.parse().unwrap()))
        });
        let found: Vec<(String, u64)> = series.collect();
        if found.iter().map(|(_, value)| value).sum::<u64>() >= count || Instant::now() > until {
            return found;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn keep(recorder: &Recorder, world: &World) {
    recorder.keep(world.now, world.observation.clone(), Arc::new(world.decide()));
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let mut files: Vec<_> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files
}

#[test]
fn what_a_recorder_kept_replays_to_the_same_plan() {
    let folder = tempfile::tempdir().unwrap();
    let (metrics, registry) = Metrics::register();
    let recorder = Recorder::start(&folder.path().join("records"), 1 << 20, metrics).unwrap();
    let mut world = rack();
    for kept in 1..=3 {
        keep(&recorder, &world);
        assert_eq!(told(&registry, kept), [("written".to_owned(), kept)]);
        world.turn();
        world.acknowledge_all();
        world.pass(5);
    }
    let files = files(&folder.path().join("records"));
    let output = replay(&files.iter().map(PathBuf::as_path).collect::<Vec<_>>());
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success() && text.contains("3 replayed, 0 differ, 0 could not be read"), "{text}");
}

/// Where the recorder will write the decision for this world.
fn on_its_way(folder: &Path, world: &World) -> PathBuf {
    let epoch = world.observation.epoch;
    let at = world.now.strftime("%Y%m%dT%H%M%S.%6fZ");
    folder.join(format!("{at}-term{}-{}.json.gz.partial", epoch.term, epoch.sequence))
}

/// `/dev/full` takes nothing, like a disk without room.
#[test]
fn a_full_disk_costs_records_and_is_counted() {
    let folder = tempfile::tempdir().unwrap();
    let (metrics, registry) = Metrics::register();
    let recorder = Recorder::start(folder.path(), 1 << 20, metrics).unwrap();
    let mut world = rack();
    std::os::unix::fs::symlink("/dev/full", on_its_way(folder.path(), &world)).unwrap();
    keep(&recorder, &world);
    assert_eq!(told(&registry, 1), [("failed".to_owned(), 1)]);
    assert_eq!(files(folder.path()), Vec::<PathBuf>::new(), "nothing is left of it");
    world.pass(1);
    keep(&recorder, &world);
    assert_eq!(told(&registry, 2).len(), 2);
    assert_eq!(files(folder.path()).len(), 1, "the next one is kept");
}

#[test]
fn a_disk_that_hangs_never_holds_up_a_decision() {
    let folder = tempfile::tempdir().unwrap();
    let (metrics, registry) = Metrics::register();
    let recorder = Recorder::start(folder.path(), 1 << 30, metrics).unwrap();
    let mut world = rack();
    // The first record is written to a pipe that nobody reads.
    let made = Command::new("mkfifo").arg(on_its_way(folder.path(), &world)).status().unwrap();
    assert!(made.success());
    let began = Instant::now();
    for _ in 0..50 {
        keep(&recorder, &world);
        world.pass(1);
    }
    // Nobody ever reads the pipe: who waited for it would wait for ever.
    assert!(began.elapsed() < Duration::from_secs(60), "{:?}", began.elapsed());
    let dropped = told(&registry, 47);
    assert!(matches!(dropped.as_slice(), [(result, 47..)] if result == "dropped"), "{dropped:?}");
}
