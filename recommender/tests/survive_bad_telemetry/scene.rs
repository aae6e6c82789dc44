//! What the faults befall: a policy on two boards of two nodes in one domain, capped, and a Prometheus on a real socket.

use std::{collections::BTreeMap, time::Duration};

use jiff::SignedDuration;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use powercap_common::{api::NodeFrequenciesSpec, condition::kind};
use powercap_recommender::{
    decide::Plan,
    metrics::Metrics,
    observation::Telemetry,
    observe::{
        meters::Meters,
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

/// Seconds from one decision to the next.
pub const ROUND: i64 = 5;
/// Queries of one round, whatever there is to ask about: of readings, and of a meter.
const QUERIES_A_ROUND: usize = 12 + 2;
/// The boards: UUID, node and pod.
pub const BOARDS: [[&str; 3]; 2] = [["GPU-a", "n0", "chat-0"], ["GPU-b", "n1", "chat-1"]];
/// What else draws in the domain that has a meter.
const UNMANAGED: f64 = 200.0;

/// Rounds within which a scene falls silent.
const MOST_ROUNDS_TO_SETTLE: usize = 72;
/// Rounds in which nothing may be written once all is well.
pub const SILENT_ROUNDS: usize = 12;

/// What differs from one scene to another.
#[derive(Clone, Copy, Debug)]
pub struct Setting {
    /// At which exporters and agents collect, in seconds.
    pub interval: i64,
    /// By which policy and domain share their watts out.
    pub algorithm: &'static str,
    /// The domain has a meter.
    pub metered: bool,
    /// Node agents tell of the boards too.
    pub agents: bool,
    /// How long Prometheus is waited for.
    pub timeout: Duration,
}

/// The plainest.
pub const PLAIN: Setting =
    Setting { interval: ROUND, algorithm: "uniform", metered: false, agents: false, timeout: Duration::from_secs(60) };

impl Setting {
    /// Rounds within which a condition has to say what is wrong, and that all is well again: 30 s, or three collection
    /// intervals.
    pub fn rounds_to_say_so(self) -> usize {
        usize::try_from((3 * self.interval).max(30) / ROUND).unwrap()
    }

    /// Rounds from one reading to the next.
    pub fn rounds_a_reading(self) -> usize {
        usize::try_from(self.interval / ROUND).unwrap()
    }
}

/// Limits, clock ceilings and grants stand.
pub struct Scene {
    pub world: World,
    pub setting: Setting,
    pub watts: f64,
    server: Server,
    inquiry: Inquiry,
    meters: Meters,
    latest: LatestTelemetry,
}

impl Scene {
    pub async fn new() -> Self {
        Self::of(PLAIN).await
    }

    pub async fn of(setting: Setting) -> Self {
        powercap_process::install_tls_provider();
        let (server, latest) = (Server::start().await, LatestTelemetry::default());
        let access = || Access::open(&server.url, setting.timeout);
        let prometheus = Prometheus::new(access(), Names::default().labels());
        let interval = SignedDuration::from_secs(setting.interval);
        let inquiry = Inquiry::new(prometheus, Names::default(), interval, latest.clone(), Metrics::default());
        let meters = Prometheus::new(access(), Names::default().labels());
        let meters = Meters::new(meters.into(), latest.clone(), Metrics::default());
        let mut world = World::of_nodes(2);
        world.observation.collection_interval = interval;
        let mut rack = json!({"powerCapLimitWatts": 3000, "nodeSelector": {"matchLabels": {"rack": "r1"}},
            "algorithm": {"name": setting.algorithm}});
        if setting.metered {
            rack["meter"] = json!({"query": "pdu_watts"});
        }
        world.domain("rack", rack);
        let chat = json!({"powerCapLimitWatts": 1000, "mode": "Enforce", "selector": {"matchLabels": {"app": "chat"}},
            "algorithm": {"name": setting.algorithm}});
        world.policy_of("chat", chat);
        for [_, node, pod] in BOARDS {
            world.pod(pod, "chat", node);
        }
        let mut scene = Self { world, setting, watts: 690.0, server, inquiry, meters, latest };
        // Too much at first, so that there is a clock ceiling; then what it leaves.
        for watts in [690.0, 690.0, 450.0, 450.0, 450.0, 450.0] {
            scene.watts = watts;
            for _ in 0..setting.rounds_a_reading() {
                scene.round(|_| {}).await;
                scene.world.acknowledge_all();
            }
        }
        let (mut rounds, mut silent) = (0, 0);
        while silent < SILENT_ROUNDS {
            silent = if scene.round(|_| {}).await.is_empty() { silent + 1 } else { 0 };
            scene.world.acknowledge_all();
            rounds += 1;
            assert!(rounds < MOST_ROUNDS_TO_SETTLE, "{setting:?}: it writes on and on");
        }
        assert_eq!(scene.says(), ["True DataFresh"; 2]);
        let ceilings = BOARDS.map(|[_, node, _]| scene.world.ceilings(node)[0].1.is_some());
        assert_eq!(ceilings, [true; 2], "every board has a clock ceiling");
        scene
    }

    /// Readings of now, with what is wrong with them; then a decision, which is carried out.
    pub async fn round(&mut self, fault: impl Fn(&mut State)) -> Plan {
        self.world.pass(ROUND);
        {
            let mut state = self.server.state();
            state.now = self.now();
            state.manner = Manner::Well;
            let collected = self.world.now.as_second();
            #[allow(clippy::cast_precision_loss, reason = "times of some day")]
            let at = (collected - collected.rem_euclid(self.setting.interval)) as f64 - 1.0;
            state.series = exported(at, self.watts);
            if self.setting.agents {
                agents_tell(&mut state, at - 1.0, self.watts);
            }
            if self.setting.metered {
                state.series.push(series("pdu_watts", [], 2.0 * (self.watts + 200.0) + UNMANAGED, at));
            }
            state.asked = 0;
            fault(&mut state);
        }
        self.inquiry.ask_all(self.world.now).await;
        let meters = self.setting.metered.then(|| ("rack".to_owned(), "pdu_watts".to_owned()));
        self.meters.ask(meters.into_iter().collect(), self.world.now).await;
        assert!(self.server.state().asked <= QUERIES_A_ROUND);
        let history = std::mem::take(&mut self.world.observation.telemetry.history);
        self.world.observation.telemetry = Telemetry { history, ..self.latest.get() };
        tenants::attribute(&mut self.world.observation, self.world.now);
        self.world.turn()
    }

    pub fn now(&self) -> f64 {
        self.world.now.as_duration().as_secs_f64()
    }

    /// What policy and domain say of their data.
    pub fn says(&self) -> [String; 2] {
        self.says_of([kind::DATA_FRESH; 2])
    }

    /// What the policy says by a condition of the first kind, and the domain by one of the second.
    pub fn says_of(&self, [of_policy, of_domain]: [&str; 2]) -> [String; 2] {
        [self.world.policy_says("chat", of_policy), self.world.domain_says("rack", of_domain)]
    }

    /// All that policy and domain say, without particulars.
    pub fn conditions(&self) -> Vec<[String; 3]> {
        let observation = &self.world.observation;
        let of_policies = observation.policies.iter().filter_map(|policy| Some(&policy.status.as_ref()?.conditions));
        let of_domains = observation.domains.iter().filter_map(|domain| Some(&domain.status.as_ref()?.conditions));
        let without_particulars =
            |condition: &Condition| [&condition.type_, &condition.status, &condition.reason].map(Clone::clone);
        of_policies.chain(of_domains).flatten().map(without_particulars).collect()
    }

    pub fn specs(&self) -> BTreeMap<String, NodeFrequenciesSpec> {
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

/// The series whose names begin so.
pub fn of<'a>(state: &'a mut State, start: &'a str) -> impl Iterator<Item = &'a mut Series> {
    state.series.iter_mut().filter(move |series| series.name.starts_with(start))
}

/// What the agents tell of the same boards.
pub fn agents_tell(state: &mut State, at: f64, watts: f64) {
    for [uuid, node, _] in BOARDS {
        let agent = [("node", node), ("instance", node)];
        let board = agent.into_iter().chain([("uuid", uuid)]);
        state.series.push(series("powercap_agent_node_power_watts", agent, 3.0 * watts, at));
        state.series.push(series("powercap_agent_cpu_power_watts", agent, 230.0, at));
        state.series.push(series("powercap_agent_gpu_power_watts", board.clone(), watts, at));
        state.series.push(series("powercap_agent_gpu_clock_megahertz", board, 1635.0, at));
    }
}
