//! The journal of originals, and the lock of the node: a thread that owns two files.
//!
//! ```text
//!   asking ──▶ another agent holds the lock ──▶ ours: what earlier lives of this boot left behind
//!      └── no answer from the disk: the loop goes on without (it asks `Keeper::ownership`)
//! ```
//!
//! What must hold: what a release needs is on disk before a device is touched for the first time, as far
//! as the disk does its part within [`PATIENCE`]; nobody ever waits longer for it. Two agents never act
//! on one node. No content of the file, and no failure to write it, is more than an originals' loss.

pub mod image;

use std::{
    fs::{self, File},
    io::{self, Read, Seek, SeekFrom, Write},
    path::{Path, PathBuf},
    sync::{
        Arc, Condvar, Mutex, PoisonError,
        mpsc::{self, Receiver, RecvTimeoutError, Sender},
    },
    thread,
    time::Duration,
};

use powercap_common::reason::Reason;
use tokio::sync::watch;

use super::originals::{Note, Originals};
use image::{Head, Image, LINE, LINES, Unreadable, VERSION};

/// The longest that a first touch of a device waits for the disk.
pub const PATIENCE: Duration = Duration::from_millis(100);
/// A lock that another agent holds is tried again after this.
const LOOK_AGAIN: Duration = Duration::from_millis(500);
/// A disk that failed is tried again after this.
const TRY_AGAIN: Duration = Duration::from_secs(10);
/// The extension of a journal of a later version.
const ASIDE: &str = "newer";
/// A larger file is not ours.
const LARGEST: u64 = 2 * (LINES * LINE) as u64;

/// Whose the node is.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum Ownership {
    /// Not known yet.
    #[default]
    Asking,
    /// Another agent's: this one touches nothing.
    Another,
    /// Ours, with what earlier lives of ours have touched since the node booted.
    Ours(Arc<Originals>),
}

/// Takes notes for the journal; clones share it. Without a journal (the default) it keeps nothing.
#[derive(Clone, Default)]
pub struct Journal {
    sender: Option<Sender<Note>>,
    progress: Arc<Progress>,
}

#[derive(Default)]
struct Progress {
    state: Mutex<State>,
    moved: Condvar,
}

#[derive(Default)]
struct State {
    noted: u64,
    settled: u64,
    trouble: Option<String>,
}

/// Starts the thread. It ends, and gives the lock up, when the last [`Journal`] is gone.
///
/// # Errors
/// When the thread cannot be started.
pub fn open(path: &Path, boot_id: &str) -> io::Result<(Journal, watch::Receiver<Ownership>)> {
    let (sender, notes) = mpsc::channel();
    let (owner, ownership) = watch::channel(Ownership::Asking);
    let journal = Journal { sender: Some(sender), progress: Arc::default() };
    let keeper = Keeper {
        path: path.to_owned(),
        boot: boot_id.to_owned(),
        progress: Arc::clone(&journal.progress),
        round: 0,
        originals: Originals::default(),
        continues: false,
        kept: Vec::new(),
        file: None,
        next: 1,
    };
    let thread = thread::Builder::new().name("journal".to_owned()).stack_size(256 << 10);
    thread.spawn(move || keeper.run(&notes, &owner))?;
    Ok((journal, ownership))
}

impl Journal {
    /// Hands notes to the thread; never waits.
    pub fn note(&self, notes: &[Note]) {
        let Some(sender) = self.sender.as_ref().filter(|_| !notes.is_empty()) else { return };
        let mut state = self.progress.state();
        for note in notes {
            // The thread lives as long as this sender, unless it panicked; then nothing is ever settled.
            _ = sender.send(note.clone());
            state.noted += 1;
        }
    }

    /// Waits until every note so far is on disk, or known not to get there, at most for [`PATIENCE`], and
    /// for a disk that kept somebody waiting not again.
    pub fn settle(&self) {
        let state = self.progress.state();
        let noted = state.noted;
        let unsettled = |state: &mut State| state.settled < noted && state.trouble.is_none();
        let waited = self.progress.moved.wait_timeout_while(state, PATIENCE, unsettled);
        let (mut state, waited) = waited.unwrap_or_else(PoisonError::into_inner);
        if waited.timed_out() && state.trouble.is_none() {
            tracing::warn!("the journal's disk is slow; nobody waits for it");
            state.trouble = Some("the disk does not answer".to_owned());
        }
    }

    /// Why a release could not put everything back after a restart, if so.
    #[must_use]
    pub fn trouble(&self) -> Option<String> {
        self.progress.state().trouble.clone()
    }
}

impl Progress {
    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn settled(&self, notes: u64, trouble: Option<String>) {
        let mut state = self.state();
        if state.trouble.is_none()
            && let Some(trouble) = &trouble
        {
            tracing::warn!(trouble, "the journal cannot be written; ceilings are lowered all the same");
        }
        state.settled += notes;
        state.trouble = trouble;
        drop(state);
        self.moved.notify_all();
    }
}

/// The thread's own.
struct Keeper {
    path: PathBuf,
    boot: String,
    progress: Arc<Progress>,
    round: u64,
    originals: Originals,
    /// As in [`Head::continues`].
    continues: bool,
    /// The round's notes, for when the file has to be made anew.
    kept: Vec<Note>,
    /// The file, while it works.
    file: Option<File>,
    next: usize,
}

/// Why the journal does not work.
#[derive(Debug, thiserror::Error)]
enum JournalError {
    #[error("cannot {action} {}: {source}", path.display())]
    Io { action: &'static str, path: PathBuf, source: io::Error },
    #[error("{} is full", .0.display())]
    Full(PathBuf),
}

fn io_error(action: &'static str, path: impl Into<PathBuf>, source: io::Error) -> JournalError {
    JournalError::Io { action, path: path.into(), source }
}

impl Keeper {
    fn run(mut self, notes: &Receiver<Note>, owner: &watch::Sender<Ownership>) {
        let lock = match self.lock(owner) {
            Ok(Some(lock)) => Some(lock),
            // Every handle is gone.
            Ok(None) => return,
            Err(error) => {
                tracing::error!(%error, "the lock of this node cannot be had; going on without");
                None
            }
        };
        let trouble = self.take_up().err();
        self.progress.settled(0, trouble.map(|error| error.to_string()));
        owner.send_replace(Ownership::Ours(Arc::new(self.originals.clone())));
        self.serve(notes);
        drop(lock);
    }

    /// Waits for the lock; `None` when nobody wants it any more.
    fn lock(&self, owner: &watch::Sender<Ownership>) -> Result<Option<File>, JournalError> {
        let path = self.path.with_extension("lock");
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder).map_err(|error| io_error("make", folder, error))?;
        }
        let lock = File::options().write(true).create(true).truncate(false).open(&path);
        let lock = lock.map_err(|error| io_error("open", &path, error))?;
        loop {
            match lock.try_lock() {
                Ok(()) => return Ok(Some(lock)),
                Err(fs::TryLockError::WouldBlock) if owner.is_closed() => return Ok(None),
                Err(fs::TryLockError::WouldBlock) => {
                    if owner.send_replace(Ownership::Another) != Ownership::Another {
                        let reason = Reason::AnotherAgent;
                        tracing::warn!(%reason, lock = %path.display(), "another agent holds this node's lock; touching nothing until it is gone");
                    }
                    thread::sleep(LOOK_AGAIN);
                }
                Err(fs::TryLockError::Error(error)) => return Err(io_error("lock", path, error)),
            }
        }
    }

    /// Reads what an earlier life left, and makes the file ready to be written.
    fn take_up(&mut self) -> Result<(), JournalError> {
        let bytes = match read(&self.path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return self.make(),
            Err(error) => {
                self.originals = Originals::unknown();
                return Err(io_error("read", &self.path, error));
            }
        };
        match Image::read(&bytes) {
            Ok(image) if image.head.boot == self.boot => {
                tracing::info!(
                    boards = image.originals.boards.len(),
                    cpus = image.originals.cpus.len(),
                    complete = image.originals.complete,
                    "the journal knows what an earlier life of this agent touched"
                );
                self.round = image.head.round;
                let Head { version, continues, .. } = image.head;
                let usable = version == VERSION && image.originals.complete && !continues;
                // With a line of it lost nobody knows the rest either.
                self.continues = continues && image.originals.complete;
                self.originals = image.originals;
                if self.continues {
                    self.continue_what_was_put_aside();
                }
                self.kept = notes(&self.originals);
                self.next = image.next;
                if usable { self.reopen() } else { self.make() }
            }
            Ok(image) => {
                tracing::info!("the journal is of an earlier boot, at which every limit vanished");
                self.round = image.head.round.wrapping_add(1);
                self.make()
            }
            Err(error) => {
                self.originals = Originals::unknown();
                let aside = self.path.with_extension(match error {
                    Unreadable::Newer(_) => ASIDE,
                    Unreadable::Damaged => "damaged",
                });
                tracing::warn!(%error, aside = %aside.display(), "the journal cannot be used and is put aside; a release restores defaults");
                fs::rename(&self.path, &aside).map_err(|error| io_error("put aside", aside, error))?;
                self.continues = matches!(error, Unreadable::Newer(_));
                self.make()
            }
        }
    }

    /// An earlier version could not read our journal, put it aside and began another: what stands in ours is of
    /// before that.
    fn continue_what_was_put_aside(&mut self) {
        let aside = read(&self.path.with_extension(ASIDE)).ok().and_then(|bytes| Image::read(&bytes).ok());
        let Some(Image { head, originals, .. }) = aside.filter(|image| image.head.boot == self.boot) else {
            self.originals.complete = false;
            return;
        };
        tracing::info!("the journal that an earlier version put aside is taken up again");
        let later = std::mem::replace(&mut self.originals, originals);
        notes(&later).iter().for_each(|note| self.originals.take(note));
        self.originals.complete &= !head.continues;
        self.continues = false;
    }

    fn serve(&mut self, notes: &Receiver<Note>) {
        loop {
            let first = match self.file {
                Some(_) => notes.recv().map_err(|_| RecvTimeoutError::Disconnected),
                None => notes.recv_timeout(TRY_AGAIN),
            };
            let (settled, written) = match first {
                Ok(first) => {
                    let batch: Vec<_> = std::iter::once(first).chain(notes.try_iter()).collect();
                    (batch.len() as u64, self.write(&batch))
                }
                Err(RecvTimeoutError::Timeout) => (0, self.make()),
                Err(RecvTimeoutError::Disconnected) => return,
            };
            self.progress.settled(settled, written.err().map(|error| error.to_string()));
        }
    }

    /// Writes these notes and waits once until they are on the disk.
    fn write(&mut self, notes: &[Note]) -> Result<(), JournalError> {
        let mut lines = Vec::new();
        for note in notes {
            self.originals.take(note);
            match note {
                Note::Released => {
                    self.kept.clear();
                    self.continues = false;
                    self.round = self.round.wrapping_add(1);
                    self.next = 1;
                    lines.push((0, image::line(&self.head())));
                }
                Note::EarlierLife => {
                    self.continues = false;
                    lines.push((0, image::line(&self.head())));
                }
                Note::Board { .. } | Note::Lock { .. } | Note::Cpu { .. } => {
                    self.kept.push(note.clone());
                    lines.push((self.next, image::entry(self.round, note)));
                    self.next += 1;
                }
            }
        }
        let Some(file) = &mut self.file else { return self.make() };
        let mut put = |at: usize, line: &[u8]| {
            file.seek(SeekFrom::Start((at * LINE) as u64))?;
            file.write_all(line)
        };
        for (at, line) in lines {
            let Some(line) = line.filter(|_| at < LINES) else { return Err(JournalError::Full(self.path.clone())) };
            put(at, &line).map_err(|error| io_error("write", &self.path, error))?;
        }
        file.sync_data().map_err(|error| {
            self.file = None;
            io_error("write", &self.path, error)
        })
    }

    /// Makes the whole file anew beside the old one and puts it in its place.
    fn make(&mut self) -> Result<(), JournalError> {
        self.file = None;
        let full = || JournalError::Full(self.path.clone());
        let bytes = image::file(&self.head(), &self.kept).ok_or_else(full)?;
        let new = self.path.with_extension("new");
        let made = File::create(&new).and_then(|mut file| {
            file.write_all(&bytes)?;
            file.sync_all()
        });
        made.map_err(|error| io_error("write", &new, error))?;
        fs::rename(&new, &self.path).map_err(|error| io_error("replace", &self.path, error))?;
        self.next = 1 + self.kept.len();
        self.reopen()
    }

    fn reopen(&mut self) -> Result<(), JournalError> {
        let file = File::options().write(true).open(&self.path);
        self.file = Some(file.map_err(|error| io_error("open", &self.path, error))?);
        Ok(())
    }

    fn head(&self) -> Head {
        let (boot, complete) = (self.boot.clone(), self.originals.complete || self.continues);
        Head { version: VERSION, boot, round: self.round, complete, continues: self.continues }
    }
}

fn read(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)?.take(LARGEST).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// The notes that make these originals.
fn notes(originals: &Originals) -> Vec<Note> {
    let boards = originals.boards.iter().flat_map(|(uuid, board)| {
        let lock = board.locked.then(|| Note::Lock { uuid: uuid.clone() });
        [Some(Note::Board { uuid: uuid.clone(), limit: board.limit }), lock].into_iter().flatten()
    });
    let cpus = originals.cpus.iter().map(|(policy, ceiling)| Note::Cpu { policy: *policy, ceiling: *ceiling });
    boards.chain(cpus).collect()
}
