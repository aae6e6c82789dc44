//! What the command line says of alerts.

use std::path::PathBuf;

use clap::Args;
use powercap_common::{alert::RUNBOOKS, telemetry::alertmanager};
use powercap_process::CredentialFiles;
use reqwest::Url;

/// Who is told, and how.
#[derive(Args, Clone, Debug)]
pub struct AlertFlags {
    /// Alertmanager, without /api/v2; may be given several times. Every address that the name has is told, so that
    /// a headless Service stands for all replicas.
    #[arg(long = "alertmanager-url", value_name = "URL", default_value = alertmanager::URL, value_parser = url)]
    pub alertmanager_urls: Vec<Url>,

    /// A file with a bearer token for Alertmanager; read anew for each message, as are those below.
    #[arg(long, value_name = "FILE")]
    pub alertmanager_bearer_token_file: Option<PathBuf>,

    /// A file with the certificates of the authorities that may have signed that of Alertmanager, in the place of the
    /// system's.
    #[arg(long, value_name = "FILE")]
    pub alertmanager_ca_file: Option<PathBuf>,

    /// A file with our certificate for Alertmanager (mTLS).
    #[arg(long, value_name = "FILE", requires = "alertmanager_client_key_file")]
    pub alertmanager_client_certificate_file: Option<PathBuf>,

    /// A file with the key of that certificate.
    #[arg(long, value_name = "FILE", requires = "alertmanager_client_certificate_file")]
    pub alertmanager_client_key_file: Option<PathBuf>,

    /// A label of every alert, such as cluster=NAME, by which clusters of one Alertmanager are told apart; may be
    /// given several times.
    #[arg(long = "alert-label", value_name = "NAME=VALUE", value_parser = label)]
    pub alert_labels: Vec<(String, String)>,

    /// Where the runbooks stand to which alerts point.
    #[arg(long, value_name = "URL", default_value = RUNBOOKS)]
    pub runbooks_url: String,

    /// Send nothing: Prometheus raises the same alerts, by the rules of the component alerts-by-prometheus.
    #[arg(long, env = "POWERCAP_ALERTS_BY_PROMETHEUS")]
    pub alerts_by_prometheus: bool,
}

impl AlertFlags {
    /// As whom Alertmanager is told.
    #[must_use]
    pub fn credentials(&self) -> CredentialFiles {
        CredentialFiles {
            token: self.alertmanager_bearer_token_file.clone(),
            authority: self.alertmanager_ca_file.clone(),
            certificate: self
                .alertmanager_client_certificate_file
                .clone()
                .zip(self.alertmanager_client_key_file.clone()),
        }
    }
}

fn url(text: &str) -> Result<Url, String> {
    let url: Url = text.parse().map_err(|error| format!("this is no URL: {error}"))?;
    match (url.scheme(), url.host_str()) {
        ("http" | "https", Some(_)) => Ok(url),
        _ => Err("write http://HOST:PORT or https://HOST:PORT".to_owned()),
    }
}

/// Labels of ours cannot be overridden: they are what an alert is known by.
fn label(text: &str) -> Result<(String, String), String> {
    const OURS: [&str; 6] = ["alertname", "severity", "domain", "namespace", "policy", "node"];
    let (name, value) = text.split_once('=').ok_or("write NAME=VALUE, as in cluster=north")?;
    let begins = |letter: char| letter.is_ascii_alphabetic() || letter == '_';
    let is_name = name.starts_with(begins) && name.chars().all(|letter| begins(letter) || letter.is_ascii_digit());
    match (is_name && !value.is_empty(), OURS.contains(&name)) {
        (true, false) => Ok((name.to_owned(), value.to_owned())),
        (true, true) => Err(format!("{name} is a label of ours; choose another name")),
        (false, _) => Err("write NAME=VALUE with a name of letters, digits and _, as in cluster=north".to_owned()),
    }
}
