//! `workload serve`: a language-model server over HTTP, with vLLM's metric names.
//!
//! `POST /v1/completions {"prompt_tokens": n, "max_tokens": m}` is answered when the tokens are made;
//! `/metrics`, `/health`. The engine ticks on the boards' present clock, so a cap lengthens answers.
//!
//! What must hold: a full queue answers 503 at once; a client that leaves frees its place.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Context;
use axum::extract::State as Shared;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, oneshot};

use super::BoardFlags;
use super::batching::{Advance, Engine, Finished};
use super::boards::{HeldBoard, held, release};
use crate::exporters::exposition::{Histogram, Page};

const TICK: Duration = Duration::from_millis(25);
const SHORT: &[f64] =
    &[0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0];
const TOKEN: &[f64] = &[0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0];
const LONG: &[f64] = &[0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0, 40.0, 50.0, 60.0, 120.0, 240.0];

/// Flags of `workload serve`.
#[derive(Debug, clap::Args)]
pub struct Flags {
    #[command(flatten)]
    boards: BoardFlags,
    /// Address to serve on
    #[arg(long, default_value = "0.0.0.0:8000")]
    listen: SocketAddr,
    /// Name of the model in labels and answers
    #[arg(long, default_value = "llama-3.1-8b")]
    model_name: String,
    /// Sequences that run at once on each board
    #[arg(long, default_value_t = 256)]
    max_num_seqs: u32,
    /// Requests that may wait; more are answered 503
    #[arg(long, default_value_t = 2048)]
    max_queue: usize,
}

/// A request's body; other fields of the real interface are ignored.
#[derive(Debug, Deserialize)]
struct Completion {
    #[serde(default = "default_tokens")]
    prompt_tokens: u32,
    #[serde(default = "default_tokens")]
    max_tokens: u32,
}

fn default_tokens() -> u32 {
    128
}

/// The answer.
#[derive(Debug, Serialize)]
struct Answer {
    id: String,
    object: &'static str,
    model: String,
    usage: Usage,
    time_to_first_token_seconds: f64,
    seconds: f64,
}

#[derive(Debug, Serialize)]
struct Usage {
    prompt_tokens: u32,
    completion_tokens: u32,
}

struct Asked {
    completion: Completion,
    done: oneshot::Sender<Finished>,
}

#[derive(Clone)]
struct Server {
    asks: mpsc::Sender<Asked>,
    metrics: Arc<Mutex<Metrics>>,
    model: Arc<str>,
}

/// Serves until SIGTERM.
///
/// # Errors
/// When the boards cannot be found or the address not be listened on.
pub async fn run(flags: Flags) -> anyhow::Result<()> {
    let mut boards = held(&flags.boards)?;
    let spec = boards[0].spec.clone();
    let count = u32::try_from(boards.len()).unwrap_or(1);
    let engine = Engine::new(spec, count, flags.max_num_seqs);
    // What the channel holds comes on top of the engine's own queue, which is emptied every tick.
    let (asks, asked) = mpsc::channel(flags.max_queue.max(1));
    let metrics = Arc::new(Mutex::new(Metrics::new(&flags.model_name)));
    let server = Server { asks, metrics: Arc::clone(&metrics), model: flags.model_name.into() };
    let routes = Router::new()
        .route("/v1/completions", post(complete))
        .route("/metrics", get(show))
        .route("/health", get(async || "ok\n"))
        .with_state(server);
    let listener = tokio::net::TcpListener::bind(flags.listen)
        .await
        .with_context(|| format!("listen on {}: pick another --listen", flags.listen))?;
    tracing::info!(listen = %flags.listen, boards = boards.len(), "serving completions");
    let ended = tokio::select! {
        served = axum::serve(listener, routes) => served.context("serve completions"),
        drove = drive(engine, &mut boards, asked, &metrics, flags.max_queue) => drove,
        asked = crate::stop::asked() => asked.context("watch signals"),
    };
    release(&mut boards);
    ended
}

async fn drive(
    mut engine: Engine,
    boards: &mut [HeldBoard],
    mut asked: mpsc::Receiver<Asked>,
    metrics: &Mutex<Metrics>,
    most_waiting: usize,
) -> anyhow::Result<()> {
    let mut clients: HashMap<u64, oneshot::Sender<Finished>> = HashMap::new();
    let mut ticks = tokio::time::interval(TICK);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
    let (mut next, mut last, mut tokens) = (0u64, Instant::now(), 0.0);
    #[expect(clippy::cast_precision_loss, reason = "at most 16 boards")]
    let count = boards.len() as f64;
    loop {
        ticks.tick().await;
        while engine.waiting() < most_waiting
            && let Ok(Asked { completion, done }) = asked.try_recv()
        {
            next += 1;
            engine.accept(next, completion.prompt_tokens, completion.max_tokens);
            clients.insert(next, done);
        }
        clients.retain(|id, client| {
            let gone = client.is_closed();
            if gone {
                engine.abandon(*id);
            }
            !gone
        });
        let mut ratio: f64 = 1.0;
        for board in boards.iter_mut() {
            ratio = ratio.min(f64::from(board.state()?.clock_mhz) / f64::from(board.spec.max_mhz));
        }
        let now = Instant::now();
        // An idle board sleeps at its lowest clock and wakes with its load: it must not slow the first tick.
        let asleep = engine.running() == 0;
        let made = engine.advance((now - last).as_secs_f64(), if asleep { ratio.max(0.2) } else { ratio });
        last = now;
        tokens += made.generated_tokens;
        for board in boards.iter_mut() {
            board.drive(made.load)?;
            board.report(tokens / count)?;
        }
        metrics.lock().unwrap_or_else(PoisonError::into_inner).see(&made, &engine);
        for finished in made.finished {
            if let Some(client) = clients.remove(&finished.job.id) {
                // A client that left is no error.
                let _ = client.send(finished);
            }
        }
    }
}

async fn complete(Shared(server): Shared<Server>, Json(completion): Json<Completion>) -> Response {
    let usage =
        Usage { prompt_tokens: completion.prompt_tokens.max(1), completion_tokens: completion.max_tokens.max(1) };
    let (done, finished) = oneshot::channel();
    if server.asks.try_send(Asked { completion, done }).is_err() {
        return (StatusCode::SERVICE_UNAVAILABLE, "the queue is full: send fewer requests\n").into_response();
    }
    match finished.await {
        Ok(finished) => Json(Answer {
            id: format!("cmpl-{}", finished.job.id),
            object: "text_completion",
            model: server.model.to_string(),
            usage,
            time_to_first_token_seconds: finished.first_token_seconds,
            seconds: finished.total_seconds,
        })
        .into_response(),
        Err(_) => (StatusCode::SERVICE_UNAVAILABLE, "the server is stopping\n").into_response(),
    }
}

async fn show(Shared(server): Shared<Server>) -> String {
    server.metrics.lock().unwrap_or_else(PoisonError::into_inner).page()
}

struct Metrics {
    model: String,
    running: usize,
    waiting: usize,
    fullness: f64,
    prompt_tokens: f64,
    generated_tokens: f64,
    successes: u64,
    first_token: Histogram,
    between_tokens: Histogram,
    total: Histogram,
    queue: Histogram,
}

impl Metrics {
    fn new(model: &str) -> Self {
        Self {
            model: model.to_owned(),
            running: 0,
            waiting: 0,
            fullness: 0.0,
            prompt_tokens: 0.0,
            generated_tokens: 0.0,
            successes: 0,
            first_token: Histogram::new(SHORT),
            between_tokens: Histogram::new(TOKEN),
            total: Histogram::new(LONG),
            queue: Histogram::new(LONG),
        }
    }

    fn see(&mut self, made: &Advance, engine: &Engine) {
        (self.running, self.waiting, self.fullness) = (engine.running(), engine.waiting(), engine.fullness());
        self.prompt_tokens += made.prompt_tokens;
        self.generated_tokens += made.generated_tokens;
        if let Some(seconds) = made.inter_token_seconds {
            #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "tokens of one tick")]
            self.between_tokens.observe(seconds, made.generated_tokens.round() as u64);
        }
        for finished in &made.finished {
            self.successes += 1;
            self.first_token.observe(finished.first_token_seconds, 1);
            self.total.observe(finished.total_seconds, 1);
            self.queue.observe(finished.queue_seconds, 1);
        }
    }

    fn page(&self) -> String {
        let labels = [("engine", "0"), ("model_name", self.model.as_str())];
        let mut page = Page::default();
        for (name, kind, help, value) in [
            (
                "vllm:num_requests_running",
                "gauge",
                "Number of requests in model execution batches.",
                self.running.to_string(),
            ),
            (
                "vllm:num_requests_waiting",
                "gauge",
                "Number of requests waiting to be processed.",
                self.waiting.to_string(),
            ),
            (
                "vllm:kv_cache_usage_perc",
                "gauge",
                "KV-cache usage. 1 means 100 percent usage.",
                self.fullness.to_string(),
            ),
            (
                "vllm:prompt_tokens_total",
                "counter",
                "Number of prefill tokens processed.",
                self.prompt_tokens.floor().to_string(),
            ),
            (
                "vllm:generation_tokens_total",
                "counter",
                "Number of generation tokens processed.",
                self.generated_tokens.floor().to_string(),
            ),
        ] {
            page.begin(name, kind, help);
            page.sample(name, &labels, &value);
        }
        page.begin("vllm:request_success_total", "counter", "Count of successfully processed requests.");
        let success = [("engine", "0"), ("finished_reason", "length"), ("model_name", self.model.as_str())];
        page.sample("vllm:request_success_total", &success, &self.successes.to_string());
        self.first_token.write(
            &mut page,
            "vllm:time_to_first_token_seconds",
            "Histogram of time to first token in seconds.",
            &labels,
        );
        self.between_tokens.write(
            &mut page,
            "vllm:inter_token_latency_seconds",
            "Histogram of inter-token latency in seconds.",
            &labels,
        );
        self.total.write(
            &mut page,
            "vllm:e2e_request_latency_seconds",
            "Histogram of e2e request latency in seconds.",
            &labels,
        );
        self.queue.write(
            &mut page,
            "vllm:request_queue_time_seconds",
            "Histogram of time spent in WAITING phase for request.",
            &labels,
        );
        page.finish()
    }
}
