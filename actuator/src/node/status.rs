//! What the status says, and when it is worth writing: pure.
//!
//! What must hold: an acknowledgement, a state or a reason that changes is written at once; numbers
//! that move within their deadband are not; something is written every five minutes, so that a reader
//! can tell silence from peace.

use std::time::Duration;

use powercap_common::{
    api::{Capability, CpuStatus, DeviceState, GpuStatus, NodeFrequenciesStatus},
    condition::Truth,
    reason::Reason,
    units::{Megahertz, Watts},
};

use crate::hardware::{BoardReading, Knob};

use super::{
    decide::{Account, BoardAccount, CpuAccount, Phase},
    observation::{GpuAccess, Observation, SeenBoard, SeenCpu},
    observe::Profiles,
    orders::Orders,
    tenants::Tenancy,
};

/// Numbers are written no more often than this.
pub const NUMBERS_PERIOD: Duration = Duration::from_secs(1);
/// Something is written at least this often.
pub const HEARTBEAT: Duration = Duration::from_secs(300);
/// Changes that are written at once are written no more often than this, and [`AT_ONCE`] in a row.
pub const AT_ONCE_PERIOD: Duration = Duration::from_millis(200);
/// So many writes may follow each other at once; in the long run there is one a second at most, however a
/// board flutters.
pub const AT_ONCE: u32 = 5;
const WATTS_DEADBAND_PERCENT: u32 = 5;
const WATTS_DEADBAND_LEAST: u32 = 5;
const MEGAHERTZ_DEADBAND: u32 = 15;

/// What is to be said: all but the times, which are the writer's.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Statement {
    /// The status, without conditions and heartbeat.
    pub status: NodeFrequenciesStatus,
    /// The condition Ready.
    pub ready: Verdict,
    /// The condition LeaseCurrent; `None` where the orders have no lease.
    pub lease: Option<Verdict>,
}

/// What stands in the agent's way, beside devices.
#[derive(Clone, Copy, Debug, Default)]
pub struct Problems<'a> {
    /// Why the present object is not what is in force.
    pub spec: Option<&'a str>,
    /// Why the journal cannot be used.
    pub journal: Option<&'a str>,
}

/// A condition without its times.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// Whether it holds.
    pub truth: Truth,
    /// The documented word.
    pub reason: Reason,
    /// For people.
    pub message: String,
}

impl Default for Verdict {
    fn default() -> Self {
        Self { truth: Truth::Unknown, reason: Reason::NoData, message: String::new() }
    }
}

/// What the status says of boards, and no decision rests on.
#[derive(Clone, Copy, Debug)]
pub struct Particulars<'a> {
    /// What each board shows of itself.
    pub profiles: &'a Profiles,
    /// Whose pods hold it.
    pub tenancy: &'a Tenancy,
}

/// What the status should say now.
#[must_use]
pub fn state(
    seen: &Observation,
    orders: Option<&Orders>,
    account: &Account,
    problems: &Problems<'_>,
    generation: i64,
    boot_id: &str,
    particulars: Particulars<'_>,
) -> Statement {
    let gpus: Vec<_> =
        seen.boards.iter().zip(&account.boards).map(|(board, standing)| gpu(board, standing, particulars)).collect();
    let ceilings = account.boards.iter().filter_map(|board| board.ceiling);
    let status = NodeFrequenciesStatus {
        acknowledged: account.acknowledged,
        power_watts: Some(account.node_power.ceil()),
        envelope_watts: account.envelope.map(Watts::floor),
        gpu_count: u32::try_from(seen.boards.len()).unwrap_or(u32::MAX),
        lowest_target_megahertz: ceilings.min().map(Megahertz::get),
        gpus,
        cpus: seen.cpus.iter().zip(&account.cpus).map(|(seen, standing)| cpu(seen, standing)).collect(),
        boot_id: Some(boot_id.to_owned()),
        observed_generation: Some(generation),
        ..NodeFrequenciesStatus::default()
    };
    let lease = orders.and_then(lease);
    Statement { status, ready: ready(seen, orders, account, problems), lease }
}

/// How the lease stands, by what it does to the orders.
fn lease(orders: &Orders) -> Option<Verdict> {
    let terms = orders.lease?;
    let reason = orders.restraint.lease.unwrap_or(Reason::LeaseRenewed);
    let seconds = terms.duration.as_secs();
    let message = match reason {
        Reason::LeaseRenewed => "the recommender's Lease is seen to be renewed".to_owned(),
        _ => format!("no renewal of the recommender's Lease was seen for {seconds} s; nothing is raised"),
    };
    let truth = (reason == Reason::LeaseRenewed).into();
    Some(Verdict { truth, reason, message })
}

fn gpu(board: &SeenBoard, standing: &BoardAccount, particulars: Particulars<'_>) -> GpuStatus {
    let traits = &board.traits;
    let reading = board.fresh();
    GpuStatus {
        uuid: traits.uuid.to_string(),
        model: traits.model.clone(),
        min_graphics_megahertz: traits.clocks.as_ref().map_or(0, |grid| grid.lowest().get()),
        max_graphics_megahertz: traits.clocks.as_ref().map_or(0, |grid| grid.highest().get()),
        min_power_limit_watts: traits.min_limit.ceil(),
        max_power_limit_watts: traits.max_limit.floor(),
        current_graphics_megahertz: reading.and_then(|reading| reading.clock).map(Megahertz::get),
        target_graphics_megahertz: standing.ceiling.map(Megahertz::get),
        power_limit_watts: reading.and_then(|reading| reading.limit).map(Watts::ceil),
        power_watts: reading.map(|reading| reading.power.ceil()),
        capabilities: capabilities(board, particulars.profiles),
        tenants: particulars.tenancy.of(&traits.uuid).map(<[_]>::to_vec),
        state: standing.state,
        reason: standing.reason.as_str().to_owned(),
    }
}

/// What can be read and set; a control that was refused for good is not there.
fn capabilities(board: &SeenBoard, profiles: &Profiles) -> Vec<Capability> {
    let traits = &board.traits;
    let profile = profiles.get(&traits.uuid);
    let takes = |knob: fn(&BoardReading) -> Knob| board.reading.as_ref().is_none_or(|reading| knob(reading).usable());
    let there = [
        (Capability::ClockRange, traits.clocks.is_some() && takes(|reading| reading.clock_knob)),
        (Capability::PowerLimit, traits.min_limit < traits.max_limit && takes(|reading| reading.limit_knob)),
        (Capability::InstantaneousPower, profile.is_some_and(|profile| profile.instant_power)),
        (Capability::Partitioned, profile.is_some_and(|profile| profile.slices.is_some())),
    ];
    there.into_iter().filter_map(|(capability, there)| there.then_some(capability)).collect()
}

fn cpu(cpu: &SeenCpu, standing: &CpuAccount) -> CpuStatus {
    CpuStatus {
        cpufreq_policy: cpu.traits.policy,
        min_megahertz: cpu.traits.min.get(),
        max_megahertz: cpu.traits.max.get(),
        current_megahertz: cpu.reading.and_then(|reading| reading.clock).map(Megahertz::get),
        target_megahertz: cpu.reading.map(|reading| reading.ceiling.get()),
        state: standing.state,
        reason: standing.reason.as_str().to_owned(),
    }
}

/// The first thing that is wrong, the gravest first.
fn ready(seen: &Observation, orders: Option<&Orders>, account: &Account, problems: &Problems<'_>) -> Verdict {
    let not = |reason, message: String| Verdict { truth: Truth::False, reason, message };
    if let Some(problem) = problems.spec {
        return not(Reason::InvalidSpec, format!("{problem}; the last good orders stand"));
    }
    if let GpuAccess::Broken(why) = &seen.gpus {
        return not(
            Reason::ReadFailed,
            format!("NVML does not work, so boards may draw power that nobody measures: {why}"),
        );
    }
    if let GpuAccess::LettingGo(why, calls) = &seen.gpus {
        let message =
            format!("{why}: NVML is open until {calls} calls to boards return, so do not unload the driver yet");
        return not(Reason::Pending, message);
    }
    if let GpuAccess::LetGo(why) = &seen.gpus {
        return not(Reason::DevicesLetGo, format!("{why}: the boards count with the most that they take"));
    }
    if seen.gpus == GpuAccess::Starting {
        return Verdict { truth: Truth::Unknown, reason: Reason::NoData, message: "looking for boards".to_owned() };
    }
    let troubled = seen.boards.iter().zip(&account.boards).find(|(_, standing)| {
        matches!(standing.state, DeviceState::Failed | DeviceState::Quarantined) || standing.reason == Reason::Contended
    });
    if let Some((board, standing)) = troubled {
        let why = board.fault.as_ref().map_or(standing.reason.explanation(), |fault| fault.message.as_str());
        return not(standing.reason, format!("{}: {why}", board.traits.uuid));
    }
    let troubled = seen
        .cpus
        .iter()
        .zip(&account.cpus)
        .find(|(_, standing)| standing.state == powercap_common::api::DeviceState::Failed);
    if let Some((cpu, standing)) = troubled {
        let why = cpu.fault.as_ref().map_or(standing.reason.explanation(), |fault| fault.message.as_str());
        return not(standing.reason, format!("CPUs of cpufreq policy {}: {why}", cpu.traits.policy));
    }
    if let Some(fault) = seen
        .packages
        .as_ref()
        .filter(|packages| packages.fresh().is_none())
        .and_then(|packages| packages.fault.as_ref())
    {
        return not(fault.reason, format!("the CPUs count with their maximum: {}", fault.message));
    }
    if account.below_floor {
        return not(
            Reason::CapBelowFloor,
            format!(
                "the devices may draw {} together, which is less than their lowest limits; they run at their lowest clocks as far as needed",
                account.envelope.unwrap_or_default()
            ),
        );
    }
    if let Some(unknown) = account.unknown_boards.first() {
        let boards = if seen.gpus == GpuAccess::NoLibrary {
            "there is no NVML library on this node"
        } else {
            "the node has no such board"
        };
        return not(
            Reason::UnknownDevice,
            format!("gpuFrequencies names {unknown} ({} in all): {boards}", account.unknown_boards.len()),
        );
    }
    if let Some(trouble) = problems.journal {
        return not(
            Reason::JournalUnavailable,
            format!("{trouble}; ceilings are held all the same, and a release restores defaults"),
        );
    }
    if account.phase == Phase::Released && account.to_defaults {
        let message = "the devices are back at their defaults: nobody knows what they were set to before";
        return Verdict { truth: Truth::True, reason: Reason::Released, message: message.to_owned() };
    }
    if let Some(reason) = account.restraint {
        return Verdict { truth: Truth::True, reason, message: reason.explanation().to_owned() };
    }
    let message = match (account.phase, &seen.gpus) {
        (Phase::Waiting, _) => "there are no orders yet",
        (Phase::Releasing, _) => "the ceilings are being taken off step by step",
        (Phase::Released, _) => "the devices are back at what they were set to before",
        (Phase::Enforcing, GpuAccess::Working) if seen.cpus.is_empty() => {
            "every order is carried out; no cpufreq policy is seen, so the CPUs keep their own clocks"
        }
        (Phase::Enforcing, GpuAccess::NoLibrary) => "no NVML library: a node of CPUs alone",
        (Phase::Enforcing, _) => "every order is carried out",
    };
    let reason = match account.phase {
        Phase::Waiting => Reason::NoData,
        Phase::Releasing => Reason::Pending,
        Phase::Released => Reason::Released,
        Phase::Enforcing => Reason::Enforcing,
    };
    let limited = orders.is_some_and(|orders| orders.grant.is_some());
    if account.phase == Phase::Enforcing && limited && seen.gpus == GpuAccess::NoLibrary && seen.packages.is_none() {
        return not(Reason::NoData, "neither boards nor RAPL counters: the grant cannot be watched".to_owned());
    }
    Verdict { truth: Truth::True, reason, message: message.to_owned() }
}

/// Whether `next` is worth writing when `last` was written `elapsed` ago.
#[must_use]
pub fn worth_writing(last: Option<&Statement>, next: &Statement, elapsed: Duration) -> bool {
    let Some(last) = last else { return true };
    elapsed >= HEARTBEAT
        || (elapsed >= AT_ONCE_PERIOD && says_otherwise(last, next))
        || (elapsed >= NUMBERS_PERIOD && moved(&last.status, &next.status))
}

/// How many writes may still follow each other at once: one comes back each second.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Allowance {
    left: u32,
    since: Duration,
}

impl Default for Allowance {
    fn default() -> Self {
        Self { left: AT_ONCE, since: Duration::ZERO }
    }
}

impl Allowance {
    /// Whether something may be written `now`, on a clock that does not go back.
    #[must_use]
    pub fn permits(self, now: Duration) -> bool {
        self.at(now).left > 0
    }

    /// After a write.
    #[must_use]
    pub fn spent(self, now: Duration) -> Self {
        let at = self.at(now);
        Self { left: at.left.saturating_sub(1), ..at }
    }

    fn at(self, now: Duration) -> Self {
        let back = u32::try_from(now.saturating_sub(self.since).as_secs()).unwrap_or(u32::MAX);
        let left = self.left.saturating_add(back).min(AT_ONCE);
        let since = if left == AT_ONCE { now } else { self.since + NUMBERS_PERIOD * back };
        Self { left, since }
    }
}

/// Anything but numbers differs.
fn says_otherwise(last: &Statement, next: &Statement) -> bool {
    let (a, b) = (&last.status, &next.status);
    let lease = |statement: &Statement| statement.lease.as_ref().map(|lease| lease.reason);
    (last.ready.truth, last.ready.reason) != (next.ready.truth, next.ready.reason)
        || lease(last) != lease(next)
        || a.acknowledged != b.acknowledged
        || a.gpu_count != b.gpu_count
        || a.cpus.len() != b.cpus.len()
        || a.observed_generation != b.observed_generation
        || a.boot_id != b.boot_id
        || a.lowest_target_megahertz.is_some() != b.lowest_target_megahertz.is_some()
        || a.gpus.iter().zip(&b.gpus).any(|(a, b)| {
            (&a.uuid, a.state, &a.reason) != (&b.uuid, b.state, &b.reason)
                || (&a.capabilities, &a.tenants) != (&b.capabilities, &b.tenants)
        })
        || a.cpus
            .iter()
            .zip(&b.cpus)
            .any(|(a, b)| (a.cpufreq_policy, a.state, &a.reason) != (b.cpufreq_policy, b.state, &b.reason))
}

/// A number left its deadband.
fn moved(a: &NodeFrequenciesStatus, b: &NodeFrequenciesStatus) -> bool {
    watts(a.power_watts, b.power_watts)
        || a.envelope_watts != b.envelope_watts
        || megahertz(a.lowest_target_megahertz, b.lowest_target_megahertz)
        || a.gpus.iter().zip(&b.gpus).any(|(a, b)| {
            watts(a.power_watts, b.power_watts)
                || watts(a.power_limit_watts, b.power_limit_watts)
                || megahertz(a.current_graphics_megahertz, b.current_graphics_megahertz)
                || megahertz(a.target_graphics_megahertz, b.target_graphics_megahertz)
        })
        // The clocks of CPUs flutter by nature and decide nothing: they travel with other changes.
        || a.cpus.iter().zip(&b.cpus).any(|(a, b)| megahertz(a.target_megahertz, b.target_megahertz))
}

fn watts(a: Option<u32>, b: Option<u32>) -> bool {
    match (a, b) {
        (Some(a), Some(b)) => a.abs_diff(b) > (a / 100 * WATTS_DEADBAND_PERCENT).max(WATTS_DEADBAND_LEAST),
        (a, b) => a.is_some() != b.is_some(),
    }
}

fn megahertz(a: Option<u32>, b: Option<u32>) -> bool {
    match (a, b) {
        (Some(a), Some(b)) => a.abs_diff(b) > MEGAHERTZ_DEADBAND,
        (a, b) => a.is_some() != b.is_some(),
    }
}

#[cfg(test)]
mod tests {
    use powercap_common::api::Acknowledged;

    use super::*;

    fn statement(power: u32, target: u32) -> Statement {
        let gpu = GpuStatus {
            uuid: "GPU-1".into(),
            power_watts: Some(power),
            target_graphics_megahertz: Some(target),
            reason: "Applied".into(),
            ..GpuStatus::default()
        };
        let status = NodeFrequenciesStatus { gpus: vec![gpu], power_watts: Some(power), ..Default::default() };
        Statement { status, ready: Verdict::default(), lease: None }
    }

    const LATER: Duration = Duration::from_secs(2);

    #[test]
    fn numbers_within_their_deadband_are_not_written() {
        let last = statement(500, 1500);
        assert!(!worth_writing(Some(&last), &statement(520, 1515), LATER));
        assert!(worth_writing(Some(&last), &statement(540, 1500), LATER));
        assert!(worth_writing(Some(&last), &statement(500, 1530), LATER));
        assert!(!worth_writing(Some(&last), &statement(700, 1000), Duration::from_millis(900)));
        assert!(worth_writing(Some(&last), &last, HEARTBEAT));
    }

    #[test]
    fn an_acknowledgement_a_state_and_a_reason_are_written_at_once() {
        let last = statement(500, 1500);
        let at_once = |change: fn(&mut Statement)| {
            let mut next = last.clone();
            change(&mut next);
            worth_writing(Some(&last), &next, AT_ONCE_PERIOD)
        };
        assert!(at_once(|next| next.status.acknowledged = Some(Acknowledged::default())));
        assert!(at_once(|next| next.status.gpus[0].state = DeviceState::Failed));
        assert!(at_once(|next| next.status.gpus[0].reason = "EnvelopeReached".into()));
        assert!(at_once(|next| next.ready.truth = Truth::False));
        assert!(at_once(|next| next.status.gpus[0].tenants = Some(vec![])));
        assert!(!at_once(|next| next.status.gpus[0].power_watts = Some(900)));
        assert!(worth_writing(None, &last, Duration::ZERO));
    }

    #[test]
    fn a_board_that_flutters_is_written_once_a_second_in_the_long_run() {
        let (one, mut other) = (statement(500, 1500), statement(500, 1500));
        other.status.gpus[0].reason = "EnvelopeReached".into();
        let (mut last, mut written, mut allowance) = (None::<(Statement, Duration)>, 0, Allowance::default());
        for tick in 0..600_u32 {
            let now = Duration::from_millis(100) * tick;
            let next = if tick % 2 == 0 { &one } else { &other };
            let elapsed = last.as_ref().map_or(Duration::MAX, |(_, at)| now - *at);
            if worth_writing(last.as_ref().map(|(last, _)| last), next, elapsed) && allowance.permits(now) {
                allowance = allowance.spent(now);
                last = Some((next.clone(), now));
                written += 1;
            }
        }
        assert!((55..=60 + AT_ONCE).contains(&written), "{written} in a minute");
    }
}
