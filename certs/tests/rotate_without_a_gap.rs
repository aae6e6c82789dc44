//! Whatever replicas do and in whatever order, and however API servers lag within the overlap: no API server turns
//! down what any replica shows.

use std::{collections::BTreeMap, time::Duration};

use proptest::{
    collection::vec,
    prelude::{Just, Strategy, prop_oneof},
    prop_assert, proptest,
    test_runner::Config,
};

use crate::world::World;

const REPLICAS: usize = 3;
const DAY: u64 = 86_400;

#[derive(Clone, Debug)]
enum Event {
    /// A replica goes on to its next call.
    Call(usize),
    /// It looks through.
    Look(usize),
    Restart(usize),
    Rotate,
    Pass(u64),
    /// Somebody takes something out of the Secret: by the number of the key.
    Lose(usize),
    /// Somebody cuts something in the Secret off.
    Truncate(usize),
    /// Somebody empties it.
    Empty,
}

fn usual() -> impl Strategy<Value = Event> + Clone {
    prop_oneof![
        6 => (0..REPLICAS).prop_map(Event::Call),
        4 => (0..REPLICAS).prop_map(Event::Look),
        1 => Just(Event::Rotate),
        4 => prop_oneof![Just(1), Just(60), Just(11 * 60), Just(7200), Just(DAY)].prop_map(Event::Pass),
    ]
}

fn restarts() -> impl Strategy<Value = Event> {
    prop_oneof![15 => usual(), 1 => (0..REPLICAS).prop_map(Event::Restart)]
}

fn damages() -> impl Strategy<Value = Event> {
    prop_oneof![
        25 => usual(),
        1 => (0..8_usize).prop_map(Event::Lose),
        1 => (0..8_usize).prop_map(Event::Truncate),
        1 => Just(Event::Empty),
    ]
}

fn happen(world: &mut World, event: &Event) {
    match event {
        Event::Call(replica) => world.go_on(*replica),
        Event::Look(replica) => world.look(*replica),
        Event::Restart(replica) => world.restart(*replica),
        Event::Rotate => world.rotate(),
        Event::Pass(seconds) => world.pass(Duration::from_secs(*seconds)),
        Event::Lose(at) => world.damage(|data| {
            let key = data.keys().nth(at % data.len().max(1)).cloned();
            key.and_then(|key| data.remove(&key));
        }),
        Event::Truncate(at) => world.damage(|data| {
            let at = at % data.len().max(1);
            // Within a certificate: who takes out a whole one means that it shall not be trusted.
            data.values_mut()
                .nth(at)
                .into_iter()
                .for_each(|content| content.0.truncate((content.0.len() / 2).saturating_sub(7)));
        }),
        Event::Empty => world.damage(BTreeMap::clear),
    }
    // A replica that is alive looks every five seconds. Here somebody does at least once in two days, which is well
    // within the three that a leaf has left when it is renewed.
    if world.now.duration_since(world.looked).as_hours() >= 24 {
        world.settle();
    }
}

proptest! {
    #![proptest_config(Config { cases: 24, ..Config::default() })]

    #[test]
    fn no_leaf_is_ever_turned_down(events in vec(restarts(), 1..150)) {
        let mut world = World::settled(REPLICAS);
        for event in &events {
            happen(&mut world, event);
            let turned_down = world.turned_down();
            prop_assert!(turned_down.is_empty(), "{turned_down:#?}");
        }
    }

    #[test]
    fn nor_when_somebody_breaks_the_secret_while_replicas_run(events in vec(damages(), 1..150)) {
        let mut world = World::settled(REPLICAS);
        for event in &events {
            happen(&mut world, event);
            let turned_down = world.turned_down();
            prop_assert!(turned_down.is_empty(), "{turned_down:#?}");
        }
        world.settle();
        world.settle();
        prop_assert!(world.all_show_a_valid_leaf());
        prop_assert!(world.held().authority.is_some());
    }
}

#[test]
fn who_hangs_before_it_publishes_puts_no_old_bundle_over_a_new_one() {
    let mut world = World::settled(2);
    let settled = world.switches;
    world.rotate();
    // It has read that the first announced authority is to be published.
    (0..3).for_each(|_| world.go_on(1));
    for _ in 0..2 {
        for _ in 0..3 {
            world.look(0);
            world.pass(world.periods.overlap);
        }
        world.rotate();
    }
    assert_eq!(world.switches, settled + 2, "meanwhile the other has rotated twice");
    world.go_on(1);
    assert_eq!(world.turned_down(), [""; 0]);
}

#[test]
fn years_rotate_by_themselves_and_leave_nothing_behind() {
    let mut world = World::settled(2);
    for _ in 0..3 * 365 {
        world.look(0);
        world.look(1);
        assert_eq!(world.turned_down(), [""; 0]);
        assert!(world.held().bundle.len() <= 2, "earlier authorities leave the bundle");
        world.pass(Duration::from_secs(DAY));
    }
    assert_eq!(world.switches, 3, "an authority signs for nine months");
}
