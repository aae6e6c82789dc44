//! What is remembered of power and use: pure, small, and the same whether it was seen or read from the past.
//!
//! | module | holds |
//! |---|---|
//! | [`window`] | watts of the last 48 steps of something, and what follows from them: peak, forecast, time above |
//! | [`course`] | the windows of one board or pod, and its power of just now, smoothed |
//! | [`histogram`] | what something used over days, as a histogram that forgets |
//! | [`daily`] | the most memory that something used on each of the last days |
//! | [`demand`] | what the pods of each policy use, by container |
//! | [`history`] | all of it |

pub mod course;
pub mod daily;
pub mod demand;
pub mod histogram;
pub mod history;
pub mod window;
