//! Closed loop on simulated H100s: the loop holds the envelope, uses it, and comes to rest.

use powercap_actuator::node::decide::Plan;
use powercap_common::units::Watts;

use crate::rack::{BUSY, IDLE, OVERHEAD, Rack, Work, granted};

/// A training step of two seconds with a tenth of it spent in an all-reduce.
const TRAINING: Work = |seconds| if seconds % 2.0 < 1.8 { (1.0, 0.1, 1.0) } else { (0.4, 0.8, 0.5) };

/// Draws more than the agent's model has a busy board draw.
const HEAVY: Work = |_| (1.0, 0.1, 1.6);

fn envelope(grant: u32) -> f64 {
    OVERHEAD.envelope(Watts::new(grant)).as_f64()
}

fn limits_fit(rack: &Rack, plan: &Plan) {
    if let Some(budget) = plan.account.boards_budget {
        assert!(rack.limits() <= budget.as_f64() + 0.001, "{} > {budget}", rack.limits());
    }
}

#[test]
fn a_step_of_load_settles_within_a_second_just_below_the_envelope() {
    // Boards limit themselves by their true power: where sensors err by up to 5 %, those that read low
    // leave watts unused by that reading.
    for (gain, ripple, most_unused) in [(0.0, 0.0, 0.015), (0.0, 0.02, 0.015), (5.0, 0.02, 0.03)] {
        let orders = granted(1, 5200);
        let mut rack = Rack::new(8, gain, ripple, IDLE);
        rack.seconds(5.0, Some(&orders), |_, _| {});
        rack.boards.iter_mut().for_each(|board| board.work = BUSY);
        rack.seconds(1.0, Some(&orders), limits_fit);
        let mut above = 0;
        rack.seconds(9.0, Some(&orders), |rack, plan| {
            limits_fit(rack, plan);
            above += usize::from(rack.power() > envelope(5200));
        });
        assert_eq!(above, 0, "gain {gain} ripple {ripple}: ticks above the envelope after the settling");
        rack.seconds(10.0, Some(&orders), limits_fit);
        let (mut sum, mut ticks, before) = (0.0, 0.0, rack.writes);
        rack.seconds(30.0, Some(&orders), |rack, plan| {
            limits_fit(rack, plan);
            above += usize::from(rack.power() > envelope(5200));
            sum += rack.power();
            ticks += 1.0;
        });
        let unused = 1.0 - sum / ticks / envelope(5200);
        assert!(
            above == 0 && unused < most_unused,
            "gain {gain} ripple {ripple}: {:.2} % unused, {above} above",
            unused * 100.0
        );
        assert!(rack.writes - before < 40, "{} writes in 30 s: it hunts", rack.writes - before);
    }
}

#[test]
fn a_cut_carries_every_new_share_in_its_first_plan() {
    let mut rack = Rack::new(8, 5.0, 0.02, BUSY);
    rack.seconds(10.0, Some(&granted(1, 7000)), |_, _| {});
    let plan = rack.tick(Some(&granted(2, 5000)));
    let limits: Watts = plan.boards.iter().filter_map(|write| write.limit).sum();
    assert_eq!(plan.boards.iter().filter(|write| write.limit.is_some()).count(), 8);
    assert!(limits <= plan.account.boards_budget.unwrap());
    assert!(plan.boards.iter().all(|write| write.lock.is_some()), "{:?}", plan.boards);
    rack.seconds(0.3, Some(&granted(2, 5000)), |_, _| {});
    rack.seconds(20.0, Some(&granted(2, 5000)), |rack, plan| {
        limits_fit(rack, plan);
        assert!(rack.power() <= envelope(5000), "{} W at {:?}", rack.power(), rack.now);
    });
    let acknowledged = rack.tick(Some(&granted(2, 5000))).account.acknowledged.unwrap();
    assert_eq!((acknowledged.epoch.sequence, acknowledged.power_limit_watts), (2, Some(5000)));
}

#[test]
fn a_few_watts_that_the_cpus_leave_reach_the_boards_after_a_rest() {
    let orders = granted(1, 5200);
    let mut rack = Rack::new(8, 0.0, 0.02, BUSY);
    rack.cpu_watts = 260;
    rack.seconds(20.0, Some(&orders), limits_fit);
    let before = rack.limits();
    rack.cpu_watts = 212;
    rack.seconds(15.0, Some(&orders), limits_fit);
    assert!(rack.limits() >= before + 40.0, "{} W after {before} W", rack.limits());
}

#[test]
fn training_steps_with_pauses_are_held_without_hunting() {
    let orders = granted(1, 5200);
    let mut rack = Rack::new(8, 5.0, 0.02, TRAINING);
    rack.seconds(15.0, Some(&orders), |_, _| {});
    let (before, mut above, mut busy, mut ticks) = (rack.writes, 0, 0.0, 0.0);
    rack.seconds(60.0, Some(&orders), |rack, plan| {
        limits_fit(rack, plan);
        above += usize::from(rack.power() > envelope(5200));
        if rack.now.as_secs_f64() % 2.0 < 1.7 && rack.now.as_secs_f64() % 2.0 > 0.3 {
            busy += rack.power();
            ticks += 1.0;
        }
    });
    let unused = 1.0 - busy / ticks / envelope(5200);
    assert!(unused < 0.04, "{:.2} %", unused * 100.0);
    assert!(rack.writes - before < 100, "{} writes", rack.writes - before);
    assert_eq!(above, 0);
}

#[test]
fn watts_of_idle_boards_go_to_busy_ones_and_come_back() {
    let orders = granted(1, 4600);
    let mut rack = Rack::new(8, 0.0, 0.02, IDLE);
    rack.boards[0].work = BUSY;
    rack.boards[1].work = BUSY;
    rack.seconds(20.0, Some(&orders), limits_fit);
    assert!(rack.boards[0].reading.power > Watts::new(600), "{}", rack.boards[0].reading.power);
    rack.boards.iter_mut().for_each(|board| board.work = BUSY);
    rack.seconds(1.0, Some(&orders), limits_fit);
    rack.seconds(10.0, Some(&orders), |rack, plan| {
        limits_fit(rack, plan);
        assert!(rack.power() <= envelope(4600), "{} W", rack.power());
    });
    let powers: Vec<_> = rack.boards.iter().map(|board| board.reading.power.as_f64()).collect();
    let (least, most) =
        powers.iter().fold((f64::MAX, 0.0_f64), |(least, most), power| (least.min(*power), most.max(*power)));
    assert!(most / least < 1.1, "{powers:?}");
}

#[test]
fn a_grant_below_the_lowest_limits_is_kept_by_clocks() {
    let orders = granted(1, 2700);
    let mut rack = Rack::new(8, 0.0, 0.02, BUSY);
    rack.seconds(3.0, Some(&orders), |_, _| {});
    let plan = rack.tick(Some(&orders));
    assert!(plan.account.below_floor);
    rack.seconds(10.0, Some(&orders), |rack, _| {
        assert!(rack.power() <= envelope(2700) * 1.01, "{} W of {}", rack.power(), envelope(2700));
    });
}

#[test]
fn a_step_of_load_just_after_a_raise_is_answered_by_the_first_decision_that_sees_it() {
    let orders = granted(1, 5200);
    let mut met_a_raise = false;
    // Idle boards are raised to where full load may have them: one of these steps meets that.
    for idle_ticks in 1..12 {
        let mut rack = Rack::new(8, 0.0, 0.0, HEAVY);
        rack.seconds(5.0, Some(&orders), |_, _| {});
        rack.boards.iter_mut().for_each(|board| board.work = IDLE);
        (0..idle_ticks).for_each(|_| drop(rack.tick(Some(&orders))));
        rack.boards.iter_mut().for_each(|board| board.work = HEAVY);
        let raises = rack.tick(Some(&orders));
        let powers: Vec<_> = rack.boards.iter().map(|board| board.reading.power.as_f64()).collect();
        let plan = rack.tick(Some(&orders));
        let locked =
            |plan: &Plan, uuid: &str| plan.boards.iter().any(|write| &*write.uuid == uuid && write.lock.is_some());
        for (index, power) in powers.into_iter().enumerate() {
            let uuid = rack.boards[index].traits.uuid.clone();
            let share = plan.account.boards[index].share.unwrap().as_f64();
            if locked(&raises, &uuid) && power > share * 1.03 {
                met_a_raise = true;
                assert!(locked(&plan, &uuid), "board {index} draws {power} W of {share} W, {idle_ticks} ticks idle");
            }
        }
    }
    assert!(met_a_raise, "no step of load met a raise");
}
