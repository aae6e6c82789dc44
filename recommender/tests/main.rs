//! What the recommender must hold, in one program.
#![allow(
    clippy::indexing_slicing,
    clippy::needless_pass_by_value,
    clippy::panic,
    clippy::print_stderr,
    clippy::unwrap_used,
    reason = "a test says so by failing"
)]

mod apiserver;
mod attribute_power;
mod document_algorithms;
mod document_metrics;
mod model;
mod model_conservation;
mod observe_golden_exporters;
mod observe_telemetry;
mod observe_through_thanos_and_mimir;
mod observe_with_credentials;
mod process;
mod prometheus;
mod recommend_actions;
mod recommend_boot_taint;
mod recommend_by_algorithm;
mod recommend_conservation;
mod recommend_domains;
mod recommend_for_remade_nodes;
mod recommend_for_targets;
mod recommend_for_tenants;
mod recommend_from_several_sources;
mod recommend_meters;
mod recommend_offers;
mod recommend_policies;
mod recommend_replicas;
mod recommend_takeover;
mod recommend_trees;
mod recommend_violators;
mod recommend_what_to_request;
mod recommend_within_tenancy;
mod remember_between_decisions;
mod remember_the_past;
mod replay_decisions;
mod reserve_for_pods;
mod serve_replica_budgets;
mod share_out_watts;
mod site;
mod survive_api_server_faults;
mod survive_bad_telemetry;
mod survive_changing_clusters;
mod tell_who_is_capped;
mod world;
