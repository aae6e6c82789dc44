//! What is remembered of power: pure, small, and the same whether it was seen or read from the past.
//!
//! | module | holds |
//! |---|---|
//! | [`window`] | watts of the last 48 steps of something, and what follows from them: peak, forecast, time above |
//! | [`course`] | the windows of one board or pod, and its power of just now, smoothed |
//! | [`history`] | the courses and windows of everything |

pub mod course;
pub mod history;
pub mod window;
