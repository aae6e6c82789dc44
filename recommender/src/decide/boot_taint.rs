//! Nodes that register with the taint `powercapping.io/uninitialized` get no pods before their limits
//! are set: it is taken off when the node's agent has acknowledged what it was told.
//!
//! Must hold: an acknowledgement of an earlier boot does not count, since limits are lost at boot; a node
//! that was never told anything keeps its taint; no other taint is touched.

use powercap_common::api::NodeFrequenciesStatus;
use serde::Serialize;

use super::fleet::{Fleet, NodeView};
use crate::observation::BootTaint;

/// A node whose limits are set since it booted, and what of its taints stays.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Initialized {
    /// The node.
    pub node: String,
    /// The taint as it was seen.
    pub taint: BootTaint,
}

/// The nodes whose taint has served its purpose.
pub fn initialized(fleet: &Fleet<'_>) -> Vec<Initialized> {
    let of = |node: &NodeView<'_>| {
        let taint = node.facts.boot_taint.clone()?;
        let status = node.frequencies?.status.as_ref()?;
        holds_since_boot(status, &node.facts.boot_id).then(|| Initialized { node: node.name.to_owned(), taint })
    };
    fleet.nodes.iter().filter_map(of).collect()
}

fn holds_since_boot(status: &NodeFrequenciesStatus, boot_id: &str) -> bool {
    !boot_id.is_empty() && status.boot_id.as_deref() == Some(boot_id) && status.acknowledged.is_some()
}
