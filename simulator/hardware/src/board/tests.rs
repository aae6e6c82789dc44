use proptest::prelude::{ProptestConfig, prop_assert, proptest};

use super::*;

fn h100() -> Board {
    Board::new(BoardSpec::h100_sxm(), Traits::EXACT)
}

fn boot() -> Request {
    Board::boot_request(&BoardSpec::h100_sxm())
}

fn work(memory_share: f64) -> Load {
    Load { beat: 1, utilisation: 1.0, memory_share, intensity: 1.0, memory_used_mib: 70_000 }
}

/// Runs with a living load; returns the last state and the mean true watts.
fn run(board: &mut Board, seconds: f64, request: &Request, load: &Load) -> (State, f64) {
    let (mut load, mut elapsed, before) = (*load, 0.0, board.true_joules());
    let mut state = State::default();
    while elapsed < seconds {
        load.beat = board.beat + u64::from(load.beat != 0);
        state = board.step(0.005, request, &load);
        elapsed += 0.005;
    }
    (state, (board.true_joules() - before) / elapsed)
}

#[test]
fn an_idle_board_rests_at_its_lowest_clock() {
    let (state, watts) = run(&mut h100(), 2.0, &boot(), &Load::default());
    assert_eq!((state.clock_mhz, state.reasons), (345, reasons::IDLE));
    assert!((watts - 70.0).abs() < 0.01);
    assert_eq!(state.average_mw, 70_000);
}

#[test]
fn the_measured_points_come_out_at_the_same_ratios() {
    for (a100_mhz, compute, speed, memory) in
        [(1005.0, 135.0, 0.724, 145.0), (1200.0, 179.0, 0.854, 170.0), (1410.0, 296.0, 1.0, 228.0)]
    {
        let spec = BoardSpec::h100_sxm();
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a clock")]
        let wanted = (a100_mhz / 1410.0 * 1980.0) as u32;
        let request = Request { lock_max_mhz: wanted, lock_min_mhz: 345, ..boot() };
        for (share, watts, speed) in [(0.0, compute, speed), (1.0, memory, 1.0)] {
            let mut board = Board::new(spec.clone(), Traits::EXACT);
            run(&mut board, 0.2, &request, &work(share));
            let (state, seen) = run(&mut board, 0.5, &request, &work(share));
            let expected = watts / 300.0 * 700.0;
            assert!((seen / expected - 1.0).abs() < 0.03, "{wanted} MHz, {share}: {seen} against {expected}");
            assert!((state.speed - speed).abs() < 0.02);
        }
    }
}

#[test]
fn a_lock_is_late_then_read_back_and_on_the_grid() {
    let mut board = h100();
    run(&mut board, 0.5, &boot(), &work(0.0));
    let request = Request { generation: 1, lock_min_mhz: 345, lock_max_mhz: 1204, ..boot() };
    let (early, _) = run(&mut board, 0.02, &request, &work(0.0));
    assert_eq!((early.generation, early.clock_mhz), (0, 1980));
    let (late, _) = run(&mut board, 0.03, &request, &work(0.0));
    assert_eq!((late.generation, late.clock_mhz, late.lock_max_mhz), (1, 1200, 1200));
    assert_eq!(late.reasons, reasons::USER_CLOCKS);
}

#[test]
fn locks_and_limits_out_of_range_are_clamped() {
    let request = Request { generation: 3, lock_min_mhz: 1, lock_max_mhz: 99_999, limit_mw: 5, persistence: true };
    let (state, _) = run(&mut h100(), 0.2, &request, &work(0.0));
    assert_eq!((state.lock_min_mhz, state.lock_max_mhz, state.limit_mw), (345, 1980, 200_000));
    assert!(state.persistence);
}

#[test]
fn power_falls_as_the_clock_falls() {
    let mut previous = f64::INFINITY;
    for lock in [1980, 1800, 1600, 1400, 1200, 900, 600, 345] {
        let mut board = h100();
        let request = Request { lock_min_mhz: 345, lock_max_mhz: lock, ..boot() };
        run(&mut board, 0.2, &request, &work(0.3));
        let (_, watts) = run(&mut board, 0.5, &request, &work(0.3));
        assert!(watts < previous, "{lock} MHz: {watts} W");
        previous = watts;
    }
    assert!(previous > 70.0);
}

#[test]
fn the_limiter_holds_the_mean_of_a_second_and_lets_short_peaks_through() {
    for ripple in [0.0, 0.02] {
        for limit in [250.0, 350.0, 500.0, 600.0] {
            let mut board = Board::new(BoardSpec::h100_sxm(), Traits { ripple, seed: 77, ..Traits::EXACT });
            run(&mut board, 1.0, &boot(), &Load::default());
            let request = Request { limit_mw: milli(limit), ..boot() };
            let (mut worst, mut above) = (0.0_f64, 0.0);
            for step in 1..=200u64 {
                board.step(0.005, &request, &Load { beat: step, ..work(0.0) });
                worst = worst.max(board.true_watts());
                above += if board.true_watts() > limit * 1.02 { 0.005 } else { 0.0 };
            }
            assert!(worst > limit * 1.1, "limit {limit}: a peak is seen, {worst}");
            assert!((0.02..0.3).contains(&above), "limit {limit}: {above} s above it");
            for _ in 0..5 {
                let (state, mean) = run(&mut board, 1.0, &request, &work(0.0));
                assert!(mean <= limit * 1.005 && mean > limit * 0.93, "limit {limit}: mean {mean}");
                assert_ne!(state.reasons & reasons::POWER_CAP, 0);
            }
        }
    }
}

#[test]
fn a_dead_workload_fades_to_idle_in_a_second() {
    let mut board = h100();
    run(&mut board, 1.0, &boot(), &work(0.0));
    let stuck = Load { beat: board.beat, ..work(0.0) };
    board.step(0.9, &boot(), &stuck);
    assert!(board.true_watts() > 600.0);
    board.step(0.2, &boot(), &stuck);
    let state = board.step(0.005, &boot(), &stuck);
    assert!(board.true_watts() < 71.0);
    assert_eq!((state.utilisation_percent, state.memory_used_mib), (0, 0));
}

#[test]
fn a_sensor_gain_leaves_the_truth_alone() {
    let mut board = Board::new(BoardSpec::h100_sxm(), Traits { sensor_gain: 1.05, ..Traits::EXACT });
    let (state, mean) = run(&mut board, 3.0, &boot(), &work(1.0));
    assert!((f64::from(state.average_mw) / 1000.0 / mean - 1.05).abs() < 0.02);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]
    #[test]
    fn power_is_never_nan_negative_or_above_the_peak(
        steps in proptest::collection::vec(
            (proptest::num::f64::ANY, proptest::num::f64::ANY, proptest::num::f64::ANY, 0u32..3000, 0u32..3000, 0u32..2_000_000, 0.0..0.3f64, 0u64..3),
            1..40,
        )
    ) {
        let mut board = Board::new(BoardSpec::h100_sxm(), Traits { ripple: 0.02, seed: 5, ..Traits::EXACT });
        for (utilisation, memory_share, intensity, low, high, limit_mw, seconds, beat) in steps {
            let request = Request { generation: u64::from(low), lock_min_mhz: low, lock_max_mhz: high, limit_mw, persistence: false };
            let load = Load { beat: board.beat + beat, utilisation, memory_share, intensity, memory_used_mib: 0 };
            let state = board.step(seconds, &request, &load);
            prop_assert!(board.true_watts().is_finite());
            prop_assert!((0.0..=board.spec.peak_watts).contains(&board.true_watts()));
            prop_assert!((345..=1980).contains(&state.clock_mhz) && state.clock_mhz.is_multiple_of(15));
        }
    }
}
