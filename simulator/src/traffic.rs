//! `traffic`: sends real requests to `workload serve` and measures how long they take.
//!
//! Arrivals are Poisson. The rate is read again from the control file (a number) whenever that changes,
//! so that a demo can step the load. Latency is written to a JSON file every second.
//!
//! What must hold: requests are sent on time whether or not earlier ones were answered (open loop), up
//! to a bound; a request that fails counts as failed, never as fast.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::Context;
use futures::stream::{FuturesUnordered, StreamExt};
use rand::Rng;
use serde::Serialize;

/// Flags of `traffic`.
#[derive(Debug, clap::Args)]
pub struct Flags {
    /// Servers, e.g. http://10.96.0.20:8000; requests go to each in turn
    #[arg(long, required = true)]
    target: Vec<String>,
    /// Requests a second in all
    #[arg(long, default_value_t = 10.0)]
    requests_per_second: f64,
    /// File with a number that overrides the rate while running
    #[arg(long)]
    control: Option<PathBuf>,
    /// Mean length of a prompt; lengths spread evenly from half to one and a half of it
    #[arg(long, default_value_t = 512)]
    prompt_tokens: u32,
    /// Mean length of an answer; spread likewise
    #[arg(long, default_value_t = 256)]
    max_tokens: u32,
    /// File for the figures, rewritten every second
    #[arg(long)]
    out: Option<PathBuf>,
    /// The figures are of the last so many seconds
    #[arg(long, default_value_t = 30.0)]
    window_seconds: f64,
    /// Requests under way at most; more count as failed
    #[arg(long, default_value_t = 2000)]
    max_in_flight: usize,
    /// A request that takes longer has failed
    #[arg(long, default_value_t = 120.0)]
    timeout_seconds: f64,
}

/// What the file holds.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Figures {
    /// Asked for now.
    pub requests_per_second: f64,
    /// Since start.
    pub sent: u64,
    /// Since start.
    pub completed: u64,
    /// Since start: refused, broken or too late.
    pub failed: u64,
    /// Tokens in answers since start.
    pub tokens: u64,
    /// Now.
    pub in_flight: usize,
    /// Answers a second in the window.
    pub completed_per_second: f64,
    /// Half of the window's answers took at most this long.
    pub p50_seconds: Option<f64>,
    /// Nine in ten.
    pub p90_seconds: Option<f64>,
    /// 99 in a hundred.
    pub p99_seconds: Option<f64>,
}

#[derive(Debug, Default)]
struct Tally {
    sent: u64,
    completed: u64,
    failed: u64,
    tokens: u64,
    recent: VecDeque<(Instant, f64)>,
}

/// Sends until SIGTERM.
///
/// # Errors
/// When a target or the file for the figures is not usable.
pub async fn run(flags: Flags) -> anyhow::Result<()> {
    // reqwest is built without a TLS provider of its own; a second install says so and changes nothing.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let client = reqwest::Client::builder()
        .no_proxy()
        .timeout(Duration::from_secs_f64(flags.timeout_seconds.max(1.0)))
        .build()?;
    let urls: Vec<String> =
        flags.target.iter().map(|target| format!("{}/v1/completions", target.trim_end_matches('/'))).collect();
    let mut tally = Tally::default();
    let mut rate = flags.requests_per_second;
    let mut under_way = FuturesUnordered::new();
    let mut next = Instant::now();
    let mut seconds = tokio::time::interval(Duration::from_secs(1));
    let mut looks = tokio::time::interval(Duration::from_millis(200));
    let stop = crate::stop::asked();
    tokio::pin!(stop);
    tracing::info!(rate, targets = urls.len(), "traffic begins");
    loop {
        tokio::select! {
            asked = &mut stop => {
                asked?;
                return report(&flags, rate, &mut tally, under_way.len());
            }
            () = tokio::time::sleep_until(next.into()), if rate > 0.0 => {
                // Behind by more than a second, arrivals are let go: the machine, not the server, is slow.
                next = next.max(Instant::now() - Duration::from_secs(1)) + gap(rate);
                tally.sent += 1;
                if under_way.len() >= flags.max_in_flight {
                    tally.failed += 1;
                    continue;
                }
                let url = &urls[usize::try_from(tally.sent).unwrap_or(0) % urls.len()];
                under_way.push(ask(&client, url, spread(flags.prompt_tokens), spread(flags.max_tokens)));
            }
            Some(answer) = under_way.next() => match answer {
                Some((latency, tokens)) => {
                    tally.completed += 1;
                    tally.tokens += u64::from(tokens);
                    tally.recent.push_back((Instant::now(), latency));
                }
                None => tally.failed += 1,
            },
            _ = seconds.tick() => report(&flags, rate, &mut tally, under_way.len())?,
            _ = looks.tick() => {
                let wanted = flags.control.as_deref().and_then(read_rate).unwrap_or(rate);
                if (wanted - rate).abs() > f64::EPSILON {
                    tracing::info!(from = rate, to = wanted, "the rate changes");
                    rate = wanted;
                    next = Instant::now();
                }
            }
        }
    }
}

async fn ask(client: &reqwest::Client, url: &str, prompt_tokens: u32, max_tokens: u32) -> Option<(f64, u32)> {
    let start = Instant::now();
    let body = serde_json::json!({ "prompt_tokens": prompt_tokens, "max_tokens": max_tokens });
    let answer = client.post(url).json(&body).send().await.ok()?.error_for_status().ok()?;
    answer.bytes().await.ok()?;
    Some((start.elapsed().as_secs_f64(), max_tokens))
}

/// A Poisson process's gap.
fn gap(rate: f64) -> Duration {
    let draw: f64 = rand::rng().random_range(f64::EPSILON..1.0);
    Duration::from_secs_f64((-draw.ln() / rate).clamp(0.0, 60.0))
}

fn spread(mean: u32) -> u32 {
    rand::rng().random_range(mean / 2..=mean + mean / 2).max(1)
}

fn read_rate(path: &Path) -> Option<f64> {
    let rate: f64 = std::fs::read_to_string(path).ok()?.trim().parse().ok()?;
    (rate.is_finite() && rate >= 0.0).then(|| rate.min(10_000.0))
}

fn report(flags: &Flags, rate: f64, tally: &mut Tally, in_flight: usize) -> anyhow::Result<()> {
    let window = Duration::from_secs_f64(flags.window_seconds.clamp(1.0, 3600.0));
    let now = Instant::now();
    while tally.recent.front().is_some_and(|(at, _)| now - *at > window) {
        tally.recent.pop_front();
    }
    let figures = figures(rate, tally, in_flight, window);
    if let Some(out) = &flags.out {
        // Replaced whole, so that a reader never sees half of it.
        let next = out.with_extension("next");
        std::fs::write(&next, serde_json::to_vec(&figures)?)
            .and_then(|()| std::fs::rename(&next, out))
            .with_context(|| format!("write the figures to {}: pick another --out", out.display()))?;
    }
    Ok(())
}

fn figures(rate: f64, tally: &Tally, in_flight: usize, window: Duration) -> Figures {
    let mut latencies: Vec<f64> = tally.recent.iter().map(|(_, latency)| *latency).collect();
    latencies.sort_by(f64::total_cmp);
    let percentile = |percent: usize| {
        latencies.get((latencies.len() * percent / 100).min(latencies.len().saturating_sub(1))).copied()
    };
    #[expect(clippy::cast_precision_loss, reason = "a count of requests")]
    let answers = latencies.len() as f64;
    Figures {
        requests_per_second: rate,
        sent: tally.sent,
        completed: tally.completed,
        failed: tally.failed,
        tokens: tally.tokens,
        in_flight,
        completed_per_second: answers / window.as_secs_f64(),
        p50_seconds: percentile(50),
        p90_seconds: percentile(90),
        p99_seconds: percentile(99),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_of_the_window_and_absent_without_answers() {
        let mut tally = Tally::default();
        assert_eq!(figures(1.0, &tally, 0, Duration::from_secs(10)).p99_seconds, None);
        for latency in 1..=100 {
            tally.recent.push_back((Instant::now(), f64::from(latency)));
        }
        let figures = figures(1.0, &tally, 0, Duration::from_secs(10));
        assert_eq!((figures.p50_seconds, figures.p99_seconds), (Some(51.0), Some(100.0)));
        assert!((figures.completed_per_second - 10.0).abs() < f64::EPSILON);
    }

    #[test]
    fn a_control_file_takes_a_number_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("rate");
        for (text, rate) in
            [("12.5\n", Some(12.5)), ("0", Some(0.0)), ("", None), ("fast", None), ("NaN", None), ("-1", None)]
        {
            std::fs::write(&path, text).unwrap();
            assert_eq!(read_rate(&path), rate, "{text:?}");
        }
    }
}
