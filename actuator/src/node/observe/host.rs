//! The CPUs' thread: measures their power by RAPL, and carries out orders for cpufreq.
//!
//! What must hold: the kernel applies a ceiling late, so it is read back until it is there or a moment
//! has passed; what counts is what was read.

use std::{
    path::Path,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use powercap_common::units::Megahertz;

use super::{
    HostChannel, Latest,
    boards::named,
    lock,
    sample::{fault, knob},
};
use crate::{
    devices::{DeviceError, cpufreq::CpufreqPolicy, rapl::RaplCounters},
    hardware::{CpuReading, Knob},
    node::{
        decide::CpuWrite,
        metrics::{Metrics, WriteKind},
    },
};

/// Clocks of CPUs are for the status alone, and cost a read for each policy.
const CLOCKS_PERIOD: Duration = Duration::from_secs(2);
/// How long a written ceiling is waited for.
const READ_BACK: Duration = Duration::from_millis(50);
const READ_BACK_STEP: Duration = Duration::from_millis(5);

struct Policy {
    policy: CpufreqPolicy,
    knob: Knob,
    executed: u64,
}

/// Starts the thread, if there is anything to measure or to hold.
///
/// # Errors
/// When the thread cannot be started.
pub fn start(
    channel: Arc<HostChannel>,
    cpufreq: &Path,
    powercap: &Path,
    period: Duration,
    metrics: Metrics,
) -> std::io::Result<()> {
    let mut policies: Vec<_> = CpufreqPolicy::all(cpufreq)
        .into_iter()
        .map(|policy| Policy { policy, knob: Knob::Works, executed: 0 })
        .collect();
    let rapl = RaplCounters::open(powercap);
    tracing::info!(
        cpufreq_policies = policies.len(),
        packages_max = rapl.as_ref().map(|rapl| rapl.max_power().as_f64()),
        "found the CPUs"
    );
    let mut state = lock(&channel.state);
    state.cpus = policies.iter().map(|policy| (policy.policy.traits().clone(), Latest::default())).collect();
    state.packages = rapl.as_ref().map(|rapl| (rapl.max_power(), Latest::default()));
    drop(state);
    if policies.is_empty() && rapl.is_none() {
        return Ok(());
    }
    let run = move || run(&channel, &mut policies, rapl, period, &metrics);
    named("host").spawn(run).map(drop::<thread::JoinHandle<()>>)
}

fn run(
    channel: &HostChannel,
    policies: &mut [Policy],
    mut rapl: Option<RaplCounters>,
    period: Duration,
    metrics: &Metrics,
) {
    let mut next = Instant::now();
    let mut clocks_due = next;
    loop {
        let now = Instant::now();
        if let Some(rapl) = &mut rapl {
            measure(channel, rapl, now);
        }
        if now >= clocks_due {
            clocks_due = now + CLOCKS_PERIOD;
            for (index, policy) in policies.iter().enumerate() {
                publish(channel, index, policy);
            }
        }
        next = (next + period).max(Instant::now());
        while let Some(orders) = channel.orders.take_until(next) {
            channel.journal.settle();
            for (index, policy) in policies.iter_mut().enumerate() {
                if let Some(order) = orders.get(&policy.policy.traits().policy) {
                    carry_out(policy, order, metrics);
                    publish(channel, index, policy);
                }
            }
        }
    }
}

fn measure(channel: &HostChannel, rapl: &mut RaplCounters, now: Instant) {
    let power = rapl.read_power(now);
    let mut state = lock(&channel.state);
    let Some((_, latest)) = &mut state.packages else { return };
    match power {
        Ok(Some(power)) => *latest = Latest { reading: Some((power, now)), fault: None },
        Ok(None) => {}
        Err(error) => {
            if latest.fault.is_none() {
                tracing::warn!(%error, "the power of the CPUs could not be read; they count with their maximum");
            }
            latest.fault = Some(fault(&error));
        }
    }
}

fn publish(channel: &HostChannel, index: usize, policy: &Policy) {
    let ceiling = policy.policy.read_ceiling();
    let clock = policy.policy.read_clock().ok();
    let mut state = lock(&channel.state);
    let Some((_, latest)) = state.cpus.get_mut(index) else { return };
    match ceiling {
        Ok(ceiling) => {
            let reading = CpuReading { clock, ceiling, knob: policy.knob, executed: policy.executed };
            *latest = Latest { reading: Some((reading, Instant::now())), fault: None };
        }
        Err(error) => *latest = Latest { reading: None, fault: Some(fault(&error)) },
    }
}

fn carry_out(policy: &mut Policy, order: &CpuWrite, metrics: &Metrics) {
    let result = policy.policy.write_ceiling(order.ceiling);
    policy.knob = knob(&result);
    policy.executed = order.number;
    metrics.wrote(WriteKind::CpuClock, &result);
    let (number, reason) = (order.policy, order.reason);
    match result.and_then(|()| read_back(&policy.policy, order.ceiling)) {
        Ok(effective) => {
            tracing::debug!(cpufreq_policy = number, requested = %order.ceiling, %effective, %reason, "wrote the ceiling of CPUs");
        }
        Err(error) => {
            tracing::warn!(cpufreq_policy = number, requested = %order.ceiling, %reason, %error, "the ceiling of CPUs was refused");
        }
    }
}

fn read_back(policy: &CpufreqPolicy, asked: Megahertz) -> Result<Megahertz, DeviceError> {
    let deadline = Instant::now() + READ_BACK;
    loop {
        let ceiling = policy.read_ceiling()?;
        if ceiling <= asked || Instant::now() >= deadline {
            return Ok(ceiling);
        }
        thread::sleep(READ_BACK_STEP);
    }
}
