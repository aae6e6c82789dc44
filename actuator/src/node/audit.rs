//! What is logged of each write to a device: pure.
//!
//! A write is told once it was read back, or a moment later with what is known by then. What must hold:
//! no write goes untold, and one device gives at most one line a second, however it hunts: a line says
//! how many writes it stands for, and between which values.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use powercap_common::{api::Epoch, reason::Reason, units::Watts};

use super::{
    decide::Plan,
    metrics::WriteKind,
    observation::{Observation, SeenBoard},
    orders::Orders,
};
use crate::hardware::{ClockLock, Knob};

/// A line for one device at most this often.
const LINE_PERIOD: Duration = Duration::from_secs(1);
/// Limits and clocks take effect late: so long they are waited for.
const PATIENCE: Duration = Duration::from_secs(1);
/// Then, or when newer writes follow and follow, a line is told with what is known.
const LONGEST_WAIT: Duration = Duration::from_secs(2);

/// One line: a write to a device, or several of the same kind. Watts or megahertz, by the kind.
#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    /// What was written.
    pub kind: WriteKind,
    /// The board's UUID, or how many cpufreq policies.
    pub device: String,
    /// What the orders ask for; none where the node agent itself chose.
    pub requested: Option<f64>,
    /// What was written last; none where a ceiling was taken off.
    pub written: Option<f64>,
    /// What was read back; none where nothing could be.
    pub effective: Option<f64>,
    /// The device took it.
    pub accepted: bool,
    /// Why.
    pub reason: Reason,
    /// Of the orders in force.
    pub epoch: Epoch,
    /// How many writes this stands for.
    pub writes: u32,
    /// The lowest of them.
    pub lowest: Option<f64>,
    /// The highest of them.
    pub highest: Option<f64>,
}

/// Writes that were not told yet, and when each device was told of last.
#[derive(Debug, Default)]
pub struct Audit {
    open: BTreeMap<(WriteKind, Device), Open>,
    told: BTreeMap<(WriteKind, Device), Duration>,
}

/// A board, or (`None`) the CPUs, which get the same ceiling at the same time.
type Device = Option<Arc<str>>;

#[derive(Debug)]
struct Open {
    since: Duration,
    last: Duration,
    /// By cpufreq policy, or the one of a board, the number of its last order.
    numbers: BTreeMap<u32, u64>,
    entry: Entry,
}

/// What a device says of a write.
struct Answer {
    carried_out: bool,
    accepted: bool,
    effective: Option<f64>,
    in_effect: bool,
}

impl Audit {
    /// Takes in a plan's writes and what the devices say, and gives the lines to be told now.
    pub fn next(&mut self, seen: &Observation, orders: Option<&Orders>, plan: &Plan) -> Vec<Entry> {
        self.take_in(seen.now, orders, plan);
        let now = seen.now;
        self.told.retain(|_, told| now.saturating_sub(*told) < LINE_PERIOD);
        let told = &self.told;
        let ready = |key: &(WriteKind, Device), open: &mut Open| {
            if told.contains_key(key) {
                return false;
            }
            let answer = open.answer(key, seen);
            open.entry.accepted = answer.accepted;
            open.entry.effective = answer.effective;
            let waited = now.saturating_sub(open.last) >= PATIENCE;
            (answer.carried_out && (answer.in_effect || !answer.accepted || waited))
                || now.saturating_sub(open.since) >= LONGEST_WAIT
        };
        let lines: Vec<_> = self.open.extract_if(.., ready).collect();
        self.told.extend(lines.iter().map(|(key, _)| (key.clone(), now)));
        lines.into_iter().map(|(_, open)| open.entry).collect()
    }

    fn take_in(&mut self, now: Duration, orders: Option<&Orders>, plan: &Plan) {
        let epoch = orders.map(|orders| orders.epoch).unwrap_or_default();
        for write in &plan.boards {
            let ceiling = orders.and_then(|orders| orders.boards.get(&write.uuid));
            let mut note = |kind, requested, written| {
                let entry = entry(kind, write.uuid.to_string(), requested, written, write.reason, epoch);
                self.note((kind, Some(Arc::clone(&write.uuid))), 0, write.number, entry, now);
            };
            if let Some(lock) = write.lock {
                let requested = ceiling.and_then(|ceiling| ceiling.clock).map(|clock| clock.get().into());
                note(WriteKind::GraphicsClock, requested, ceiling_of(lock));
            }
            if let Some(limit) = write.limit {
                let requested = ceiling.and_then(|ceiling| ceiling.limit).map(Watts::as_f64);
                note(WriteKind::PowerLimit, requested, Some(limit.as_f64()));
            }
        }
        for write in &plan.cpus {
            let requested = orders.and_then(|orders| orders.cpus.get(&write.policy));
            let requested = requested.map(|ceiling| ceiling.clock.get().into());
            let written = Some(write.ceiling.get().into());
            let entry = entry(WriteKind::CpuClock, String::new(), requested, written, write.reason, epoch);
            self.note((WriteKind::CpuClock, None), write.policy, write.number, entry, now);
        }
    }

    fn note(&mut self, key: (WriteKind, Device), part: u32, number: u64, entry: Entry, now: Duration) {
        match self.open.get_mut(&key) {
            Some(open) => {
                open.last = now;
                open.numbers.insert(part, number);
                let before = std::mem::replace(&mut open.entry, entry);
                open.entry.writes += before.writes;
                open.entry.lowest = both(before.lowest, open.entry.lowest, f64::min);
                open.entry.highest = both(before.highest, open.entry.highest, f64::max);
            }
            None => {
                let numbers = BTreeMap::from([(part, number)]);
                self.open.insert(key, Open { since: now, last: now, numbers, entry });
            }
        }
        if let Some(open) = self.open.get_mut(&(WriteKind::CpuClock, None)) {
            open.entry.device = format!("{} cpufreq policies", open.numbers.len());
        }
    }
}

impl Open {
    fn answer(&self, (kind, device): &(WriteKind, Device), seen: &Observation) -> Answer {
        match device {
            Some(uuid) => match seen.boards.iter().find(|board| board.traits.uuid == *uuid) {
                Some(board) => self.of_board(*kind, board),
                None => Answer { carried_out: false, accepted: false, effective: None, in_effect: false },
            },
            None => self.of_cpus(seen),
        }
    }

    fn of_board(&self, kind: WriteKind, board: &SeenBoard) -> Answer {
        let reading = board.fresh();
        let number = self.numbers.values().copied().max().unwrap_or_default();
        let (knob, effective) = match kind {
            WriteKind::PowerLimit => {
                let limit = reading.and_then(|reading| reading.limit).map(Watts::as_f64);
                (reading.map(|reading| reading.limit_knob), limit)
            }
            WriteKind::GraphicsClock | WriteKind::CpuClock => {
                let clock = reading.and_then(|reading| reading.clock).map(|clock| f64::from(clock.get()));
                (reading.map(|reading| reading.clock_knob), clock)
            }
        };
        let in_effect = match (kind, self.entry.written, effective) {
            (_, None, _) => true,
            (WriteKind::PowerLimit, Some(written), Some(effective)) => (written - effective).abs() < 0.5,
            (_, Some(written), Some(effective)) => effective <= written,
            (_, Some(_), None) => false,
        };
        Answer {
            carried_out: reading.is_some_and(|reading| reading.executed >= number),
            accepted: knob == Some(Knob::Works),
            effective,
            in_effect,
        }
    }

    fn of_cpus(&self, seen: &Observation) -> Answer {
        let mut answer = Answer { carried_out: true, accepted: true, effective: None, in_effect: true };
        for cpu in seen.cpus.iter().filter(|cpu| self.numbers.contains_key(&cpu.traits.policy)) {
            let number = self.numbers.get(&cpu.traits.policy).copied().unwrap_or_default();
            let Some(reading) = cpu.reading else {
                answer = Answer { carried_out: false, accepted: false, ..answer };
                continue;
            };
            let ceiling = f64::from(reading.ceiling.get());
            answer.carried_out &= reading.executed >= number;
            answer.accepted &= reading.knob == Knob::Works;
            answer.in_effect &= self.entry.written.is_none_or(|written| ceiling <= written);
            answer.effective = Some(answer.effective.map_or(ceiling, |highest: f64| highest.max(ceiling)));
        }
        answer
    }
}

const fn entry(
    kind: WriteKind,
    device: String,
    requested: Option<f64>,
    written: Option<f64>,
    reason: Reason,
    epoch: Epoch,
) -> Entry {
    let (lowest, highest) = (written, written);
    Entry {
        kind,
        device,
        requested,
        written,
        effective: None,
        accepted: false,
        reason,
        epoch,
        writes: 1,
        lowest,
        highest,
    }
}

fn ceiling_of(lock: ClockLock) -> Option<f64> {
    match lock {
        ClockLock::UpTo(ceiling) => Some(ceiling.get().into()),
        ClockLock::Off | ClockLock::Unknown => None,
    }
}

fn both(one: Option<f64>, other: Option<f64>, choose: fn(f64, f64) -> f64) -> Option<f64> {
    one.into_iter().chain(other).reduce(choose)
}
