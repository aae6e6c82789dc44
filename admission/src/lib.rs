//! Admission: what new pods request, whether our own kinds make sense, and who hears of trouble.
//!
//! Nothing that goes wrong in here may keep a pod from being created.
//!
//! ```text
//!   observe ─▶ Cluster ─┐
//!   serve ─▶ review ─▶ decide (pure) ─▶ patch ─▶ answer
//! ```
#![forbid(unsafe_code)]

pub mod alerts;
pub mod cluster;
pub mod decide;
pub mod envelope;
pub mod flags;
pub mod lease;
pub mod metrics;
pub mod observe;
pub mod patch;
pub mod pod;
pub mod review;
pub mod run;
pub mod serve;
pub mod validate;
