//! The clock ceilings of a policy's devices.
//!
//! Where the algorithm treats all alike they share one, which fits all of them together below the capping
//! threshold. Where it does not, each device (each group) has its own, which fits it within its share of the
//! threshold: who comes first, or draws more, is slowed less. One that stands far below its share then rises
//! between the thresholds too: shares move, and all others stay within theirs.

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};
use powercap_common::units::{Megahertz, Watts};

use super::{
    ceiling::{self, Loaded, Pressure, Range},
    claims::Device,
    fleet::{self, Board},
    policy::PolicyView,
    readings::Readings,
};

/// Power and clock of one scrape; further apart they are of two.
const SAME_MOMENT: SignedDuration = SignedDuration::from_secs(1);
/// A board whose agent has not told: the lowest clock and idle power of those that we know.
const UNKNOWN_LOWEST: Megahertz = Megahertz::new(210);
/// A ceiling of a device's own rises when that device could clock this much higher within its share.
const ROOMY: f64 = 1.1;
pub const UNKNOWN_IDLE: Watts = Watts::new(70);

/// Devices that are held to one clock.
pub struct Set {
    /// By their place among the policy's devices.
    pub members: Vec<usize>,
    /// What they may draw together at the threshold.
    pub target: Watts,
    /// The ceiling that they have now.
    pub present: Option<Megahertz>,
}

/// The ceilings of a policy's devices.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ceilings {
    /// The lowest of them.
    pub lowest: Option<Megahertz>,
    /// Each device's own, by the board's place; `None` where one does for all.
    own: Option<BTreeMap<usize, Megahertz>>,
}

impl Ceilings {
    /// The ceiling of one device.
    pub fn of(&self, board: &Board<'_>) -> Option<Megahertz> {
        self.own.as_ref().map_or(self.lowest, |own| own.get(&board.at).copied())
    }

    fn of_sets(devices: &[Device<'_>], sets: &[Set], ceiling: impl Fn(&Set) -> Option<Megahertz>) -> Self {
        let ceilings: Vec<_> = sets.iter().map(ceiling).collect();
        let lowest = ceilings.iter().flatten().min().copied();
        if let [set] = sets
            && set.members.len() == devices.len()
        {
            return Self { lowest, own: None };
        }
        let members = sets.iter().zip(ceilings).filter_map(|(set, ceiling)| Some((set, ceiling?)));
        let own = members.flat_map(|(set, ceiling)| set.members.iter().map(move |&at| (devices[at].board.at, ceiling)));
        Self { lowest, own: Some(own.collect()) }
    }
}

/// What the devices of one policy are slowed by.
pub struct Throttle<'a> {
    /// The policy's devices.
    pub devices: &'a [Device<'a>],
    /// Those that are held to one clock; each device is in one.
    pub sets: Vec<Set>,
}

impl Throttle<'_> {
    /// As they are now.
    pub fn present(&self) -> Ceilings {
        Ceilings::of_sets(self.devices, &self.sets, |set| set.present)
    }

    /// Whether none of the devices may be held lower; where there is none, nothing can be.
    pub fn is_at_floor(&self, ceilings: &Ceilings) -> bool {
        self.sets.iter().all(|set| {
            let range = range(self.devices, &set.members);
            let ceiling = set.members.first().map(|&at| ceilings.of(self.devices[at].board));
            ceiling.is_none_or(|ceiling| ceiling.unwrap_or(range.highest) <= range.lowest)
        })
    }

    /// As they are to be, given each device's power and clock. `settled`: those are of after the last change, and
    /// beyond doubt.
    pub fn next(&self, pressure: Pressure, loads: &[Loaded], settled: bool) -> Ceilings {
        Ceilings::of_sets(self.devices, &self.sets, |set| {
            let range = range(self.devices, &set.members);
            if set.members.len() == loads.len() {
                return ceiling::next(set.present, pressure, loads, set.target, range);
            }
            let loads: Vec<_> = set.members.iter().map(|&at| loads[at]).collect();
            let roomy = |present: Megahertz| {
                let fitting = ceiling::highest_within(&loads, set.target, range);
                fitting >= present.scaled(ROOMY).min(range.highest)
            };
            let rises = settled && set.present.is_some_and(roomy);
            let pressure = match pressure {
                Pressure::Lower | Pressure::Hold if rises => Pressure::Relax,
                pressure => pressure,
            };
            ceiling::next(set.present, pressure, &loads, set.target, range)
        })
    }
}

/// The lowest ceiling that the policy wrote to these boards.
pub fn written<'a>(boards: impl IntoIterator<Item = &'a Board<'a>>, set_by: &str) -> Option<Megahertz> {
    let written = boards.into_iter().filter_map(|board| board.ceiling);
    let written = written.filter(|(_, gpu)| gpu.set_by == set_by).filter_map(|(_, gpu)| gpu.max_graphics_megahertz);
    written.min().map(Megahertz::new)
}

/// Power and clock of every device of the same moment, and the oldest of these moments; `None` unless
/// all of them are recent.
pub fn loads(view: &PolicyView<'_>, readings: &Readings<'_>) -> Option<(Vec<Loaded>, Timestamp)> {
    let loaded = |board: &&Board<'_>| {
        let counted = readings.of_board(board).ok()?;
        let (power, clock) = (counted.power, counted.clock?);
        let usable = power.at.duration_since(clock.at).abs() <= SAME_MOMENT;
        let idle = board.told.map_or(UNKNOWN_IDLE, fleet::idle);
        let most = board.told.map(|told| Watts::new(told.max_power_limit_watts)).filter(|most| *most > idle);
        usable.then_some((Loaded { power: power.value, clock: clock.value, idle, most }, power.at))
    };
    let loads: Vec<_> = view.devices.iter().map(loaded).collect::<Option<_>>()?;
    let oldest = loads.iter().map(|(_, at)| *at).min()?;
    Some((loads.into_iter().map(|(load, _)| load).collect(), oldest))
}

/// The clocks that these devices can be held to, by the strictest of their floors. While no agent has told the
/// highest, no ceiling is taken off.
fn range(devices: &[Device<'_>], members: &[usize]) -> Range {
    let devices = || members.iter().map(|&at| &devices[at]);
    let known = || devices().filter_map(|device| device.board.told.filter(|board| board.max_graphics_megahertz > 0));
    let lowest = known().map(|board| board.min_graphics_megahertz).max().map_or(UNKNOWN_LOWEST, Megahertz::new);
    let highest = known().map(|board| board.max_graphics_megahertz).max();
    Range {
        lowest: devices().filter_map(|device| device.lowest_by_floor).fold(lowest, Megahertz::max),
        highest: highest.map_or(Megahertz::new(100_000), Megahertz::new),
    }
}
