//! `powercap-certs`: looks at the webhook's certificates, and rotates them.
#![forbid(unsafe_code)]

use std::{io::Write, path::Path, process::ExitCode};

use anyhow::{Context, Result};
use clap::Parser;
use jiff::Timestamp;
use kube::{Client, Config};
use powercap_certs::{
    Own, Periods, Registrations,
    certificate::Certificate,
    files::{CERTIFICATE, Files},
    flags::{Command, Flags, Where},
    inspect::{self, Page},
    keeper::{self, SECRET, Stored},
};

/// The exit status when API servers do not accept what is shown.
const UNACCEPTED: u8 = 3;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<ExitCode> {
    powercap_process::install_tls_provider();
    match Flags::parse().command {
        Command::Inspect(flags) => {
            let page = match flags.files {
                Some(folder) => of_files(&folder).await?,
                None => of_secret(&own(flags.place).await?).await?,
            };
            say(&page.text)?;
            Ok(if page.accepted { ExitCode::SUCCESS } else { ExitCode::from(UNACCEPTED) })
        }
        Command::Rotate(place) => {
            let own = own(place).await?;
            let held = keeper::rotate(&own).await.context("rotate the authority")?;
            let next = held.next.as_ref().map_or("", |next| next.certificate().subject());
            say(&format!("announced: {next}\nadmission publishes it and signs with it ten minutes later\n"))?;
            Ok(ExitCode::SUCCESS)
        }
    }
}

async fn of_files(folder: &Path) -> Result<Page> {
    let identity =
        Files::new(folder.to_owned()).look().await.with_context(|| format!("look into {}", folder.display()))?;
    let bundle = std::fs::read_to_string(folder.join("ca.crt")).unwrap_or_default();
    let page = inspect::files(&identity, &Certificate::all_in(&bundle), Timestamp::now())?;
    Ok(Page { text: format!("{}\n{}", folder.join(CERTIFICATE).display(), page.text), ..page })
}

async fn of_secret(own: &Own) -> Result<Page> {
    let registrations = Registrations::read(own).await?;
    let stored = Stored::read(own).await?;
    let there = if stored.exists() { "" } else { " is not there" };
    let page = inspect::secret(&stored.held, &own.names, &registrations, Timestamp::now())?;
    Ok(Page { text: format!("Secret {}/{SECRET}{there}\n{}", own.namespace, page.text), ..page })
}

async fn own(place: Where) -> Result<Own> {
    let mut config = Config::infer().await.context("find a cluster by KUBECONFIG or ~/.kube/config")?;
    // A person waits: an error is told, not repeated for minutes.
    config.default_retry = false;
    let client = Client::try_from(config).context("make a client for the API server")?;
    let names = place.names();
    Ok(Own { client, namespace: place.namespace, names, registration: place.registration, periods: Periods::default() })
}

fn say(text: &str) -> Result<()> {
    std::io::stdout().write_all(text.as_bytes()).context("write to standard output")
}
