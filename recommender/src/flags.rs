//! The command line.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use powercap_common::telemetry::prometheus;
use powercap_process::{CredentialFiles, LogFormat};
use reqwest::header::{HeaderName, HeaderValue};

use crate::{model::window::Span, observe::prometheus::Access};

/// Reads power and usage, decides who is capped how much, and writes it to NodeFrequencies and to the
/// status of policies and domains.
///
/// Talks to the cluster of its own pod, or of KUBECONFIG outside of one. Several may run: one leads, by a
/// Lease, and only that one writes.
#[derive(Clone, Debug, clap::Parser)]
#[command(name = "powercap-recommender", version, args_conflicts_with_subcommands = true)]
pub struct CommandLine {
    /// Something else than running.
    #[command(subcommand)]
    pub command: Option<Command>,
    /// How to run.
    #[command(flatten)]
    pub flags: Flags,
}

/// What else there is to do.
#[derive(Clone, Debug, clap::Subcommand)]
pub enum Command {
    /// Decide anew what --record kept, and say where another plan comes out.
    ///
    /// Exits with 0 when every plan is the same to the last bit, 1 when one is not, 2 when a file cannot be read.
    /// Needs no cluster.
    Replay {
        /// Records, as --record wrote them.
        #[arg(required = true, value_name = "FILE")]
        files: Vec<PathBuf>,
    },
}

/// How the recommender runs.
#[derive(Clone, Debug, clap::Parser)]
pub struct Flags {
    /// Prometheus (or Thanos, Mimir), without /api/v1.
    #[arg(long, value_name = "URL", default_value = prometheus::URL)]
    pub prometheus_url: String,

    /// A file with a bearer token for Prometheus; read anew for each query, since tokens rotate.
    #[arg(long, value_name = "FILE")]
    pub prometheus_bearer_token_file: Option<PathBuf>,

    /// A file with the certificates of the authorities that may have signed that of Prometheus, in the
    /// place of the system's. Read anew for each query, as are the two below.
    #[arg(long, value_name = "FILE")]
    pub prometheus_ca_file: Option<PathBuf>,

    /// A file with our certificate for Prometheus (mTLS).
    #[arg(long, value_name = "FILE", requires = "prometheus_client_key_file")]
    pub prometheus_client_certificate_file: Option<PathBuf>,

    /// A file with the key of that certificate.
    #[arg(long, value_name = "FILE", requires = "prometheus_client_certificate_file")]
    pub prometheus_client_key_file: Option<PathBuf>,

    /// A header of every query, such as X-Scope-OrgID=TENANT for Mimir; may be given several times.
    #[arg(long = "prometheus-header", value_name = "NAME=VALUE", value_parser = header)]
    pub prometheus_headers: Vec<(HeaderName, HeaderValue)>,

    /// A YAML file with the names of metrics and labels that differ from those of the exporters; see
    /// docs/reference/metrics.md.
    #[arg(long, value_name = "FILE")]
    pub metric_names_file: Option<PathBuf>,

    /// How long a query may take. Decisions never wait for one.
    #[arg(long, value_name = "MILLISECONDS", default_value_t = 2000, value_parser = clap::value_parser!(u64).range(100..=30_000))]
    pub prometheus_timeout_ms: u64,

    /// How often Prometheus is asked and everything is decided anew. Changes of policies, domains, pods,
    /// nodes and acknowledgements are decided at once and wait for no cycle.
    #[arg(long, value_name = "SECONDS", default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..=300))]
    pub cycle_seconds: u64,

    /// How often the exporters measure and Prometheus scrapes, the slower of the two. A reading older
    /// than three of these is stale: nothing is raised on it.
    #[arg(long, value_name = "SECONDS", default_value_t = prometheus::COLLECTION_INTERVAL_SECONDS, value_parser = clap::value_parser!(u32).range(1..=600))]
    pub collection_interval_seconds: u32,

    /// How far back peaks of policies and domains are told, and the time that a pod was above its share: in 48
    /// steps, read from Prometheus when leadership begins.
    #[arg(long, value_name = "HOURS", default_value_t = 24, value_parser = clap::value_parser!(u32).range(1..=168))]
    pub history_window_hours: u32,

    /// A peak of the past counts half as much in forecasts after this.
    #[arg(long, value_name = "HOURS", default_value_t = 24, value_parser = clap::value_parser!(u32).range(1..=168))]
    pub forecast_half_life_hours: u32,

    /// How long a node agent keeps to what it was told without having seen the leader's Lease renewed; then
    /// its node goes down to the fallback watts of its domains, or holds what it has where they name none
    /// (10 to 86400; 0: agents keep to it for ever).
    #[arg(long, value_name = "SECONDS", default_value_t = 60, value_parser = agent_lease_seconds)]
    pub agent_lease_seconds: u32,

    /// Where /livez, /readyz and /metrics are served.
    #[arg(long, value_name = "ADDRESS", default_value = "0.0.0.0:8080")]
    pub listen: SocketAddr,

    /// Where KEDA's external scaler is served (gRPC), such as 0.0.0.0:9090; without it, nowhere. A process that does
    /// not lead then decides too, writes nothing, and answers the same.
    #[arg(long, value_name = "ADDRESS")]
    pub scaler_listen: Option<SocketAddr>,

    /// A folder with tls.crt and tls.key, as a Secret is mounted, for the external scaler; followed when they change.
    /// Without it the scaler speaks plain text, to whoever reaches its port.
    #[arg(long, value_name = "DIR", requires = "scaler_listen")]
    pub scaler_certificates_from: Option<PathBuf>,

    /// The namespace of the leader's Lease, `powercap-recommender`.
    #[arg(long, value_name = "NAMESPACE", env = "POD_NAMESPACE", default_value = "powercap-system")]
    pub lease_namespace: String,

    /// The name under which this process holds the Lease; it must be its own alone.
    #[arg(long, value_name = "NAME", env = "POD_NAME", default_value = "powercap-recommender")]
    pub identity: String,

    /// Keep every decision in this folder with all that it saw, names of pods and nodes among it, for `replay`. A
    /// disk that is full or slow costs records, never a decision.
    #[arg(long, value_name = "DIR")]
    pub record: Option<PathBuf>,

    /// How much of the disk the records may take together; the oldest make room.
    #[arg(long, value_name = "MEBIBYTES", default_value_t = 256, value_parser = clap::value_parser!(u64).range(1..=1_048_576))]
    pub record_limit_mib: u64,

    /// How log lines are written. What is logged: RUST_LOG, by default info.
    #[arg(long, value_enum, default_value_t)]
    pub log_format: LogFormat,
}

fn header(text: &str) -> Result<(HeaderName, HeaderValue), String> {
    let header = text.split_once('=').and_then(|(name, value)| Some((name.parse().ok()?, value.parse().ok()?)));
    header.ok_or_else(|| "write NAME=VALUE, as in X-Scope-OrgID=tenant-1".to_owned())
}

/// The bounds of the field that it is written to, and 0.
fn agent_lease_seconds(text: &str) -> Result<u32, String> {
    match text.parse() {
        Ok(seconds @ (0 | 10..=86_400)) => Ok(seconds),
        _ => Err("write 10 to 86400 seconds, or 0 for no lease".to_owned()),
    }
}

impl Flags {
    /// How long agents go on without us; `None`: for ever.
    #[must_use]
    pub fn agent_lease(&self) -> Option<u32> {
        (self.agent_lease_seconds > 0).then_some(self.agent_lease_seconds)
    }

    /// How many bytes records may take.
    #[must_use]
    pub fn record_limit(&self) -> u64 {
        self.record_limit_mib << 20
    }

    /// How far back is remembered, and for how long it counts.
    #[must_use]
    pub fn span(&self) -> Span {
        let hours = |hours: u32| jiff::SignedDuration::from_hours(hours.into());
        Span::of(hours(self.history_window_hours), hours(self.forecast_half_life_hours))
    }

    /// The cycle.
    #[must_use]
    pub fn cycle(&self) -> Duration {
        Duration::from_secs(self.cycle_seconds)
    }

    /// Where Prometheus is, and as whom to ask.
    #[must_use]
    pub fn access(&self) -> Access {
        let certificate = self.prometheus_client_certificate_file.clone();
        Access {
            url: self.prometheus_url.clone(),
            timeout: Duration::from_millis(self.prometheus_timeout_ms),
            credentials: CredentialFiles {
                token: self.prometheus_bearer_token_file.clone(),
                authority: self.prometheus_ca_file.clone(),
                certificate: certificate.zip(self.prometheus_client_key_file.clone()),
            },
            headers: self.prometheus_headers.iter().cloned().collect(),
        }
    }

    /// The collection interval.
    #[must_use]
    pub fn collection_interval(&self) -> jiff::SignedDuration {
        jiff::SignedDuration::from_secs(i64::from(self.collection_interval_seconds))
    }
}
