//! What the command line says.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use clap::Parser;
use powercap_process::LogFormat;

use crate::alerts::AlertFlags;

/// Set resource requests on new pods by policy, judge PowerCappingPolicies and PowerDomains, and raise alerts
#[derive(Clone, Debug, Parser)]
#[command(name = "powercap-admission", version, max_term_width = 100)]
pub struct Flags {
    /// Where reviews are served, over TLS
    #[arg(long, value_name = "ADDRESS", default_value = "0.0.0.0:8443")]
    pub webhook_listen: SocketAddr,
    /// A folder with tls.crt, the certificate to show and what signed it, and tls.key, which somebody else keeps (such
    /// as cert-manager); read anew when they change. Without it admission is its own authority, which replicas share by
    /// the Secret powercap-admission-tls
    #[arg(long, value_name = "DIRECTORY", env = "CERTIFICATES_FROM")]
    pub certificates_from: Option<PathBuf>,
    /// The Service by which API servers call admission: its own certificates are for that name
    #[arg(long, value_name = "NAME", default_value = "powercap-admission")]
    pub service: String,
    /// The webhook configurations, mutating and validating, that are given its own authority
    #[arg(long, value_name = "NAME", default_value = "powercap-admission")]
    pub registration: String,
    /// How long reviews are still taken after SIGTERM, until the API server has heard that others take them
    #[arg(long, value_name = "SECONDS", default_value_t = 5, value_parser = clap::value_parser!(u64).range(0..=60))]
    pub linger_seconds: u64,
    /// Where /livez, /readyz and /metrics are served
    #[arg(long, value_name = "ADDRESS", default_value = "0.0.0.0:8080")]
    pub listen: SocketAddr,
    /// The namespace of admission and of the recommender: of their Leases, and of the Secret
    #[arg(long, value_name = "NAMESPACE", env = "POD_NAMESPACE", default_value = "powercap-system")]
    pub namespace: String,
    /// The name under which this process renews the Lease powercap-admission, by which others know that it answers
    #[arg(long, value_name = "NAME", env = "POD_NAME", default_value = "powercap-admission")]
    pub identity: String,
    #[command(flatten)]
    #[expect(missing_docs, reason = "clap would show them")]
    pub alerts: AlertFlags,
    /// How logs are written
    #[arg(long, value_enum, default_value_t = LogFormat::Text)]
    pub log_format: LogFormat,
}

impl Flags {
    /// How long reviews are still taken when it is to end.
    #[must_use]
    pub fn linger(&self) -> Duration {
        Duration::from_secs(self.linger_seconds)
    }
}
