//! The conservation protocol, every interleaving of it to a bounded depth: nothing that is late, lost, cut, restarted or led by
//! two promises more than the cap; and each of its rules is needed.

use std::{io::Write, time::Instant};

use stateright::{Checker, HasDiscoveries, Model, Path};

use crate::model::{CONSERVED, GIVEN_OUT, World, rules::Rules};

/// Events in the world, terms of leadership, and how many steps deep.
const WALKS: [(u8, u8, usize); 3] = [(1, 1, 10), (2, 1, 8), (1, 2, 7)];

#[test]
fn no_interleaving_promises_more_than_the_cap_or_keeps_watts_back() {
    let mut states = 0;
    for (events, terms, depth) in WALKS {
        let began = Instant::now();
        let world = World { rules: Rules::All, events, terms };
        let checker = world.checker().threads(2).target_max_depth(depth).spawn_bfs().join();
        let (found, seconds) = (checker.unique_state_count(), began.elapsed().as_secs());
        // Past the test harness, which shows nothing of a test that passes.
        let walk = format!("{found} states of {events} events, {terms} terms and {depth} steps in {seconds} s");
        writeln!(std::io::stderr(), "conservation: {walk}").unwrap();
        checker.assert_no_discovery(CONSERVED);
        checker.assert_no_discovery(GIVEN_OUT);
        states += found;
    }
    assert!(states > 50_000, "{states} states are too few to have met anything");
}

#[test]
fn each_rule_left_out_is_found_out() {
    for (rules, breaks) in [
        (Rules::CountsWhatIsGranted, CONSERVED),
        (Rules::IgnoresBoots, CONSERVED),
        (Rules::ForgetsUnansweredWrites, CONSERVED),
        (Rules::BelievesTheCache, CONSERVED),
        (Rules::NeverWritesAgain, GIVEN_OUT),
        (Rules::IgnoresTerms, CONSERVED),
    ] {
        let terms = if rules == Rules::IgnoresTerms { 2 } else { 1 };
        let until = HasDiscoveries::AnyOf([breaks].into());
        let walk = World { rules, events: 2, terms }.checker().finish_when(until).target_max_depth(8);
        let found = walk.spawn_bfs().join().discovery(breaks);
        let steps = found.map(Path::into_actions).unwrap_or_else(|| panic!("{rules:?} breaks nothing"));
        writeln!(std::io::stderr(), "{rules:?}: {steps:?}").unwrap();
    }
}
