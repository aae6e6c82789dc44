//! What must hold of every decision, each as a claim.

use std::{collections::BTreeMap, time::Duration};

use powercap_actuator::{
    hardware::{ClockLock, Knob},
    node::{
        decide::{Phase, State, decide},
        observation::{GpuAccess, Observation},
        orders::{CpuCeiling, Orders},
    },
};
use powercap_common::{
    api::DeviceState,
    reason::Reason,
    units::{Megahertz, Watts},
};
use proptest::prelude::*;

use crate::rack::{BUSY, IDLE, Rack, Work, ceiling, granted};

fn without_grant() -> Orders {
    Orders { grant: None, ..granted(1, 1) }
}

#[test]
fn without_orders_nothing_is_touched() {
    let mut rack = Rack::new(8, 0.0, 0.0, BUSY);
    rack.seconds(5.0, None, |_, plan| assert_eq!(plan.account.phase, Phase::Waiting));
    assert_eq!(rack.writes, 0);
}

#[test]
fn a_board_that_no_order_concerns_is_not_touched() {
    let mut orders = without_grant();
    orders.boards.insert("GPU-1".into(), ceiling(Some(1200), Some(400)));
    let mut rack = Rack::new(3, 0.0, 0.0, BUSY);
    rack.seconds(5.0, Some(&orders), |_, plan| assert!(plan.boards.iter().all(|write| &*write.uuid == "GPU-1")));
    assert_eq!(rack.boards[1].reading.lock, ClockLock::UpTo(Megahertz::new(1200)));
    assert_eq!(rack.boards[1].reading.limit, Some(Watts::new(400)));
    let plan = rack.tick(Some(&orders));
    assert_eq!(plan.account.boards[0].reason, Reason::Applied);
    assert_eq!(plan.account.boards[1].reason, Reason::PolicyCap);
    assert_eq!(plan.account.acknowledged.unwrap().power_limit_watts, None);
}

#[test]
fn nonsense_is_clamped_to_what_the_board_takes() {
    for (clock, limit, locked, limited) in [
        (Some(1207), None, 1200, 700),
        (Some(1), Some(1), 360, 200),
        (Some(0), Some(0), 360, 200),
        (Some(345), Some(199), 360, 200),
        (Some(u32::MAX), Some(u32::MAX), 1980, 700),
        (Some(1979), Some(9999), 1965, 700),
    ] {
        let mut orders = without_grant();
        orders.boards.insert("GPU-0".into(), ceiling(clock, limit));
        let mut rack = Rack::new(1, 0.0, 0.0, IDLE);
        rack.seconds(3.0, Some(&orders), |_, _| {});
        let reading = rack.boards[0].reading;
        let ClockLock::UpTo(ceiling) = reading.lock else { panic!("{clock:?}: not locked") };
        assert!(ceiling <= Megahertz::new(locked), "{clock:?}: {ceiling}");
        assert_eq!(reading.limit, Some(Watts::new(limited)), "{limit:?}");
    }
}

#[test]
fn an_unknown_board_is_named_and_the_others_are_held() {
    let mut orders = granted(1, 5000);
    orders.boards.insert("GPU-elsewhere".into(), ceiling(Some(1200), Some(400)));
    let mut rack = Rack::new(8, 0.0, 0.0, BUSY);
    rack.seconds(3.0, Some(&orders), |_, _| {});
    let plan = rack.tick(Some(&orders));
    assert_eq!(plan.account.unknown_boards, ["GPU-elsewhere".into()]);
    assert!(plan.account.acknowledged.is_some());
}

#[test]
fn a_board_that_falls_silent_counts_with_its_limit_and_the_others_make_room() {
    let orders = granted(1, 5200);
    let mut rack = Rack::new(8, 0.0, 0.0, BUSY);
    rack.boards[0].work = IDLE;
    rack.seconds(20.0, Some(&orders), |_, _| {});
    rack.silent.push(0);
    let limit = rack.boards[0].reading.limit.unwrap();
    rack.seconds(3.0, Some(&orders), |_, _| {});
    let plan = rack.tick(Some(&orders));
    assert_eq!(plan.account.boards[0].state, DeviceState::Failed);
    let shares: Watts = plan.account.boards[1..].iter().filter_map(|board| board.share).sum();
    assert!(shares + limit <= plan.account.boards_budget.unwrap());
    assert!(plan.account.devices_power >= limit, "missing data is never zero watts");
    let powers: Watts = rack.boards[1..].iter().map(|board| board.reading.power).sum();
    let counted = plan.account.devices_power.saturating_sub(powers).saturating_sub(Watts::new(rack.cpu_watts));
    assert!(counted >= limit.saturating_sub(Watts::new(5)), "{counted} for a board that may draw {limit}");
}

#[test]
fn a_board_that_was_never_read_counts_with_the_most_it_takes() {
    let rack = Rack::new(2, 0.0, 0.0, BUSY);
    let mut seen = rack.observe();
    seen.boards[0].reading = None;
    let plan = decide(&seen, Some(&granted(1, 3000)), &State::default());
    assert!(plan.account.devices_power >= Watts::new(700));
    assert_eq!(plan.account.acknowledged, None);
}

#[test]
fn a_board_that_cannot_be_opened_counts_as_its_largest_neighbour() {
    let rack = Rack::new(2, 0.0, 0.0, BUSY);
    let whole = decide(&rack.observe(), Some(&granted(1, 4600)), &State::default()).account;
    let seen = Observation { unopened_boards: 1, gpus: GpuAccess::Broken("lost".into()), ..rack.observe() };
    let account = decide(&seen, Some(&granted(1, 4600)), &State::default()).account;
    assert_eq!(account.boards_budget.unwrap() + Watts::new(700), whole.boards_budget.unwrap());
    assert_eq!(account.devices_power, whole.devices_power + Watts::new(700));
}

#[test]
fn silence_raises_nothing() {
    let orders = granted(1, 4600);
    let mut rack = Rack::new(8, 0.0, 0.02, BUSY);
    rack.seconds(10.0, Some(&orders), |_, _| {});
    let before: Vec<_> = rack.boards.iter().map(|board| board.reading.limit).collect();
    rack.silent = (0..8).collect();
    rack.seconds(60.0, Some(&orders), |_, plan| {
        for write in plan.boards.iter().filter(|write| write.limit.is_some()) {
            let index: usize = write.uuid[4..].parse().unwrap();
            assert!(write.limit <= before[index], "{write:?}");
        }
    });
}

#[test]
fn the_same_input_gives_the_same_plan() {
    let mut rack = Rack::new(8, 5.0, 0.02, BUSY);
    rack.seconds(2.0, Some(&granted(1, 5000)), |_, _| {});
    let (seen, orders) = (rack.observe(), granted(2, 4000));
    assert_eq!(decide(&seen, Some(&orders), &rack.state), decide(&seen, Some(&orders), &rack.state));
}

#[test]
fn a_release_is_ramped_and_ends_at_the_defaults() {
    let mut orders = granted(1, 4600);
    orders.cpus.insert(0, CpuCeiling { clock: Megahertz::new(2000), reason: Reason::PolicyCap });
    let mut rack = Rack::new(8, 0.0, 0.0, BUSY);
    rack.seconds(10.0, Some(&orders), |_, _| {});
    assert_eq!(rack.cpu.ceiling, Megahertz::new(2000));
    let release = Orders { release: true, grant: None, ..granted(2, 1) };
    let (mut sums, mut released_at) = (Vec::new(), None);
    let start = rack.now;
    rack.seconds(6.0, Some(&release), |rack, plan| {
        if sums.last().is_none_or(|last: &f64| rack.limits() > last + 1.0) {
            sums.push(rack.limits());
        }
        if plan.account.phase == Phase::Released {
            released_at.get_or_insert(rack.now.checked_sub(start).unwrap());
        }
    });
    assert!(sums.len() >= 4, "{sums:?}");
    let released_at = released_at.unwrap();
    assert!((Duration::from_millis(1500)..Duration::from_millis(3500)).contains(&released_at), "{released_at:?}");
    for board in &rack.boards {
        assert_eq!((board.reading.lock, board.reading.limit), (ClockLock::Off, Some(Watts::new(700))));
    }
    assert_eq!(rack.cpu.ceiling, Megahertz::new(3800));
    let quiet = rack.writes;
    rack.seconds(10.0, Some(&release), |_, _| {});
    assert_eq!(rack.writes, quiet, "released means nothing more is written");
    let plan = rack.tick(Some(&release));
    assert_eq!(plan.account.acknowledged.unwrap().epoch.sequence, 2);
}

#[test]
fn an_agent_that_starts_into_a_finished_release_touches_nothing() {
    let release = Orders { release: true, ..granted(2, 1) };
    let mut rack = Rack::new(2, 0.0, 0.0, BUSY);
    rack.state = State::remembering(None).released();
    rack.seconds(5.0, Some(&release), |_, plan| assert_eq!(plan.account.phase, Phase::Released));
    assert_eq!(rack.writes, 0);
}

#[test]
fn an_agent_that_starts_under_a_grant_never_raises_above_what_stands() {
    let orders = granted(1, 4600);
    let mut rack = Rack::new(8, 0.0, 0.0, BUSY);
    rack.seconds(10.0, Some(&orders), |_, _| {});
    let power = rack.power();
    rack.state = State::default();
    rack.seconds(5.0, Some(&orders), |rack, plan| {
        assert!(rack.limits() <= plan.account.boards_budget.unwrap().as_f64());
        assert!(rack.power() <= power * 1.02, "{} W after {power} W", rack.power());
    });
}

#[test]
fn a_board_that_takes_no_limits_is_held_by_its_clocks() {
    let orders = granted(1, 4600);
    let mut rack = Rack::new(8, 0.0, 0.0, BUSY);
    rack.boards[3].reading.limit_knob = Knob::Lacking;
    rack.seconds(3.0, Some(&orders), |_, _| {});
    rack.seconds(5.0, Some(&orders), |rack, _| {
        assert!(rack.power() <= powercap_envelope(4600) * 1.01, "{}", rack.power());
    });
    assert_eq!(rack.boards[3].reading.limit, Some(Watts::new(700)));
}

fn powercap_envelope(grant: u32) -> f64 {
    crate::rack::OVERHEAD.envelope(Watts::new(grant)).as_f64()
}

#[test]
fn a_node_whose_nvml_is_broken_acknowledges_nothing() {
    for gpus in [GpuAccess::Starting, GpuAccess::Broken("driver".into())] {
        let mut state = State::default();
        for tick in 0..20 {
            let now = Duration::from_millis(100 * tick);
            let seen = Observation { gpus: gpus.clone(), now, ..Observation::default() };
            let plan = decide(&seen, Some(&granted(1, 5000)), &state);
            assert_eq!(plan.account.acknowledged, None);
            state = plan.state;
        }
    }
}

#[test]
fn cpus_are_lowered_when_the_boards_at_their_lowest_are_not_enough() {
    // 1,900 W leave 626 W of envelope: two boards at 200 W, and 226 W for CPUs that draw 400 W.
    let orders = granted(1, 1900);
    let mut rack = Rack::new(2, 0.0, 0.0, BUSY);
    rack.cpu_watts = 400;
    rack.seconds(2.0, Some(&orders), |_, _| {});
    assert!(rack.cpu.ceiling < Megahertz::new(2800), "{}", rack.cpu.ceiling);
    let plan = rack.tick(Some(&orders));
    assert_eq!(plan.account.cpus[0].reason, Reason::EnvelopeReached);
}

const BURSTS: Work = |seconds| if (seconds * 0.7).fract() < 0.5 { (1.0, 0.3, 1.0) } else { (0.1, 0.9, 0.4) };

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// The sum of the limits in force never exceeds the boards' budget, but for the moment that a
    /// lowering takes, whatever grants come, boards do and fall silent.
    #[test]
    fn limits_in_force_never_exceed_the_budget(
        grants in prop::collection::vec(3400..8000_u32, 1..6),
        works in prop::collection::vec(0..3_usize, 8),
        slowness in prop::collection::vec(0..5_u32, 8),
        silent in prop::option::of(0..8_usize),
        cpu_watts in prop::collection::vec(100..600_u32, 6),
    ) {
        let mut rack = Rack::new(8, 5.0, 0.02, IDLE);
        for ((board, work), slowness) in rack.boards.iter_mut().zip(works).zip(&slowness) {
            board.work = [BUSY, IDLE, BURSTS][work];
            board.slowness = *slowness;
        }
        let mut lowered_at = rack.now;
        let mut last_budget = f64::MAX;
        for (index, grant) in grants.iter().enumerate() {
            let orders = granted(index as i64, *grant);
            rack.cpu_watts = cpu_watts[index];
            if index == 2 && let Some(silent) = silent {
                rack.silent.push(silent);
            } else if index == 3 {
                rack.silent.clear();
            }
            for _ in 0..40 {
                let plan = rack.tick(Some(&orders));
                let budget = plan.account.boards_budget.expect("a grant").as_f64();
                if budget < last_budget {
                    lowered_at = rack.now;
                }
                last_budget = budget;
                let settled = rack.now.saturating_sub(lowered_at) > Duration::from_millis(800);
                if settled && !plan.account.below_floor && rack.silent.is_empty() && index != 3 {
                    prop_assert!(rack.limits() <= budget + 0.001, "{} W of limits, budget {budget}", rack.limits());
                }
            }
        }
    }

    /// Whatever devices say and orders ask, a decision is made.
    #[test]
    fn no_input_makes_a_decision_panic(
        powers in prop::collection::vec(any::<u32>(), 4),
        clocks in prop::collection::vec(any::<u32>(), 4),
        limits in prop::collection::vec(prop::option::of(any::<u32>()), 4),
        ages in prop::collection::vec(any::<u64>(), 4),
        grants in prop::collection::vec(prop::option::of(any::<u32>()), 12),
        ceilings in prop::collection::vec((prop::option::of(any::<u32>()), prop::option::of(any::<u32>())), 4),
        percent in any::<u32>(),
        release in any::<bool>(),
    ) {
        let rack = Rack::new(4, 0.0, 0.0, IDLE);
        let mut state = State::default();
        for (tick, grant) in grants.iter().enumerate() {
            let mut seen = rack.observe();
            seen.now = Duration::from_millis(ages[tick % 4] % 1_000_000);
            for (index, board) in seen.boards.iter_mut().enumerate() {
                let place = (index + tick) % 4;
                board.age = Duration::from_millis(ages[place] % 3000);
                if let Some(reading) = &mut board.reading {
                    reading.power = Watts::from_milliwatts(powers[place].into());
                    reading.clock = Some(Megahertz::new(clocks[place]));
                    reading.limit = limits[place].map(|limit| Watts::from_milliwatts(limit.into()));
                    reading.executed = u64::from(powers[place]) % 50;
                }
            }
            let mut orders = Orders { grant: grant.map(Watts::new), release: release && tick > 6, ..granted(tick as i64, 1) };
            orders.overhead.percent = percent;
            orders.boards = ceilings.iter().enumerate().map(|(index, (clock, limit))| (format!("GPU-{index}").into(), ceiling(*clock, *limit))).collect::<BTreeMap<_, _>>();
            let plan = decide(&seen, Some(&orders), &state);
            for write in &plan.boards {
                prop_assert!(write.limit.is_none_or(|limit| (Watts::new(200)..=Watts::new(700)).contains(&limit)), "{write:?}");
            }
            state = plan.state;
        }
    }
}
