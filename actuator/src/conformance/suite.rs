//! Runs the checks in their order, and turns what was measured into findings.

use std::{
    io::Write,
    sync::Arc,
    time::{Duration, Instant},
};

use nvml_wrapper::Nvml;

use super::{
    ConformanceError, catalogue as check,
    catalogue::Check,
    finding::{Answer, Finding, Judgement},
    judge::{boards, cpus, node, writes},
    measure::{self, Pending, Stop},
    measured::{BUSY_PERCENT, BoardRead, BoardWritten, Holding},
    report::{BoardEntry, Machine, Report, hashed},
};
use crate::{
    devices::{
        nvml::{self, NvmlUnavailable},
        nvml_facts as facts,
    },
    flags::ConformanceFlags,
};

/// A board that does not end its part within this time hangs.
const PATIENCE: Duration = Duration::from_secs(60);

/// What has been found so far.
struct Suite<'run> {
    flags: &'run ConformanceFlags,
    stop: &'run Stop,
    findings: Vec<Finding>,
    boards: Vec<BoardEntry>,
}

/// Runs everything that the flags ask for.
pub(super) fn run(
    flags: &ConformanceFlags,
    holdings: Option<Answer<Vec<Holding>>>,
    stop: &Stop,
) -> Result<Report, ConformanceError> {
    let mut suite = Suite { flags, stop, findings: Vec::new(), boards: Vec::new() };
    suite.found(check::PRIVILEGES, "node", node::privileges(measure::node::privileges()));
    suite.found(check::POD_RESOURCES, "node", node::pod_resources(holdings.as_ref()));
    let holdings = holdings.and_then(Result::ok).unwrap_or_default();
    let mut machine = Machine {
        kernel: measure::node::kernel(),
        architecture: std::env::consts::ARCH,
        processor: measure::node::processor(),
        driver: None,
        nvml: None,
    };
    match nvml::load(&flags.nvml_library) {
        Ok((nvml, count)) => {
            machine.driver = nvml.sys_driver_version().ok();
            machine.nvml = nvml.sys_nvml_version().ok();
            suite.found(check::NVML_LOADS, "node", Judgement::pass().number("boards", count.into(), ""));
            if flags.write {
                suite.announce(Some((&nvml, count)), &holdings)?;
            }
            suite.read_boards(&nvml, count);
            suite.cpus();
            if flags.write && !stop.asked() {
                suite.write_boards(&nvml, count);
            }
        }
        Err(error) => {
            let judgement = match &error {
                NvmlUnavailable::NoLibrary(_) => Judgement::not_supported(format!("{error}: a node without boards")),
                _ => Judgement::fail(error.to_string()),
            };
            suite.found(check::NVML_LOADS, "node", judgement);
            if flags.write {
                suite.announce(None, &holdings)?;
            }
            suite.cpus();
        }
    }
    Ok(Report::new(machine, suite.boards, suite.findings, flags.write, stop.asked()))
}

impl Suite<'_> {
    fn found(&mut self, check: &'static Check, subject: impl Into<String>, judgement: Judgement) {
        self.findings.push(Finding::new(check, subject, judgement));
    }

    /// Says what will be written, and refuses where somebody would lose by it.
    fn announce(&self, boards: Option<(&Nvml, u32)>, holdings: &[Holding]) -> Result<(), ConformanceError> {
        let mut lines = vec!["This will be written and put back; a lock that somebody set before is lost:".to_owned()];
        for (nvml, index) in boards.into_iter().flat_map(|(nvml, count)| (0..count).map(move |index| (nvml, index))) {
            let Ok(device) = nvml.device_by_index(index) else { continue };
            let processes = facts::processes(&device).unwrap_or(0);
            let busy = facts::busy_percent(&device).unwrap_or(0);
            let uuid = facts::uuid(&device).unwrap_or_default();
            let pod = node::holder(holdings, &uuid, facts::partitioned(&device).unwrap_or(false));
            if !self.flags.force && (pod.is_some() || processes > 0 || busy >= BUSY_PERCENT) {
                let pod = pod.map_or_else(String::new, |pod| format!("held by pod {pod}, "));
                let by = format!("{pod}{processes} processes, at work {busy} % of the time");
                return Err(ConformanceError::InUse { index, by });
            }
            let limit = facts::limit_set(&device).map_or_else(|error| error.to_string(), |limit| limit.to_string());
            lines.push(format!("  board {index}: the range of clocks, and the power limit, now {limit}"));
        }
        let policies = measure::cpus::policies(&self.flags.cpufreq_root);
        if let Some((policy, ceiling)) = policies.first().and_then(|policy| Some((policy.policy, policy.ceiling?))) {
            lines.push(format!("  cpufreq policy{policy}: scaling_max_freq, now {ceiling}"));
        }
        writeln!(std::io::stdout().lock(), "{}\n", lines.join("\n")).map_err(ConformanceError::Print)
    }

    /// All boards at once, a thread each, as the agent reads them.
    fn read_boards(&mut self, nvml: &Arc<Nvml>, count: u32) {
        let deadline = Instant::now() + PATIENCE;
        let reading: Vec<_> = (0..count)
            .map(|index| {
                let (nvml, stop) = (Arc::clone(nvml), self.stop.clone());
                Pending::begin(move || measure::boards::read(&nvml, index, &stop))
            })
            .collect();
        let read: Vec<Option<Answer<BoardRead>>> = reading.into_iter().map(|board| board.by(deadline)).collect();
        if self.stop.asked() {
            // What was cut short would be judged wrongly.
            return;
        }
        let uuids: Vec<_> = read.iter().flatten().flatten().map(|board| &board.uuid).collect();
        if !uuids.is_empty() {
            let judgement = node::uuids_unique(&uuids);
            self.found(check::UUIDS_UNIQUE, "node", judgement);
        }
        for (index, board) in (0..).zip(read) {
            let subject = format!("board {index}");
            match board {
                Some(Ok(board)) => self.board_read(index, &subject, &board),
                Some(Err(error)) => self.found(check::BOARD_OPENS, subject, Judgement::fail(error.to_string())),
                None => self.found(check::BOARD_OPENS, subject, hangs()),
            }
        }
    }

    fn board_read(&mut self, index: u32, subject: &str, board: &BoardRead) {
        let uuid = board.uuid.as_deref().unwrap_or("unknown");
        let uuid = if self.flags.with_uuids { uuid.to_owned() } else { hashed(uuid) };
        let model = board.model.as_deref().unwrap_or("unknown").to_owned();
        self.boards.push(BoardEntry { index, uuid, model });
        let opened = match &board.opened {
            Ok(()) => Judgement::pass(),
            Err(error) => Judgement::fail(error.to_string()),
        };
        let watched = &board.watched;
        let highest_limit = board.limit_range.as_ref().ok().map(|(_, high)| *high);
        let found = [
            (check::BOARD_OPENS, opened),
            (check::LIMIT_RANGE, boards::limit_range(&board.limit_range, &board.limit_default)),
            (
                check::LIMIT_IN_FORCE,
                boards::limit_in_force(&board.limit_range, &board.limit_set, &board.limit_enforced),
            ),
            (check::CLOCK_GRID, boards::clock_grid(&board.clocks, &board.highest_clock, board.wrapper_clocks)),
            (check::CLOCK_READING, boards::clock_reading(&board.clock, &board.highest_clock)),
            (check::POWER_INSTANT, boards::power_instant(watched, highest_limit)),
            (check::POWER_AVERAGE, boards::power_average(watched)),
            (check::ENERGY, boards::energy(watched)),
            (check::CALL_DURATIONS, boards::call_durations(&board.calls)),
            (check::THROTTLE_REASONS, boards::throttle_reasons(&board.throttle_reasons)),
            (check::MIG_MODE, boards::mig_mode(&board.mig)),
            (check::PERSISTENCE, boards::persistence(&board.persistence)),
        ];
        for (check, judgement) in found {
            self.found(check, subject, judgement);
        }
    }

    fn cpus(&mut self) {
        let policies = measure::cpus::policies(&self.flags.cpufreq_root);
        let zones = measure::cpus::zones(&self.flags.powercap_root, self.stop);
        let found = [
            (check::CPUFREQ_FILES, cpus::cpufreq_files(&policies)),
            (check::CPUFREQ_DRIVER, cpus::cpufreq_driver(&policies)),
            (check::CPUFREQ_WRITABLE, cpus::cpufreq_writable(&policies)),
            (check::RAPL_ENERGY, cpus::rapl_energy(&zones)),
            (check::RAPL_CONSTRAINTS, cpus::rapl_constraints(&zones)),
        ];
        for (check, judgement) in found {
            self.found(check, "cpus", judgement);
        }
        if self.flags.write && !self.stop.asked() {
            match measure::cpus::try_ceiling(&self.flags.cpufreq_root, self.stop) {
                Some(tried) => {
                    let subject = format!("cpufreq policy{}", tried.policy);
                    self.found(check::CPUFREQ_CEILING, &subject, writes::cpufreq_ceiling(&tried));
                    self.found(check::RESTORED, &subject, writes::ceiling_restored(&tried));
                }
                None => {
                    let why = "there is no policy with room between its minimum and its ceiling";
                    self.found(check::CPUFREQ_CEILING, "cpus", Judgement::skipped(why));
                }
            }
        }
    }

    /// One board after the other, so that the node as a whole is slowed little.
    fn write_boards(&mut self, nvml: &Arc<Nvml>, count: u32) {
        for index in 0..count {
            if self.stop.asked() {
                return;
            }
            let (of_board, stop) = (Arc::clone(nvml), self.stop.clone());
            let writing = Pending::begin(move || measure::writes::write(&of_board, index, &stop));
            let subject = format!("board {index}, written");
            match writing.by(Instant::now() + PATIENCE) {
                Some(Ok(written)) => self.board_written(&subject, &written),
                Some(Err(error)) => self.found(check::LOCK_CLOCKS, subject, Judgement::fail(error.to_string())),
                None => self.found(check::RESTORED, subject, hangs()),
            }
        }
        if self.stop.asked() {
            return;
        }
        let of_all = Arc::clone(nvml);
        let writing = Pending::begin(move || measure::writes::parallel(&of_all, count));
        let judgement = match writing.by(Instant::now() + PATIENCE) {
            Some(tried) => writes::parallel_writes(tried.as_ref()),
            None => hangs(),
        };
        self.found(check::PARALLEL_WRITES, "all boards, written", judgement);
    }

    fn board_written(&mut self, subject: &str, written: &BoardWritten) {
        let busy = written.busy_percent;
        let found = [
            (check::LOCK_CLOCKS, writes::lock_clocks(&written.locks, busy)),
            (check::LOCK_RESET, writes::lock_reset(written.reset.as_ref(), busy)),
            (check::LIMIT_SET, writes::limit_set(written.limit.as_ref())),
            (check::REFUSALS, writes::refusals(&written.refusals, written.off_grid.as_ref())),
            (check::RESTORED, writes::board_restored(written)),
        ];
        for (check, judgement) in found {
            // What was cut short would be judged wrongly; whether all was put back is told in any case.
            if check == check::RESTORED || !self.stop.asked() {
                self.found(check, subject, judgement);
            }
        }
    }
}

fn hangs() -> Judgement {
    Judgement::fail(format!("no answer within {} s", PATIENCE.as_secs()))
}
