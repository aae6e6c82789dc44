//! When this node last heard of a live leader, kept over the agent's lives, so that one that begins anew again
//! and again falls back in time.
//!
//! ```text
//!   renewed ─────────▶ a life that hears nothing, another, …       by the time since the node booted
//!      └── the lease runs from here     └── once, a few seconds are given to listen
//! ```
//!
//! What must hold: nothing waits for the disk, and where it does not do its part an agent's start counts as
//! a renewal. What is kept is of one boot; the disk need not have it, only what the next life reads.

use std::{
    fs,
    io::{self, Write},
    path::Path,
    thread,
    time::{Duration, Instant},
};

use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use super::{journal::image, lease::Renewals, observe::boards::named};

/// Renewals are kept no more often than this.
const EVERY: Duration = Duration::from_secs(5);

/// What outlives the agent, in milliseconds since the boot.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Heard {
    boot: String,
    /// The last renewal that proves a live leader.
    #[serde(default)]
    renewed_ms: Option<u64>,
    /// The start of the first life that has heard nothing since.
    #[serde(default)]
    listening_ms: Option<u64>,
}

/// What was before a life of the agent began.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Silence {
    /// How long nothing was heard.
    pub lasted: Duration,
    /// For how long of that an agent was there to listen, or could have been.
    pub listened: Duration,
}

impl Heard {
    /// What these bytes tell of this boot.
    #[must_use]
    pub fn read(bytes: &[u8], boot_id: &str) -> Self {
        let kept: Option<Self> = image::checked(bytes).and_then(|json| serde_json::from_str(json).ok());
        let fresh = || Self { boot: boot_id.to_owned(), ..Self::default() };
        kept.filter(|kept| kept.boot == boot_id).unwrap_or_else(fresh)
    }

    /// A life begins so long after the boot: the silence before it.
    pub fn begins(&mut self, uptime: Duration) -> Silence {
        let now = milliseconds(uptime);
        let listening = *self.listening_ms.get_or_insert(now);
        let since = |then: u64| Duration::from_millis(now.saturating_sub(then));
        Silence { lasted: since(self.renewed_ms.unwrap_or(listening)), listened: since(listening) }
    }

    /// A leader was heard.
    pub fn hears(&mut self, uptime: Duration) {
        (self.renewed_ms, self.listening_ms) = (Some(milliseconds(uptime)), None);
    }

    /// The bytes to be kept.
    #[must_use]
    pub fn bytes(&self) -> Option<Vec<u8>> {
        image::line(self)
    }
}

fn milliseconds(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// Starts the thread that keeps it beside the journal, and tells `renewals`, which count from `start`, what was
/// before. It ends when nobody asks for renewals any more.
///
/// # Errors
/// When the thread cannot be started.
pub fn start(journal: &Path, boot_id: &str, start: Instant, renewals: watch::Sender<Renewals>) -> io::Result<()> {
    let (path, boot_id) = (journal.with_extension("heard"), boot_id.to_owned());
    named("heard").spawn(move || keep(&path, &boot_id, start, &renewals)).map(drop)
}

fn keep(path: &Path, boot_id: &str, start: Instant, renewals: &watch::Sender<Renewals>) {
    let trouble = |error: &io::Error| {
        tracing::warn!(%error, path = %path.display(), "when the leader was heard cannot be kept: a restart of this agent counts as a renewal");
    };
    let (mut heard, began) = match recall(path, boot_id, start) {
        Ok(recalled) => recalled,
        Err(error) => return trouble(&error),
    };
    let silence = heard.begins(began);
    renewals.send_modify(|renewals| renewals.follow(silence));
    let mut last = Duration::ZERO;
    let mut stored = store(path, &heard).inspect_err(trouble).is_ok();
    while !renewals.is_closed() {
        thread::sleep(EVERY);
        let proven = renewals.borrow().proven();
        if proven > last {
            heard.hears(began + proven);
            last = proven;
        } else if stored {
            continue;
        }
        let result = store(path, &heard);
        stored = if stored { result.inspect_err(trouble).is_ok() } else { result.is_ok() };
    }
}

/// What earlier lives kept, and how long after the boot this one began.
fn recall(path: &Path, boot_id: &str, start: Instant) -> io::Result<(Heard, Duration)> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    let heard = match fs::read(path) {
        Ok(bytes) => Heard::read(&bytes, boot_id),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Heard::read(&[], boot_id),
        Err(error) => return Err(error),
    };
    Ok((heard, uptime()?.saturating_sub(start.elapsed())))
}

/// Writes in place: that needs no room that the disk may not have.
fn store(path: &Path, heard: &Heard) -> io::Result<()> {
    let bytes = heard.bytes().unwrap_or_default();
    fs::File::options().write(true).create(true).truncate(false).open(path)?.write_all(&bytes)
}

/// The time since the boot, with that in suspend.
fn uptime() -> io::Result<Duration> {
    let text = fs::read_to_string("/proc/uptime")?;
    let seconds = text.split_whitespace().next().and_then(|word| word.parse().ok());
    seconds
        .and_then(|seconds| Duration::try_from_secs_f64(seconds).ok())
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "/proc/uptime holds no time"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn silence(lasted: u32, listened: u32) -> Silence {
        Silence { lasted: SECOND * lasted, listened: SECOND * listened }
    }

    /// What the next life reads.
    fn next(heard: &Heard) -> Heard {
        Heard::read(&heard.bytes().unwrap(), "b")
    }

    #[test]
    fn the_first_life_of_a_boot_follows_no_silence() {
        let mut heard = Heard::read(b"", "b");
        assert_eq!(heard.begins(100 * SECOND), silence(0, 0));
        assert_eq!(next(&heard).begins(130 * SECOND), silence(30, 30));
        assert_eq!(Heard::read(&heard.bytes().unwrap(), "another").begins(130 * SECOND), silence(0, 0));
    }

    #[test]
    fn silence_lasts_from_the_last_renewal_and_listening_from_the_first_start_after_it() {
        let mut heard = Heard::read(b"", "b");
        heard.begins(100 * SECOND);
        heard.hears(110 * SECOND);
        let mut heard = next(&heard);
        assert_eq!(heard.begins(200 * SECOND), silence(90, 0));
        let mut heard = next(&heard);
        assert_eq!(heard.begins(215 * SECOND), silence(105, 15));
        heard.hears(216 * SECOND);
        assert_eq!(next(&heard).begins(220 * SECOND), silence(4, 0));
    }

    #[test]
    fn a_life_is_told_by_the_disk_what_was_before_it() {
        let folder = tempfile::tempdir().unwrap();
        let journal = folder.path().join("state/journal");
        for life in 0..2 {
            let (renewals, mut seen) = watch::channel(Renewals::default());
            start(&journal, "b", Instant::now(), renewals).unwrap();
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            runtime.block_on(seen.changed()).unwrap();
            let age = seen.borrow().age(Duration::ZERO);
            assert_eq!(age > Duration::ZERO, life > 0, "life {life}: {age:?}");
            let begun = Instant::now();
            while !journal.with_extension("heard").exists() && begun.elapsed() < SECOND * 60 {
                thread::sleep(Duration::from_millis(20));
            }
            thread::sleep(Duration::from_millis(50));
        }
    }

    #[test]
    fn bytes_that_were_torn_tell_nothing() {
        let mut heard = Heard::read(b"", "b");
        heard.hears(110 * SECOND);
        let mut bytes = heard.bytes().unwrap();
        bytes[40] ^= 1;
        assert_eq!(Heard::read(&bytes, "b"), Heard::read(b"", "b"));
    }
}
