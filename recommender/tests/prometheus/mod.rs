//! A Prometheus on a real socket: keeps series with the times of their samples, answers queries for them, of now
//! and over a range, and misbehaves when told to. It knows as much PromQL as we ask it: names, `timestamp(…)`, `or`.

use std::{
    collections::BTreeMap,
    iter::StepBy,
    ops::RangeInclusive,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

/// One series and its last sample.
#[derive(Clone, Debug)]
pub struct Series {
    pub name: String,
    pub labels: BTreeMap<String, String>,
    pub value: f64,
    /// In seconds since 1970.
    pub at: f64,
}

/// How the server answers.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Manner {
    Well,
    /// Hangs up.
    Away,
    /// Takes the question and never answers.
    Hanging,
    /// With this status and no body.
    Status(u16),
    /// Announces more than it sends.
    CutMidBody,
    /// As Thanos does when a store is away.
    Partial,
    /// With no series at all.
    Empty,
}

/// What the server knows; tests change it while it serves.
pub struct State {
    pub series: Vec<Series>,
    pub manner: Manner,
    /// Its clock, in seconds since 1970.
    pub now: f64,
    /// What a series of this value had at a moment of the past, in seconds since 1970.
    pub past: fn(f64, f64) -> Option<f64>,
    /// Queries that it was sent.
    pub asked: usize,
    /// Whether what was answered once is answered again, whatever has changed.
    pub repeats: bool,
    answers: BTreeMap<String, Arc<String>>,
}

/// The server.
#[derive(Clone)]
pub struct Server {
    pub url: String,
    state: Arc<Mutex<State>>,
}

impl Server {
    /// Serves from now on, on a port of its own.
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let (series, answers) = (Vec::new(), BTreeMap::new());
        let past = |_, value| Some(value);
        let state = State { series, manner: Manner::Well, now: 0.0, past, asked: 0, repeats: false, answers };
        let server = Self { url, state: Arc::new(Mutex::new(state)) };
        let serving = server.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serving.clone().answer(stream));
            }
        });
        server
    }

    pub fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn answer(self, mut stream: TcpStream) {
        let Some(question) = question(&mut stream).await else { return };
        let (manner, body) = {
            let mut state = self.state();
            state.asked += 1;
            (state.manner, state.answer(question))
        };
        let (status, length) = match manner {
            Manner::Away => return,
            Manner::Hanging => std::future::pending().await,
            Manner::Status(status) => (status, 0),
            _ => (200, body.len()),
        };
        let sent = if manner == Manner::CutMidBody { length / 2 } else { length };
        let head = format!("HTTP/1.1 {status} X\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n");
        _ = stream.write_all(head.as_bytes()).await;
        _ = stream.write_all(&body.as_bytes()[..sent]).await;
    }
}

impl State {
    fn answer(&mut self, question: Question) -> Arc<String> {
        if !self.repeats {
            return Arc::new(self.body(&question));
        }
        let known = self.answers.get(&question.query).cloned();
        let answer = known.unwrap_or_else(|| Arc::new(self.body(&question)));
        self.answers.insert(question.query, Arc::clone(&answer));
        answer
    }

    fn body(&self, Question { query, times }: &Question) -> String {
        let mut result = Vec::new();
        for part in query.split(" or ") {
            let (name, of_times) = (metric(part), part.contains("timestamp("));
            for series in self.series.iter().filter(|series| series.name == name && self.manner != Manner::Empty) {
                let mut labels = series.labels.clone();
                if !of_times {
                    labels.insert("__name__".to_owned(), series.name.clone());
                }
                let value = if of_times { series.at } else { series.value };
                result.push(match times {
                    Some(times) => json!({"metric": labels, "values": self.course(times.clone(), value)}),
                    None => json!({"metric": labels, "value": [self.now, number(value)]}),
                });
            }
        }
        let warnings: &[&str] = if self.manner == Manner::Partial { &["store-3 is away"] } else { &[] };
        let kind = if times.is_some() { "matrix" } else { "vector" };
        let data = json!({"resultType": kind, "result": Value::Array(result)});
        json!({"status": "success", "warnings": warnings, "data": data}).to_string()
    }
}

impl State {
    fn course(&self, times: StepBy<RangeInclusive<i64>>, value: f64) -> Vec<Value> {
        #[allow(clippy::cast_precision_loss, reason = "times of some day")]
        let point = |at: i64| Some(json!([at, number((self.past)(at as f64, value)?)]));
        times.filter_map(point).collect()
    }
}

/// What is asked: a query, and at which times of a range.
struct Question {
    query: String,
    times: Option<StepBy<RangeInclusive<i64>>>,
}

/// As Prometheus writes numbers.
fn number(value: f64) -> String {
    match value {
        f64::INFINITY => "+Inf".to_owned(),
        f64::NEG_INFINITY => "-Inf".to_owned(),
        value => value.to_string(),
    }
}

/// The metric that a part of a query is about: what stands in its innermost brackets.
fn metric(part: &str) -> &str {
    let until = part.find(['{', '[']).unwrap_or(part.trim_end_matches(')').len());
    part[..until].rsplit('(').next().unwrap_or_default().trim()
}

/// The query of one request.
async fn question(stream: &mut TcpStream) -> Option<Question> {
    let mut request = Vec::new();
    loop {
        let mut piece = [0; 4096];
        let count = stream.read(&mut piece).await.ok().filter(|count| *count > 0)?;
        request.extend_from_slice(&piece[..count]);
        let text = String::from_utf8_lossy(&request);
        let Some((head, form)) = text.split_once("\r\n\r\n") else { continue };
        let length = head.lines().find_map(|line| line.to_lowercase().strip_prefix("content-length: ")?.parse().ok());
        if form.len() >= length.unwrap_or(0) {
            let field = |name| form.split('&').find_map(|field: &str| field.strip_prefix(name)?.strip_prefix('='));
            let seconds = |name| field(name).and_then(|seconds| seconds.parse::<i64>().ok());
            let times = head.contains("/query_range ").then(|| {
                let step = usize::try_from(seconds("step")?).ok()?;
                Some((seconds("start")?..=seconds("end")?).step_by(step))
            });
            return Some(Question { query: decoded(field("query")?), times: times.flatten() });
        }
    }
}

/// The text of a field of a form.
fn decoded(field: &str) -> String {
    let field = field.replace('+', " ");
    let mut parts = field.split('%');
    let mut text = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let (code, rest) = part.split_at(2);
        text.push(char::from(u8::from_str_radix(code, 16).unwrap()));
        text.push_str(rest);
    }
    text
}
