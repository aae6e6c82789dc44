//! A board's thread: reads it ten times a second, and carries out orders as they come.
//!
//! What must hold: power is read last, so that the loop acts on it within the moment; an order is begun
//! at once, clocks before the limit, and followed by a reading, so that the loop sees what came of it.

use std::time::{Duration, Instant};

use powercap_common::{reason::Reason, units::Watts};
use tokio::sync::Notify;

use super::{BoardChannel, lock};
use crate::{
    devices::{Board, DeviceError},
    hardware::{BoardReading, ClockLock, Fault, Knob},
    node::{
        decide::BoardWrite,
        metrics::{Metrics, WriteKind},
    },
};

/// The limit changes by our orders and rarely otherwise: it is read after each order, and this often.
const LIMIT_PERIOD: Duration = Duration::from_secs(1);

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

/// Reads the board every `period` and carries out its orders, for ever.
pub(super) fn run(board: &mut dyn Board, channel: &BoardChannel, alarm: &Notify, period: Duration, metrics: &Metrics) {
    let mut standing = Standing::default();
    let mut next = Instant::now();
    loop {
        let sampled = sample(board, &mut standing);
        publish(channel, sampled, alarm);
        channel.describe(|| board.profile());
        next = (next + period).max(Instant::now());
        while let Some(order) = channel.orders.take_until(next) {
            carry_out(board, &order, &mut standing, metrics);
            publish(channel, sample(board, &mut standing), alarm);
        }
    }
}

fn sample(board: &mut dyn Board, standing: &mut Standing) -> Result<BoardReading, DeviceError> {
    if standing.awaited.is_some() || standing.limit_read_at.is_none_or(|at| at.elapsed() >= LIMIT_PERIOD) {
        standing.limit = board.read_limit()?;
        standing.limit_read_at = Some(Instant::now());
        standing.awaited =
            standing.awaited.filter(|(limit, since)| standing.limit != Some(*limit) && since.elapsed() < LIMIT_PERIOD);
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

fn publish(channel: &BoardChannel, sampled: Result<BoardReading, DeviceError>, alarm: &Notify) {
    let mut latest = lock(&channel.latest);
    match sampled {
        Ok(reading) => {
            latest.reading = Some((reading, Instant::now()));
            latest.fault = None;
            drop(latest);
            if channel.alarms(reading.power) {
                alarm.notify_one();
            }
        }
        Err(error) => {
            if latest.fault.is_none() {
                tracing::warn!(uuid = %channel.traits.uuid, %error, "a board could not be read");
            }
            latest.fault = Some(fault(&error));
        }
    }
}

pub(super) fn fault(error: &DeviceError) -> Fault {
    let reason = match error {
        DeviceError::Denied { .. } => Reason::PermissionDenied,
        DeviceError::Unsupported { .. } => Reason::Unsupported,
        DeviceError::Lost { .. } | DeviceError::Failed { .. } => Reason::ReadFailed,
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
                let effective = board.read_clock().ok().flatten().map(|clock| clock.get());
                tracing::debug!(%uuid, number = order.number, requested = ?lock, effective_mhz = effective, %reason, "wrote the range of clocks");
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
                let effective = board.read_limit().ok().flatten().map(Watts::as_f64);
                tracing::debug!(%uuid, number = order.number, requested = %limit, effective_watts = effective, %reason, "wrote the power limit");
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
