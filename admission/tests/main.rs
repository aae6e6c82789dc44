//! What the webhook must hold, in one program.
#![allow(clippy::panic, clippy::unwrap_used, reason = "a test says so by failing")]

mod alert_of_what_is_so;
mod alert_without_flutter;
mod answer_bad_input;
#[path = "../../recommender/tests/apiserver/mod.rs"]
#[allow(dead_code, reason = "the tests of the recommender need more of it")]
mod apiserver;
mod change_nothing_twice;
mod close_what_is_idle;
mod document_alert_metrics;
mod document_metrics;
mod end_when_told;
mod hold_little;
mod judge_objects;
mod live_without_an_api_server;
mod process;
mod receiver;
mod request_cpu_and_memory;
mod request_watts;
mod served;
mod steer_to_a_place;
mod tell_alertmanager;
mod world;
