//! The node's side of kube-powercap: applies what `NodeFrequencies` says, keeps the node inside its
//! grant ten times a second, and reports what really holds.
//!
//! | module | holds |
//! |---|---|
//! | [`flags`] | the command line |
//! | [`hardware`] | what boards and CPUs are and say: plain data that everything else shares |
//! | [`devices`] | NVML, cpufreq and RAPL |
//! | [`node`] | the node role: observe, decide, apply, report |
//! | [`conformance`] | the conformance role: measure, judge, report |

pub mod conformance;
pub mod devices;
pub mod flags;
pub mod hardware;
pub mod node;
mod sys;
