//! A million simulated ticks of random loads, faults, orders and restarts. Every run draws new seeds and
//! prints them; `POWERCAP_SEED` repeats one. Silence raises nothing, raises come in steps, nothing panics, and
//! by what the boards' sensors say:
//!
//! - **Within the envelope**: no second is above it in the mean, and no tick by more than 2 %. Kernels
//!   flutter by 2 %, which the agent sees when it has happened. A board that ignores limit and lock may be above
//!   that limit by the 10 % that its sensor may err by.
//! - **Below the floor**, where the envelope is less than what the devices can be brought to, every board that
//!   answers, does as told and is believed has its lowest limit. Clocks and CPUs move on, and are not judged.
//!
//! Judged is what comes later than a change takes to settle, by its kind; the constants say which and why. A
//! restart is no such change: it may only prolong one that is under way, and count more for a board that is not
//! believed, for which the others then make room.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use powercap_actuator::{
    hardware::ClockLock,
    node::{decide::Plan, observation::STALE_AFTER, orders::Orders, originals::Originals, standing::Earlier},
};
use powercap_common::{
    reason::Reason,
    units::{Megahertz, Watts},
};
use powercap_simulated_hardware::BoardSpec;

use crate::rack::{BOOT, BUSY, Fault, IDLE, OVERHEAD, Rack, RackBoard, TICK, Work, ceiling, granted};

/// Each once found something: a disbelieved board that fell silent was asked for more than it last showed; a
/// clock was raised on a board without a limiter that would have stopped what the step overshot; a board that ignores
/// its lock was not found out while its group moved; another writer in step with us passed for a board that ignores
/// its limit; a raise that was taken back before it showed was half made again without its pause.
const FINDS: [u64; 6] = [
    2_807_640_369_398_302,
    3_476_561_331_225_351,
    4_073_481_475_981_636,
    3_635_110_711_656_487,
    4_189_738_431_939_001,
    711_133_475_373_345,
];
const EPISODES: u64 = 1000;
const TICKS: u64 = 1000;

/// A cut, a load that begins, CPUs that draw more, a fault that ends: two ticks until it is seen and
/// answered, two more on a slow board, and one for the limiter to act.
const SETTLES: Duration = Duration::from_millis(600);
/// What another writer changes while an order is under way is looked at again after a second.
const CONTEST_SETTLES: Duration = Duration::from_millis(1500);
/// A board that draws more than the limit that it shows is believed for some seconds: a pause of the load
/// counts for it.
const UNBELIEVED_AFTER: Duration = Duration::from_secs(6);
/// A pause in a training step ends: the boards' limiters need a moment.
const LIMITERS_SETTLE: Duration = Duration::from_millis(300);

/// Kernels differ from one to the next: the true power of a board under load flutters by so much, its
/// sensor sees 25 ms of each 100, and its limiter, all that holds a board that is silent, keeps the mean.
const RIPPLE: f64 = 0.02;
const NOISE: f64 = 1.02;
/// Ticks whose mean is within the envelope.
const A_SECOND: usize = 10;
const TRAINING: Work = |seconds| if seconds % 2.0 < 1.8 { (1.0, 0.1, 1.0) } else { (0.4, 0.8, 0.5) };

/// The index of training.
const TRAINS: usize = 3;
const WORKS: [Work; 5] = [BUSY, IDLE, |_| (1.0, 0.9, 1.0), TRAINING, |_| (0.6, 0.5, 0.7)];

/// splitmix64: reproducible by its seed alone.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % sides
    }

    fn watts(&mut self, from: u64, to: u64) -> u32 {
        u32::try_from(from + self.roll(to - from)).unwrap()
    }
}

#[derive(Default)]
struct Score {
    ticks: u64,
    judged: u64,
    judged_floor: u64,
    restarts: u64,
    faults: u64,
    yielded: u64,
}

struct Episode {
    dice: Dice,
    rack: Rack,
    orders: Orders,
    spec: BoardSpec,
    /// Until when power may be above the envelope.
    settles_until: Duration,
    /// When each board's limit was last raised.
    raised: BTreeMap<Arc<str>, Duration>,
    /// The limit last written to each.
    written: BTreeMap<Arc<str>, Watts>,
    /// The last plan, which the status tells.
    plan: Plan,
    /// The clocks in it.
    ceilings: Vec<Option<Megahertz>>,
    /// So many boards were yielded in it.
    yielded: usize,
    /// A board trains, or did: then there are pauses.
    trains: bool,
    /// Power less the envelope, of the judged ticks in a row.
    excess: Vec<f64>,
}

impl Episode {
    fn new(seed: u64) -> Self {
        let mut dice = Dice(seed);
        let boards = 1 + usize::try_from(dice.roll(5)).unwrap();
        let mut rack = Rack::new(boards, 0.0, RIPPLE, IDLE);
        let mut trains = false;
        for board in &mut rack.boards {
            let work = usize::try_from(dice.roll(5)).unwrap();
            trains |= work == TRAINS;
            board.work = WORKS[work];
            board.slowness = u32::try_from(dice.roll(2)).unwrap();
        }
        let mut orders = granted(1, Self::grant(&mut dice, boards));
        for index in 0..boards {
            let mut given = ceiling(None, None);
            given.shed_order = u32::try_from(dice.roll(3)).unwrap();
            given.group = (dice.roll(3) == 0).then(|| format!("job-{}", dice.roll(2)).into());
            orders.boards.insert(format!("GPU-{index}").into(), given);
        }
        let settles_until = rack.now + SETTLES;
        let spec = BoardSpec::h100_sxm();
        Self {
            dice,
            rack,
            orders,
            spec,
            settles_until,
            raised: BTreeMap::new(),
            written: BTreeMap::new(),
            plan: Plan::default(),
            ceilings: Vec::new(),
            yielded: 0,
            trains,
            excess: Vec::new(),
        }
    }

    /// From below what the boards can be brought to, to more than they can draw.
    fn grant(dice: &mut Dice, boards: usize) -> u32 {
        let boards = boards as u64;
        dice.watts(1750 + boards * 205, 1900 + boards * 800)
    }

    fn settles(&self) -> Duration {
        let deaf = self.rack.boards.iter().any(|board| board.fault.ignores_limits);
        if deaf { UNBELIEVED_AFTER } else { SETTLES }
    }

    /// Something may happen.
    fn happen(&mut self, score: &mut Score) {
        let at = usize::try_from(self.dice.roll(self.rack.boards.len() as u64)).unwrap();
        let settles = self.settles();
        let now = self.rack.now;
        match self.dice.roll(800) {
            0..3 => {
                let boards = self.rack.boards.len();
                let grant = Watts::new(Self::grant(&mut self.dice, boards));
                self.orders.epoch.sequence += 1;
                // A brake or a fallback is a cut that ends again.
                self.orders.grant = Some(grant);
            }
            3..8 => {
                let work = usize::try_from(self.dice.roll(5)).unwrap();
                self.trains |= work == TRAINS;
                self.rack.boards[at].work = WORKS[work];
            }
            8..10 => self.rack.cpu_watts = self.dice.watts(100, 500),
            10 => {
                score.restarts += 1;
                let doubts = self.restart();
                let unbelieved = self
                    .rack
                    .boards
                    .iter()
                    .zip(&self.plan.account.boards)
                    .any(|(board, account)| board.fault.ignores_limits && account.reason != Reason::WithoutEffect);
                if now > self.settles_until && !unbelieved && !doubts {
                    return;
                }
            }
            11 => {
                let name: Arc<str> = format!("GPU-{at}").into();
                let clock = (self.dice.roll(2) == 0).then(|| self.dice.watts(0, 3000));
                let limit = (self.dice.roll(2) == 0).then(|| self.dice.watts(0, 1000));
                let given = self.orders.boards.get_mut(&name).unwrap();
                (given.clock, given.limit) = (clock.map(Megahertz::new), limit.map(Watts::new));
            }
            12 => {
                score.faults += 1;
                self.misbehave(at);
                self.settles_until = self.settles_until.max(now + UNBELIEVED_AFTER);
            }
            13..18 => {
                let board = &mut self.rack.boards[at];
                if std::mem::take(&mut board.fault) == Fault::default() {
                    return;
                }
            }
            _ => return,
        }
        self.settles_until = self.settles_until.max(now + settles);
    }

    /// The agent begins anew, with what the status tells of its last life; says whether it doubts a board.
    fn restart(&mut self) -> bool {
        let earlier = Earlier::of(&self.rack.told(Some(&self.orders), &self.plan), BOOT);
        self.rack.restart();
        self.rack.state = earlier.resume(&Originals::default(), &self.orders, self.rack.age());
        self.raised.clear();
        self.written.clear();
        !earlier.doubts.is_empty()
    }

    fn misbehave(&mut self, at: usize) {
        let kind = self.dice.roll(6);
        let rival_ticks = 3 + self.dice.roll(40);
        let board = &mut self.rack.boards[at];
        match kind {
            0 => board.fault = Fault { ignores_locks: true, ..Fault::default() },
            1 => board.fault = Fault { ignores_limits: true, ..Fault::default() },
            2 => board.fault = Fault { rival_ticks, ..Fault::default() },
            3 => board.fault = Fault { ignores_locks: true, ignores_limits: true, ..Fault::default() },
            4 => board.fault = Fault { silent: true, ..Fault::default() },
            _ => board.lose(&self.spec),
        }
    }

    fn tick(&mut self, score: &mut Score) {
        self.happen(score);
        let before = self.rack.observe();
        self.plan = self.rack.tick(Some(&self.orders));
        score.ticks += 1;
        let plan = self.plan.clone();
        self.writes_are_right(&before, &plan);
        self.settle(score);
        if self.rack.now <= self.settles_until {
            self.excess.clear();
        } else if plan.account.below_floor {
            score.judged_floor += 1;
            self.excess.clear();
            self.is_at_its_floor();
        } else {
            score.judged += 1;
            self.is_within_the_envelope();
        }
    }

    /// What happens without a roll of the dice.
    fn settle(&mut self, score: &mut Score) {
        let now = self.rack.now;
        let yielded = self.plan.account.boards.iter().filter(|account| account.reason == Reason::Contended).count();
        if yielded > self.yielded {
            // The others make room from now on: one of them may ignore limits, and was never told to.
            self.settles_until = self.settles_until.max(now + self.settles());
        }
        self.yielded = yielded;
        for (board, account) in self.rack.boards.iter().zip(&self.plan.account.boards) {
            let yielded = account.reason == Reason::Contended;
            score.yielded += u64::from(yielded);
            if board.rival_writes(now) && !yielded {
                self.settles_until = self.settles_until.max(now + CONTEST_SETTLES);
            }
        }
        for (board, (before, after)) in self.rack.boards.iter().zip(self.ceilings.iter().zip(&self.plan.account.boards))
        {
            if board.fault.ignores_limits && after.ceiling > *before {
                // No limiter stops what such a step overshoots, until it is seen and answered.
                self.settles_until = self.settles_until.max(now + SETTLES);
            }
        }
        self.ceilings = self.plan.account.boards.iter().map(|account| account.ceiling).collect();
        if self.trains && now.as_millis().is_multiple_of(2000) {
            self.settles_until = self.settles_until.max(now + LIMITERS_SETTLE);
        }
    }

    fn is_within_the_envelope(&mut self) {
        let (power, envelope) = (self.rack.power(), OVERHEAD.envelope(self.orders.grant.unwrap()).as_f64());
        // Within the error of its sensor nobody can tell that a board ignores its limit, and its lock too; one that
        // would heed a lock again is told so ever more rarely.
        let unlocked = |board: &&RackBoard| board.fault.ignores_locks || board.has_ignored_its_lock();
        let deaf = self.rack.boards.iter().filter(|board| board.fault.ignores_limits).filter(unlocked);
        let untold: f64 = deaf.map(|board| board.reading.limit.map_or(0.0, |limit| limit.as_f64() * 0.1)).sum();
        let envelope = envelope + untold;
        self.excess.push(power - envelope);
        let from = self.excess.len().checked_sub(A_SECOND);
        let mean = from.map(|from| self.excess[from..].iter().sum::<f64>());
        if power > envelope * NOISE || mean.is_some_and(|excess| excess > 0.0) {
            let faults: Vec<_> = self.rack.boards.iter().map(|board| (board.sensed, board.fault)).collect();
            panic!("{power} W of {envelope} W at {:?}: {faults:?} {:#?}", self.rack.now, self.plan.account);
        }
    }

    fn is_at_its_floor(&self) {
        for (board, account) in self.rack.boards.iter().zip(&self.plan.account.boards) {
            let believed = !matches!(account.reason, Reason::Contended | Reason::WithoutEffect);
            let heeds = board.fault == Fault::default() && believed;
            let lowest = board.reading.limit == Some(board.traits.min_limit);
            assert!(!heeds || lowest, "{:?} at {:?}: {:#?}", board.reading, self.rack.now, self.plan.account);
        }
    }

    fn writes_are_right(&mut self, before: &powercap_actuator::node::observation::Observation, plan: &Plan) {
        for write in &plan.boards {
            let seen = before.boards.iter().find(|board| board.traits.uuid == write.uuid).unwrap();
            let shown = seen.reading.and_then(|reading| reading.limit);
            let readable = seen.age <= STALE_AFTER && !seen.out_of_reach();
            // A raise that is still on its way may be lowered before it shows.
            let before = shown.max(self.written.get(&write.uuid).copied());
            let raise = write.limit.zip(before).is_some_and(|(limit, before)| limit > before);
            if let Some(limit) = write.limit {
                self.written.insert(Arc::clone(&write.uuid), limit);
            }
            if !readable {
                assert!(!raise && shown.is_some(), "a raise out of silence: {write:?}");
                assert!(write.lock.is_none(), "{write:?}");
            }
            if let Some(ClockLock::UpTo(ceiling)) = write.lock {
                let grid = seen.traits.clocks.as_ref().unwrap();
                assert_eq!(grid.snap_down(ceiling), ceiling, "off the grid: {write:?}");
            }
            if let Some(limit) = write.limit {
                let takes = seen.traits.min_limit..=seen.traits.max_limit;
                assert!(takes.contains(&limit), "out of its range: {write:?}");
            }
            if raise {
                let last = self.raised.insert(Arc::clone(&write.uuid), self.rack.now);
                let pause = last.map(|last| self.rack.now.saturating_sub(last));
                assert!(pause.is_none_or(|pause| pause >= Duration::from_millis(300)), "{pause:?}: {write:?}");
            }
        }
    }
}

fn run(seed: u64, episodes: u64) -> Score {
    let mut score = Score::default();
    for episode in 0..episodes {
        let seed = seed.wrapping_add(episode);
        let mut failing = Noted { seed, passed: false };
        let mut episode = Episode::new(seed);
        for _ in 0..TICKS {
            episode.tick(&mut score);
        }
        failing.passed = true;
    }
    score
}

/// Tells the seed of an episode that panics.
struct Noted {
    seed: u64,
    passed: bool,
}

impl Drop for Noted {
    fn drop(&mut self) {
        if !self.passed {
            eprintln!("failed with POWERCAP_SEED={}", self.seed);
        }
    }
}

#[test]
fn a_million_steps_stay_inside_the_envelope() {
    if let Ok(seed) = std::env::var("POWERCAP_SEED") {
        run(seed.parse().unwrap(), 1);
        return;
    }
    for seed in FINDS {
        run(seed, 1);
    }
    let now = std::time::UNIX_EPOCH.elapsed().unwrap().as_nanos();
    let seed = u64::try_from(now & u128::from(u32::MAX)).unwrap() << 20;
    eprintln!("seeds {seed} to {}", seed + EPISODES - 1);
    let halves = [seed, seed + EPISODES / 2].map(|seed| std::thread::spawn(move || run(seed, EPISODES / 2)));
    let scores = halves.map(|half| half.join().expect("an episode failed"));
    let sum = |of: fn(&Score) -> u64| scores.iter().map(of).sum::<u64>();
    let (ticks, judged) = (sum(|score| score.ticks), sum(|score| score.judged));
    let floor = sum(|score| score.judged_floor);
    let seconds = TICK.as_secs_f64() * ticks as f64;
    eprintln!(
        "{ticks} steps ({seconds} s), {judged} judged within the envelope and {floor} below the floor, {} restarts, {} faults, {} board ticks yielded",
        sum(|score| score.restarts),
        sum(|score| score.faults),
        sum(|score| score.yielded)
    );
    assert_eq!(ticks, EPISODES * TICKS);
    assert!((judged + floor) * 5 > ticks * 3, "{judged} and {floor} of {ticks} were judged: the test excuses too much");
    assert!(sum(|score| score.yielded) > 0 && sum(|score| score.restarts) > 100);
}
