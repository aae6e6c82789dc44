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
//! | [`algorithm`] | by what rule watts may be shared out, and what it can be told |
//! | [`board`] | what a board draws at which clock |
//! | [`selector`] | which pods or nodes, never everything by mistake |
//! | [`target`] | whose pods are a workload's, and what to ask for its selector |
//! | [`quantity`] | amounts of resources as Kubernetes writes them |
//! | [`requests`] | what a pod requests of a resource, by Kubernetes' rule |
//! | [`reason`] | the one word that says why, in conditions, status, metrics and logs alike |
//! | [`condition`] | how a condition of a status changes |
//! | [`alert`] | what people are told of at once: names, how grave, and the same as rules of Prometheus |
//! | [`telemetry`] | names and labels of the series that others expose and that we expose |
#![forbid(unsafe_code)]

pub mod alert;
pub mod algorithm;
pub mod api;
pub mod board;
pub mod condition;
pub mod domain;
pub mod policy;
pub mod quantity;
pub mod reason;
pub mod requests;
pub mod selector;
pub mod target;
pub mod telemetry;
pub mod units;
