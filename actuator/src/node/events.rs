//! Which changes of the status are worth an event on the Node: pure.
//!
//! What must hold: of one device (or the node) the same reason is told once in five minutes; what many
//! devices meet within a second is one event; however a node flutters, its events stay few.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    fmt::Write as _,
    time::Duration,
};

use powercap_common::{
    api::{GpuStatus, NodeFrequenciesStatus},
    condition,
    reason::Reason,
};

use super::status::Statement;

/// The same of the same device is not told again within this.
const TOLD_FOR: Duration = Duration::from_secs(300);
/// What comes within this is told together.
const BURST: Duration = Duration::from_secs(1);
/// At most so many events within [`TOLD_FOR`].
const MOST_EVENTS: usize = 20;
/// So many devices are named in one event.
const MOST_NAMED: usize = 8;
/// The API allows 1,024 bytes.
const LONGEST_NOTE: usize = 1000;

/// An event to be written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Notice {
    /// Why: the word of condition, status, metric and log.
    pub reason: Reason,
    /// Somebody should look.
    pub warning: bool,
    /// For people.
    pub note: String,
}

/// What the last statement said, and what was told of it.
#[derive(Debug, Default)]
pub struct Chronicle {
    /// Of the node (`None`) and of each device by UUID, the reason last stated.
    stated: BTreeMap<Subject, Reason>,
    told: BTreeMap<(Subject, Reason), Duration>,
    pending: BTreeMap<Reason, Pending>,
    written: VecDeque<Duration>,
    suppressed: u64,
}

/// A device by its UUID; `None`: the node.
type Subject = Option<String>;

#[derive(Debug)]
struct Pending {
    since: Duration,
    devices: BTreeSet<String>,
    /// Of the node, for people.
    message: Option<String>,
}

impl Chronicle {
    /// Begins with what an earlier life of this agent had reported: only what differs is news.
    #[must_use]
    pub fn after(earlier: &NodeFrequenciesStatus) -> Self {
        let ready = earlier.conditions.iter().find(|condition| condition.type_ == condition::kind::READY);
        let of_node = ready.and_then(|ready| Some((None, ready.reason.parse().ok()?)));
        let of_gpus = earlier.gpus.iter().filter_map(|gpu| Some((Some(gpu.uuid.clone()), gpu.reason.parse().ok()?)));
        Self { stated: of_gpus.chain(of_node).collect(), ..Self::default() }
    }

    /// Takes in a statement, and says what is to be written now.
    pub fn next(&mut self, statement: &Statement, now: Duration) -> Vec<Notice> {
        let news: Vec<_> = statement.status.gpus.iter().filter_map(|gpu| self.of_gpu(gpu)).collect();
        for (uuid, reason) in news {
            self.tell(Some(uuid), reason, None, now);
        }
        let ready = &statement.ready;
        if self.changes(None, ready.reason) {
            self.tell(None, ready.reason, Some(&ready.message), now);
        }
        self.told.retain(|_, told| now.saturating_sub(*told) < TOLD_FOR);
        self.written.retain(|written| now.saturating_sub(*written) < TOLD_FOR);
        self.due(now)
    }

    /// How many were not told, since the last time this was asked.
    pub fn suppressed(&mut self) -> u64 {
        std::mem::take(&mut self.suppressed)
    }

    fn of_gpu(&mut self, gpu: &GpuStatus) -> Option<(String, Reason)> {
        let reason = gpu.reason.parse().ok()?;
        // A release is told of the node: its boards follow step by step.
        let news = self.changes(Some(&gpu.uuid), reason) && reason != Reason::Released;
        news.then(|| (gpu.uuid.clone(), reason))
    }

    /// Whether this differs from what was stated last in a way that is worth telling.
    fn changes(&mut self, device: Option<&str>, reason: Reason) -> bool {
        let subject = device.map(str::to_owned);
        let before = self.stated.insert(subject, reason);
        if before == Some(reason) {
            return false;
        }
        match weight(reason) {
            Weight::Trouble | Weight::Turn => true,
            // From one cap to the next is everyday life, and so is running without one.
            Weight::Capped => !before.is_some_and(|before| weight(before) == Weight::Capped),
            Weight::Everyday => before.is_some_and(|before| weight(before) == Weight::Trouble),
        }
    }

    fn tell(&mut self, subject: Subject, reason: Reason, message: Option<&str>, now: Duration) {
        let key = (subject, reason);
        if self.told.contains_key(&key) {
            self.suppressed += 1;
            return;
        }
        let pending = self.pending.entry(reason).or_insert_with(|| Pending {
            since: now,
            devices: BTreeSet::new(),
            message: None,
        });
        pending.devices.extend(key.0.clone());
        pending.message = message.map(str::to_owned).or(pending.message.take());
        self.told.insert(key, now);
    }

    fn due(&mut self, now: Duration) -> Vec<Notice> {
        let due: Vec<_> =
            self.pending.extract_if(.., |_, pending| now.saturating_sub(pending.since) >= BURST).collect();
        let mut notices = Vec::new();
        for (reason, pending) in due {
            if self.written.len() >= MOST_EVENTS {
                self.suppressed += 1;
                continue;
            }
            self.written.push_back(now);
            notices.push(Notice { reason, warning: weight(reason) == Weight::Trouble, note: note(reason, &pending) });
        }
        notices
    }
}

/// What a reason means to somebody who looks at the node's events.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Weight {
    /// Somebody should look.
    Trouble,
    /// Something ended, or was begun by a person.
    Turn,
    /// A ceiling is held.
    Capped,
    /// Everything else; told only at the end of trouble.
    Everyday,
}

const fn weight(reason: Reason) -> Weight {
    match reason {
        Reason::WriteFailed
        | Reason::ReadFailed
        | Reason::PermissionDenied
        | Reason::UnknownDevice
        | Reason::InvalidSpec
        | Reason::CapBelowFloor
        | Reason::LeaseExpired
        | Reason::FallbackInForce
        | Reason::BrakePulled
        | Reason::PowerStaysAboveCap
        | Reason::Drifted
        | Reason::Contended
        | Reason::WithoutEffect
        | Reason::Quarantined
        | Reason::AnotherAgent
        | Reason::JournalUnavailable => Weight::Trouble,
        Reason::Released | Reason::DevicesLetGo => Weight::Turn,
        Reason::PolicyCap
        | Reason::DomainCap
        | Reason::EnvelopeReached
        | Reason::DeviceLimitReached
        | Reason::GroupFollows => Weight::Capped,
        _ => Weight::Everyday,
    }
}

fn note(reason: Reason, pending: &Pending) -> String {
    let mut note = String::new();
    let named: Vec<_> = pending.devices.iter().take(MOST_NAMED).map(String::as_str).collect();
    if !named.is_empty() {
        note.push_str(&named.join(", "));
        let others = pending.devices.len() - named.len();
        if others > 0 {
            let _ = write!(note, " and {others} more");
        }
        note.push_str(": ");
    }
    note.push_str(pending.message.as_deref().filter(|message| !message.is_empty()).unwrap_or(reason.explanation()));
    note.truncate(note.floor_char_boundary(LONGEST_NOTE));
    note
}

#[cfg(test)]
mod tests {
    use powercap_common::condition::Truth;

    use super::*;
    use crate::node::status::Verdict;

    fn statement(ready: Reason, gpus: &[Reason]) -> Statement {
        let gpu = |(at, reason): (usize, &Reason)| GpuStatus {
            uuid: format!("GPU-{at}"),
            reason: reason.as_str().into(),
            ..GpuStatus::default()
        };
        let status = NodeFrequenciesStatus { gpus: gpus.iter().enumerate().map(gpu).collect(), ..Default::default() };
        let message = if ready == Reason::Enforcing { String::new() } else { format!("because of {ready}") };
        Statement { status, ready: Verdict { truth: Truth::True, reason: ready, message }, lease: None }
    }

    /// What is told of these statements, one each tenth of a second, and for two seconds after the last.
    fn told(statements: &[Statement]) -> (Vec<Notice>, u64) {
        let mut chronicle = Chronicle::default();
        let mut notices = Vec::new();
        let last = statements.last().unwrap();
        for (at, statement) in statements.iter().chain(std::iter::repeat_n(last, 20)).enumerate() {
            notices.extend(chronicle.next(statement, Duration::from_millis(100) * u32::try_from(at).unwrap()));
        }
        (notices, chronicle.suppressed())
    }

    fn reasons(notices: &[Notice]) -> Vec<Reason> {
        notices.iter().map(|notice| notice.reason).collect()
    }

    const CALM: [Reason; 8] = [Reason::Applied; 8];

    #[test]
    fn eight_boards_that_are_capped_within_a_second_are_one_event() {
        let mut statements = vec![statement(Reason::Enforcing, &CALM)];
        let mut boards = CALM;
        for at in 0..8 {
            boards[at] = Reason::DomainCap;
            statements.push(statement(Reason::Enforcing, &boards));
        }
        let (notices, _) = told(&statements);
        assert_eq!(reasons(&notices), [Reason::DomainCap]);
        assert!(!notices[0].warning && notices[0].note.starts_with("GPU-0, GPU-1, "), "{notices:?}");
        assert!(notices[0].note.ends_with(": The ceiling serves a PowerDomain."));
    }

    #[test]
    fn a_board_that_flutters_for_an_hour_is_told_of_once_in_five_minutes() {
        let mut chronicle = Chronicle::default();
        let mut notices = Vec::new();
        for tenth in 0..36_000_u32 {
            let reason = if tenth % 2 == 0 { Reason::Drifted } else { Reason::Applied };
            let now = Duration::from_millis(100) * tenth;
            notices.extend(chronicle.next(&statement(Reason::Enforcing, &[reason]), now));
        }
        let drifts = notices.iter().filter(|notice| notice.reason == Reason::Drifted).count();
        assert!((12..=13).contains(&drifts), "{drifts}");
        assert!(notices.len() <= 26, "{}", notices.len());
        assert!(chronicle.suppressed() > 30_000);
    }

    #[test]
    fn many_boards_that_flutter_apart_stay_few_events() {
        let mut chronicle = Chronicle::default();
        let mut count = 0;
        for second in 0..300_u32 {
            let mut boards = [Reason::Applied; 64];
            boards[(second as usize / 2) % 64] = if second % 2 == 0 { Reason::Drifted } else { Reason::WriteFailed };
            count += chronicle.next(&statement(Reason::Enforcing, &boards), Duration::from_secs(second.into())).len();
        }
        assert_eq!(count, MOST_EVENTS);
    }

    #[test]
    fn from_one_cap_to_another_is_no_news_and_trouble_and_its_end_are() {
        let node = |reason| statement(reason, &[]);
        let gpu = |reason| statement(Reason::Enforcing, &[reason]);
        for (statements, expected) in [
            (vec![gpu(Reason::PolicyCap), gpu(Reason::EnvelopeReached)], vec![Reason::PolicyCap]),
            (vec![gpu(Reason::Applied), gpu(Reason::Pending), gpu(Reason::Applied)], vec![]),
            (vec![gpu(Reason::Applied), gpu(Reason::Quarantined)], vec![Reason::Quarantined]),
            (
                vec![gpu(Reason::Applied), gpu(Reason::Contended), gpu(Reason::Applied)],
                vec![Reason::Contended, Reason::Applied],
            ),
            (
                vec![node(Reason::Enforcing), node(Reason::BrakePulled), node(Reason::Enforcing)],
                vec![Reason::BrakePulled, Reason::Enforcing],
            ),
            (vec![node(Reason::Enforcing), node(Reason::Released)], vec![Reason::Released]),
            (vec![gpu(Reason::PolicyCap), gpu(Reason::Released)], vec![Reason::PolicyCap]),
        ] {
            assert_eq!(reasons(&told(&statements).0), expected);
        }
    }

    #[test]
    fn trouble_warns_and_says_what_the_condition_says() {
        let (notices, _) = told(&[statement(Reason::BrakePulled, &[])]);
        let note = "because of BrakePulled".to_owned();
        assert_eq!(notices, [Notice { reason: Reason::BrakePulled, warning: true, note }]);
    }

    #[test]
    fn what_an_earlier_life_reported_is_no_news() {
        let earlier = statement(Reason::Enforcing, &[Reason::PolicyCap, Reason::Quarantined]).status;
        let mut chronicle = Chronicle::after(&earlier);
        let now = statement(Reason::Enforcing, &[Reason::PolicyCap, Reason::Quarantined]);
        for second in 0..5 {
            assert_eq!(chronicle.next(&now, Duration::from_secs(second)), []);
        }
    }
}
