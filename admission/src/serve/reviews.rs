//! `POST /mutate`: a review in, its answer out.
//!
//! Must hold: whatever is sent, and by however many, memory is bounded and nobody waits for long.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use axum::{
    Router,
    body::{self, Body},
    extract::State,
    http::{
        HeaderMap, StatusCode,
        header::{CONTENT_LENGTH, CONTENT_TYPE},
    },
    response::{IntoResponse, Response},
    routing::post,
};
use tokio::{
    sync::{Semaphore, SemaphorePermit, watch},
    time::timeout,
};

use crate::{cluster::Cluster, metrics::Metrics, review};

/// The API server takes objects up to 3 MiB; around one there is a little more.
pub const BODY_LIMIT: usize = (3 << 20) + (64 << 10);
/// All bodies that are being read together.
const BODIES_LIMIT: usize = 8 * BODY_LIMIT;
/// The API server waits for 2 s.
const BODY_TIMEOUT: Duration = Duration::from_millis(1500);

/// Told the namespace of each pod that was admitted although no node offered its watts then.
pub type Waits = Arc<dyn Fn(&str) + Send + Sync>;

struct Reviews {
    cluster: watch::Receiver<Arc<Cluster>>,
    metrics: Metrics,
    waits: Waits,
    /// Bytes that bodies may still take.
    room: Semaphore,
}

/// Answers by what is known of the cluster at that moment.
pub fn router(cluster: watch::Receiver<Arc<Cluster>>, metrics: Metrics, waits: Waits) -> Router {
    let reviews = Reviews { cluster, metrics, waits, room: Semaphore::new(BODIES_LIMIT) };
    Router::new().route("/mutate", post(mutate)).with_state(Arc::new(reviews))
}

async fn mutate(State(reviews): State<Arc<Reviews>>, headers: HeaderMap, body: Body) -> Response {
    match reviews.answer(&headers, body).await {
        Ok(answer) => ([(CONTENT_TYPE, "application/json")], answer).into_response(),
        Err((status, text)) => {
            reviews.metrics.refused(status.as_u16());
            tracing::debug!(%status, text, "a request was no review");
            (status, text).into_response()
        }
    }
}

impl Reviews {
    async fn answer(&self, headers: &HeaderMap, body: Body) -> Result<Vec<u8>, (StatusCode, String)> {
        let refuse = |status, text: &str| (status, text.to_owned());
        let kind = headers.get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
        if !kind.split(';').next().unwrap_or_default().trim().eq_ignore_ascii_case("application/json") {
            return Err(refuse(StatusCode::UNSUPPORTED_MEDIA_TYPE, "write Content-Type: application/json"));
        }
        let length = headers.get(CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse::<usize>().ok());
        let length = length.unwrap_or(BODY_LIMIT);
        if length > BODY_LIMIT {
            return Err(refuse(StatusCode::PAYLOAD_TOO_LARGE, "a review has at most 3 MiB"));
        }
        let read = async {
            let room = self.room(length).await;
            (room, body::to_bytes(body, length).await)
        };
        let Ok((_room, body)) = timeout(BODY_TIMEOUT, read).await else {
            return Err(refuse(StatusCode::REQUEST_TIMEOUT, "the body took too long"));
        };
        // Longer than was said, or than is allowed, or cut off.
        let body = body.map_err(|_| refuse(StatusCode::PAYLOAD_TOO_LARGE, "the body could not be read whole"))?;
        let begun = Instant::now();
        let cluster = Arc::clone(&self.cluster.borrow());
        let answered = review::answer(&body, &cluster).map_err(|error| (StatusCode::BAD_REQUEST, error.to_string()))?;
        self.metrics.reviewed(answered.outcome, begun.elapsed());
        if let Some(namespace) = &answered.waits_in {
            self.metrics.waits();
            (self.waits)(namespace);
        }
        Ok(answered.body)
    }

    async fn room(&self, bytes: usize) -> Option<SemaphorePermit<'_>> {
        // The semaphore is never closed.
        self.room.acquire_many(u32::try_from(bytes).unwrap_or(u32::MAX)).await.ok()
    }
}
