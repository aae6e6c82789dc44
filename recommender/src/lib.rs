//! The recommender: reads power and usage, decides who is capped how much, writes NodeFrequencies.
//!
//! ```text
//!  Prometheus ──▶ observe/{dcgm, kepler, agents, …} ───┐
//!                                                     ├─▶ observation ─▶ decide (pure) ─▶ plan ─▶ apply
//!  API server ──▶ observe/{workloads, resources} ─────┘        ▲                            │
//!       ▲                                                      └── what was written ◀───────┤
//!       └───────────────────────────────────────────────────────────────────────────────────┘
//! ```
//!
//! | module | holds |
//! |---|---|
//! | [`observation`] | everything that a decision sees, as plain data: the seam between the two sides |
//! | [`observe`] | reflectors and queries, which fill an observation |
//! | [`model`] | what is remembered of power: windows of the past, peaks, forecasts |
//! | [`decide`] | the decision: pure, total, deterministic |
//! | [`algorithms`] | how watts are shared out, behind one trait |
//! | [`apply`] | server-side apply of a plan |
//! | [`cycle`] | the loop: an event or a tick → observe → decide → apply |
//! | [`memory`] | what a leader remembers from one decision to the next |
//! | [`scaler`] | how many replicas the cap allows, for KEDA |
//! | [`record`], [`replay`] | decisions kept with all that they saw, and made anew |
#![forbid(unsafe_code)]

pub mod algorithms;
pub mod apply;
pub mod cycle;
pub mod decide;
pub mod flags;
pub mod memory;
pub mod metrics;
pub mod model;
pub mod observation;
pub mod observe;
pub mod record;
pub mod replay;
pub mod scaler;
