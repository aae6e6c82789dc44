//! The domain of kube-powercap: the words of the API and what they mean.
//!
//! Nothing in here talks to anything: no client, no clock, no hardware. The modules, in the order in
//! which the data meets them:
//!
//! | module | holds |
//! |---|---|
//! | [`units`] | watts, megahertz and joules as types that cannot be confused |
//! | [`api`] | the custom resources as people write them |
//! | [`policy`], [`domain`] | the same after validation: what a decision may rely on |
//! | [`selector`] | which pods or nodes, never everything by mistake |
//! | [`target`] | whose pods are a workload's, and what to ask for its selector |
//! | [`reason`] | the one word that says why, in conditions, status, metrics and logs alike |
//! | [`condition`] | how a condition of a status changes |
//! | [`telemetry`] | names and labels of the series that others expose and that we expose |
#![forbid(unsafe_code)]

pub mod api;
pub mod condition;
pub mod domain;
pub mod policy;
pub mod reason;
pub mod selector;
pub mod target;
pub mod telemetry;
pub mod units;
