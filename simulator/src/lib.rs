//! Stands in for what a test cluster cannot have: boards, device plugin, exporters, workloads, the judge.
//!
//! ```text
//!   hardware ── folder ──┬─ device-plugin ── kubelet (real)
//!                        ├─ dcgm-exporter, kepler ── Prometheus (real)
//!   traffic ── HTTP ── workload (in pods)
//!                        └─ truth ── judge ── score
//! ```
//! What must hold: everything but the judge sees what real sensors would show; the judge alone reads
//! the truth; nothing here knows that power is being capped.
#![forbid(unsafe_code)]

pub mod exporters;
pub mod fault;
pub mod hardware;
pub mod judge;
pub mod kubelet;
pub mod stop;
pub mod traffic;
pub mod workload;
