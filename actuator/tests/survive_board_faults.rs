//! Boards that hang, vanish, come back, are wanted by others or fought over: the others are held.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test")]

mod machine;

use std::time::{Duration, Instant};

use machine::{Machine, board};
use powercap_actuator::node::{
    decide::Plan,
    metrics::Metrics,
    observation::{GpuAccess, Observation},
    observe::{self, Devices, boards::Places, letting_go::DevicesWanted},
    orders::Orders,
};
use powercap_common::{
    api::{DeviceState, NodeFrequencies, NodeFrequenciesSpec, NodeOverhead},
    reason::Reason,
    units::Watts,
};
use powercap_simulated_hardware::{BoardSpec, Fault, NodeSpec};
use prometheus_client::registry::Registry;

/// When a wait is given up.
const PATIENCE: Duration = Duration::from_secs(60);

fn granted(sequence: i64, watts: u32) -> Orders {
    let mut spec = NodeFrequenciesSpec {
        node_name: "node-1".into(),
        power_limit_watts: Some(watts),
        node_overhead: NodeOverhead { static_watts: 1000, percent: 4 },
        ..Default::default()
    };
    spec.epoch.sequence = sequence;
    Orders::accept(&NodeFrequencies::new("node-1", spec), "node-1", None).unwrap()
}

fn states(plan: &Plan) -> Vec<(DeviceState, Reason)> {
    plan.account.boards.iter().map(|board| (board.state, board.reason)).collect()
}

/// What the boards that answer draw.
fn power(seen: &Observation) -> Watts {
    seen.boards.iter().filter_map(|board| board.fresh()).map(|reading| reading.power).sum()
}

/// One test: the library is found through the environment, and holds one state a process.
#[test]
fn a_board_in_trouble_does_not_stop_the_others() {
    let mut machine = Machine::boot(NodeSpec::new("node-1", 3, BoardSpec::h100_sxm()));
    // 3,000 W leave about 1,700 W for three boards.
    let orders = granted(1, 3000);
    machine.until("an acknowledgement", Some(&orders), |_, plan| plan.account.acknowledged.is_some());
    let names: Vec<_> = machine.seen().boards.iter().map(|board| board.traits.uuid.clone()).collect();

    a_hanging_board_counts_with_its_limit(&mut machine, &names[0]);
    a_lost_board_is_quarantined_and_comes_back_as_another(&mut machine, &names[1]);
    nvml_is_closed_for_others_and_everything_is_applied_again(&mut machine);
    a_call_that_hangs_keeps_nvml_open_until_it_returns(&mut machine, &names[0]);
    a_board_that_another_writer_keeps_is_yielded(&mut machine, &names[2]);
}

fn a_hanging_board_counts_with_its_limit(machine: &mut Machine, name: &str) {
    machine.misbehave(name, Fault { hangs: true, ..Fault::default() });
    let orders = granted(2, 2600);
    machine.until("the others made room", Some(&orders), |seen, plan| {
        let hung = board(seen, name);
        let others: Watts = plan.account.boards[1..].iter().filter_map(|board| board.share).sum();
        let limit = hung.reading.unwrap().limit.unwrap();
        states(plan)[0].0 == DeviceState::Failed
            && seen.boards[1..].iter().all(|board| board.fresh().is_some())
            && others + limit <= plan.account.boards_budget.unwrap()
            && power(seen) <= others
    });
    machine.misbehave(name, Fault::default());
    machine.until("it is back", Some(&orders), |_, plan| {
        plan.account.acknowledged.is_some_and(|acknowledged| acknowledged.epoch.sequence == 2)
    });
}

fn a_lost_board_is_quarantined_and_comes_back_as_another(machine: &mut Machine, name: &str) {
    let orders = granted(3, 3000);
    machine.misbehave(name, Fault { gone: true, returns_renamed: true, ..Fault::default() });
    machine.until("the quarantine", Some(&orders), |_, plan| {
        states(plan).contains(&(DeviceState::Quarantined, Reason::Quarantined))
    });
    let plan = machine.turn(Some(&orders));
    assert!(plan.account.devices_power >= Watts::new(700), "it counts with the most that it takes");
    machine.until("it left", Some(&orders), |seen, _| seen.boards.len() == 2);
    machine.misbehave(name, Fault::default());
    // Boards that are missing are known to be missing while NVML counts fewer; a lost board that is
    // counted again is looked for within seconds.
    machine.root.boards().unwrap();
    let turns = machine.until("a third board under its limit", Some(&orders), |seen, plan| {
        seen.boards.len() == 3
            && plan.account.acknowledged.is_some_and(|acknowledged| acknowledged.epoch.sequence == 3)
            && plan.account.boards.iter().all(|board| board.state == DeviceState::Applied)
    });
    assert!(machine.seen().boards.iter().all(|board| &*board.traits.uuid != name), "it is a new board");
    // Half a minute.
    assert!(turns <= 300, "{turns} turns");
}

fn nvml_is_closed_for_others_and_everything_is_applied_again(machine: &mut Machine) {
    let orders = granted(4, 3000);
    assert_eq!(machine.root.nvml_clients(), 1);
    machine.devices.want(DevicesWanted::LetGo("a driver upgrade".into()));
    let start = Instant::now();
    while machine.root.nvml_clients() > 0 {
        machine.turn(Some(&orders));
        assert!(start.elapsed() < PATIENCE, "NVML is still open");
        std::thread::sleep(machine::PERIOD);
    }
    let plan = machine.turn(Some(&orders));
    assert!(states(&plan).iter().all(|state| *state == (DeviceState::Failed, Reason::DevicesLetGo)));
    assert!(plan.account.devices_power >= Watts::new(2100), "{}", plan.account.devices_power);
    assert!(plan.boards.is_empty(), "{:?}", plan.boards);
    assert_eq!(machine.seen().gpus, GpuAccess::LetGo("a driver upgrade".into()));

    // A reloaded driver has forgotten every limit.
    for (identity, folder) in machine.root.boards().unwrap() {
        folder.request().unwrap().update(|request| request.limit_mw = 700_000).unwrap();
        assert!(!identity.uuid.is_empty());
    }
    machine.devices.want(DevicesWanted::Wanted);
    machine.until("the limits stand again", Some(&orders), |seen, plan| {
        let budget = plan.account.boards_budget.unwrap();
        let limits: Option<Vec<_>> = seen.boards.iter().map(|board| board.fresh()?.limit).collect();
        limits.is_some_and(|limits| limits.len() == 3 && limits.into_iter().sum::<Watts>() <= budget)
            && plan.account.acknowledged.is_some_and(|acknowledged| acknowledged.epoch.sequence == 4)
    });
}

fn a_call_that_hangs_keeps_nvml_open_until_it_returns(machine: &mut Machine, name: &str) {
    let orders = granted(4, 3000);
    machine.misbehave(name, Fault { hangs: true, ..Fault::default() });
    machine.until("the call hangs", Some(&orders), |seen, _| board(seen, name).fresh().is_none());
    machine.devices.want(DevicesWanted::LetGo("a driver upgrade".into()));
    // The other boards' threads end at once, the agent waits 5 s for this one's.
    let start = Instant::now();
    while start.elapsed() < Duration::from_secs(6) {
        let plan = machine.turn(Some(&orders));
        assert!(machine.root.nvml_clients() == 1 && plan.account.acknowledged.is_some());
        std::thread::sleep(machine::PERIOD);
    }
    machine.until("it is said that the call hangs", Some(&orders), |seen, _| {
        seen.gpus == GpuAccess::LettingGo("a driver upgrade".into(), 1)
    });
    let plan = machine.turn(Some(&orders));
    assert!(states(&plan).iter().all(|state| *state == (DeviceState::Failed, Reason::DevicesLetGo)));
    assert!(plan.account.devices_power >= Watts::new(2100) && plan.boards.is_empty(), "{:?}", plan.account);
    assert_eq!(machine.root.nvml_clients(), 1);
    let said = machine.says(Some(&orders), &plan);
    assert_eq!(said.reason, Reason::Pending, "{said:?}");
    machine.misbehave(name, Fault::default());
    let start = Instant::now();
    while machine.root.nvml_clients() > 0 {
        machine.turn(Some(&orders));
        assert!(start.elapsed() < PATIENCE, "the call has returned and NVML is still open");
        std::thread::sleep(machine::PERIOD);
    }
    machine.until("it is said that NVML is closed", Some(&orders), |seen, _| {
        seen.gpus == GpuAccess::LetGo("a driver upgrade".into())
    });
    let plan = machine.turn(Some(&orders));
    assert_eq!(machine.says(Some(&orders), &plan).reason, Reason::DevicesLetGo);
    machine.devices.want(DevicesWanted::Wanted);
    machine.until("all boards are held again", Some(&orders), |seen, plan| {
        seen.boards.len() == 3 && plan.account.boards.iter().all(|board| board.state == DeviceState::Applied)
    });
}

fn a_board_that_another_writer_keeps_is_yielded(machine: &mut Machine, name: &str) {
    let orders = granted(5, 3000);
    let rival = Fault { rival_period_ms: 700, rival_limit_mw: 700_000, rival_lock_mhz: 1980, ..Fault::default() };
    machine.misbehave(name, rival);
    let at = machine.seen().boards.iter().position(|board| &*board.traits.uuid == name).unwrap();
    let mut drifted = false;
    machine.until("the board was yielded", Some(&orders), |_, plan| {
        drifted |= states(plan)[at] == (DeviceState::Drifted, Reason::Drifted);
        states(plan)[at] == (DeviceState::Drifted, Reason::Contended)
    });
    assert!(drifted, "it was set again before");
    machine.until("the others made room", Some(&orders), |seen, plan| {
        let others: Watts = seen
            .boards
            .iter()
            .filter(|board| &*board.traits.uuid != name)
            .filter_map(|board| board.fresh()?.limit)
            .sum();
        others + Watts::new(700) <= plan.account.boards_budget.unwrap()
    });
    let plan = machine.turn(Some(&orders));
    assert!(plan.boards.iter().all(|write| &*write.uuid != name), "nobody is fought for ever");
}

#[test]
fn boards_on_the_bus_without_a_driver_are_not_no_boards() {
    let folder = tempfile::tempdir().unwrap();
    let pci = folder.path().join("pci");
    let look = |pci: &std::path::Path| {
        let devices = Devices::default();
        let places = Places { nvml: "no-such-library.so".into(), pci: pci.to_owned() };
        observe::boards::start(devices.clone(), places, machine::PERIOD, Metrics::new(&mut Registry::default()))
            .unwrap();
        let start = Instant::now();
        loop {
            let seen = devices.observe(start);
            if seen.gpus != GpuAccess::Starting {
                return seen;
            }
            assert!(start.elapsed() < PATIENCE);
            std::thread::sleep(Duration::from_millis(10));
        }
    };
    assert_eq!(look(&pci).gpus, GpuAccess::NoLibrary);
    for address in ["0000:18:00.0", "0000:2a:00.0"] {
        std::fs::create_dir_all(pci.join(address)).unwrap();
        std::fs::write(pci.join(address).join("vendor"), "0x10de\n").unwrap();
        std::fs::write(pci.join(address).join("class"), "0x030200\n").unwrap();
    }
    let seen = look(&pci);
    assert!(matches!(&seen.gpus, GpuAccess::Broken(why) if why.contains("2 NVIDIA boards")), "{:?}", seen.gpus);
    assert_eq!(seen.unopened_boards, 2, "they count with the most that any board takes");
}
