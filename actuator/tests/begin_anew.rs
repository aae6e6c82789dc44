//! What becomes of a node when its agent begins anew: after a crash, a hundred of them, a rollout back by
//! a version, another image, another object. What stands in the hardware is not raised by any of it.

use std::{fs, path::Path, sync::Arc, time::Duration};

use k8s_openapi::api::coordination::v1::Lease;
use powercap_actuator::node::{
    brake::Brakes,
    decide::Plan,
    heard::Heard,
    journal::{
        self, Ownership,
        image::{self, Head, LINE, LINES, VERSION},
    },
    lease::{Renewals, Terms},
    orders::{CpuCeiling, Orders, Refusal},
    originals::{Note, OriginalBoard, Originals},
    standing::{Circumstances, Earlier, Standing},
};
use powercap_common::{
    api::{Epoch, NodeFrequencies, NodeFrequenciesSpec, NodeFrequenciesStatus, NodeOverhead},
    reason::Reason,
    units::{Megahertz, Watts},
};
use serde_json::json;

use crate::{
    keep_the_originals::{answer, settles},
    rack::{BOOT, BUSY, Fault, OVERHEAD, Rack, ceiling, granted},
};

/// A node and what outlives its agent: the hardware, the journal, the status.
struct Node {
    rack: Rack,
    journal: Originals,
    status: NodeFrequenciesStatus,
    life: Life,
    heard: Heard,
    /// The leader renews its Lease.
    led: bool,
}

/// What an agent knows beside what it decided.
#[derive(Default)]
struct Life {
    standing: Standing,
    renewals: Renewals,
    earlier: Earlier,
}

impl Node {
    fn new(rack: Rack) -> Self {
        let (journal, status) = (Originals::default(), NodeFrequenciesStatus::default());
        Self { rack, journal, status, life: Life::default(), heard: Heard::default(), led: true }
    }

    /// The agent begins, whatever it was before.
    fn begin(&mut self, orders: &Orders) {
        self.rack.restart();
        let earlier = Earlier::of(&self.status, BOOT);
        self.rack.state = earlier.resume(&self.journal, orders, self.rack.age());
        let mut renewals = Renewals::default();
        renewals.follow(self.heard.begins(self.rack.now));
        if earlier.lease_expired {
            renewals.expired_before();
        }
        self.life = Life { renewals, earlier, ..Life::default() };
    }

    fn tick(&mut self, orders: &Arc<Orders>) -> Plan {
        let age = self.rack.age();
        if self.led && age.as_millis().is_multiple_of(2000) {
            let renewed = format!("2026-01-01T{:02}:00:00.000000Z", self.rack.now.as_secs() / 2 % 24);
            let lease = json!({"spec": {"holderIdentity": "leader", "renewTime": renewed}});
            self.life.renewals.sees(&serde_json::from_value::<Lease>(lease).unwrap(), age);
            if self.life.renewals.proven() == age {
                self.heard.hears(self.rack.now);
            }
        }
        let (ownership, brakes) = (Ownership::Ours(Arc::default()), Brakes::default());
        let Life { standing, renewals, earlier } = &mut self.life;
        let at = Circumstances { ownership: &ownership, brakes: &brakes, renewals, earlier };
        let orders = standing.next(orders, at, age);
        let plan = self.rack.tick(orders.as_ref());
        plan.notes.iter().for_each(|note| self.journal.take(note));
        self.status = self.rack.told(orders.as_ref(), &plan);
        plan
    }

    fn seconds(&mut self, seconds: u32, orders: &Arc<Orders>, mut each: impl FnMut(&Self, &Plan)) {
        for _ in 0..seconds * 10 {
            let plan = self.tick(orders);
            each(self, &plan);
        }
    }

    /// Limits, clock ceilings (0: none) and the CPUs' ceiling as they stand in the hardware.
    fn stands(&self) -> (Vec<u32>, Vec<u32>, Megahertz) {
        let boards = || self.rack.boards.iter().map(|board| board.request);
        let limits = boards().map(|request| request.limit_mw / 1000).collect();
        (limits, boards().map(|request| request.lock_max_mhz).collect(), self.rack.cpu.ceiling)
    }
}

/// A node whose administrator had limited a board and the CPUs, under a grant.
fn settled(orders: &Arc<Orders>) -> Node {
    let mut rack = Rack::new(3, 0.0, 0.0, BUSY);
    rack.boards[1].request.limit_mw = 650_000;
    rack.boards[1].reading.limit = Some(Watts::new(650));
    rack.cpu.ceiling = Megahertz::new(3000);
    let mut node = Node::new(rack);
    node.begin(orders);
    node.seconds(20, orders, |_, _| {});
    node
}

/// Orders for boards and CPUs.
fn slowed(sequence: i64, grant: u32) -> Orders {
    let mut orders = granted(sequence, grant);
    orders.cpus.insert(0, CpuCeiling { clock: Megahertz::new(2000), reason: Reason::DomainCap });
    orders
}

/// What stood before the agent touched it.
fn first_originals() -> Originals {
    let board = |limit| OriginalBoard { limit: Some(Watts::new(limit)), locked: true };
    let boards = [("GPU-0", 700), ("GPU-1", 650), ("GPU-2", 700)];
    Originals {
        boards: boards.map(|(uuid, limit)| (uuid.into(), board(limit))).into(),
        cpus: [(0, Some(Megahertz::new(3000)))].into(),
        complete: true,
    }
}

/// Not one of these is above the other.
fn no_higher(stands: &(Vec<u32>, Vec<u32>, Megahertz), stood: &(Vec<u32>, Vec<u32>, Megahertz)) -> bool {
    let all = |stands: &[u32], stood: &[u32]| stands.iter().zip(stood).all(|(stands, stood)| stands <= stood);
    all(&stands.0, &stood.0) && all(&stands.1, &stood.1) && stands.2 <= stood.2
}

#[test]
fn a_crash_loop_raises_nothing_and_keeps_the_first_originals() {
    // 1,976 W leave 100 W beside the boards' lowest limits: the CPUs are held down too.
    for orders in [slowed(1, 3000), slowed(1, 1976), granted(1, 1976)].map(Arc::new) {
        for ticks in 0..=30 {
            let mut node = settled(&orders);
            let (stood, journal) = (node.stands(), node.journal.clone());
            for life in 0..10 {
                node.begin(&orders);
                for _ in 0..ticks {
                    node.tick(&orders);
                    let stands = node.stands();
                    assert!(no_higher(&stands, &stood), "{stands:?} of {stood:?}, life {life} of {ticks} ticks");
                }
            }
            assert_eq!(node.journal, journal);
            assert_eq!(journal, first_originals());
        }
    }
}

#[test]
fn watts_that_were_moved_between_boards_stay_where_they_are_over_restarts() {
    let orders = Arc::new(granted(1, 5250));
    let mut node = Node::new(Rack::new(8, 0.0, 0.02, BUSY));
    node.begin(&orders);
    node.seconds(40, &orders, |_, _| {});
    let (stood, ..) = node.stands();
    assert!(stood.iter().min() < stood.iter().max(), "{stood:?}");
    for ticks in [1, 5, 30, 40] {
        node.begin(&orders);
        for _ in 0..ticks {
            node.tick(&orders);
            assert_eq!(node.stands().0, stood, "{ticks} ticks");
        }
    }
}

#[test]
fn an_agent_that_crashes_on_its_way_up_comes_up_within_the_envelope() {
    let (less, more) = (Arc::new(slowed(1, 2500)), Arc::new(slowed(2, 3000)));
    let mut node = settled(&less);
    let before = node.rack.limits();
    for ticks in (1..=30).cycle().take(90) {
        node.begin(&more);
        for _ in 0..ticks {
            let plan = node.tick(&more);
            assert!(node.rack.limits() <= plan.account.boards_budget.unwrap().as_f64());
            assert!(node.rack.power() <= OVERHEAD.envelope(Watts::new(3000)).as_f64());
        }
    }
    assert!(node.rack.limits() > before + 400.0, "{}", node.rack.limits());
}

/// A rack as it boots, and one with what an earlier image had set.
fn boards_after(limits_stand: bool) -> Rack {
    let mut rack = Rack::new(3, 0.0, 0.0, BUSY);
    for board in rack.boards.iter_mut().filter(|_| limits_stand) {
        (board.request.limit_mw, board.request.lock_max_mhz) = (400_000, 1500);
        (board.request.lock_min_mhz, board.reading.limit) = (345, Some(Watts::new(400)));
    }
    rack.seconds(3.0, None, |_, _| {});
    rack
}

#[test]
fn on_another_image_what_stands_is_the_original_and_nothing_is_raised_before_a_grant() {
    let status = settled(&Arc::new(granted(1, 3000))).status;
    for (boot, limits_stand, released_to, to_defaults) in [
        // Booted from an empty disk.
        ("before", false, 700, false),
        // The limits outlived the image, and with them whoever knew what was before.
        ("before", true, 400, false),
        // The folder was wiped under way: the status tells that there was a life to write it.
        (BOOT, true, 700, true),
    ] {
        let mut node = Node::new(boards_after(limits_stand));
        node.status = NodeFrequenciesStatus { boot_id: Some(boot.to_owned()), ..status.clone() };
        let nothing = Arc::new(Orders { grant: None, ..granted(1, 1) });
        node.begin(&nothing);
        let stood = node.stands();
        node.rack.seconds(3.0, None, |_, plan| assert!(plan.boards.is_empty() && plan.cpus.is_empty()));
        node.seconds(3, &nothing, |_, plan| assert!(plan.boards.is_empty() && plan.cpus.is_empty()));
        assert_eq!(node.stands(), stood);

        let (orders, start) = (Arc::new(granted(2, 3000)), node.rack.now);
        node.seconds(10, &orders, |node, plan| {
            assert!(
                plan.account.boards_budget.is_some_and(|budget| node.rack.limits() <= budget.as_f64())
                    || node.rack.now - start <= Duration::from_secs(1)
            );
        });
        let release = Arc::new(Orders { release: true, ..granted(3, 3000) });
        node.seconds(6, &release, |_, plan| assert_eq!(plan.account.to_defaults, to_defaults));
        assert_eq!(node.stands().0, [released_to; 3], "{boot} {limits_stand}");
    }
}

/// An object as the agent's watch brings it.
fn object(uid: &str, sequence: i64, grant: Option<u32>) -> NodeFrequencies {
    let node_overhead = NodeOverhead { static_watts: 1248, percent: 4 };
    let spec = NodeFrequenciesSpec {
        node_name: "node-1".into(),
        epoch: Epoch { term: 1, sequence },
        power_limit_watts: grant,
        node_overhead,
        ..Default::default()
    };
    let mut object = NodeFrequencies::new("node-1", spec);
    object.metadata.uid = Some(uid.to_owned());
    object
}

#[test]
fn an_object_deleted_and_made_again_leaves_the_limits_standing_until_it_grants() {
    let accept = |object: &NodeFrequencies, held: Option<&Orders>| Orders::accept(object, "node-1", held);
    let orders = Arc::new(accept(&object("a", 7, Some(3000)), None).unwrap());
    let mut node = settled(&orders);
    let stood = node.stands();
    // Deleted, and there again with nothing in it: the orders in force stand.
    assert_eq!(accept(&object("b", 0, None), Some(&orders)), Err(Refusal::OrdersNothing));
    node.seconds(5, &orders, |node, _| assert!(no_higher(&node.stands(), &stood)));
    // An agent that begins with it touches nothing.
    let nothing = Arc::new(accept(&object("b", 0, None), None).unwrap());
    let mut begun = settled(&orders);
    begun.begin(&nothing);
    begun.seconds(5, &nothing, |node, plan| {
        assert!(plan.boards.is_empty() && plan.cpus.is_empty());
        assert_eq!(node.stands().0, stood.0);
    });
    // Its epochs begin anew.
    let lower = Arc::new(accept(&object("b", 1, Some(2600)), Some(&orders)).unwrap());
    node.seconds(5, &lower, |_, _| {});
    assert!(node.rack.power() <= OVERHEAD.envelope(Watts::new(2600)).as_f64());
    assert_eq!(node.status.acknowledged.unwrap().epoch.sequence, 1);
}

/// What the agent that begins on this journal knows.
fn left(folder: &Path, boot: &str) -> Originals {
    let (_journal, mut ownership) = journal::open(&folder.join("journal"), boot).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let ours = runtime.block_on(ownership.wait_for(|ownership| matches!(ownership, Ownership::Ours(_))));
    match &*ours.unwrap() {
        Ownership::Ours(originals) => Originals::clone(originals),
        other => panic!("{other:?}"),
    }
}

#[test]
fn an_agent_rolled_back_by_a_version_raises_nothing_and_releases_to_defaults() {
    let folder = tempfile::tempdir().unwrap();
    let later = image::line(&json!({"version": VERSION + 1, "boot": BOOT, "originals": {"GPU-1": [650, 1980]}}));
    fs::write(folder.path().join("journal"), later.unwrap()).unwrap();
    let orders = Arc::new(slowed(1, 3000));
    let mut node = settled(&orders);
    let stood = node.stands();
    node.journal = left(folder.path(), BOOT);
    assert_eq!(node.journal, Originals::unknown());
    node.begin(&orders);
    node.seconds(10, &orders, |node, _| assert!(no_higher(&node.stands(), &stood), "{:?}", node.stands()));
    let release = Arc::new(Orders { release: true, ..slowed(2, 3000) });
    node.seconds(6, &release, |_, plan| assert!(plan.account.to_defaults));
    assert_eq!((node.stands().0, node.stands().2), (vec![700; 3], Megahertz::new(3800)));
}

#[test]
fn rolled_back_and_forward_again_an_agent_finds_the_first_originals_unless_they_were_put_back() {
    let note = |uuid: &str, limit: Option<u32>| Note::Board { uuid: uuid.into(), limit: limit.map(Watts::new) };
    let first = [note("GPU-0", Some(650)), note("GPU-1", Some(700))];
    for released in [false, true] {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        let later = image::line(&json!({"version": VERSION + 1, "boot": BOOT}));
        fs::write(path("journal"), later.unwrap()).unwrap();
        // The earlier version touches a board that was touched before, and another one.
        let (journal, ownership) = journal::open(&path("journal"), BOOT).unwrap();
        // What is noted before the node is ours is nobody's if it is dropped.
        answer(&ownership);
        journal.note(&[note("GPU-1", None), note("GPU-2", None)]);
        journal.note(if released { &[Note::Released] } else { &[] });
        settles(&journal);
        drop(journal);
        assert_eq!(left(folder.path(), BOOT).boards.len(), if released { 0 } else { 2 });
        // To the later version its own format is readable.
        let head = Head { version: VERSION, boot: BOOT.into(), round: 7, complete: true, continues: false };
        fs::write(path("journal.newer"), image::file(&head, &first).unwrap()).unwrap();
        let known = left(folder.path(), BOOT);
        let limits: Vec<_> = known.boards.iter().map(|(uuid, board)| (&**uuid, board.limit)).collect();
        let expected = [("GPU-0", Some(Watts::new(650))), ("GPU-1", Some(Watts::new(700))), ("GPU-2", None)];
        assert_eq!((limits.as_slice(), known.complete), (&expected[..if released { 0 } else { 3 }], true));
        assert_eq!(left(folder.path(), BOOT), known, "and the life after it");
    }
}

/// What version 1 wrote, and every later one must read.
const VERSION_1: [&str; 4] = [
    r#"d9f658ed8702b292 {"version":1,"boot":"b","round":0,"complete":true}"#,
    r#"f1690a1bccadef66 {"round":0,"board":{"uuid":"GPU-0","limitMilliwatts":700000}}"#,
    r#"68e7733fe3befcff {"round":0,"lock":{"uuid":"GPU-0"}}"#,
    r#"d2137dd4c3231291 {"round":0,"cpu":{"policy":0,"ceilingMegahertz":3000}}"#,
];

#[test]
fn a_journal_of_version_1_is_read() {
    let folder = tempfile::tempdir().unwrap();
    let blanks = std::iter::repeat_n("", LINES - VERSION_1.len());
    let lines = VERSION_1.into_iter().chain(blanks).map(|line| format!("{line:<width$}\n", width = LINE - 1));
    fs::write(folder.path().join("journal"), lines.collect::<String>()).unwrap();
    let board = OriginalBoard { limit: Some(Watts::new(700)), locked: true };
    let originals = Originals {
        boards: [("GPU-0".into(), board)].into(),
        cpus: [(0, Some(Megahertz::new(3000)))].into(),
        complete: true,
    };
    assert_eq!(left(folder.path(), BOOT), originals);
}

#[test]
fn lines_and_fields_that_a_later_version_added_cost_no_original_that_is_understood() {
    let head = Head { version: VERSION, boot: BOOT.into(), round: 0, complete: true, continues: false };
    let added = |line: serde_json::Value| {
        let folder = tempfile::tempdir().unwrap();
        let mut bytes = image::file(&head, &[]).unwrap();
        for (at, line) in [line, json!({"round": 0, "lock": {"uuid": "GPU-0"}})].iter().enumerate() {
            bytes[(at + 1) * LINE..(at + 2) * LINE].copy_from_slice(&image::line(line).unwrap());
        }
        fs::write(folder.path().join("journal"), bytes).unwrap();
        left(folder.path(), BOOT)
    };
    let field = added(json!({"round": 0, "board": {"uuid": "GPU-0", "limitMilliwatts": 650_000, "by": "the BMC"}}));
    let board = OriginalBoard { limit: Some(Watts::new(650)), locked: true };
    assert_eq!((field.complete, field.boards["GPU-0"]), (true, board));
    let kind = added(json!({"round": 0, "fan": {"uuid": "GPU-0", "speed": 40}}));
    assert_eq!((kind.complete, kind.boards["GPU-0"].locked), (false, true), "something was touched");
}

#[test]
fn a_board_that_was_yielded_stays_so_over_a_restart_and_is_tried_again_later() {
    let orders = Arc::new(granted(1, 3000));
    let mut node = settled(&orders);
    node.rack.boards[2].fault = Fault { rival_ticks: 7, ..Fault::default() };
    node.seconds(20, &orders, |_, _| {});
    for _ in 0..3 {
        node.begin(&orders);
        node.seconds(20, &orders, |node, plan| {
            assert_eq!(plan.account.boards[2].reason, Reason::Contended);
            assert!(plan.boards.iter().all(|write| &*write.uuid != "GPU-2"), "fought again: {:?}", plan.boards);
            let others: u32 = node.stands().0[..2].iter().sum();
            assert!(Watts::new(others + 700) <= plan.account.boards_budget.unwrap(), "{others}");
        });
    }
    let mut tried_after = None;
    node.seconds(120, &orders, |node, plan| {
        if plan.boards.iter().any(|write| &*write.uuid == "GPU-2") {
            tried_after.get_or_insert(node.rack.age());
        }
    });
    assert_eq!(tried_after.map(|after| after.as_secs()), Some(120));
}

#[test]
fn a_board_that_ignores_limit_and_lock_counts_with_its_most_over_restarts() {
    let orders = Arc::new(granted(1, 2900));
    let mut node = Node::new(Rack::new(3, 0.0, 0.0, BUSY));
    node.rack.boards[0].fault = Fault { ignores_locks: true, ignores_limits: true, ..Fault::default() };
    node.begin(&orders);
    node.seconds(20, &orders, |_, _| {});
    for seconds in [1, 3, 5, 90] {
        node.begin(&orders);
        node.seconds(seconds, &orders, |node, plan| {
            assert_eq!(plan.account.boards[0].reason, Reason::WithoutEffect);
            assert!(node.rack.power() <= OVERHEAD.envelope(Watts::new(2900)).as_f64(), "{}", node.rack.power());
        });
    }
}

#[test]
fn a_restart_under_an_expired_lease_raises_nothing_whatever_the_object_says_by_then() {
    let terms = Terms { duration: Duration::from_secs(60), falls_back: false, fallback: None };
    let held = |orders| Orders { lease: Some(terms), ..orders };
    let mut orders = held(slowed(1, 3000));
    orders.boards.insert("GPU-1".into(), ceiling(None, Some(350)));
    orders.boards.insert("GPU-2".into(), ceiling(Some(1200), None));
    let orders = Arc::new(orders);
    let mut node = settled(&orders);
    node.led = false;
    node.seconds(70, &orders, |_, _| {});
    let stood = node.stands();
    let envelope = OVERHEAD.envelope(Watts::new(3000)).as_f64();
    // Somebody wrote more into the object, and nobody lives to stand by it.
    let more = Arc::new(held(granted(2, 5000)));
    for seconds in [5, 1, 2, 70] {
        node.begin(&more);
        // The CPUs take more: the boards make room inside the envelope of then.
        node.rack.cpu_watts += 30;
        let start = node.rack.now;
        node.seconds(seconds, &more, |node, plan| {
            assert_eq!(plan.account.restraint, Some(Reason::LeaseExpired));
            assert!(no_higher(&node.stands(), &stood), "{:?} of {stood:?}", node.stands());
            assert!(node.rack.power() <= envelope || node.rack.now - start <= Duration::from_millis(300));
        });
    }
    node.led = true;
    node.seconds(30, &more, |_, _| {});
    assert!(node.rack.power() > envelope + 300.0, "a live leader's word raises: {}", node.rack.power());
}

/// A grant with a lease of a minute and something to fall back to.
fn leased() -> Arc<Orders> {
    let fallback = Some(Watts::new(2600));
    let terms = Terms { duration: Duration::from_secs(60), falls_back: true, fallback };
    Arc::new(Orders { lease: Some(terms), ..granted(1, 3000) })
}

#[test]
fn an_agent_that_begins_anew_more_often_than_its_lease_lasts_falls_back_in_time() {
    let orders = leased();
    let mut node = settled(&orders);
    node.led = false;
    let silent_since = node.rack.now;
    // No life lives for a third of the lease, and none gets to write a status.
    let status = node.status.clone();
    for _ in 0..8 {
        node.status = status.clone();
        node.begin(&orders);
        node.seconds(17, &orders, |node, plan| {
            // The last renewal was up to two seconds before.
            let silent = node.rack.now - silent_since;
            let (early, late) = (Duration::from_secs(58), Duration::from_secs(61));
            let fallen_back = plan.account.restraint == Some(Reason::FallbackInForce);
            assert!(if fallen_back { silent > early } else { silent < late }, "{silent:?}");
        });
    }
    assert!(node.rack.power() <= OVERHEAD.envelope(Watts::new(2600)).as_f64());
    node.led = true;
    node.seconds(10, &orders, |_, _| {});
    assert_eq!(node.tick(&orders).account.restraint, None, "a live leader's word ends it");
}

#[test]
fn an_agent_that_was_away_for_longer_than_its_lease_listens_once_before_it_falls_back() {
    let orders = leased();
    for (led, restrained_at_the_end) in [(true, false), (false, true)] {
        let mut node = settled(&orders);
        node.led = led;
        node.rack.now += Duration::from_secs(300);
        node.begin(&orders);
        node.seconds(8, &orders, |_, plan| assert_eq!(plan.account.restraint, None));
        if !led {
            // A second life has no ten seconds of its own.
            node.begin(&orders);
            node.seconds(3, &orders, |_, _| {});
        }
        assert_eq!(node.tick(&orders).account.restraint.is_some(), restrained_at_the_end);
    }
}
