//! The conservation protocol, every interleaving of it: nothing that is late, lost, cut, restarted or led by
//! two promises more than the cap; and each of its rules is needed.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test says so by failing")]

mod model;

use std::{io::Write, time::Instant};

use model::{CONSERVED, GIVEN_OUT, World, rules::Rules};
use stateright::{Checker, Model};

#[test]
fn no_interleaving_promises_more_than_the_cap_or_keeps_watts_back() {
    let began = Instant::now();
    let world = World { rules: Rules::All, events: 1, terms: 2 };
    let checker = world.checker().timeout(std::time::Duration::from_secs(40)).threads(2).spawn_bfs().join();
    // Past the test harness, which shows nothing of a test that passes.
    let (states, depth, seconds) = (checker.unique_state_count(), checker.max_depth(), began.elapsed().as_secs());
    writeln!(std::io::stderr(), "conservation: {states} states, {depth} steps deep, {seconds} s").unwrap();
    checker.assert_properties();
    assert!(states > 100_000, "{states} states are too few to have met anything");
}

#[test]
fn each_rule_left_out_is_found_out() {
    for (rules, breaks) in [
        (Rules::CountsWhatIsAcknowledged, CONSERVED),
        (Rules::IgnoresTerms, CONSERVED),
        (Rules::IgnoresBoots, CONSERVED),
        (Rules::ForgetsUnansweredWrites, CONSERVED),
        (Rules::BelievesTheCache, CONSERVED),
        (Rules::NeverWritesAgain, GIVEN_OUT),
    ] {
        let checker = World { rules, events: 1, terms: 2 }
            .checker()
            .timeout(std::time::Duration::from_secs(30))
            .spawn_bfs()
            .join();
        let found = checker.discovery(breaks).unwrap_or_else(|| panic!("{rules:?} breaks nothing"));
        let steps: Vec<_> = found.into_actions().iter().map(|step| format!("{step:?}")).collect();
        writeln!(std::io::stderr(), "{rules:?}: {}", steps.join(", ")).unwrap();
    }
}
