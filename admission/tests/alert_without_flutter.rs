//! From looks to alerts: when one begins, when it ends, and what is told of it.

use clap::Parser;
use jiff::{SignedDuration, Timestamp};
use powercap_admission::alerts::{AlertFlags, Board, Findings, Key, Look, Standing};
use powercap_common::alert::{ADMITTED_WITHOUT_HEADROOM, Alert, DOMAIN_ABOVE_CAP, DOMAIN_BRAKED};
use proptest::prelude::{any, prop_assert, proptest};

/// Alert flags by themselves.
#[derive(Parser)]
struct Flags {
    #[command(flatten)]
    alerts: AlertFlags,
}

fn flags(arguments: &[&str]) -> AlertFlags {
    Flags::try_parse_from(["admission"].iter().chain(arguments)).unwrap().alerts
}

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(1_800_000_000 + second).unwrap()
}

/// What is made of these looks at one alert (so, not so, unknown), one each five seconds: what fires (`!`), what is
/// told as resolved (`.`), and what is not told at all (space).
fn course(alert: &'static Alert, looks: &str) -> String {
    let mut standing = Standing::default();
    let step = |(turn, look): (usize, char)| {
        let key = Key { alert, subject: vec!["rack".to_owned()] };
        let look = match look {
            's' => Some(Look::So("it is so".to_owned())),
            '?' => Some(Look::Unknown),
            _ => None,
        };
        let findings: Findings = look.map(|look| (key, look)).into_iter().collect();
        standing.step(findings, at(5 * i64::try_from(turn).unwrap()));
        match standing.episodes().next() {
            None => ' ',
            Some((_, episode)) if episode.until.is_none() => '!',
            Some(_) => '.',
        }
    };
    looks.chars().enumerate().map(step).collect()
}

#[test]
fn an_alert_begins_when_it_has_been_so_for_a_while_and_ends_when_it_has_not() {
    assert_eq!((DOMAIN_ABOVE_CAP.hold_seconds, DOMAIN_ABOVE_CAP.keep_seconds), (10, 60));
    for (looks, told) in [
        ("ss-", "   "),
        ("sss", "  !"),
        ("ss-sss", "     !"),
        // For sixty seconds it stays.
        ("sss-----------", "  !!!!!!!!!!!!"),
        ("sss------------", "  !!!!!!!!!!!!."),
        // What comes back within them is the same alert.
        ("sss-----s------------", "  !!!!!!!!!!!!!!!!!!."),
    ] {
        assert_eq!(course(&DOMAIN_ABOVE_CAP, looks), told, "{looks}");
    }
}

#[test]
fn while_nobody_can_tell_it_stays_as_it_is() {
    for (looks, told) in [
        ("ss???????", "         "),
        ("ss?s", "    "),
        ("sss????????????????", "  !!!!!!!!!!!!!!!!!"),
        ("sss??????????????------------", "  !!!!!!!!!!!!!!!!!!!!!!!!!!."),
    ] {
        assert_eq!(course(&DOMAIN_ABOVE_CAP, looks), told, "{looks}");
    }
}

#[test]
fn a_resolved_one_is_told_of_for_ten_minutes_to_those_who_were_away() {
    let told = course(&DOMAIN_BRAKED, &format!("s{}", "-".repeat(200)));
    assert_eq!(told.matches('.').count(), 121);
    assert!(told.ends_with(' '));
}

#[test]
fn what_another_replica_may_know_better_lapses_without_a_word() {
    assert_eq!(course(&ADMITTED_WITHOUT_HEADROOM, "ss---"), "!!   ");
}

#[test]
fn what_changes_is_no_label_and_the_flags_labels_are_on_every_alert() {
    let mut standing = Standing::default();
    let flags = flags(&["--alert-label", "cluster=north", "--runbooks-url", "https://runbooks.example/"]);
    let mut boards = Vec::new();
    for (turn, words) in [(0, "1200 W"), (10, "1300 W"), (20, "1400 W")] {
        let key = Key { alert: &DOMAIN_ABOVE_CAP, subject: vec!["rack".to_owned()] };
        standing.step([(key, Look::So(words.to_owned()))].into(), at(turn));
        boards.push(Board::of(&standing, &flags));
    }
    assert!(boards[0].postings.is_empty() && !boards[0].tells_the_same(&boards[1]));
    assert!(boards[1].tells_the_same(&boards[2]) && boards[1] != boards[2], "watts are news for nobody's pager");
    let posting = serde_json::to_value(boards[2].postings[0].message(at(25), SignedDuration::from_secs(240))).unwrap();
    assert_eq!(
        posting,
        serde_json::json!({
            "labels": {"alertname": "PowerDomainAboveCap", "severity": "critical", "domain": "rack", "cluster": "north"},
            "annotations": {
                "summary": "Power domain rack draws more than its cap",
                "description": "1400 W",
                "runbook_url": "https://runbooks.example/PowerDomainAboveCap.md",
            },
            "startsAt": at(10).to_string(),
            "endsAt": at(265).to_string(),
        })
    );
}

#[test]
fn of_too_many_the_gravest_are_told() {
    let mut standing = Standing::default();
    let names = (0..1500).map(|number| format!("rack-{number}"));
    let mut findings: Findings = names
        .map(|name| (Key { alert: &ADMITTED_WITHOUT_HEADROOM, subject: vec![name] }, Look::So(String::new())))
        .collect();
    let grave = Key { alert: &DOMAIN_BRAKED, subject: vec!["zzz".to_owned()] };
    findings.insert(grave, Look::So(String::new()));
    standing.step(findings, at(0));
    let board = Board::of(&standing, &flags(&[]));
    assert_eq!((board.postings.len(), board.left_out), (1000, 501));
    assert_eq!(board.postings[0].labels["alertname"], "PowerDomainBraked");
}

#[test]
fn flags_that_would_send_to_nobody_or_change_what_an_alert_is_are_refused() {
    for wrong in [
        ["--alertmanager-url", "alertmanager:9093"],
        ["--alertmanager-url", "ftp://alertmanager"],
        ["--alert-label", "cluster"],
        ["--alert-label", "cluster="],
        ["--alert-label", "1st=x"],
        ["--alert-label", "severity=info"],
        ["--alertmanager-client-key-file", "tls.key"],
    ] {
        assert!(Flags::try_parse_from(["admission"].iter().chain(&wrong)).is_err(), "{wrong:?}");
    }
    assert_eq!(
        flags(&["--alertmanager-url", "http://a:1", "--alertmanager-url", "https://b"]).alertmanager_urls.len(),
        2
    );
}

proptest! {
    /// An alert never begins sooner than its hold after it was last not so, nor ends sooner than its keep after it was so.
    #[test]
    fn however_it_flutters_holds_and_keeps_are_kept(looks in proptest::collection::vec(any::<bool>(), 1..120)) {
        let text: String = looks.iter().map(|so| if *so { 's' } else { '-' }).collect();
        let told: Vec<_> = course(&DOMAIN_ABOVE_CAP, &text).chars().collect();
        for turn in 1..told.len() {
            match (told[turn - 1], told[turn]) {
                (' ' | '.', '!') => prop_assert!(turn >= 2 && looks[turn - 2..=turn].iter().all(|so| *so)),
                ('!', ' ' | '.') => prop_assert!(turn >= 12 && looks[turn - 11..=turn].iter().all(|so| !*so)),
                _ => {}
            }
        }
    }
}
