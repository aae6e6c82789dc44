//! Verdicts from measurements: pure, so that each can be tested by a table of what a device might say.

pub mod boards;
pub mod cpus;
pub mod node;
pub mod writes;

use std::time::Duration;

fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}
