//! The cluster as far as a decision on a new pod needs it: plain data, made anew when something changes.

mod bounds;
mod nodes;
mod policies;

use std::collections::HashMap;

pub use self::{
    bounds::{Limits, Quota, Range},
    nodes::{NodeFacts, Nodes, Taint},
    policies::Policies,
};

/// What is known of the cluster.
#[derive(Clone, Debug, Default)]
pub struct Cluster {
    /// Namespaces that have opted in, by their names.
    pub namespaces: HashMap<String, Namespace>,
    /// Nodes that advertise watts.
    pub nodes: Nodes,
}

/// A namespace that has opted in.
#[derive(Clone, Debug, Default)]
pub struct Namespace {
    /// Its policies.
    pub policies: Policies,
    /// What its LimitRanges demand of each container.
    pub container_limits: Limits,
    /// What they demand of a pod as a whole.
    pub pod_limits: Limits,
    /// What its ResourceQuotas leave.
    pub quota: Quota,
}
