//! The past is read from Prometheus when leadership begins, kept up from then on, and told as peaks and
//! forecasts. Without it everything goes on, and the condition says so.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use jiff::SignedDuration;
use powercap_common::{
    policy::PolicyId,
    units::{Bytes, Millicores},
};
use powercap_recommender::{
    metrics::Metrics,
    model::{
        history::{History, Past},
        window::Span,
    },
    observe::{
        names::Names,
        past::PastReader,
        prometheus::{Access, Prometheus},
        telemetry::LatestTelemetry,
    },
};

use crate::{
    prometheus::{Manner, Series, Server},
    world::World,
};

/// A policy of two pods on a board each, in a rack, that have run for two days.
fn scene() -> World {
    let mut world = World::of_nodes(1);
    world.rack(10_000);
    world.policy("chat", 1400, "Advise");
    for at in 0..2 {
        let pod = world.pod(&format!("chat-{at}"), "chat", "n0");
        world.gpu(&format!("GPU-{at}"), "n0", &[&pod], 300, 1980);
    }
    world.cpu("n0", 200);
    let started = world.now - SignedDuration::from_hours(48);
    world.observation.pods.iter_mut().map(Arc::make_mut).for_each(|pod| pod.started = Some(started));
    world
}

/// What a Prometheus that scrapes all of it has.
fn exported(world: &World) -> Vec<Series> {
    let at = world.now.as_duration().as_secs_f64();
    let series = |name: &str, labels: &[(&str, &str)], value: f64| {
        let labels = labels.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        Series { name: name.to_owned(), labels, value, at }
    };
    let own = [("namespace", "powercap-system"), ("exported_namespace", "llm"), ("policy", "chat")];
    vec![
        series("DCGM_FI_DEV_POWER_USAGE", &[("UUID", "GPU-0")], 300.0),
        series("powercap_agent_gpu_power_watts", &[("uuid", "GPU-1")], 300.0),
        series("kepler_pod_cpu_watts", &[("pod_namespace", "llm"), ("pod_name", "chat-0")], 20.0),
        series("powercap_policy_power_watts", &own, 600.0),
        series("powercap_domain_power_watts", &[("domain", "rack")], 800.0),
    ]
}

struct Reader {
    server: Server,
    latest: LatestTelemetry,
    reader: PastReader,
}

impl Reader {
    async fn of(world: &World) -> Self {
        powercap_process::install_tls_provider();
        let (server, latest) = (Server::start().await, LatestTelemetry::default());
        let access = Access::open(&server.url, Duration::from_secs(60));
        let prometheus = Arc::new(Prometheus::new(access, Names::default().labels()));
        let (names, span) = (Names::default(), Span::default());
        let reader = PastReader::new(prometheus, names, latest.clone(), Metrics::default(), span);
        server.state().series = exported(world);
        Self { server, latest, reader }
    }

    fn history(&self) -> Arc<History> {
        self.latest.get().history
    }
}

/// Twice the power ten hours before the scene, and nothing known before that day.
fn twice_ten_hours_ago(at: f64, value: f64) -> Option<f64> {
    let hours_ago = (1_795_330_800.0 - at) / 3600.0;
    (hours_ago < 20.0).then_some(if (10.0..10.5).contains(&hours_ago) { 2.0 * value } else { value })
}

fn told(world: &World) -> [Option<u32>; 4] {
    let (policy, domain) = (&world.observation.policies[0].status, &world.observation.domains[0].status);
    let (policy, domain) = (policy.as_ref().unwrap(), domain.as_ref().unwrap());
    [policy.peak_power_watts, policy.forecast_power_watts, domain.peak_power_watts, domain.forecast_power_watts]
}

#[tokio::test(flavor = "multi_thread")]
async fn the_past_is_read_in_six_questions_and_told_as_peak_and_forecast() {
    let mut world = scene();
    let reader = Reader::of(&world).await;
    reader.server.state().past = twice_ten_hours_ago;
    assert!(reader.reader.read(world.now).await);
    assert_eq!(reader.server.state().asked, 6);
    let history = reader.history();
    let now = history.span.step(world.now);
    for uuid in ["GPU-0", "GPU-1"] {
        let course = &history.boards[uuid];
        assert_eq!(course.peaks.peak(now).unwrap().ceil(), 600, "{uuid}");
        assert_eq!(course.means.known(now).count(), 40, "{uuid}: half hours");
    }
    assert_eq!((history.pods.len(), history.policies.len(), history.domains.len()), (1, 1, 1));
    world.observation.telemetry.history = history;
    world.settle();
    // 2^(-21/48) of the peak: 21 half hours ago, with a half-life of a day.
    assert_eq!(told(&world), [Some(1200), Some(887), Some(1600), Some(1182)]);
    assert_eq!(world.policy_says("chat", "HistoryRead"), "Unknown -");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_containers_used_is_asked_for_where_a_policy_controls_it() {
    let world = scene();
    let Reader { server, latest, reader } = Reader::of(&world).await;
    let reader = reader.with_containers_in(Box::new(|| ["llm".to_owned()].into()));
    let labels = [("namespace", "llm"), ("pod", "chat-0"), ("container", "server"), ("id", "/kubepods/burstable/x")];
    let labels: BTreeMap<_, _> = labels.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
    for (name, value) in [("container_cpu_usage_seconds_total", 1.5), ("container_memory_working_set_bytes", 4e9)] {
        let at = world.now.as_duration().as_secs_f64();
        server.state().series.push(Series { name: name.to_owned(), labels: labels.clone(), value, at });
    }
    assert!(reader.read(world.now).await);
    assert_eq!(server.state().asked, 8);
    let history = latest.get().history;
    let (owner, past) = history.containers.first_key_value().unwrap();
    assert_eq!((owner.0.to_string().as_str(), owner.1.as_str()), ("llm/chat-0", "server"));
    assert_eq!(past.cpu.last().unwrap().1, Millicores::new(1500));
    assert_eq!(past.memory.last().unwrap().1, Bytes::new(4_000_000_000));
    assert_eq!((past.cpu.len(), history.containers.len()), (47, 1));

    // What is no amount is no sample.
    server.state().past = |_, _| Some(f64::NAN);
    assert!(reader.read(world.now).await);
    assert!(latest.get().history.containers.values().all(|past| past.cpu.is_empty() && past.memory.is_empty()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_policy_that_is_new_has_the_past_of_its_pods() {
    let mut world = scene();
    let reader = Reader::of(&world).await;
    reader.server.state().past = twice_ten_hours_ago;
    reader.server.state().series.retain(|series| !series.name.starts_with("powercap_policy"));
    assert!(reader.reader.read(world.now).await);
    world.observation.telemetry.history = reader.history();
    world.turn();
    assert_eq!(told(&world)[..2], [Some(1200), Some(887)]);
    // Pods that were started since had no part in it.
    world
        .observation
        .pods
        .iter_mut()
        .map(Arc::make_mut)
        .for_each(|pod| pod.started = Some(world.now - SignedDuration::from_hours(5)));
    world.turn();
    assert_eq!(told(&world)[..2], [Some(600), Some(600)]);
    world.observation.pods.iter_mut().map(Arc::make_mut).for_each(|pod| pod.started = None);
    world.turn();
    assert_eq!(told(&world)[..2], [Some(600), Some(600)], "what is measured now");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_past_that_cannot_be_read_is_told_once_and_hinders_nothing() {
    for manner in [Manner::Away, Manner::Status(503), Manner::CutMidBody, Manner::Partial] {
        let mut world = scene();
        let reader = Reader::of(&world).await;
        reader.server.state().manner = manner;
        assert!(!reader.reader.read(world.now).await, "{manner:?}");
        world.observation.telemetry.history = reader.history();
        assert!(!world.turn().nodes.is_empty(), "grants are written");
        world.settle();
        for says in [world.policy_says("chat", "HistoryRead"), world.domain_says("rack", "HistoryRead")] {
            assert_eq!(says, "False HistoryUnavailable", "{manner:?}");
        }
        assert_eq!(world.policy_says("chat", "DataFresh"), "True DataFresh");
        assert_eq!(told(&world)[..2], [Some(600), Some(600)], "what was seen since");
        reader.server.state().manner = Manner::Well;
        assert!(reader.reader.read(world.now).await);
        world.observation.telemetry.history = reader.history();
        world.settle();
        assert_eq!(world.policy_says("chat", "HistoryRead"), "Unknown -", "{manner:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_prometheus_without_a_past_is_no_failure() {
    let world = scene();
    let reader = Reader::of(&world).await;
    reader.server.state().manner = Manner::Empty;
    assert!(reader.reader.read(world.now).await);
    assert_eq!((&reader.history().past, reader.history().boards.len()), (&Past::Read, 0));
}

#[test]
fn until_the_past_is_read_a_new_leader_tells_what_was_told() {
    let mut world = scene();
    Arc::make_mut(&mut world.observation.telemetry.history).past = Past::Read;
    world.settle();
    let before = told(&world);
    assert_eq!(before[..2], [Some(600), Some(600)]);
    world.observation.telemetry.history = Arc::default();
    world.new_leader();
    for gpu in world.observation.telemetry.gpus.values_mut() {
        gpu.power.as_mut().unwrap().value = powercap_common::units::Watts::new(100);
    }
    world.settle();
    assert_eq!(told(&world), before);
}

#[test]
fn what_decisions_find_is_kept_and_a_forecast_that_decays_writes_seldom() {
    let mut world = scene();
    Arc::make_mut(&mut world.observation.telemetry.history).past = Past::Read;
    world.settle();
    for gpu in world.observation.telemetry.gpus.values_mut() {
        gpu.power.as_mut().unwrap().value = powercap_common::units::Watts::new(100);
    }
    let (mut written, minutes) = (0, 12 * 60);
    for _ in 0..minutes {
        world.read_again(60);
        written += usize::from(!world.turn().policies.is_empty());
    }
    let [peak, forecast, ..] = told(&world);
    // 2^(-1/2) of the peak, within what is not worth a write.
    assert!(peak == Some(600) && (416..=433).contains(&forecast.unwrap()), "{peak:?} {forecast:?}");
    assert!((10..=26).contains(&written), "{written} writes in {minutes} minutes");
    let id = PolicyId { namespace: "llm".into(), name: "chat".into() };
    assert!(world.observation.telemetry.history.policies.contains_key(&id));
}
