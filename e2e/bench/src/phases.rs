//! The phases of the bench: each brings the node into a situation, looks, and gives rows.

use std::{
    io::{BufWriter, Write},
    path::PathBuf,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use powercap_e2e::figures::Figure;
use tokio::time::{Instant, sleep_until};

use crate::{
    measure::{
        self, Bounds, Lowest, all_lowest, below_envelope_percent, overshoot_watt_seconds, percentile, reaction, settle,
        unused_limits_percent,
    },
    node::Node,
    say,
    trace::{Look, Recorder},
    usage::usage,
};

/// The grant, alternating current: some 450 W for each of eight boards of 700 W.
const GRANT_WATTS: u32 = 5250;
/// Dense arithmetic, which the agent's model expects; and work that draws more than that, so that
/// sensors see it above the envelope before anything holds it.
const DENSE: f64 = 1.0;
const HEAVY: f64 = 1.6;
/// Time for the means of a second to follow, and for idle boards to be noticed.
const STEP: Duration = Duration::from_millis(2500);
/// The same where only the reaction counts.
const SHORT_STEP: Duration = Duration::from_millis(600);
const SHORT_PAUSE: Duration = Duration::from_millis(700);
/// What a call of NVML takes where calls are slow.
const CALL_MS: u32 = 15;
/// The lowest of an H100: one step above its lowest clock, its lowest power limit; and of the CPUs.
const LOWEST: Lowest = Lowest { ceiling_mhz: 360, limit_mw: 200_000, cpu_khz: 800_000 };
/// How long a brake may take before it counts as never.
const BRAKE_PATIENCE: Duration = Duration::from_secs(5);
/// How often Prometheus would read the agent's metrics.
const SCRAPE: Duration = Duration::from_secs(5);

/// The node, and who looks at it.
pub(crate) struct Bench {
    node: Node,
    recorder: Recorder,
    out: PathBuf,
    bounds: Bounds,
}

impl Bench {
    pub(crate) fn new(node: Node, recorder: Recorder, out: PathBuf) -> Self {
        let grant_watts = f64::from(GRANT_WATTS);
        Self { node, recorder, out, bounds: Bounds { envelope_watts: Node::envelope_watts(GRANT_WATTS), grant_watts } }
    }

    /// The node is granted its watts and holds them.
    pub(crate) async fn ready(&mut self) -> Result<()> {
        self.node.grant(GRANT_WATTS).await?;
        self.node.brake("None").await?;
        self.pause(STEP).await
    }

    /// From idle to full load: how long the true power stays above the grant, by means of a second.
    pub(crate) async fn settle(&mut self, times: u32) -> Result<Vec<Figure>> {
        let (mut settled, mut energy) = (Some(0.0), 0.0_f64);
        for _ in 0..times {
            let (step, trace) = self.step(DENSE, STEP, STEP).await?;
            let took = settle(&trace, step, self.bounds.grant_watts).map(|took| took.as_secs_f64());
            settled = settled.zip(took).map(|(worst, took): (f64, f64)| worst.max(took));
            energy = energy.max(overshoot_watt_seconds(&trace, step, self.bounds.grant_watts));
        }
        Ok(vec![
            Figure::at_most("node_settle_s", settled, "s", 1.0),
            Figure::reported("node_overshoot_ws", Some(energy), "W·s"),
        ])
    }

    /// At full load: unused watts, memory and processor time.
    pub(crate) async fn steady(&mut self, length: Duration) -> Result<Vec<Figure>> {
        self.recorder.work(Some(DENSE));
        self.pause(STEP * 3).await?;
        self.recorder.take()?;
        let pid = self.node.agent_pid()?;
        let (before, began) = (usage(pid)?, Instant::now());
        while began.elapsed() < length {
            self.pause(SCRAPE.min(length.saturating_sub(began.elapsed()))).await?;
            self.node.scrape().await?;
        }
        let (after, elapsed) = (usage(pid)?, began.elapsed());
        let trace = self.recorder.take()?;
        let below = below_envelope_percent(&trace, self.bounds.envelope_watts);
        let unused = unused_limits_percent(&trace);
        let processor = (after.processor.saturating_sub(before.processor)).as_secs_f64() / elapsed.as_secs_f64();
        self.recorder.work(None);
        self.pause(STEP).await?;
        let mut error = Figure::at_most("node_steady_error_percent", below, "%", 2.0);
        // Above the envelope is no small error.
        error.holds &= below.is_some_and(|below| below >= 0.0);
        Ok(vec![
            error,
            Figure::reported("node_unused_limits_percent", unused, "%"),
            Figure::at_most("actuator_rss_mib", Some(after.peak_mib), "MiB", 15.0),
            Figure::at_most("actuator_cpu_percent", Some(processor * 100.0), "%", 1.0),
        ])
    }

    /// From idle to work that draws more than was expected, with slow calls: how long until the last ceiling.
    pub(crate) async fn react(&mut self, steps: u32) -> Result<Vec<Figure>> {
        self.recorder.misbehave(|fault| fault.delay_ms = CALL_MS)?;
        let (mut to_last, mut of_board, mut unseen, mut unanswered) = (Vec::new(), Vec::new(), 0, 0);
        let path = self.out.join("reaction.csv");
        let file = std::fs::File::create(&path).with_context(|| format!("create {}", path.display()))?;
        let mut file = BufWriter::new(file);
        for number in 0..steps {
            // The pauses differ, so that steps come at every moment of the sensors' and the agent's periods.
            let pause = SHORT_PAUSE + Duration::from_millis(u64::from(number) * 37 % 100);
            let (step, trace) = self.step(HEAVY, SHORT_STEP, pause).await?;
            write_changes(&mut file, number, step, &trace).context("write the trace")?;
            match reaction(&trace, step, self.bounds) {
                Some(Ok(answered)) => {
                    to_last.push(answered.to_last.as_secs_f64() * 1e3);
                    of_board.push(answered.of_board.as_secs_f64() * 1e3);
                }
                Some(Err(measure::Unanswered { board })) => {
                    say(&format!("  step {number}: board {board} got no lower ceiling"));
                    unanswered += 1;
                }
                None => unseen += 1,
            }
        }
        file.flush().context("write the trace")?;
        self.recorder.misbehave(|fault| fault.delay_ms = 0)?;
        ensure!(unseen * 10 <= steps, "in {unseen} of {steps} steps no sensor saw the load: nothing to react to");
        let all_answered = unanswered == 0;
        let of = |values: &[f64], percent| percentile(values, percent).filter(|_| all_answered);
        Ok(vec![
            Figure::at_most("node_reaction_p99_ms", of(&to_last, 99), "ms", 100.0),
            Figure::reported("node_reaction_p50_ms", of(&to_last, 50), "ms"),
            Figure::reported("node_reaction_board_p99_ms", of(&of_board, 99), "ms"),
        ])
    }

    /// From the write of a brake to the last device at its lowest, with slow calls, at full load.
    pub(crate) async fn brake(&mut self, times: u32) -> Result<Vec<Figure>> {
        self.recorder.misbehave(|fault| fault.delay_ms = CALL_MS)?;
        self.recorder.work(Some(DENSE));
        let mut worst = Some(0.0_f64);
        for _ in 0..times {
            self.pause(STEP).await?;
            self.recorder.take()?;
            let pulled = self.recorder.now();
            self.node.brake("Minimum").await?;
            let low =
                self.until(BRAKE_PATIENCE, |look| all_lowest(std::slice::from_ref(look), LOWEST).is_some()).await?;
            let reached = all_lowest(&self.recorder.take()?, LOWEST).filter(|_| low);
            worst = worst.zip(reached).map(|(worst, at)| worst.max(at.saturating_sub(pulled).as_secs_f64() * 1e3));
            self.node.brake("None").await?;
            if !low {
                break;
            }
            let free = |look: &Look| look.limits_mw.iter().all(|limit| *limit > LOWEST.limit_mw);
            ensure!(self.until(BRAKE_PATIENCE * 6, free).await?, "the agent did not let go of the brake");
        }
        self.recorder.work(None);
        self.recorder.misbehave(|fault| fault.delay_ms = 0)?;
        Ok(vec![Figure::at_most("brake_ms", worst, "ms", 500.0)])
    }

    /// Load up and down again: when it went up, and what was seen from the second before until it went down.
    async fn step(&mut self, intensity: f64, up: Duration, down: Duration) -> Result<(Duration, Vec<Look>)> {
        let step = self.recorder.now();
        self.recorder.work(Some(intensity));
        self.pause(up).await?;
        let trace = self.recorder.take()?;
        self.recorder.work(None);
        self.pause(down).await?;
        Ok((step, trace))
    }

    /// Waits until the newest look is as wanted; false: it did not become so in time.
    async fn until(&mut self, patience: Duration, wanted: impl Fn(&Look) -> bool) -> Result<bool> {
        let begun = Instant::now();
        while begun.elapsed() < patience {
            if self.recorder.last().is_some_and(|look| wanted(&look)) {
                return Ok(true);
            }
            self.pause(Duration::from_millis(10)).await?;
        }
        Ok(false)
    }

    async fn pause(&mut self, length: Duration) -> Result<()> {
        let until = Instant::now() + length;
        while Instant::now() < until {
            sleep_until(until.min(Instant::now() + Duration::from_millis(500))).await;
            self.node.check()?;
        }
        Ok(())
    }

    /// Ends the node.
    pub(crate) async fn stop(self) -> Result<()> {
        self.node.stop().await
    }
}

/// The moments of a trace at which a sensor or a ceiling changed, as comma-separated values.
fn write_changes(file: &mut impl Write, number: u32, step: Duration, trace: &[Look]) -> std::io::Result<()> {
    if number == 0 {
        writeln!(file, "step,seconds_after,boards_watts,cpus_watts,sensors_watts,ceilings_mhz,limits_watts")?;
    }
    let mut before: Option<&Look> = None;
    for look in trace {
        let told = |look: &Look| (look.sensors_mw, look.ceilings_mhz, look.limits_mw);
        if before.is_none_or(|before| told(before) != told(look)) {
            let after = look.at.as_secs_f64() - step.as_secs_f64();
            let list = |values: &[u32], unit: u32| {
                let words: Vec<_> = values.iter().map(|value| (value / unit).to_string()).collect();
                words.join(" ")
            };
            let (sensors, ceilings) = (list(&look.sensors_mw, 1000), list(&look.ceilings_mhz, 1));
            let limits = list(&look.limits_mw, 1000);
            writeln!(
                file,
                "{number},{after:.3},{:.0},{:.0},{sensors},{ceilings},{limits}",
                look.boards_watts(),
                look.cpu_watts
            )?;
        }
        before = Some(look);
    }
    Ok(())
}
