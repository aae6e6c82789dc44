//! Writes to a board, looks at what comes of it, and puts everything back.
//!
//! What must hold: no limit is set above the one that was in force, so that nothing is raised under
//! somebody's cap; `Originals` puts the limit back and takes locks off when it goes out of scope,
//! whatever happened before.

use std::{
    thread,
    time::{Duration, Instant},
};

use nvml_wrapper::{Device, Nvml};
use powercap_common::units::{Megahertz, Watts};

use super::Stop;
use crate::{
    conformance::{
        finding::Answer,
        measured::{BoardWritten, LimitTry, LockTry, ParallelWrites, RefusalTry},
    },
    devices::{Board, DeviceError, nvml::NvmlBoard, nvml_facts as facts},
    hardware::ClockGrid,
};

/// A board that does not do what it took within this time does not do it.
const PATIENCE: Duration = Duration::from_secs(2);
/// What a lock needs to show.
const SETTLING: Duration = Duration::from_millis(300);
/// Power may ripple above a limit that holds.
const RIPPLE_PERCENT: u32 = 103;

/// What a board had before, put back at the end.
struct Originals<'device, 'nvml> {
    device: &'device mut Device<'nvml>,
    limit: Watts,
    locked: bool,
}

impl Originals<'_, '_> {
    fn put_back(&mut self) -> Answer<()> {
        let unlocked = if self.locked {
            self.device
                .reset_gpu_locked_clocks()
                .map_err(|error| DeviceError::Failed { action: "reset the graphics clocks", why: error.to_string() })
        } else {
            Ok(())
        };
        self.locked = false;
        let limit_mw = u32::try_from(self.limit.as_milliwatts()).unwrap_or(u32::MAX);
        // Always: a limit takes effect late, so that one which reads as before may still be on its way.
        unlocked.and(facts::ask_limit_mw(self.device, limit_mw))
    }
}

impl Drop for Originals<'_, '_> {
    fn drop(&mut self) {
        if let Err(error) = self.put_back() {
            tracing::error!(%error, limit = %self.limit, "a board's settings could not be put back: set its limit and reset its clocks by hand");
        }
    }
}

/// Tries locks, a limit and what should be refused on the board with this index.
///
/// # Errors
/// When the board does not say what is to be put back: then nothing is written.
pub fn write(nvml: &Nvml, index: u32, stop: &Stop) -> Answer<BoardWritten> {
    let mut device = nvml
        .device_by_index(index)
        .map_err(|error| DeviceError::Failed { action: "open the board", why: error.to_string() })?;
    let mut board = NvmlBoard::open(nvml, index)?;
    let before = facts::limit_set(&device)?;
    let (low, high) = facts::limit_range(&device)?;
    let busy_percent = facts::busy_percent(&device).unwrap_or(0);
    let mut originals = Originals { device: &mut device, limit: before, locked: false };
    let grid = board.traits().clocks.clone();

    let (mut locks, mut reset, mut off_grid) = (Vec::new(), None, None);
    if let Some(grid) = &grid {
        originals.locked = true;
        locks = ceilings(grid).into_iter().map(|ceiling| lock(&mut board, ceiling, stop)).collect();
        off_grid = between_clocks(originals.device, &mut board, grid, stop);
        reset = Some(unlock(&mut board, grid, stop));
        originals.locked = reset.as_ref().is_some_and(|(answer, _)| answer.is_err());
    }
    let limit = (before > low && !stop.asked()).then(|| lower(&mut board, before, low, stop));
    let refusals = if stop.asked() { Vec::new() } else { out_of_range(originals.device, low, high) };
    let put_back = originals.put_back();
    drop(originals);
    // Limits take effect late, and being late is no fault here.
    stop.until(SETTLING, || facts::limit_set(&device).is_ok_and(|limit| limit == before));
    let restored = put_back.and_then(|()| Ok((before, facts::limit_set(&device)?)));
    Ok(BoardWritten { busy_percent, locks, reset, off_grid, limit, refusals, restored })
}

/// Three ceilings, the highest first: three, two and one quarter of the range.
fn ceilings(grid: &ClockGrid) -> [Megahertz; 3] {
    let (low, high) = (grid.lowest().get(), grid.highest().get());
    [3, 2, 1].map(|quarters| grid.snap_down(Megahertz::new(low + (high - low) / 4 * quarters)))
}

fn lock(board: &mut NvmlBoard<'_>, ceiling: Megahertz, stop: &Stop) -> LockTry {
    let now = |board: &mut NvmlBoard<'_>| board.read_clock().ok().flatten();
    let before = now(board);
    let taken = board.lock_clocks(ceiling);
    let patience = if taken.is_ok() { PATIENCE } else { Duration::ZERO };
    let reached = stop.until(patience, || now(board).is_some_and(|clock| clock <= ceiling));
    LockTry { ceiling, taken, before, after: now(board), reached }
}

fn unlock(board: &mut NvmlBoard<'_>, grid: &ClockGrid, stop: &Stop) -> (Answer<()>, Option<Duration>) {
    let [_, _, lowest] = ceilings(grid);
    let answer = board.unlock_clocks();
    let patience = if answer.is_ok() { PATIENCE } else { Duration::ZERO };
    let risen =
        stop.until(patience, || board.read_clock().is_ok_and(|clock| clock.is_some_and(|clock| clock > lowest)));
    (answer, risen)
}

/// A ceiling just above a clock of the grid: what a driver does with it is up to it.
fn between_clocks(
    device: &mut Device<'_>,
    board: &mut NvmlBoard<'_>,
    grid: &ClockGrid,
    stop: &Stop,
) -> Option<(Megahertz, Answer<()>, Option<Megahertz>)> {
    let [_, middle, _] = ceilings(grid);
    let asked = Megahertz::new(middle.get() + 1);
    if grid.snap_down(asked) == asked || stop.asked() {
        return None;
    }
    let answer = facts::ask_range(device, grid.lowest(), asked);
    stop.wait(SETTLING);
    Some((asked, answer, board.read_clock().ok().flatten()))
}

/// A tenth below the present limit, and lower where the board draws less than that anyway.
fn lower(board: &mut NvmlBoard<'_>, present: Watts, lowest: Watts, stop: &Stop) -> LimitTry {
    let power_before = board.read_power().ok();
    let tenth_below = present.percent(90).min(power_before.unwrap_or(present).percent(90));
    let limit = Watts::from_milliwatts(tenth_below.max(lowest).as_milliwatts() / 1000 * 1000);
    let limit = limit.max(lowest);
    let taken = board.set_limit(limit);
    let patience = if taken.is_ok() { PATIENCE } else { Duration::ZERO };
    let seen = stop.until(patience, || board.read_limit().is_ok_and(|read| read.is_some_and(|read| read <= limit)));
    let bound = limit.percent(RIPPLE_PERCENT);
    let power_below = stop.until(patience, || board.read_power().is_ok_and(|power| power <= bound));
    let power_below = power_below.map(|below| below + seen.unwrap_or_default());
    LimitTry { limit, taken, seen, enforced: board.read_limit().ok().flatten(), power_before, power_below }
}

fn out_of_range(device: &mut Device<'_>, low: Watts, high: Watts) -> Vec<RefusalTry> {
    let raw = |limit: Watts| u32::try_from(limit.as_milliwatts()).unwrap_or(u32::MAX);
    let asked = [
        ("a limit of zero", 0),
        ("a limit 1 W below the lowest", raw(low).saturating_sub(1000)),
        ("a limit 1 W above the highest", raw(high).saturating_add(1000)),
    ];
    asked
        .into_iter()
        .map(|(what, limit_mw)| RefusalTry { what: what.to_owned(), answer: facts::ask_limit_mw(device, limit_mw) })
        .collect()
}

/// Sets every board's limit to what it is, one after the other and all at once: nothing changes, and
/// the driver works as for a change.
pub fn parallel(nvml: &Nvml, boards: u32) -> Option<ParallelWrites> {
    let mut opened: Vec<_> = (0..boards).filter_map(|index| nvml.device_by_index(index).ok()).collect();
    let mut limits = Vec::new();
    for device in &opened {
        limits.push(u32::try_from(facts::limit_set(device).ok()?.as_milliwatts()).ok()?);
    }
    if opened.len() < 2 {
        return None;
    }
    let begin = Instant::now();
    for (device, limit_mw) in opened.iter_mut().zip(&limits) {
        facts::ask_limit_mw(device, *limit_mw).ok()?;
    }
    let in_turn = begin.elapsed();
    let begin = Instant::now();
    let taken = thread::scope(|scope| {
        let writes: Vec<_> = opened
            .iter_mut()
            .zip(&limits)
            .map(|(device, limit_mw)| scope.spawn(|| facts::ask_limit_mw(device, *limit_mw).is_ok()))
            .collect();
        writes.into_iter().all(|write| write.join().unwrap_or(false))
    });
    let at_once = begin.elapsed();
    taken.then_some(ParallelWrites { boards: opened.len(), in_turn, at_once })
}
