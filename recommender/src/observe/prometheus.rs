//! Queries of Prometheus's HTTP API, typed: of now, and over a range of the past.
//!
//! Must hold: an answer that is not complete is an error, never an empty one: a warning (Thanos and
//! Mimir send one with a partial answer), a cut body, another status. What the caller makes of an empty
//! vector is its own affair, but it is never zero watts. An answer is never held whole in memory.

use std::{
    io::{self, Read},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use reqwest::{Certificate, Identity, Response, header::HeaderMap};
use tokio::sync::mpsc;

use super::answer::{self, Element, Kept, OfSeries, Trace};

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum PrometheusError {
    /// The client could not be made: a certificate or key that is none.
    #[error("cannot make an HTTP client")]
    MakeClient(#[source] reqwest::Error),
    /// The file of a token, certificate or key.
    #[error("cannot read {path}")]
    ReadFile {
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
            Self::ReadFile { .. } => "file",
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
/// Pieces of an answer that wait to be parsed.
const PIECES: usize = 8;

/// Where Prometheus is, and as whom to ask.
#[derive(Clone, Debug)]
pub struct Access {
    /// Up to and without `/api/v1`.
    pub url: String,
    /// How long an answer may take.
    pub timeout: Duration,
    /// A file with a bearer token.
    pub token_file: Option<PathBuf>,
    /// A file with the authorities that may have signed the server's certificate, in the place of the system's.
    pub authority_file: Option<PathBuf>,
    /// Files with our certificate and its key.
    pub certificate_files: Option<(PathBuf, PathBuf)>,
    /// What every request carries: the tenant of a Mimir.
    pub headers: HeaderMap,
}

impl Access {
    /// Without any credentials.
    #[must_use]
    pub fn open(url: impl Into<String>, timeout: Duration) -> Self {
        let (token_file, authority_file, certificate_files) = (None, None, None);
        Self { url: url.into(), timeout, token_file, authority_file, certificate_files, headers: HeaderMap::new() }
    }
}

/// Moments of the past, in seconds since 1970: from one to another, each this much after the one before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Times {
    /// The first.
    pub start: i64,
    /// The last.
    pub end: i64,
    /// From one to the next.
    pub step: i64,
}

/// Asks one server.
pub struct Prometheus {
    access: Access,
    kept: Arc<Kept>,
    /// The client, and the certificates that it was made with.
    client: Mutex<Option<(Credentials, reqwest::Client)>>,
}

/// What certificate files say.
#[derive(Clone, Default, PartialEq, Eq)]
struct Credentials {
    authorities: Option<Vec<u8>>,
    /// Certificate and key.
    ours: Option<Vec<u8>>,
}

impl Prometheus {
    /// Asks there, and keeps these labels of the answers. Files are read anew for each query, since tokens
    /// and certificates rotate.
    #[must_use]
    pub fn new(access: Access, kept: Kept) -> Self {
        Self { access, kept: Arc::new(kept), client: Mutex::default() }
    }

    /// The value of `query` now, within the timeout.
    ///
    /// # Errors
    /// When there is no complete answer.
    pub async fn instant(&self, query: &str) -> Result<Vec<Element>, PrometheusError> {
        self.ask("query", query, &[], self.access.timeout).await
    }

    /// The values of `query` at these times, within `timeout`.
    ///
    /// # Errors
    /// When there is no complete answer.
    pub async fn range(&self, query: &str, times: Times, timeout: Duration) -> Result<Vec<Trace>, PrometheusError> {
        let Times { start, end, step } = times;
        let times = [("start", start), ("end", end), ("step", step)];
        let times = times.map(|(name, seconds)| (name, seconds.to_string()));
        self.ask("query_range", query, &times, timeout).await
    }

    async fn ask<S: OfSeries + Send + 'static>(
        &self,
        endpoint: &str,
        query: &str,
        times: &[(&str, String)],
        timeout: Duration,
    ) -> Result<Vec<S>, PrometheusError> {
        let asked = self.answer(endpoint, query, times, timeout);
        tokio::time::timeout(timeout, asked).await.map_err(|_| PrometheusError::Timeout(timeout))?
    }

    async fn answer<S: OfSeries + Send + 'static>(
        &self,
        endpoint: &str,
        query: &str,
        times: &[(&str, String)],
        timeout: Duration,
    ) -> Result<Vec<S>, PrometheusError> {
        let seconds = format!("{}s", timeout.as_secs().max(1));
        let url = format!("{}/api/v1/{endpoint}", self.access.url.trim_end_matches('/'));
        // The last two are for Thanos: one answer of several replicas, and all of it. Others ignore them.
        let form = [("query", query), ("timeout", seconds.as_str()), ("dedup", "true"), ("partial_response", "false")];
        let form: Vec<_> = form.into_iter().chain(times.iter().map(|(name, value)| (*name, value.as_str()))).collect();
        let mut request = self.client().await?.post(url).headers(self.access.headers.clone()).form(&form);
        if let Some(path) = &self.access.token_file {
            let token = contents(path).await?;
            request = request.bearer_auth(String::from_utf8_lossy(&token).trim());
        }
        let mut response = request.send().await.map_err(PrometheusError::Send)?;
        let status = response.status();
        if !status.is_success() {
            let said = response.chunk().await.ok().flatten().unwrap_or_default();
            let said = String::from_utf8_lossy(&said[..said.len().min(200)]).into_owned();
            return Err(PrometheusError::Status { status: status.as_u16(), said });
        }
        let (pieces, arriving) = mpsc::channel(PIECES);
        let kept = Arc::clone(&self.kept);
        let body = Arriving { pieces: arriving, piece: Vec::new(), read: 0 };
        let reading = tokio::task::spawn_blocking(move || answer::read(body, &kept));
        receive(&mut response, pieces).await?;
        reading.await.map_err(|error| PrometheusError::ReadAnswer(Box::new(error)))?
    }

    /// The client; a new one when a certificate has changed.
    async fn client(&self) -> Result<reqwest::Client, PrometheusError> {
        let mut now = Credentials::default();
        if let Some(path) = &self.access.authority_file {
            now.authorities = Some(contents(path).await?);
        }
        if let Some((certificate, key)) = &self.access.certificate_files {
            now.ours = Some([contents(certificate).await?, contents(key).await?].join(&b'\n'));
        }
        let mut client = self.client.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, client)) = client.as_ref().filter(|(before, _)| *before == now) {
            return Ok(client.clone());
        }
        let new = now.client(self.access.timeout).map_err(PrometheusError::MakeClient)?;
        *client = Some((now, new.clone()));
        Ok(new)
    }
}

impl Credentials {
    fn client(&self, timeout: Duration) -> Result<reqwest::Client, reqwest::Error> {
        let mut client = reqwest::Client::builder().connect_timeout(timeout).no_proxy();
        if let Some(pem) = &self.authorities {
            client = client.tls_certs_only(Certificate::from_pem_bundle(pem)?);
        }
        if let Some(pem) = &self.ours {
            client = client.identity(Identity::from_pem(pem)?);
        }
        client.build()
    }
}

async fn contents(path: &Path) -> Result<Vec<u8>, PrometheusError> {
    tokio::fs::read(path).await.map_err(|source| PrometheusError::ReadFile { path: path.into(), source })
}

/// Hands over the body piece by piece, as long as somebody reads it.
async fn receive(response: &mut Response, pieces: mpsc::Sender<Vec<u8>>) -> Result<(), PrometheusError> {
    let mut length = 0;
    while let Some(piece) = response.chunk().await.map_err(|error| PrometheusError::ReadAnswer(Box::new(error)))? {
        length += piece.len();
        if length > MOST_BYTES {
            return Err(PrometheusError::TooLong);
        }
        if pieces.send(piece.into()).await.is_err() {
            // The reader knows why it wants no more.
            return Ok(());
        }
    }
    Ok(())
}

/// The pieces of a body as they arrive; for a thread that may wait.
struct Arriving {
    pieces: mpsc::Receiver<Vec<u8>>,
    piece: Vec<u8>,
    read: usize,
}

impl Read for Arriving {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        while self.read == self.piece.len() {
            let Some(piece) = self.pieces.blocking_recv() else { return Ok(0) };
            (self.piece, self.read) = (piece, 0);
        }
        let count = (&self.piece[self.read..]).read(into)?;
        self.read += count;
        Ok(count)
    }
}
