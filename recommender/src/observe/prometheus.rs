//! Instant queries of Prometheus's HTTP API, typed.
//!
//! Must hold: an answer that is not complete is an error, never an empty vector: a warning (Thanos and
//! Mimir send one with a partial answer), a cut body, another status. What the caller makes of an empty
//! vector is its own affair, but it is never zero watts.

use std::{collections::BTreeMap, path::PathBuf, time::Duration};

use serde::Deserialize;

/// Labels of one series.
pub type SeriesLabels = BTreeMap<String, String>;

/// One element of an instant vector.
#[derive(Clone, Debug, PartialEq)]
pub struct Element {
    /// The series.
    pub labels: SeriesLabels,
    /// When the query was evaluated, on Prometheus's clock, in seconds since 1970.
    pub evaluated_at: f64,
    /// The value; NaN and infinities are passed on as they are.
    pub value: f64,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum PrometheusError {
    /// The client could not be made.
    #[error("cannot make an HTTP client")]
    MakeClient(#[source] reqwest::Error),
    /// The token's file.
    #[error("cannot read the bearer token in {path}")]
    ReadToken {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// No connection, or it broke.
    #[error("cannot send the query")]
    Send(#[source] reqwest::Error),
    /// It hangs.
    #[error("no answer within {} ms", .0.as_millis())]
    Timeout(Duration),
    /// Another status than 200.
    #[error("HTTP status {status}: {said}")]
    Status {
        /// The status.
        status: u16,
        /// Prometheus's own words, when it had any.
        said: String,
    },
    /// The body ended early, or is no JSON of this form.
    #[error("cannot read the answer")]
    ReadAnswer(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// More than we are willing to hold.
    #[error("the answer is longer than {} MiB", MOST_BYTES >> 20)]
    TooLong,
    /// Not everything was asked that should have been.
    #[error("the answer is partial: {0}")]
    Partial(String),
}

impl PrometheusError {
    /// A word for the metric's `result` label.
    #[must_use]
    pub fn result(&self) -> &'static str {
        match self {
            Self::MakeClient(_) => "client",
            Self::ReadToken { .. } => "token",
            Self::Send(_) => "unreachable",
            Self::Timeout(_) => "timeout",
            Self::Status { .. } => "status",
            Self::ReadAnswer(_) | Self::TooLong => "unreadable",
            Self::Partial(_) => "partial",
        }
    }
}

/// 8,000 boards with generous labels make about 10 MiB an answer.
const MOST_BYTES: usize = 64 << 20;

/// Where and how to ask.
#[derive(Clone)]
pub struct Prometheus {
    http: reqwest::Client,
    query_url: String,
    token_file: Option<PathBuf>,
    timeout: Duration,
}

impl Prometheus {
    /// Asks the server at `url` (up to and without `/api/v1`); a token is read from its file anew for
    /// each query, since tokens rotate.
    ///
    /// # Errors
    /// When no client can be made.
    pub fn new(url: &str, token_file: Option<PathBuf>, timeout: Duration) -> Result<Self, PrometheusError> {
        let http = reqwest::Client::builder()
            .connect_timeout(timeout)
            .no_proxy()
            .build()
            .map_err(PrometheusError::MakeClient)?;
        let query_url = format!("{}/api/v1/query", url.trim_end_matches('/'));
        Ok(Self { http, query_url, token_file, timeout })
    }

    /// The value of `query` now, within the timeout.
    ///
    /// # Errors
    /// When there is no complete answer.
    pub async fn instant(&self, query: &str) -> Result<Vec<Element>, PrometheusError> {
        tokio::time::timeout(self.timeout, self.ask(query)).await.map_err(|_| PrometheusError::Timeout(self.timeout))?
    }

    async fn ask(&self, query: &str) -> Result<Vec<Element>, PrometheusError> {
        let seconds = format!("{}s", self.timeout.as_secs().max(1));
        let mut request = self.http.post(&self.query_url).form(&[("query", query), ("timeout", seconds.as_str())]);
        if let Some(path) = &self.token_file {
            let token = tokio::fs::read_to_string(path)
                .await
                .map_err(|source| PrometheusError::ReadToken { path: path.clone(), source })?;
            request = request.bearer_auth(token.trim());
        }
        let mut response = request.send().await.map_err(PrometheusError::Send)?;
        let status = response.status();
        let mut body = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(|error| PrometheusError::ReadAnswer(Box::new(error)))? {
            if body.len() + chunk.len() > MOST_BYTES {
                return Err(PrometheusError::TooLong);
            }
            body.extend_from_slice(&chunk);
        }
        if !status.is_success() {
            let said = String::from_utf8_lossy(&body[..body.len().min(200)]).into_owned();
            return Err(PrometheusError::Status { status: status.as_u16(), said });
        }
        read(&body)
    }
}

#[derive(Deserialize)]
struct Answer {
    #[serde(default)]
    data: Option<Data>,
    #[serde(default)]
    error: Option<String>,
    #[serde(default)]
    warnings: Vec<String>,
}

#[derive(Deserialize)]
#[serde(tag = "resultType", content = "result", rename_all = "lowercase")]
enum Data {
    Vector(Vec<Series>),
}

#[derive(Deserialize)]
struct Series {
    metric: SeriesLabels,
    value: (f64, String),
}

/// Reads the body of an answer to an instant query.
///
/// # Errors
/// When it is not a complete vector.
pub fn read(body: &[u8]) -> Result<Vec<Element>, PrometheusError> {
    let answer: Answer = serde_json::from_slice(body).map_err(|error| PrometheusError::ReadAnswer(Box::new(error)))?;
    if !answer.warnings.is_empty() {
        return Err(PrometheusError::Partial(answer.warnings.join("; ")));
    }
    let Some(Data::Vector(series)) = answer.data else {
        return Err(PrometheusError::Partial(answer.error.unwrap_or_else(|| "it carries no data".to_owned())));
    };
    series
        .into_iter()
        .map(|Series { metric, value: (evaluated_at, value) }| {
            let value = value.parse().map_err(|error| PrometheusError::ReadAnswer(Box::new(error)))?;
            Ok(Element { labels: metric, evaluated_at, value })
        })
        .collect()
}
