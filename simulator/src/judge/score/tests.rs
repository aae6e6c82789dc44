use super::super::record::NodeSample;
use super::*;
use crate::judge::record::NodePower;

/// Microseconds of a second of the run.
fn us(seconds: f64) -> u64 {
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "small and positive")]
    let us = (seconds * 1e6).round() as u64;
    1_000_000_000 + us
}

fn event(at: f64, kind: EventKind) -> Event {
    Event { wall_us: us(at), kind }
}

/// A record of 20 Hz over nodes whose power is a function of time; `None` is stalled.
fn record(until: f64, nodes: &[&dyn Fn(f64) -> Option<f64>]) -> Vec<Sample> {
    let mut energy = vec![0.0; nodes.len()];
    let mut work = 0.0;
    let (mut at, mut samples) = (0.0, Vec::new());
    while at < until {
        let mut seen = Vec::new();
        for (index, node) in nodes.iter().enumerate() {
            let power = node(at).map(|watts| {
                energy[index] += watts * 0.05;
                NodePower {
                    stamped_us: us(at),
                    ac_watts: watts,
                    ac_joules: energy[index],
                    work_seconds: vec![work],
                    utilisation: vec![1.0],
                    ..NodePower::default()
                }
            });
            seen.push(NodeSample { node: format!("n{index}"), stalled: power.is_none(), power });
        }
        samples.push(Sample { wall_us: us(at), nodes: seen });
        work += if at < 10.0 { 0.05 } else { 0.04 };
        at += 0.05;
    }
    samples
}

fn cap(at: f64, cap_watts: f64) -> Event {
    event(at, EventKind::CapChanged { cap_watts })
}

#[test]
fn power_that_falls_after_an_edit_is_timed_by_the_mean_of_a_second() {
    let samples = record(60.0, &[&|at| Some(if at < 21.0 { 5000.0 } else { 3900.0 })]);
    let score = score(&samples, &[cap(5.0, 6000.0), cap(20.0, 4000.0)]);
    // Under the first cap at once; under the second when the window has left the old power behind.
    let under = score.under_cap_s.unwrap();
    assert!((1.8..2.05).contains(&under), "{under}");
}

#[test]
fn power_that_comes_back_was_not_under_the_cap() {
    let samples = record(60.0, &[&|at| Some(if at < 21.0 || (25.0..28.0).contains(&at) { 5000.0 } else { 3900.0 })]);
    let under = score(&samples, &[cap(0.0, 9000.0), cap(20.0, 4000.0)]).under_cap_s.unwrap();
    assert!((8.5..9.1).contains(&under), "{under}");
    let never = record(60.0, &[&|_| Some(5000.0)]);
    assert_eq!(score(&never, &[cap(0.0, 9000.0), cap(20.0, 4000.0)]).under_cap_s, None);
}

#[test]
fn time_above_counts_from_the_acknowledgement_and_outside_edits() {
    let above = |at: f64| {
        Some(if (10.0..12.0).contains(&at) || (30.0..34.0).contains(&at) || (45.0..46.0).contains(&at) {
            5000.0
        } else {
            3000.0
        })
    };
    let samples = record(60.0, &[&above]);
    // 10–12 is before the acknowledgement counts, 30–33 is the edit's own time, 45–46 counts and lingers in the mean.
    let events =
        [event(0.0, EventKind::Start), cap(1.0, 4900.0), event(13.0, EventKind::Acknowledged), cap(30.0, 4800.0)];
    let seen = score(&samples, &events);
    let expected = 1.0 + 0.1 + 0.1;
    assert!((seen.above_cap_s.unwrap() - expected).abs() < 0.3, "{seen:?}");
    assert!((seen.worst_above_watts.unwrap() - 200.0).abs() < 1.0);
    // Without an acknowledgement it counts from 30 s after the start.
    let late = score(&samples, &[event(0.0, EventKind::Start), cap(1.0, 4900.0)]);
    assert!((late.judged_s - 30.0).abs() < 0.2, "{late:?}");
}

#[test]
fn a_stalled_node_makes_seconds_unknown_not_good() {
    let samples = record(
        60.0,
        &[&|_| Some(3000.0), &|at| {
            if (40.0..42.0).contains(&at) { None } else { Some(500.0) }
        }],
    );
    let seen = score(&samples, &[event(0.0, EventKind::Start), cap(0.0, 4000.0)]);
    assert_eq!(seen.above_cap_s, Some(0.0));
    assert!((seen.unknown_s - 3.0).abs() < 0.2, "{seen:?}");
    let stalled = record(60.0, &[&|_| None]);
    assert_eq!(score(&stalled, &[cap(0.0, 9000.0), cap(9.0, 4000.0)]).under_cap_s, None);
}

#[test]
fn a_load_step_is_over_when_every_node_is_within_its_grant() {
    let calm = |_: f64| Some(1000.0);
    let jumps = |at: f64| Some(if (20.0..20.6).contains(&at) { 4000.0 } else { 2000.0 });
    let samples = record(60.0, &[&calm, &jumps]);
    let grants = [("n0", 1500.0), ("n1", 2500.0)]
        .map(|(node, watts)| event(1.0, EventKind::Granted { node: node.to_owned(), watts }));
    let mut events = vec![event(20.0, EventKind::LoadStep)];
    assert_eq!(score(&samples, &events).step_s, None, "without grants there is nothing to be within");
    events.extend(grants);
    let step = score(&samples, &events).step_s.unwrap();
    assert!((1.2..1.6).contains(&step), "{step}");
}

#[test]
fn work_kept_is_over_full_speed_while_busy() {
    let samples = record(60.0, &[&|_| Some(1000.0)]);
    let events = [event(11.0, EventKind::Start), cap(11.0, 2000.0), event(12.0, EventKind::Acknowledged)];
    assert!((score(&samples, &events).work_kept.unwrap() - 0.8).abs() < 0.01);
    assert_eq!(score(&samples, &events[..1]).work_kept, None, "without a cap nothing is judged");
}

#[test]
fn an_empty_record_scores_nothing() {
    assert_eq!(score(&[], &[cap(1.0, 1.0)]), Score::default());
}
