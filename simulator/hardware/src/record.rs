//! Small records of fixed size in files: shared state without shared memory, sockets or unsafe code.
//!
//! A record is `kind, sequence, payload…, checksum` in little-endian 64-bit words, written by one
//! `pwrite` and read by one `pread`. What must hold: each file has one writer at a time; a reader
//! never returns a torn record, it reads again. On tmpfs a call costs about a microsecond.

use std::fs::{File, OpenOptions};
use std::io;
use std::marker::PhantomData;
use std::os::unix::fs::{FileExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Reading or writing a record failed.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    /// The file is absent or not accessible.
    #[error("open the record {path}: is the hardware simulation running with this root?")]
    Open {
        /// Which file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The file could not be read or written.
    #[error("access the record {path}")]
    Access {
        /// Which file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// What was read is not a record of this kind, or was torn each time.
    #[error("the record {path} is not whole, read again and again for {PATIENCE:?}")]
    Torn {
        /// Which file.
        path: PathBuf,
    },
}

/// A value that fills one word.
pub trait Word: Copy {
    /// To the file.
    fn to_word(self) -> u64;
    /// From the file.
    fn from_word(word: u64) -> Self;
}

impl Word for u64 {
    fn to_word(self) -> u64 {
        self
    }
    fn from_word(word: u64) -> Self {
        word
    }
}

impl Word for u32 {
    fn to_word(self) -> u64 {
        u64::from(self)
    }
    fn from_word(word: u64) -> Self {
        Self::try_from(word).unwrap_or(Self::MAX)
    }
}

impl Word for f64 {
    fn to_word(self) -> u64 {
        self.to_bits()
    }
    fn from_word(word: u64) -> Self {
        Self::from_bits(word)
    }
}

impl Word for bool {
    fn to_word(self) -> u64 {
        u64::from(self)
    }
    fn from_word(word: u64) -> Self {
        word != 0
    }
}

/// A value of fixed size in words.
pub trait Record: Sized {
    /// Tells one kind of file from another.
    const KIND: u64;
    /// Words of the payload.
    const WORDS: usize;
    /// Fills the payload.
    fn encode(&self, words: &mut [u64]);
    /// Reads the payload.
    fn decode(words: &[u64]) -> Self;
}

/// Declares a struct whose fields are [`Word`]s and makes it a [`Record`].
macro_rules! record {
    ($(#[$meta:meta])* $name:ident, $kind:literal { $($(#[$field_meta:meta])* $field:ident: $type:ty),* $(,)? }) => {
        $(#[$meta])*
        #[derive(Debug, Clone, Copy, PartialEq, Default)]
        pub struct $name { $($(#[$field_meta])* pub $field: $type,)* }

        impl $crate::record::Record for $name {
            const KIND: u64 = $kind;
            const WORDS: usize = [$(stringify!($field)),*].len();

            fn encode(&self, words: &mut [u64]) {
                let fields = [$($crate::record::Word::to_word(self.$field)),*];
                words.copy_from_slice(&fields);
            }

            fn decode(words: &[u64]) -> Self {
                let mut words = words.iter().copied();
                Self { $($field: $crate::record::Word::from_word(words.next().unwrap_or(0)),)* }
            }
        }
    };
}
pub(crate) use record;

const FRAME_WORDS: usize = 3;
/// A writer may lose its core in the middle of a write, on a busy machine for a good part of a second.
const PATIENCE: Duration = Duration::from_secs(2);
const NAP: Duration = Duration::from_micros(200);

fn checksum(words: &[u64]) -> u64 {
    words.iter().fold(0x9e37_79b9_7f4a_7c15, |hash: u64, word| {
        (hash ^ word).rotate_left(29).wrapping_mul(0xbf58_476d_1ce4_e5b9)
    })
}

/// A record's file, open.
#[derive(Debug)]
pub struct RecordFile<R> {
    file: File,
    path: PathBuf,
    sequence: u64,
    words: Vec<u64>,
    bytes: Vec<u8>,
    record: PhantomData<fn() -> R>,
}

impl<R: Record> RecordFile<R> {
    /// Opens a record to read it.
    ///
    /// # Errors
    /// [`RecordError::Open`] when the file is absent or not readable.
    pub fn open(path: &Path) -> Result<Self, RecordError> {
        Self::with(path, OpenOptions::new().read(true))
    }

    /// Opens a record to read and write it.
    ///
    /// # Errors
    /// [`RecordError::Open`] when the file is absent or not writable.
    pub fn open_writable(path: &Path) -> Result<Self, RecordError> {
        Self::with(path, OpenOptions::new().read(true).write(true))
    }

    /// Makes the file with a first value, or rewrites it in place if there is one (so that bind
    /// mounts of it stay valid).
    ///
    /// # Errors
    /// [`RecordError`] when the file cannot be made or written.
    pub fn create(path: &Path, first: &R, mode: u32) -> Result<Self, RecordError> {
        let options = OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(mode).to_owned();
        let mut made = Self::with(path, &options)?;
        made.sequence = made.read_once()?.map_or(0, |(sequence, _)| sequence);
        let permissions = std::fs::Permissions::from_mode(mode);
        made.file.set_permissions(permissions).map_err(|source| made.access(source))?;
        made.write(first)?;
        Ok(made)
    }

    fn with(path: &Path, options: &OpenOptions) -> Result<Self, RecordError> {
        let open = |source| RecordError::Open { path: path.to_owned(), source };
        let words = R::WORDS + FRAME_WORDS;
        Ok(Self {
            file: options.open(path).map_err(open)?,
            path: path.to_owned(),
            sequence: 0,
            words: vec![0; words],
            bytes: vec![0; words * 8],
            record: PhantomData,
        })
    }

    fn access(&self, source: io::Error) -> RecordError {
        RecordError::Access { path: self.path.clone(), source }
    }

    /// The present value.
    ///
    /// # Errors
    /// [`RecordError::Torn`] when no whole record was seen for long.
    pub fn read(&mut self) -> Result<R, RecordError> {
        self.read_sequenced().map(|(_, record)| record)
    }

    /// The present value with the number of its write.
    ///
    /// # Errors
    /// [`RecordError::Torn`] when no whole record was seen for long.
    pub fn read_sequenced(&mut self) -> Result<(u64, R), RecordError> {
        let began = Instant::now();
        for attempt in 0.. {
            if let Some(whole) = self.read_once()? {
                return Ok(whole);
            }
            match attempt {
                0..3 => {}
                3..50 => std::thread::yield_now(),
                _ if began.elapsed() < PATIENCE => std::thread::sleep(NAP),
                _ => break,
            }
        }
        Err(RecordError::Torn { path: self.path.clone() })
    }

    /// Reads once; `None`: what was read is not whole.
    fn read_once(&mut self) -> Result<Option<(u64, R)>, RecordError> {
        match self.file.read_exact_at(&mut self.bytes, 0) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
            Err(error) => return Err(self.access(error)),
        }
        for (word, bytes) in self.words.iter_mut().zip(self.bytes.as_chunks::<8>().0) {
            *word = u64::from_le_bytes(*bytes);
        }
        let (body, sum) = self.words.split_at(R::WORDS + FRAME_WORDS - 1);
        let whole = body[0] == R::KIND && sum[0] == checksum(body);
        Ok(whole.then(|| (body[1], R::decode(&body[2..]))))
    }

    /// Writes the next value. For files with one writer.
    ///
    /// # Errors
    /// [`RecordError::Access`] when the write fails.
    pub fn write(&mut self, record: &R) -> Result<(), RecordError> {
        self.sequence += 1;
        let last = R::WORDS + FRAME_WORDS - 1;
        self.words[0] = R::KIND;
        self.words[1] = self.sequence;
        record.encode(&mut self.words[2..last]);
        self.words[last] = checksum(&self.words[..last]);
        for (bytes, word) in self.bytes.as_chunks_mut::<8>().0.iter_mut().zip(&self.words) {
            *bytes = word.to_le_bytes();
        }
        self.file.write_all_at(&self.bytes, 0).map_err(|source| self.access(source))
    }

    /// Changes the value under the file's lock: for files that several processes write.
    ///
    /// # Errors
    /// [`RecordError`] when the file cannot be locked, read or written.
    pub fn update(&mut self, change: impl FnOnce(&mut R)) -> Result<(), RecordError> {
        self.file.lock().map_err(|source| self.access(source))?;
        let updated = self.read_sequenced().and_then(|(sequence, mut record)| {
            self.sequence = sequence;
            change(&mut record);
            self.write(&record)
        });
        let unlocked = self.file.unlock().map_err(|source| self.access(source));
        updated.and(unlocked)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    record! {
        /// Two words that must agree.
        Pair, 0x7061_6972 { left: u64, right: f64 }
    }

    #[test]
    fn what_was_written_is_read() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("pair");
        let mut writer = RecordFile::create(&path, &Pair { left: 1, right: 1.5 }, 0o644).unwrap();
        let mut reader = RecordFile::<Pair>::open(&path).unwrap();
        assert_eq!(reader.read_sequenced().unwrap(), (1, Pair { left: 1, right: 1.5 }));
        writer.update(|pair| pair.left = 7).unwrap();
        assert_eq!(reader.read_sequenced().unwrap(), (2, Pair { left: 7, right: 1.5 }));
    }

    #[test]
    fn another_kind_of_file_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("pair");
        std::fs::write(&path, [0u8; 200]).unwrap();
        assert!(matches!(RecordFile::<Pair>::open(&path).unwrap().read(), Err(RecordError::Torn { .. })));
    }

    #[test]
    fn a_reader_never_sees_half_a_write() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("pair");
        let mut writer = RecordFile::create(&path, &Pair::default(), 0o644).unwrap();
        let mut reader = RecordFile::<Pair>::open(&path).unwrap();
        let writing = std::thread::spawn(move || {
            for left in 0..20_000u32 {
                writer.write(&Pair { left: u64::from(left), right: f64::from(left) }).unwrap();
            }
        });
        while !writing.is_finished() {
            let pair = reader.read().unwrap();
            #[expect(clippy::cast_precision_loss, reason = "small numbers")]
            let left = pair.left as f64;
            assert!((left - pair.right).abs() < f64::EPSILON);
        }
        writing.join().unwrap();
    }
}
