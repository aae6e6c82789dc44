//! Watts that nodes offer to new pods: conserved like grants, and where a pending pod could run.

use std::sync::Arc;

use k8s_openapi::api::core::v1::Taint;
use powercap_common::units::Watts;
use powercap_recommender::observation::PendingPod;
use proptest::prelude::{Just, ProptestConfig, Strategy, prop, prop_oneof, proptest};
use serde_json::json;

use crate::site::{BOARD, BOARDS, OVERHEAD, Site, name};

/// What a pod of all boards of a node requests.
const WHOLE: u32 = 8 * BOARD;

/// The cap under which a rack of idle nodes can give this many watts to pods.
fn cap_for(nodes: usize, watts: u32) -> u32 {
    let overhead = OVERHEAD.static_watts * u32::try_from(nodes).unwrap();
    // Grants are whole watts: a few are lost.
    overhead + OVERHEAD.node_power(Watts::new(watts)).ceil() - OVERHEAD.static_watts + 10
}

#[test]
fn an_idle_rack_shares_its_offers_alike_and_spends_its_cap() {
    let site = Site::of_nodes(4, cap_for(4, 8000));
    for node in 0..4 {
        assert!((1990..=2003).contains(&site.offered(node).floor()), "{:?}", site.offered(node));
        assert_eq!(site.advertised[node], site.offered(node));
    }
}

#[test]
fn no_node_offers_more_than_its_devices_can_draw() {
    let site = Site::of_nodes(2, 100_000);
    // Eight boards, and 1000 W for the CPUs.
    assert_eq!(site.offered(0), Watts::new(WHOLE + 1000));
}

#[test]
fn an_idle_rack_with_room_never_leaves_a_pod_of_eight_boards_pending() {
    let mut site = Site::of_nodes(8, cap_for(8, 3 * WHOLE));
    assert!(site.offered(0) < Watts::new(WHOLE), "a fair share is too small for it");
    for placed in 1..=3 {
        let pod = site.create(WHOLE, BOARDS);
        for _ in 0..4 {
            site.step();
        }
        assert!(site.place_of(&pod).is_some(), "the pod number {placed} of three that fit");
    }
    let pod = site.create(WHOLE, BOARDS);
    site.settle();
    assert_eq!(site.place_of(&pod), None, "there are no watts left");
    assert!(site.committed() <= Watts::new(cap_for(8, 3 * WHOLE)));
}

#[test]
fn many_pods_are_placed_as_long_as_there_are_watts() {
    let mut site = Site::of_nodes(4, cap_for(4, 20 * BOARD));
    for _ in 0..24 {
        site.create(BOARD, 1);
    }
    site.settle();
    let placed = site.pods.iter().filter(|pod| pod.node.is_some()).count();
    assert_eq!(placed, 20);
}

#[test]
fn the_pod_that_comes_first_gets_the_watts() {
    let mut site = Site::of_nodes(2, cap_for(2, WHOLE));
    let (low, high) = (site.create(WHOLE, BOARDS), site.create(WHOLE, BOARDS));
    site.see_pods();
    Arc::make_mut(&mut site.world.observation.pending[1]).priority = 1000;
    for _ in 0..4 {
        site.decide();
        (0..2).for_each(|node| site.act(node));
    }
    let offered = [0, 1].map(|node| site.offered(node).floor());
    assert_eq!(offered.iter().filter(|watts| **watts >= WHOLE).count(), 1, "{offered:?} for one of {low} and {high}");
}

#[test]
fn watts_go_where_the_pod_could_run() {
    let place = |change: &dyn Fn(&mut Site), constrain: &dyn Fn(&mut PendingPod)| {
        let mut site = Site::of_nodes(3, cap_for(3, WHOLE));
        change(&mut site);
        site.create(WHOLE, BOARDS);
        site.see_pods();
        for _ in 0..4 {
            site.world.observation.pending.iter_mut().map(Arc::make_mut).for_each(constrain);
            site.decide();
            (0..3).for_each(|node| site.act(node));
        }
        (0..3).find(|node| site.offered(*node) >= Watts::new(WHOLE - 100))
    };
    let nothing = |_: &mut Site| {};
    assert_eq!(place(&nothing, &|_| {}), Some(0));
    let select = |pod: &mut PendingPod| pod.node_selector = [("disk".to_owned(), "fast".to_owned())].into();
    assert_eq!(place(&nothing, &select), None, "nowhere is such a disk");
    let label = |site: &mut Site| {
        let facts = site.world.observation.nodes.get_mut("n2").unwrap();
        facts.labels.insert("disk".to_owned(), "fast".to_owned());
    };
    assert_eq!(place(&label, &select), Some(2));
    let affine = |pod: &mut PendingPod| {
        let terms = json!({"nodeSelectorTerms": [{"matchExpressions": [{"key": "disk", "operator": "Exists"}]}]});
        pod.affinity = Some(serde_json::from_value(terms).unwrap());
    };
    assert_eq!(place(&label, &affine), Some(2));
    let taint = |site: &mut Site| {
        let taint = Taint { key: "mine".into(), effect: "NoSchedule".into(), ..Taint::default() };
        site.world.observation.nodes.get_mut("n0").unwrap().taints.push(taint);
    };
    assert_eq!(place(&taint, &|_| {}), Some(1));
    let tolerate = |pod: &mut PendingPod| {
        pod.tolerations = vec![serde_json::from_value(json!({"key": "mine", "operator": "Exists"})).unwrap()];
    };
    assert_eq!(place(&taint, &tolerate), Some(0));
    let cordon = |site: &mut Site| site.world.observation.nodes.get_mut("n0").unwrap().unschedulable = true;
    assert_eq!(place(&cordon, &|_| {}), Some(1));
    let fill = |site: &mut Site| {
        for _ in 0..BOARDS {
            site.create(1, 1);
        }
        site.pods.iter_mut().for_each(|pod| pod.node = Some(0));
    };
    assert_eq!(place(&fill, &|pod| pod.requests.watts = Watts::new(WHOLE - 100)), Some(1), "its boards are taken");
}

#[test]
fn a_cut_takes_offers_at_once_and_no_watt_of_pods() {
    let mut site = Site::of_nodes(2, cap_for(2, 2 * WHOLE));
    let pod = site.create(WHOLE, BOARDS);
    site.settle();
    let node = site.place_of(&pod).unwrap();
    site.cap(cap_for(2, 4000));
    site.decide();
    for at in 0..2 {
        assert_eq!(site.offered(at), Watts::ZERO, "in the very decision that sees the cut");
        site.act(at);
    }
    assert_eq!(site.advertised[node], Watts::new(WHOLE), "what its pod requests stays");
    assert_eq!(site.advertised[1 - node], Watts::ZERO);
}

#[test]
fn what_a_node_still_advertises_is_offered_by_no_other() {
    let mut site = Site::of_nodes(2, cap_for(2, WHOLE));
    site.create(WHOLE, BOARDS);
    site.see_pods();
    site.decide();
    assert!(site.offered(0) < Watts::new(WHOLE), "n1 has not lowered yet");
    site.decide();
    assert!(site.committed() <= Watts::new(cap_for(2, WHOLE)));
    site.act(1);
    site.act(0);
    site.decide();
    assert_eq!(site.offered(0), Watts::new(WHOLE));
}

#[test]
fn a_braked_domain_a_silent_agent_and_a_release_close_a_node() {
    let mut site = Site::of_nodes(2, cap_for(2, 8000));
    site.world.domain(
        "rack",
        json!({"powerCapLimitWatts": cap_for(2, 8000), "brake": "Minimum",
        "nodeSelector": {"matchLabels": {"rack": "r1"}},
        "nodeOverhead": {"staticWatts": OVERHEAD.static_watts, "percent": OVERHEAD.percent}}),
    );
    site.decide();
    assert_eq!([0, 1].map(|node| site.offered(node)), [Watts::ZERO; 2]);

    let mut site = Site::of_nodes(2, cap_for(2, 8000));
    let long_ago = site.world.now - jiff::SignedDuration::from_mins(10);
    site.world.observation.telemetry.agents = [("n0".to_owned(), long_ago)].into();
    site.decide();
    assert_eq!(site.offered(0), Watts::ZERO);
    assert!(site.offered(1) > Watts::ZERO);

    let mut site = Site::of_nodes(2, cap_for(2, 8000));
    site.edit(0, |object| object.spec.release = true);
    site.decide();
    assert_eq!(site.offered(0), Watts::ZERO);
}

#[test]
fn a_placed_pod_is_granted_what_it_reserved() {
    // Alike, each node would be granted what 2,000 W at its devices make.
    let mut site = Site::of_nodes(4, cap_for(4, 8000));
    let pod = site.create(WHOLE, BOARDS);
    site.settle();
    let node = site.place_of(&pod).unwrap();
    let granted = site.world.spec(&name(node)).power_limit_watts.unwrap();
    assert!(Watts::new(granted) >= OVERHEAD.node_power(Watts::new(WHOLE)), "{granted} W");
}

#[test]
fn pods_that_are_replaced_by_their_like_cost_no_write() {
    let mut site = Site::of_nodes(4, cap_for(4, 4 * WHOLE));
    (0..8).for_each(|_| drop(site.create(BOARD, 1)));
    site.settle();
    let node = site.pods[0].node;
    site.finish(0);
    site.create(BOARD, 1);
    site.pods.last_mut().unwrap().node = node;
    site.see_pods();
    assert!(site.decide().nodes.is_empty());
}

/// What may happen.
#[derive(Clone, Debug)]
enum Event {
    /// The recommender decides on what it sees, and writes.
    Decide,
    /// An agent reads its spec, advertises and acknowledges.
    Act(usize),
    /// An agent advertises by what it read before: its pods have changed.
    Advertise(usize),
    /// The recommender's caches catch up.
    SeePods,
    /// Likewise.
    SeeNode(usize),
    /// A pod of so many boards, at so many watts each.
    Create(u32, u64),
    /// The scheduler places what fits.
    Schedule,
    /// A pod ends.
    Finish(usize),
    /// The cap is edited.
    Cap(u32),
    /// Another leader, without memory.
    NewLeader,
}

const NODES: usize = 4;

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        5 => Just(Event::Decide),
        5 => (0..NODES).prop_map(Event::Act),
        2 => (0..NODES).prop_map(Event::Advertise),
        3 => Just(Event::SeePods),
        2 => (0..NODES).prop_map(Event::SeeNode),
        3 => (100_u32..=BOARD, 1_u64..=BOARDS).prop_map(|(watts, gpus)| Event::Create(watts, gpus)),
        4 => Just(Event::Schedule),
        2 => (0..12_usize).prop_map(Event::Finish),
        1 => (0_u32..30_000).prop_map(Event::Cap),
        1 => Just(Event::NewLeader),
    ]
}

/// Lets it happen; the cap is that which stands.
fn happen(site: &mut Site, cap: &mut u32, event: &Event) {
    match event {
        Event::Decide => {
            let before = site.committed();
            site.decide();
            let budget = Watts::new(*cap);
            let after = site.committed();
            assert!(after <= before.max(budget), "{after} of {budget}, {before} before");
        }
        Event::Act(node) => site.act(*node),
        Event::Advertise(node) => site.advertise(*node),
        Event::SeePods => site.see_pods(),
        Event::SeeNode(node) => site.see_node(*node),
        Event::Create(watts, gpus) => drop(site.create(watts * u32::try_from(*gpus).unwrap(), *gpus)),
        Event::Schedule => {
            let before = site.committed();
            site.schedule();
            assert!(site.committed() <= before, "a pod takes what was offered, and no more");
        }
        Event::Finish(pod) => {
            if *pod < site.pods.len() {
                site.finish(*pod);
            }
        }
        Event::Cap(watts) => {
            *cap = cap_for(NODES, *watts);
            site.cap(*cap);
        }
        Event::NewLeader => site.world.new_leader(),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_decision_raises_what_may_be_placed_above_the_cap(events in prop::collection::vec(event(), 1..80)) {
        let mut cap = cap_for(NODES, 10_000);
        let mut site = Site::of_nodes(NODES, cap);
        events.iter().for_each(|event| happen(&mut site, &mut cap, event));
        site.settle();
        assert!(site.decide().nodes.is_empty(), "at rest nothing is written");
        let requested: Watts = (0..NODES).map(|node| OVERHEAD.node_power(site.requested(node))).sum();
        assert!(site.committed() <= requested.max(Watts::new(cap)));
    }

    #[test]
    fn at_rest_no_pod_waits_that_would_fit(
        events in prop::collection::vec(event(), 1..60),
        watts in 100_u32..=BOARD,
        gpus in 1..=BOARDS,
    ) {
        let mut cap = cap_for(NODES, 10_000);
        let mut site = Site::of_nodes(NODES, cap);
        events.iter().for_each(|event| happen(&mut site, &mut cap, event));
        site.pods.retain(|pod| pod.node.is_some());
        let watts = watts * u32::try_from(gpus).unwrap();
        let pod = site.create(watts, gpus);
        (0..8).for_each(|_| drop(site.step()));
        if site.place_of(&pod).is_none() {
            let free = |node: &usize| {
                let pods = || site.pods.iter().filter(|pod| pod.node == Some(*node));
                BOARDS - pods().map(|pod| pod.requests.gpus).sum::<u64>() >= gpus
            };
            let with = |node: usize| {
                let all = (0..NODES).map(|at| site.requested(at) + if at == node { Watts::new(watts) } else { Watts::ZERO });
                all.map(|devices| OVERHEAD.node_power(devices)).sum::<Watts>()
            };
            // Grants are whole watts, for each node.
            let could = (0..NODES).filter(free).find(|node| with(*node) + Watts::new(10) <= Watts::new(cap));
            assert_eq!(could, None, "{watts} W and {gpus} boards");
        }
    }
}
