//! What a domain's meter tells beyond its nodes is unmanaged: it counts at once when it rises, slowly when it
//! falls, and stays as it was while the meter tells nothing that can be true.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use powercap_common::{reason::Reason, units::Watts};
use powercap_recommender::{
    metrics::Metrics,
    observation::{Hold, MeterReading},
    observe::{
        meters::Meters,
        names::Names,
        prometheus::{Access, Prometheus},
        telemetry::LatestTelemetry,
    },
};
use proptest::prelude::{Just, ProptestConfig, Strategy, prop, prop_assert, prop_assert_eq, prop_oneof, proptest};
use serde_json::json;

use crate::{
    prometheus::{Manner, Series, Server, State},
    world::World,
};

/// What the two nodes of [`metered`] draw: 2 × ((8 × 300 + 200) × 1.04 + 1200).
const NODES: u32 = 7808;
/// 1 % of the cap.
const STEP: u32 = 105;

/// Two nodes of eight boards each in a rack of 10,500 W with a meter, settled where it tells this.
fn metered(meter: u32) -> World {
    let mut world = unread();
    world.meter("rack", meter);
    world.settle();
    world
}

/// Likewise, and nobody has read the meter yet.
fn unread() -> World {
    let mut world = World::of_nodes(2);
    for node in ["n0", "n1"] {
        (0..8).for_each(|board| world.gpu(&format!("GPU-{node}-{board}"), node, &[], 300, 1980));
        world.cpu(node, 200);
    }
    world.domain("rack", rack(10_500));
    world
}

fn rack(cap: u32) -> serde_json::Value {
    json!({"powerCapLimitWatts": cap, "meter": {"query": "pdu_watts"},
        "nodeOverhead": {"staticWatts": 1200, "percent": 4}, "nodeSelector": {"matchLabels": {"rack": "r1"}}})
}

fn unmanaged(world: &World) -> Option<u32> {
    world.observation.domains[0].status.as_ref().unwrap().unmanaged_watts
}

fn power(world: &World) -> Option<u32> {
    world.observation.domains[0].status.as_ref().unwrap().current_power_watts
}

#[test]
fn what_the_meter_tells_beyond_the_nodes_is_kept_from_them() {
    let world = metered(NODES + 500);
    assert_eq!((unmanaged(&world), power(&world)), (Some(500 + STEP), Some(NODES + 500)));
    assert_eq!(world.grants(), [Some(4947); 2]);
    assert_eq!(world.domain_says("rack", "DataFresh"), "True DataFresh");
    assert_eq!(world.domain_says("rack", "SourcesAgree"), "Unknown -");
}

#[test]
fn a_rise_lowers_grants_at_once_and_raises_none_until_it_fits() {
    let mut world = metered(NODES + 500);
    world.meter("rack", NODES + 1500);
    world.turn();
    assert_eq!(unmanaged(&world), Some(1500 + STEP));
    assert_eq!(world.grants(), [Some(4447); 2]);
    // A third node joins while the others have not acknowledged their cut: all are lowered, none is raised.
    world.node("n2", "r1");
    let before = world.grants();
    world.turn();
    assert!(world.grants().iter().zip(before).all(|(now, before)| *now <= before));
    assert_eq!(world.domain_says("rack", "Ready"), "False AwaitingAcknowledgement");
}

#[test]
fn a_fall_gives_watts_back_within_minutes_not_at_once() {
    let mut world = metered(NODES + 2000);
    world.meter("rack", NODES + 500);
    world.turn();
    assert_eq!(unmanaged(&world), Some(2000 + STEP));
    for _ in 0..24 {
        world.read_again(5);
        world.turn();
    }
    let after_two_minutes = unmanaged(&world).unwrap();
    assert!((1000..1500).contains(&after_two_minutes), "{after_two_minutes}");
    for _ in 0..60 {
        world.read_again(5);
        world.turn();
    }
    let at_last = unmanaged(&world).unwrap();
    assert!((500..=500 + 2 * STEP).contains(&at_last), "{at_last}");
}

#[test]
fn a_load_that_ends_between_two_scrapes_of_the_meter_is_not_unmanaged() {
    let mut world = metered(NODES + 500);
    let before = world.grants();
    for gpu in world.observation.telemetry.gpus.values_mut() {
        gpu.power.as_mut().unwrap().value = Watts::new(100);
    }
    // The meter still tells of the load.
    for _ in 0..2 {
        world.read_again(5);
        world.turn();
        assert_eq!((unmanaged(&world), world.grants()), (Some(500 + STEP), before.clone()));
    }
    // What it tells beyond three intervals, it means.
    for _ in 0..3 {
        world.read_again(5);
        world.turn();
    }
    assert_eq!(unmanaged(&world), Some(500 + 3328 + STEP));
}

#[test]
fn a_meter_that_flickers_within_a_step_writes_nothing() {
    let mut world = metered(NODES + 500);
    for power in [400, 480, 590, 450, 605, 420] {
        world.read_again(5);
        world.meter("rack", NODES + power);
        assert!(world.turn().nodes.is_empty(), "{power}");
    }
}

#[test]
fn without_a_usable_reading_what_was_unmanaged_stays_and_nothing_is_raised() {
    let old = |world: &mut World| {
        let power = world.observation.telemetry.meters.get_mut("rack").unwrap().power.as_mut().unwrap();
        power.at = "2026-11-22T06:58:00Z".parse().unwrap();
    };
    let answers_no_more = |world: &mut World| {
        let problem = Some(Hold::new(Reason::MeterUnavailable, "the meter's query answers with no series"));
        world.observation.telemetry.meters.get_mut("rack").unwrap().problem = problem;
    };
    let gone = |world: &mut World| world.observation.telemetry.meters.clear();
    let absurd = |world: &mut World| world.meter("rack", 10_500 * 11);
    for (what, fault) in [
        ("old", &old as &dyn Fn(&mut World)),
        ("answers no more", &answers_no_more),
        ("was never asked", &gone),
        ("tells eleven times the cap", &absurd),
    ] {
        let mut world = metered(NODES + 500);
        let before = world.grants();
        for round in 0..100 {
            world.read_again(5);
            fault(&mut world);
            let plan = world.turn();
            assert_eq!((unmanaged(&world), world.grants()), (Some(500 + STEP), before.clone()), "{what}");
            assert_eq!(world.domain_says("rack", "DataFresh"), "False MeterUnavailable", "{what}");
            assert!(round == 0 || plan.is_empty(), "{what}: said again: {plan:#?}");
        }
        // What passed without a reading makes nothing fall at once.
        world.read_again(5);
        world.meter("rack", NODES);
        world.turn();
        assert_eq!(unmanaged(&world), Some(500 + STEP), "{what}");
        assert_eq!(world.domain_says("rack", "DataFresh"), "True DataFresh", "{what}");
    }
}

#[test]
fn while_nobody_has_read_the_meter_nothing_is_raised() {
    let mut world = unread();
    world.settle();
    let before = world.grants();
    world.domain("rack", rack(12_000));
    world.settle();
    assert_eq!((world.grants(), unmanaged(&world)), (before, None));
    assert_eq!(world.domain_says("rack", "DataFresh"), "False MeterUnavailable");
    world.meter("rack", NODES + 500);
    world.settle();
    assert_eq!(world.grants(), [Some((12_000 - 500 - 120) / 2); 2]);
}

#[test]
fn a_meter_that_tells_less_than_the_nodes_draw_is_not_believed() {
    let mut world = metered(NODES + 500);
    for round in 0..100 {
        world.read_again(5);
        world.meter("rack", NODES / 2);
        let plan = world.turn();
        assert_eq!((unmanaged(&world), power(&world)), (Some(500 + STEP), Some(NODES)));
        let says = if round < 4 { "Unknown -" } else { "False MeterBelowNodes" };
        assert_eq!(world.domain_says("rack", "SourcesAgree"), says, "{round}");
        assert!([0, 4].contains(&round) || plan.is_empty(), "{plan:#?}");
    }
    world.read_again(5);
    world.meter("rack", NODES + 500);
    world.turn();
    assert_eq!(world.domain_says("rack", "SourcesAgree"), "Unknown -");
}

#[test]
fn nodes_that_are_not_read_let_nothing_fall() {
    let mut world = metered(NODES + 500);
    world.observation.telemetry.node_cpu.clear();
    world.meter("rack", NODES);
    for _ in 0..100 {
        world.read_again(5);
        world.turn();
        assert_eq!(unmanaged(&world), Some(500 + STEP));
    }
    assert_eq!(world.domain_says("rack", "DataFresh"), "False NoData");
}

#[test]
fn a_new_leader_begins_with_what_counted() {
    let mut world = metered(NODES + 2000);
    world.new_leader();
    world.meter("rack", NODES + 500);
    world.settle();
    assert!(unmanaged(&world).unwrap() >= 2000, "{:?}", unmanaged(&world));
    world.new_leader();
    world.observation.telemetry.meters.clear();
    world.settle();
    assert!(unmanaged(&world).unwrap() >= 2000, "{:?}", unmanaged(&world));
}

#[test]
fn what_is_unmanaged_in_a_rack_counts_once_in_its_hall() {
    let mut world = unread();
    world.domain(
        "hall",
        json!({"powerCapLimitWatts": 20_000, "meter": {"query": "hall_watts"},
            "nodeSelector": {"matchLabels": {"hall": "h1"}}}),
    );
    let mut within = rack(10_500);
    within["parentRef"] = json!({"name": "hall"});
    world.domain("rack", within);
    world.meter("rack", NODES + 500);
    world.meter("hall", NODES + 2500);
    world.settle();
    let unmanaged: BTreeMap<_, _> = world
        .observation
        .domains
        .iter()
        .collect::<Vec<_>>()
        .into_iter()
        .map(|domain| (domain.metadata.name.clone().unwrap(), domain.status.as_ref().unwrap().unmanaged_watts.unwrap()))
        .collect();
    // The rack's counts with its step.
    assert_eq!(unmanaged["rack"], 500 + STEP);
    assert_eq!(unmanaged["hall"], 2500 - unmanaged["rack"] + 200);
}

/// A PDU's series, and what is wrong with it.
type Fault = (&'static str, fn(&mut State));

fn pdu(state: &mut State, value: f64) {
    let labels = [("rack".to_owned(), "r1".to_owned())].into();
    state.series = vec![Series { name: "pdu_watts".to_owned(), labels, value, at: state.now - 2.0 }];
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_the_meter_answers_it_is_named_within_30_s_and_heals() {
    let faults: &[Fault] = &[
        ("no series", |state| state.series.clear()),
        ("two series", |state| {
            state.series.push(state.series[0].clone());
            state.series[1].labels.clear();
        }),
        ("NaN", |state| pdu(state, f64::NAN)),
        ("negative", |state| pdu(state, -3.0)),
        ("+Inf", |state| pdu(state, f64::INFINITY)),
        ("10¹² W", |state| pdu(state, 1e12)),
        ("20 min old", |state| state.series[0].at -= 1200.0),
        ("of the future", |state| state.series[0].at += 300.0),
        ("away", |state| state.manner = Manner::Away),
        ("hanging", |state| state.manner = Manner::Hanging),
        ("500", |state| state.manner = Manner::Status(500)),
        ("400: no PromQL", |state| state.manner = Manner::Status(400)),
        ("partial", |state| state.manner = Manner::Partial),
        ("cut mid-body", |state| state.manner = Manner::CutMidBody),
    ];
    powercap_process::install_tls_provider();
    let (server, latest) = (Server::start().await, LatestTelemetry::default());
    let access = Access::open(&server.url, Duration::from_secs(5));
    let prometheus = Arc::new(Prometheus::new(access, Names::default().labels()));
    let meters = Meters::new(prometheus, latest.clone(), Metrics::default());
    let mut world = unread();
    for (what, fault) in faults {
        for (fault, says) in [((|_| {}) as fn(&mut State), "True DataFresh"), (*fault, "False MeterUnavailable")] {
            for _ in 0..5 {
                world.read_again(5);
                {
                    let mut state = server.state();
                    (state.now, state.manner, state.asked) = (world.now.as_duration().as_secs_f64(), Manner::Well, 0);
                    pdu(&mut state, f64::from(NODES + 500));
                    fault(&mut state);
                }
                meters.ask([("rack".to_owned(), "pdu_watts".to_owned())].into(), world.now).await;
                assert!(server.state().asked <= 2, "{what}");
                world.observation.telemetry.meters = latest.get().meters;
                world.turn();
                world.acknowledge_all();
            }
            assert_eq!(world.domain_says("rack", "DataFresh"), says, "{what}");
            assert_eq!(unmanaged(&world), Some(500 + STEP), "{what}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn meters_are_asked_in_bounded_number_and_forgotten_with_their_domain() {
    powercap_process::install_tls_provider();
    let (server, latest) = (Server::start().await, LatestTelemetry::default());
    let prometheus =
        Arc::new(Prometheus::new(Access::open(&server.url, Duration::from_secs(60)), Names::default().labels()));
    let meters = Meters::new(prometheus, latest.clone(), Metrics::default());
    let world = unread();
    {
        let mut state = server.state();
        state.now = world.now.as_duration().as_secs_f64();
        pdu(&mut state, 500.0);
    }
    let queries = (0..300).map(|at| (format!("rack-{at:03}"), "pdu_watts".to_owned())).collect();
    meters.ask(queries, world.now).await;
    assert_eq!(server.state().asked, 2 * 256);
    let read = |reading: &MeterReading| reading.power.is_some() && reading.problem.is_none();
    let known = latest.get().meters;
    assert_eq!((known.len(), known.values().filter(|reading| read(reading)).count()), (300, 256));
    meters.ask(BTreeMap::new(), world.now).await;
    assert!(latest.get().meters.is_empty());
}

/// What may happen to a rack with a meter.
#[derive(Clone, Debug)]
enum Event {
    /// Seconds pass; the nodes are read, and the meter tells this much more than they draw, or nothing.
    Read {
        seconds: i64,
        beyond: Option<u32>,
    },
    /// An agent acknowledges what it is told.
    Acknowledge(usize),
    Cap(u32),
    NewLeader,
}

fn event() -> impl Strategy<Value = Event> {
    let beyond = prop_oneof![1 => Just(None), 4 => (0_u32..4000).prop_map(Some)];
    prop_oneof![
        5 => (1_i64..90, beyond).prop_map(|(seconds, beyond)| Event::Read { seconds, beyond }),
        4 => (0_usize..2).prop_map(Event::Acknowledge),
        1 => (6000_u32..14_000).prop_map(Event::Cap),
        1 => Just(Event::NewLeader),
    ]
}

fn happens(world: &mut World, event: &Event) {
    match *event {
        Event::Read { seconds, beyond } => {
            world.read_again(seconds);
            match beyond {
                Some(beyond) => world.meter("rack", NODES + beyond),
                None => world.observation.telemetry.meters.clear(),
            }
        }
        Event::Acknowledge(node) => world.acknowledge(&format!("n{node}")),
        Event::Cap(cap) => world.domain("rack", rack(cap)),
        Event::NewLeader => world.new_leader(),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn whatever_the_meter_tells_nothing_is_raised_beyond_the_cap(events in prop::collection::vec(event(), 1..40)) {
        let mut world = unread();
        world.turn();
        for event in events {
            happens(&mut world, &event);
            let (before, unmanaged_before) = (world.grants(), world.observation.domains[0].status.clone());
            let plan = world.turn();
            let told = world.observation.telemetry.meters.get("rack").and_then(|meter| meter.power);
            let unmanaged = unmanaged(&world);
            let raised = world.grants().iter().zip(&before).any(|(now, before)| now > before && before.is_some());
            if raised {
                let figures = &plan.figures.domains["rack"];
                let all = figures.committed.unwrap().ceil() + unmanaged.unwrap();
                prop_assert!(all <= figures.cap.ceil(), "{all} of {}", figures.cap);
            }
            match told {
                Some(meter) => prop_assert!(unmanaged.is_none_or(|watts| watts + NODES >= meter.value.ceil())),
                None => prop_assert_eq!(unmanaged, unmanaged_before.and_then(|status| status.unmanaged_watts)),
            }
        }
    }
}
