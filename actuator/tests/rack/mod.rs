//! A node of simulated boards around `decide`, without threads: what was set is read back late, and
//! power follows.
#![allow(clippy::expect_used, clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a test")]

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use k8s_openapi::{
    apimachinery::pkg::apis::meta::v1::{Condition, Time},
    jiff::Timestamp,
};
use powercap_actuator::{
    hardware::{self, BoardReading, BoardTraits, ClockGrid, ClockLock, CpuReading, CpuTraits, Knob},
    node::{
        decide::{BoardWrite, Plan, State, decide},
        observation::{GpuAccess, Observation, Packages, SeenBoard, SeenCpu},
        orders::{BoardCeiling, Orders, Overhead},
        status::{self, Particulars, Problems, Verdict},
        tenants::Tenancy,
    },
};
use powercap_common::{
    api::{Epoch, NodeFrequenciesStatus},
    condition,
    reason::Reason,
    units::{Megahertz, Watts},
};
use powercap_simulated_hardware::{Board, BoardSpec, Load, Request, board::Traits};

/// The node's boot.
pub const BOOT: &str = "b";
pub const TICK: Duration = Duration::from_millis(100);
pub const OVERHEAD: Overhead = Overhead { fixed: Watts::new(1248), percent: 4 };

/// What a board works on: utilisation, share bound by memory, intensity; by time in seconds.
pub type Work = fn(f64) -> (f64, f64, f64);

pub struct Rack {
    pub boards: Vec<RackBoard>,
    pub cpu_watts: u32,
    pub cpu: CpuReading,
    pub now: Duration,
    /// When the agent began.
    pub began: Duration,
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
    pub fault: Fault,
    /// What its sensor says, whether or not anybody can read it.
    pub sensed: Watts,
    opened: u32,
}

/// How a board misbehaves.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Fault {
    /// It accepts locks and runs as fast as before.
    pub ignores_locks: bool,
    /// It accepts limits, shows them, and draws what it likes.
    pub ignores_limits: bool,
    /// Every so many ticks another writer takes lock and limit off; 0: there is none.
    pub rival_ticks: u64,
    /// It does not answer.
    pub silent: bool,
    /// It fell off its bus.
    pub lost: bool,
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
            began: Duration::ZERO,
            state: State::default(),
            writes: 0,
            silent: Vec::new(),
        }
    }

    pub fn observe(&self) -> Observation {
        let lost = || hardware::Fault { reason: Reason::Quarantined, message: "lost".into() };
        let board = |board: &RackBoard| SeenBoard {
            traits: Arc::clone(&board.traits),
            reading: (!board.fault.lost).then_some(board.reading),
            age: board.age,
            fault: board.fault.lost.then(lost),
            opened: board.opened,
        };
        Observation {
            now: self.age(),
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

    /// How long the agent has run.
    pub fn age(&self) -> Duration {
        self.now.saturating_sub(self.began)
    }

    /// The agent ends and starts again: it has forgotten everything, and orders not carried out are lost.
    pub fn restart(&mut self) {
        self.state = State::default();
        self.began = self.now;
        for board in &mut self.boards {
            board.order = None;
            board.reading.executed = 0;
            board.reading.lock = ClockLock::Unknown;
        }
        self.cpu.executed = 0;
    }

    /// The status that the agent writes after this plan.
    pub fn told(&self, orders: Option<&Orders>, plan: &Plan) -> NodeFrequenciesStatus {
        let (profiles, tenancy) = (BTreeMap::new(), Tenancy::default());
        let particulars = Particulars { profiles: &profiles, tenancy: &tenancy };
        let (seen, problems) = (self.observe(), Problems::default());
        let said = status::state(&seen, orders, &plan.account, &problems, 1, BOOT, particulars);
        let mut conditions: Vec<Condition> = Vec::new();
        for (kind, verdict) in
            [(condition::kind::READY, Some(said.ready)), (condition::kind::LEASE_CURRENT, said.lease)]
        {
            let Some(Verdict { truth, reason, message }) = verdict else { continue };
            condition::set(&mut conditions, kind, truth, reason, message, None, Time(Timestamp::UNIX_EPOCH));
        }
        NodeFrequenciesStatus { conditions, ..said.status }
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
            board.step(self.now, self.silent.contains(&index) || board.fault.silent);
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
        self.boards.iter().map(|board| board.sensed.as_f64()).sum::<f64>() + f64::from(self.cpu_watts)
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
            limit_found: None,
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
            fault: Fault::default(),
            sensed: Watts::new(70),
            opened: 1,
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

    /// A lost board forgets what was set; it comes back as at boot.
    pub fn lose(&mut self, spec: &BoardSpec) {
        self.fault = Fault { lost: true, ..Fault::default() };
        self.order = None;
        self.request = Request { generation: self.request.generation + 1, ..Board::boot_request(spec) };
        self.reading.executed = 0;
        self.reading.lock = ClockLock::Unknown;
        self.opened += 1;
    }

    /// The range of clocks that it was told last is not in force.
    pub fn has_ignored_its_lock(&self) -> bool {
        matches!(self.reading.lock, ClockLock::UpTo(ceiling) if self.request.lock_max_mhz != ceiling.get())
    }

    fn carry_out(&mut self, order: &BoardWrite) {
        self.request.generation += 1;
        match order.lock {
            _ if self.fault.ignores_locks => {}
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

    fn step(&mut self, now: Duration, silent: bool) {
        self.waited = if self.order.is_some() { self.waited + 1 } else { 0 };
        if !silent
            && !self.fault.lost
            && self.waited > self.slowness
            && let Some(order) = self.order.take()
        {
            self.waited = 0;
            self.carry_out(&order);
        }
        if self.rival_writes(now) {
            self.request.generation += 1;
            (self.request.lock_min_mhz, self.request.lock_max_mhz) = (0, 0);
            self.request.limit_mw = 700_000;
        }
        let (utilisation, memory_share, intensity) =
            if self.fault.lost { (0.0, 0.0, 0.0) } else { (self.work)(now.as_secs_f64()) };
        let load = Load { beat: now.as_millis() as u64, utilisation, memory_share, intensity, memory_used_mib: 0 };
        let mut request = self.request;
        if self.fault.ignores_limits {
            request.limit_mw = 700_000;
        }
        let state = self.sim.step(TICK.as_secs_f64(), &request, &load);
        self.sensed = Watts::from_milliwatts(state.instant_mw.into());
        if silent {
            self.age += TICK;
            return;
        }
        self.age = Duration::ZERO;
        self.reading.power = self.sensed;
        self.reading.clock = Some(Megahertz::new(state.clock_mhz));
        let shown = if self.fault.ignores_limits { self.request.limit_mw } else { state.limit_mw };
        self.reading.limit = Some(Watts::from_milliwatts(shown.into()));
    }

    /// Whether another writer writes in the tick that ends now.
    pub fn rival_writes(&self, now: Duration) -> bool {
        let tick = (now.as_millis() / TICK.as_millis()) as u64;
        self.fault.rival_ticks > 0 && tick.is_multiple_of(self.fault.rival_ticks)
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
