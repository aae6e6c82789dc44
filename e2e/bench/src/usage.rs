//! Memory and processor time of a process, as the kernel counts them.

use std::time::Duration;

use anyhow::{Context, Result};

/// What a process has used.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Usage {
    /// The most memory that it has had resident.
    pub(crate) peak_mib: f64,
    /// Processor time of all its threads.
    pub(crate) processor: Duration,
}

/// Reads `/proc/PID`.
pub(crate) fn usage(pid: u32) -> Result<Usage> {
    let read = |path: &str| std::fs::read_to_string(path).with_context(|| format!("read {path}"));
    let status = read(&format!("/proc/{pid}/status"))?;
    let mut nanoseconds = 0;
    let threads = format!("/proc/{pid}/task");
    for thread in std::fs::read_dir(&threads).with_context(|| format!("list {threads}"))? {
        // A thread may end between the two reads.
        let Ok(text) = std::fs::read_to_string(thread?.path().join("schedstat")) else { continue };
        nanoseconds += on_processor(&text).context("understand schedstat")?;
    }
    Ok(Usage {
        peak_mib: peak_mib(&status).context("find VmHWM in the process's status")?,
        processor: Duration::from_nanos(nanoseconds),
    })
}

/// The first number of schedstat: time on a processor, nanoseconds.
fn on_processor(schedstat: &str) -> Option<u64> {
    schedstat.split_whitespace().next()?.parse().ok()
}

fn peak_mib(status: &str) -> Option<f64> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kibibytes: f64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kibibytes / 1024.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_lines_are_understood() {
        assert_eq!(peak_mib("Name:\tx\nVmHWM:\t    6144 kB\nVmRSS:\t 5000 kB\n"), Some(6.0));
        assert_eq!(peak_mib("Name:\tx\n"), None);
        assert_eq!(on_processor("123456 789 12\n"), Some(123_456));
    }

    #[test]
    fn a_busy_process_has_used_time_and_memory() {
        let before = usage(std::process::id()).unwrap();
        let began = std::time::Instant::now();
        while began.elapsed() < Duration::from_millis(30) {
            std::hint::spin_loop();
        }
        let after = usage(std::process::id()).unwrap();
        assert!(after.processor > before.processor);
        assert!(after.peak_mib > 0.5);
    }
}
