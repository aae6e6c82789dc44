//! The command line of `powercap-certs`.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

/// Look at the certificates of the admission webhook, or rotate them.
///
/// Nobody has to: admission makes its own authority at its first start, keeps it in the Secret
/// powercap-admission-tls, and renews it and its leaves with overlap. See docs/certificates.md.
#[derive(Debug, Parser)]
#[command(version, max_term_width = 100)]
pub struct Flags {
    /// What to do
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Say what there is: authorities, bundle, leaf, until when, who accepts it, and what happens next
    ///
    /// Ends with 0 when API servers accept what the webhook shows, with 3 when they do not.
    Inspect(Inspect),
    /// Replace the authority now, with overlap, so that no call fails
    ///
    /// The next authority is announced: a running admission publishes it beside the present one, waits ten
    /// minutes until every API server has seen it, and then signs with it. The old one is trusted until its
    /// last leaf has expired, ten days at the most. To be rid of a key that has leaked sooner, see
    /// docs/certificates.md.
    Rotate(Where),
}

/// What is looked at.
#[derive(Args, Debug)]
pub struct Inspect {
    /// Look at files that somebody else keeps: the folder with tls.crt, tls.key and ca.crt
    #[arg(long, value_name = "DIRECTORY", conflicts_with_all = ["namespace", "registration", "service"])]
    pub files: Option<PathBuf>,
    /// Where it is in the cluster
    #[command(flatten)]
    pub place: Where,
}

/// Where the certificates are in the cluster of your present context.
#[derive(Args, Clone, Debug)]
pub struct Where {
    /// Admission's namespace
    #[arg(long, short, default_value = "powercap-system")]
    pub namespace: String,
    /// Admission's Service: what API servers call it by
    #[arg(long, default_value = "powercap-admission")]
    pub service: String,
    /// The name of the webhook configurations
    #[arg(long, default_value = "powercap-admission")]
    pub registration: String,
}

impl Where {
    /// What API servers call the webhook by.
    #[must_use]
    pub fn names(&self) -> Vec<String> {
        vec![format!("{}.{}.svc", self.service, self.namespace)]
    }
}
