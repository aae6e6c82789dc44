//! A folder that holds the newest records: the oldest make room.
//!
//! Must hold: what is kept never exceeds the limit, also across restarts; a record is there as a whole or
//! not at all; files of other names are left alone.

use std::{
    collections::VecDeque,
    fs, io,
    path::{Path, PathBuf},
};

/// How records' names end.
pub const SUFFIX: &str = ".json.gz";
/// A record on its way.
const PARTIAL: &str = ".json.gz.partial";
/// A small cluster's records are small, and a folder of very many files is slow.
const FILES_AT_MOST: usize = 10_000;

/// The folder.
pub struct Ring {
    folder: PathBuf,
    limit: u64,
    /// The oldest first, with their sizes.
    files: VecDeque<(PathBuf, u64)>,
}

impl Ring {
    /// Takes up the records that are there already.
    pub fn open(folder: &Path, limit: u64) -> io::Result<Self> {
        fs::create_dir_all(folder)?;
        let mut files = Vec::new();
        for entry in fs::read_dir(folder)? {
            let entry = entry?;
            let name = entry.file_name();
            let name = name.to_string_lossy();
            if name.ends_with(PARTIAL) {
                fs::remove_file(entry.path())?;
            } else if name.ends_with(SUFFIX) {
                files.push((entry.path(), entry.metadata()?.len()));
            }
        }
        files.sort();
        let mut ring = Self { folder: folder.to_owned(), limit, files: files.into() };
        ring.make_room(0)?;
        Ok(ring)
    }

    /// Adds a record, whose name sorts after those before it.
    pub fn put(&mut self, name: &str, contents: &[u8]) -> io::Result<()> {
        let size = contents.len() as u64;
        if size > self.limit {
            let error = format!("the record has {size} bytes, all together may have {}", self.limit);
            return Err(io::Error::new(io::ErrorKind::FileTooLarge, error));
        }
        self.make_room(size)?;
        let (path, partial) = (self.folder.join(name), self.folder.join(format!("{name}.partial")));
        let written = fs::write(&partial, contents).and_then(|()| fs::rename(&partial, &path));
        if written.is_err() {
            // What is left of it would fill the disk further; there may be nothing.
            _ = fs::remove_file(&partial);
        }
        written?;
        self.files.push_back((path, size));
        Ok(())
    }

    fn make_room(&mut self, size: u64) -> io::Result<()> {
        let mut kept: u64 = self.files.iter().map(|(_, size)| size).sum();
        while kept + size > self.limit || self.files.len() >= FILES_AT_MOST {
            let Some((oldest, its_size)) = self.files.front() else { break };
            match fs::remove_file(oldest) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => kept -= its_size,
            }
            self.files.pop_front();
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(folder: &Path) -> Vec<String> {
        let entries = fs::read_dir(folder).unwrap();
        let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn the_oldest_make_room_for_the_newest_also_after_a_restart() {
        let folder = tempfile::tempdir().unwrap();
        let mut ring = Ring::open(folder.path(), 100).unwrap();
        for name in ["1.json.gz", "2.json.gz", "3.json.gz"] {
            ring.put(name, &[0; 40]).unwrap();
        }
        assert_eq!(names(folder.path()), ["2.json.gz", "3.json.gz"]);
        let mut ring = Ring::open(folder.path(), 60).unwrap();
        assert_eq!(names(folder.path()), ["3.json.gz"], "a lower limit is kept at once");
        ring.put("4.json.gz", &[0; 60]).unwrap();
        assert_eq!(names(folder.path()), ["4.json.gz"]);
    }

    #[test]
    fn a_record_that_is_too_large_costs_no_other_one() {
        let folder = tempfile::tempdir().unwrap();
        let mut ring = Ring::open(folder.path(), 100).unwrap();
        ring.put("1.json.gz", &[0; 40]).unwrap();
        assert_eq!(ring.put("2.json.gz", &[0; 101]).unwrap_err().kind(), io::ErrorKind::FileTooLarge);
        assert_eq!(names(folder.path()), ["1.json.gz"]);
    }

    #[test]
    fn half_a_record_is_swept_and_what_is_not_ours_stays() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("1.json.gz.partial"), "half").unwrap();
        fs::write(folder.path().join("notes.txt"), vec![0; 1000]).unwrap();
        let mut ring = Ring::open(folder.path(), 100).unwrap();
        ring.put("2.json.gz", &[0; 100]).unwrap();
        assert_eq!(names(folder.path()), ["2.json.gz", "notes.txt"]);
    }
}
