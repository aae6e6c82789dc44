//! What the actuator must hold, in one program.
#![allow(
    clippy::cast_possible_wrap,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stderr,
    clippy::unwrap_used,
    reason = "a test says so by failing"
)]

mod begin_anew;
mod ceil_replicas;
mod ceil_resize;
mod ceil_without_crds;
mod cluster;
mod decide_claims;
mod document_escalation_metrics;
mod document_metrics;
mod escalate_at_once;
mod escalate_bad_input;
mod escalate_by_permission;
mod escalate_ceilings;
mod escalate_groups;
mod escalate_in_order;
mod escalate_through_death;
mod evict_whatever_is_answered;
mod keep_the_envelope;
mod keep_the_originals;
mod ladder;
mod live_through_silence;
mod migrate_elsewhere;
mod migration;
mod million_steps;
mod rack;
mod report_boards;
mod shed_in_order;
mod store;
mod tell_what_was_written;
