//! The node agent's own series, `powercap_agent_*`.

use std::{
    sync::{Arc, atomic::AtomicU64},
    time::Duration,
};

use powercap_common::{reason::Reason, units::Watts};
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

use super::{decide::Plan, observation::Observation, orders::Orders};
use crate::{devices::DeviceError, hardware::Knob};

type FloatGauge = Gauge<f64, AtomicU64>;

/// The series; clones share them.
#[derive(Clone)]
pub struct Metrics {
    node_power: FloatGauge,
    envelope: FloatGauge,
    grant: FloatGauge,
    cpu_power: FloatGauge,
    board_power: Family<Board, FloatGauge>,
    board_limit: Family<Board, FloatGauge>,
    board_clock: Family<Board, FloatGauge>,
    board_ceiling: Family<Board, FloatGauge>,
    cpu_ceiling: Family<Cpu, FloatGauge>,
    unacknowledged: FloatGauge,
    writes: Family<Write, Counter>,
    decisions: Family<Decision, Counter>,
    reports: Family<Report, Counter>,
    decision_seconds: Histogram,
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

/// What was written.
#[derive(Clone, Copy, Debug, Hash, PartialEq, Eq, EncodeLabelValue)]
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
        let metrics = Self {
            node_power: FloatGauge::default(),
            envelope: FloatGauge::default(),
            grant: FloatGauge::default(),
            cpu_power: FloatGauge::default(),
            board_power: Family::default(),
            board_limit: Family::default(),
            board_clock: Family::default(),
            board_ceiling: Family::default(),
            cpu_ceiling: Family::default(),
            unacknowledged: FloatGauge::default(),
            writes: Family::default(),
            decisions: Family::default(),
            reports: Family::default(),
            decision_seconds: Histogram::new(exponential_buckets(10e-6, 4.0, 8)),
        };
        let registry = registry.sub_registry_with_prefix("powercap_agent");
        let watts = || Unit::Other("watts".to_owned());
        let megahertz = || Unit::Other("megahertz".to_owned());
        registry.register_with_unit(
            "node_power",
            "Alternating current of the node as the agent reckons it",
            watts(),
            metrics.node_power.clone(),
        );
        registry.register_with_unit(
            "envelope",
            "What the devices may draw together; absent grant: NaN",
            watts(),
            metrics.envelope.clone(),
        );
        registry.register_with_unit(
            "grant",
            "Alternating current that the node may draw; absent: NaN",
            watts(),
            metrics.grant.clone(),
        );
        registry.register_with_unit(
            "cpu_power",
            "Power of the CPU packages; unknown: NaN",
            watts(),
            metrics.cpu_power.clone(),
        );
        registry.register_with_unit("gpu_power", "Power of a board", watts(), metrics.board_power.clone());
        registry.register_with_unit(
            "gpu_power_limit",
            "Power limit in force on a board, read back",
            watts(),
            metrics.board_limit.clone(),
        );
        registry.register_with_unit("gpu_clock", "Graphics clock of a board", megahertz(), metrics.board_clock.clone());
        registry.register_with_unit(
            "gpu_ceiling",
            "Clock ceiling that is held on a board; none: NaN",
            megahertz(),
            metrics.board_ceiling.clone(),
        );
        registry.register_with_unit(
            "cpu_ceiling",
            "Ceiling in force on a cpufreq policy, read back",
            megahertz(),
            metrics.cpu_ceiling.clone(),
        );
        registry.register_with_unit(
            "unacknowledged",
            "Since when the present orders wait to be acknowledged; 0 when they are",
            Unit::Seconds,
            metrics.unacknowledged.clone(),
        );
        registry.register("device_writes", "Writes to devices", metrics.writes.clone());
        registry.register("decisions", "Writes decided, by reason", metrics.decisions.clone());
        registry.register("status_writes", "Writes of the status", metrics.reports.clone());
        registry.register_with_unit(
            "decision",
            "Time from the observation to the orders",
            Unit::Seconds,
            metrics.decision_seconds.clone(),
        );
        metrics
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

    /// Takes in what was seen and decided.
    pub fn decided(
        &self,
        seen: &Observation,
        orders: Option<&Orders>,
        plan: &Plan,
        unacknowledged: Duration,
        took: Duration,
    ) {
        let account = &plan.account;
        let watts = |watts: Option<Watts>| watts.map_or(f64::NAN, Watts::as_f64);
        self.node_power.set(account.node_power.as_f64());
        self.envelope.set(watts(account.envelope));
        self.grant.set(watts(orders.and_then(|orders| orders.grant)));
        self.cpu_power.set(watts(seen.packages.as_ref().and_then(|packages| packages.fresh())));
        self.unacknowledged.set(unacknowledged.as_secs_f64());
        self.decision_seconds.observe(took.as_secs_f64());
        for (board, standing) in seen.boards.iter().zip(&account.boards) {
            let label = Board { uuid: board.traits.uuid.clone() };
            let reading = board.fresh();
            self.board_power.get_or_create(&label).set(watts(reading.map(|reading| reading.power)));
            self.board_limit.get_or_create(&label).set(watts(reading.and_then(|reading| reading.limit)));
            let clock = reading.and_then(|reading| reading.clock);
            self.board_clock.get_or_create(&label).set(clock.map_or(f64::NAN, |clock| f64::from(clock.get())));
            let ceiling = standing.ceiling.map_or(f64::NAN, |ceiling| f64::from(ceiling.get()));
            self.board_ceiling.get_or_create(&label).set(ceiling);
        }
        for cpu in &seen.cpus {
            let ceiling = cpu.reading.map_or(f64::NAN, |reading| f64::from(reading.ceiling.get()));
            self.cpu_ceiling.get_or_create(&Cpu { cpufreq_policy: cpu.traits.policy }).set(ceiling);
        }
        for reason in plan.boards.iter().map(|write| write.reason).chain(plan.cpus.iter().map(|write| write.reason)) {
            self.decisions.get_or_create(&Decision { reason: Word(reason) }).inc();
        }
    }
}
