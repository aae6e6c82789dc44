//! A `libnvidia-ml.so.1` over simulated boards, for programs that load NVML at run time.
//!
//! State lives in `$SIMULATED_HARDWARE_ROOT` (default `/run/simulated-hardware`), which
//! `powercap-simulator hardware` keeps; this library only reads `state` and changes `request`.
//! Types come from nvml-wrapper-sys, so layouts match the real library's.
//!
//! Each call meets the fault of its board first (`powercap-simulator fault`): it may fail, take long, not
//! return, or set nothing. Instances of a partitioned board have neither power nor clocks.
//!
//! What must hold: SUCCESS of a setter means accepted, not reached; setters need uid 0; out of range
//! power limits are refused; clock locks are clamped and snapped by the board; a symbol that is
//! missing here fails only its own call in nvml-wrapper.
//!
//! `unsafe` is allowed in this crate alone: each use writes to, or reads from, a pointer that the NVML
//! interface obliges the caller to make valid. Null is always refused.
#![allow(unsafe_code, reason = "this crate is a C interface")]
#![allow(missing_docs, reason = "NVML's documentation is the contract")]
#![allow(non_snake_case, reason = "NVML's names")]
#![allow(clippy::missing_safety_doc, reason = "NVML's documentation is the contract")]

mod clocks;
mod library;
mod memory;
mod mig;
mod power;
mod system;

pub use clocks::*;
pub use mig::*;
pub use power::*;
pub use system::*;
