//! Each write to a device is told with what was asked for, written and read back, and none floods the log.

use std::time::Duration;

use powercap_actuator::node::{
    audit::{Audit, Entry},
    decide::{BoardWrite, Plan},
    metrics::WriteKind,
    observation::Observation,
};
use powercap_common::{
    api::Epoch,
    reason::Reason,
    units::{Megahertz, Watts},
};

use crate::rack::{BUSY, Rack, TICK, ceiling, granted};

#[test]
fn a_cut_is_told_with_what_was_asked_for_written_and_read_back() {
    let mut rack = Rack::new(8, 0.0, 0.0, BUSY);
    let mut orders = granted(7, 5000);
    orders.boards.insert("GPU-3".into(), ceiling(Some(1201), Some(350)));
    let (mut audit, mut lines) = (Audit::default(), Vec::new());
    for _ in 0..40 {
        let seen = rack.observe();
        let plan = rack.tick(Some(&orders));
        lines.extend(audit.next(&seen, Some(&orders), &plan));
    }
    for board in 0..8 {
        let device = format!("GPU-{board}");
        let told = |kind| lines.iter().find(|line| line.device == device && line.kind == kind).unwrap();
        let limit = told(WriteKind::PowerLimit);
        assert_eq!((limit.epoch, limit.accepted), (Epoch { term: 1, sequence: 7 }, true));
        let apart = limit.effective.unwrap() - limit.written.unwrap();
        assert!(apart.abs() < 0.5, "a limit is told once it was read back: {limit:?}");
        assert!(told(WriteKind::GraphicsClock).effective.is_some());
    }
    let asked = |kind| lines.iter().find(|line| line.device == "GPU-3" && line.kind == kind).unwrap().requested;
    assert_eq!((asked(WriteKind::PowerLimit), asked(WriteKind::GraphicsClock)), (Some(350.0), Some(1201.0)));
    let clock = lines.iter().find(|line| line.device == "GPU-3" && line.kind == WriteKind::GraphicsClock).unwrap();
    assert!(clock.written.unwrap() <= 1200.0, "what is written is on the board's own grid: {clock:?}");
}

/// One board, which carries out what it is told at once.
struct Hunted {
    seen: Observation,
    audit: Audit,
    number: u64,
}

impl Hunted {
    fn new() -> Self {
        Self { seen: Rack::new(1, 0.0, 0.0, BUSY).observe(), audit: Audit::default(), number: 0 }
    }

    fn turn(&mut self, limit: Option<u32>, carried_out: bool) -> Vec<Entry> {
        let mut plan = Plan::default();
        if let Some(limit) = limit {
            self.number += 1;
            let (uuid, limit) = (self.seen.boards[0].traits.uuid.clone(), Some(Watts::new(limit)));
            plan.boards.push(BoardWrite {
                uuid,
                number: self.number,
                lock: None,
                limit,
                reason: Reason::EnvelopeReached,
            });
        }
        let lines = self.audit.next(&self.seen, None, &plan);
        let reading = self.seen.boards[0].reading.as_mut().unwrap();
        if carried_out {
            reading.executed = self.number;
            reading.limit = limit.map(Watts::new).or(reading.limit);
        }
        self.seen.now += TICK;
        lines
    }
}

#[test]
fn a_board_that_hunts_gives_a_line_a_second_that_counts_every_write() {
    for carried_out in [true, false] {
        let mut board = Hunted::new();
        let mut lines = Vec::new();
        for tick in 0..600 {
            lines.extend(board.turn(Some(if tick % 2 == 0 { 400 } else { 500 }), carried_out));
        }
        for _ in 0..40 {
            lines.extend(board.turn(None, carried_out));
        }
        assert!((20..=62).contains(&lines.len()), "{} lines in a minute", lines.len());
        assert_eq!(lines.iter().map(|line| line.writes).sum::<u32>(), 600);
        let hunted = lines.iter().filter(|line| line.writes > 1);
        assert!(hunted.clone().count() > 10);
        assert!(hunted.clone().all(|line| (line.lowest, line.highest) == (Some(400.0), Some(500.0))), "{lines:?}");
    }
}

#[test]
fn a_write_that_nothing_comes_of_is_told_all_the_same() {
    let mut board = Hunted::new();
    board.seen.boards[0].reading.as_mut().unwrap().limit = Some(Watts::new(700));
    assert_eq!(board.turn(Some(300), false), []);
    let lines: Vec<_> = (0..30).flat_map(|_| board.turn(None, false)).collect();
    assert_eq!(lines.len(), 1);
    assert_eq!((lines[0].written, lines[0].effective), (Some(300.0), Some(700.0)));

    board.seen.boards.clear();
    let gone = (0..30).flat_map(|_| board.audit.next(&tick(&mut board.seen), None, &Plan::default())).count();
    assert_eq!(gone, 0, "nothing is told twice");
}

fn tick(seen: &mut Observation) -> Observation {
    seen.now += TICK;
    seen.clone()
}

#[test]
fn all_cpus_together_are_one_line() {
    use powercap_actuator::node::decide::CpuWrite;
    let mut seen = Rack::new(1, 0.0, 0.0, BUSY).observe();
    let cpu = seen.cpus[0].clone();
    seen.cpus = (0..64)
        .map(|policy| {
            let mut cpu = cpu.clone();
            cpu.traits.policy = policy;
            cpu
        })
        .collect();
    let write = |policy| CpuWrite { policy, number: 1, ceiling: Megahertz::new(2300), reason: Reason::DomainCap };
    let plan = Plan { cpus: (0..64).map(write).collect(), ..Plan::default() };
    let mut audit = Audit::default();
    assert_eq!(audit.next(&seen, None, &plan), []);
    for cpu in &mut seen.cpus {
        let reading = cpu.reading.as_mut().unwrap();
        (reading.executed, reading.ceiling) = (1, Megahertz::new(2300));
    }
    seen.now += Duration::from_millis(100);
    let lines = audit.next(&seen, None, &Plan::default());
    assert_eq!(lines.len(), 1);
    assert_eq!(
        (lines[0].device.as_str(), lines[0].writes, lines[0].effective),
        ("64 cpufreq policies", 64, Some(2300.0))
    );
}
