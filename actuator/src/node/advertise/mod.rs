//! Advertises watts: what pods on this node request, and what the recommender offers beside that, as the
//! extended resource `powercapping.io/watts` of this node's Node. kube-scheduler places by it.
//!
//! ```text
//!   pods of this node ─┐
//!   its Node ──────────┼──▶ seen ──▶ decide (pure) ──▶ Node.status: capacity and allocatable, in one patch
//!   orders, as stand ──┘
//! ```
//!
//! What must hold: nothing is written before pods, Node and orders are known; a Node that was made anew, or lost
//! the resource, gets it again; the loop that holds the devices waits for nothing in here.

pub mod decide;
pub mod seen;

use std::{
    pin::pin,
    time::{Duration, Instant},
};

use futures::StreamExt;
use kube::{
    Api, Client,
    api::{Patch, PatchParams},
    runtime::{WatchStreamExt, watcher},
};
use powercap_common::api::WATTS;
use serde_json::{Value, json};
use tokio::sync::watch;

use self::{
    decide::{Change, Order, decide},
    seen::{Advertised, AdvertisingNode, Pods, RequestingPod},
};
use super::metrics::Metrics;

const FIELD_MANAGER: &str = "powercap-actuator";
const CALL_TIMEOUT: Duration = Duration::from_secs(5);
const FIRST_PAUSE: Duration = Duration::from_millis(500);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// A watch ends and begins anew at least this often, so that a black-holed one is noticed.
const WATCH_SECONDS: u32 = 30;

/// Advertises for ever. While `orders` holds nothing, what stands, stands.
pub async fn advertise(client: Client, node: String, mut orders: watch::Receiver<Option<Order>>, metrics: Metrics) {
    let api: Api<AdvertisingNode> = Api::all(client.clone());
    let here = watcher::Config::default().fields(&format!("metadata.name={node}")).timeout(WATCH_SECONDS);
    let of_here = format!("spec.nodeName={node},status.phase!=Succeeded,status.phase!=Failed");
    let of_here = watcher::Config::default().fields(&of_here).timeout(WATCH_SECONDS);
    let mut nodes = pin!(watcher(api.clone(), here).default_backoff().applied_objects());
    let mut pods_of_here = pin!(watcher(Api::<RequestingPod>::all(client), of_here).default_backoff());
    let (mut pods, mut advertised, mut pause) = (Pods::default(), Advertised::default(), Pause::default());
    loop {
        tokio::select! {
            changed = orders.changed() => if changed.is_err() { return },
            Some(event) = pods_of_here.next() => match event {
                Ok(event) => pods.meet(event),
                Err(error) => tracing::warn!(%error, "this node's pods cannot be watched"),
            },
            Some(event) = nodes.next() => match event {
                Ok(node) => advertised.meet(&node),
                Err(error) => tracing::warn!(%error, "this Node's resources cannot be watched"),
            },
            () = tokio::time::sleep(pause.left()), if pause.lasts() => {}
        }
        let order = *orders.borrow_and_update();
        let seen = advertised.with(&pods);
        metrics.advertised(seen.as_ref());
        let Some(change) = order.zip(seen).and_then(|(order, seen)| decide(order, &seen)) else { continue };
        if pause.lasts() {
            continue;
        }
        let written = write(&api, &node, change).await;
        metrics.wrote_advertisement(written.is_ok());
        match written {
            Ok(node) => {
                advertised.meet(&node);
                pause = Pause::default();
                tracing::info!(?change, "what this Node advertises was written");
            }
            Err(error) => {
                pause.grow();
                let again_in_ms = pause.left().as_millis();
                tracing::warn!(%error, ?change, again_in_ms, "what this Node advertises could not be written");
            }
        }
    }
}

/// Between a write that failed and the next.
#[derive(Default)]
struct Pause {
    long: Duration,
    since: Option<Instant>,
}

impl Pause {
    fn grow(&mut self) {
        *self = Self { long: (self.long * 2).clamp(FIRST_PAUSE, LONGEST_PAUSE), since: Some(Instant::now()) };
    }

    fn left(&self) -> Duration {
        self.since.map_or(Duration::ZERO, |since| self.long.saturating_sub(since.elapsed()))
    }

    fn lasts(&self) -> bool {
        self.left() > Duration::ZERO
    }
}

#[derive(Debug, thiserror::Error)]
enum AdvertiseError {
    #[error("the API server refused: {0}")]
    Refused(#[source] Box<kube::Error>),
    #[error("the API server did not answer within 5 s")]
    TimedOut,
}

async fn write(api: &Api<AdvertisingNode>, node: &str, change: Change) -> Result<AdvertisingNode, AdvertiseError> {
    let parameters = PatchParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PatchParams::default() };
    let patch = Patch::Merge(patch(change));
    let call = api.patch_status(node, &parameters, &patch);
    match tokio::time::timeout(CALL_TIMEOUT, call).await {
        Ok(answer) => answer.map_err(|error| AdvertiseError::Refused(Box::new(error))),
        Err(_) => Err(AdvertiseError::TimedOut),
    }
}

/// Both together: of allocatable alone a kubelet makes what capacity says.
fn patch(change: Change) -> Value {
    let amount = match change {
        Change::Advertise(watts) => json!(watts.ceil().to_string()),
        Change::Withdraw => Value::Null,
    };
    json!({"status": {"capacity": {WATTS: amount}, "allocatable": {WATTS: amount}}})
}
