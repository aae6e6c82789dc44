//! What stands in a journal's file, as bytes: pure.
//!
//! The file has a fixed size and consists of lines of a fixed length, so that a line is written in place
//! and never needs room that the disk may not have. Each is a checksum, a piece of JSON, and blanks:
//!
//! ```text
//! 5f0c… {"version":1,"boot":"…","round":2,"complete":true}          the head
//! 91ab… {"round":2,"board":{"uuid":"GPU-…","limitMilliwatts":700000}}
//! 0c77… {"round":2,"lock":{"uuid":"GPU-…"}}
//!                                                                   blank: not used yet
//! ```
//!
//! Only lines of the head's *round* count: a release, and a new boot, begin a new round by writing the
//! head alone.
//!
//! What must hold: whatever the bytes are, reading them neither panics nor makes an original of what is
//! none; a line that cannot be read makes the originals incomplete.

use powercap_common::units::{Megahertz, Watts};
use ring::digest;
use serde::{Deserialize, Serialize};

use crate::node::originals::{Note, Originals};

/// The format that this version writes. It reads older ones: fields that they lack have defaults.
pub const VERSION: u32 = 1;
/// Bytes of a line, its end included.
pub const LINE: usize = 256;
/// Lines of a file: two for each of 64 boards, one for each of 512 cpufreq policies, and room.
pub const LINES: usize = 1024;
/// Hexadecimal digits of a checksum.
const CHECKSUM: usize = 16;

/// The first line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Head {
    /// The format's.
    pub version: u32,
    /// Of the node, when the lines were written: at another boot limits and locks have vanished.
    pub boot: String,
    /// Lines of other rounds do not count.
    #[serde(default)]
    pub round: u64,
    /// As in [`Originals::complete`], but for what was put aside.
    #[serde(default)]
    pub complete: bool,
    /// What was touched before is in a journal of a later version, which was put aside: that version finds it there.
    #[serde(default)]
    pub continues: bool,
}

/// Any other line.
#[derive(Serialize, Deserialize)]
struct Line {
    round: u64,
    #[serde(flatten)]
    entry: Entry,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
enum Entry {
    #[serde(rename_all = "camelCase")]
    Board {
        uuid: String,
        limit_milliwatts: Option<u64>,
    },
    Lock {
        uuid: String,
    },
    #[serde(rename_all = "camelCase")]
    Cpu {
        policy: u32,
        ceiling_megahertz: Option<u32>,
    },
}

/// What a file says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Image {
    /// Its first line.
    pub head: Head,
    /// What its lines of the head's round say together.
    pub originals: Originals,
    /// The first line that may be written.
    pub next: usize,
}

/// Why a file cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unreadable {
    /// Written by a later version of this agent.
    #[error("it has format {0}, of a later version")]
    Newer(u32),
    /// Not a journal, or a damaged one.
    #[error("its first line is damaged")]
    Damaged,
}

impl Image {
    /// Reads a file.
    ///
    /// # Errors
    /// When the first line is of a later version, or damaged.
    pub fn read(bytes: &[u8]) -> Result<Self, Unreadable> {
        let mut lines = bytes.chunks(LINE);
        let first = lines.next().and_then(checked).ok_or(Unreadable::Damaged)?;
        // The version first: nobody knows what else a later one says.
        let version: Version = serde_json::from_str(first).map_err(|_| Unreadable::Damaged)?;
        if version.version > VERSION {
            return Err(Unreadable::Newer(version.version));
        }
        let head: Head = serde_json::from_str(first).map_err(|_| Unreadable::Damaged)?;
        // Of a file that was cut nobody knows what it said.
        let whole = bytes.len() == LINES * LINE;
        let mut originals = Originals { complete: head.complete && whole, ..Originals::default() };
        let mut next = 1;
        for (index, line) in lines.enumerate() {
            if line.trim_ascii().is_empty() {
                continue;
            }
            match checked(line).map(serde_json::from_str::<Line>) {
                Some(Ok(line)) if line.round == head.round => {
                    originals.take(&line.entry.into());
                    next = index + 2;
                }
                Some(Ok(_)) => {}
                // A write that was torn, or a damaged disk: some device was touched, and nobody knows which.
                Some(Err(_)) | None => {
                    originals.complete = false;
                    next = index + 2;
                }
            }
        }
        Ok(Self { head, originals, next })
    }
}

#[derive(Deserialize)]
struct Version {
    version: u32,
}

/// A whole file with this head and these lines; `None` when they are too many.
#[must_use]
pub fn file(head: &Head, notes: &[Note]) -> Option<Vec<u8>> {
    let mut bytes = line(head)?;
    for note in notes {
        bytes.extend(entry(head.round, note)?);
    }
    let blank = blank();
    while bytes.len() < LINES * LINE {
        bytes.extend_from_slice(&blank);
    }
    (bytes.len() == LINES * LINE).then_some(bytes)
}

/// The first line; `None` when it is too long.
#[must_use]
pub fn line(content: &impl Serialize) -> Option<Vec<u8>> {
    let json = serde_json::to_string(content).ok()?;
    let mut line = format!("{} {json}", checksum(json.as_bytes())).into_bytes();
    if line.len() >= LINE {
        return None;
    }
    line.resize(LINE - 1, b' ');
    line.push(b'\n');
    Some(line)
}

/// The line of a note; `None` when it is too long, or none.
#[must_use]
pub fn entry(round: u64, note: &Note) -> Option<Vec<u8>> {
    let entry = match note {
        Note::Board { uuid, limit } => {
            Entry::Board { uuid: uuid.to_string(), limit_milliwatts: limit.map(Watts::as_milliwatts) }
        }
        Note::Lock { uuid } => Entry::Lock { uuid: uuid.to_string() },
        Note::Cpu { policy, ceiling } => Entry::Cpu { policy: *policy, ceiling_megahertz: ceiling.map(Megahertz::get) },
        Note::EarlierLife | Note::Released => return None,
    };
    line(&Line { round, entry })
}

impl From<Entry> for Note {
    fn from(entry: Entry) -> Self {
        match entry {
            Entry::Board { uuid, limit_milliwatts } => {
                Self::Board { uuid: uuid.into(), limit: limit_milliwatts.map(Watts::from_milliwatts) }
            }
            Entry::Lock { uuid } => Self::Lock { uuid: uuid.into() },
            Entry::Cpu { policy, ceiling_megahertz } => {
                Self::Cpu { policy, ceiling: ceiling_megahertz.map(Megahertz::new) }
            }
        }
    }
}

fn blank() -> Vec<u8> {
    let mut line = vec![b' '; LINE];
    line[LINE - 1] = b'\n';
    line
}

/// The JSON of a line, if it is whole.
#[must_use]
pub fn checked(line: &[u8]) -> Option<&str> {
    let text = std::str::from_utf8(line.get(..LINE)?).ok()?;
    let (sum, json) = text.trim_ascii_end().split_once(' ')?;
    (sum == checksum(json.as_bytes())).then_some(json)
}

fn checksum(bytes: &[u8]) -> String {
    let digest = digest::digest(&digest::SHA256, bytes);
    digest.as_ref().iter().take(CHECKSUM / 2).map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    fn head() -> Head {
        Head { version: VERSION, boot: "b".into(), round: 2, complete: true, continues: false }
    }

    fn notes() -> Vec<Note> {
        vec![
            Note::Board { uuid: "GPU-1".into(), limit: Some(Watts::new(650)) },
            Note::Lock { uuid: "GPU-1".into() },
            Note::Cpu { policy: 7, ceiling: Some(Megahertz::new(3800)) },
        ]
    }

    #[test]
    fn what_is_written_reads_back() {
        let image = Image::read(&file(&head(), &notes()).unwrap()).unwrap();
        let mut originals = Originals::default();
        notes().iter().for_each(|note| originals.take(note));
        assert_eq!(image, Image { head: head(), originals, next: 4 });
    }

    #[test]
    fn lines_of_another_round_do_not_count() {
        let mut bytes = file(&head(), &notes()).unwrap();
        bytes[..LINE].copy_from_slice(&line(&Head { round: 3, ..head() }).unwrap());
        let image = Image::read(&bytes).unwrap();
        assert!(image.originals.untouched());
        assert_eq!(image.next, 1);
    }

    #[test]
    fn a_torn_line_makes_the_originals_incomplete_and_keeps_the_others() {
        let mut bytes = file(&head(), &notes()).unwrap();
        bytes[LINE + 40] ^= 1;
        let image = Image::read(&bytes).unwrap();
        assert!(!image.originals.complete);
        assert_eq!(image.originals.boards["GPU-1"].limit, None);
        assert_eq!(image.originals.cpus[&7], Some(Megahertz::new(3800)));
    }

    #[test]
    fn a_later_format_is_told_from_damage() {
        let later = line(&serde_json::json!({"version": 9, "who": "knows"})).unwrap();
        assert_eq!(Image::read(&later), Err(Unreadable::Newer(9)));
        assert_eq!(Image::read(b"rubbish"), Err(Unreadable::Damaged));
        assert_eq!(Image::read(b""), Err(Unreadable::Damaged));
    }

    #[test]
    fn an_earlier_format_without_some_fields_is_read_as_incomplete() {
        let earlier = line(&serde_json::json!({"version": 0, "boot": "b"})).unwrap();
        let image = Image::read(&earlier).unwrap();
        assert_eq!((image.head.round, image.originals), (0, Originals::unknown()));
    }

    #[test]
    fn the_longest_names_fit_a_line() {
        let uuid: Arc<str> = "G".repeat(96).into();
        let limit = Some(Watts::from_milliwatts(100_000_000));
        assert!(entry(u64::MAX, &Note::Board { uuid, limit }).is_some());
        assert!(line(&Head { boot: "b".repeat(36), round: u64::MAX, ..head() }).is_some());
    }
}
