//! What the keeper of the certificates must hold, in one program.
#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used, reason = "a test says so by failing")]

mod follow_mounted_files;
mod heal_the_secret;
mod rotate_without_a_gap;
mod world;
