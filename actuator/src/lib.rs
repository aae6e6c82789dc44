//! The node's side of kube-powercap: applies what `NodeFrequencies` says, keeps the node inside its
//! grant ten times a second, and reports what really holds.
//!
//! | module | holds |
//! |---|---|
//! | [`flags`] | the command line |
//! | [`hardware`] | what boards and CPUs are and say: plain data that everything else shares |
//! | [`devices`] | NVML, cpufreq and RAPL |
//! | [`node`] | the node role: observe, decide, apply, report |
//! | [`escalate`] | the escalate role: what lower clocks cannot do, done to workloads |
//! | [`conformance`] | the conformance role: measure, judge, report |

pub mod conformance;
pub mod devices;
pub mod escalate;
pub mod flags;
pub mod hardware;
pub mod node;
mod sys;
