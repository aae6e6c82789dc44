//! What the devices were set to before they were touched comes back at a release, through restarts,
//! reboots, bad disks and two agents; and lowering waits for no disk.

use std::{
    fs,
    path::Path,
    process::Command,
    sync::Arc,
    time::{Duration, Instant},
};

use powercap_actuator::{
    hardware::ClockLock,
    node::{
        decide::{Phase, State},
        journal::{
            self, Journal, Ownership, PATIENCE,
            image::{self, Head, Image, LINE, LINES, VERSION},
        },
        orders::{CpuCeiling, Orders},
        originals::{Note, OriginalBoard, Originals},
    },
};
use powercap_common::{
    reason::Reason,
    units::{Megahertz, Watts},
};
use proptest::prelude::*;
use tokio::sync::watch;

use crate::rack::{BUSY, IDLE, Rack, ceiling, granted};

fn board(uuid: &str, limit: u32) -> Note {
    Note::Board { uuid: uuid.into(), limit: Some(Watts::new(limit)) }
}

fn locked(uuid: &str) -> Note {
    Note::Lock { uuid: uuid.into() }
}

fn originals(notes: &[Note]) -> Originals {
    let mut originals = Originals::default();
    notes.iter().for_each(|note| originals.take(note));
    originals
}

fn open(folder: &Path, boot: &str) -> (Journal, watch::Receiver<Ownership>) {
    journal::open(&folder.join("journal"), boot).unwrap()
}

/// What the journal's thread says once it knows whose the node is, or the last it said.
pub fn answer(ownership: &watch::Receiver<Ownership>) -> Ownership {
    until(|| matches!(*ownership.borrow(), Ownership::Ours(_)));
    ownership.borrow().clone()
}

fn until(mut holds: impl FnMut() -> bool) {
    let start = Instant::now();
    while !holds() && start.elapsed() < Duration::from_secs(60) {
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn ours(folder: &Path, boot: &str) -> Originals {
    let (_journal, ownership) = open(folder, boot);
    match answer(&ownership) {
        Ownership::Ours(originals) => Originals::clone(&originals),
        other => panic!("{other:?}"),
    }
}

fn write(folder: &Path, notes: &[Note]) {
    let (journal, ownership) = open(folder, "b");
    answer(&ownership);
    journal.note(notes);
    settles(&journal);
}

/// Waits until every note is on disk. Patience is for lowering; here the disk may take its time.
pub fn settles(journal: &Journal) {
    until(|| {
        journal.settle();
        journal.trouble().is_none()
    });
    assert_eq!(journal.trouble(), None);
}

#[test]
fn what_was_noted_is_known_to_the_next_life_and_to_the_one_after() {
    let folder = tempfile::tempdir().unwrap();
    assert!(ours(folder.path(), "b").untouched());
    let notes = [board("GPU-1", 650), locked("GPU-1"), Note::Cpu { policy: 0, ceiling: Some(Megahertz::new(3000)) }];
    write(folder.path(), &notes[..2]);
    write(folder.path(), &notes[2..]);
    assert_eq!(ours(folder.path(), "b"), originals(&notes));
    assert_eq!(fs::metadata(folder.path().join("journal")).unwrap().len(), (LINE * LINES) as u64, "preallocated");
    write(folder.path(), &[Note::Released]);
    assert!(ours(folder.path(), "b").untouched());
    write(folder.path(), &[board("GPU-1", 700)]);
    assert_eq!(ours(folder.path(), "b"), originals(&[board("GPU-1", 700)]));
}

#[test]
fn at_another_boot_nothing_is_ours() {
    let folder = tempfile::tempdir().unwrap();
    write(folder.path(), &[board("GPU-1", 650), locked("GPU-1")]);
    assert!(ours(folder.path(), "another").untouched());
    assert!(ours(folder.path(), "another").untouched());
}

#[test]
fn a_life_that_left_no_word_stays_in_mind() {
    let folder = tempfile::tempdir().unwrap();
    write(folder.path(), &[Note::EarlierLife]);
    assert!(!ours(folder.path(), "b").complete);
    assert!(!ours(folder.path(), "b").complete);
    write(folder.path(), &[Note::Released]);
    assert!(ours(folder.path(), "b").untouched());
}

#[test]
fn of_two_agents_one_waits_and_takes_over_with_what_the_first_has_noted() {
    let folder = tempfile::tempdir().unwrap();
    let (first, owner) = open(folder.path(), "b");
    answer(&owner);
    let (_second, waiting) = open(folder.path(), "b");
    until(|| *waiting.borrow() == Ownership::Another);
    first.note(&[board("GPU-1", 650)]);
    first.settle();
    assert_eq!(*waiting.borrow(), Ownership::Another);
    drop(first);
    assert_eq!(answer(&waiting), Ownership::Ours(Arc::new(originals(&[board("GPU-1", 650)]))));
}

#[test]
fn a_journal_of_a_later_version_is_put_aside() {
    let folder = tempfile::tempdir().unwrap();
    let later = image::line(&serde_json::json!({"version": VERSION + 1, "boot": "b", "anything": [1]})).unwrap();
    fs::write(folder.path().join("journal"), &later).unwrap();
    assert_eq!(ours(folder.path(), "b"), Originals::unknown());
    assert_eq!(fs::read(folder.path().join("journal.newer")).unwrap(), later);
    assert_eq!(ours(folder.path(), "b"), Originals::unknown(), "and that is remembered");
}

#[test]
fn a_damaged_journal_is_put_aside() {
    let folder = tempfile::tempdir().unwrap();
    for rubbish in [&b""[..], b"\0\0\0", &[0xff; 3 * LINE * LINES]] {
        fs::write(folder.path().join("journal"), rubbish).unwrap();
        assert_eq!(ours(folder.path(), "b"), Originals::unknown());
        assert_eq!(fs::read(folder.path().join("journal.damaged")).unwrap(), rubbish);
    }
}

#[test]
fn a_full_disk_is_told_and_waited_for_by_nobody() {
    let folder = tempfile::tempdir().unwrap();
    std::os::unix::fs::symlink("/dev/full", folder.path().join("journal.new")).unwrap();
    let (journal, ownership) = open(folder.path(), "b");
    assert!(matches!(answer(&ownership), Ownership::Ours(_)));
    let trouble = journal.trouble().unwrap();
    assert!(trouble.contains("No space left"), "{trouble}");
    let settled = quickest_to_settle(&journal);
    assert!(settled < PATIENCE / 2, "{settled:?}");
}

/// How long a note is waited for, at the quickest: a busy machine only adds to it.
fn quickest_to_settle(journal: &Journal) -> Duration {
    let settle = |limit| {
        journal.note(&[board("GPU-1", limit)]);
        let start = Instant::now();
        journal.settle();
        start.elapsed()
    };
    (650..660).map(settle).min().unwrap()
}

#[test]
fn a_folder_that_cannot_be_written_leaves_the_node_ours_and_its_past_unknown() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("file");
    fs::write(&file, "").unwrap();
    let (journal, ownership) = open(&file, "b");
    assert_eq!(answer(&ownership), Ownership::Ours(Arc::new(Originals::unknown())));
    assert!(journal.trouble().is_some());
}

#[test]
fn a_disk_that_hangs_delays_one_lowering_by_its_patience_and_the_next_not_at_all() {
    let first_of = |_| {
        let folder = tempfile::tempdir().unwrap();
        // Reading a pipe that nobody writes hangs.
        assert!(Command::new("mkfifo").arg(folder.path().join("journal")).status().unwrap().success());
        let (journal, ownership) = open(folder.path(), "b");
        journal.note(&[board("GPU-1", 650)]);
        let start = Instant::now();
        journal.settle();
        let first = start.elapsed();
        let next = quickest_to_settle(&journal);
        assert!(next < PATIENCE / 2, "{next:?}");
        assert_eq!(journal.trouble().as_deref(), Some("the disk does not answer"));
        assert_eq!(*ownership.borrow(), Ownership::Asking);
        first
    };
    let quickest = (0..3).map(first_of).min().unwrap();
    assert!((PATIENCE..PATIENCE * 3).contains(&quickest), "{quickest:?}");
}

fn release(sequence: i64) -> Orders {
    Orders { release: true, grant: None, ..granted(sequence, 1) }
}

/// A rack whose administrator had limited a board and the CPUs.
fn set_by_hand() -> Rack {
    let mut rack = Rack::new(3, 0.0, 0.0, BUSY);
    rack.boards[1].request.limit_mw = 500_000;
    rack.boards[1].reading.limit = Some(Watts::new(500));
    rack.cpu.ceiling = Megahertz::new(3000);
    rack
}

fn slowed(sequence: i64, grant: u32) -> Orders {
    let mut orders = granted(sequence, grant);
    orders.cpus.insert(0, CpuCeiling { clock: Megahertz::new(2000), reason: Reason::DomainCap });
    orders
}

#[test]
fn a_release_puts_back_what_an_administrator_had_set_even_after_a_restart() {
    for restart in [false, true] {
        let mut rack = set_by_hand();
        let mut journal = Originals::default();
        rack.seconds(5.0, Some(&slowed(1, 3000)), |_, plan| plan.notes.iter().for_each(|note| journal.take(note)));
        assert_eq!(
            journal.boards["GPU-1"],
            OriginalBoard { limit: Some(Watts::new(500)), locked: true },
            "noted before the first touch"
        );
        if restart {
            rack.state = State::remembering(None).owning(journal);
        }
        let mut released = false;
        rack.seconds(6.0, Some(&release(2)), |rack, plan| {
            assert!(rack.boards[1].reading.limit <= Some(Watts::new(500)));
            released |= plan.notes == [Note::Released];
            assert!(!plan.account.to_defaults);
        });
        assert!(released);
        let limits: Vec<_> = rack.boards.iter().map(|board| board.reading.limit.unwrap().floor()).collect();
        assert_eq!((limits.as_slice(), rack.cpu.ceiling), (&[700, 500, 700][..], Megahertz::new(3000)));
        assert!(rack.boards.iter().all(|board| board.reading.lock == ClockLock::Off));
    }
}

#[test]
fn where_a_bmc_holds_a_board_lower_the_original_is_what_the_driver_was_told() {
    let mut rack = set_by_hand();
    rack.boards[1].reading.limit_found = Some(Watts::new(650));
    let notes = rack.tick(Some(&granted(1, 3000))).notes;
    assert!(notes.contains(&board("GPU-1", 650)) && notes.contains(&board("GPU-0", 700)), "{notes:?}");
}

#[test]
fn boards_that_answer_late_after_a_restart_are_released_with_the_others() {
    let mut rack = set_by_hand();
    let mut journal = Originals::default();
    rack.seconds(5.0, Some(&slowed(1, 3000)), |_, plan| plan.notes.iter().for_each(|note| journal.take(note)));
    rack.state = State::remembering(None).owning(journal);
    let late = rack.boards.split_off(1);
    rack.seconds(1.0, Some(&release(2)), |_, _| {});
    rack.boards.extend(late);
    rack.seconds(8.0, Some(&release(2)), |_, _| {});
    assert_eq!(rack.tick(Some(&release(2))).account.phase, Phase::Released);
    let limits: Vec<_> = rack.boards.iter().map(|board| board.reading.limit.unwrap().floor()).collect();
    assert_eq!(limits, [700, 500, 700]);
    assert!(rack.boards.iter().all(|board| board.reading.lock == ClockLock::Off));
}

#[test]
fn a_release_lowers_a_board_that_was_raised_above_its_original() {
    let mut rack = set_by_hand();
    rack.seconds(10.0, Some(&granted(1, 9000)), |_, _| {});
    assert_eq!(rack.boards[1].reading.limit, Some(Watts::new(700)));
    rack.seconds(5.0, Some(&release(2)), |_, _| {});
    assert_eq!(rack.boards[1].reading.limit, Some(Watts::new(500)));
}

#[test]
fn a_release_touches_only_what_was_touched() {
    let mut orders = Orders { grant: None, ..granted(1, 1) };
    orders.boards.insert("GPU-2".into(), ceiling(Some(1200), Some(400)));
    let mut rack = set_by_hand();
    rack.seconds(3.0, Some(&orders), |_, _| {});
    rack.seconds(6.0, Some(&release(2)), |_, plan| {
        assert!(plan.boards.iter().all(|write| &*write.uuid == "GPU-2"), "{:?}", plan.boards);
        assert!(plan.cpus.is_empty());
    });
    assert_eq!(rack.tick(Some(&release(2))).account.phase, Phase::Released);
    assert_eq!(rack.boards[0].reading.lock, ClockLock::Unknown);
}

#[test]
fn a_lock_that_is_not_ours_is_left_alone() {
    let mut rack = Rack::new(1, 0.0, 0.0, IDLE);
    rack.state = State::default().owning(originals(&[board("GPU-0", 650)]));
    rack.seconds(5.0, Some(&release(1)), |_, plan| assert!(plan.boards.iter().all(|write| write.lock.is_none())));
    assert_eq!(rack.boards[0].reading.limit, Some(Watts::new(650)));
    assert_eq!(rack.boards[0].reading.lock, ClockLock::Unknown);
}

#[test]
fn where_nobody_knows_the_originals_a_release_restores_defaults_and_says_so() {
    let mut rack = set_by_hand();
    rack.state = State::default().owning(Originals::unknown());
    rack.seconds(5.0, Some(&slowed(1, 3000)), |_, plan| {
        let guessed =
            |note: &Note| matches!(note, Note::Board { limit: Some(_), .. } | Note::Cpu { ceiling: Some(_), .. });
        assert!(!plan.notes.iter().any(guessed), "what is read may be our own: {:?}", plan.notes);
    });
    rack.seconds(5.0, Some(&release(2)), |_, plan| assert!(plan.account.to_defaults));
    assert_eq!((rack.limits(), rack.cpu.ceiling), (2100.0, Megahertz::new(3800)));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// Killed at any moment, any number of times: what stands is not raised by it, and a release still
    /// puts everything back.
    #[test]
    fn no_kill_loses_an_original_or_raises_a_limit(
        kills in prop::collection::vec(1..40_usize, 1..6),
        grants in prop::collection::vec(2500..4500_u32, 6),
    ) {
        let mut rack = set_by_hand();
        let mut journal = Originals::default();
        for (at, (ticks, grant)) in kills.iter().zip(&grants).enumerate() {
            let orders = slowed(1 + at as i64, *grant);
            for _ in 0..*ticks {
                rack.tick(Some(&orders)).notes.iter().for_each(|note| journal.take(note));
            }
            let stood = rack.limits();
            rack.state = State::remembering(None).owning(journal.clone());
            rack.seconds(1.0, None, |_, plan| assert!(plan.boards.is_empty() && plan.cpus.is_empty()));
            prop_assert!(rack.limits() <= stood);
        }
        rack.seconds(8.0, Some(&release(99)), |_, plan| plan.notes.iter().for_each(|note| journal.take(note)));
        let limits: Vec<_> = rack.boards.iter().map(|board| board.reading.limit.unwrap().floor()).collect();
        prop_assert_eq!(limits, [700, 500, 700]);
        prop_assert_eq!(rack.cpu.ceiling, Megahertz::new(3000));
        prop_assert!(journal.untouched());
    }
}

fn note() -> impl Strategy<Value = Note> {
    let uuid = || "GPU-[0-9]".prop_map(Arc::from);
    let watts = prop::option::of((1..2000_u32).prop_map(Watts::new));
    let clock = prop::option::of((1..9000_u32).prop_map(Megahertz::new));
    prop_oneof![
        (uuid(), watts).prop_map(|(uuid, limit)| Note::Board { uuid, limit }),
        uuid().prop_map(|uuid| Note::Lock { uuid }),
        (0..9_u32, clock).prop_map(|(policy, ceiling)| Note::Cpu { policy, ceiling }),
    ]
}

fn head() -> Head {
    Head { version: VERSION, boot: "b".into(), round: 4, complete: true, continues: false }
}

proptest! {
    #[test]
    fn no_bytes_make_reading_panic(bytes in prop::collection::vec(any::<u8>(), 0..3 * LINE)) {
        prop_assert!(Image::read(&bytes).is_err());
    }

    /// However the file is damaged, an original is one that was written, or not known; and where
    /// anything may be missing that is said.
    #[test]
    fn no_damage_makes_up_an_original_or_hides_a_touch(
        notes in prop::collection::vec(note(), 0..20),
        damage in prop::collection::vec((0..22 * LINE, any::<u8>()), 0..6),
        length in prop::option::of(0..22 * LINE),
    ) {
        let whole = originals(&notes);
        let mut bytes = image::file(&head(), &notes).unwrap();
        for (at, byte) in damage {
            bytes[at] = byte;
        }
        bytes.truncate(length.unwrap_or(bytes.len()));
        let Ok(image) = Image::read(&bytes) else { return Ok(()) };
        let read = image.originals;
        let noted: Vec<_> = notes.iter().filter_map(|note| match note {
            Note::Board { uuid, limit: Some(limit) } => Some((uuid.clone(), *limit)),
            _ => None,
        }).collect();
        for (uuid, board) in &read.boards {
            prop_assert!(whole.boards.contains_key(uuid));
            prop_assert!(board.limit.is_none_or(|limit| noted.contains(&(uuid.clone(), limit))));
        }
        if read.complete {
            prop_assert_eq!(read, whole);
        }
    }
}
