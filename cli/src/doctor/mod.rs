//! `kubectl powercap doctor`: what is installed, whether it lives, and what mends it.
//!
//! `observe` reads everything once, the rest judges it: pure, from [`seen::Seen`] to [`finding::Finding`].

pub mod admission;
pub mod components;
pub mod finding;
pub mod leases;
pub mod objects;
mod observe;
mod prometheus;
pub mod seen;
pub mod series;

use std::{io::Write, process::ExitCode};

use self::{
    finding::{Finding, Verdict, text},
    seen::Seen,
};
use crate::{
    flags::{DoctorFlags, Output},
    target::Target,
};

/// Something failed.
const FAILED: u8 = 3;

/// The findings could not be written.
#[derive(Debug, thiserror::Error)]
pub enum DoctorError {
    /// Standard output.
    #[error("cannot write the findings")]
    Write(#[from] std::io::Error),
    /// The findings as JSON.
    #[error("cannot write the findings as JSON")]
    Serialize(#[from] serde_json::Error),
}

/// Looks, and says what it found.
///
/// # Errors
/// When standard output is closed.
pub async fn run(target: &Target, flags: &DoctorFlags) -> Result<ExitCode, DoctorError> {
    let findings = findings(&observe::observe(target, flags).await);
    let mut out = std::io::stdout();
    match flags.output {
        Output::Text => out.write_all(text(&findings).as_bytes())?,
        Output::Json => writeln!(out, "{}", serde_json::to_string_pretty(&findings)?)?,
    }
    let failed = findings.iter().any(|finding| finding.verdict == Verdict::Fail);
    Ok(if failed { ExitCode::from(FAILED) } else { ExitCode::SUCCESS })
}

/// Every check, in the order in which things depend on each other.
#[must_use]
pub fn findings(seen: &Seen) -> Vec<Finding> {
    let api_server = components::api_server(seen);
    if api_server.verdict == Verdict::Fail {
        // Nothing else can be seen then.
        return vec![api_server];
    }
    [
        vec![api_server],
        components::definitions(&seen.definitions),
        components::rights(&seen.rights),
        vec![components::recommender(seen), leases::recommender(seen), leases::admission(seen)],
        admission::webhooks(seen),
        vec![admission::namespaces(seen), leases::escalation(seen), components::agents(seen)],
        objects::objects(seen),
        series::prometheus(seen),
    ]
    .concat()
}
