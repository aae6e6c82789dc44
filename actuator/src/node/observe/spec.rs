//! Watches this node's `NodeFrequencies` and keeps the last good orders.
//!
//! What must hold: an API server that is away, an object that vanishes and an object that is not
//! understood change nothing: the orders in force stand.

use std::{sync::Arc, time::Duration};

use futures::StreamExt;
use kube::{
    Api, Client,
    runtime::{
        WatchStreamExt,
        watcher::{self, Event},
    },
};
use powercap_common::api::{NodeFrequencies, NodeFrequenciesStatus};
use powercap_process::Readiness;
use tokio::sync::watch;

use crate::node::orders::Orders;

/// What is known of this node's object.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Sight {
    /// The last good orders.
    pub orders: Option<Arc<Orders>>,
    /// Whether there is an object to report to, and which.
    pub object: Option<Subject>,
    /// Why the present object is not what is in force.
    pub problem: Option<String>,
    /// The status that the object had when it was first seen: of an earlier life of this agent.
    pub earlier_status: Option<Arc<NodeFrequenciesStatus>>,
}

/// The object that a report is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subject {
    /// Which object of that name.
    pub uid: String,
    /// Which version of its spec.
    pub generation: i64,
}

/// A watch ends and begins anew at least this often, so that a black-holed one is noticed.
const WATCH_SECONDS: u32 = 30;

/// Watches for ever, keeping `sight` up to date.
pub async fn watch(client: Client, node: String, sight: watch::Sender<Sight>, ready: Readiness) {
    let api: Api<NodeFrequencies> = Api::all(client);
    let config = watcher::Config::default().fields(&format!("metadata.name={node}")).timeout(WATCH_SECONDS);
    let mut events = std::pin::pin!(kube::runtime::watcher(api, config).default_backoff());
    let mut listed = false;
    while let Some(event) = events.next().await {
        match event {
            Ok(Event::Init) => listed = false,
            Ok(Event::InitApply(object) | Event::Apply(object)) => {
                listed = true;
                sight.send_if_modified(|sight| sight.meets(&object, &node));
            }
            Ok(Event::InitDone) => {
                ready.met();
                if !listed {
                    sight.send_if_modified(Sight::loses);
                }
            }
            Ok(Event::Delete(_)) => {
                sight.send_if_modified(Sight::loses);
            }
            Err(error) => tracing::warn!(%error, "NodeFrequencies cannot be watched; the orders in force stand"),
        }
    }
    tracing::error!("the watch of NodeFrequencies ended");
    tokio::time::sleep(Duration::from_secs(u64::MAX / 4)).await;
}

impl Sight {
    /// Takes in an object; says whether anything changed.
    fn meets(&mut self, object: &NodeFrequencies, node: &str) -> bool {
        let before = self.clone();
        if self.earlier_status.is_none() {
            self.earlier_status = Some(Arc::new(object.status.clone().unwrap_or_default()));
        }
        self.object = Some(Subject {
            uid: object.metadata.uid.clone().unwrap_or_default(),
            generation: object.metadata.generation.unwrap_or_default(),
        });
        match Orders::accept(object, node, self.orders.as_deref()) {
            Ok(orders) => {
                self.problem = None;
                if self.orders.as_deref() != Some(&orders) {
                    tracing::info!(
                        epoch = ?orders.epoch, grant = ?orders.grant.map(|grant| grant.as_f64()), boards = orders.boards.len(),
                        cpus = orders.cpus.len(), release = orders.release, "new orders"
                    );
                    self.orders = Some(Arc::new(orders));
                }
            }
            Err(refusal) => {
                if self.problem.is_none() {
                    tracing::warn!(%refusal, "NodeFrequencies is refused; the orders in force stand");
                }
                self.problem = Some(refusal.to_string());
            }
        }
        *self != before
    }

    fn loses(&mut self) -> bool {
        if self.object.is_none() {
            return false;
        }
        tracing::warn!("NodeFrequencies is gone; the orders in force stand");
        self.object = None;
        true
    }
}

#[cfg(test)]
mod tests {
    use powercap_common::api::{Epoch, NodeFrequenciesSpec};

    use super::*;

    fn object(sequence: i64, grant: u32) -> NodeFrequencies {
        let spec = NodeFrequenciesSpec {
            node_name: "n1".into(),
            epoch: Epoch { term: 1, sequence },
            power_limit_watts: Some(grant),
            ..Default::default()
        };
        let mut object = NodeFrequencies::new("n1", spec);
        object.metadata.uid = Some("a".into());
        object.metadata.generation = Some(sequence);
        object
    }

    #[test]
    fn an_object_that_vanishes_or_goes_back_leaves_the_orders_in_force() {
        let mut sight = Sight::default();
        assert!(sight.meets(&object(5, 4000), "n1"));
        let orders = sight.orders.clone();
        assert!(sight.loses());
        assert!(!sight.loses());
        assert_eq!((sight.orders.clone(), sight.object.clone()), (orders.clone(), None));
        assert!(sight.meets(&object(4, 9000), "n1"));
        assert_eq!(sight.orders, orders);
        assert!(sight.problem.as_deref().is_some_and(|problem| problem.contains("older")));
    }

    #[test]
    fn our_own_status_is_no_change() {
        let mut sight = Sight::default();
        assert!(sight.meets(&object(5, 4000), "n1"));
        let mut reported = object(5, 4000);
        reported.status = Some(NodeFrequenciesStatus { gpu_count: 8, ..Default::default() });
        assert!(!sight.meets(&reported, "n1"));
    }
}
