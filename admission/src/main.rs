//! Starts admission; everything else is in the library.
#![forbid(unsafe_code)]

use clap::Parser;
use powercap_admission::{flags::Flags, run::run};
use powercap_process::{init_logging, install_tls_provider};

/// On one thread: a review takes microseconds, less than to hand it to another.
#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let flags = Flags::parse();
    init_logging(flags.log_format);
    install_tls_provider();
    run(flags).await
}
