//! A pod is moved to a node outside of the domain in need: its place is held first, and one pod is evicted, once.

use powercap_actuator::escalate::{decide::What, migrate::facts::Move};
use powercap_common::reason::Reason;
use serde_json::json;

use crate::migration::Site;

#[test]
fn a_place_is_held_then_the_source_is_tainted_then_the_pod_is_evicted_then_the_place_is_given_up() {
    let mut site = Site::new();
    let moves = site.run(0, 60, |_, _| {});
    assert_eq!(
        moves,
        ["hold place-uid-chat-1-1 on n2", "taint n1", "evict chat-1", "give up place-uid-chat-1-1", "untaint n1"]
    );
    assert_eq!(site.node_of("chat-1-again"), Some("n2"));
    assert_eq!(site.left(), "", "nothing of it is left");
}

#[test]
fn whoever_leads_after_a_death_at_any_write_comes_to_the_same_end_with_one_eviction() {
    for survives in 0..24 {
        let mut site = Site::new();
        site.dies_after(survives);
        let moves = site.run(0, 200, |_, _| {});
        let evictions = moves.iter().filter(|made| made.starts_with("evict")).count();
        assert_eq!(evictions, 1, "killed after {survives} writes: {moves:?}");
        assert_eq!(site.node_of("chat-1-again"), Some("n2"), "killed after {survives} writes: {moves:?}");
        assert_eq!(site.left(), "", "killed after {survives} writes: {moves:?}");
    }
}

#[test]
fn a_destination_that_fills_up_is_left_for_the_next_one_and_after_three_the_pod_stays() {
    let mut site = Site::new();
    site.full = vec!["n2".into()];
    let moves = site.run(0, 120, |_, _| {});
    assert_eq!(moves[0], "hold place-uid-chat-1-1 on n2");
    assert_eq!(moves[1], "hold place-uid-chat-1-2 on n3");
    assert!(moves.contains(&"give up place-uid-chat-1-1".to_owned()), "{moves:?}");
    assert_eq!(site.node_of("chat-1-again"), Some("n3"));

    let mut site = Site::new();
    site.full = ["n2", "n3", "n4", "n5"].map(str::to_owned).to_vec();
    let moves = site.run(0, 300, |_, _| {});
    let held = moves.iter().filter(|made| made.starts_with("hold")).count();
    assert_eq!((held, moves.last().unwrap().as_str()), (3, "abandon place-uid-chat-1-3"), "{moves:?}");
    assert_eq!(site.node_of("chat-1"), Some("n1"), "it was not touched");
    assert_eq!((site.left(), site.said()), (String::new(), "MigrationFailed".into()));
}

#[test]
fn a_place_that_is_stolen_three_times_is_given_up_and_the_source_takes_the_pod_back() {
    let mut site = Site::new();
    site.thieves = 3;
    let moves = site.run(0, 300, |_, _| {});
    let held = moves.iter().filter(|made| made.starts_with("hold")).count();
    assert_eq!(held, 3, "{moves:?}");
    assert_eq!(moves.iter().filter(|made| made.starts_with("evict")).count(), 1, "{moves:?}");
    assert_eq!(site.node_of("chat-1-again"), Some("n1"), "where its old place is free: {moves:?}");
    assert_eq!(site.left(), "");
}

#[test]
fn a_replacement_that_never_becomes_ready_is_waited_for_ten_minutes_and_nothing_is_left() {
    let mut site = Site::new();
    site.never_ready = true;
    site.run(0, 500, |_, _| {});
    assert!(site.migrates(), "it is waited for");
    let moves = site.run(500, 700, |_, _| {});
    assert!(!site.migrates());
    assert_eq!((site.left(), moves.iter().filter(|made| made.starts_with("evict")).count()), (String::new(), 0));
}

#[test]
fn what_a_rollout_makes_in_the_place_of_the_replacement_is_waited_for_as_that_was() {
    let mut site = Site::new();
    let mut over = false;
    let moves = site.run(0, 120, |site, now| {
        if !over && site.node_of("chat-1-again").is_none() && site.replaced() {
            site.roll_out(now);
            over = true;
        }
    });
    assert_eq!(
        moves,
        ["hold place-uid-chat-1-1 on n2", "taint n1", "evict chat-1", "give up place-uid-chat-1-1", "untaint n1"]
    );
    assert_eq!((site.node_of("chat-1-new"), site.left()), (Some("n2"), String::new()));
    let told = |reason: &str| site.told.iter().any(|told| told == reason);
    assert!(told("Migrated") && !told("MigrationFailed"), "{:?}", site.told);
}

#[test]
fn a_pod_that_goes_before_it_is_moved_is_no_failure() {
    let mut site = Site::new();
    let moves = site.run(0, 60, |site, now| {
        if now == 1 {
            site.pod_goes();
        }
    });
    assert_eq!(moves, ["hold place-uid-chat-1-1 on n2", "abandon place-uid-chat-1-1"]);
    let told = |reason: &str| site.told.iter().any(|told| told == reason);
    assert!(told("GoneByItself") && !told("MigrationFailed"), "{:?}", site.told);
}

#[test]
fn a_place_that_somebody_preempts_is_held_on_the_next_node() {
    let mut site = Site::new();
    let moves = site.run(0, 60, |site, now| {
        if now == 1 {
            site.preempt("place-uid-chat-1-1");
        }
    });
    assert_eq!(moves[..2], ["hold place-uid-chat-1-1 on n2", "hold place-uid-chat-1-2 on n3"]);
    assert_eq!((site.node_of("chat-1-again"), site.left()), (Some("n3"), String::new()), "{moves:?}");
}

#[test]
fn what_must_not_be_evicted_any_more_keeps_its_place_and_loses_the_other() {
    for (what, change) in [
        ("a budget forbids it", Site::forbid as fn(&mut Site)),
        ("nobody asks for it", Site::content),
        ("it is no longer permitted", Site::throttle_only),
        ("the policy is gone", Site::no_policy),
        ("the pod went by itself", Site::pod_goes),
    ] {
        for second in [1, 2, 3] {
            let mut site = Site::new();
            let moves = site.run(0, 200, |site, now| {
                if now == second {
                    change(site);
                }
            });
            let evicted = moves.iter().any(|made| made.starts_with("evict"));
            assert!(!evicted || second == 3, "{what} after {second} s: {moves:?}");
            assert_eq!(site.left(), "", "{what} after {second} s: {moves:?}");
        }
    }
}

#[test]
fn while_nobody_decides_or_admits_nothing_begins_and_the_pod_stays() {
    let mut site = Site::new();
    let moves = site.run(0, 60, |site, now| {
        if now == 1 {
            site.seen.halted = Some(Reason::AdmissionSilent);
        }
    });
    assert_eq!(moves, ["hold place-uid-chat-1-1 on n2"]);
    assert_eq!((site.node_of("chat-1"), site.said()), (Some("n1"), "AdmissionSilent".into()));
}

#[test]
fn only_a_node_outside_with_room_and_watts_is_a_destination() {
    let to = |change: fn(&mut Site)| {
        let mut site = Site::new();
        change(&mut site);
        let plan = site.decide(0);
        let held = plan.steps.first().map(|step| match &step.what {
            What::Migrate(Move::Hold(place, _)) => place.node.clone(),
            other => format!("{other:?}"),
        });
        held.ok_or_else(|| plan.held.first().map(|held| held.reason))
    };
    let none = Err(Some(Reason::NoDestination));
    assert_eq!(to(|_| {}), Ok("n2".into()), "the most watts");
    assert_eq!(to(|site| site.node("n2", |node| node.cordoned = true)), Ok("n3".into()));
    assert_eq!(to(|site| site.taint("n2", "gpu", "NoSchedule")), Ok("n3".into()));
    assert_eq!(to(|site| site.taint("n2", "gpu", "PreferNoSchedule")), Ok("n2".into()));
    assert_eq!(to(|site| site.label("n2", "row", "a")), Ok("n3".into()), "within the domain in need");
    assert_eq!(to(|site| site.occupy("n2", 8)), Ok("n3".into()), "all boards are taken");
    assert_eq!(to(|site| site.domain("b", &json!({"currentPowerWatts": 9400}))), Ok("n2".into()), "9,500 W of 10 kW");
    for status in [
        json!({"currentPowerWatts": 9401}),
        json!({"currentPowerWatts": null}),
        json!({"conditions": []}),
        json!({"brake": {"level": "Minimum", "reason": "BrakePulled"}}),
    ] {
        let mut site = Site::new();
        site.domain("b", &status);
        assert_eq!(site.decide(0).steps, [], "{status}");
    }
    assert_eq!(to(|site| site.domain_around("a", "hall")), none, "the hall is above its cap, and all are within");
    assert_eq!(to(|site| site.for_own_cap()), none, "a move frees nothing of a policy's own cap");
}

#[test]
fn a_taint_of_ours_stays_until_the_node_advertises_less_or_two_minutes() {
    let mut site = Site::new();
    site.advertises_for_ever = true;
    let moves = site.run(0, 100, |_, _| {});
    assert_eq!(moves.last().unwrap(), "give up place-uid-chat-1-1", "{moves:?}");
    let moves = site.run(100, 130, |_, _| {});
    assert_eq!(moves, ["untaint n1"]);
}
