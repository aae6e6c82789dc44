//! Whatever Prometheus and the exporters do, nothing is raised, the condition says what is wrong within 30 s,
//! and once it is over everything is as before and nothing is written any more.
//!
//! A Prometheus on a real socket misbehaves; everything from the query to the plan is the recommender's own.

use std::{collections::BTreeMap, time::Duration};

use jiff::SignedDuration;
use powercap_common::api::{Epoch, NodeFrequenciesSpec};
use powercap_recommender::{
    decide::Plan,
    metrics::Metrics,
    observation::Telemetry,
    observe::{
        names::Names,
        prometheus::{Access, Prometheus},
        telemetry::{Inquiry, LatestTelemetry},
        tenants,
    },
};
use serde_json::json;

use crate::{
    prometheus::{Manner, Series, Server, State},
    world::World,
};

const ROUND: i64 = 5;
/// Rounds within which a condition has to say what is wrong: 30 s.
const ROUNDS_TO_SAY_SO: usize = 6;
/// Queries of one round, whatever there is to ask about.
const QUERIES_A_ROUND: usize = 12;
/// The boards: UUID, node and pod.
const BOARDS: [[&str; 3]; 2] = [["GPU-a", "n0", "chat-0"], ["GPU-b", "n1", "chat-1"]];

/// A policy on two boards of two nodes in one domain, capped: with limits, clock ceilings and grants.
struct Scene {
    world: World,
    server: Server,
    inquiry: Inquiry,
    latest: LatestTelemetry,
    watts: f64,
}

impl Scene {
    async fn new() -> Self {
        Self::with_timeout(Duration::from_secs(60)).await
    }

    async fn with_timeout(timeout: Duration) -> Self {
        powercap_process::install_tls_provider();
        let (server, latest) = (Server::start().await, LatestTelemetry::default());
        let access = Access::open(&server.url, timeout);
        let prometheus = Prometheus::new(access, Names::default().labels());
        let interval = SignedDuration::from_secs(ROUND);
        let inquiry = Inquiry::new(prometheus, Names::default(), interval, latest.clone(), Metrics::default());
        let mut world = World::of_nodes(2);
        world.domain("rack", json!({"powerCapLimitWatts": 3000, "nodeSelector": {"matchLabels": {"rack": "r1"}}}));
        world.policy("chat", 1000, "Enforce");
        for [_, node, pod] in BOARDS {
            world.pod(pod, "chat", node);
        }
        let mut scene = Self { world, server, inquiry, latest, watts: 690.0 };
        // Too much at first, so that there is a clock ceiling; then what it leaves.
        for watts in [690.0, 690.0, 450.0, 450.0, 450.0, 450.0] {
            scene.watts = watts;
            scene.round(|_| {}).await;
            scene.world.acknowledge_all();
        }
        assert_eq!(scene.says(), ["True DataFresh"; 2]);
        let ceilings = BOARDS.map(|[_, node, _]| scene.world.ceilings(node)[0].1.is_some());
        assert_eq!(ceilings, [true; 2], "every board has a clock ceiling");
        scene
    }

    /// Readings of now, with what is wrong with them; then a decision, which is carried out.
    async fn round(&mut self, fault: impl Fn(&mut State)) -> Plan {
        self.world.pass(ROUND);
        {
            let mut state = self.server.state();
            state.now = self.now();
            state.manner = Manner::Well;
            state.series = exported(state.now - 1.0, self.watts);
            state.asked = 0;
            fault(&mut state);
        }
        self.inquiry.ask_all(self.world.now).await;
        assert!(self.server.state().asked <= QUERIES_A_ROUND);
        let history = std::mem::take(&mut self.world.observation.telemetry.history);
        self.world.observation.telemetry = Telemetry { history, ..self.latest.get() };
        tenants::attribute(&mut self.world.observation, self.world.now);
        self.world.turn()
    }

    fn now(&self) -> f64 {
        self.world.now.as_duration().as_secs_f64()
    }

    /// What policy and domain say of their data.
    fn says(&self) -> [String; 2] {
        [self.world.policy_says("chat", "DataFresh"), self.world.domain_says("rack", "DataFresh")]
    }

    fn specs(&self) -> BTreeMap<String, NodeFrequenciesSpec> {
        let specs = self.world.observation.frequencies.iter();
        specs.map(|(node, object)| (node.clone(), object.spec.clone())).collect()
    }
}

fn exported(at: f64, watts: f64) -> Vec<Series> {
    let mut all = Vec::new();
    for [uuid, node, pod] in BOARDS {
        let board = [("UUID", uuid), ("Hostname", node), ("exported_namespace", "llm"), ("exported_pod", pod)];
        let exporter = [("namespace", "gpu-operator"), ("pod", "exporter-x"), ("instance", node)];
        let board = board.into_iter().chain(exporter);
        all.push(series("DCGM_FI_DEV_POWER_USAGE", board.clone(), watts, at));
        all.push(series("DCGM_FI_DEV_SM_CLOCK", board, 1635.0, at));
        let labels = [("node_name", node), ("zone", "package"), ("path", "/sys")];
        all.push(series("kepler_node_cpu_watts", labels, 200.0, at));
        let labels = [("pod_namespace", "llm"), ("pod_name", pod), ("node_name", node)];
        all.push(series("kepler_pod_cpu_watts", labels, 20.0, at));
    }
    all
}

fn series<'a>(name: &str, labels: impl IntoIterator<Item = (&'a str, &'a str)>, value: f64, at: f64) -> Series {
    let labels = labels.into_iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
    Series { name: name.to_owned(), labels, value, at }
}

fn of<'a>(state: &'a mut State, start: &'a str) -> impl Iterator<Item = &'a mut Series> {
    state.series.iter_mut().filter(move |series| series.name.starts_with(start))
}

/// Nothing stands higher than before, and nothing is released.
fn assert_nothing_raised(before: &BTreeMap<String, NodeFrequenciesSpec>, scene: &Scene, fault: &str) {
    let now = scene.specs();
    assert_eq!(before.keys().collect::<Vec<_>>(), now.keys().collect::<Vec<_>>(), "{fault}");
    for (node, before) in before {
        let now = &now[node];
        assert!(!now.release && now.power_limit_watts <= before.power_limit_watts, "{fault}: {node}");
        for before in &before.gpu_frequencies {
            let stands = now.gpu_frequencies.iter().find(|gpu| gpu.uuid == before.uuid);
            let stands = stands.unwrap_or_else(|| panic!("{fault}: {} has no ceiling any more", before.uuid));
            let raised = |before: Option<u32>, now: Option<u32>| now.unwrap_or(u32::MAX) > before.unwrap_or(u32::MAX);
            assert!(!raised(before.power_limit_watts, stands.power_limit_watts), "{fault}: {stands:?}");
            assert!(!raised(before.max_graphics_megahertz, stands.max_graphics_megahertz), "{fault}: {stands:?}");
        }
    }
}

/// What is wrong, and what policy and domain have to say of it.
type Fault = (&'static str, Box<dyn Fn(&mut State)>, [&'static str; 2]);

const FRESH: &str = "True DataFresh";
const NONE: &str = "False NoData";
const STALE: &str = "False DataStale";
const ABSURD: &str = "False ImplausibleReading";
const AWAY: &str = "False PrometheusUnavailable";

fn faults_of_prometheus() -> Vec<Fault> {
    let answers =
        |what, manner, says| -> Fault { (what, Box::new(move |state: &mut State| state.manner = manner), says) };
    vec![
        answers("away", Manner::Away, [AWAY; 2]),
        answers("500", Manner::Status(500), [AWAY; 2]),
        answers("503", Manner::Status(503), [AWAY; 2]),
        answers("cut mid-body", Manner::CutMidBody, [AWAY; 2]),
        answers("partial", Manner::Partial, [AWAY; 2]),
        answers("empty", Manner::Empty, [NONE; 2]),
        ("5 min ahead of us", Box::new(|state| shift(state, 300.0)), [FRESH; 2]),
        ("5 min behind us", Box::new(|state| shift(state, -300.0)), [FRESH; 2]),
    ]
}

/// Another clock at Prometheus, for evaluations and samples alike.
fn shift(state: &mut State, seconds: f64) {
    state.now += seconds;
    state.series.iter_mut().for_each(|series| series.at += seconds);
}

fn faults_of_values() -> Vec<Fault> {
    let power = |what, value: f64| -> Fault {
        let set = move |state: &mut State| of(state, "DCGM_FI_DEV_POWER").for_each(|series| series.value = value);
        (what, Box::new(set), [ABSURD; 2])
    };
    vec![
        power("NaN", f64::NAN),
        power("+Inf", f64::INFINITY),
        power("-Inf", f64::NEG_INFINITY),
        power("negative", -3.0),
        power("10⁹ W", 1e9),
        power("twice what the board can draw", 1400.0),
        (
            "one board NaN",
            Box::new(|state| of(state, "DCGM_FI_DEV_POWER").next().unwrap().value = f64::NAN),
            [ABSURD; 2],
        ),
        (
            "Kepler NaN",
            Box::new(|state| of(state, "kepler").for_each(|series| series.value = f64::NAN)),
            [FRESH, ABSURD],
        ),
    ]
}

fn faults_of_time(began: f64) -> Vec<Fault> {
    let at = |what, at: f64, says| -> Fault {
        (what, Box::new(move |state: &mut State| state.series.iter_mut().for_each(|series| series.at = at)), says)
    };
    let ahead = |state: &mut State| of(state, "DCGM").for_each(|series| series.at += 300.0);
    vec![
        at("20 min old", began - 1200.0, [STALE; 2]),
        at("frozen", began, [STALE; 2]),
        ("an exporter's clock 5 min ahead", Box::new(ahead), [ABSURD; 2]),
    ]
}

fn faults_of_series() -> Vec<Fault> {
    let renamed = |what, start: &'static str, says| -> Fault {
        (what, Box::new(move |state: &mut State| of(state, start).for_each(|series| series.name += "_v2")), says)
    };
    vec![
        renamed("power renamed", "DCGM_FI_DEV_POWER", [NONE; 2]),
        renamed("clock renamed", "DCGM_FI_DEV_SM_CLOCK", [NONE, FRESH]),
        renamed("Kepler renamed", "kepler_node", [FRESH, NONE]),
        ("every exporter gone", Box::new(|state| state.series.clear()), [NONE; 2]),
        ("an exporter gone", Box::new(|state| without(state, "DCGM", "n1")), [STALE; 2]),
        ("duplicated", Box::new(duplicate), [FRESH; 2]),
        ("nodes swapped", Box::new(|state| swap(state, "Hostname")), [FRESH; 2]),
        ("pods swapped", Box::new(|state| swap(state, "exported_pod")), [NONE, FRESH]),
        ("pods lost", Box::new(|state| lose_pods(state, 2)), [NONE, FRESH]),
        ("one pod lost", Box::new(|state| lose_pods(state, 1)), [NONE, FRESH]),
    ]
}

fn without(state: &mut State, start: &str, node: &str) {
    let of_node = |series: &Series| series.labels.values().any(|value| value == node);
    state.series.retain(|series| !(series.name.starts_with(start) && of_node(series)));
}

/// A second scrape of the same exporters, which lags.
fn duplicate(state: &mut State) {
    let again = state.series.iter().filter(|series| series.name.starts_with("DCGM")).cloned();
    let again = again.map(|mut series| {
        series.labels.insert("job".to_owned(), "again".to_owned());
        Series { at: series.at - 2.0, ..series }
    });
    let again: Vec<_> = again.collect();
    state.series.extend(again);
}

fn swap(state: &mut State, label: &str) {
    for start in ["DCGM_FI_DEV_POWER", "DCGM_FI_DEV_SM_CLOCK"] {
        let mut both = of(state, start).map(|series| series.labels.get_mut(label).unwrap());
        let (one, other) = (both.next().unwrap(), both.next().unwrap());
        std::mem::swap(one, other);
    }
}

/// The exporter's own pod is all that the labels of the first boards name.
fn lose_pods(state: &mut State, boards: usize) {
    for start in ["DCGM_FI_DEV_POWER", "DCGM_FI_DEV_SM_CLOCK"] {
        of(state, start).take(boards).for_each(|series| series.labels.retain(|name, _| !name.starts_with("exported_")));
    }
}

/// The claims on one fault, from a settled scene.
async fn survives(scene: &mut Scene, (what, fault, says): &Fault) {
    let before = scene.specs();
    let mut said = None;
    for round in 0..ROUNDS_TO_SAY_SO + 6 {
        let plan = scene.round(fault).await;
        assert_nothing_raised(&before, scene, what);
        if scene.says() == *says {
            said.get_or_insert(round);
        }
        assert!(said.is_none_or(|said| said == round) || plan.is_empty(), "{what}: said again: {plan:#?}");
    }
    assert_eq!(scene.says(), *says, "{what}");
    assert!(said.unwrap() < ROUNDS_TO_SAY_SO, "{what}: said after {said:?} rounds");
    // Readings are forgotten, and nothing with them.
    scene.world.pass(600);
    for _ in 0..3 {
        scene.round(fault).await;
        assert_nothing_raised(&before, scene, what);
    }
    if says.iter().all(|says| *says != FRESH) {
        for (node, spec) in scene.specs() {
            assert!(
                spec.offer_watts <= before[&node].offer_watts,
                "{what}: {node} offers what nobody knows to be free"
            );
        }
    }
    heals(scene, &before, what).await;
}

/// What new pods are offered follows what the present ones are expected to draw, and that falls with time.
fn without_offer(spec: NodeFrequenciesSpec) -> NodeFrequenciesSpec {
    NodeFrequenciesSpec {
        offer_watts: None,
        requested_watts: None,
        committed_offer_watts: None,
        epoch: Epoch::default(),
        ..spec
    }
}

async fn heals(scene: &mut Scene, before: &BTreeMap<String, NodeFrequenciesSpec>, what: &str) {
    for _ in 0..ROUNDS_TO_SAY_SO {
        scene.round(|_| {}).await;
        assert_nothing_raised(before, scene, what);
    }
    assert_eq!(scene.says(), [FRESH; 2], "{what}: healed");
    let kept = |specs: BTreeMap<String, NodeFrequenciesSpec>| -> BTreeMap<_, _> {
        specs.into_iter().map(|(node, spec)| (node, without_offer(spec))).collect()
    };
    assert_eq!(kept(scene.specs()), kept(before.clone()), "{what}: as before");
    for _ in 0..4 {
        let plan = scene.round(|_| {}).await;
        assert!(plan.is_empty(), "{what}: written after it healed: {plan:#?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_prometheus_that_misbehaves_raises_nothing_and_is_named() {
    let mut scene = Scene::new().await;
    for fault in faults_of_prometheus() {
        survives(&mut scene, &fault).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_prometheus_that_hangs_raises_nothing_and_is_named() {
    let mut scene = Scene::with_timeout(Duration::from_secs(5)).await;
    let hangs = |state: &mut State| state.manner = Manner::Hanging;
    survives(&mut scene, &("hanging", Box::new(hangs), [AWAY; 2])).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn values_that_no_device_has_raise_nothing_and_are_named() {
    let mut scene = Scene::new().await;
    for fault in faults_of_values() {
        survives(&mut scene, &fault).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn samples_of_another_time_raise_nothing_and_are_named() {
    let mut scene = Scene::new().await;
    for at in 0..3 {
        let fault = faults_of_time(scene.now()).swap_remove(at);
        survives(&mut scene, &fault).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn series_that_are_lost_or_mixed_up_raise_nothing_and_are_named() {
    let mut scene = Scene::new().await;
    for fault in faults_of_series() {
        survives(&mut scene, &fault).await;
    }
}

/// What the agents tell of the same boards.
fn agents_tell(state: &mut State, watts: f64) {
    let at = state.now - 2.0;
    for [uuid, node, _] in BOARDS {
        let agent = [("node", node), ("instance", node)];
        let board = agent.into_iter().chain([("uuid", uuid)]);
        state.series.push(series("powercap_agent_node_power_watts", agent, 3.0 * watts, at));
        state.series.push(series("powercap_agent_cpu_power_watts", agent, 230.0, at));
        state.series.push(series("powercap_agent_gpu_power_watts", board.clone(), watts, at));
        state.series.push(series("powercap_agent_gpu_clock_megahertz", board, 1635.0, at));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn where_agents_tell_power_exporters_may_go() {
    let mut scene = Scene::new().await;
    let before = scene.specs();
    // Whose the boards are is what their labels said last.
    for _ in 0..ROUNDS_TO_SAY_SO {
        scene
            .round(|state| {
                of(state, "DCGM_FI_DEV_POWER").for_each(|series| series.value = f64::NAN);
                state.series.retain(|series| !series.name.starts_with("kepler_node"));
                agents_tell(state, 450.0);
            })
            .await;
        assert_eq!(scene.says(), [FRESH; 2]);
        assert_eq!(scene.specs(), before);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_exporter_that_repeats_itself_is_found_out_by_the_agents() {
    let mut scene = Scene::new().await;
    let differ = |scene: &Scene| {
        [scene.world.policy_says("chat", "SourcesAgree"), scene.world.domain_says("rack", "SourcesAgree")]
    };
    for _ in 0..4 {
        scene.round(|state| agents_tell(state, 455.0)).await;
        assert_eq!(differ(&scene), ["Unknown -"; 2]);
    }
    for _ in 0..ROUNDS_TO_SAY_SO {
        scene.round(|state| agents_tell(state, 650.0)).await;
    }
    assert_eq!(differ(&scene), ["False SourcesDiffer"; 2]);
    assert_eq!(scene.world.policy_says("chat", "WithinCap"), "False PowerAboveCap");
    for _ in 0..3 * ROUNDS_TO_SAY_SO {
        scene.round(|state| agents_tell(state, 455.0)).await;
    }
    assert_eq!(differ(&scene), ["Unknown -"; 2]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_agent_does_not_tell_this_time_or_told_before_leaves_what_is_known() {
    let mut scene = Scene::new().await;
    let told = |scene: &Scene| {
        let gpu = &scene.world.observation.telemetry.agent_gpus["GPU-a"];
        (gpu.node.clone(), gpu.power.unwrap(), gpu.clock.unwrap())
    };
    scene.round(|state| agents_tell(state, 455.0)).await;
    let before = told(&scene);
    // Of a store that lags: what was told ten seconds ago.
    scene
        .round(|state| {
            agents_tell(state, 300.0);
            of(state, "powercap_agent_").for_each(|series| series.at -= 10.0);
        })
        .await;
    assert_eq!(told(&scene), before);
    scene
        .round(|state| {
            agents_tell(state, 455.0);
            state.series.retain(|series| series.name != "powercap_agent_gpu_power_watts");
        })
        .await;
    let (node, power, clock) = told(&scene);
    assert_eq!((node, power), (before.0, before.1));
    assert!(clock.at > before.2.at);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clock_that_is_set_back_makes_no_reading_younger_and_holds_nothing_up() {
    let mut scene = Scene::new().await;
    scene.round(|state| agents_tell(state, 450.0)).await;
    let specs = |scene: &Scene| scene.specs().into_values().map(without_offer).collect::<Vec<_>>();
    let before = specs(&scene);
    scene.world.pass(-3600);
    scene.round(|state| agents_tell(state, 450.0)).await;
    let telemetry = &scene.world.observation.telemetry;
    for gpu in telemetry.gpus.values().chain(telemetry.agent_gpus.values()) {
        assert!(gpu.power.unwrap().at <= scene.world.now && gpu.clock.unwrap().at <= scene.world.now, "{gpu:?}");
    }
    assert_eq!((scene.says(), specs(&scene)), ([FRESH; 2].map(Into::into), before));
    // The exporters fall silent: nobody takes what they told before for fresh.
    for _ in 0..ROUNDS_TO_SAY_SO {
        scene.round(|state| state.series.clear()).await;
    }
    assert!(scene.says().iter().all(|says| says.starts_with("False")), "{:?}", scene.says());
    // And the ceilings move on.
    let clock = |scene: &Scene| scene.world.ceilings("n0")[0].1;
    let low = clock(&scene).unwrap();
    scene.watts = 200.0;
    for _ in 0..4 {
        scene.round(|_| {}).await;
    }
    assert!(clock(&scene).is_none_or(|clock| clock > low), "{:?} of {low}", clock(&scene));
}

/// The claims can fail: what is well is raised.
#[tokio::test(flavor = "multi_thread")]
async fn power_that_falls_on_good_readings_relaxes_the_ceiling() {
    let mut scene = Scene::new().await;
    let clock = |scene: &Scene| scene.world.ceilings("n0")[0].1;
    let before = clock(&scene).unwrap();
    scene.watts = 200.0;
    for _ in 0..4 {
        scene.round(|_| {}).await;
    }
    assert!(clock(&scene).is_none_or(|clock| clock > before));
}
