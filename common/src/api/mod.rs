//! The custom resources of `powercapping.io/v1alpha1`, as people write them.
//!
//! One Rust type makes the CRD, its validation by the API server and the reference page. A field stands
//! here only if something honours it. Raw numbers carry their unit in their name; what a decision may
//! rely on are the validated types in [`crate::policy`] and [`crate::domain`].
#![allow(clippy::duplicated_attributes, reason = "each printcolumn(…) of kube's derive names its own keys")]

mod algorithm;
mod escalation;
mod later;
mod node_frequencies;
mod power_capping_policy;
mod power_domain;
mod resource_policy;

pub use algorithm::AlgorithmSpec;
pub use escalation::{Action, Deed, Escalated, Migration, PendingAction, Rung};
pub use node_frequencies::{
    Acknowledged, Capability, CpuCeiling, CpuStatus, DeviceState, Epoch, GpuCeiling, GpuStatus, LeaseTerms,
    NodeFrequencies, NodeFrequenciesSpec, NodeFrequenciesStatus, NodeOverhead, OnExpiry, Tenant,
};
pub use power_capping_policy::{
    CappedPod, FoundTarget, Mode, Performance, PowerCappingPolicy, PowerCappingPolicySpec, PowerCappingPolicyStatus,
    PowerScope, Recommendation, TargetRef, Violator,
};
pub use power_domain::{
    Brake, BrakeStatus, Meter, NodeDefaults, ParentRef, PowerDomain, PowerDomainSpec, PowerDomainStatus, SharedDevices,
    Tenancy,
};
pub use resource_policy::{
    Amount, Amounts, ContainerPolicy, ContainerRecommendation, ControlledResource, ControlledValues, OPT_IN,
    RecommendedRequests, ResourcePolicy, WATTS,
};

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::CustomResourceExt;

/// The API group of every kind.
pub const GROUP: &str = "powercapping.io";

/// The definitions of all kinds, in the order in which people meet them.
#[must_use]
pub fn definitions() -> Vec<CustomResourceDefinition> {
    vec![PowerCappingPolicy::crd(), PowerDomain::crd(), NodeFrequencies::crd()]
}
