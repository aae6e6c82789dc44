//! What `kubectl powercap` must say, in one program.
#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used, reason = "a test says so by failing")]

mod doctor_findings;
mod explain_why;
mod top_order;
mod world;
