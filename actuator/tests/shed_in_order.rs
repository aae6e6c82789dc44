//! Closed loop on simulated H100s: who gives up watts first, who runs together, and who makes room.

use std::{sync::Arc, time::Duration};

use powercap_actuator::{
    hardware::{ClockLock, Knob},
    node::{decide::decide, observation::Observation, orders::Orders},
};
use powercap_common::{
    api::DeviceState,
    reason::Reason,
    units::{Megahertz, Watts},
};
use powercap_simulated_hardware::BoardSpec;
use proptest::prelude::*;

use crate::rack::{BUSY, Fault, IDLE, OVERHEAD, Rack, ceiling, granted};

/// A grant, and for each board its order of shedding and its group.
fn orders(sequence: i64, watts: u32, boards: &[(u32, Option<&str>)]) -> Orders {
    let mut orders = granted(sequence, watts);
    for (index, (shed_order, group)) in boards.iter().enumerate() {
        let mut given = ceiling(None, None);
        (given.shed_order, given.group) = (*shed_order, group.map(Arc::from));
        orders.boards.insert(format!("GPU-{index}").into(), given);
    }
    orders
}

fn limits(rack: &Rack) -> Vec<u32> {
    rack.boards.iter().map(|board| board.reading.limit.unwrap().floor()).collect()
}

fn ceilings(rack: &Rack) -> Vec<Option<u32>> {
    let ceiling = |lock| if let ClockLock::UpTo(ceiling) = lock { Some(Megahertz::get(ceiling)) } else { None };
    rack.boards.iter().map(|board| ceiling(board.reading.lock)).collect()
}

const THREE_ORDERS: [(u32, Option<&str>); 3] = [(0, None), (1, None), (2, None)];

#[test]
fn a_cut_takes_from_the_lowest_order_first_and_gives_back_to_it_last() {
    let mut rack = Rack::new(3, 0.0, 0.02, BUSY);
    // 3,700 W leave 2,357 W: more than all need beside the CPUs.
    rack.seconds(10.0, Some(&orders(1, 3700, &THREE_ORDERS)), |_, _| {});
    assert_eq!(limits(&rack), [700, 700, 700]);
    rack.seconds(5.0, Some(&orders(2, 3100, &THREE_ORDERS)), |_, _| {});
    let cut = limits(&rack);
    assert!(cut[0] < 220 && cut[1] > 600 && cut[2] == 700, "{cut:?}");
    rack.seconds(5.0, Some(&orders(3, 2700, &THREE_ORDERS)), |_, _| {});
    let deeper = limits(&rack);
    assert!(deeper[0] == 200 && (250..400).contains(&deeper[1]) && deeper[2] == 700, "{deeper:?}");

    let mut full = Vec::new();
    rack.seconds(10.0, Some(&orders(4, 3700, &THREE_ORDERS)), |rack, _| {
        for (index, limit) in limits(rack).into_iter().enumerate() {
            if limit == 700 && !full.contains(&index) {
                full.push(index);
            }
        }
    });
    assert_eq!(full, [2, 1, 0], "the reverse of the order of shedding");
}

#[test]
fn whatever_the_grant_little_is_unused_and_a_group_stands_at_one_clock() {
    // A step of the clock is some 80 W for eight boards: without moving watts up to 2.4 % are unused.
    for grant in (5200..5300).step_by(10) {
        let group = |index| (0, (index < 3).then_some("llm/Job/train"));
        let orders = orders(1, grant, &[0, 1, 2, 3, 4, 5, 6, 7].map(group));
        let mut rack = Rack::new(8, 0.0, 0.02, BUSY);
        rack.seconds(40.0, Some(&orders), |_, _| {});
        let (before, envelope) = (rack.writes, OVERHEAD.envelope(Watts::new(grant)).as_f64());
        let mut used = 0.0;
        rack.seconds(60.0, Some(&orders), |rack, _| {
            assert!(rack.power() <= envelope, "{} W of {envelope}", rack.power());
            let group = &ceilings(rack)[..3];
            assert!(group.iter().all(|ceiling| *ceiling == group[0]), "{group:?}");
            used += rack.power() / envelope / 600.0;
        });
        let writes = rack.writes - before;
        assert!(used > 0.984 && writes <= 60, "{grant} W: {used} used, {writes} writes in a minute");
    }
}

#[test]
fn a_group_runs_at_the_clock_of_its_slowest_and_shares_as_one() {
    // The second rank's work draws less: by itself it would run faster.
    let mut rack = Rack::new(4, 0.0, 0.02, BUSY);
    rack.boards[1].work = |_| (1.0, 0.8, 1.0);
    let group = [(0, Some("llm/Job/train")), (0, Some("llm/Job/train")), (0, None), (0, None)];
    let orders = orders(1, 3400, &group);
    rack.seconds(20.0, Some(&orders), |_, _| {});
    let mut reasons = Vec::new();
    rack.seconds(20.0, Some(&orders), |rack, plan| {
        let ceilings = ceilings(rack);
        assert_eq!(ceilings[0], ceilings[1], "{ceilings:?}");
        assert_eq!(plan.account.boards[0].share, plan.account.boards[1].share);
        reasons.push(plan.account.boards[1].reason);
    });
    assert!(reasons.contains(&Reason::GroupFollows), "{:?}", reasons.last());
    assert!(rack.power() <= OVERHEAD.envelope(Watts::new(3400)).as_f64());
}

#[test]
fn power_that_is_not_ours_reduces_the_room_of_the_others() {
    let orders = granted(1, 3600);
    let mut rack = Rack::new(4, 0.0, 0.02, BUSY);
    // A board that takes no writes, and draws what its limit permits.
    (rack.boards[3].reading.limit_knob, rack.boards[3].reading.clock_knob) = (Knob::Lacking, Knob::Lacking);
    rack.seconds(5.0, Some(&orders), |_, _| {});
    let envelope = OVERHEAD.envelope(Watts::new(3600)).as_f64();
    let ours = |rack: &Rack| f64::from(limits(rack)[..3].iter().sum::<u32>());
    assert!(ours(&rack) + 700.0 + f64::from(rack.cpu_watts) <= envelope, "{:?}", limits(&rack));
    let before = ours(&rack);
    rack.cpu_watts = 400;
    rack.seconds(1.0, Some(&orders), |_, _| {});
    assert!(ours(&rack) <= before - 180.0, "{} after {before}", ours(&rack));
    rack.seconds(5.0, Some(&orders), |rack, _| assert!(rack.power() <= envelope, "{} of {envelope}", rack.power()));
}

#[test]
fn a_lost_board_counts_with_its_most_and_begins_anew_when_it_is_back() {
    let orders = granted(1, 3200);
    let mut rack = Rack::new(4, 0.0, 0.02, BUSY);
    rack.seconds(5.0, Some(&orders), |_, _| {});
    rack.boards[2].lose(&BoardSpec::h100_sxm());
    let plan = rack.tick(Some(&orders));
    let standing = plan.account.boards[2];
    assert_eq!((standing.state, standing.reason), (DeviceState::Quarantined, Reason::Quarantined));
    assert_eq!(standing.share, Some(Watts::new(700)));
    rack.seconds(5.0, Some(&orders), |_, plan| assert!(plan.boards.iter().all(|write| &*write.uuid != "GPU-2")));
    let others: u32 = [0, 1, 3].map(|index| limits(&rack)[index]).iter().sum();
    assert!(Watts::new(others + 700) <= rack.tick(Some(&orders)).account.boards_budget.unwrap());
    rack.boards[2].fault = Fault::default();
    rack.seconds(5.0, Some(&orders), |_, _| {});
    assert!(rack.power() <= OVERHEAD.envelope(Watts::new(3200)).as_f64());
    assert!(limits(&rack)[2] < 500, "{:?}", limits(&rack));
}

#[test]
fn a_board_that_ignores_its_lock_is_held_by_its_limit() {
    let orders = granted(1, 2600);
    let mut rack = Rack::new(2, 0.0, 0.02, BUSY);
    rack.boards[0].fault.ignores_locks = true;
    rack.seconds(20.0, Some(&orders), |_, _| {});
    let plan = rack.tick(Some(&orders));
    assert_eq!(plan.account.boards[0].reason, Reason::WithoutEffect);
    rack.seconds(10.0, Some(&orders), |rack, _| {
        assert!(rack.power() <= OVERHEAD.envelope(Watts::new(2600)).as_f64(), "{}", rack.power());
    });
}

#[test]
fn a_board_that_ignores_both_counts_with_its_most() {
    let orders = granted(1, 3200);
    let mut rack = Rack::new(3, 0.0, 0.02, BUSY);
    (rack.boards[0].fault.ignores_locks, rack.boards[0].fault.ignores_limits) = (true, true);
    rack.seconds(8.0, Some(&orders), |_, _| {});
    rack.seconds(30.0, Some(&orders), |rack, plan| {
        assert_eq!(plan.account.boards[0].reason, Reason::WithoutEffect);
        let others: u32 = limits(rack)[1..].iter().sum();
        assert!(Watts::new(others + 700) <= plan.account.boards_budget.unwrap(), "{:?}", limits(rack));
        assert!(rack.power() <= OVERHEAD.envelope(Watts::new(3200)).as_f64(), "{}", rack.power());
    });
}

#[test]
fn bad_grants_and_ceilings_end_within_what_boards_take() {
    // More than a gigawatt is no power that anybody grants.
    for grant in [0, 1, 1247, 1249, 1500, 100_000, 1_000_000, u32::MAX] {
        let mut rack = Rack::new(2, 0.0, 0.0, BUSY);
        let mut orders = granted(1, grant);
        orders.boards.insert("GPU-nowhere".into(), ceiling(Some(1), Some(1)));
        orders.boards.insert("GPU-0".into(), ceiling(Some(1207), Some(433)));
        rack.seconds(5.0, Some(&orders), |_, _| {});
        let plan = rack.tick(Some(&orders));
        let floor = !(1900..=1_000_000).contains(&grant);
        assert_eq!(plan.account.below_floor, floor, "{grant}");
        assert_eq!(limits(&rack), if floor { [200, 200] } else { [433, 700] }, "{grant}");
        assert!(ceilings(&rack)[0].unwrap() <= 1200, "{grant}");
        assert_eq!(plan.account.unknown_boards, ["GPU-nowhere".into()]);
    }
}

#[test]
fn ten_thousand_boards_are_decided_on_in_time() {
    let rack = Rack::new(1, 0.0, 0.0, BUSY);
    let (seen, boards) = (rack.observe(), 10_000_u32);
    let board = |index: u32| {
        let mut board = seen.boards[0].clone();
        let mut traits = (*board.traits).clone();
        traits.uuid = format!("GPU-{index}").into();
        board.traits = Arc::new(traits);
        board
    };
    let seen = Observation { boards: (0..boards).map(board).collect(), ..seen };
    let mut orders = granted(1, 4_000_000);
    for index in 0..boards {
        let mut given = ceiling(None, Some(index % 900));
        (given.shed_order, given.group) = (index % 7, Some(format!("job-{}", index / 8).into()));
        orders.boards.insert(format!("GPU-{index}").into(), given);
    }
    let decided = || {
        let began = std::time::Instant::now();
        (decide(&seen, Some(&orders), &Default::default()), began.elapsed())
    };
    // A busy machine only adds to it.
    let (plan, took) = [decided(), decided(), decided()].into_iter().min_by_key(|(_, took)| *took).unwrap();
    assert!(took < Duration::from_secs(2), "{took:?}");
    assert_eq!(plan.account.boards.len(), boards as usize);
    let shares: Watts = plan.account.boards.iter().filter_map(|board| board.share).sum();
    assert!(shares <= plan.account.boards_budget.unwrap());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// At rest no board of a higher order is short of what it wants while one of a lower order has more
    /// than its floor, and the boards of a group have one ceiling.
    #[test]
    fn at_rest_the_order_holds_and_groups_are_even(
        boards in prop::collection::vec((0..3_u32, prop::option::of(0..2_u32), any::<bool>()), 2..7),
        room in 0..100_u32,
    ) {
        let mut rack = Rack::new(boards.len(), 0.0, 0.02, BUSY);
        for (board, (_, _, busy)) in rack.boards.iter_mut().zip(&boards) {
            board.work = if *busy { BUSY } else { IDLE };
        }
        let count = u32::try_from(boards.len()).unwrap();
        // A group has one order, as the boards of one job have one policy.
        let names = ["job-0", "job-1"];
        let order_of = |group: &Option<u32>, order: u32| group.map_or(order, |group| group);
        let given: Vec<_> = boards
            .iter()
            .map(|(order, group, _)| (order_of(group, *order), group.map(|group| names[group as usize])))
            .collect();
        let orders = orders(1, 1248 + (230 + count * (210 + 5 * room)) * 104 / 100, &given);
        rack.seconds(30.0, Some(&orders), |_, _| {});
        let limits = limits(&rack);
        let short = |at: usize| boards[at].2 && limits[at] < 640;
        for high in 0..boards.len() {
            for low in 0..boards.len() {
                // Boards that share as one with a busy one have its limit.
                if given[low].0 < given[high].0 && short(high) {
                    prop_assert!(limits[low] <= 206, "{given:?} {boards:?}: {limits:?}");
                }
            }
        }
        for _ in 0..50 {
            rack.tick(Some(&orders));
            let ceilings = ceilings(&rack);
            for (at, (_, group)) in given.iter().enumerate() {
                let first = given.iter().position(|(_, other)| other == group);
                prop_assert!(group.is_none() || ceilings[at] == ceilings[first.unwrap()], "{given:?}: {ceilings:?}");
            }
        }
    }

    /// Limits rise by a tenth of the highest at most, and no sooner than 300 ms after the last rise;
    /// lowerings are whole and in the plan of the tick that saw the cut.
    #[test]
    fn raises_come_in_steps_and_lowerings_at_once(grants in prop::collection::vec(2200..6000_u32, 2..8)) {
        let mut rack = Rack::new(4, 0.0, 0.02, BUSY);
        let mut raised = [None::<Duration>; 4];
        let mut locked = [None::<(Megahertz, Duration)>; 4];
        for (sequence, grant) in grants.into_iter().enumerate() {
            for tick in 0..40 {
                let before = limits(&rack);
                let plan = rack.tick(Some(&granted(i64::try_from(sequence).unwrap(), grant)));
                if tick == 0 {
                    let budget = plan.account.boards_budget.unwrap();
                    let planned: Watts = (0..4).map(|index| {
                        let write = plan.boards.iter().find(|write| *write.uuid == *format!("GPU-{index}"));
                        let written = write.and_then(|write| write.limit).unwrap_or(Watts::new(before[index]));
                        written.min(Watts::new(before[index]))
                    }).sum();
                    prop_assert!(planned <= budget || plan.account.below_floor, "{planned} of {budget}");
                }
                for write in &plan.boards {
                    let index: usize = write.uuid[4..].parse().unwrap();
                    if let Some(limit) = write.limit.filter(|limit| *limit > Watts::new(before[index] + 1)) {
                        prop_assert!(limit <= Watts::new(before[index] + 71), "{} to {limit}", before[index]);
                        let pause = raised[index].replace(rack.now).map(|last| rack.now.checked_sub(last).unwrap());
                        prop_assert!(pause.is_none_or(|pause| pause >= Duration::from_millis(300)), "{pause:?}");
                    }
                    if let Some(ClockLock::UpTo(ceiling)) = write.lock {
                        if let Some((last, at)) = locked[index].filter(|(last, _)| ceiling > *last) {
                            let pause = rack.now.checked_sub(at).unwrap();
                            prop_assert!(pause >= Duration::from_millis(300), "{last} to {ceiling} after {pause:?}");
                        }
                        locked[index] = Some((ceiling, rack.now));
                    }
                }
            }
        }
    }
}
