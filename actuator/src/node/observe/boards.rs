//! Finds the boards and starts a thread for each; looks again while there is no working NVML.

use std::{ffi::OsString, sync::Arc, thread, time::Duration};

use nvml_wrapper::Nvml;

use super::{BoardChannel, Devices, sample};
use crate::{
    devices::{
        Board,
        nvml::{self, NvmlBoard, NvmlUnavailable},
    },
    node::{metrics::Metrics, observation::GpuAccess},
};

const LOOK_AGAIN: Duration = Duration::from_secs(30);
/// Threads of devices call shallow code only.
pub(super) const STACK_BYTES: usize = 256 << 10;

/// Starts looking for boards, in a thread of its own, since loading NVML may take seconds.
///
/// # Errors
/// When the thread cannot be started.
pub fn start(devices: Devices, library: OsString, period: Duration, metrics: Metrics) -> std::io::Result<()> {
    let look = move || {
        loop {
            match nvml::load(&library) {
                Ok((nvml, count)) => {
                    tracing::info!(boards = count, "NVML works");
                    devices.set_access(GpuAccess::Working, count);
                    for index in 0..count {
                        let (nvml, devices, metrics) = (Arc::clone(&nvml), devices.clone(), metrics.clone());
                        let thread =
                            named(&format!("gpu-{index}")).spawn(move || run(&nvml, index, &devices, period, &metrics));
                        if let Err(error) = thread {
                            tracing::error!(index, %error, "a board's thread could not be started");
                        }
                    }
                    return;
                }
                Err(error @ NvmlUnavailable::NoLibrary(_)) => {
                    tracing::info!(%error, "no NVML: this node counts as one without boards; looking again in 30 s");
                    devices.set_access(GpuAccess::NoLibrary, 0);
                }
                Err(error) => {
                    tracing::warn!(%error, "NVML does not work; trying again in 30 s");
                    devices.set_access(GpuAccess::Broken(error.to_string()), 0);
                }
            }
            thread::sleep(LOOK_AGAIN);
        }
    };
    named("nvml").spawn(look).map(drop)
}

fn run(nvml: &Nvml, index: u32, devices: &Devices, period: Duration, metrics: &Metrics) {
    let mut board = loop {
        match NvmlBoard::open(nvml, index) {
            Ok(board) => break board,
            Err(error) => {
                tracing::warn!(index, %error, "a board could not be opened; trying again in 30 s");
                devices.set_board(index, Err(error.to_string()));
                thread::sleep(LOOK_AGAIN);
            }
        }
    };
    let traits = board.traits();
    tracing::info!(
        index, uuid = %traits.uuid, model = %traits.model, clocks = ?traits.clocks,
        min_limit = %traits.min_limit, max_limit = %traits.max_limit, default_limit = %traits.default_limit,
        "found a board"
    );
    let channel = Arc::new(BoardChannel::new(traits.clone(), devices.journal.clone()));
    devices.set_board(index, Ok(Arc::clone(&channel)));
    sample::run(&mut board, &channel, &devices.alarm, period, metrics);
}

pub(super) fn named(name: &str) -> thread::Builder {
    thread::Builder::new().name(name.to_owned()).stack_size(STACK_BYTES)
}
