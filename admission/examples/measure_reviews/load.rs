//! A client that asks as the API server does: one connection, many streams.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use http_body_util::{BodyExt, Full};
use hyper::{Request, body::Bytes, client::conn::http2};
use tokio::{task::JoinSet, time::Instant};

/// What to ask, and where.
#[derive(Clone)]
pub struct Load {
    pub connection: http2::SendRequest<Full<Bytes>>,
    pub path: String,
    pub reviews: Arc<Vec<Bytes>>,
    pub streams: usize,
}

/// How long answers took.
pub struct Run {
    latencies: Vec<Duration>,
    pub took: Duration,
}

impl Load {
    /// As many as can be answered.
    pub async fn unpaced(&self, requests: usize) -> Run {
        let next = Arc::new(AtomicUsize::new(0));
        let begun = Instant::now();
        let mut streams = JoinSet::new();
        for _ in 0..self.streams {
            let (mut load, next) = (self.clone(), Arc::clone(&next));
            streams.spawn(async move {
                let mut latencies = Vec::new();
                loop {
                    let at = next.fetch_add(1, Ordering::Relaxed);
                    if at >= requests {
                        return latencies;
                    }
                    latencies.push(load.ask(at, Instant::now()).await);
                }
            });
        }
        let latencies = streams.join_all().await.concat();
        Run { latencies, took: begun.elapsed() }
    }

    /// So many a second; who waits is counted from when it should have been asked.
    pub async fn paced(&self, a_second: u32, within: Duration) -> Run {
        let begun = Instant::now();
        let mut streams = JoinSet::new();
        let streams_count = u32::try_from(self.streams).unwrap();
        let each = a_second * u32::try_from(within.as_secs()).unwrap() / streams_count;
        for stream in 0..streams_count {
            let mut load = self.clone();
            streams.spawn(async move {
                let mut latencies = Vec::new();
                for turn in 0..each {
                    let number = turn * streams_count + stream;
                    let due = begun + Duration::from_secs(1) * number / a_second;
                    tokio::time::sleep_until(due).await;
                    latencies.push(load.ask(number as usize, Instant::now()).await);
                }
                latencies
            });
        }
        let latencies = streams.join_all().await.concat();
        Run { latencies, took: begun.elapsed() }
    }

    /// How long the answer took.
    async fn ask(&mut self, at: usize, begun: Instant) -> Duration {
        let review = self.reviews[at % self.reviews.len()].clone();
        assert!(ask(&mut self.connection, &self.path, review).await, "every pod of the bench gets its requests");
        begun.elapsed()
    }
}

/// Whether the answer has a patch.
pub async fn ask(connection: &mut http2::SendRequest<Full<Bytes>>, path: &str, review: Bytes) -> bool {
    let request = Request::post(format!("https://localhost{path}")).header("Content-Type", "application/json");
    let answer = connection.send_request(request.body(Full::new(review)).unwrap()).await.unwrap();
    let body = answer.into_body().collect().await.unwrap().to_bytes();
    body.windows(9).any(|part| part == b"JSONPatch")
}

impl Run {
    /// A quantile of what answers took.
    pub fn quantile_ms(&self, quantile: f64) -> f64 {
        let mut sorted = self.latencies.clone();
        sorted.sort_unstable();
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "an index")]
        let at = ((sorted.len() as f64) * quantile) as usize;
        sorted[at.min(sorted.len() - 1)].as_secs_f64() * 1e3
    }
}
