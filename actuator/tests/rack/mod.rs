//! A node of simulated boards around `decide`, without threads: what was set is read back late, and
//! power follows.
#![allow(dead_code, reason = "each test uses its part")]
#![allow(clippy::expect_used, clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a test")]

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use powercap_actuator::{
    hardware::{BoardReading, BoardTraits, ClockGrid, ClockLock, CpuReading, CpuTraits, Knob},
    node::{
        decide::{BoardWrite, Plan, State, decide},
        observation::{GpuAccess, Observation, Packages, SeenBoard, SeenCpu},
        orders::{BoardCeiling, Orders, Overhead},
    },
};
use powercap_common::{
    api::Epoch,
    reason::Reason,
    units::{Megahertz, Watts},
};
use powercap_simulated_hardware::{Board, BoardSpec, Load, Request, board::Traits};

pub const TICK: Duration = Duration::from_millis(100);
pub const OVERHEAD: Overhead = Overhead { fixed: Watts::new(1248), percent: 4 };

/// What a board works on: utilisation, share bound by memory, intensity; by time in seconds.
pub type Work = fn(f64) -> (f64, f64, f64);

pub struct Rack {
    pub boards: Vec<RackBoard>,
    pub cpu_watts: u32,
    pub cpu: CpuReading,
    pub now: Duration,
    pub state: State,
    pub writes: usize,
    /// Boards that do not answer.
    pub silent: Vec<usize>,
}

pub struct RackBoard {
    pub traits: Arc<BoardTraits>,
    pub sim: Board,
    pub request: Request,
    pub work: Work,
    pub reading: BoardReading,
    age: Duration,
    /// Taken by the thread, carried out before a next reading.
    order: Option<BoardWrite>,
    /// Ticks from an order to its execution; the board is read meanwhile.
    pub slowness: u32,
    waited: u32,
}

pub const BUSY: Work = |_| (1.0, 0.1, 1.0);
pub const IDLE: Work = |_| (0.0, 0.0, 0.0);

impl Rack {
    pub fn new(boards: usize, gain_percent: f64, ripple: f64, work: Work) -> Self {
        let spec = BoardSpec::h100_sxm();
        let boards = (0..boards)
            .map(|index| {
                let gain = 1.0 + gain_percent / 100.0 * (index as f64 / 3.5 - 1.0).clamp(-1.0, 1.0);
                let seed = 77 + index as u64;
                let traits = Traits { sensor_gain: gain, lock_latency_seconds: 0.030, ripple, seed };
                RackBoard::new(index, &spec, traits, work)
            })
            .collect();
        let cpu = CpuReading { clock: None, ceiling: Megahertz::new(3800), knob: Knob::Works, executed: 0 };
        Self {
            boards,
            cpu_watts: 212,
            cpu,
            now: Duration::from_secs(100),
            state: State::default(),
            writes: 0,
            silent: Vec::new(),
        }
    }

    pub fn observe(&self) -> Observation {
        let board = |board: &RackBoard| SeenBoard {
            traits: Arc::clone(&board.traits),
            reading: Some(board.reading),
            age: board.age,
            fault: None,
            opened: 1,
        };
        Observation {
            now: self.now,
            gpus: GpuAccess::Working,
            boards: self.boards.iter().map(board).collect(),
            unopened_boards: 0,
            cpus: vec![SeenCpu {
                traits: CpuTraits { policy: 0, min: Megahertz::new(800), max: Megahertz::new(3800) },
                reading: Some(self.cpu),
                fault: None,
            }],
            packages: Some(Packages {
                power: Some(Watts::new(self.cpu_watts)),
                age: Duration::ZERO,
                max: Watts::new(700),
                fault: None,
            }),
        }
    }

    /// One decision, then a tenth of a second.
    pub fn tick(&mut self, orders: Option<&Orders>) -> Plan {
        let plan = decide(&self.observe(), orders, &self.state);
        self.state = plan.state.clone();
        self.writes += plan.boards.len() + plan.cpus.len();
        for write in &plan.boards {
            let board = self.boards.iter_mut().find(|board| board.traits.uuid == write.uuid).expect("a board of ours");
            board.take(write);
        }
        for write in &plan.cpus {
            self.cpu.ceiling = write.ceiling;
            self.cpu.executed = write.number;
        }
        self.now += TICK;
        for (index, board) in self.boards.iter_mut().enumerate() {
            board.step(self.now, self.silent.contains(&index));
        }
        plan
    }

    pub fn seconds(&mut self, seconds: f64, orders: Option<&Orders>, mut each: impl FnMut(&Self, &Plan)) {
        for _ in 0..(seconds * 10.0).round() as usize {
            let plan = self.tick(orders);
            each(self, &plan);
        }
    }

    /// The boards' power by their sensors, and the CPUs'.
    pub fn power(&self) -> f64 {
        self.boards.iter().map(|board| board.reading.power.as_f64()).sum::<f64>() + f64::from(self.cpu_watts)
    }

    /// The limits that are really in force, together.
    pub fn limits(&self) -> f64 {
        self.boards.iter().map(|board| board.reading.limit.map_or(700.0, Watts::as_f64)).sum()
    }
}

impl RackBoard {
    fn new(index: usize, spec: &BoardSpec, sim: Traits, work: Work) -> Self {
        let clocks = (0..spec.clock_count()).map(|step| Megahertz::new(spec.clock(step)));
        let traits = BoardTraits {
            uuid: format!("GPU-{index}").into(),
            model: spec.name.clone(),
            clocks: ClockGrid::new(clocks),
            min_limit: Watts::new(200),
            max_limit: Watts::new(700),
            default_limit: Watts::new(700),
        };
        let reading = BoardReading {
            power: Watts::new(70),
            clock: Some(Megahertz::new(345)),
            limit: Some(Watts::new(700)),
            lock: ClockLock::Unknown,
            clock_knob: Knob::Works,
            limit_knob: Knob::Works,
            executed: 0,
        };
        Self {
            traits: Arc::new(traits),
            sim: Board::new(spec.clone(), sim),
            request: Board::boot_request(spec),
            work,
            reading,
            age: Duration::ZERO,
            order: None,
            slowness: 0,
            waited: 0,
        }
    }

    fn take(&mut self, write: &BoardWrite) {
        match &mut self.order {
            Some(held) => {
                held.number = write.number;
                held.lock = write.lock.or(held.lock);
                held.limit = write.limit.or(held.limit);
            }
            None => self.order = Some(write.clone()),
        }
    }

    fn step(&mut self, now: Duration, silent: bool) {
        self.waited = if self.order.is_some() { self.waited + 1 } else { 0 };
        if !silent
            && self.waited > self.slowness
            && let Some(order) = self.order.take()
        {
            self.waited = 0;
            self.request.generation += 1;
            match order.lock {
                Some(ClockLock::UpTo(ceiling)) => {
                    let lowest = self.traits.clocks.as_ref().expect("clocks").lowest();
                    assert!(lowest < ceiling, "a range with equal ends pins the clock");
                    self.request.lock_min_mhz = lowest.get();
                    self.request.lock_max_mhz = ceiling.get();
                }
                Some(ClockLock::Off) => (self.request.lock_min_mhz, self.request.lock_max_mhz) = (0, 0),
                Some(ClockLock::Unknown) | None => {}
            }
            self.reading.lock = order.lock.unwrap_or(self.reading.lock);
            if let Some(limit) = order.limit {
                self.request.limit_mw = limit.as_milliwatts() as u32;
            }
            self.reading.executed = order.number;
        }
        let (utilisation, memory_share, intensity) = (self.work)(now.as_secs_f64());
        let load = Load { beat: now.as_millis() as u64, utilisation, memory_share, intensity, memory_used_mib: 0 };
        let state = self.sim.step(TICK.as_secs_f64(), &self.request, &load);
        if silent {
            self.age += TICK;
            return;
        }
        self.age = Duration::ZERO;
        self.reading.power = Watts::from_milliwatts(state.instant_mw.into());
        self.reading.clock = Some(Megahertz::new(state.clock_mhz));
        self.reading.limit = Some(Watts::from_milliwatts(state.limit_mw.into()));
    }
}

/// Orders with a grant.
pub fn granted(sequence: i64, watts: u32) -> Orders {
    Orders {
        uid: "a".into(),
        generation: sequence,
        epoch: Epoch { term: 1, sequence },
        grant: Some(Watts::new(watts)),
        overhead: OVERHEAD,
        boards: BTreeMap::new(),
        cpus: BTreeMap::new(),
        release: false,
        ..Orders::default()
    }
}

/// A ceiling for one board.
pub fn ceiling(clock: Option<u32>, limit: Option<u32>) -> BoardCeiling {
    BoardCeiling {
        clock: clock.map(Megahertz::new),
        limit: limit.map(Watts::new),
        shed_order: 0,
        group: None,
        reason: Reason::PolicyCap,
    }
}
