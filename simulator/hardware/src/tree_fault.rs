//! Controls of the cpufreq and powercap trees that misbehave, as far as plain files can.
//!
//! | fault | a write | a read | in place of the file |
//! |---|---|---|---|
//! | `Denied` | EACCES, for who may not override permissions (drop `CAP_DAC_OVERRIDE`) | as it was | a copy with mode 0444 |
//! | `Locked` | EACCES, for root too | `40` or so, of no meaning | a link to `/proc/sys/kernel/cap_last_cap`, which nobody may write |
//! | `Invalid` | EINVAL, for root too | `0` or so, of no meaning | a link to `/proc/self/oom_score_adj`, which takes no kHz |
//! | `Absent` | ENOENT | ENOENT | nothing |
//! | `Directory` | EISDIR | EISDIR | a folder |
//! | `Hangs` | does not return until mended | nor does it | a FIFO |
//! | `Ignored` | accepted and read back, without effect | what was written | a copy that nobody looks at |
//!
//! EBUSY cannot be had from files: that is for tests at the reader's own seam. While a fault lasts the file waits beside it and keeps its identity: the
//! daemon goes on with what was in force. What must hold: a mended control is the file that it was.

use std::fs::{self, OpenOptions, Permissions};
use std::io;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, Mode, OFlags, mkfifoat};

/// How a control misbehaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TreeFault {
    /// Writing is not permitted.
    Denied,
    /// Writing is permitted to nobody.
    Locked,
    /// Nothing that is written makes sense to it.
    Invalid,
    /// It is not there.
    Absent,
    /// It is something else.
    Directory,
    /// It does not answer.
    Hangs,
    /// What is written has no effect.
    Ignored,
}

/// Takes no number above 1000: one of kHz or µW is invalid to it, and changes nothing.
const TAKES_NO_FREQUENCY: &str = "/proc/self/oom_score_adj";
/// The kernel lets nobody write it.
const READ_ONLY: &str = "/proc/sys/kernel/cap_last_cap";

fn waiting(control: &Path) -> PathBuf {
    let name = control.file_name().unwrap_or_default().to_string_lossy();
    control.with_file_name(format!(".{name}.well"))
}

/// Makes a control misbehave, whether or not it does already.
///
/// # Errors
/// When it is not there, or the folder cannot be written.
pub fn spoil(control: &Path, fault: TreeFault) -> io::Result<()> {
    mend(control)?;
    let well = waiting(control);
    fs::rename(control, &well)?;
    match fault {
        TreeFault::Absent => Ok(()),
        TreeFault::Directory => fs::create_dir(control),
        TreeFault::Invalid => symlink(TAKES_NO_FREQUENCY, control),
        TreeFault::Locked => symlink(READ_ONLY, control),
        TreeFault::Hangs => Ok(mkfifoat(CWD, control, Mode::from_raw_mode(0o666))?),
        TreeFault::Denied => {
            fs::copy(&well, control)?;
            fs::set_permissions(control, Permissions::from_mode(0o444))
        }
        TreeFault::Ignored => fs::copy(&well, control).map(|_| ()),
    }
}

/// Puts a control back that misbehaves; one that does not stays as it is.
///
/// # Errors
/// When the folder cannot be written.
pub fn mend(control: &Path) -> io::Result<()> {
    let well = waiting(control);
    if !well.exists() {
        return Ok(());
    }
    match fs::symlink_metadata(control) {
        Ok(found) if found.is_dir() => fs::remove_dir(control)?,
        Ok(found) if is_fifo(&found) => {
            let let_go = OFlags::NONBLOCK.bits().cast_signed();
            let both = OpenOptions::new().read(true).write(true).custom_flags(let_go).open(control)?;
            fs::rename(&well, control)?;
            // Who waited for the other end has found it here, and goes on.
            drop(both);
            return Ok(());
        }
        _ => {}
    }
    fs::rename(well, control)
}

fn is_fifo(found: &fs::Metadata) -> bool {
    std::os::unix::fs::FileTypeExt::is_fifo(&found.file_type())
}

#[cfg(test)]
mod tests {
    use std::io::ErrorKind;
    use std::time::Duration;

    use super::*;
    use crate::cpufreq::CpufreqTree;
    use crate::spec::HostSpec;

    fn node() -> (tempfile::TempDir, PathBuf, CpufreqTree) {
        let folder = tempfile::tempdir().unwrap();
        let tree = CpufreqTree::create(folder.path(), &HostSpec::default()).unwrap();
        let control = folder.path().join("policy0/scaling_max_freq");
        (folder, control, tree)
    }

    /// As the kernel's files are written: never made anew.
    fn write(control: &Path, value: &str) -> io::Result<()> {
        let mut file = OpenOptions::new().write(true).truncate(true).open(control)?;
        io::Write::write_all(&mut file, value.as_bytes())
    }

    #[test]
    fn each_fault_answers_what_it_says_and_is_mended() {
        let (_folder, control, mut tree) = node();
        for (fault, expected) in [
            (TreeFault::Locked, ErrorKind::PermissionDenied),
            (TreeFault::Invalid, ErrorKind::InvalidInput),
            (TreeFault::Absent, ErrorKind::NotFound),
            (TreeFault::Directory, ErrorKind::IsADirectory),
        ] {
            spoil(&control, fault).unwrap();
            assert_eq!(write(&control, "2000000").unwrap_err().kind(), expected, "{fault:?}");
            tree.apply().unwrap();
            assert_eq!(tree.ceilings_khz()[0], 3_800_000, "{fault:?}: nothing is in force");
            mend(&control).unwrap();
            write(&control, "2000000").unwrap();
            tree.apply().unwrap();
            assert_eq!(tree.ceilings_khz()[0], 2_900_000, "{fault:?}: mended");
            write(&control, "3800000").unwrap();
            tree.apply().unwrap();
        }
    }

    #[test]
    fn a_denied_control_can_be_read_and_not_written_without_the_right_to_override() {
        let (_folder, control, mut tree) = node();
        spoil(&control, TreeFault::Denied).unwrap();
        assert_eq!(fs::read_to_string(&control).unwrap().trim(), "3800000");
        assert_eq!(fs::metadata(&control).unwrap().permissions().mode() & 0o777, 0o444);
        // Root overrides it, and is ignored.
        let _ = write(&control, "2000000");
        tree.apply().unwrap();
        assert_eq!(tree.ceilings_khz()[0], 3_800_000);
        mend(&control).unwrap();
        assert_eq!(fs::read_to_string(&control).unwrap().trim(), "3800000");
    }

    #[test]
    fn an_ignored_write_is_read_back_and_has_no_effect() {
        let (_folder, control, mut tree) = node();
        spoil(&control, TreeFault::Ignored).unwrap();
        write(&control, "2000000").unwrap();
        tree.apply().unwrap();
        assert_eq!(fs::read_to_string(&control).unwrap(), "2000000");
        assert_eq!(tree.ceilings_khz()[0], 3_800_000);
    }

    #[test]
    fn a_write_that_hangs_returns_when_the_control_is_mended() {
        let (_folder, control, _tree) = node();
        spoil(&control, TreeFault::Hangs).unwrap();
        let (begins, begun) = std::sync::mpsc::channel();
        let writer = std::thread::spawn({
            let control = control.clone();
            move || {
                begins.send(()).unwrap();
                write(&control, "2000000")
            }
        });
        begun.recv().unwrap();
        std::thread::sleep(Duration::from_millis(50));
        assert!(!writer.is_finished());
        mend(&control).unwrap();
        let start = std::time::Instant::now();
        while !writer.is_finished() {
            assert!(start.elapsed() < Duration::from_secs(60), "the writer goes on");
            std::thread::sleep(Duration::from_millis(2));
        }
        assert_eq!(fs::read_to_string(&control).unwrap().trim(), "3800000", "what hung is lost");
    }

    #[test]
    fn a_boot_mends_what_an_earlier_life_left() {
        let (folder, control, _tree) = node();
        spoil(&control, TreeFault::Hangs).unwrap();
        spoil(&control, TreeFault::Directory).unwrap();
        CpufreqTree::create(folder.path(), &HostSpec::default()).unwrap();
        assert_eq!(fs::read_to_string(&control).unwrap().trim(), "3800000");
        assert!(mend(&control).is_ok());
    }
}
