//! Process 1 of a PID namespace: starts one command, buries orphans, ends with that command. The
//! kernel then kills whatever is left in the namespace.

use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::process::Command;

use rustix::io::Errno;
use rustix::process::{WaitOptions, wait};

/// Why init could not do its work.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No command was given.
    #[error("init needs a command")]
    NoCommand,
    /// The command could not be started.
    #[error("start {program:?}")]
    Start {
        /// The command.
        program: OsString,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// Waiting failed.
    #[error("wait for children")]
    Wait(#[source] Errno),
}

/// Runs `command` in a process group of its own (so that Ctrl-C at a terminal does not reach it) and
/// returns its exit status; 128 and the signal's number if a signal ended it.
///
/// # Errors
/// When the command cannot be started or waited for.
pub fn init(command: &[OsString]) -> Result<i32, Error> {
    let (program, arguments) = command.split_first().ok_or(Error::NoCommand)?;
    let child = Command::new(program)
        .args(arguments)
        .process_group(0)
        .spawn()
        .map_err(|source| Error::Start { program: program.clone(), source })?;
    loop {
        match wait(WaitOptions::empty()) {
            Ok(Some((pid, status))) if pid.as_raw_nonzero().get().unsigned_abs() == child.id() => {
                let signal = status.terminating_signal().map(|signal| 128 + signal);
                return Ok(status.exit_status().or(signal).unwrap_or(1));
            }
            Ok(_) | Err(Errno::INTR) => {}
            Err(errno) => return Err(Error::Wait(errno)),
        }
    }
}
