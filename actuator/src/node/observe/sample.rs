//! A board's thread: reads it twenty times a second, and carries out orders as they come.
//!
//! What must hold: power is read last, so that the loop acts on it within the moment; an order is begun
//! at once, clocks before the limit, and followed by a reading, so that the loop sees what came of it; a
//! newer order comes before all reading, since on a board whose calls take 15 ms that would delay it by 75;
//! a board that was lost is not asked again, and one that fails is asked ever more rarely.

use std::{
    sync::atomic::Ordering,
    time::{Duration, Instant},
};

use powercap_common::{reason::Reason, units::Watts};
use tokio::sync::Notify;

use super::{BoardChannel, Latest, lock};
use crate::{
    devices::{Board, DeviceError},
    hardware::{BoardReading, ClockLock, Fault, Knob},
    node::{
        decide::BoardWrite,
        metrics::{Metrics, WriteKind},
    },
};

/// The limit changes by our orders and rarely otherwise: it is read after each order, and this often.
const LIMIT_PERIOD: Duration = Duration::from_millis(500);
/// A limit that was accepted is looked for in every sample for so long.
const SHOWS_WITHIN: Duration = Duration::from_secs(1);
/// A board that fails is read this many times more rarely at the most: UNKNOWN and NOT_READY pass.
const MOST_PERIODS: u32 = 32;

/// How long after each reading an order is waited for: the loop answers in less, and on a slow board the
/// answer would otherwise find the next reading begun, and wait for all its calls.
const ANSWER: Duration = Duration::from_millis(10);

/// What a thread remembers of its board's orders.
#[derive(Default)]
struct Standing {
    limit: Option<Watts>,
    limit_read_at: Option<Instant>,
    /// A limit that was accepted and does not show yet, and since when.
    awaited: Option<(Watts, Instant)>,
    lock: ClockLock,
    clock_knob: Knob,
    limit_knob: Knob,
    executed: u64,
}

/// Reads the board every `period` and carries out its orders, until it is lost or to be left.
pub(super) fn run(board: &mut dyn Board, channel: &BoardChannel, alarm: &Notify, period: Duration, metrics: &Metrics) {
    let mut standing = Standing::taken_over(channel);
    let mut next = Instant::now();
    let mut periods = 1;
    while !channel.stopped() {
        let read = publish(channel, sample(board, &mut standing), alarm);
        if read != Read::Lost {
            channel.describe(|| board.profile());
        }
        periods = if read == Read::Failed { (periods * 2).min(MOST_PERIODS) } else { 1 };
        next = (next + period * periods).max(Instant::now() + ANSWER);
        let mut lost = read == Read::Lost;
        while !lost
            && !channel.stopped()
            && let Some(order) = channel.orders.take_until(next)
        {
            channel.journal.settle();
            carry_out(board, &order, &mut standing, metrics);
            if !channel.orders.waits() {
                lost = publish(channel, sample(board, &mut standing), alarm) == Read::Lost;
                next = next.max(Instant::now() + ANSWER);
            }
        }
        if lost {
            break;
        }
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
}

/// What came of a sample.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Read {
    Done,
    Failed,
    Lost,
}

fn sample(board: &mut dyn Board, standing: &mut Standing) -> Result<BoardReading, DeviceError> {
    if standing.awaited.is_some() || standing.limit_read_at.is_none_or(|at| at.elapsed() >= LIMIT_PERIOD) {
        standing.limit = board.read_limit()?;
        standing.limit_read_at = Some(Instant::now());
        standing.awaited =
            standing.awaited.filter(|(limit, since)| standing.limit != Some(*limit) && since.elapsed() < SHOWS_WITHIN);
    }
    let clock = board.read_clock()?;
    let power = board.read_power()?;
    Ok(BoardReading {
        power,
        clock,
        limit: standing.limit,
        lock: standing.lock,
        clock_knob: standing.clock_knob,
        limit_knob: standing.limit_knob,
        executed: standing.executed,
    })
}

fn publish(channel: &BoardChannel, sampled: Result<BoardReading, DeviceError>, alarm: &Notify) -> Read {
    // Of a board that was let go meanwhile nothing is said.
    if channel.is_out_of_reach() {
        return Read::Lost;
    }
    match sampled {
        Ok(reading) => {
            *lock(&channel.latest) = Latest { reading: Some((reading, Instant::now())), fault: None };
            if channel.alarms(reading.power) {
                alarm.notify_one();
            }
            Read::Done
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
fn carry_out(board: &mut dyn Board, order: &BoardWrite, standing: &mut Standing, metrics: &Metrics) {
    let uuid = order.uuid.clone();
    let reason = order.reason;
    if let Some(lock) = order.lock {
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
                tracing::debug!(%uuid, number = order.number, requested = ?lock, %reason, "wrote the range of clocks");
            }
            Err(error) => {
                tracing::warn!(%uuid, number = order.number, requested = ?lock, %reason, %error, "the range of clocks was refused");
            }
        }
    }
    if let Some(limit) = order.limit {
        let result = board.set_limit(limit);
        standing.limit_knob = knob(&result);
        metrics.wrote(WriteKind::PowerLimit, &result);
        match result {
            Ok(()) => {
                tracing::debug!(%uuid, number = order.number, requested = %limit, %reason, "wrote the power limit");
                // A limit takes effect late: until it shows, every sample looks for it.
                standing.awaited = Some((limit, Instant::now()));
            }
            Err(error) => {
                tracing::warn!(%uuid, number = order.number, requested = %limit, %reason, %error, "the power limit was refused");
                standing.limit_read_at = None;
            }
        }
    }
    standing.executed = order.number;
}

pub(super) fn knob(result: &Result<(), DeviceError>) -> Knob {
    result.as_ref().err().map_or(Knob::Works, DeviceError::knob)
}
