//! Reads a board: what it is, its sensors over a few seconds, how long its calls take.

use std::{
    thread,
    time::{Duration, Instant},
};

use nvml_wrapper::{Device, Nvml};
use powercap_common::units::Watts;

use super::Stop;
use crate::{
    conformance::{
        finding::Answer,
        judge::boards::SAMPLE,
        measured::{BoardRead, Calls, Watched},
        series::Series,
    },
    devices::{Board, DeviceError, nvml::NvmlBoard, nvml_facts as facts},
};

/// Long enough for ten periods of a sensor after the longest average that is looked for.
const WATCH: Duration = Duration::from_millis(3500);
const POLL: Duration = Duration::from_millis(10);
/// Averages, energy and load are read every that many polls.
const SLOW_POLLS: usize = 5;
const MOST_CALLS: usize = 200;
const CALLS_TIME: Duration = Duration::from_millis(400);

/// Reads the board with this index.
///
/// # Errors
/// When NVML does not give the board at all.
pub fn read(nvml: &Nvml, index: u32, stop: &Stop) -> Answer<BoardRead> {
    let device = nvml
        .device_by_index(index)
        .map_err(|error| DeviceError::Failed { action: "open the board", why: error.to_string() })?;
    let mut opened = NvmlBoard::open(nvml, index);
    Ok(BoardRead {
        uuid: facts::uuid(&device),
        model: facts::model(&device),
        limit_range: facts::limit_range(&device),
        limit_default: facts::limit_default(&device),
        limit_set: facts::limit_set(&device),
        limit_enforced: facts::limit_enforced(&device),
        clocks: facts::clocks(&device),
        highest_clock: facts::highest_clock(&device),
        wrapper_clocks: facts::clocks_by_wrapper(&device),
        mig: facts::partitioned(&device),
        persistence: facts::persistent(&device),
        throttle_reasons: facts::throttle_reasons(&device),
        watched: watch(&device, stop),
        calls: opened.as_mut().map_or_else(|_| Vec::new(), |board| calls(board, &device, stop)),
        clock: opened.as_mut().map_or(Ok(None), Board::read_clock),
        opened: opened.map(drop),
    })
}

fn watch(device: &Device<'_>, stop: &Stop) -> Watched {
    let begin = Instant::now();
    let mut instant = Ok(Some(Series::default()));
    let mut average = Ok(Series::default());
    let mut energy = Ok(Series::default());
    let (mut busy, mut asked) = (0, 0_u32);
    for poll in 0.. {
        if begin.elapsed() >= WATCH || stop.asked() {
            break;
        }
        take_instant(&mut instant, begin, facts::power_instant(device));
        if poll % SLOW_POLLS == 0 {
            take(&mut average, begin, facts::power_average(device).map(Watts::as_f64));
            #[expect(clippy::cast_precision_loss, reason = "joules of a board's life")]
            take(&mut energy, begin, facts::energy_mj(device).map(|energy_mj| energy_mj as f64 / 1000.0));
            busy += facts::busy_percent(device).unwrap_or(0);
            asked += 1;
        }
        thread::sleep(POLL);
    }
    Watched { instant, average, energy, busy_percent: busy / asked.max(1) }
}

fn take_instant(series: &mut Answer<Option<Series>>, begin: Instant, reading: Answer<Option<Watts>>) {
    match (series.as_mut(), reading) {
        (Ok(Some(series)), Ok(Some(power))) => series.push(begin.elapsed(), power.as_f64()),
        (Ok(known), Ok(None)) => *known = None,
        (Ok(_), Err(error)) => *series = Err(error),
        (Ok(None) | Err(_), _) => {}
    }
}

fn take(series: &mut Answer<Series>, begin: Instant, reading: Answer<f64>) {
    match (series.as_mut(), reading) {
        (Ok(known), Ok(value)) => known.push(begin.elapsed(), value),
        (Ok(_), Err(error)) => *series = Err(error),
        (Err(_), _) => {}
    }
}

fn calls(board: &mut NvmlBoard<'_>, device: &Device<'_>, stop: &Stop) -> Vec<Calls> {
    let sample = |board: &mut NvmlBoard<'_>| -> Answer<()> {
        board.read_limit()?;
        board.read_clock()?;
        board.read_power().map(drop)
    };
    vec![
        timed(SAMPLE, stop, || sample(board).is_ok()),
        timed("limit", stop, || board.read_limit().is_ok()),
        timed("clock", stop, || board.read_clock().is_ok()),
        timed("power", stop, || board.read_power().is_ok()),
        timed("average power", stop, || facts::power_average(device).is_ok()),
        timed("energy", stop, || facts::energy_mj(device).is_ok()),
        timed("throttle reasons", stop, || facts::throttle_reasons(device).is_ok()),
        timed("utilisation", stop, || facts::busy_percent(device).is_ok()),
    ]
}

/// Times of the calls that were answered.
fn timed(name: &'static str, stop: &Stop, mut call: impl FnMut() -> bool) -> Calls {
    let begin = Instant::now();
    let mut durations = Vec::new();
    while durations.len() < MOST_CALLS && begin.elapsed() < CALLS_TIME && !stop.asked() {
        let called = Instant::now();
        if !call() {
            break;
        }
        durations.push(called.elapsed());
    }
    Calls { name, durations }
}
