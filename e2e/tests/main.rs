//! What must hold on a real cluster, in one program: it runs under `cluster run`.
#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used, reason = "a test says so by failing")]

mod actuate_and_say_so;
mod actuate_beside_hpa;
mod actuate_cap_edits;
mod actuate_explain;
mod actuate_through_faults;
mod actuate_uninstall;
mod actuate_with_less;
mod admit_alert_rules;
mod admit_alerts;
mod admit_bad_manifests;
mod admit_bad_objects;
mod admit_beside_others;
mod admit_by_watts;
mod admit_certificates;
mod admit_components;
mod admit_over_budget_only;
mod admit_own_node_only;
mod admit_pods;
mod admit_watts_only;
mod definitions;
mod escalate_evict;
mod escalate_jobs;
mod escalate_kserve;
mod escalate_migrate;
mod escalate_scale;
mod keda;
mod kserve;
mod rack;
mod recommend_after_boot;
mod recommend_for_workloads;
mod recommend_from_real_telemetry;
mod recommend_replica_budget;
mod recommend_requests;
mod refused;
