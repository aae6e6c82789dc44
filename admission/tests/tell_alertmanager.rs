//! What fires is what each Alertmanager believes, whatever becomes of it and of the messages: real HTTP on loopback.

use std::{
    collections::BTreeSet,
    sync::Arc,
    time::{Duration, Instant},
};

use jiff::Timestamp;
use powercap_admission::alerts::{Board, Metrics, Pace, Posting, follow};
use powercap_common::alert::{DOMAIN_ABOVE_CAP, Severity};
use powercap_process::CredentialFiles;
use prometheus_client::{encoding::text::encode, registry::Registry};
use proptest::{
    prelude::{Just, ProptestConfig, Strategy, prop_oneof, proptest},
    sample::subsequence,
};
use tokio::{sync::watch, task::JoinHandle};

use crate::receiver::{Mood, Receiver};

const PACE: Pace = Pace {
    resend: Duration::from_millis(50),
    retry: Duration::from_millis(10),
    retry_at_most: Duration::from_millis(40),
    patience: Duration::from_millis(150),
    look_up: Duration::from_millis(50),
};

const RACKS: [&str; 4] = ["r0", "r1", "r2", "r3"];

/// A sender under way, and the board that it tells from.
struct Sender {
    board: watch::Sender<Arc<Board>>,
    registry: Registry,
    task: JoinHandle<std::convert::Infallible>,
}

impl Sender {
    fn start(urls: &[String], files: CredentialFiles) -> Self {
        Self::at(PACE, urls, files)
    }

    fn at(pace: Pace, urls: &[String], files: CredentialFiles) -> Self {
        powercap_process::install_tls_provider();
        let (board, newest) = watch::channel(Arc::default());
        let urls: Vec<_> = urls.iter().map(|url| url.parse().unwrap()).collect();
        let mut registry = Registry::with_prefix("powercap_admission");
        let metrics = Metrics::register(&mut registry);
        let task = tokio::spawn(async move { follow(&urls, &files, pace, &newest, &metrics).await });
        Self { board, registry, task }
    }

    /// These fire from now on, and the others of [`RACKS`] have ended.
    fn write(&self, firing: &[&str]) {
        self.write_of(&RACKS, firing);
    }

    /// These of the racks fire from now on, the others of them have ended, and nothing is told of any other.
    fn write_of(&self, racks: &[&str], firing: &[&str]) {
        let now = Timestamp::now();
        let posting = |rack: &&str| Posting {
            labels: DOMAIN_ABOVE_CAP.labels(&[rack]),
            annotations: [("summary", DOMAIN_ABOVE_CAP.summary(&[rack]))].into(),
            severity: Severity::Critical,
            since: now,
            until: (!firing.contains(rack)).then_some(now),
        };
        self.board.send_replace(Arc::new(Board { postings: racks.iter().map(posting).collect(), left_out: 0 }));
    }

    /// How many messages had this result.
    fn messages(&self, result: &str) -> u64 {
        let mut text = String::new();
        encode(&mut text, &self.registry).unwrap();
        let series = format!("powercap_admission_alert_messages_total{{result=\"{result}\"}} ");
        text.lines().find_map(|line| line.strip_prefix(&series)?.parse().ok()).unwrap_or_default()
    }
}

impl Drop for Sender {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn eventually(claim: &str, mut holds: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !holds() {
        assert!(begun.elapsed() < Duration::from_secs(60), "not so: {claim}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

async fn comes_to_believe(receiver: &Receiver, firing: &[&str]) {
    let firing: BTreeSet<_> = firing.iter().map(|rack| (*rack).to_owned()).collect();
    eventually(&format!("{firing:?} and nothing else is believed"), || receiver.believes() == firing).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_alertmanager_is_told_what_begins_what_goes_on_and_what_ends() {
    let (one, two) = (Receiver::start(), Receiver::start());
    let sender = Sender::start(&[one.url(), two.url()], CredentialFiles::default());
    sender.write(&["r0", "r2"]);
    for receiver in [&one, &two] {
        comes_to_believe(receiver, &["r0", "r2"]).await;
    }
    // An alert that is not told again lapses: this one is.
    let first = one.believes_until("r0");
    eventually("it is told again", || one.believes_until("r0") > first + PACE.resend * 6).await;
    comes_to_believe(&one, &["r0", "r2"]).await;
    sender.write(&["r2"]);
    for receiver in [&one, &two] {
        comes_to_believe(receiver, &["r2"]).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_is_slow_or_away_delays_no_other_and_is_told_the_newest_when_it_is_back() {
    let (well, slow, mut away) = (Receiver::start(), Receiver::start(), Receiver::start());
    slow.be(Mood::Slow);
    away.go_away();
    let sender = Sender::start(&[slow.url(), away.url(), well.url()], CredentialFiles::default());
    for firing in [&["r0"][..], &["r1"], &["r1", "r3"]] {
        sender.write(firing);
        comes_to_believe(&well, firing).await;
    }
    eventually("time-outs and lost connections are counted", || {
        sender.messages("timeout") > 0 && sender.messages("unreachable") > 0
    })
    .await;
    away.come_back();
    comes_to_believe(&away, &["r1", "r3"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_alert_that_is_not_taken_keeps_no_other_back_and_is_not_sent_again() {
    let receiver = Receiver::start();
    receiver.heard.lock().unwrap().refuses = Some("r1");
    // A message that is answered too late would be sent again.
    let patient = Pace { patience: Duration::from_secs(60), ..PACE };
    let sender = Sender::at(patient, &[receiver.url()], CredentialFiles::default());
    sender.write(&RACKS);
    comes_to_believe(&receiver, &["r0", "r2", "r3"]).await;
    eventually("it was told again and again", || sender.messages("ok") > 10).await;
    comes_to_believe(&receiver, &["r0", "r2", "r3"]).await;
    // Once with the others, once by itself; perhaps so twice, if the board was read before it was written.
    assert!(receiver.heard.lock().unwrap().refused <= 4);
    // Once it is gone from the board, one of its labels is another.
    sender.write_of(&["elsewhere"], &["elsewhere"]);
    comes_to_believe(&receiver, &["elsewhere"]).await;
    receiver.heard.lock().unwrap().refuses = None;
    sender.write(&RACKS);
    comes_to_believe(&receiver, &RACKS).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_rotates_counts_at_once_and_one_that_is_gone_is_said() {
    let receiver = Receiver::start();
    let token = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(token.path(), "first\n").unwrap();
    let path = token.path().to_owned();
    let sender = Sender::start(&[receiver.url()], CredentialFiles { token: Some(path), ..CredentialFiles::default() });
    sender.write(&["r0"]);
    let came = |word: &str| receiver.heard.lock().unwrap().tokens.contains(word);
    eventually("the first token comes", || came("Bearer first")).await;
    std::fs::write(token.path(), "second\n").unwrap();
    eventually("the second token comes", || came("Bearer second")).await;
    drop(token);
    eventually("the missing file is counted", || sender.messages("file") > 0).await;
}

/// What may happen between.
#[derive(Clone, Debug)]
enum Event {
    Write(Vec<&'static str>),
    Be(Mood),
    GoAway,
    ComeBack,
    Restart,
}

fn event() -> impl Strategy<Value = (Event, u64)> {
    let write = || subsequence(RACKS.to_vec(), 0..=RACKS.len()).prop_map(Event::Write);
    let mood = prop_oneof![Just(Mood::Well), Just(Mood::Slow), Just(Mood::Broken)].prop_map(Event::Be);
    let other = prop_oneof![mood, Just(Event::GoAway), Just(Event::ComeBack), Just(Event::Restart)];
    (prop_oneof![write(), other], 0..80_u64)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn whatever_the_order_of_faults_what_fires_at_the_end_is_what_is_believed(
        events in proptest::collection::vec(event(), 1..12),
        last in subsequence(RACKS.to_vec(), 0..=RACKS.len()),
    ) {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        runtime.block_on(async {
            let mut receiver = Receiver::start();
            let sender = Sender::start(&[receiver.url()], CredentialFiles::default());
            for (event, milliseconds) in events {
                match event {
                    Event::Write(firing) => sender.write(&firing),
                    Event::Be(mood) => receiver.be(mood),
                    Event::GoAway => receiver.go_away(),
                    Event::ComeBack => receiver.come_back(),
                    Event::Restart => receiver.restart(),
                }
                tokio::time::sleep(Duration::from_millis(milliseconds)).await;
            }
            sender.write(&last);
            receiver.be(Mood::Well);
            receiver.come_back();
            comes_to_believe(&receiver, &last).await;
            tokio::time::sleep(PACE.resend * 5).await;
            comes_to_believe(&receiver, &last).await;
        });
    }
}
