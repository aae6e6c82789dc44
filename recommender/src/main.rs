//! Starts the recommender; everything else is in the library.
#![forbid(unsafe_code)]

use clap::Parser;
use powercap_process::{init_logging, install_tls_provider};
use powercap_recommender::{cycle, flags::Flags};

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let flags = Flags::parse();
    init_logging(flags.log_format);
    install_tls_provider();
    cycle::run(flags).await
}
