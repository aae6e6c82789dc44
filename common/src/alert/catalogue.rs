//! The alerts there are.
//!
//! A series of ours that says `namespace` of a policy arrives as `exported_namespace` where its scrape puts the
//! scraped pod's own namespace there; the expressions take either.

use super::{Alert, Severity};

/// The highest of a series for each domain.
macro_rules! domain {
    ($series:literal) => {
        concat!("max by (domain) (", $series, ")")
    };
}

/// The highest of a series for each policy.
macro_rules! policy {
    ($series:literal) => {
        concat!(
            "max by (namespace, policy) (label_replace(",
            $series,
            r#", "namespace", "$1", "exported_namespace", "(.+)"))"#
        )
    };
}

/// Every alert, in the order of the docs.
pub const ALL: [&Alert; 19] = [
    &DOMAIN_NEAR_CAP,
    &DOMAIN_ABOVE_CAP,
    &DOMAIN_FORECAST_ABOVE_CAP,
    &DOMAIN_DATA_STALE,
    &DOMAIN_INFEASIBLE,
    &DOMAIN_BRAKED,
    &POLICY_NEAR_CAP,
    &POLICY_ABOVE_CAP,
    &ADVISING_ABOVE_CAP,
    &POLICY_FORECAST_ABOVE_CAP,
    &POLICY_DATA_STALE,
    &POLICY_INFEASIBLE,
    &POLICY_ESCALATION_STOPPED,
    &DEVICE_FAILED,
    &AGENT_SILENT,
    &RECOMMENDER_SILENT,
    &ADMITTED_WITHOUT_HEADROOM,
    &CERTIFICATE_NEAR_EXPIRY,
    &DEAD_MANS_SWITCH,
];

/// A domain draws nearly all that it may.
pub const DOMAIN_NEAR_CAP: Alert = Alert {
    severity: Severity::Info,
    name: "PowerDomainNearCap",
    subject: &["domain"],
    hold_seconds: 60,
    keep_seconds: 120,
    summary: "Power domain {domain} draws 95 percent of its cap, or more",
    expression: concat!(domain!("powercap_domain_power_watts"), " >= 0.95 * ", domain!("powercap_domain_cap_watts")),
    reading: "It draws {value}W.",
};

/// A domain draws more than it may: the one that a breaker answers.
pub const DOMAIN_ABOVE_CAP: Alert = Alert {
    severity: Severity::Critical,
    name: "PowerDomainAboveCap",
    subject: &["domain"],
    hold_seconds: 10,
    keep_seconds: 60,
    summary: "Power domain {domain} draws more than its cap",
    expression: concat!(domain!("powercap_domain_power_watts"), " > ", domain!("powercap_domain_cap_watts")),
    reading: "It draws {value}W.",
};

/// A domain is expected to draw more than it may.
pub const DOMAIN_FORECAST_ABOVE_CAP: Alert = Alert {
    severity: Severity::Warning,
    name: "PowerDomainForecastAboveCap",
    subject: &["domain"],
    hold_seconds: 300,
    keep_seconds: 600,
    summary: "Power domain {domain} is expected to want more than its cap",
    expression: concat!(domain!("powercap_domain_forecast_watts"), " > ", domain!("powercap_domain_cap_watts")),
    reading: "It is expected to draw {value}W.",
};

/// Nobody knows what a domain draws.
pub const DOMAIN_DATA_STALE: Alert = Alert {
    severity: Severity::Warning,
    name: "PowerDomainDataStale",
    subject: &["domain"],
    hold_seconds: 60,
    keep_seconds: 60,
    summary: "The power of domain {domain} is not known: readings are old or missing",
    expression: concat!(domain!(r#"powercap_domain_condition{condition="DataFresh"}"#), " == 0"),
    reading: "DataFresh is {value}.",
};

/// A domain's cap cannot be kept by what we control.
pub const DOMAIN_INFEASIBLE: Alert = Alert {
    severity: Severity::Critical,
    name: "PowerDomainInfeasible",
    subject: &["domain"],
    hold_seconds: 30,
    keep_seconds: 60,
    summary: "The cap of power domain {domain} is below what its nodes draw at their lowest settings",
    expression: concat!(domain!(r#"powercap_domain_condition{condition="Feasible"}"#), " == 0"),
    reading: "Feasible is {value}.",
};

/// A brake is pulled, by a person or by the recommender.
pub const DOMAIN_BRAKED: Alert = Alert {
    severity: Severity::Critical,
    name: "PowerDomainBraked",
    subject: &["domain"],
    hold_seconds: 0,
    keep_seconds: 30,
    summary: "The brake of power domain {domain} is pulled",
    expression: concat!(domain!("powercap_domain_brake"), " > 0"),
    reading: "The brake stands at {value} (1: Fallback, 2: Minimum).",
};

/// A policy has begun to cap.
pub const POLICY_NEAR_CAP: Alert = Alert {
    severity: Severity::Info,
    name: "PowerPolicyNearCap",
    subject: &["namespace", "policy"],
    hold_seconds: 60,
    keep_seconds: 120,
    summary: "The pods of policy {namespace}/{policy} draw as much as begins capping",
    expression: concat!(policy!(r#"powercap_policy_condition{condition="CapTriggered"}"#), " == 1"),
    reading: "CapTriggered is {value}.",
};

/// A policy that acts does not keep its cap.
pub const POLICY_ABOVE_CAP: Alert = Alert {
    severity: Severity::Warning,
    name: "PowerPolicyAboveCap",
    subject: &["namespace", "policy"],
    hold_seconds: 60,
    keep_seconds: 60,
    summary: "The pods of policy {namespace}/{policy} draw more than its cap, although it acts",
    expression: concat!(
        policy!("powercap_policy_power_watts"),
        " > ",
        policy!("powercap_policy_cap_watts"),
        " unless on (namespace, policy) ",
        policy!(r#"powercap_policy_condition{condition="Ready", reason="Advising"}"#),
    ),
    reading: "They draw {value}W.",
};

/// A policy that only advises would have to act.
pub const ADVISING_ABOVE_CAP: Alert = Alert {
    severity: Severity::Warning,
    name: "PowerPolicyAdvisingAboveCap",
    subject: &["namespace", "policy"],
    hold_seconds: 60,
    keep_seconds: 60,
    summary: "The pods of policy {namespace}/{policy} draw more than its cap, and it only advises",
    expression: concat!(
        policy!("powercap_policy_power_watts"),
        " > ",
        policy!("powercap_policy_cap_watts"),
        " and on (namespace, policy) ",
        policy!(r#"powercap_policy_condition{condition="Ready", reason="Advising"}"#),
    ),
    reading: "They draw {value}W.",
};

/// The pods of a policy are expected to draw more than they may.
pub const POLICY_FORECAST_ABOVE_CAP: Alert = Alert {
    severity: Severity::Info,
    name: "PowerPolicyForecastAboveCap",
    subject: &["namespace", "policy"],
    hold_seconds: 300,
    keep_seconds: 600,
    summary: "The pods of policy {namespace}/{policy} are expected to want more than its cap",
    expression: concat!(policy!("powercap_policy_forecast_watts"), " > ", policy!("powercap_policy_cap_watts")),
    reading: "They are expected to draw {value}W.",
};

/// Nobody knows what the pods of a policy draw.
pub const POLICY_DATA_STALE: Alert = Alert {
    severity: Severity::Warning,
    name: "PowerPolicyDataStale",
    subject: &["namespace", "policy"],
    hold_seconds: 60,
    keep_seconds: 60,
    summary: "The power of the pods of policy {namespace}/{policy} is not known: readings are old or missing",
    expression: concat!(policy!(r#"powercap_policy_condition{condition="DataFresh"}"#), " == 0"),
    reading: "DataFresh is {value}.",
};

/// A policy's cap cannot be kept by what it may do.
pub const POLICY_INFEASIBLE: Alert = Alert {
    severity: Severity::Warning,
    name: "PowerPolicyInfeasible",
    subject: &["namespace", "policy"],
    hold_seconds: 60,
    keep_seconds: 60,
    summary: "The cap of policy {namespace}/{policy} is below what its devices draw at the lowest that it permits",
    expression: concat!(policy!(r#"powercap_policy_condition{condition="Feasible"}"#), " == 0"),
    reading: "Feasible is {value}.",
};

/// Something stands to be done beyond lower clocks, and is not.
pub const POLICY_ESCALATION_STOPPED: Alert = Alert {
    severity: Severity::Warning,
    name: "PowerPolicyEscalationStopped",
    subject: &["namespace", "policy"],
    hold_seconds: 60,
    keep_seconds: 60,
    summary: "Lower clocks do not suffice for policy {namespace}/{policy}, and its escalation stands still",
    expression: concat!(policy!("powercap_escalate_stopped"), " > 0"),
    reading: "Steps were in vain, or somebody whom they need is silent.",
};

/// A device of a node does not do what it is told.
pub const DEVICE_FAILED: Alert = Alert {
    severity: Severity::Warning,
    name: "PowerDeviceFailed",
    subject: &["node"],
    hold_seconds: 60,
    keep_seconds: 60,
    summary: "Devices of node {node} failed or cannot be set, and count with the most that they can draw",
    expression: concat!(
        r#"count by (node) (powercap_agent_gpu_state{state=~"Failed|Quarantined"} == 1)"#,
        r#" or sum by (node) (increase(powercap_agent_device_writes_total{kind="CpuClock", result=~"Failed|Denied"}[5m])) > 0"#,
    ),
    reading: "GPUs, or writes to CPUs: {value}.",
};

/// The agent of a node that has a grant does not report.
pub const AGENT_SILENT: Alert = Alert {
    severity: Severity::Warning,
    name: "PowerNodeAgentSilent",
    subject: &["node"],
    hold_seconds: 60,
    keep_seconds: 30,
    summary: "The agent of node {node} does not report; its ceilings stand",
    expression: "max by (node) (powercap_node_grant_watts) unless on (node) powercap_agent_node_power_watts",
    reading: "The node counts with its grant of {value}W.",
};

/// Nobody decides.
pub const RECOMMENDER_SILENT: Alert = Alert {
    severity: Severity::Critical,
    name: "PowercapRecommenderSilent",
    subject: &[],
    hold_seconds: 30,
    keep_seconds: 30,
    summary: "No recommender decides; every grant stands as it is",
    expression: "absent(powercap_recommender_is_leader == 1)",
    reading: "None leads.",
};

/// A pod was let in although no node has its watts.
pub const ADMITTED_WITHOUT_HEADROOM: Alert = Alert {
    severity: Severity::Warning,
    name: "PowercapAdmittedWithoutHeadroom",
    subject: &["namespace"],
    hold_seconds: 0,
    keep_seconds: 0,
    summary: "Pods of namespace {namespace} were admitted although no node has their watts to offer",
    expression: concat!(
        "600 - (time() - max by (namespace) (label_replace(powercap_admission_without_headroom_timestamp_seconds",
        r#", "namespace", "$1", "exported_namespace", "(.+)"))) > 0"#,
    ),
    reading: "It is told of for {value}s more.",
};

/// The webhook's certificate was not renewed.
pub const CERTIFICATE_NEAR_EXPIRY: Alert = Alert {
    severity: Severity::Warning,
    name: "PowercapCertificateNearExpiry",
    subject: &[],
    hold_seconds: 60,
    keep_seconds: 0,
    summary: "The certificate of admission should have been renewed: less than a fifth of its life is left",
    expression: concat!(
        "min((powercap_admission_certificate_until_timestamp_seconds - time())",
        " / (powercap_admission_certificate_until_timestamp_seconds",
        " - powercap_admission_certificate_since_timestamp_seconds)) < 0.2",
    ),
    reading: "Less than a fifth of its life is left.",
};

/// Always fires: who misses it knows that alerts do not arrive.
pub const DEAD_MANS_SWITCH: Alert = Alert {
    severity: Severity::Info,
    name: "PowercapDeadMansSwitch",
    subject: &[],
    hold_seconds: 0,
    keep_seconds: 0,
    summary: "Always fires, so that its absence says that alerts of kube-powercap do not arrive",
    expression: "vector(1)",
    reading: "All is well.",
};
