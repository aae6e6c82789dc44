//! KEDA's external scaler: how many replicas the cap allows a workload now.
//!
//! ```text
//!  decide ─▶ replicas (watts to be had, watts of a replica) ─▶ latest ─▶ budget (pure) ─▶ service ─▶ serve (gRPC) ─▶ KEDA
//! ```
//!
//! Every replica of the recommender answers, whether it leads or not: each sees the same readings and reckons the same
//! from them, and a connection of KEDA's stays with whichever it has reached.
//!
//! Must hold: what is not known, or was found too long ago, is an error and no number; a policy is asked about from its
//! own namespace alone.

pub mod budget;
pub mod latest;
pub mod messages;
pub mod question;
pub mod serve;
pub mod service;
