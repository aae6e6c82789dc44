//! Continuous batching, pure: `advance(elapsed, speeds) -> finished`, and the load that it makes.
//!
//! As vLLM does: waiting prompts are prefilled first (bound by compute), then all running sequences
//! make a token together (bound by memory for small batches). Over several boards the batch is shared
//! equally and runs at the speed of the slowest.
//!
//! What must hold: tokens made in a time never exceed what the measured rate allows; every request
//! that was taken in ends, in bounded time while there is speed.

use std::collections::VecDeque;

use powercap_simulated_hardware::inference::{PREFILL_TOKENS_PER_SECOND, decode, prefill_intensity};
use powercap_simulated_hardware::{BoardSpec, Load};

/// Memory of an 8B model with its cache.
const MEMORY_USED_MIB: u64 = 72_000;

/// A request.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Job {
    /// Names it.
    pub id: u64,
    /// Length of the prompt.
    pub prompt_tokens: f64,
    /// Tokens to make.
    pub max_tokens: f64,
    /// When it came, on the engine's clock.
    pub arrived_seconds: f64,
}

/// A request that ended.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Finished {
    /// What was asked.
    pub job: Job,
    /// From arrival to prefill.
    pub queue_seconds: f64,
    /// From arrival to the first token.
    pub first_token_seconds: f64,
    /// From arrival to the last.
    pub total_seconds: f64,
}

#[derive(Debug, Clone, Copy)]
struct Sequence {
    job: Job,
    prompt_left: f64,
    tokens_left: f64,
    started_seconds: f64,
    first_token_seconds: f64,
}

/// What an advance came to.
#[derive(Debug, Default)]
pub struct Advance {
    /// Requests that ended.
    pub finished: Vec<Finished>,
    /// Prompt tokens read.
    pub prompt_tokens: f64,
    /// Tokens made.
    pub generated_tokens: f64,
    /// Time between a sequence's tokens, while any ran.
    pub inter_token_seconds: Option<f64>,
    /// What the boards did meanwhile.
    pub load: Load,
}

/// The engine of one server.
#[derive(Debug)]
pub struct Engine {
    spec: BoardSpec,
    boards: f64,
    most_running: usize,
    now_seconds: f64,
    waiting: VecDeque<Job>,
    running: Vec<Sequence>,
}

impl Engine {
    /// An engine over `boards` boards that runs at most `most_running` sequences on each.
    #[must_use]
    pub fn new(spec: BoardSpec, boards: u32, most_running: u32) -> Self {
        Self {
            spec,
            boards: f64::from(boards.max(1)),
            most_running: (most_running.max(1) * boards.max(1)) as usize,
            now_seconds: 0.0,
            waiting: VecDeque::new(),
            running: Vec::new(),
        }
    }

    /// Takes a request in.
    pub fn accept(&mut self, id: u64, prompt_tokens: u32, max_tokens: u32) {
        self.waiting.push_back(Job {
            id,
            prompt_tokens: f64::from(prompt_tokens.max(1)),
            max_tokens: f64::from(max_tokens.max(1)),
            arrived_seconds: self.now_seconds,
        });
    }

    /// Forgets a request whose client left.
    pub fn abandon(&mut self, id: u64) {
        self.waiting.retain(|job| job.id != id);
        self.running.retain(|sequence| sequence.job.id != id);
    }

    /// Requests that wait.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// Requests that run.
    #[must_use]
    pub fn running(&self) -> usize {
        self.running.len()
    }

    /// Share of the room for sequences that is in use.
    #[must_use]
    pub fn fullness(&self) -> f64 {
        count(self.running.len()) / count(self.most_running)
    }

    /// Lets time pass with the boards at `ratio` of their highest clock.
    pub fn advance(&mut self, seconds: f64, ratio: f64) -> Advance {
        let mut made = Advance::default();
        let start = self.now_seconds;
        self.now_seconds += seconds;
        while self.running.len() < self.most_running
            && let Some(job) = self.waiting.pop_front()
        {
            self.running.push(Sequence {
                job,
                prompt_left: job.prompt_tokens,
                tokens_left: job.max_tokens,
                started_seconds: start,
                first_token_seconds: 0.0,
            });
        }
        let (prefill_seconds, intensity) = self.prefill(seconds, ratio, &mut made);
        let decode_seconds = self.decode(start, seconds - prefill_seconds, seconds, ratio, &mut made);
        self.finish(&mut made);
        made.load = self.load(seconds, (prefill_seconds, intensity), decode_seconds, made.load);
        made
    }

    fn prefill(&mut self, seconds: f64, ratio: f64, made: &mut Advance) -> (f64, f64) {
        let rate = PREFILL_TOKENS_PER_SECOND * self.spec.curves.speed(0.0, ratio) * self.boards;
        if rate <= 0.0 {
            return (0.0, 0.0);
        }
        let (mut left, mut weighted) = (seconds, 0.0);
        for sequence in self.running.iter_mut().filter(|sequence| sequence.prompt_left > 0.0) {
            let tokens = sequence.prompt_left.min(left * rate);
            sequence.prompt_left -= tokens;
            made.prompt_tokens += tokens;
            left -= tokens / rate;
            weighted += tokens / rate * prefill_intensity(sequence.job.prompt_tokens);
            if left <= 0.0 {
                break;
            }
        }
        let spent = seconds - left.max(0.0);
        (spent, if spent > 0.0 { weighted / spent } else { 0.0 })
    }

    fn decode(&mut self, start: f64, available: f64, seconds: f64, ratio: f64, made: &mut Advance) -> f64 {
        let ready = self.running.iter().filter(|sequence| sequence.prompt_left <= 0.0).count();
        if ready == 0 || available <= 0.0 {
            return 0.0;
        }
        let demand = decode(count(ready) / self.boards, &self.spec);
        let speed = self.spec.curves.speed(demand.memory_share, ratio);
        let each = demand.tokens_per_second * self.boards * speed / count(ready);
        if each <= 0.0 {
            return 0.0;
        }
        made.inter_token_seconds = Some(seconds / available / each);
        let mut longest: f64 = 0.0;
        for sequence in self.running.iter_mut().filter(|sequence| sequence.prompt_left <= 0.0) {
            let tokens = sequence.tokens_left.min(each * available);
            if sequence.first_token_seconds <= 0.0 {
                sequence.first_token_seconds = start + (seconds - available) + (1.0 / each).min(available);
            }
            sequence.tokens_left -= tokens;
            made.generated_tokens += tokens;
            longest = longest.max(tokens / each);
        }
        made.load.memory_share = demand.memory_share;
        made.load.intensity = demand.intensity;
        longest
    }

    fn finish(&mut self, made: &mut Advance) {
        let now = self.now_seconds;
        self.running.retain(|sequence| {
            let done = sequence.prompt_left <= 0.0 && sequence.tokens_left <= 1e-9;
            if done {
                let arrived = sequence.job.arrived_seconds;
                made.finished.push(Finished {
                    job: sequence.job,
                    queue_seconds: (sequence.started_seconds - arrived).max(0.0),
                    first_token_seconds: sequence.first_token_seconds - arrived,
                    total_seconds: now - arrived,
                });
            }
            !done
        });
    }

    fn load(&self, seconds: f64, prefill: (f64, f64), decode_seconds: f64, decode: Load) -> Load {
        let (prefill_seconds, prefill_intensity) = prefill;
        let busy = prefill_seconds + decode_seconds;
        if busy <= 0.0 || seconds <= 0.0 {
            return Load::waiting(0, MEMORY_USED_MIB);
        }
        let share = decode_seconds / busy;
        Load {
            beat: 0,
            utilisation: (busy / seconds).clamp(0.0, 1.0),
            memory_share: share * decode.memory_share,
            intensity: share * decode.intensity + (1.0 - share) * prefill_intensity,
            memory_used_mib: MEMORY_USED_MIB,
        }
    }
}

#[expect(clippy::cast_precision_loss, reason = "a count of requests")]
fn count(number: usize) -> f64 {
    number as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn engine() -> Engine {
        Engine::new(BoardSpec::h100_sxm(), 1, 256)
    }

    /// Runs until all is done; returns seconds, tokens, finished.
    fn drain(engine: &mut Engine, ratio: f64) -> (f64, f64, Vec<Finished>) {
        let (mut seconds, mut tokens, mut finished) = (0.0, 0.0, Vec::new());
        while engine.running() + engine.waiting() > 0 {
            let made = engine.advance(0.025, ratio);
            seconds += 0.025;
            tokens += made.generated_tokens;
            finished.extend(made.finished);
            assert!(seconds < 600.0, "the engine is stuck");
        }
        (seconds, tokens, finished)
    }

    #[test]
    fn a_full_batch_makes_tokens_at_the_measured_rate() {
        let mut engine = engine();
        for id in 0..128 {
            engine.accept(id, 1, 1000);
        }
        let (seconds, tokens, finished) = drain(&mut engine, 1.0);
        assert_eq!(finished.len(), 128);
        assert!((tokens - 128_000.0).abs() < 1e-3);
        assert!((tokens / seconds / 7037.0 - 1.0).abs() < 0.02, "{} tokens/s", tokens / seconds);
    }

    #[test]
    fn a_lower_clock_slows_prefill_more_than_decode() {
        let time = |prompt: u32, tokens: u32, ratio: f64| {
            let mut engine = engine();
            engine.accept(1, prompt, tokens);
            let (_, _, finished) = drain(&mut engine, ratio);
            finished[0].total_seconds
        };
        let prefill = time(100_000, 1, 0.72) / time(100_000, 1, 1.0);
        let decode = time(1, 1000, 0.72) / time(1, 1000, 1.0);
        assert!(prefill > 1.3 && decode < 1.02, "{prefill} {decode}");
    }

    #[test]
    fn what_does_not_fit_waits() {
        let mut engine = Engine::new(BoardSpec::h100_sxm(), 1, 4);
        for id in 0..10 {
            engine.accept(id, 100, 100);
        }
        engine.advance(0.025, 1.0);
        assert_eq!((engine.running(), engine.waiting()), (4, 6));
        engine.abandon(9);
        let (_, _, finished) = drain(&mut engine, 1.0);
        assert_eq!(finished.len(), 9);
        assert!(finished.last().unwrap().queue_seconds > 0.1);
        assert!(finished.iter().all(|done| done.first_token_seconds <= done.total_seconds));
    }

    #[test]
    fn an_idle_engine_asks_for_nothing_but_lives() {
        let made = engine().advance(0.025, 1.0);
        assert!(made.load.utilisation.abs() < f64::EPSILON && made.load.memory_used_mib > 0);
    }

    #[test]
    fn two_boards_share_the_batch() {
        let mut engine = Engine::new(BoardSpec::h100_sxm(), 2, 128);
        for id in 0..64 {
            engine.accept(id, 1, 500);
        }
        let (seconds, tokens, _) = drain(&mut engine, 1.0);
        assert!((tokens / seconds / (2.0 * 3391.0) - 1.0).abs() < 0.03);
    }
}
