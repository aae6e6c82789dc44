//! The node agent's own series, `powercap_agent_*`; `docs/reference/metrics.md` says what each means.
//!
//! What must hold: what is not known is NaN, never zero; a board that has gone leaves no series behind.

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex, PoisonError, atomic::AtomicU64},
    time::Duration,
};

use powercap_common::{
    api::DeviceState,
    reason::Reason,
    units::{Megahertz, Watts},
};
use prometheus_client::{
    encoding::{EncodeLabelSet, EncodeLabelValue, LabelValueEncoder},
    metrics::{
        counter::Counter,
        family::Family,
        gauge::Gauge,
        histogram::{Histogram, exponential_buckets},
    },
    registry::{Registry, Unit},
};

use super::{
    advertise::decide::Seen,
    decide::{BoardAccount, Plan},
    observation::{Observation, SeenBoard},
    orders::Orders,
    tenants::Tenancy,
};
use crate::{
    devices::DeviceError,
    hardware::{ClockLock, Knob},
};

type FloatGauge = Gauge<f64, AtomicU64>;

/// The series; clones share them.
#[derive(Clone)]
pub struct Metrics {
    node_power: FloatGauge,
    envelope: FloatGauge,
    grant: FloatGauge,
    cpu_power: FloatGauge,
    requested: FloatGauge,
    advertised: FloatGauge,
    advertisements: Family<Advertisement, Counter>,
    board_power: Family<Board, FloatGauge>,
    board_limit: Family<Board, FloatGauge>,
    board_clock: Family<Board, FloatGauge>,
    board_ceiling: Family<Board, FloatGauge>,
    board_requested_limit: Family<Board, FloatGauge>,
    board_requested_ceiling: Family<Board, FloatGauge>,
    board_tenants: Family<Board, FloatGauge>,
    board_state: Family<BoardState, Gauge>,
    board_state_changes: Family<BoardState, Counter>,
    cpu_ceiling: Family<Cpu, FloatGauge>,
    cpu_requested_ceiling: Family<Cpu, FloatGauge>,
    unacknowledged: FloatGauge,
    lease_age: FloatGauge,
    writes: Family<Write, Counter>,
    decisions: Family<Decision, Counter>,
    reports: Family<Report, Counter>,
    tenant_polls: Family<Poll, Counter>,
    events: Family<Announcement, Counter>,
    step_seconds: Family<LoopStep, Histogram, fn() -> Histogram>,
    /// The boards that have series.
    boards: Arc<Mutex<BTreeSet<Arc<str>>>>,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Board {
    uuid: Arc<str>,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Cpu {
    cpufreq_policy: u32,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Write {
    kind: WriteKind,
    result: WriteResult,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Decision {
    reason: Word,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Report {
    result: WriteResult,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Advertisement {
    result: WriteResult,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct BoardState {
    uuid: Arc<str>,
    state: StateWord,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Poll {
    result: PollResult,
}

#[derive(Clone, Copy, Debug, Hash, PartialEq, Eq, EncodeLabelValue)]
enum PollResult {
    Answered,
    Failed,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Announcement {
    result: Announced,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct LoopStep {
    step: Step,
}

/// A part of one turn of the loop.
#[derive(Clone, Copy, Debug, Hash, PartialEq, Eq, EncodeLabelValue)]
pub enum Step {
    /// Taking together what the devices said.
    Observe,
    /// Deciding.
    Decide,
    /// Handing the orders to the devices' threads.
    Apply,
    /// Putting together status, metrics and audit.
    Report,
}

/// What became of an event.
#[derive(Clone, Copy, Debug, Hash, PartialEq, Eq, EncodeLabelValue)]
pub enum Announced {
    /// The API server has it.
    Written,
    /// The API server refused it, or did not answer.
    Failed,
    /// The same was told lately, or too much was.
    Suppressed,
}

/// The states, in the order of the API.
const STATES: [DeviceState; 6] = [
    DeviceState::Pending,
    DeviceState::Applied,
    DeviceState::Failed,
    DeviceState::Drifted,
    DeviceState::Unsupported,
    DeviceState::Quarantined,
];

/// A [`DeviceState`] as a label.
#[derive(Clone, Copy, Debug, Hash, PartialEq, Eq)]
struct StateWord(&'static str);

impl StateWord {
    const fn of(state: DeviceState) -> Self {
        Self(match state {
            DeviceState::Pending => "Pending",
            DeviceState::Applied => "Applied",
            DeviceState::Failed => "Failed",
            DeviceState::Drifted => "Drifted",
            DeviceState::Unsupported => "Unsupported",
            DeviceState::Quarantined => "Quarantined",
        })
    }
}

impl EncodeLabelValue for StateWord {
    fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> Result<(), std::fmt::Error> {
        self.0.encode(encoder)
    }
}

/// What was written.
#[derive(Clone, Copy, Debug, Hash, PartialEq, Eq, PartialOrd, Ord, EncodeLabelValue)]
pub enum WriteKind {
    /// The range of a board's clocks.
    GraphicsClock,
    /// A board's power limit.
    PowerLimit,
    /// `scaling_max_freq`.
    CpuClock,
}

#[derive(Clone, Copy, Debug, Hash, PartialEq, Eq, EncodeLabelValue)]
enum WriteResult {
    Written,
    Failed,
    Denied,
    Unsupported,
}

/// A [`Reason`] as a label.
#[derive(Clone, Copy, Debug, Hash, PartialEq, Eq)]
struct Word(Reason);

impl EncodeLabelValue for Word {
    fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> Result<(), std::fmt::Error> {
        self.0.as_str().encode(encoder)
    }
}

impl Metrics {
    /// Registers every series.
    #[must_use]
    pub fn new(registry: &mut Registry) -> Self {
        let metrics = Self::unregistered();
        let registry = registry.sub_registry_with_prefix("powercap_agent");
        metrics.register_node(registry);
        metrics.register_devices(registry);
        metrics.register_work(registry);
        metrics
    }

    fn unregistered() -> Self {
        // Until a lease is watched its age is not known.
        let lease_age = FloatGauge::default();
        lease_age.set(f64::NAN);
        let (requested, advertised) = (FloatGauge::default(), FloatGauge::default());
        requested.set(f64::NAN);
        advertised.set(f64::NAN);
        Self {
            node_power: FloatGauge::default(),
            envelope: FloatGauge::default(),
            grant: FloatGauge::default(),
            cpu_power: FloatGauge::default(),
            requested,
            advertised,
            advertisements: Family::default(),
            board_power: Family::default(),
            board_limit: Family::default(),
            board_clock: Family::default(),
            board_ceiling: Family::default(),
            board_requested_limit: Family::default(),
            board_requested_ceiling: Family::default(),
            board_tenants: Family::default(),
            board_state: Family::default(),
            board_state_changes: Family::default(),
            cpu_ceiling: Family::default(),
            cpu_requested_ceiling: Family::default(),
            unacknowledged: FloatGauge::default(),
            lease_age,
            writes: Family::default(),
            decisions: Family::default(),
            reports: Family::default(),
            tenant_polls: Family::default(),
            events: Family::default(),
            step_seconds: Family::new_with_constructor(|| Histogram::new(exponential_buckets(10e-6, 4.0, 8))),
            boards: Arc::default(),
        }
    }

    fn register_node(&self, registry: &mut Registry) {
        let mut watts = |name: &str, help: &str, gauge: &FloatGauge| {
            registry.register_with_unit(name, help, Unit::Other("watts".to_owned()), gauge.clone());
        };
        watts("node_power", "Alternating current of the node as the agent reckons it", &self.node_power);
        watts("envelope", "What the devices may draw together; absent grant: NaN", &self.envelope);
        watts("grant", "Alternating current that the node may draw; absent: NaN", &self.grant);
        watts("cpu_power", "Power of the CPU packages; unknown: NaN", &self.cpu_power);
        watts("requested", "Watts that the node's pods request; unknown: NaN", &self.requested);
        watts("advertised", "Watts that the Node advertises; none: NaN", &self.advertised);
        let mut seconds = |name: &str, help: &str, gauge: &FloatGauge| {
            registry.register_with_unit(name, help, Unit::Seconds, gauge.clone());
        };
        let help = "Since when the present orders wait to be acknowledged; 0 when they are";
        seconds("unacknowledged", help, &self.unacknowledged);
        let help = "Since when no renewal of the recommender's Lease was seen; none watched: NaN";
        seconds("lease_age", help, &self.lease_age);
    }

    fn register_devices(&self, registry: &mut Registry) {
        let mut board = |name: &str, help: &str, unit: &str, family: &Family<Board, FloatGauge>| {
            registry.register_with_unit(name, help, Unit::Other(unit.to_owned()), family.clone());
        };
        board("gpu_power", "Power of a board", "watts", &self.board_power);
        board("gpu_power_limit", "Power limit in force on a board, read back", "watts", &self.board_limit);
        let help = "Power limit last ordered for a board; none yet: NaN";
        board("gpu_requested_power_limit", help, "watts", &self.board_requested_limit);
        board("gpu_clock", "Graphics clock of a board", "megahertz", &self.board_clock);
        board("gpu_ceiling", "Clock ceiling that is held on a board; none: NaN", "megahertz", &self.board_ceiling);
        let help = "Clock ceiling last ordered for a board; none yet, or taken off: NaN";
        board("gpu_requested_ceiling", help, "megahertz", &self.board_requested_ceiling);
        registry.register("gpu_tenants", "Pods that hold a board; unknown: NaN", self.board_tenants.clone());
        registry.register(
            "gpu_state",
            "1 for the state that a board is in, 0 for the others",
            self.board_state.clone(),
        );
        let help = "Times that a board came into a state; Drifted counts drifts";
        registry.register("gpu_state_changes", help, self.board_state_changes.clone());
        let mut cpu = |name: &str, help: &str, family: &Family<Cpu, FloatGauge>| {
            registry.register_with_unit(name, help, Unit::Other("megahertz".to_owned()), family.clone());
        };
        cpu("cpu_ceiling", "Ceiling in force on a cpufreq policy, read back", &self.cpu_ceiling);
        cpu("cpu_requested_ceiling", "Ceiling last ordered for a cpufreq policy", &self.cpu_requested_ceiling);
    }

    fn register_work(&self, registry: &mut Registry) {
        registry.register("device_writes", "Writes to devices", self.writes.clone());
        registry.register("decisions", "Writes decided, by reason", self.decisions.clone());
        registry.register("status_writes", "Writes of the status", self.reports.clone());
        registry.register("advertisements", "Writes of what the Node advertises", self.advertisements.clone());
        registry.register("tenant_polls", "Questions to the kubelet for tenants", self.tenant_polls.clone());
        registry.register("events", "Events on the Node", self.events.clone());
        let help = "Time of each step of a turn of the loop";
        registry.register_with_unit("loop_step", help, Unit::Seconds, self.step_seconds.clone());
    }

    /// Counts a write to a device.
    pub fn wrote(&self, kind: WriteKind, result: &Result<(), DeviceError>) {
        let result = match result.as_ref().err().map(DeviceError::knob) {
            None | Some(Knob::Works) => WriteResult::Written,
            Some(Knob::Lacking) => WriteResult::Unsupported,
            Some(Knob::Denied) => WriteResult::Denied,
            Some(Knob::Failed) => WriteResult::Failed,
        };
        self.writes.get_or_create(&Write { kind, result }).inc();
    }

    /// Counts a write of the status.
    pub fn reported(&self, written: bool) {
        let result = if written { WriteResult::Written } else { WriteResult::Failed };
        self.reports.get_or_create(&Report { result }).inc();
    }

    /// Takes in what the node's pods request and its Node advertises.
    pub fn advertised(&self, seen: Option<&Seen>) {
        self.requested.set(watts(seen.map(|seen| seen.requested)));
        self.advertised.set(watts(seen.and_then(|seen| seen.allocatable)));
    }

    /// Counts a write of what the Node advertises.
    pub fn wrote_advertisement(&self, written: bool) {
        let result = if written { WriteResult::Written } else { WriteResult::Failed };
        self.advertisements.get_or_create(&Advertisement { result }).inc();
    }

    /// Counts a question to the kubelet.
    pub fn asked_for_tenants(&self, answered: bool) {
        let result = if answered { PollResult::Answered } else { PollResult::Failed };
        self.tenant_polls.get_or_create(&Poll { result }).inc();
    }

    /// Counts events.
    pub fn announced(&self, result: Announced, count: u64) {
        self.events.get_or_create(&Announcement { result }).inc_by(count);
    }

    /// Takes in how long a step took.
    pub fn stepped(&self, step: Step, took: Duration) {
        self.step_seconds.get_or_create(&LoopStep { step }).observe(took.as_secs_f64());
    }

    /// Takes in how long ago a renewal of the recommender's Lease was seen.
    pub fn lease_seen(&self, age: Duration) {
        self.lease_age.set(age.as_secs_f64());
    }

    /// Takes in what was seen and decided.
    pub fn decided(
        &self,
        seen: &Observation,
        orders: Option<&Orders>,
        plan: &Plan,
        tenancy: &Tenancy,
        unacknowledged: Duration,
    ) {
        let account = &plan.account;
        self.node_power.set(account.node_power.as_f64());
        self.envelope.set(watts(account.envelope));
        self.grant.set(watts(orders.and_then(|orders| orders.grant)));
        self.cpu_power.set(watts(seen.packages.as_ref().and_then(|packages| packages.fresh())));
        self.unacknowledged.set(unacknowledged.as_secs_f64());
        self.forget_others(seen);
        for (board, standing) in seen.boards.iter().zip(&account.boards) {
            self.board(board, standing, tenancy);
        }
        for cpu in &seen.cpus {
            let ceiling = megahertz(cpu.reading.map(|reading| reading.ceiling));
            self.cpu_ceiling.get_or_create(&Cpu { cpufreq_policy: cpu.traits.policy }).set(ceiling);
        }
        self.ordered(plan);
    }

    fn board(&self, board: &SeenBoard, standing: &BoardAccount, tenancy: &Tenancy) {
        let uuid = &board.traits.uuid;
        let label = Board { uuid: uuid.clone() };
        let reading = board.fresh();
        self.board_power.get_or_create(&label).set(watts(reading.map(|reading| reading.power)));
        self.board_limit.get_or_create(&label).set(watts(reading.and_then(|reading| reading.limit)));
        self.board_clock.get_or_create(&label).set(megahertz(reading.and_then(|reading| reading.clock)));
        self.board_ceiling.get_or_create(&label).set(megahertz(standing.ceiling));
        #[expect(clippy::cast_precision_loss, reason = "a board has few tenants")]
        let tenants = tenancy.of(uuid).map_or(f64::NAN, |tenants| tenants.len() as f64);
        self.board_tenants.get_or_create(&label).set(tenants);
        for state in STATES {
            let label = BoardState { uuid: uuid.clone(), state: StateWord::of(state) };
            let is = i64::from(state == standing.state);
            if self.board_state.get_or_create(&label).set(is) < is {
                self.board_state_changes.get_or_create(&label).inc();
            }
        }
    }

    fn ordered(&self, plan: &Plan) {
        for write in &plan.boards {
            let label = Board { uuid: write.uuid.clone() };
            if let Some(limit) = write.limit {
                self.board_requested_limit.get_or_create(&label).set(limit.as_f64());
            }
            if let Some(lock) = write.lock {
                let ceiling = if let ClockLock::UpTo(ceiling) = lock { Some(ceiling) } else { None };
                self.board_requested_ceiling.get_or_create(&label).set(megahertz(ceiling));
            }
        }
        for write in &plan.cpus {
            let label = Cpu { cpufreq_policy: write.policy };
            self.cpu_requested_ceiling.get_or_create(&label).set(megahertz(Some(write.ceiling)));
        }
        for reason in plan.boards.iter().map(|write| write.reason).chain(plan.cpus.iter().map(|write| write.reason)) {
            self.decisions.get_or_create(&Decision { reason: Word(reason) }).inc();
        }
    }

    /// Takes away the series of boards that are not there any more.
    fn forget_others(&self, seen: &Observation) {
        let mut known = self.boards.lock().unwrap_or_else(PoisonError::into_inner);
        if seen.boards.len() == known.len() && seen.boards.iter().all(|board| known.contains(&board.traits.uuid)) {
            return;
        }
        let present: BTreeSet<_> = seen.boards.iter().map(|board| board.traits.uuid.clone()).collect();
        for uuid in known.difference(&present) {
            let label = Board { uuid: uuid.clone() };
            for family in [
                &self.board_power,
                &self.board_limit,
                &self.board_clock,
                &self.board_ceiling,
                &self.board_requested_limit,
                &self.board_requested_ceiling,
                &self.board_tenants,
            ] {
                family.remove(&label);
            }
            for state in STATES {
                let label = BoardState { uuid: uuid.clone(), state: StateWord::of(state) };
                self.board_state.remove(&label);
                self.board_state_changes.remove(&label);
            }
        }
        *known = present;
    }
}

fn watts(watts: Option<Watts>) -> f64 {
    watts.map_or(f64::NAN, Watts::as_f64)
}

fn megahertz(clock: Option<Megahertz>) -> f64 {
    clock.map_or(f64::NAN, |clock| f64::from(clock.get()))
}
