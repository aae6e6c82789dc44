//! Boards and CPUs that behave: power follows clock, load and limit, with lags.
//!
//! ```text
//!  request (NVML setters) ─┐
//!  load (the workload)    ─┼─▶ daemon: Board::step, Host::step ─▶ state, cpufreq, powercap (what sensors say)
//!  cpufreq, powercap      ─┘                                  └─▶ truth (what really flows: for the judge alone)
//! ```
//!
//! Board models are in [`BoardSpec::MODELS`], CPU drivers in [`CpufreqDriver`], ways to share a board in
//! [`Sharing`], and what can be wrong in [`Fault`] (boards, the NVML library) and [`TreeFault`] (CPUs). A
//! test in one process drives [`Board`] itself and passes its calls, requests and states by the same
//! [`Fault`], which is pure.
//!
//! What must hold: what was set is read back, clamped and late; sensors err by a constant gain a
//! board while `truth` does not; power is finite, never negative and never above a board's peak;
//! every number comes from a measurement named where it stands, or is called an assumption.
#![forbid(unsafe_code)]

pub mod board;
pub mod call;
pub mod cpu_driver;
pub mod cpufreq;
pub mod curves;
pub mod daemon;
pub mod fault;
pub mod folder;
pub mod host;
pub mod inference;
pub mod limiter;
mod models;
pub mod rapl;
pub mod record;
pub mod sensors;
pub mod share;
mod slot;
pub mod spec;
pub mod tree_fault;
pub mod truth;

pub use board::Board;
pub use cpu_driver::CpufreqDriver;
pub use daemon::{HardwareError, run_hardware};
pub use fault::Fault;
pub use folder::{BoardFolder, Identity, Load, Request, Root, State, Work};
pub use rapl::Rapl;
pub use share::{MigLayout, Share, Sharing};
pub use spec::{BoardSpec, HostSpec, NodeSpec};
pub use tree_fault::TreeFault;
pub use truth::{BoardTruth, Truth};
