//! A board's thread: reads it when its sensor has news, and carries out orders as they come.
//!
//! What must hold: power is read last, so that the loop acts on it within the moment, and the limit when
//! nobody waits; an order is begun at once, clocks before the limit, and followed by a reading, so that the
//! loop sees what came of it; a newer order comes before all reading, and its clocks before an older limit,
//! since on a board whose calls take 15 ms these would delay it by 60; a board that was lost is not asked
//! again, and one that fails is asked ever more rarely.

use std::{
    sync::atomic::Ordering,
    time::{Duration, Instant},
};

use powercap_common::{
    reason::Reason,
    units::{Megahertz, Watts},
};
use tokio::sync::Notify;

use super::{BoardChannel, Latest, lock, rhythm::Rhythm};
use crate::{
    devices::{Board, DeviceError},
    hardware::{BoardReading, ClockLock, Fault, Knob},
    node::{
        decide::BoardWrite,
        metrics::{Metrics, WriteKind},
    },
};

/// The limit changes by our orders and rarely otherwise: it is read after each order, and with the first
/// sample after so long.
const LIMIT_PERIOD: Duration = Duration::from_millis(450);
/// A limit that was accepted takes a moment to show, and is looked for this often for so long.
const SHOWS_AFTER: Duration = Duration::from_millis(40);
const SHOWS_WITHIN: Duration = Duration::from_secs(1);
/// A board that fails is read this many times more rarely at the most: UNKNOWN and NOT_READY pass.
const MOST_PERIODS: u32 = 32;

/// How long after each reading an order is waited for: the loop answers in less, and on a slow board the
/// answer would otherwise find the next reading begun, and wait for all its calls.
const ANSWER: Duration = Duration::from_millis(10);

/// What a thread remembers of its board's orders.
#[derive(Default)]
struct Standing {
    clock: Option<Megahertz>,
    limit: Option<Watts>,
    limit_found: Option<Watts>,
    /// When the limit is to be read next; `None`: before anything is told.
    limit_at: Option<Instant>,
    /// A limit that was accepted and does not show yet, and since when.
    awaited: Option<(Watts, Instant)>,
    lock: ClockLock,
    clock_knob: Knob,
    limit_knob: Knob,
    executed: u64,
}

/// Reads the board, every `period` where its sensor has no rhythm of twice as much, and carries out its
/// orders, until it is lost or to be left.
pub(super) fn run(board: &mut dyn Board, channel: &BoardChannel, alarm: &Notify, period: Duration, metrics: &Metrics) {
    let mut standing = Standing::taken_over(channel);
    let mut rhythm = Rhythm::new(period);
    let mut next = Instant::now();
    let mut periods = 1;
    while !channel.stopped() {
        let read = if let Some(order) = channel.orders.take_until(standing.limit_or(next)) {
            channel.journal.settle();
            carry_out(board, channel, order, &mut standing, metrics);
            if channel.orders.waits() {
                continue;
            }
            let read = publish(channel, sample(board, Clock::New, &mut standing), alarm);
            next = next.max(Instant::now() + ANSWER);
            read
        } else if Instant::now() >= next {
            let began = Instant::now();
            // A moment after the last sample only the power can be another; on a slow board news waits for each call.
            let clock = if rhythm.retries() { Clock::Last } else { Clock::New };
            let sampled = sample(board, clock, &mut standing);
            let read_at = Instant::now();
            let power = sampled.as_ref().ok().map(|reading| reading.power);
            let read = publish(channel, sampled, alarm);
            periods = if power.is_some() { 1 } else { (periods * 2).min(MOST_PERIODS) };
            // A sample ends with its power: it begins as much earlier as this one took.
            let due = power.map(|power| rhythm.after(read_at, power) - (read_at - began));
            next = due.unwrap_or_else(|| rhythm.lost(began) + period * (periods - 1)).max(read_at + ANSWER);
            if read == Read::Quiet && standing.limit_due() {
                show_limit(board, channel, &mut standing, alarm)
            } else {
                read
            }
        } else {
            show_limit(board, channel, &mut standing, alarm)
        };
        if read == Read::Lost {
            break;
        }
        channel.describe(|| board.profile());
    }
    channel.held.store(false, Ordering::Release);
}

impl Standing {
    /// Takes over from a thread that ended because NVML was closed for a moment.
    fn taken_over(channel: &BoardChannel) -> Self {
        let Some(reading) = lock(&channel.latest).value() else { return Self::default() };
        Self {
            lock: reading.lock,
            clock_knob: reading.clock_knob,
            limit_knob: reading.limit_knob,
            executed: reading.executed,
            ..Self::default()
        }
    }

    /// When to go on without an order: a limit that is awaited does not wait for the next sample.
    fn limit_or(&self, next: Instant) -> Instant {
        self.awaited.and(self.limit_at).map_or(next, |at| at.min(next))
    }

    fn limit_due(&self) -> bool {
        self.limit_at.is_none_or(|at| at <= Instant::now())
    }

    fn read_limit(&mut self, board: &mut dyn Board) -> Result<(), DeviceError> {
        // Without it nothing more is told.
        self.limit_at = None;
        let limit = board.read_limit()?;
        if self.executed == 0 && (limit != self.limit || self.limit_found.is_none()) {
            self.limit_found = board.read_limit_set()?;
        }
        self.limit = limit;
        self.awaited =
            self.awaited.filter(|(limit, since)| self.limit != Some(*limit) && since.elapsed() < SHOWS_WITHIN);
        self.limit_at = Some(Instant::now() + if self.awaited.is_some() { SHOWS_AFTER } else { LIMIT_PERIOD });
        Ok(())
    }
}

/// Which clock a sample tells.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Clock {
    New,
    /// That of the last sample.
    Last,
}

fn sample(board: &mut dyn Board, clock: Clock, standing: &mut Standing) -> Result<BoardReading, DeviceError> {
    if standing.limit_at.is_none() {
        standing.read_limit(board)?;
    }
    if clock == Clock::New {
        standing.clock = board.read_clock()?;
    }
    let power = board.read_power()?;
    Ok(BoardReading {
        power,
        clock: standing.clock,
        limit: standing.limit,
        limit_found: standing.limit_found,
        lock: standing.lock,
        clock_knob: standing.clock_knob,
        limit_knob: standing.limit_knob,
        executed: standing.executed,
    })
}

/// Reads the limit and puts it into the last reading.
fn show_limit(board: &mut dyn Board, channel: &BoardChannel, standing: &mut Standing, alarm: &Notify) -> Read {
    match standing.read_limit(board) {
        Ok(()) => {
            if let Some((reading, _)) = &mut lock(&channel.latest).reading {
                (reading.limit, reading.limit_found) = (standing.limit, standing.limit_found);
            }
            Read::Quiet
        }
        Err(error) => publish(channel, Err(error), alarm),
    }
}

/// What came of a sample.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Read {
    Quiet,
    /// The loop was woken, and answers in a moment.
    Alarm,
    Failed,
    Lost,
}

fn publish(channel: &BoardChannel, sampled: Result<BoardReading, DeviceError>, alarm: &Notify) -> Read {
    // Of a board that was let go meanwhile nothing is said.
    if channel.is_out_of_reach() {
        return Read::Lost;
    }
    match sampled {
        Ok(reading) => {
            *lock(&channel.latest) = Latest { reading: Some((reading, Instant::now())), fault: None };
            if !channel.alarms(reading.power) {
                return Read::Quiet;
            }
            alarm.notify_one();
            Read::Alarm
        }
        Err(error @ DeviceError::Lost { .. }) => {
            tracing::error!(uuid = %channel.traits.uuid, %error, "a board was lost; it counts with the most that it takes");
            channel.out_of_reach(Reason::Quarantined, error.to_string());
            alarm.notify_one();
            Read::Lost
        }
        Err(error) => {
            let mut latest = lock(&channel.latest);
            if latest.fault.is_none() {
                tracing::warn!(uuid = %channel.traits.uuid, %error, "a board could not be read");
            }
            latest.fault = Some(fault(&error));
            Read::Failed
        }
    }
}

pub(super) fn fault(error: &DeviceError) -> Fault {
    let reason = match error {
        DeviceError::Denied { .. } => Reason::PermissionDenied,
        DeviceError::Unsupported { .. } => Reason::Unsupported,
        DeviceError::Lost { .. } => Reason::Quarantined,
        DeviceError::Failed { .. } => Reason::ReadFailed,
    };
    Fault { reason, message: error.to_string() }
}

/// Writes what the order says; afterwards the limit is due to be read.
fn carry_out(
    board: &mut dyn Board,
    channel: &BoardChannel,
    mut order: BoardWrite,
    standing: &mut Standing,
    metrics: &Metrics,
) {
    while let Some(lock) = order.lock.take() {
        write_lock(board, lock, &order, standing, metrics);
        if let Some(newer) = channel.orders.take() {
            order.supersede(newer);
        }
    }
    if let Some(limit) = order.limit {
        write_limit(board, limit, &order, standing, metrics);
    }
    standing.executed = order.number;
}

fn write_lock(board: &mut dyn Board, lock: ClockLock, order: &BoardWrite, standing: &mut Standing, metrics: &Metrics) {
    let (uuid, number, reason) = (&order.uuid, order.number, order.reason);
    let result = match lock {
        ClockLock::UpTo(ceiling) => board.lock_clocks(ceiling),
        ClockLock::Off => board.unlock_clocks(),
        ClockLock::Unknown => Ok(()),
    };
    standing.clock_knob = knob(&result);
    metrics.wrote(WriteKind::GraphicsClock, &result);
    match result {
        Ok(()) => {
            standing.lock = lock;
            tracing::debug!(%uuid, number, requested = ?lock, %reason, "wrote the range of clocks");
        }
        Err(error) => {
            tracing::warn!(%uuid, number, requested = ?lock, %reason, %error, "the range of clocks was refused");
        }
    }
}

fn write_limit(board: &mut dyn Board, limit: Watts, order: &BoardWrite, standing: &mut Standing, metrics: &Metrics) {
    let (uuid, number, reason) = (&order.uuid, order.number, order.reason);
    let result = board.set_limit(limit);
    standing.limit_knob = knob(&result);
    metrics.wrote(WriteKind::PowerLimit, &result);
    match result {
        Ok(()) => {
            tracing::debug!(%uuid, number, requested = %limit, %reason, "wrote the power limit");
            let now = Instant::now();
            standing.awaited = Some((limit, now));
            standing.limit_at = Some(now + SHOWS_AFTER);
        }
        Err(error) => {
            tracing::warn!(%uuid, number, requested = %limit, %reason, %error, "the power limit was refused");
            standing.limit_at = None;
        }
    }
}

pub(super) fn knob(result: &Result<(), DeviceError>) -> Knob {
    result.as_ref().err().map_or(Knob::Works, DeviceError::knob)
}
